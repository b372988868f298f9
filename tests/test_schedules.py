"""T5X's factor strings."""

import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.schedules import LearningRate

STEPS = (0, 1, 500, 1000, 1001, 9_999, 10_000, 40_000, 123_456, 1_000_000, 1_007_000)


def reference(step, factors, base, warmup, decay_factor, per_decay, per_cycle, floor):
    """T5X facts 3.6, in Python floats."""
    rate = 1.0
    for name in factors.split(" * "):
        rate *= {
            "constant": lambda: base,
            "linear_warmup": lambda: min(1.0, step / warmup),
            "linear_decay": lambda: base * min(step / warmup, 1.0 + decay_factor * (warmup - step)),
            "rsqrt_decay": lambda: max(step, warmup) ** -0.5,
            "rsqrt_normalized_decay": lambda: (warmup / max(step, warmup)) ** 0.5,
            "decay_every": lambda: decay_factor ** (step // per_decay),
            "cosine_decay": lambda: max(
                0.0, 0.5 * (1 + np.cos(np.pi * (max(0.0, (step - warmup) / per_cycle) % 1.0)))
            ),
        }[name]()
    return max(rate, floor)


@pytest.mark.parametrize(
    "factors",
    [
        "constant",
        "constant * linear_warmup * rsqrt_decay",
        "constant * rsqrt_decay",
        "constant * rsqrt_normalized_decay",
        "constant * linear_warmup * decay_every",
        "constant * cosine_decay",
        "linear_decay",
    ],
)
def test_factors(factors):
    rate = LearningRate(factors, 0.5, 10_000, 1e-6, 20_000, 100_000, min_learning_rate=1e-8)
    for step in STEPS:
        want = reference(step, factors, 0.5, 10_000, 1e-6, 20_000, 100_000, 1e-8)
        got = rate(jnp.int32(step))
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=5e-5, err_msg=f"{factors} at {step}")


def test_mt5_pretraining_rates():
    rate = LearningRate("constant * rsqrt_decay", 1.0, warmup_steps=10_000)
    np.testing.assert_allclose(rate(3), 0.01, rtol=1e-6)
    np.testing.assert_allclose(rate(1_000_000), 0.001, rtol=1e-6)


def test_default_is_finetuning():
    np.testing.assert_allclose(LearningRate()(1_000_000), 1e-3, rtol=1e-7)


def test_step_offset_and_floor():
    rate = LearningRate("constant * linear_warmup", 1.0, 10, step_offset=1_000_000)
    np.testing.assert_allclose(rate(1_000_005), 0.5, rtol=1e-6)
    np.testing.assert_allclose(rate(7), 1e-8, rtol=1e-6)


def test_unknown_factor_suggests_the_near_one():
    with pytest.raises(UserError, match="Did you mean 'linear_warmup'"):
        LearningRate("constant * linear_warmpu")


@pytest.mark.parametrize(
    "fields",
    [
        dict(factors="linear_warmup", warmup_steps=0),
        dict(factors="decay_every", steps_per_decay=0),
        dict(factors="cosine_decay", steps_per_cycle=0),
        dict(base_learning_rate=-1.0),
        dict(factors=0.001),
    ],
)
def test_impossible_schedules(fields):
    with pytest.raises(UserError, match="LearningRate"):
        LearningRate(**fields)


def test_no_warmup_needed_where_nothing_divides_by_it():
    assert LearningRate("constant", 0.1, warmup_steps=0)(0) == jnp.float32(0.1)
