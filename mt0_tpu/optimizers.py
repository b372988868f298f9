"""Adafactor with T5X's semantics, and AdamW.

Both share three methods: `init`, `apply` and `state_axes`. Trees are nested like the parameters;
`axes` holds a tuple of logical axis names where the parameters hold an array. A dimension named
'layers' stacks tensors that the optimizer treats as separate.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mt0_tpu.errors import UserError, did_you_mean

Tree = Any

LAYERS = "layers"
# The standard rules of scalable_t5 (T5X facts, section 2.4).
_ROW = frozenset({"embed"})
_COLUMN = frozenset({"vocab", "mlp", "heads", "kv", "joined_kv"})
_STATE_NAMES = ("v_row", "v_col", "v", "m")
_DECAYED = ("all", "matrices")


class _Layout(NamedTuple):
    """What Adafactor does with one tensor, by dimension numbers."""

    averaged: tuple[int, ...]  # one parameter scale and one clipping RMS over these
    row: tuple[int, ...] | None  # dims v_row keeps beside the layers; None: not factored
    col: tuple[int, ...] | None  # dims v_col keeps beside the layers


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Adafactor to the digit of T5X's (facts, sections 2.4 and 3.3).

    State per tensor: {'v_row', 'v_col', 'v', 'm'} float32, unused ones zeros of shape (1,).
    A tensor is factored iff it has two dimensions >= min_dim_size_to_factor; then v_row is as
    long as the smaller one. With factor_by_name, tensors having a 'layers' axis follow
    scalable_t5's rules instead: factored by axis names whatever the size.

    Raises:
      UserError: a hyperparameter is out of range, or a tensor has no factoring rule.
    """

    decay_rate: float = 0.8
    step_offset: int = 0
    multiply_by_parameter_scale: bool = True
    clipping_threshold: float | None = 1.0
    beta1: float | None = None
    weight_decay_rate: float | None = None
    min_dim_size_to_factor: int = 128
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3
    factored: bool = True
    skip_nan_updates: bool = False
    factor_by_name: bool = False

    def __post_init__(self) -> None:
        rate = self.decay_rate
        _check("Adafactor", "decay_rate", rate, rate > 0, "a number > 0, e.g. 0.8")
        _check_optional_positive("Adafactor", "clipping_threshold", self.clipping_threshold)
        _check_beta("Adafactor", "beta1", self.beta1)
        _check_beta("Adafactor", "weight_decay_rate", self.weight_decay_rate)
        size = self.min_dim_size_to_factor
        _check("Adafactor", "min_dim_size_to_factor", size, size >= 1, "1 or more")
        for name in ("epsilon1", "epsilon2"):
            value = getattr(self, name)
            _check("Adafactor", name, value, value >= 0, "0 or more")
        if self.factor_by_name and not self.factored:
            raise UserError(
                "Adafactor.factor_by_name is True but factored is False; set factored = True, or"
                " leave factor_by_name out."
            )

    def init(self, params: Tree, axes: Tree) -> Tree:
        """Returns zero state for `params` (arrays or ShapeDtypeStructs)."""

        def zeros(path, param, names):
            shapes = self._state_shapes(self._layout(path, param.shape, names), param.shape)
            return {key: jnp.zeros(shapes[key] or (1,), jnp.float32) for key in _STATE_NAMES}

        return _map_with_path(zeros, params, axes)

    def state_axes(self, params: Tree, axes: Tree) -> Tree:
        """Returns the logical axes of the state: each statistic has those of the dims it keeps.

        T5X replicates v_row and v_col; naming them lets them be sharded like the parameter.
        """

        def names_of(path, param, names):
            layout = self._layout(path, param.shape, names)
            kept = self._state_dims(layout, len(param.shape))
            return {
                key: (None,) if kept[key] is None else tuple(names[d] for d in kept[key])
                for key in _STATE_NAMES
            }

        return _map_with_path(names_of, params, axes)

    def apply(
        self,
        params: Tree,
        grads: Tree,
        state: Tree,
        axes: Tree,
        *,
        step: jax.typing.ArrayLike,
        learning_rate: jax.typing.ArrayLike,
    ) -> tuple[Tree, Tree]:
        """Returns (params, state) after one update; `step` is the counter before increment."""
        decay = self._decay(step)
        learning_rate = jnp.asarray(learning_rate, jnp.float32)

        def update(path, param, names, grad, moments):
            layout = self._layout(path, param.shape, names)
            return self._update(layout, param, grad, moments, decay, learning_rate)

        pairs = _map_with_path(update, params, axes, grads, state)
        treedef = jax.tree.structure(params)
        flat = treedef.flatten_up_to(pairs)
        return (
            treedef.unflatten([new for new, _ in flat]),
            treedef.unflatten([new for _, new in flat]),
        )

    def _decay(self, step: jax.typing.ArrayLike) -> jax.Array:
        # In float32 on purpose: near step 1e6 the rounding of 1 - t^-0.8 changes the mixing rate
        # by 0.04 %, and published states were made with it.
        t = (jnp.asarray(step) - self.step_offset).astype(jnp.float32) + 1.0
        return 1.0 - t ** jnp.float32(-self.decay_rate)

    def _update(self, layout, param, grad, moments, decay, learning_rate):
        """One tensor, all float32; RMS over every dimension but the layers."""
        grad = grad.astype(jnp.float32)
        value = param.astype(jnp.float32)
        scale = learning_rate
        if self.multiply_by_parameter_scale:
            scale = scale * jnp.maximum(_rms(value, layout.averaged), self.epsilon2)
        new, factors = self._precondition(layout, grad, moments, decay)
        if self.clipping_threshold is not None:
            rms = _rms(_scaled(grad, _distinct(factors)), layout.averaged)
            scale = scale / jnp.maximum(1.0, rms / self.clipping_threshold)
        change = _scaled(grad, [factors[0] * scale, *factors[1:]])
        if self.beta1 is not None:
            change = self.beta1 * moments["m"] + (1.0 - self.beta1) * change
            new["m"] = change
        if self.weight_decay_rate is not None:
            value = (1.0 - self.weight_decay_rate) * value
        result = (value - change).astype(param.dtype)
        if self.skip_nan_updates:
            new = {k: jnp.where(jnp.isnan(v), moments[k], v) for k, v in new.items()}
            result = jnp.where(jnp.isnan(result), param, result)
        return result, new

    def _precondition(self, layout, grad, moments, decay):
        """The new second moments, and the factors whose product with grad is the direction.

        The direction is grad over the root of the second moment, without an epsilon there.
        """
        new = {key: jnp.zeros((1,), jnp.float32) for key in _STATE_NAMES}
        mixing = 1.0 - decay
        if layout.row is None:
            new["v"] = decay * moments["v"] + mixing * (grad * grad + self.epsilon1)
            return new, [jax.lax.rsqrt(new["v"])]
        for key, reduced, unit in (("v_row", layout.col, 2.0), ("v_col", layout.row, 4.0)):
            mean = _mean_square(grad, reduced, unit) + self.epsilon1
            new[key] = decay * moments[key] + mixing * mean
        row = jnp.expand_dims(new["v_row"], layout.col)
        col = jnp.expand_dims(new["v_col"], layout.row)
        row = row / jnp.mean(row, layout.row, keepdims=True)
        return new, [jax.lax.rsqrt(row), jax.lax.rsqrt(col)]

    def _layout(self, path: str, shape: tuple[int, ...], names: tuple) -> _Layout:
        layers = tuple(d for d, name in enumerate(names) if name == LAYERS)
        rest = tuple(d for d in range(len(shape)) if d not in layers)
        if not self.factored:
            return _Layout(rest, None, None)
        if layers and self.factor_by_name:
            return _Layout(rest, *_split_by_name(path, names, rest))
        if len(rest) > 2:
            hint = "set Adafactor.factor_by_name = True, or " if layers else ""
            raise UserError(
                f"Adafactor has no factoring rule for '{path}' of shape {tuple(shape)} (axes"
                f" {names}): {hint}reshape it to two dimensions, or set Adafactor.factored = False."
            )
        if len(rest) < 2 or min(shape[d] for d in rest) < self.min_dim_size_to_factor:
            return _Layout(rest, None, None)
        # A tie keeps dimension order: v_row is then the first.
        first, second = rest
        row, col = (first, second) if shape[first] <= shape[second] else (second, first)
        return _Layout(rest, (row,), (col,))

    def _state_dims(self, layout: _Layout, rank: int) -> dict[str, tuple[int, ...] | None]:
        """Which dimensions of the tensor each statistic keeps; None: a placeholder."""
        everything = tuple(range(rank))
        dims = dict.fromkeys(_STATE_NAMES)
        if layout.row is None:
            dims["v"] = everything
        else:
            dims["v_row"] = tuple(d for d in everything if d not in layout.col)
            dims["v_col"] = tuple(d for d in everything if d not in layout.row)
        if self.beta1 is not None:
            dims["m"] = everything
        return dims

    def _state_shapes(self, layout: _Layout, shape: tuple[int, ...]) -> dict:
        dims = self._state_dims(layout, len(shape))
        return {k: None if d is None else tuple(shape[i] for i in d) for k, d in dims.items()}


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (optax), after an optional clip of the global norm.

    State: {'count': int32 of its own, 'mu': like params, 'nu': like params}. The decay is
    multiplied by the learning rate and applies to every tensor, or with weight_decay_on =
    'matrices', Megatron's rule, to all but biases and norms (layers stacked or not).
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    global_norm_clip: float | None = None
    weight_decay_on: str = "all"

    def __post_init__(self) -> None:
        _check_beta("AdamW", "b1", self.b1)
        _check_beta("AdamW", "b2", self.b2)
        _check("AdamW", "eps", self.eps, self.eps >= 0, "0 or more, e.g. 1e-8")
        _check("AdamW", "weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more")
        _check_optional_positive("AdamW", "global_norm_clip", self.global_norm_clip)
        if self.weight_decay_on not in _DECAYED:
            raise UserError(
                f"AdamW.weight_decay_on is {self.weight_decay_on!r}; write 'all', or 'matrices' to "
                f"leave out biases and norms.{did_you_mean(str(self.weight_decay_on), _DECAYED)}"
            )

    def init(self, params: Tree, axes: Tree) -> Tree:
        """Returns zero state; the moments are float32 whatever the parameters are."""
        del axes
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        return {"count": jnp.zeros((), jnp.int32), "mu": zeros, "nu": jax.tree.map(jnp.copy, zeros)}

    def state_axes(self, params: Tree, axes: Tree) -> Tree:
        """Returns the logical axes of the state: the moments have their parameter's."""
        names = _map_with_path(lambda path, param, names: names, params, axes)
        return {"count": (), "mu": names, "nu": names}

    def apply(
        self,
        params: Tree,
        grads: Tree,
        state: Tree,
        axes: Tree,
        *,
        step: jax.typing.ArrayLike,
        learning_rate: jax.typing.ArrayLike,
    ) -> tuple[Tree, Tree]:
        """Returns (params, state) after one update; bias correction counts its own updates."""
        del step
        updates = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
        values = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        if self.global_norm_clip is not None:
            clip = optax.clip_by_global_norm(self.global_norm_clip)
            updates, _ = clip.update(updates, clip.init(values))
        adam = optax.scale_by_adam(self.b1, self.b2, self.eps)
        # optax raises a Python float to the int32 count, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = adam.update(updates, optax.ScaleByAdamState(**state))
        decay = optax.add_decayed_weights(self.weight_decay)
        decayed = _map_with_path(self._decayed, values, axes)
        updates, _ = decay.update(updates, decay.init(decayed), decayed)
        rate = jnp.asarray(learning_rate, jnp.float32)
        new = jax.tree.map(lambda p, v, u: (v - rate * u).astype(p.dtype), params, values, updates)
        return new, {"count": moments.count, "mu": moments.mu, "nu": moments.nu}

    def _decayed(self, path: str, value: jax.Array, names: tuple) -> jax.Array:
        """What decays of a tensor: itself, or zeros for a vector that is left out."""
        vector = sum(name != LAYERS for name in names) < 2
        return jnp.zeros_like(value) if vector and self.weight_decay_on == "matrices" else value


def _split_by_name(path: str, names: tuple, rest: tuple[int, ...]):
    """Dims of v_row and v_col by scalable_t5's rules, or (None, None) where one is missing."""
    row = tuple(d for d in rest if names[d] in _ROW)
    col = tuple(d for d in rest if names[d] in _COLUMN)
    if not row or not col:
        return None, None
    if len(row) + len(col) < len(rest):
        odd = next(names[d] for d in rest if d not in row + col)
        raise UserError(
            f"Adafactor.factor_by_name cannot place axis '{odd}' of '{path}' (axes {names});"
            f" use only {', '.join(sorted(_ROW | _COLUMN))} and {LAYERS} there."
        )
    return row, col


def _scaled(x: jax.Array, factors: list[jax.Array]) -> jax.Array:
    """x times factors of its rank, one after the other, so that no partial product overflows."""
    for factor in factors:
        x = x * factor
    return x


def _rms(x: jax.Array, dims: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.mean(x * x, dims, keepdims=True))


def _distinct(factors: list[jax.Array]) -> list[jax.Array]:
    """The same product from other factors; powers of two, so exactly the same.

    XLA:CPU stores what two sums share, here arrays as large as the parameter, where it would fuse
    what only one needs: half the time and one copy of the largest parameter less. `_mean_square`
    takes a unit for the same reason.
    """
    if len(factors) == 1:
        return factors
    return [factors[0] * 0.5, factors[1] * 2.0]


# XLA:CPU sums the columns of a long-rowed matrix against the grain: 20 times slower than by rows.
_LONG_ROW = 2**14


def _mean_square(x: jax.Array, dims: tuple[int, ...], unit: float) -> jax.Array:
    """Mean of x^2 over `dims`, squared in a unit (a power of two) that no other sum uses."""

    def plain(x):
        return jnp.mean((x * unit) * (x * unit), dims) / unit**2

    def by_rows(x):
        # Several partial sums, to round as little as a tree does.
        lanes = math.gcd(x.shape[0], 8)
        groups = x.reshape(-1, lanes, x.shape[1])
        start = jnp.zeros(groups.shape[1:], x.dtype)
        total, _ = jax.lax.scan(lambda total, rows: (total + rows * rows, None), start, groups)
        return jnp.sum(total, 0) / x.shape[0]

    if x.ndim == 2 and dims == (0,) and x.shape[1] >= _LONG_ROW:
        return jax.lax.platform_dependent(x, cpu=by_rows, default=plain)
    return plain(x)


def _map_with_path(function, params: Tree, axes: Tree, *others: Tree) -> Tree:
    """Maps function(path, param, axis names, …) over the parameters' structure."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    columns = [treedef.flatten_up_to(tree) for tree in (axes, *others)]
    results = []
    for (keys, param), names, *rest in zip(paths, *columns, strict=True):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        names = tuple(names)
        if len(names) != len(param.shape):
            raise UserError(
                f"The axes of '{path}' are {names}, but its shape is {tuple(param.shape)}; name"
                f" every dimension (None for an unnamed one)."
            )
        results.append(function(path, param, names, *rest))
    return treedef.unflatten(results)


def _check(owner: str, name: str, value: object, good: bool, wanted: str) -> None:
    if not good:
        raise UserError(f"{owner}.{name} is {value!r}; write {wanted}.")


def _check_optional_positive(owner: str, name: str, value: float | None) -> None:
    _check(owner, name, value, value is None or value > 0, "a number > 0, or None for no clipping")


def _check_beta(owner: str, name: str, value: float | None) -> None:
    good = value is None or 0 <= value < 1
    _check(owner, name, value, good, "a number from 0 up to, not including, 1")
