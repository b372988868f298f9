"""Steps that run each time an example is drawn; T5's span corruption (Raffel et al. 2020, 3.1.4).

A step turns one cached sequence into an (inputs, targets) pair. The pair's lengths follow from the
sequence's length alone, so rows are packed before a token is read; what is drawn at random is
where the noise falls.

Dims: n examples, K noise spans.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numba
import numpy as np

from mt0_tpu.data.mixing import split_mix
from mt0_tpu.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """Masks random spans of `targets`; inputs keep the rest, targets get the spans.

    The sequence falls into kept and noise spans by turns, a kept one first. Inputs hold a sentinel
    for each noise span, targets the same sentinel and then the span. The mask is that of T5's
    `random_spans_noise_mask`: exactly the nearest number of tokens to the noise density, in
    exactly the number of spans the mean length asks for, all ways to cut equally likely.

    Attributes:
        first_sentinel: the id of the first span's sentinel; the next ones count down.
        noise_density: share of tokens that are masked.
        mean_noise_span_length: tokens of a noise span on average.
    """

    first_sentinel: int
    noise_density: float = 0.15
    mean_noise_span_length: float = 3.0

    source = "targets"
    shortest = 2  # one token to keep and one to mask

    def __post_init__(self):
        if not 0 < self.noise_density < 1:
            raise UserError(f"noise_density is {self.noise_density}; it lies between 0 and 1")
        if self.mean_noise_span_length < 1:
            raise UserError(
                f"mean_noise_span_length is {self.mean_noise_span_length}; it is at least 1"
            )

    def noise(self, lengths_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (noise tokens, noise spans) of sequences of these lengths, at least 2."""
        lengths_n = np.asarray(lengths_n, np.int64)
        tokens_n = np.rint(lengths_n * self.noise_density).astype(np.int64)
        tokens_n = np.clip(tokens_n, 1, np.maximum(lengths_n - 1, 1))
        spans_n = np.rint(tokens_n / self.mean_noise_span_length).astype(np.int64)
        # Every span needs a kept token before it: only dense noise can run short of those.
        return tokens_n, np.clip(spans_n, 1, np.maximum(lengths_n - tokens_n, 1))

    def lengths(self, lengths_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the (input, target) lengths, EOS not counted; (0, 0) where too short."""
        lengths_n = np.asarray(lengths_n, np.int64)
        tokens_n, spans_n = self.noise(lengths_n)
        long_n = lengths_n >= self.shortest
        inputs_n = np.where(long_n, lengths_n - tokens_n + spans_n, 0)
        return inputs_n, np.where(long_n, tokens_n + spans_n, 0)

    def longest(self, inputs_room: int, targets_room: int) -> int:
        """Returns the longest sequence whose inputs and targets fit, EOS not counted."""
        lengths_n = np.arange(self.shortest, 4 * (inputs_room + targets_room) + 8)
        inputs_n, targets_n = self.lengths(lengths_n)
        fits_n = (inputs_n <= inputs_room) & (targets_n <= targets_room)
        if not fits_n[0]:
            raise UserError(
                f"rows of {inputs_room} inputs and {targets_room} targets are too short for span "
                "corruption; raise TASK_FEATURE_LENGTHS"
            )
        # Lengths do not rise strictly with rounding: all shorter ones must fit as well.
        return int(lengths_n[-1] if fits_n.all() else lengths_n[np.argmin(fits_n) - 1])

    def apply(self, tokens: np.ndarray, key: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (inputs, targets) of one sequence; the key decides where the noise falls."""
        (inputs_length,), (targets_length,) = self.lengths(np.array([len(tokens)]))
        inputs = np.empty(inputs_length, np.int32)
        targets = np.empty(targets_length, np.int32)
        if inputs_length:
            (noise,), (spans,) = self.noise(np.array([len(tokens)]))
            corrupt(tokens, noise, spans, self.first_sentinel, np.uint64(key), inputs, targets)
        return inputs, targets


DRAW_STEPS = {"span_corruption": SpanCorruption}


def draw_step(description: Mapping[str, Any]) -> SpanCorruption:
    """Returns the step that a cache's info.json describes as {"name": …, its parameters}."""
    parameters = dict(description)
    name = parameters.pop("name", None)
    if name not in DRAW_STEPS:
        known = sorted(DRAW_STEPS)
        near = did_you_mean(str(name), known)
        raise UserError(f"no step named {name!r} runs at drawing; there are {known}.{near}")
    fields = [field.name for field in dataclasses.fields(DRAW_STEPS[name])]
    for parameter in parameters:
        if parameter not in fields:
            near = did_you_mean(parameter, fields)
            raise UserError(f"{name} has no parameter {parameter!r}; it has {fields}.{near}")
    return DRAW_STEPS[name](**parameters)


@numba.njit(cache=True, nogil=True)
def _cut(total, parts, state, ends):
    """Cuts `total` into `parts` positive parts, every way equally likely; writes their ends."""
    found = 0
    # Selection sampling (Knuth, Algorithm S): parts-1 of the total-1 places between tokens.
    for place in range(1, total):
        state += np.uint64(0x9E3779B97F4A7C15)
        chance = (split_mix(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
        if chance * (total - place) < parts - 1 - found:
            ends[found] = place
            found += 1
    ends[found] = total
    return state


@numba.njit(cache=True, nogil=True)
def corrupt(tokens, noise, spans, first_sentinel, key, inputs, targets):
    """Writes one sequence's inputs and targets, without EOS, into the two given arrays."""
    noise_ends = np.empty(spans, np.int64)
    kept_ends = np.empty(spans, np.int64)
    state = _cut(noise, spans, key, noise_ends)
    _cut(len(tokens) - noise, spans, state, kept_ends)
    read = 0
    wrote_inputs = 0
    wrote_targets = 0
    for span in range(spans):
        kept = kept_ends[span] - (kept_ends[span - 1] if span else 0)
        masked = noise_ends[span] - (noise_ends[span - 1] if span else 0)
        for _ in range(kept):
            inputs[wrote_inputs] = tokens[read]
            read += 1
            wrote_inputs += 1
        inputs[wrote_inputs] = first_sentinel - span
        targets[wrote_targets] = first_sentinel - span
        wrote_inputs += 1
        wrote_targets += 1
        for _ in range(masked):
            targets[wrote_targets] = tokens[read]
            read += 1
            wrote_targets += 1
