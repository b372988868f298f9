"""The shape and numerics of a T5 network, checked where they are written down."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mt0_tpu.models.layers import ACTIVATIONS, KERNEL_PRODUCT

DTYPES = ("bfloat16", "float32")
REMAT_POLICIES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "minimal": jax.checkpoint_policies.save_only_these_names(KERNEL_PRODUCT),
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Shape and numerics of a T5 network; it checks itself and raises ValueError.

    Parameters are always float32; `dtype` is that of activations and of the residual stream.
    `remat_policy`: 'none' keeps what the backward pass needs, 'minimal' recomputes all but the
    products with kernels, 'full' keeps only the input of each layer.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.1
    dtype: str = "bfloat16"
    logits_via_embedding: bool = False
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    remat_policy: str = "none"

    def __post_init__(self) -> None:
        # gin hands over lists and sometimes jnp.float32 itself.
        if not isinstance(self.mlp_activations, str):
            object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        if not isinstance(self.dtype, str):
            object.__setattr__(self, "dtype", np.dtype(self.dtype).name)
        for field in dataclasses.fields(self):
            if field.type == "int":
                _check_positive(field.name, getattr(self, field.name))
        self._check_numerics()
        self._check_relative_attention()

    def _check_numerics(self) -> None:
        if self.dtype in ("float16", "fp16", "half"):
            raise ValueError(
                f"T5Config.dtype is {self.dtype!r}: mT5 overflows float16; write 'bfloat16' or "
                "'float32'."
            )
        _check_choice("dtype", self.dtype, DTYPES)
        _check_choice("remat_policy", self.remat_policy, REMAT_POLICIES)
        if isinstance(self.mlp_activations, str) or not self.mlp_activations:
            raise ValueError(
                f"T5Config.mlp_activations is {self.mlp_activations!r}: write a tuple of names "
                "such as ('gelu', 'linear')."
            )
        for name in self.mlp_activations:
            _check_choice("mlp_activations", name, ACTIVATIONS)
        rate = self.dropout_rate
        if not isinstance(rate, int | float) or not 0.0 <= rate < 1.0:
            raise ValueError(
                f"T5Config.dropout_rate is {rate!r}: write a number in [0, 1), such as 0.1."
            )

    def _check_relative_attention(self) -> None:
        buckets, distance = (
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        )
        if buckets % 4 or distance <= buckets // 2:
            raise ValueError(
                f"T5Config: relative_attention_num_buckets is {buckets} and "
                f"relative_attention_max_distance {distance}: write a multiple of 4 buckets and a "
                "distance above half of it, such as 32 and 128."
            )

    @property
    def jax_dtype(self) -> jnp.dtype:
        """The dtype of activations as an object."""
        return jnp.dtype(self.dtype)


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"T5Config.{name} is {value!r}: write a whole number of at least 1.")


def _check_choice(name: str, value: Any, known: Any) -> None:
    if value in known:
        return
    near = difflib.get_close_matches(str(value), list(known), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    choices = ", ".join(f"'{choice}'" for choice in known)
    raise ValueError(f"T5Config.{name} is {value!r}: write one of {choices}.{hint}")
