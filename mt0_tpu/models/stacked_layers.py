"""Layers that share one program: their parameters lie stacked on axis 0 and a scan runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from mt0_tpu.models import row_products
from mt0_tpu.models.layers import KERNEL_PRODUCT

_LAYER_INPUT = "layer_input"
REMAT_POLICIES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "minimal": jax.checkpoint_policies.save_only_these_names(KERNEL_PRODUCT),
    "full": jax.checkpoint_policies.nothing_saveable,
    "minimal_offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_LAYER_INPUT, KERNEL_PRODUCT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def scan_layers(body: Callable, length: int, remat_policy: str = "none") -> Callable:
    """Runs body(layer module, carry, xs) -> (carry, ys) over the stacked parameters of `layer`."""
    if remat_policy != "none":

        def named(layer, carry, xs):
            # By a name of its own it can leave the device, which a plain input would not.
            return body(layer, checkpoint_name(carry, _LAYER_INPUT), xs)

        # Inside a scan the barrier against common-subexpression elimination is not needed.
        run = nn.remat(named, policy=REMAT_POLICIES[remat_policy], prevent_cse=False)
    else:
        run = body
    return nn.scan(
        run,
        variable_axes={"params": 0, row_products.LAYER: 0},
        variable_broadcast=row_products.KERNEL_BLOCKS,
        split_rngs={"params": True},
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
