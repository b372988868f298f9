"""Checkpoints of our own runs: Orbax, asynchronous, sharded, with the loader's position.

MODEL_DIR/checkpoints/<step>/{state,position}. On a disk a checkpoint's folder appears under its
final name only when it is whole; in a bucket it is whole when it holds the mark (run_folder.py).
What a crash leaves behind is never read.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint.options import MultiprocessingOptions

from mt0_tpu import start_rule
from mt0_tpu.bucket_checkpoints import BucketManager
from mt0_tpu.checkpoint_saving import DELETING, Saver, delete_given_up
from mt0_tpu.errors import UserError
from mt0_tpu.formats import detect, own_run, placing, sound
from mt0_tpu.models.names import LAYERS
from mt0_tpu.place import is_bucket, place
from mt0_tpu.run_folder import FOLDER, steps_of
from mt0_tpu.start_rule import Start
from mt0_tpu.train_state import TrainState

# A piece of an array on disk, at most; a stack that is larger than the second has one a layer.
_CHUNK_BYTES = 64 << 20
_TOGETHER_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep.

    Attributes:
      save_every_steps: T5X's `period`.
      keep_last: how many of the latest stay; None keeps all.
      keep_every_steps: steps that divide by it stay for good; None for no such step.
      keep_best_metric: name of a teacher-forced eval metric; of the checkpoints saved at an
        evaluated step, the one that has the best stays ('accuracy' is best when high, everything
        else when low). None to keep none.
      max_failed_saves: so many saves in a row may fail while training goes on; one more stops the
        run. The last save of a run must not fail.
      grace_seconds: when the job is asked to stop, the time until it ends whatever it has
        saved; None leaves that to whoever asked.
    """

    save_every_steps: int = 1000
    keep_last: int | None = 2
    keep_every_steps: int | None = None
    keep_best_metric: str | None = None
    max_failed_saves: int = 3
    grace_seconds: float | None = None

    def __post_init__(self):
        for name in ("save_every_steps", "keep_last", "keep_every_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"CheckpointConfig.{name} is {value}; write 1 or more, or None")
        if self.max_failed_saves < 0:
            raise UserError(
                f"CheckpointConfig.max_failed_saves is {self.max_failed_saves}; write 0 to stop at "
                "the first, or more"
            )
        if self.grace_seconds is not None and self.grace_seconds <= 0:
            raise UserError(
                f"CheckpointConfig.grace_seconds is {self.grace_seconds}; write more than 0 or None"
            )


def _by_itself() -> MultiprocessingOptions:
    """A reader waits for no other process: one that cannot read would leave the others waiting."""
    own = jax.process_index()
    return MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )


def _handlers(processes: MultiprocessingOptions) -> dict[str, Any]:
    return {
        "state": ocp.PyTreeCheckpointHandler(multiprocessing_options=processes),
        "position": ocp.JsonCheckpointHandler(multiprocessing_options=processes),
    }


def _save_args(path, leaf) -> ocp.SaveArgs:
    """Cuts large arrays into pieces, so that a reader of one layer need not hold all of them."""
    stacked = any(getattr(key, "key", None) == LAYERS for key in path)
    by_layer = stacked and leaf.size * leaf.dtype.itemsize > _TOGETHER_BYTES
    return ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES, shard_axes=(0,) if by_layer else ())


def _flat_shapes(tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path): tuple(leaf.shape)
        for path, leaf in leaves
        if leaf is not None
    }


def check_shapes(expected, found, where: str) -> None:
    """Raises UserError listing path, expected and found of every leaf that does not fit."""
    want, have = _flat_shapes(expected), _flat_shapes(found)
    wrong = [
        f"{path}: expected {want.get(path, 'nothing')}, found {have.get(path, 'nothing')}"
        # Parameters first: they say what differs; their statistics follow from it.
        for path in sorted(want.keys() | have.keys(), key=lambda p: (not p.startswith("params"), p))
        if want.get(path) != have.get(path)
    ]
    if wrong:
        more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise UserError(
            f"checkpoint {where} does not fit the model: {'; '.join(wrong[:6])}{more}; "
            "use the model gin it was trained with, or another MODEL_DIR"
        )


class Checkpointer:
    """Saves and restores the checkpoints of one MODEL_DIR."""

    def __init__(
        self,
        model_dir: str,
        config: CheckpointConfig,
        read_only: bool = False,
        say: Callable[[str], None] = start_rule.say,
    ):
        # Orbax logs a dozen lines a save and warns of its own defaults; its errors, which it logs
        # five times each with all of their specification, are said in a line by Saver.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._folder = place(model_dir) / FOLDER
        keep = [policies.LatestN(config.keep_last)]
        if config.keep_every_steps:
            keep.append(policies.EveryNSteps(config.keep_every_steps))
        metric = config.keep_best_metric
        if metric:
            best = policies.BestN(
                get_metric_fn=lambda metrics: metrics[metric],
                reverse=metric != "accuracy",
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            keep.append(best)
        policy = policies.AnyPreservationPolicy(keep)
        in_bucket = is_bucket(model_dir)
        processes = _by_itself() if read_only else MultiprocessingOptions()
        options = ocp.CheckpointManagerOptions(
            create=not read_only,
            read_only=read_only,
            preservation_policy=policies.LatestN(None) if in_bucket else policy,
            cleanup_tmp_directories=not (read_only or in_bucket),
            todelete_subdir=None if read_only else DELETING,
            multiprocessing_options=processes,
            # Made in the background, a folder that cannot be made leaves threads that wait five
            # minutes for it, and the process with them.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )

        def open_manager():
            handlers = _handlers(processes)
            if in_bucket:
                return BucketManager(self._folder, policy, options, handlers)
            if not read_only and jax.process_index() == 0:
                delete_given_up(self._folder)
            return ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)

        def last_step():
            return max(steps_of(self._folder.parent), default=None)

        self._saver = Saver(open_manager, self._folder, config.max_failed_saves, last_step, say)

    @property
    def _manager(self) -> ocp.CheckpointManager:
        return self._saver.manager

    def save(
        self, state: TrainState, position: dict, metrics: dict | None = None, last: bool = False
    ) -> None:
        """Starts saving; the arrays are copied off the devices before this returns.

        What fails is said, and tried at the next save: see checkpoint_saving. The last save of a
        run is waited for, and tried several times.

        Raises UserError where too many saves in a row have failed, or the last.
        """
        item = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
        pieces = jax.tree_util.tree_map_with_path(_save_args, item)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(item, save_args=pieces),
            position=ocp.args.JsonSave(position),
        )
        step = int(state.step)
        start = self._saver.save_last if last else self._saver.save
        start(step, items, metrics)

    def poll(self) -> None:
        """Says how a save under way has ended, where it has; costs nothing."""
        self._saver.poll()

    def wait(self) -> None:
        """Returns when the last save is whole on disk; UserError where it failed."""
        self._saver.wait()

    def close(self) -> None:
        """Waits for the last save and lets go of the folder; UserError where it failed."""
        self._saver.close()

    def has_optimizer_state(self, step: int) -> bool:
        """Whether a checkpoint holds more than parameters; those of `mt0 convert` may not."""
        return bool(self._saved(step).get("opt_state"))

    def _saved(self, step: int) -> dict:
        """What a step's tree holds; UserError where it is not whole: Orbax shows its own stack."""
        own_run.open_weights(self._folder / str(step))
        return self._manager.item_metadata(step)["state"].tree

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict]:
        """Returns (state, position) of a step, placed as the abstract leaves' shardings say."""
        item = {
            "step": abstract.step,
            "params": abstract.params,
            "opt_state": abstract.opt_state,
        }
        saved = self._saved(step)
        if not saved.get("opt_state"):
            raise UserError(
                f"{self._folder / str(step)} holds parameters only, so no run can go on from it: "
                "name it in INITIAL_CHECKPOINT_PATH, and another folder in MODEL_DIR"
            )
        check_shapes(item, saved, str(self._folder / str(step)))
        arguments = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(
                item=item, restore_args=ocp.checkpoint_utils.construct_restore_args(item)
            ),
            position=ocp.args.JsonRestore(),
        )
        restored = self._manager.restore(step, args=arguments)
        return TrainState(**restored["state"]), restored["position"]

    def restore_params(self, step: int, abstract_params):
        """Returns the parameters of a step alone."""
        saved = self._saved(step)
        check_shapes(abstract_params, saved["params"], str(self._folder / str(step)))
        item = {"params": abstract_params}
        arguments = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(
                item=item,
                restore_args=ocp.checkpoint_utils.construct_restore_args(item),
                partial_restore=True,
            )
        )
        return self._manager.restore(step, args=arguments)["state"]["params"]


def restore_params(path: str, model_config, mesh=None):
    """Returns the parameters at a MODEL_DIR (its latest), one of its checkpoints, or another's.

    Args:
      model_config: config of the network the checkpoint must fit.
      mesh: where to lay them; None for the first device.
    """
    from mt0_tpu import partitioning, train_state
    from mt0_tpu.models.networks import network

    path, own = start_rule.reach(path)
    model = network(model_config)
    shapes = jax.eval_shape(lambda: train_state.init_params(model, 0))
    if mesh is None:
        where = jax.tree.map(
            lambda _: jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), shapes
        )
    else:
        axes = train_state.parameter_axes(model)
        partitioning.check_dimensions(axes, shapes, mesh, model_config.num_heads)
        where = partitioning.shardings(axes, shapes, mesh)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        where,
    )
    if not own:
        weights = sound.Checked(detect.open_any(os.path.abspath(path)))
        sound.check_network(weights, model_config)
        return placing.place_params(weights, abstract)
    start_rule.check_network(Start("initial", str(own[0]), own[1]), model_config)
    checkpointer = Checkpointer(str(own[0]), CheckpointConfig(keep_last=None), read_only=True)
    try:
        return checkpointer.restore_params(own[1], abstract)
    finally:
        checkpointer.close()


def state_bytes(abstract: TrainState) -> int:
    """Returns the size of a checkpoint of this state, uncompressed."""
    return sum(
        int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(abstract)
    )
