"""Runs a sick step again, and shows where in it the first number is not finite.

    python -m mt0_tpu.reproduce MODEL_DIR/sick/step-1234

The steps between the last checkpoint before it and the step are run again as well, from the same
data with the same dropout: on the same kind of devices the step is the same to the bit. Where it
is finite the second time, a device was at fault. --gin.NAME=VALUE changes the run, say its mesh.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mt0_tpu import (
    losses,
    partitioning,
    run_folder,
    sick_step,
    start_rule,
    train_state,
)
from mt0_tpu import train as job
from mt0_tpu import train_step as steps
from mt0_tpu.bucket_mirror import bring_files
from mt0_tpu.checkpoints import CheckpointConfig, Checkpointer
from mt0_tpu.data import batches
from mt0_tpu.data.batch_examples import BatchExample, batch_at
from mt0_tpu.errors import UserError
from mt0_tpu.models import networks
from mt0_tpu.models.names import LAYERS
from mt0_tpu.place import is_bucket
from mt0_tpu.sick_step import SickStep
from mt0_tpu.start_rule import Start
from mt0_tpu.start_state import start_state

_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What a step showed when it was run again.

    Attributes:
      step: the step.
      start: the checkpoint or start it was reached from.
      same_batch: whether the cache gives the batch that was fed; None where none was kept.
      parameters: leaves with numbers that are not finite, before the step: {name: how many}.
      loss, grad_norm: of the step.
      examples: those with a target whose probability is not finite.
      gradients: as parameters, of the gradient; of stacked layers each by itself.
    """

    step: int
    start: str
    same_batch: bool | None
    parameters: dict[str, int]
    loss: float
    grad_norm: float
    examples: tuple[BatchExample, ...]
    gradients: dict[str, int]

    @property
    def is_sick(self) -> bool:
        return not (np.isfinite(self.loss) and np.isfinite(self.grad_norm))

    def lines(self) -> list[str]:
        """What to print, in the order in which the numbers are made."""
        batch = {
            None: "no batch was kept; the cache's was fed",
            True: "the cache gives the batch that was fed",
            False: "the cache gives other tokens than were fed; those that were fed were taken",
        }[self.same_batch]
        if not self.is_sick:
            return [
                f"step {self.step}, from {self.start}: loss {self.loss:.6f}, gradient norm "
                f"{self.grad_norm:.6f}: finite this time. {batch}.",
                "A device or its memory may have been at fault: `mt0 train --check_replicas`.",
            ]
        found = [f"step {self.step}, from {self.start}; {batch}"]
        found.append(_listed("parameters before the step", self.parameters))
        targets = sick_step.named(self.examples) or "those of none"
        found.append(f"probabilities of targets that are not finite: {targets}")
        found.append(f"loss {self.loss}")
        found.append(_listed("gradient", self.gradients))
        found.append(f"gradient norm {self.grad_norm}")
        return found


def _listed(what: str, counts: Mapping[str, int]) -> str:
    if not counts:
        return f"{what}: all finite"
    shown = "".join(f"\n  {name}: {count:,}" for name, count in list(counts.items())[:_SHOWN])
    more = f"\n  and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    return f"{what}, numbers that are not finite:{shown}{more}"


def reproduce(
    folder: str | Path,
    arguments: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> Reproduction:
    """Runs a step again that was kept.

    Args:
      folder: MODEL_DIR/sick/step-N.
      arguments: train's; None reads them from the folder's config.gin.
      say: takes lines of progress.

    Raises:
      UserError: the folder is not whole, or the step cannot be reached any more.
    """
    folder = _at_hand(folder)
    sick = sick_step.load(folder)
    run = _run_arguments(arguments or _config(folder, ()))
    model_dir = _model_dir(folder, sick)
    mesh = partitioning.make_mesh(run["mesh"])
    network, optimizer = networks.network(run["model"]), run["optimizer"]
    shapes, axes = train_state.abstract_state(network, optimizer)
    where = partitioning.shardings(axes, shapes, mesh)
    placed = jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes, where
    )
    start = _start(model_dir, sick, run)
    checkpointer = Checkpointer(model_dir, CheckpointConfig(keep_last=None), read_only=True)
    state, position = start_state(
        start, checkpointer, placed, network, optimizer, mesh, run["random_seed"],
        run["restore_optimizer_state"], model_dir, say,
    )  # fmt: skip
    checkpointer.close()
    if int(state.step) >= sick.step:
        raise UserError(f"the run starts at step {int(state.step)}, after step {sick.step}")

    dataset = run["train_dataset"].for_model(run["model"].decoder_only)
    sources = batches.open_sources(dataset)
    options = {
        "seed": run["random_seed"],
        "num_microbatches": run["num_microbatches"] or 1,
        "mesh": mesh,
    }
    run_step = steps.compile_train_step(
        steps.make_train_step(
            network, run["loss"], optimizer, run["learning_rate"], axes.params,
            skip_nonfinite=run["on_nonfinite"] == "skip", **options,
        ),
        where, shapes, batches.abstract_batch(dataset), mesh,
    )  # fmt: skip
    at = batches.LoaderState(**position["loader"]) if "loader" in position else None
    rows_where = partitioning.batch_sharding(mesh)
    with batches.Loader(sources, dataset, state=at) as loader:
        for step in range(int(state.step) + 1, sick.step):
            state, _ = run_step(state, partitioning.to_devices(next(loader), rows_where))
            say(f"step {step} of {sick.step} again")
        reached = loader.state
    fed, examples = batch_at(sources, dataset, sick.position)
    recorded = sick_step.recorded_examples(folder)
    if reached != sick.position or [(one.task, one.index) for one in examples] != recorded:
        raise UserError(
            f"step {sick.step} would be fed other examples than {Path(folder) / 'examples.jsonl'} "
            "names: the data, their lengths or their seed are not those of the run"
        )
    kept = _kept_batch(Path(folder), sick)
    same = None if kept is None else _equal(fed, kept)
    batch = partitioning.to_devices(fed if kept is None else kept, rows_where)
    found = _look(state, batch, network, run["loss"], axes.params, where, options)
    # Its own numbers, to the bit: another program rounds otherwise.
    _, sums = run_step(state, batch)
    return Reproduction(
        sick.step,
        str(start),
        same,
        _named_counts(found["parameters"]),
        float(sums["loss"]),
        float(sums["grad_norm"]),
        tuple(_of_positions(examples, np.asarray(found["sick_BS"]))),
        _named_counts(found["gradients"]),
    )


def _at_hand(folder: str | Path) -> str | Path:
    """The folder itself or, of a run in a bucket, in a copy of its small files."""
    if not is_bucket(folder):
        return folder
    run, _, step = str(folder).rstrip("/").rpartition(f"/{sick_step.FOLDER}/")
    return Path(bring_files(run)) / sick_step.FOLDER / step


def _config(folder: str | Path, changes: Sequence[str]) -> dict[str, Any]:
    from mt0_tpu import gin_config

    path = Path(_at_hand(folder)) / "config.gin"
    if not path.is_file():
        raise UserError(f"{path} is missing; give a folder such as MODEL_DIR/sick/step-1234")
    return gin_config.parse([f"--gin_file={path}", *changes], "train").arguments


def _run_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns train's arguments with their defaults."""
    bound = inspect.signature(job.train).bind_partial(**given)
    bound.apply_defaults()
    return bound.arguments


def _model_dir(folder: str | Path, sick: SickStep) -> str:
    """The run that the folder lies in, else the one it came from."""
    around = Path(folder).resolve().parent.parent
    return str(around) if run_folder.steps_of(around) else sick.model_dir


def _start(model_dir: str, sick: SickStep, run: Mapping[str, Any]) -> Start:
    before = [step for step in run_folder.steps_of(model_dir) if step < sick.step]
    if before:
        return Start("resume", model_dir, before[-1])
    nowhere = f"{model_dir}/{sick_step.FOLDER}"
    return start_rule.find_start(nowhere, run["initial_checkpoint_path"], run["from_scratch"])


def _kept_batch(folder: Path, sick: SickStep) -> dict[str, np.ndarray] | None:
    """The rows that all processes fed, in the order of the batch; None where some are missing."""
    parts = [folder / f"batch-{process}.npz" for process in range(sick.process_count)]
    if not all(part.is_file() for part in parts):
        return None
    opened = []
    for part in parts:
        with np.load(part, allow_pickle=False) as archive:
            opened.append({name: archive[name] for name in archive.files})
    return {name: np.concatenate([one[name] for one in opened]) for name in opened[0]}


def _equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)


def _look(state, batch, network, loss, axes, where, options) -> dict[str, Any]:
    """Returns what is not finite in a step that is not taken.

    sick_BS: bool, targets whose probability is not finite. Counts of leaves are int32, one for
    each layer of a stack.
    """
    mesh = options["mesh"]

    def look(state, batch):
        tokens_BS = batch["decoder_target_tokens"]
        dropout = network.config.dropout_rate > 0
        keys_B = steps.row_keys(options["seed"], state.step, len(tokens_BS)) if dropout else None
        grads, _, _ = steps.gradients(
            state.params, batch, keys_B, model=network, loss=loss, mesh=mesh,
            num_microbatches=options["num_microbatches"],
            where=partitioning.shardings(axes, state.params, mesh),
        )  # fmt: skip
        hidden_BSD = network.apply({"params": state.params}, batch, keys_B)
        log_probs_BS, _ = losses.token_log_probs(
            hidden_BSD, networks.head_kernel(state.params, network.config), tokens_BS,
            logits_block_mib=loss.logits_block_mib, mesh=mesh,
            batch_axes=partitioning.BATCH_AXES, embed_axes=("fsdp",), vocab_axes=("tensor",),
        )  # fmt: skip
        return {
            "sick_BS": ~jnp.isfinite(log_probs_BS),
            "parameters": jax.tree_util.tree_map_with_path(_count, state.params),
            "gradients": jax.tree_util.tree_map_with_path(_count, grads),
        }

    with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.LOGICAL_RULES):
        jitted = jax.jit(
            look,
            in_shardings=(where, partitioning.batch_sharding(mesh)),
            out_shardings=partitioning.replicated(mesh),
        )
        return jax.device_get(jitted(state, batch))


def _count(path, x: jax.Array) -> jax.Array:
    stacked = any(getattr(key, "key", None) == LAYERS for key in path)
    dims = tuple(range(1 if stacked else 0, x.ndim))
    return jnp.sum(~jnp.isfinite(x), dims, dtype=jnp.int32)


def _named_counts(tree) -> dict[str, int]:
    """Returns {name: how many} of the leaves, or layers of them, with any."""
    found = {}
    for path, counts in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for layer, count in enumerate(np.atleast_1d(counts)):
            if count:
                found[f"{name} of layer {layer}" if np.ndim(counts) else name] = int(count)
    return found


def _of_positions(examples: Sequence[BatchExample], sick_BS: np.ndarray) -> list[BatchExample]:
    return [one for one in examples if sick_BS[one.row, slice(*one.targets)].any()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 where the step is sick again, 1 where it is finite, 2 for a user's mistake."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    folders = [one for one in given if not one.startswith("--")]
    changes = [one for one in given if one.startswith("--")]
    try:
        if len(folders) != 1:
            raise UserError(
                f"{len(folders)} folders are named; write `python -m mt0_tpu.reproduce "
                "MODEL_DIR/sick/step-1234 [--gin.NAME=VALUE …]`"
            )
        found = reproduce(folders[0], _config(folders[0], changes))
    except UserError as error:
        print(f"mt0: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print("\n".join(found.lines()))
    return 0 if found.is_sick else 1


if __name__ == "__main__":
    sys.exit(main())
