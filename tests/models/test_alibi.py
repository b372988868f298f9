"""ALiBi: the slopes of Press et al. and what they add to the logits."""

import jax.numpy as jnp
import numpy as np

from mt0_tpu.models import alibi
from mt0_tpu.models.attention import MASKED


def test_slopes(golden):
    with np.load(golden / "bloom_tiny" / "alibi_slopes.npz") as wanted:
        assert set(wanted) == {"4", "6", "8", "12", "16", "112"}
        for heads, slopes in wanted.items():
            np.testing.assert_allclose(alibi.slopes(int(heads)), slopes, rtol=0, atol=6e-8)


def test_a_power_of_two_halves_evenly():
    np.testing.assert_array_equal(alibi.slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_array_equal(alibi.slopes(1), np.float32([2.0**-8]))


def test_the_bias_is_slope_times_distance_where_visible():
    visible = jnp.array([[[1, 0, 0], [1, 1, 0], [0, 1, 1]]], bool)
    positions = jnp.array([[0, 1, 2]])
    bias = alibi.distance_bias(np.float32([1.0, 0.5]), positions, positions, visible)
    no = MASKED
    np.testing.assert_array_equal(
        bias[0],
        np.float32([
            [[0, no, no], [-1, 0, no], [no, -1, 0]],
            [[0, no, no], [-0.5, 0, no], [no, -0.5, 0]],
        ]),
    )  # fmt: skip
