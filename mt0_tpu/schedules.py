"""Learning-rate schedules written as T5X's factor strings."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mt0_tpu.errors import UserError, did_you_mean

FACTORS = (
    "constant",
    "linear_warmup",
    "linear_decay",
    "rsqrt_decay",
    "rsqrt_normalized_decay",
    "decay_every",
    "cosine_decay",
)
_DIVIDE_BY_WARMUP = ("linear_warmup", "linear_decay", "rsqrt_decay", "rsqrt_normalized_decay")


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """A product of factors of the absolute step; finetuning is 'constant' at 1e-3.

    Pretraining of mT5 is 'constant * rsqrt_decay' with base_learning_rate 1.0 and warmup_steps
    10000. `step` counts from the start of pretraining, so a finetuning run from the published
    checkpoints begins at 1,000,000; `step_offset` is subtracted first.

    Raises:
      UserError: a factor is unknown or a number makes no schedule.
    """

    factors: str = "constant"
    base_learning_rate: float = 1e-3
    warmup_steps: int = 1000
    decay_factor: float = 0.5
    steps_per_decay: int = 20_000
    steps_per_cycle: int = 100_000
    step_offset: int = 0
    min_learning_rate: float = 1e-8

    def __post_init__(self) -> None:
        if not isinstance(self.factors, str):
            raise UserError(
                f"LearningRate.factors is {self.factors!r}; write a string of factors joined by"
                f" '*', e.g. 'constant * linear_warmup'."
            )
        for name in self.names:
            if name not in FACTORS:
                raise UserError(
                    f"LearningRate.factors names '{name}', which is no factor;"
                    f" known: {', '.join(FACTORS)}.{did_you_mean(name, FACTORS)}"
                )
        if self.base_learning_rate < 0:
            raise UserError(
                f"LearningRate.base_learning_rate is {self.base_learning_rate}; it must be >= 0."
            )
        needed = {"steps_per_decay": "decay_every", "steps_per_cycle": "cosine_decay"}
        for field, factor in needed.items():
            if factor in self.names and getattr(self, field) < 1:
                raise UserError(
                    f"LearningRate.{field} is {getattr(self, field)}; '{factor}' divides by it,"
                    f" so write 1 or more."
                )
        dividing = [name for name in self.names if name in _DIVIDE_BY_WARMUP]
        if dividing and self.warmup_steps < 1:
            raise UserError(
                f"LearningRate.warmup_steps is {self.warmup_steps}; '{dividing[0]}' divides by it,"
                f" so write 1 or more, or leave the factor out."
            )

    @property
    def names(self) -> list[str]:
        """The factors in the order written."""
        return [name.strip() for name in self.factors.split("*")]

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """Returns the float32 learning rate of absolute `step` (T5X facts, section 3.6)."""
        # Steps below 2^24 are exact in float32.
        step = jnp.maximum(jnp.asarray(step).astype(jnp.float32) - self.step_offset, 0.0)
        rate = jnp.float32(1.0)
        for name in self.names:
            rate = rate * self._factor(name, step)
        return jnp.maximum(rate, self.min_learning_rate).astype(jnp.float32)

    def _factor(self, name: str, step: jax.Array) -> jax.Array | float:
        warmup = float(self.warmup_steps)
        if name == "constant":
            return self.base_learning_rate
        if name == "linear_warmup":
            return jnp.minimum(1.0, step / warmup)
        if name == "linear_decay":
            # Carries the base rate by itself, as in T5X: do not combine it with 'constant'.
            down = 1.0 + self.decay_factor * (warmup - step)
            return self.base_learning_rate * jnp.minimum(step / warmup, down)
        if name == "rsqrt_decay":
            return jax.lax.rsqrt(jnp.maximum(step, warmup))
        if name == "rsqrt_normalized_decay":
            return jnp.sqrt(warmup / jnp.maximum(step, warmup))
        if name == "decay_every":
            return jnp.float32(self.decay_factor) ** (step // self.steps_per_decay)
        progress = jnp.maximum(0.0, (step - warmup) / float(self.steps_per_cycle))
        return jnp.maximum(0.0, 0.5 * (1.0 + jnp.cos(jnp.pi * (progress % 1.0))))
