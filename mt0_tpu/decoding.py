"""Decoding with a key/value cache: prefill, steps, and rows that come and go in a batch.

An Engine holds the compiled parts; predict.py feeds it. A state holds B inputs (slots) of N
decodes each; every input is at a position of its own, so that an ended one can be replaced. How
an input enters the cache is its network's: encoded_inputs.py or prompt_inputs.py.

Letters: B inputs (slots), N decodes of an input, R = B * N rows of a step, G inputs of a group that
enters together, T input length, S decode length, D width, V vocabulary, L layers, H heads,
K head width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mt0_tpu import (
    beam_search,
    decode_weights,
    encoded_inputs,
    partitioning,
    prompt_inputs,
    sampling,
)
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.models.networks import NetworkConfig, network


class State(NamedTuple):
    """B inputs under way. `cache` has B at axis 1 (leaves [B, T]: 0), everything else at axis 0.

    Attributes:
      cache: of the network's init_cache, self_k and self_v as [L, B, N, H, S, K].
      position_B: int32, how many tokens each input has.
      ended_B: bool; an ended input keeps what it has.
      key_B2: uint32, the random key of each input.
      search: what the method keeps of its decodes, sampling.Tokens or beam_search.Beams.
      first_B: int32, what the decoder reads before it has written a token.
    """

    cache: dict[str, jax.Array]
    position_B: jax.Array
    ended_B: jax.Array
    key_B2: jax.Array
    search: Any
    first_B: jax.Array


class Report(NamedTuple):
    """What the host reads: whole on every device, decodes best first, zeros after EOS."""

    ended_B: jax.Array
    ids_BNS: jax.Array
    scores_BN: jax.Array


@dataclasses.dataclass(frozen=True)
class Engine:
    """The compiled parts of one way of decoding; make it with `engine`."""

    config: NetworkConfig
    decode: DecodeConfig
    max_decode_len: int
    eos_id: int
    mesh: Mesh | None

    def prefill(
        self,
        params,
        tokens_GT: np.ndarray,
        numbers_G: np.ndarray,
        seed: int,
        lengths_G: np.ndarray | None = None,
    ) -> State:
        """Reads inputs and returns their state before the first token.

        Args:
          tokens_GT: int32, zeros after each input.
          numbers_G: int32, what the random draws of an input depend on beside the seed.
          lengths_G: int32; an input of no token has ended before it starts. None finds the
            lengths by the zeros, where those are padding (an encoder-decoder's).
        """
        if lengths_G is None:
            lengths_G = self.inputs.lengths_of(np.asarray(tokens_GT))
        with self._on_mesh():
            return self._prefill(params, tokens_GT, lengths_G, numbers_G, np.uint32(seed))

    def empty(self, params, slots: int, length: int) -> State:
        """Returns a state of ended slots for inputs of up to `length` tokens."""
        with self._on_mesh():
            return self._empty(params, slots, length)

    def insert(self, state: State, group: State, slots_G: np.ndarray) -> State:
        """Puts the inputs of a group in slots; those of a slot past the end are left out."""
        with self._on_mesh():
            return self._insert(state, group, slots_G)

    def run(self, params, state: State, wanted: int) -> tuple[State, Report]:
        """Steps until `wanted` slots have ended, or all; the state given is used up."""
        rows = state.ended_B.shape[0] * self.decode.num_decodes
        variables = decode_weights.variables(params, self.config, rows, self.mesh)
        with self._on_mesh():
            return self._run(variables, state, np.int32(wanted))

    def select(self, state: State, slots_C: np.ndarray) -> State:
        """Returns a state of these slots only."""
        with self._on_mesh():
            return self._select(state, np.asarray(slots_C, np.int32))

    def widen(self, state: State, length: int) -> State:
        """Returns the state with room for inputs of up to `length` tokens."""
        with self._on_mesh():
            return self._widen(state, length)

    def lower_run(self, params, params_where, slots: int, length: int):
        """Traces `run` of abstract parameters, ready to be compiled; nothing is computed.

        Returns:
          (the state's shapes, where they lie, a function that traces).
        """
        state = self._shapes(params, slots, length)
        where = partitioning.shardings(_axes(self, state), state, self.mesh)

        def placed(leaf, place):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

        def lower():
            wanted = jax.ShapeDtypeStruct(
                (), jnp.int32, sharding=partitioning.replicated(self.mesh)
            )
            with self._on_mesh():
                return self._run.lower(
                    {"params": jax.tree.map(placed, params, params_where)},
                    jax.tree.map(placed, state, where),
                    wanted,
                )

        return state, where, lower

    @contextlib.contextmanager
    def _on_mesh(self):
        if self.mesh is None:
            yield
            return
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(partitioning.LOGICAL_RULES):
            yield

    def _laid_out(self, state: State) -> State:
        """Cuts slots over the batch axes of the mesh and heads over 'tensor'."""
        if self.mesh is None:
            return state
        places = partitioning.shardings(_axes(self, state), state, self.mesh)
        return jax.lax.with_sharding_constraint(state, places)

    def _shapes(self, params, slots: int, length: int) -> State:
        """Shapes and dtypes of the state of `slots` inputs of up to `length` tokens."""
        return jax.eval_shape(
            functools.partial(_prefill, self),
            params,
            jax.ShapeDtypeStruct((slots, length), jnp.int32),
            jax.ShapeDtypeStruct((slots,), jnp.int32),
            jax.ShapeDtypeStruct((slots,), jnp.int32),
            jax.ShapeDtypeStruct((), jnp.uint32),
        )

    @functools.cached_property
    def _prefill(self):
        return jax.jit(lambda *arguments: self._laid_out(_prefill(self, *arguments)))

    @functools.cached_property
    def _empty(self):
        def make(params, slots: int, length: int) -> State:
            shapes = self._shapes(params, slots, length)
            state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            cache = dict(state.cache)
            for name, (_, filling) in self.inputs.LEAVES.items():
                cache[name] = jnp.full_like(cache[name], filling)
            return self._laid_out(state._replace(cache=cache, ended_B=~state.ended_B))

        return jax.jit(make, static_argnums=(1, 2))

    @functools.cached_property
    def _insert(self):
        def put(state: State, group: State, slots_G) -> State:
            def at_zero(leaf, new):
                return leaf.at[slots_G].set(new, mode="drop")

            def at_one(leaf, new):
                return leaf.at[:, slots_G].set(new, mode="drop")

            return self._laid_out(_map_slots(self, at_zero, at_one, state, group))

        return jax.jit(put, donate_argnums=0)

    @functools.cached_property
    def _select(self):
        def take(state: State, slots_C) -> State:
            picked = _map_slots(
                self,
                lambda leaf: jnp.take(leaf, slots_C, axis=0, mode="clip"),
                lambda leaf: jnp.take(leaf, slots_C, axis=1, mode="clip"),
                state,
            )
            # A slot past the end is a free one.
            free_C = slots_C >= state.ended_B.shape[0]
            return self._laid_out(picked._replace(ended_B=picked.ended_B | free_C))

        return jax.jit(take)

    @functools.cached_property
    def _widen(self):
        def pad(state: State, length: int) -> State:
            cache = dict(state.cache)
            for name, (axis, filling) in self.inputs.LEAVES.items():
                leaf = cache[name]
                more = length - leaf.shape[axis]
                widths = [(0, more if at == axis else 0) for at in range(leaf.ndim)]
                cache[name] = jnp.pad(leaf, widths, constant_values=filling)
            return self._laid_out(state._replace(cache=cache))

        return jax.jit(pad, static_argnums=1)

    @functools.cached_property
    def _run(self):
        def run(variables, state: State, wanted) -> tuple[State, Report]:
            state = _steps(self, variables, state, wanted)
            report = Report(state.ended_B, *self._method.outcome(state.search))
            if self.mesh is not None:
                whole = partitioning.replicated(self.mesh)
                report = jax.lax.with_sharding_constraint(report, Report(whole, whole, whole))
            return self._laid_out(state), report

        return jax.jit(run, donate_argnums=1)

    @property
    def inputs(self):
        """The room that reads the inputs of this kind of network."""
        return _inputs_of(self.config)

    @property
    def _method(self):
        return beam_search if self.decode.method == "beam" else sampling


def _inputs_of(config: NetworkConfig):
    return prompt_inputs if config.decoder_only else encoded_inputs


@functools.cache
def _engine(config, decode, max_decode_len, eos_id, mesh) -> Engine:
    return Engine(config, decode, max_decode_len, eos_id, mesh)


def engine(
    config: NetworkConfig,
    decode: DecodeConfig,
    max_decode_len: int,
    *,
    eos_id: int | None = None,
    mesh: Mesh | None = None,
) -> Engine:
    """Returns the engine of these settings; asked again, the same one with what it compiled.

    Args:
      eos_id: ends a decode; None is T5's, a decoder-only network has to be told.

    Raises UserError where max_decode_len is no whole number of at least 1.
    """
    eos_id = _inputs_of(config).EOS_ID if eos_id is None else eos_id
    if eos_id is None:
        raise UserError("eos_id is None; write the EOS id of the vocabulary (BLOOM's is 2)")
    whole = isinstance(max_decode_len, int | np.integer) and not isinstance(max_decode_len, bool)
    if not whole or max_decode_len < 1:
        raise UserError(f"max_decode_len is {max_decode_len!r}; write 1 or more")
    # The seed enters when an input does: another one compiles nothing.
    fixed = dataclasses.replace(decode, seed=0)
    return _engine(config, fixed, int(max_decode_len), eos_id, mesh)


def greedy_decode(
    params,
    config: NetworkConfig,
    tokens_BT,
    max_decode_len: int,
    *,
    lengths_B=None,
    eos_id: int | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Takes the most likely token at every position until EOS, for one batch as it is.

    Stops as soon as every row has ended. A row without input tokens (padding of a batch) has
    ended before it starts. Compiles once a shape: pad inputs to a few lengths. Arguments as those
    of `engine` and Engine.prefill.

    Returns:
      int32 ids [B, max_decode_len]: EOS included, zeros after it. The call returns before the
      device is done; reading the array waits.
    """
    tokens_BT = np.asarray(tokens_BT, np.int32)
    greedy = engine(config, DecodeConfig(), max_decode_len, eos_id=eos_id, mesh=mesh)
    if tokens_BT.ndim != 2:
        raise UserError(f"inputs have shape {tokens_BT.shape}; greedy_decode takes [rows, length]")
    rows = tokens_BT.shape[0]
    if mesh is not None:
        partitioning.check_batch_size(rows, mesh)
    if lengths_B is not None:
        lengths_B = np.asarray(lengths_B, np.int32)
    state = greedy.prefill(params, tokens_BT, np.arange(rows, dtype=np.int32), 0, lengths_B)
    return greedy.run(params, state, rows)[1].ids_BNS[:, 0]


def _prefill(own: Engine, params, tokens_GT, lengths_G, numbers_G, seed) -> State:
    run = functools.partial(network(own.config).apply, {"params": params})
    decodes, length = own.decode.num_decodes, own.max_decode_len
    cache, first_G = own.inputs.read(run, tokens_GT, lengths_G, length, decodes)
    group = tokens_GT.shape[0]
    for name in ("self_k", "self_v"):
        layers, _, *rest = cache[name].shape
        cache[name] = cache[name].reshape(layers, group, decodes, *rest)
    base = jax.random.key(seed)
    keys_G = jax.vmap(lambda number: jax.random.fold_in(base, number))(numbers_G)
    return State(
        cache,
        jnp.zeros((group,), jnp.int32),
        lengths_G == 0,
        jax.random.key_data(keys_G),
        own._method.start(group, decodes, length),
        first_G,
    )


def _steps(own: Engine, variables, state: State, wanted) -> State:
    """Takes steps until `wanted` inputs have ended, or all."""
    run = functools.partial(network(own.config).apply, variables)
    # What no step changes stays out of the loop's state.
    fixed = {name: leaf for name, leaf in state.cache.items() if name in own.inputs.LEAVES}
    slots = state.ended_B.shape[0]

    def unfinished(state: State):
        return jnp.sum(state.ended_B, dtype=jnp.int32) < jnp.minimum(wanted, slots)

    def step(state: State) -> State:
        decodes = own.decode.num_decodes
        token_BN = own._method.last_tokens(state.search, state.position_B)
        token_BN = jnp.where(state.position_B[:, None] > 0, token_BN, state.first_B[:, None])
        position_R = jnp.repeat(state.position_B, decodes)
        own_cache = {name: _merge_rows(leaf) for name, leaf in state.cache.items()}
        hidden_RD, new = run(
            token_BN.reshape(-1), position_R, own_cache | fixed, method="decode_step"
        )
        logits_RV = run(hidden_RD[:, None], method="logits")[:, 0]
        cache = {name: new[name].reshape(leaf.shape) for name, leaf in state.cache.items()}
        search, ended_B, cache = own._method.advance(own, state, logits_RV, cache)
        position_B = jnp.where(state.ended_B, state.position_B, state.position_B + 1)
        ended_B = state.ended_B | ended_B | (position_B >= own.max_decode_len)
        return State(cache, position_B, ended_B, state.key_B2, search, state.first_B)

    changing = {name: leaf for name, leaf in state.cache.items() if name not in fixed}
    state = jax.lax.while_loop(unfinished, step, state._replace(cache=changing))
    return state._replace(cache=state.cache | fixed)


def _merge_rows(leaf: jax.Array) -> jax.Array:
    layers, slots, decodes, *rest = leaf.shape
    return leaf.reshape(layers, slots * decodes, *rest)


def _is_flat(own: Engine, name: str) -> bool:
    """Whether a leaf of the cache is [B, T], without layers before its slots."""
    axis_of_length, _ = own.inputs.LEAVES.get(name, (None, None))
    return axis_of_length == 1


def _map_slots(own: Engine, at_zero, at_one, state: State, *others: State) -> State:
    """Maps over the leaves, by the axis that their slots are at."""
    caches = [other.cache for other in others]
    cache = {
        name: (at_zero if _is_flat(own, name) else at_one)(leaf, *(one[name] for one in caches))
        for name, leaf in state.cache.items()
    }
    rests = [other._replace(cache={}) for other in others]
    return jax.tree.map(at_zero, state._replace(cache={}), *rests)._replace(cache=cache)


def _axes(own: Engine, state: State) -> State:
    """Logical axis names of every leaf, for partitioning.shardings."""
    of_inputs = ("layers", "batch", "heads", "length", "kv")
    of_decodes = ("layers", "batch", None, "heads", "length", "kv")
    cache = {name: of_inputs if name in own.inputs.LEAVES else of_decodes for name in state.cache}
    cache |= {name: ("batch", "length") for name in state.cache if _is_flat(own, name)}
    rest = jax.tree.map(
        lambda leaf: ("batch",) + (None,) * (leaf.ndim - 1), state._replace(cache={})
    )
    return rest._replace(cache=cache)
