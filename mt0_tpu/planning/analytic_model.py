"""Memory and time of a training step by formula, good enough to choose what is worth compiling.

Dims, per device: rows of one microbatch b, encoder length T, decoder length S, width D, heads
H / tensor, A = joined heads / tensor, F = feed-forward / tensor, V = vocabulary / tensor.

What the formulas leave out (padding of layouts, gaps between buffers, what fusion saves) is some
tens of per cent; `mt0 plan --search` says how often their order agreed with the compiled one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh

from mt0_tpu import partitioning
from mt0_tpu.planning import step_work
from mt0_tpu.planning.chips import LINKS_OF_A_COLLECTIVE
from mt0_tpu.planning.topologies import Topology
from mt0_tpu.train_state import TrainState

# Bytes of the softmax of one pair of positions and head while a layer is differentiated: logits
# and their gradient in float32, probabilities twice in bfloat16.
_PAIR_BYTES = 12


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to run a training step.

    Attributes:
      replica, data, fsdp, tensor: ways of the mesh.
      num_microbatches, remat_policy, sequence_parallel: as in gin.
      rows, inputs, targets: the batch over all devices.
    """

    replica: int
    data: int
    fsdp: int
    tensor: int
    num_microbatches: int
    remat_policy: str
    sequence_parallel: bool
    rows: int
    inputs: int
    targets: int

    @property
    def mesh_shape(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in partitioning.MESH_AXES}

    @property
    def batch_ways(self) -> int:
        return self.replica * self.data * self.fsdp

    @property
    def rows_of_a_device(self) -> float:
        """Of one microbatch."""
        return self.rows / self.batch_ways / self.num_microbatches


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Bytes of one device, by kind, and seconds of a step."""

    parameters: float
    optimizer: float
    gradients: float
    saved: float
    working: float
    seconds: float

    @property
    def peak_bytes(self) -> float:
        return self.parameters + self.optimizer + self.gradients + self.saved + self.working


def predict(
    config: Any, state_of_device: tuple[float, float], one: Candidate, topology: Topology
) -> Prediction:
    """Returns what a candidate should need.

    Args:
      config: a T5Config or BloomConfig; its remat_policy and sequence_parallel are the candidate's.
      state_of_device: state_bytes on the candidate's mesh.
    """
    parameters, optimizer_bytes = state_of_device
    # Gradients live beside what the backward pass still holds; accumulated, a second set does.
    gradients = parameters * (2 if one.num_microbatches > 1 else 1)
    return Prediction(
        parameters=parameters,
        optimizer=optimizer_bytes,
        gradients=gradients,
        saved=_saved_bytes(config, one),
        working=_working_bytes(config, one),
        seconds=_seconds(config, state_of_device, one, topology),
    )


def state_bytes(shapes: TrainState, axes: TrainState, one: Candidate) -> tuple[float, float]:
    """Returns bytes of (parameters, optimizer state) on one device, exactly.

    Args:
      shapes, axes: of train_state.abstract_state.
    """
    mesh = AbstractMesh(tuple(one.mesh_shape.values()), tuple(one.mesh_shape))

    def size(axes_tree, tree) -> float:
        names = jax.tree.leaves(axes_tree, is_leaf=partitioning.is_axes)
        total = 0.0
        for each, leaf in zip(names, jax.tree.leaves(tree), strict=True):
            spec = partitioning.partition_spec(each, leaf.shape, mesh)
            cut = [axis for entry in spec if entry for axis in _axes_of(entry)]
            ways = math.prod(mesh.shape[axis] for axis in cut)
            total += leaf.size * leaf.dtype.itemsize / ways
        return total

    return size(axes.params, shapes.params), size(axes.opt_state, shapes.opt_state)


def _axes_of(entry) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry)


def _stacks(config: Any) -> tuple[int, int, int, int]:
    """Encoder layers, decoder layers, attentions of a decoder layer, kernels into the MLP."""
    if config.decoder_only:
        return 0, config.num_layers, 1, 1
    into = len(config.mlp_activations)
    return config.num_encoder_layers, config.num_decoder_layers, 2, into


def _cut(config: Any, one: Candidate) -> tuple[float, float, float, float]:
    """Heads, joined heads, feed-forward and vocabulary of one device."""
    ways = one.tensor
    joined = config.num_heads * config.head_dim
    cut = lambda size: size / ways if size % ways == 0 else size  # noqa: E731
    return cut(config.num_heads), cut(joined), cut(config.mlp_dim), cut(config.vocab_size)


def _saved_bytes(config: Any, one: Candidate) -> float:
    """Activations that wait for the backward pass, of one microbatch."""
    heads, joined, mlp, _ = _cut(config, one)
    width = config.emb_dim / (one.tensor if one.sequence_parallel else 1)
    encoders, decoders, attentions, into = _stacks(config)
    into_mlp, crosses = into * mlp, attentions - 1
    item = 2 if config.dtype == "bfloat16" else 4
    b, t, s = one.rows_of_a_device, one.inputs, one.targets
    if one.remat_policy == "full":
        encoder, decoder, cross = width, width, 0.0
    else:  # the stream, the products' results
        encoder = 2 * width + 3 * joined + into_mlp
        decoder = encoder + crosses * (width + joined)
        cross = 2 * joined * crosses
    if one.remat_policy == "none":  # norms, what activations and dropout keep, the softmax
        encoder += 2 * width + joined + mlp + heads * t * _PAIR_BYTES / 2 / item
        decoder += 3 * width + 2 * joined + mlp + heads * (s + t) * _PAIR_BYTES / 2 / item
    tokens = encoders * b * t * encoder + decoders * b * (s * decoder + t * cross)
    # The encoder's output and the embedded tokens are whole.
    return item * (tokens + b * (2 * t + 2 * s) * config.emb_dim)


def _working_bytes(config: Any, one: Candidate) -> float:
    """The most that one layer or the head needs while it is differentiated."""
    heads, joined, mlp, vocabulary = _cut(config, one)
    item = 2 if config.dtype == "bfloat16" else 4
    b, s = one.rows_of_a_device, one.targets
    longest = max(one.inputs, s)
    layer = b * longest * item * (6 * config.emb_dim + 4 * joined + 4 * mlp)
    layer += b * heads * longest**2 * _PAIR_BYTES
    # Kernels of a layer and their gradients, whole along the embedding.
    layer += 2 * item * config.emb_dim * (4 * joined + (_stacks(config)[3] + 1) * mlp)
    tokens = b * s * one.fsdp
    if tokens < vocabulary:  # losses.py gathers the fewer: tokens, or the kernel's columns
        head = 8 * config.emb_dim * (b * s + vocabulary / one.fsdp)
    else:
        head = 8 * config.emb_dim * vocabulary
    return max(layer, head + 2**29)  # half a GiB of logits and their gradient


def _seconds(config: Any, state: tuple[float, float], one: Candidate, topology: Topology) -> float:
    """The parts at their peaks, with the gathers beside them; then what nothing runs beside."""
    if topology.chip is None:
        return 0.0
    share = topology.chips / topology.devices
    chip = topology.chip
    parts = step_work.parts(config, one, topology.devices, state)
    working = step_work.seconds(parts, chip.flops_per_s * share, chip.hbm_bytes_per_s * share)
    links = chip.link_bytes_per_s * LINKS_OF_A_COLLECTIVE * share
    gathered, summed, between = _sent_bytes(config, one)
    return (
        max(working, gathered / links) + summed / links + between / (chip.dcn_bytes_per_s * share)
    )


def _sent_bytes(config: Any, one: Candidate) -> tuple[float, float, float]:
    """Bytes a device sends in a step: kernels and gradients along fsdp, sums of the stream and
    over `data`, and to other slices."""
    item = 2 if config.dtype == "bfloat16" else 4
    joined = config.num_heads * config.head_dim
    encoders, decoders, attentions, into = _stacks(config)
    encoder = encoders * (4 * joined + (into + 1) * config.mlp_dim)
    decoder = decoders * (4 * attentions * joined + (into + 1) * config.mlp_dim)
    parameters = config.emb_dim * (encoder + decoder) / one.tensor
    passes = 3 if one.remat_policy == "full" else 2
    # Kernels are gathered in each pass, gradients scattered, for every microbatch.
    ring = (one.fsdp - 1) / one.fsdp
    gathered = one.num_microbatches * (passes + 1) * ring * item * parameters
    reduced = 4 * config.emb_dim * (encoder + decoder + config.vocab_size) / one.tensor / one.fsdp
    # As compiled, gradients are summed over `data` in every microbatch.
    summed = 2 * (one.data - 1) / one.data * reduced * one.num_microbatches
    between = 2 * (one.replica - 1) / one.replica * reduced
    # The stream's partial sums, forward and backward (and again where it is recomputed).
    b = one.rows_of_a_device * one.num_microbatches
    stream = 2 * encoders * one.inputs
    stream += decoders * ((attentions + 1) * one.targets + (attentions - 1) * one.inputs / 2)
    times = (2.5 if one.sequence_parallel else 2) * passes
    summed += times * (one.tensor - 1) / one.tensor * item * b * stream * config.emb_dim
    return gathered, summed, between
