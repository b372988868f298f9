"""Products by blocks of columns: which they are taken for, and what comes out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import row_kernel
from mt0_tpu.models import row_products
from mt0_tpu.models.layers import Dense, Embed
from mt0_tpu.models.row_products import COLUMNS, KERNEL_BLOCKS, LAYER, MOST_ROWS

F32 = jnp.dtype("float32")


@pytest.fixture(scope="module", autouse=True)
def _registered():
    row_kernel.register()


def blocks_of(kernel_LDF):
    layers, depth, features = kernel_LDF.shape
    blocks_LNDC = np.empty((layers, features // COLUMNS, depth, COLUMNS), np.float32)
    row_kernel.lay_out(kernel_LDF, blocks_LNDC)
    return jnp.asarray(blocks_LNDC)


# More rows than MOST_ROWS are computed as well; only nobody asks for them.
@pytest.mark.parametrize("rows", [*range(1, 10), 13])
@pytest.mark.parametrize("depth", [1, 7, 64])
def test_product_is_the_kernels(rows, depth):
    rng = np.random.default_rng(rows * depth)
    x_RD = rng.normal(size=(rows, depth)).astype(np.float32)
    kernel_LDF = rng.normal(size=(3, depth, 5 * COLUMNS)).astype(np.float32)
    product = jax.jit(row_products.row_product)
    for layer in range(3):
        found_RF = product(jnp.asarray(x_RD), blocks_of(kernel_LDF), jnp.int32(layer))
        wanted_RF = x_RD.astype(np.float64) @ kernel_LDF[layer]
        np.testing.assert_allclose(found_RF, wanted_RF, rtol=1e-5, atol=1e-5)


def test_what_is_not_finite_stays_in_its_row_and_column():
    x_RD = np.zeros((3, 4), np.float32)
    x_RD[1, 2] = np.inf
    kernel_LDF = np.ones((1, 4, COLUMNS), np.float32)
    kernel_LDF[0, 3, 5] = np.nan
    found_RF = row_products.row_product(jnp.asarray(x_RD), blocks_of(kernel_LDF), jnp.int32(0))
    wanted_RF = np.zeros((3, COLUMNS))
    wanted_RF[1] = np.inf
    wanted_RF[:, 5] = np.nan
    np.testing.assert_array_equal(found_RF, wanted_RF)


def dense_with_blocks(dtype=F32):
    """A layer whose blocks are of another kernel: the result says which one was used."""
    layer = Dense(8, COLUMNS, ("embed", "mlp"), dtype, use_bias=True)
    params = {"kernel": jnp.zeros((8, COLUMNS)), "bias": jnp.full((COLUMNS,), 2.0)}
    blocks = blocks_of(np.ones((1, 8, COLUMNS), np.float32))
    return layer, {
        "params": params,
        KERNEL_BLOCKS: {"kernel": blocks},
        LAYER: {"kernel": jnp.int32(0)},
    }


@pytest.mark.parametrize(
    ("shape", "used"),
    [
        ((MOST_ROWS, 8), True),
        ((MOST_ROWS + 1, 8), False),
        ((2, 3, 8), True),
        ((3, 3, 8), False),
        ((0, 8), False),
    ],
)
def test_blocks_serve_a_few_rows(shape, used):
    layer, variables = dense_with_blocks()
    found = layer.apply(variables, jnp.ones(shape))
    np.testing.assert_array_equal(found, np.full((*shape[:-1], COLUMNS), 10.0 if used else 2.0))


def test_blocks_serve_float32_alone():
    layer, variables = dense_with_blocks(jnp.dtype("bfloat16"))
    found = layer.apply(variables, jnp.ones((2, 8)))
    assert found.dtype == jnp.bfloat16 and (found == 2).all()


def test_a_token_table_is_a_head_by_its_rows():
    table_VD = np.random.default_rng(0).normal(size=(2 * COLUMNS, 8)).astype(np.float32)
    blocks_1NDC = np.empty((1, 2, 8, COLUMNS), np.float32)
    row_kernel.lay_out_table(table_VD, blocks_1NDC)
    embed = Embed(2 * COLUMNS, 8, F32)
    variables = {
        "params": {"embedding": jnp.zeros((2 * COLUMNS, 8))},
        KERNEL_BLOCKS: {"embedding": jnp.asarray(blocks_1NDC)},
        LAYER: {"embedding": jnp.int32(0)},
    }
    hidden_RD = np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)
    found_RV = embed.apply(variables, jnp.asarray(hidden_RD), method="logits")
    np.testing.assert_allclose(found_RV, hidden_RD @ table_VD.T, rtol=1e-5, atol=1e-5)
