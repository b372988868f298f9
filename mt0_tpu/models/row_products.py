"""Products of a few rows with a kernel that lies in blocks of columns, for a CPU's decode steps.

A step of four rows does little but read kernels, mT5's head of half a gigabyte above all. XLA's
product on a CPU takes two to three times what that reading takes; where blocks are given beside the
parameters (decode_weights.py makes them), row_kernel.py computes the same products at the speed of
memory.

Collections of variables: KERNEL_BLOCKS holds [L, N, D, C] float32 in the place of a kernel
[L, D, F], one whole stack for all layers; LAYER holds each layer's number in that stack.

Letters: R rows, L layers of a stack (1 without one), D width, F = N * C features, C = COLUMNS.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

COLUMNS = 32
# With more rows the arithmetic takes longer than the reading, and XLA's product has all cores.
MOST_ROWS = 8
KERNEL_BLOCKS, LAYER = "kernel_blocks", "layer_number"
TARGET = "mt0_row_product"


def from_blocks(module: nn.Module, name: str, x: jax.Array) -> jax.Array | None:
    """Returns x @ kernel, float32 [..., F], by the blocks that `module` was given of it.

    None where it was given none, x is not float32, or has more than MOST_ROWS rows.
    """
    if not module.has_variable(KERNEL_BLOCKS, name) or x.dtype != jnp.float32:
        return None
    rows = math.prod(x.shape[:-1])
    if not 0 < rows <= MOST_ROWS:
        return None
    blocks_LNDC = module.get_variable(KERNEL_BLOCKS, name)
    number = module.get_variable(LAYER, name)
    product_RF = row_product(x.reshape(rows, -1), blocks_LNDC, number)
    return product_RF.reshape(*x.shape[:-1], -1)


def row_product(x_RD: jax.Array, blocks_LNDC: jax.Array, number: jax.Array) -> jax.Array:
    """Returns float32 [R, F]: x times the kernel of layer `number` (int32, no dimension).

    The kernel's columns n * C .. n * C + C - 1 are block n. Runs on a CPU alone, after
    row_kernel.register().
    """
    _, count, _, columns = blocks_LNDC.shape
    result = jax.ShapeDtypeStruct((x_RD.shape[0], count * columns), jnp.float32)
    return jax.ffi.ffi_call(TARGET, result)(x_RD, blocks_LNDC, number)
