"""What a step of training turns into the next: parameters, optimizer state, step."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from mt0_tpu import partitioning
from mt0_tpu.models import networks


@struct.dataclass
class TrainState:
    """step is int32 and absolute (it counts pretraining steps); params are float32."""

    step: Any
    params: Any
    opt_state: Any


def init_params(model: nn.Module, seed: int):
    """Returns freshly drawn parameters, without logical boxes."""
    return nn.unbox(model.init(jax.random.key(seed), networks.dummy_batch(model.config))["params"])


def parameter_axes(model: nn.Module):
    """Returns a tree like the parameters of tuples of logical dimension names."""
    return networks.param_axes(model.config)


def abstract_state(model: nn.Module, optimizer) -> tuple[TrainState, TrainState]:
    """Returns (shapes and dtypes, logical axes) of the state, computing nothing."""
    axes = parameter_axes(model)
    params = jax.eval_shape(lambda: init_params(model, 0))
    opt_state = jax.eval_shape(lambda p: optimizer.init(p, axes), params)
    shapes = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, opt_state)
    return shapes, TrainState((), axes, optimizer.state_axes(params, axes))


def state_shardings(model: nn.Module, optimizer, mesh: Mesh) -> TrainState:
    """Returns where each leaf of the state lies; factored statistics are placed explicitly."""
    shapes, axes = abstract_state(model, optimizer)
    return partitioning.shardings(axes, shapes, mesh)


# A leaf above this is drawn by a program of its own.
_LARGE_BYTES = 64 << 20


def init_state(model: nn.Module, optimizer, mesh: Mesh, seed: int) -> TrainState:
    """Draws a state, already lying as state_shardings says.

    Large leaves are drawn one after the other: in one program the random bits of all of them
    are alive together, and drawing would need more memory than a step of training.
    """
    where = state_shardings(model, optimizer, mesh)
    shapes = jax.eval_shape(lambda: init_params(model, seed))
    leaves, tree = jax.tree.flatten(shapes)
    places = jax.tree.leaves(where.params)
    large = [i for i, leaf in enumerate(leaves) if leaf.size * 4 > _LARGE_BYTES]
    small = [i for i in range(len(leaves)) if i not in large]
    drawn: list = [None] * len(leaves)
    for group in [[i] for i in large] + [small]:

        def draw(group=group):
            every = jax.tree.leaves(init_params(model, seed))
            return [every[i] for i in group]

        made = jax.jit(draw, out_shardings=[places[i] for i in group])()
        for i, leaf in zip(group, jax.block_until_ready(made), strict=True):
            drawn[i] = leaf
    params = jax.tree.unflatten(tree, drawn)
    return state_from_params(params, 0, model, optimizer, mesh)


def state_from_params(params, step: int, model: nn.Module, optimizer, mesh: Mesh) -> TrainState:
    """Returns a state of given parameters with fresh optimizer state."""
    axes = parameter_axes(model)
    where = state_shardings(model, optimizer, mesh)

    def fresh(params):
        return TrainState(jnp.asarray(step, jnp.int32), params, optimizer.init(params, axes))

    # Donated, so that the parameters are not held twice.
    return jax.jit(fresh, out_shardings=where, donate_argnums=0)(params)
