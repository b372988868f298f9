"""Adafactor against stock T5X (golden/adafactor_unit) and AdamW against its formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mt0_tpu.errors import UserError
from mt0_tpu.optimizers import Adafactor, AdamW

UNIT_AXES = {
    "square.kernel": ("embed", "joined_kv"),
    "tall.kernel": ("mlp", "embed"),
    "wide.kernel": ("embed", "mlp"),
    "embedding": ("vocab", "embed"),
    "below_threshold.kernel": ("embed", "mlp"),
    "norm.scale": ("embed",),
    "tiny_param.scale": ("embed",),
    "rel_embedding": ("heads", "relpos_buckets"),
    "scan_query.kernel": ("embed", "layers", "heads", "kv"),
    "scan_out.kernel": ("heads", "kv", "layers", "embed"),
    "scan_wo.kernel": ("mlp", "layers", "embed"),
    "scan_norm.scale": ("embed", "layers"),
    "scan_rel_embedding": ("heads", "layers", "relpos_buckets"),
}


def run_steps(optimizer, params, all_grads, axes, first_step, learning_rate=1e-3):
    """Applies the gradients one after the other under one jit."""
    update = jax.jit(
        lambda params, state, grads, step: optimizer.apply(
            params, grads, state, axes, step=step, learning_rate=learning_rate
        )
    )
    state = optimizer.init(params, axes)
    for number, grads in enumerate(all_grads):
        params, state = update(params, state, grads, jnp.int32(first_step + number))
    return params, state


@functools.cache
def unit_inputs(golden):
    arrays = np.load(golden / "adafactor_unit" / "inputs_float16.npz")

    def read(prefix):
        return {name: jnp.asarray(arrays[f"{prefix}.{name}"], jnp.float32) for name in UNIT_AXES}

    return read("param"), [read(f"grad{i}") for i in range(3)]


@pytest.mark.parametrize("first_step", [0, 1_000_000])
@pytest.mark.parametrize("steps", [1, 3])
def test_golden_unit(golden, first_step, steps):
    params, grads = unit_inputs(golden)
    expected = np.load(golden / "adafactor_unit" / f"expected_from{first_step}_step{steps}.npz")
    optimizer = Adafactor(factor_by_name=True)
    new, state = run_steps(optimizer, params, grads[:steps], UNIT_AXES, first_step)
    assert int(expected["step"]) == first_step + steps

    def compare(got, want, atol, what):
        got = np.asarray(got).reshape(-1)
        if got.size > 256:
            got = got[::5]
        np.testing.assert_allclose(got, want.reshape(-1), rtol=0, atol=atol, err_msg=what)

    for name in UNIT_AXES:
        compare(new[name], expected[f"param.{name}"], 5e-7, name)
        for key, value in state[name].items():
            want = expected[f"state.{name}.{key}"]
            compare(value, want, 1e-6 * np.abs(want).max(), f"{name} {key}")


def test_state_shapes_and_axes_of_golden_unit(golden):
    params, _ = unit_inputs(golden)
    optimizer = Adafactor(factor_by_name=True)
    abstract = jax.eval_shape(lambda p: optimizer.init(p, UNIT_AXES), params)
    axes = optimizer.state_axes(params, UNIT_AXES)
    shape = {n: {k: v.shape for k, v in s.items() if v.shape != (1,)} for n, s in abstract.items()}
    assert shape["tall.kernel"] == {"v_row": (128,), "v_col": (192,)}
    assert shape["square.kernel"] == {"v_row": (128,), "v_col": (128,)}
    assert shape["below_threshold.kernel"] == {"v": (127, 160)}
    assert shape["scan_out.kernel"] == {"v_row": (3, 32), "v_col": (2, 16, 3)}
    assert axes["tall.kernel"] == dict(v_row=("embed",), v_col=("mlp",), v=(None,), m=(None,))
    assert axes["square.kernel"]["v_row"] == ("embed",)
    assert axes["scan_out.kernel"]["v_row"] == ("layers", "embed")
    assert axes["scan_out.kernel"]["v_col"] == ("heads", "kv", "layers")
    assert axes["norm.scale"]["v"] == ("embed",)
    for name, leaf in abstract.items():
        for key, value in leaf.items():
            assert len(axes[name][key]) == len(value.shape)


@pytest.fixture(scope="module")
def layered():
    """Three separate trees of one layer, and the same tensors stacked on axis 0."""
    rng = np.random.default_rng(5)
    shapes = {"tall": (160, 128), "small": (8, 16), "scale": (24,)}
    axes = {"tall": ("mlp", "embed"), "small": ("embed", "joined_kv"), "scale": ("embed",)}

    def draw(scale):
        return {n: rng.standard_normal(s).astype(np.float32) * scale for n, s in shapes.items()}

    params = [draw(scale) for scale in (1.0, 0.1, 1e-5)]
    grads = [[draw(scale) for scale in (1.0, 30.0, 0.01)] for _ in range(2)]
    return params, grads, axes


def stack(trees):
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        dict(beta1=0.9, weight_decay_rate=0.01),
        dict(factored=False),
        dict(multiply_by_parameter_scale=False, clipping_threshold=None),
    ],
)
def test_stacked_layers_are_separate_tensors(layered, fields):
    params, grads, axes = layered
    optimizer = Adafactor(**fields)
    stacked_axes = {name: ("layers", *names) for name, names in axes.items()}
    got, got_state = run_steps(optimizer, stack(params), [stack(g) for g in grads], stacked_axes, 3)
    alone = [
        run_steps(optimizer, params[layer], [g[layer] for g in grads], axes, 3)
        for layer in range(3)
    ]
    want, want_state = stack([a[0] for a in alone]), stack([a[1] for a in alone])
    for name in axes:
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=1e-6)
        for key, value in got_state[name].items():
            if value.shape == (1,):
                assert not np.any(want_state[name][key])
            else:
                atol = 1e-6 * np.abs(want_state[name][key]).max()
                np.testing.assert_allclose(value, want_state[name][key], rtol=0, atol=atol)


def test_momentum_and_weight_decay_formula():
    param, grad = jnp.array([3.0, 4.0]), jnp.array([1.0, -1.0])
    optimizer = Adafactor(beta1=0.9, weight_decay_rate=0.01)
    params, state = run_steps(optimizer, {"w": param}, [{"w": grad}] * 2, {"w": (None,)}, 0, 0.1)
    # The direction is grad / sqrt(v) = (1, -1); its step is 0.1 * RMS(param).
    want, momentum = np.array([3.0, 4.0]), np.zeros(2)
    for _ in range(2):
        change = 0.1 * np.sqrt(np.mean(want**2)) * np.array([1.0, -1.0])
        momentum = 0.9 * momentum + 0.1 * change
        want = 0.99 * want - momentum
    np.testing.assert_allclose(params["w"], want, rtol=1e-6)
    np.testing.assert_allclose(state["w"]["m"], momentum, rtol=1e-5)


@pytest.mark.parametrize("skip", [True, False])
def test_nan_gradient(skip):
    params = {"w": jnp.ones((4,)), "k": jnp.ones((128, 128))}
    axes = {"w": ("embed",), "k": ("embed", "mlp")}
    grads = {"w": jnp.ones((4,)), "k": jnp.ones((128, 128)).at[3, 5].set(jnp.nan)}
    new, state = run_steps(Adafactor(skip_nan_updates=skip), params, [grads], axes, 0)
    assert np.all(new["w"] < 1.0)
    if skip:
        np.testing.assert_array_equal(new["k"], params["k"])
        assert np.all(np.isfinite(state["k"]["v_row"]))
        assert state["k"]["v_row"][3] == 0.0 and state["k"]["v_row"][2] > 0.0
    else:
        assert np.any(np.isnan(new["k"]))


def test_parameter_dtype_is_kept_and_state_is_float32():
    params = {"w": jnp.ones((4,), jnp.bfloat16)}
    new, state = run_steps(Adafactor(), params, [params], {"w": ("embed",)}, 0)
    assert new["w"].dtype == jnp.bfloat16 and state["w"]["v"].dtype == jnp.float32


def test_errors():
    with pytest.raises(UserError, match="decay_rate is -1"):
        Adafactor(decay_rate=-1)
    with pytest.raises(UserError, match="beta1 is 1.0"):
        Adafactor(beta1=1.0)
    with pytest.raises(UserError, match="clipping_threshold"):
        Adafactor(clipping_threshold=0.0)
    with pytest.raises(UserError, match="factored is False"):
        Adafactor(factored=False, factor_by_name=True)
    with pytest.raises(UserError, match="b2 is 2"):
        AdamW(b2=2)
    with pytest.raises(UserError, match="weight_decay_on is 'matrix'.*Did you mean 'matrices'"):
        AdamW(weight_decay_on="matrix")
    cube = {"mlp": {"kernel": jnp.ones((2, 3, 4, 5))}}
    with pytest.raises(UserError, match="no factoring rule for 'mlp/kernel'"):
        Adafactor().init(cube, {"mlp": {"kernel": ("layers", "embed", "heads", "kv")}})
    with pytest.raises(UserError, match="name every dimension"):
        Adafactor().init(cube, {"mlp": {"kernel": ("layers", "embed")}})
    with pytest.raises(UserError, match="cannot place axis 'odd' of 'mlp/kernel'"):
        Adafactor(factor_by_name=True).init(
            cube, {"mlp": {"kernel": ("layers", "embed", "odd", "kv")}}
        )


def test_adamw_formula():
    rng = np.random.default_rng(0)
    param = rng.standard_normal((3, 5)).astype(np.float32)
    grads = [rng.standard_normal((3, 5)).astype(np.float32) for _ in range(3)]
    axes = {"a": {"w": ("embed", "mlp")}}
    optimizer = AdamW(0.9, 0.99, 1e-6, weight_decay=0.1, global_norm_clip=0.5)
    new, state = run_steps(
        optimizer, {"a": {"w": jnp.asarray(param)}}, [{"a": {"w": g}} for g in grads], axes, 9, 0.01
    )
    want, mu, nu = param.astype(np.float64), 0.0, 0.0
    for t, g in enumerate(grads, 1):
        g = g * min(1.0, 0.5 / np.linalg.norm(g))
        mu, nu = 0.9 * mu + 0.1 * g, 0.99 * nu + 0.01 * g * g
        step = mu / (1 - 0.9**t) / (np.sqrt(nu / (1 - 0.99**t)) + 1e-6)
        want = want - 0.01 * (step + 0.1 * want)
    np.testing.assert_allclose(new["a"]["w"], want, rtol=2e-6, atol=1e-7)
    assert int(state["count"]) == 3
    assert optimizer.state_axes(new, axes) == {"count": (), "mu": axes, "nu": axes}
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(new, axes))


def test_megatrons_adamw_by_hand():
    """BLOOMZ's: biases and norms, stacked or not, do not decay; one norm clips all gradients."""
    rng = np.random.default_rng(0)
    axes = {
        "kernel": ("layers", "embed", "mlp"),
        "bias": ("layers", "mlp"),
        "scale": ("embed",),
        "table": ("vocab", "embed"),
    }
    shapes = {"kernel": (2, 4, 3), "bias": (2, 3), "scale": (4,), "table": (5, 4)}
    draw = lambda: {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}  # noqa: E731
    params, grads = draw(), [draw() for _ in range(3)]
    optimizer = AdamW(
        0.9, 0.95, 1e-8, weight_decay=1e-2, global_norm_clip=1.0, weight_decay_on="matrices"
    )
    start = jax.tree.map(jnp.asarray, params)
    new, _ = run_steps(optimizer, start, grads, axes, 0, 0.01)
    norms = [
        np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in tree.values())) for tree in grads
    ]
    assert min(norms) > 1
    for name, param in params.items():
        want, mu, nu = param.astype(np.float64), 0.0, 0.0
        for t, (tree, norm) in enumerate(zip(grads, norms, strict=True), 1):
            g = tree[name] / norm
            mu, nu = 0.9 * mu + 0.1 * g, 0.95 * nu + 0.05 * g * g
            step = mu / (1 - 0.9**t) / (np.sqrt(nu / (1 - 0.95**t)) + 1e-8)
            decay = 1e-2 if name in ("kernel", "table") else 0.0
            want = want - 0.01 * (step + decay * want)
        np.testing.assert_allclose(new[name], want, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("spec", [None, P("fsdp", None), P(None, "fsdp"), P("fsdp", "tensor")])
def test_head_with_long_rows(spec):
    """The LM head's columns are summed another way on a CPU; also where it is sharded."""
    rng = np.random.default_rng(1)
    shape, axes = (128, 2**14), {"head": ("embed", "vocab")}
    param, grad = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    params, grads = {"head": jnp.asarray(param)}, {"head": jnp.asarray(grad)}
    if spec is not None:
        mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
        params, grads = jax.device_put((params, grads), NamedSharding(mesh, spec))
    new, state = run_steps(Adafactor(), params, [grads], axes, 0)
    squares = grad.astype(np.float64) ** 2
    row, col = squares.mean(1), squares.mean(0)
    np.testing.assert_allclose(state["head"]["v_row"], row, rtol=1e-6)
    np.testing.assert_allclose(state["head"]["v_col"], col, rtol=1e-6)
    direction = grad / np.sqrt(row / row.mean())[:, None] / np.sqrt(col)[None]
    direction /= max(1.0, np.sqrt(np.mean(direction**2)))
    want = param - 1e-3 * np.sqrt(np.mean(param.astype(np.float64) ** 2)) * direction
    np.testing.assert_allclose(new["head"], want, rtol=0, atol=5e-7)
