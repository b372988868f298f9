"""The blocked loss against a float64 one that holds all logits."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mt0_tpu import losses
from mt0_tpu.errors import UserError
from mt0_tpu.losses import LossConfig, LossSums, blocked_cross_entropy, token_log_probs

B, S, D, V = 8, 5, 16, 64
ROWS = 4 * V / 2**20  # logits_block_mib of one row


def draw(seed=0):
    """Inputs with padding in the middle and at the end, one row of it whole."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((B, S, D)).astype(np.float32)
    kernel = rng.standard_normal((D, V)).astype(np.float32) * 0.5
    targets = rng.integers(1, V, (B, S)).astype(np.int32)
    weights = (rng.random((B, S)) * (rng.random((B, S)) < 0.7)).astype(np.float32)
    weights[3] = 0.0
    return hidden, kernel, targets, weights


def naive(hidden, kernel, targets, weights, z_loss, label_smoothing):
    """T5X's loss and its gradients in hidden and kernel, NumPy float64 (facts 3.2)."""
    hidden, kernel, weights = (x.astype(np.float64) for x in (hidden, kernel, weights))
    vocabulary = kernel.shape[1]
    logits = hidden @ kernel
    top = logits.max(-1, keepdims=True)
    lse = (top + np.log(np.exp(logits - top).sum(-1, keepdims=True)))[..., 0]
    low = label_smoothing / (vocabulary - 1)
    soft = np.full(logits.shape, low)
    np.put_along_axis(soft, targets[..., None], 1 - label_smoothing, -1)
    constant = -np.sum(np.where(soft > 0, soft * np.log(np.maximum(soft, 1e-300)), 0), -1)
    cross = -np.sum(soft * (logits - lse[..., None]), -1) - constant
    z = z_loss * lse**2
    parts = (cross + z, cross, z, logits.argmax(-1) == targets, np.ones_like(lse))
    sums = LossSums(*(np.sum(weights * part) for part in parts))
    softmax = np.exp(logits - lse[..., None])
    dlogits = weights[..., None] * (softmax * (1 + 2 * z_loss * lse[..., None]) - soft)
    log_probs = np.take_along_axis(logits - lse[..., None], targets[..., None], -1)[..., 0]
    dkernel = np.einsum("bsd,bsv->dv", hidden, dlogits)
    return sums, dlogits @ kernel.T, dkernel, log_probs


def check_sums(got, want):
    for name, value, wanted in zip(LossSums._fields, got, want, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=2e-6, atol=1e-6, err_msg=name)


def check_gradient(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * max(np.abs(want).max(), 1e-6))


def value_and_grad(scale=1.0, **options):
    """Jitted (sums, (dhidden, dkernel)) of scale * loss."""

    def loss(hidden, kernel, targets, weights):
        sums = blocked_cross_entropy(hidden, kernel, targets, weights, **options)
        return sums.loss * scale, sums

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("rows", [1, 7, 16, B * S, 1000])
@pytest.mark.parametrize("z_loss, label_smoothing", [(0.0, 0.0), (1e-2, 0.1)])
def test_every_block_size(rows, z_loss, label_smoothing):
    inputs = draw()
    options = dict(z_loss=z_loss, label_smoothing=label_smoothing, logits_block_mib=rows * ROWS)
    (_, sums), (dhidden, dkernel) = value_and_grad(-2.5, **options)(*inputs)
    want, want_hidden, want_kernel, _ = naive(*inputs, z_loss, label_smoothing)
    check_sums(sums, want)
    check_gradient(dhidden, -2.5 * want_hidden)
    check_gradient(dkernel, -2.5 * want_kernel)
    # Without differentiation another program runs; it must say the same.
    check_sums(jax.jit(functools.partial(blocked_cross_entropy, **options))(*inputs), want)


@functools.cache
def compiled_for_hypothesis():
    return value_and_grad(z_loss=1e-2, label_smoothing=0.1, logits_block_mib=8 * ROWS)


weight = st.one_of(st.just(0.0), st.floats(-4.0, 4.0, width=32, allow_subnormal=False))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), weights=st.lists(weight, min_size=B * S, max_size=B * S))
def test_any_weights(seed, weights):
    hidden, kernel, targets, _ = draw(seed)
    weights = np.array(weights, np.float32).reshape(B, S)
    (_, sums), (dhidden, dkernel) = compiled_for_hypothesis()(hidden, kernel, targets, weights)
    want, want_hidden, want_kernel, _ = naive(hidden, kernel, targets, weights, 1e-2, 0.1)
    # Signed weights cancel in the sum, so the bound is that of the summands.
    bound = 1e-5 * (1 + 20 * np.abs(weights).sum())
    for value, wanted in zip(sums, want, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=bound)
    np.testing.assert_allclose(dhidden, want_hidden, rtol=0, atol=1e-4)
    np.testing.assert_allclose(dkernel, want_kernel, rtol=0, atol=3e-4)
    assert not np.any(np.asarray(dhidden)[weights == 0])


def test_weight_zero_ignores_what_is_there():
    """Not even a NaN at a padding position gets through."""
    hidden, kernel, targets, weights = draw()
    spoilt = np.where(weights[..., None] == 0, np.nan, hidden)
    run = value_and_grad(z_loss=1e-2, label_smoothing=0.0, logits_block_mib=8 * ROWS)
    clean, dirty = (run(h, kernel, targets, weights) for h in (hidden, spoilt))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_no_weight_at_all_is_zero():
    hidden, kernel, targets, weights = draw()
    for rows in (8, 1000):
        run = value_and_grad(z_loss=1e-2, label_smoothing=0.1, logits_block_mib=rows * ROWS)
        (total, sums), grads = run(hidden, kernel, targets, np.zeros_like(weights))
        assert total == 0 and not any(sums)
        assert not any(np.any(g) for g in grads)


def test_ties_and_large_logits():
    """The first of equal logits is the arg max; logits of thousands overflow nothing."""
    hidden = np.zeros((1, 2, D), np.float32)
    hidden[0, 1] = 300.0
    kernel = np.ones((D, V), np.float32)
    targets = np.array([[0, 5]], np.int32)
    sums = blocked_cross_entropy(
        hidden, kernel, targets, np.ones((1, 2), np.float32), z_loss=0.0, label_smoothing=0.0
    )
    assert sums.correct == 1
    np.testing.assert_allclose(sums.cross_ent, 2 * np.log(V), rtol=1e-4)


def test_bfloat16_hidden():
    hidden, kernel, targets, weights = draw()
    hidden = jnp.asarray(hidden, jnp.bfloat16)
    options = dict(z_loss=1e-2, label_smoothing=0.1, logits_block_mib=8 * ROWS)
    exact = np.asarray(hidden.astype(jnp.float32))
    want, want_hidden, want_kernel, _ = naive(exact, kernel, targets, weights, 1e-2, 0.1)
    (_, sums), (dhidden, dkernel) = value_and_grad(**options)(hidden, kernel, targets, weights)
    assert dhidden.dtype == jnp.bfloat16 and dkernel.dtype == jnp.float32
    check_sums(sums, want)
    check_gradient(dkernel, want_kernel)
    np.testing.assert_allclose(dhidden.astype(jnp.float32), want_hidden, rtol=2**-8, atol=1e-6)
    # Rounded factors, for accelerators: near, not equal.
    options["head_dtype"] = "bfloat16"
    (_, sums), (_, dkernel) = value_and_grad(**options)(hidden, kernel, targets, weights)
    np.testing.assert_allclose(sums.loss, want.loss, rtol=1e-2)
    np.testing.assert_allclose(dkernel, want_kernel, atol=0.02 * np.abs(want_kernel).max())


MESHES = {  # batch axes, embed axes, vocab axes of a mesh (data 2, fsdp 2, tensor 2)
    "all": (("data", "fsdp"), ("fsdp",), ("tensor",)),
    "fsdp of two axes": (("data", "fsdp"), ("data", "fsdp"), ("tensor",)),
    "vocabulary over four": (("data",), (), ("fsdp", "tensor")),
    "embed not batch": (("data",), ("fsdp",), ("tensor",)),
    "rows only": (("data", "fsdp", "tensor"), (), ()),
}


@pytest.mark.parametrize("case", MESHES)
def test_sharded(case):
    batch_axes, embed_axes, vocab_axes = MESHES[case]
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    axes = dict(batch_axes=batch_axes, embed_axes=embed_axes, vocab_axes=vocab_axes)
    rows, kernel_spec = P(batch_axes or None), P(embed_axes or None, vocab_axes or None)
    inputs = draw()
    specs = (rows, kernel_spec, rows, rows)
    placed = [
        jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(inputs, specs, strict=True)
    ]
    # 256 B hold one row of the whole vocabulary: shards of rows with unequal numbers of blocks.
    options = dict(z_loss=1e-2, label_smoothing=0.1, logits_block_mib=ROWS, mesh=mesh, **axes)
    (_, sums), (dhidden, dkernel) = value_and_grad(0.5, **options)(*placed)
    want, want_hidden, want_kernel, log_probs = naive(*inputs, 1e-2, 0.1)
    check_sums(sums, want)
    check_gradient(dhidden, 0.5 * want_hidden)
    check_gradient(dkernel, 0.5 * want_kernel)
    assert dkernel.sharding.is_equivalent_to(NamedSharding(mesh, kernel_spec), 2)
    del options["z_loss"], options["label_smoothing"]
    got, _ = jax.jit(functools.partial(token_log_probs, **options))(*placed)
    check_gradient(got, np.where(inputs[3] == 0, 0, log_probs))


@pytest.mark.parametrize("sharded", [False, True])
def test_under_microbatch_scan(sharded):
    """Four microbatches accumulate to the gradient of the whole batch."""
    options = dict(z_loss=1e-2, label_smoothing=0.1, logits_block_mib=4 * ROWS)
    if sharded:
        kinds = (AxisType.Auto,) * 2
        mesh = jax.make_mesh((2, 4), ("fsdp", "tensor"), axis_types=kinds)
        axes = dict(batch_axes=("fsdp",), embed_axes=("fsdp",), vocab_axes=("tensor",))
        options |= dict(mesh=mesh, **axes)
    inputs = draw()
    want, _, want_kernel, _ = naive(*inputs, 1e-2, 0.1)

    @jax.jit
    def accumulate(hidden, kernel, targets, weights):
        def total(kernel, piece):
            hidden, targets, weights = piece
            sums = blocked_cross_entropy(hidden, kernel, targets, weights, **options)
            return sums.loss, sums

        def body(carry, piece):
            dkernel, sums = jax.grad(total, has_aux=True)(kernel, piece)
            return jax.tree.map(jnp.add, carry, (dkernel, sums)), None

        cut = [x.reshape(4, 2, *x.shape[1:]) for x in (hidden, targets, weights)]
        zeros = LossSums(*(jnp.float32(0),) * 5)
        return jax.lax.scan(body, (jnp.zeros_like(kernel), zeros), cut)[0]

    dkernel, sums = accumulate(*inputs)
    check_sums(sums, want)
    check_gradient(dkernel, want_kernel)


def test_kernel_that_does_not_divide_stays_whole():
    hidden, kernel, targets, weights = draw()
    kernel, targets = kernel[:, :63], np.minimum(targets, 62)
    mesh = jax.make_mesh((8,), ("tensor",), axis_types=(AxisType.Auto,))
    options = dict(z_loss=0.0, label_smoothing=0.0, mesh=mesh, vocab_axes=("tensor",))
    want, _, want_kernel, _ = naive(hidden, kernel, targets, weights, 0.0, 0.0)
    (_, sums), (_, dkernel) = value_and_grad(**options)(hidden, kernel, targets, weights)
    check_sums(sums, want)
    check_gradient(dkernel, want_kernel)


@pytest.mark.parametrize("rows", [8, 1000])
def test_token_log_probs(rows):
    hidden, kernel, targets, weights = draw()
    targets[0, :2] = 0
    *_, log_probs = naive(hidden, kernel, targets, weights, 0.0, 0.0)
    best = (hidden @ kernel).argmax(-1) == targets
    run = jax.jit(functools.partial(token_log_probs, logits_block_mib=rows * ROWS))
    for given_weights in (weights, None):
        keep = targets > 0 if given_weights is None else given_weights != 0
        got, correct = run(hidden, kernel, targets, given_weights)
        check_gradient(got, np.where(keep, log_probs, 0))
        np.testing.assert_array_equal(correct, best & keep)


def test_golden_losses_from_golden_logits(golden):
    """T5X's logits through an identity kernel: every mode of losses.json, no network."""
    folder = golden / "t5_tiny"
    expected = json.loads((folder / "losses.json").read_text())
    logits, batches = np.load(folder / "logits.npz"), np.load(folder / "batches.npz")
    for name in ("unpacked", "packed"):
        keys = [key for key in batches.files if key.startswith(f"{name}.")]
        batch = {key.split(".", 1)[1]: jnp.asarray(batches[key]) for key in keys}
        hidden, kernel = logits[name], np.eye(512, dtype=np.float32)

        @functools.partial(jax.jit, static_argnums=(1, 2))
        def run(weights, z_loss, smoothing, hidden=hidden, kernel=kernel, batch=batch):
            targets = batch["decoder_target_tokens"]
            options = dict(z_loss=z_loss, label_smoothing=smoothing, logits_block_mib=0.02)
            return blocked_cross_entropy(hidden, kernel, targets, weights, **options)

        for row in expected[name]:
            weights, divisor = losses.normalized_weights(batch, row["loss_normalizing_factor"])
            sums = run(weights, row["z_loss_coef"], row["label_smoothing"])
            total = row["total_loss_f64_from_logits"]
            np.testing.assert_allclose(sums.loss / divisor, total, rtol=2e-6, err_msg=str(row))


def test_average_per_sequence_by_hand():
    batch = {
        "decoder_target_tokens": jnp.array([[5, 6, 7, 8, 9, 0], [5, 6, 0, 0, 0, 0]]),
        "decoder_loss_weights": jnp.array([[1, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0]]),
        "decoder_segment_ids": jnp.array([[1, 1, 1, 2, 3, 0], [7, 7, 0, 0, 0, 0]]),
    }
    weights, divisor = losses.normalized_weights(batch, "AVERAGE_PER_SEQUENCE")
    np.testing.assert_allclose(weights, [[0.5, 0.5, 0, 1, 1, 0], [0.5, 0.5, 0, 0, 0, 0]])
    assert divisor == 4
    # Without segment ids a row is one sequence.
    del batch["decoder_segment_ids"]
    weights, divisor = losses.normalized_weights(batch, "AVERAGE_PER_SEQUENCE")
    np.testing.assert_allclose(weights[0], [0.25, 0.25, 0, 0.25, 0.25, 0])
    assert divisor == 2


@pytest.mark.parametrize("factor", [None, 234496, *losses.NORMALIZING_FACTORS])
def test_empty_batch_divides_by_no_zero(factor):
    batch = {"decoder_target_tokens": jnp.zeros((2, 3), jnp.int32)}
    weights, divisor = losses.normalized_weights(batch, factor)
    assert not np.any(weights) and divisor > 0
    assert weights.dtype == divisor.dtype == jnp.float32


def test_errors():
    with pytest.raises(UserError, match="Did you mean 'NUM_REAL_TARGET_TOKENS'"):
        LossConfig(loss_normalizing_factor="num_real_target_token")
    with pytest.raises(UserError, match="LOSS_NORMALIZING_FACTOR is 0"):
        LossConfig(loss_normalizing_factor=0)
    with pytest.raises(UserError, match="LOSS_NORMALIZING_FACTOR is True"):
        LossConfig(loss_normalizing_factor=True)
    with pytest.raises(UserError, match="label_smoothing is 1.0"):
        LossConfig(label_smoothing=1.0)
    with pytest.raises(UserError, match="z_loss is -1"):
        LossConfig(z_loss=-1)
    with pytest.raises(UserError, match="logits_block_mib is 0"):
        LossConfig(logits_block_mib=0)
    with pytest.raises(UserError, match="logits of one token take 0.00 MiB.*write 1 or more"):
        value_and_grad(z_loss=0.0, label_smoothing=0.0, logits_block_mib=ROWS / 2)(*draw())
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    hidden, kernel, targets, weights = draw()
    with pytest.raises(UserError, match="7 batch rows for 8 devices"):
        blocked_cross_entropy(
            *(hidden[:7], kernel, targets[:7], weights[:7]),
            **dict(z_loss=0.0, label_smoothing=0.0, mesh=mesh, batch_axes=("data",)),
        )


def test_normalised_over_groups_of_rows_as_megatron_does():
    """Every micro-batch of two rows is divided by its own weight; four rows, three examples."""
    batch = {
        "decoder_target_tokens": jnp.full((4, 4), 7),
        "decoder_loss_weights": jnp.array([[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1], [0] * 4]),
        "decoder_segment_ids": jnp.array([[1, 1, 1, 0], [1, 2, 2, 2], [1, 1, 1, 1], [0] * 4]),
    }
    weights, divisor = losses.normalized_weights(batch, "AVERAGE_PER_SEQUENCE", 2)
    third, half = 1 / 3, 1 / 2
    wanted = [[0, third / 2, third / 2, 0], [third, 0, 0, third], [0, 0, half, half], [0] * 4]
    np.testing.assert_allclose(weights, wanted, rtol=1e-6)
    assert float(divisor) == 2
    # Rows of padding alone are no group.
    assert float(losses.normalized_weights(batch, None, 1)[1]) == 3
    with pytest.raises(UserError, match="normalize_over_rows is 0"):
        losses.LossConfig(normalize_over_rows=0)
    with pytest.raises(UserError, match="BATCH_SIZE is 6 and .*multiple of 4"):
        losses.LossConfig(normalize_over_rows=4).check_batch_size(6)
