"""The state a run starts from: drawn, restored, or taken from another's checkpoint."""

from __future__ import annotations

import jax
import numpy as np

from mt0_tpu import train_state
from mt0_tpu.checkpoints import CheckpointConfig, Checkpointer
from mt0_tpu.formats import placing
from mt0_tpu.optimizers import Adafactor
from mt0_tpu.start_rule import Start


def start_state(
    start: Start, checkpointer, placed, network, optimizer, mesh, seed,
    restore_optimizer_state, model_dir, say,
):  # fmt: skip
    """Returns (state, position) for the start that was decided, and says what it is."""
    if start.kind == "resume":
        say(f"resuming {start}: parameters, optimizer state and place in the data")
        return checkpointer.restore(start.step, placed)
    if start.kind == "scratch":
        say(f"starting from {start}")
        return train_state.init_state(network, optimizer, mesh, seed), {}
    if start.kind == "foreign":
        return _foreign_state(
            start, placed, network, optimizer, mesh, restore_optimizer_state, say
        ), {}
    source = Checkpointer(start.path, CheckpointConfig(keep_last=None), read_only=True)
    try:
        whole = source.has_optimizer_state(start.step)
        if restore_optimizer_state and whole:
            say(f"starting from {start}: parameters and optimizer state, data from its beginning")
            return source.restore(start.step, placed)[0], {}
        why = "" if whole else ", since it holds none"
        say(f"starting from {start}: parameters alone, optimizer state afresh{why}")
        params = source.restore_params(start.step, placed.params)
        return train_state.state_from_params(params, start.step, network, optimizer, mesh), {}
    finally:
        source.close()


def _foreign_state(start: Start, placed, network, optimizer, mesh, restore_optimizer_state, say):
    """Returns the state that a checkpoint of T5X, Hugging Face or Mesh TensorFlow gives."""
    statistics = bool(start.weights.state_tensors())
    if restore_optimizer_state and statistics and isinstance(optimizer, Adafactor):
        say(f"starting from {start}: parameters and Adafactor's statistics")
        return train_state.TrainState(
            jax.device_put(np.int32(start.step), placed.step.sharding),
            placing.place_params(start.weights, placed.params),
            placing.place_state(start.weights, placed.opt_state),
        )
    why = "" if statistics else ", since it holds none"
    say(f"starting from {start}: parameters alone, optimizer state afresh{why}")
    params = placing.place_params(start.weights, placed.params)
    return train_state.state_from_params(params, start.step, network, optimizer, mesh)
