"""The shape and numerics of a network, checked where they are written down."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from mt0_tpu.models.layers import ACTIVATIONS
from mt0_tpu.models.stacked_layers import REMAT_POLICIES

DTYPES = ("bfloat16", "float32")


class _ChecksItself:
    """What every network's dataclass checks and offers; a mistake is a ValueError."""

    # Whether inputs and targets share one row and one tower; decides the layout of batches.
    decoder_only: ClassVar[bool]
    _float16: ClassVar[str] = "float16 gradients need loss scaling, which there is not"

    def _check_shape_and_numerics(self) -> None:
        # gin sometimes hands over jnp.float32 itself.
        if not isinstance(self.dtype, str):
            object.__setattr__(self, "dtype", np.dtype(self.dtype).name)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                _check_positive(f"{self._name}.{field.name}", value)
            elif field.type == "bool" and not isinstance(value, bool):
                raise ValueError(f"{self._name}.{field.name} is {value!r}: write True or False.")
        if self.dtype in ("float16", "fp16", "half"):
            raise ValueError(
                f"{self._name}.dtype is {self.dtype!r}: {self._float16}; write 'bfloat16' or "
                "'float32'."
            )
        self._check_choice("dtype", self.dtype, DTYPES)
        self._check_choice("remat_policy", self.remat_policy, REMAT_POLICIES)
        if self.attention_query_block is not None:
            _check_positive(f"{self._name}.attention_query_block", self.attention_query_block)
        rate = self.dropout_rate
        if not isinstance(rate, int | float) or not 0.0 <= rate < 1.0:
            raise ValueError(
                f"{self._name}.dropout_rate is {rate!r}: write a number in [0, 1), such as 0.1."
            )

    def _check_choice(self, name: str, value: Any, known: Any) -> None:
        if value in known:
            return
        near = difflib.get_close_matches(str(value), list(known), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        choices = ", ".join(f"'{choice}'" for choice in known)
        raise ValueError(f"{self._name}.{name} is {value!r}: write one of {choices}.{hint}")

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def jax_dtype(self) -> jnp.dtype:
        """The dtype of activations as an object."""
        return jnp.dtype(self.dtype)


@dataclasses.dataclass(frozen=True)
class T5Config(_ChecksItself):
    """Shape and numerics of a T5 network; it checks itself and raises ValueError.

    Parameters are always float32; `dtype` is that of activations and of the residual stream.
    `remat_policy`: 'none' keeps what the backward pass needs, 'minimal' recomputes all but the
    products with kernels, 'full' keeps only the input of each layer, 'minimal_offload' what
    'minimal' keeps, but in the host's memory. `sequence_parallel` cuts the residual stream between
    layers along its length over the devices that share heads: a quarter of its memory on four of
    them, for more traffic. `attention_query_block` is the most queries whose attention logits
    exist at a time (None: all those of a row).
    """

    decoder_only: ClassVar[bool] = False
    _float16: ClassVar[str] = "mT5 overflows float16"

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
    sequence_parallel: bool = False
    attention_query_block: int | None = None

    def __post_init__(self) -> None:
        # gin hands over lists.
        if not isinstance(self.mlp_activations, str):
            object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        self._check_shape_and_numerics()
        if isinstance(self.mlp_activations, str) or not self.mlp_activations:
            raise ValueError(
                f"T5Config.mlp_activations is {self.mlp_activations!r}: write a tuple of names "
                "such as ('gelu', 'linear')."
            )
        for name in self.mlp_activations:
            self._check_choice("mlp_activations", name, ACTIVATIONS)
        self._check_relative_attention()

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


@dataclasses.dataclass(frozen=True)
class BloomConfig(_ChecksItself):
    """Shape and numerics of a BLOOM network; it checks itself and raises ValueError.

    `dtype`, `remat_policy` and `attention_query_block` mean what they do for T5Config.
    `mlp_dim` None is 4 * emb_dim.
    `residual_post_layernorm` takes the residual from a layer norm's output (Hugging Face's
    apply_residual_connection_post_layernorm; False in every published BLOOM).
    `inputs_bidirectional_attention` lets inputs see each other both ways (a prefix LM; T5X's name).
    """

    decoder_only: ClassVar[bool] = True

    vocab_size: int
    emb_dim: int
    num_heads: int
    num_layers: int
    mlp_dim: int | None = None
    layer_norm_epsilon: float = 1e-5
    residual_post_layernorm: bool = False
    inputs_bidirectional_attention: bool = False
    dropout_rate: float = 0.0
    dtype: str = "bfloat16"
    remat_policy: str = "none"
    attention_query_block: int | None = None

    def __post_init__(self) -> None:
        self._check_shape_and_numerics()
        if self.emb_dim % self.num_heads:
            raise ValueError(
                f"BloomConfig.emb_dim is {self.emb_dim} and num_heads {self.num_heads}: every head "
                "is emb_dim / num_heads wide; write an emb_dim that is a multiple of num_heads."
            )
        if self.mlp_dim is None:
            object.__setattr__(self, "mlp_dim", 4 * self.emb_dim)
        _check_positive("BloomConfig.mlp_dim", self.mlp_dim)
        epsilon = self.layer_norm_epsilon
        if not isinstance(epsilon, float) or not epsilon > 0:
            raise ValueError(
                f"BloomConfig.layer_norm_epsilon is {epsilon!r}: write a number > 0, such as 1e-5."
            )

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.emb_dim // self.num_heads


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}: write a whole number of at least 1.")
