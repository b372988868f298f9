"""Layers that share one program: their parameters lie stacked on axis 0 and a scan runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from mt0_tpu.models.layers import KERNEL_PRODUCT

REMAT_POLICIES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "minimal": jax.checkpoint_policies.save_only_these_names(KERNEL_PRODUCT),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def scan_layers(body: Callable, length: int, remat_policy: str = "none") -> Callable:
    """Runs body(layer module, carry, xs) -> (carry, ys) over the stacked parameters of `layer`."""
    if remat_policy != "none":
        # Inside a scan the barrier against common-subexpression elimination is not needed.
        body = nn.remat(body, policy=REMAT_POLICIES[remat_policy], prevent_cse=False)
    return nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
