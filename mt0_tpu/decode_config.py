"""How to decode: the method and its settings, checked where they are written down. No jax."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mt0_tpu.errors import UserError, did_you_mean

METHODS = ("greedy", "sample", "beam")
_LARGEST_SEED = 2**32 - 1

# Fields that only these methods read; another value than the default would be ignored silently.
_OF_METHODS = {
    "num_decodes": ("sample", "beam"),
    "alpha": ("beam",),
    "temperature": ("sample",),
    "top_k": ("sample",),
    "top_p": ("sample",),
    "rescale_log_probs": ("sample",),
    "seed": ("sample",),
}


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """How ids are chosen; it checks itself and raises UserError.

    Attributes:
      method: 'greedy' (the most likely token each time), 'sample' or 'beam'.
      num_decodes: beams, or samples of each input.
      alpha: beam: scores are log p / ((5 + n) / 6)**alpha for n tokens, EOS included.
      temperature: sample: logits are divided by it; below 1e-4 the most likely token is taken.
      top_k: sample: from the k most likely tokens (and those that tie); 0: from all.
      top_p: sample: from the fewest likely tokens that hold this much probability; 0: from all.
      seed: sample: what is drawn depends on the seed, the number of the input and the number of
        the decode, not on batches, shards or what was done before.
      rescale_log_probs: sample: scores are of the distribution drawn from, after temperature,
        top_k and top_p; otherwise of the network's own.
    """

    method: str = "greedy"
    num_decodes: int = 1
    alpha: float = 0.6
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    seed: int = 0
    rescale_log_probs: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(
                f"DecodeConfig.method is {self.method!r}; write 'greedy', 'sample' or "
                f"'beam'.{did_you_mean(str(self.method), METHODS)}"
            )
        self._check_whole("num_decodes", 1, "a whole number from 1")
        self._check_whole("top_k", 0, "0 for all tokens, or how many of them")
        self._check_whole("seed", 0, f"a whole number from 0 to {_LARGEST_SEED}", _LARGEST_SEED)
        self._check_number("alpha", 0.0, math.inf, "0 or more, such as 0.6")
        self._check_number("temperature", 0.0, math.inf, "0 (the most likely token) or more")
        self._check_number("top_p", 0.0, 1.0, "0 for all tokens, or a probability up to 1")
        if not isinstance(self.rescale_log_probs, bool):
            raise UserError(
                f"DecodeConfig.rescale_log_probs is {self.rescale_log_probs!r}; write True or False"
            )
        if self.top_k and self.top_p:
            raise UserError(
                f"DecodeConfig.top_k is {self.top_k} and top_p {self.top_p}; give one of them and "
                "leave the other 0"
            )
        self._check_of_method()

    def _check_of_method(self) -> None:
        for field in dataclasses.fields(self):
            readers = _OF_METHODS.get(field.name, METHODS)
            value = getattr(self, field.name)
            if self.method not in readers and value != field.default:
                wanted = " or ".join(f"'{one}'" for one in readers)
                raise UserError(
                    f"DecodeConfig.{field.name} is {value!r}, but method {self.method!r} does not "
                    f"read it; write method {wanted}, or leave it {field.default!r}"
                )

    def _check_whole(self, name: str, least: int, wanted: str, most: float = math.inf) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise UserError(f"DecodeConfig.{name} is {value!r}; write {wanted}")

    def _check_number(self, name: str, least: float, most: float, wanted: str) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value <= most or math.isinf(value):
            raise UserError(f"DecodeConfig.{name} is {value!r}; write {wanted}")


def from_fields(fields: Mapping[str, Any], owner: str) -> DecodeConfig:
    """Returns the DecodeConfig of a mapping, such as the field `decode` of a task's facts.

    Args:
      owner: whose fields they are, for the message of a UserError.
    """
    known = [field.name for field in dataclasses.fields(DecodeConfig)]
    for name in fields:
        if name not in known:
            raise UserError(
                f"{owner} sets {name!r}, which DecodeConfig has not; it has {', '.join(known)}."
                f"{did_you_mean(str(name), known)}"
            )
    return DecodeConfig(**fields)
