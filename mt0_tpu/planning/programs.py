"""The programs a job would run, compiled for devices that need not be here.

Built by the functions that the jobs themselves call, from the same resolved arguments and under
the same checks; no data is opened and no checkpoint is touched.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mt0_tpu import decoding, losses, partitioning, scoring, train_state
from mt0_tpu import train_step as steps
from mt0_tpu.data import batches
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.models import networks
from mt0_tpu.optimizers import Adafactor
from mt0_tpu.schedules import LearningRate

JOBS = ("train", "eval", "decode", "score")
# Which subcommand's gin files each job reads.
GIN_JOBS = {"train": "train", "eval": "train", "decode": "infer", "score": "infer"}
_EXCEEDS = re.compile(r"([\d.]+)([KMGT])\)? (?:exceeds available HBM \(|of )([\d.]+)([KMGT])")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      parameters, optimizer, batch, cache: arguments by kind (a decoding cache is none's).
      temporaries: activations, gathered parameters, gradients: what the compiler reserves.
      program: the machine code.
      peak: the most that is alive at a time, arguments included; 0 where it is not known, as with
        something on the host, which the compiler's figure would count in.
      host: of the device's host, what remat policy 'minimal_offload' keeps there.
    """

    parameters: int
    optimizer: int
    batch: int
    cache: int
    temporaries: int
    program: int
    peak: int
    host: int = 0

    @property
    def reserved(self) -> int:
        """What a device must have; more than the peak, since reserved space has gaps."""
        arguments = self.parameters + self.optimizer + self.batch + self.cache
        return arguments + self.temporaries + self.program


@dataclasses.dataclass(frozen=True)
class OutOfMemory:
    """The compiler's refusal: bytes that temporaries alone would take, of bytes there are."""

    needed: int
    available: int


@dataclasses.dataclass(frozen=True)
class Program:
    """One step of a job on a mesh.

    Attributes:
      job: one of JOBS.
      mesh: of the devices compiled for.
      rows, input_length, target_length: of a batch over all devices.
      memory: None where it did not fit, `out_of_memory` saying why.
      text: the compiled program (HLO), or "".
      unknown_trips: how often the loop over blocks of the head runs where no position is padding.
      compile_seconds: wall time, and what this process computed meanwhile.
    """

    job: str
    mesh: jax.sharding.Mesh
    rows: int
    input_length: int
    target_length: int
    memory: Memory | None
    out_of_memory: OutOfMemory | None
    text: str
    unknown_trips: int
    compile_seconds: float
    compile_cpu_seconds: float


def compile_job(job: str, arguments: Mapping[str, Any], devices: Sequence[Any]) -> Program:
    """Compiles one step of a job.

    Args:
      job: one of JOBS.
      arguments: what gin_config.resolve gave for GIN_JOBS[job].
      devices: of the whole slice, or slices.

    Raises:
      UserError: what the job itself would refuse: axes that do not multiply to the devices, rows
        that do not divide over them.
    """
    mesh = partitioning.make_mesh(arguments["mesh"], devices)
    build = {"train": _train, "eval": _eval, "decode": _decode, "score": _score}[job]
    lengths, rows, kinds, lower, trips = build(arguments, mesh)
    began, began_cpu = time.monotonic(), time.process_time()
    compiled = refused = None
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        refused = _out_of_memory(error)
        if refused is None:
            raise
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - began_cpu
    memory = None if compiled is None else _memory(compiled, kinds)
    text = "" if compiled is None else compiled.as_text()
    return Program(
        job, mesh, rows, *lengths, memory, refused, text, trips, seconds, cpu_seconds
    )  # fmt: skip


def _train(arguments, mesh):
    config, microbatches = arguments["model"], arguments.get("num_microbatches") or 1
    dataset = arguments["train_dataset"].for_model(config.decoder_only)
    partitioning.check_batch_size(dataset.batch_size, mesh, microbatches)
    network, optimizer = networks.network(config), arguments.get("optimizer", Adafactor())
    loss = arguments.get("loss", losses.LossConfig())
    loss.check_batch_size(dataset.batch_size)
    shapes, axes = train_state.abstract_state(network, optimizer)
    where = partitioning.shardings(axes, shapes, mesh)
    batch = batches.abstract_batch(dataset)
    step = steps.make_train_step(
        network, loss, optimizer, arguments.get("learning_rate", LearningRate()), axes.params,
        seed=arguments.get("random_seed", 0), num_microbatches=microbatches, mesh=mesh,
        skip_nonfinite=arguments.get("on_nonfinite") == "skip",
    )  # fmt: skip
    kinds = {
        "parameters": (shapes.params, where.params),
        "optimizer": (shapes.opt_state, where.opt_state),
        "batch": (batch, partitioning.batch_sharding(mesh)),
    }
    rows = dataset.batch_size // microbatches
    trips = head_blocks(config, loss, rows, dataset.row_lengths[1], mesh)
    return (
        dataset.row_lengths, dataset.batch_size, kinds,
        lambda: steps.lower_train_step(step, where, shapes, batch, mesh), trips,
    )  # fmt: skip


def _eval(arguments, mesh):
    config = arguments["model"]
    dataset = arguments.get("train_eval_dataset") or arguments["train_dataset"]
    dataset = dataset.for_model(config.decoder_only)
    partitioning.check_batch_size(dataset.batch_size, mesh)
    network, loss = networks.network(config), arguments.get("loss", losses.LossConfig())
    params, where = _parameters(network, mesh)
    batch = batches.abstract_batch(dataset)
    step = steps.make_eval_step(network, loss, mesh=mesh)
    kinds = {
        "parameters": (params, where),
        "batch": (batch, partitioning.batch_sharding(mesh)),
    }
    trips = head_blocks(config, loss, dataset.batch_size, dataset.row_lengths[1], mesh)
    return (
        dataset.row_lengths, dataset.batch_size, kinds,
        lambda: steps.lower_eval_step(step, where, params, batch, mesh), trips,
    )  # fmt: skip


def _score(arguments, mesh):
    """The step of scoring.score_choices, every position of every row a token of a choice."""
    inputs, targets = _infer_lengths(arguments)
    rows, config = arguments.get("batch_size", 32), arguments["model"]
    partitioning.check_batch_size(rows, mesh)
    params, where = _parameters(networks.network(config), mesh)
    batch, batch_where, lower = scoring.lower_step(
        config, params, where, rows, (inputs, targets), mesh
    )
    kinds = {"parameters": (params, where), "batch": (batch, batch_where)}
    trips = head_blocks(config, losses.LossConfig(), rows, targets, mesh)
    return (inputs, targets), rows, kinds, lower, trips


def _decode(arguments, mesh):
    """Decoding a batch to the last position: the loop of decoding.Engine, its cache an argument."""
    inputs, targets = _infer_lengths(arguments)
    rows, config = arguments.get("batch_size", 32), arguments["model"]
    partitioning.check_batch_size(rows, mesh)
    params, where = _parameters(networks.network(config), mesh)
    # A vocabulary of BLOOM's kind has an EOS of its own; the program is the same for any.
    eos_id = 2 if config.decoder_only else None
    decode = arguments.get("decode", DecodeConfig())
    engine = decoding.engine(config, decode, targets, eos_id=eos_id, mesh=mesh)
    state, state_where, lower = engine.lower_run(params, where, rows, inputs)
    kinds = {"parameters": (params, where), "cache": (state, state_where)}
    return (inputs, targets), rows, kinds, lower, targets


def _parameters(network, mesh):
    axes = train_state.parameter_axes(network)
    params = jax.eval_shape(lambda: train_state.init_params(network, 0))
    return params, partitioning.shardings(axes, params, mesh)


def _infer_lengths(arguments) -> tuple[int, int]:
    lengths = arguments.get("task_feature_lengths")
    if not lengths or {"inputs", "targets"} - set(lengths):
        raise UserError(
            f"TASK_FEATURE_LENGTHS is {lengths!r}; a plan wants the lengths of both: "
            "--gin.TASK_FEATURE_LENGTHS=\"{'inputs': 1024, 'targets': 256}\""
        )
    return lengths["inputs"], lengths["targets"]


def head_blocks(config, loss: losses.LossConfig, rows: int, targets: int, mesh) -> int:
    """How many blocks the head works off on one device where every position is real."""
    return losses.head_blocks(
        jax.ShapeDtypeStruct((rows, targets, config.emb_dim), jnp.float32),
        jax.ShapeDtypeStruct((config.emb_dim, config.vocab_size), jnp.float32),
        logits_block_mib=loss.logits_block_mib,
        mesh=mesh,
        batch_axes=partitioning.BATCH_AXES,
        embed_axes=("fsdp",),
        vocab_axes=("tensor",),
    )


def _memory(compiled, kinds: Mapping[str, tuple[Any, Any]]) -> Memory:
    stats = compiled.memory_analysis()
    sizes = {kind: _bytes_on_a_device(*pair) for kind, pair in kinds.items()}
    aliased = getattr(stats, "alias_size_in_bytes", 0)
    host = getattr(stats, "host_temp_size_in_bytes", 0)
    return Memory(
        parameters=sizes.get("parameters", 0),
        optimizer=sizes.get("optimizer", 0),
        batch=sizes.get("batch", 0),
        cache=sizes.get("cache", 0),
        # What is given back in the place of an argument takes no room of its own.
        temporaries=stats.temp_size_in_bytes + stats.output_size_in_bytes - aliased,
        program=stats.generated_code_size_in_bytes,
        peak=0 if host else getattr(stats, "peak_memory_in_bytes", 0),
        host=host,
    )


def _bytes_on_a_device(shapes: Any, where: Any) -> int:
    """Bytes of the largest shard of every array, without the layout's padding."""
    leaves = jax.tree.leaves(shapes)
    places = jax.tree.leaves(where)
    if len(places) == 1:
        places = places * len(leaves)
    return sum(
        int(np.prod(place.shard_shape(leaf.shape), dtype=np.int64)) * jnp.dtype(leaf.dtype).itemsize
        for leaf, place in zip(leaves, places, strict=True)
    )


def _out_of_memory(error: Exception) -> OutOfMemory | None:
    """Reads the compiler's message; None where it is about something else."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        return None
    found = _EXCEEDS.search(text)
    if found is None:
        return None
    needed, unit, available, its_unit = found.groups()
    return OutOfMemory(int(float(needed) * _UNITS[unit]), int(float(available) * _UNITS[its_unit]))
