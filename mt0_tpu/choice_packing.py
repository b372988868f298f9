"""Answer choices in rows: which examples share a row, and the arrays of a batch.

An input is read once, whatever the number of its choices, and several inputs share a row, told
apart by segment ids. How a row is laid out is the network's: encoder_choice_rows.py or
prefix_choice_rows.py. Both count their targets, the tokens of all choices of a row, end to end.

Letters: B rows, T row length of the inputs, S targets of a row, W batch shards of the mesh, N
targets of a shard whose logits are computed, Q targets that share the logits of another, P = B * S.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np

from mt0_tpu import encoder_choice_rows, prefix_choice_rows
from mt0_tpu.data import packing
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.models.networks import NetworkConfig
from mt0_tpu.text_vocabulary import EOS_ID

Example = tuple[Sequence[int], Sequence[Sequence[int]]]
_ROW_STEP = 16


def layout_of(config: NetworkConfig) -> ModuleType:
    """Returns the room that lays out the rows of this kind of network."""
    return prefix_choice_rows if config.decoder_only else encoder_choice_rows


def row_length(layout: ModuleType, inputs: int, targets: int) -> int:
    """Returns T of a row that holds one input and one choice of these lengths."""
    return _round_up(layout.row_tokens(range(inputs), [range(targets)]), _ROW_STEP)


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """Examples of like length, packed in rows of one shape; each group compiles once.

    Attributes:
      rows: example numbers of each row.
      batch_rows: B.
      lengths: (T, S).
      counted, repeated: N and Q, the most that any batch needs.
      share: whether tokens that follow the same tokens share logits; otherwise Q is 0.
      layout: how a row is laid out.
    """

    rows: list[np.ndarray]
    batch_rows: int
    lengths: tuple[int, int]
    ways: int
    counted: int
    repeated: int
    share: bool
    layout: ModuleType

    def batches(self, examples: Sequence[Example]) -> Iterator[Batch]:
        """Fills the rows with tokens, batch by batch."""
        for first in range(0, len(self.rows), self.batch_rows):
            yield _fill(self, self.rows[first : first + self.batch_rows], examples)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Arrays of one step, and where in its P positions the choices lie.

    Attributes:
      features: model features [B, T] and [B, S]; counted_WN, targets of a shard whose logits
        are wanted, -1 where it is filled up; first_Q and repeated_Q, targets that follow the
        same tokens, so that their logits are the same (equal where filled up).
      owner, number, start, length: of each choice its example, its index there, its first
        target and its tokens.
    """

    features: dict[str, np.ndarray]
    owner: np.ndarray
    number: np.ndarray
    start: np.ndarray
    length: np.ndarray

    def scores(self, log_probs_WN: np.ndarray, difference_Q: np.ndarray) -> np.ndarray:
        """Returns the float64 sum over each choice's tokens.

        Args:
          log_probs_WN: at counted_WN.
          difference_Q: log p of the target at repeated_Q minus that at first_Q.
        """
        counted_WN = self.features["counted_WN"]
        first_Q, repeated_Q = self.features["first_Q"], self.features["repeated_Q"]
        positions = self.features["decoder_target_tokens"].size
        by_shard = np.zeros((len(counted_WN), positions // len(counted_WN)))
        shard, column = np.nonzero(counted_WN >= 0)
        by_shard[shard, counted_WN[shard, column]] = log_probs_WN[shard, column]
        flat_P = by_shard.reshape(-1)
        real = repeated_Q != first_Q
        flat_P[repeated_Q[real]] = (flat_P[first_Q] + difference_Q)[real]
        return self._sums(flat_P)

    def greedy(self, correct_WN: np.ndarray) -> np.ndarray:
        """Returns whether every token of each choice is the most likely one, as bool.

        Args:
          correct_WN: whether the target at counted_WN is; of a batch that shares no logits.
        """
        counted_WN = self.features["counted_WN"]
        by_shard = np.zeros(
            (len(counted_WN), self.features["decoder_target_tokens"].size // len(counted_WN))
        )
        shard, column = np.nonzero(counted_WN >= 0)
        by_shard[shard, counted_WN[shard, column]] = correct_WN[shard, column]
        return self._sums(by_shard.reshape(-1)) == self.length

    def _sums(self, values_P: np.ndarray) -> np.ndarray:
        """Returns the sum over each choice's tokens."""
        sums = np.concatenate([[0.0], np.cumsum(values_P)])
        return sums[self.start + self.length] - sums[self.start]


def checked(
    examples: Sequence[Example],
    max_input: int | None,
    max_choice: int | None,
    overlong: str,
    min_choices: int = 2,
    eos_id: int | None = EOS_ID,
) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Returns the examples as arrays, cut to the lengths; refuses what cannot be ranked."""
    if overlong not in ("trim", "error"):
        near = did_you_mean(overlong, ("trim", "error"))
        raise UserError(f"overlong is {overlong!r}; write 'trim' or 'error'.{near}")
    cut_inputs = cut_choices = 0
    result = []
    for number, (ids, choices) in enumerate(examples):
        if len(choices) < min_choices:
            raise UserError(
                f"example {number} has {len(choices)} choices; rank classification compares two "
                "or more"
            )
        if not len(ids):
            raise UserError(f"example {number} has an empty input; give it at least one token")
        lengths = [len(choice) for choice in choices]
        if not min(lengths):
            raise UserError(
                f"example {number}: choice {lengths.index(0)} is empty; write its text, or end "
                "it with EOS"
            )
        long = [("input", len(ids), max_input), ("choice", max(lengths), max_choice)]
        for what, length, limit in long:
            if overlong == "error" and limit is not None and length > limit:
                raise UserError(
                    f"example {number}: its {what} has {length} tokens and the limit is {limit}; "
                    "raise task_feature_lengths or allow overlong='trim'"
                )
        cut_inputs += max_input is not None and len(ids) > max_input
        cut_choices += sum(max_choice is not None and length > max_choice for length in lengths)
        trimmed = [_trim(choice, max_choice, eos_id) for choice in choices]
        result.append((_trim(ids, max_input, eos_id), trimmed))
    cut = []
    if cut_inputs:
        cut.append(f"{cut_inputs} of {len(examples)} inputs were cut to {max_input} tokens")
    if cut_choices:
        verb = "" if cut else "were cut "
        cut.append(f"{cut_choices} choices {verb}to {max_choice}")
    if cut:
        logging.warning("%s", " and ".join(cut))
    return result


def _trim(ids: Sequence[int], limit: int | None, eos_id: int | None) -> np.ndarray:
    ids = np.asarray(ids, np.int32)
    if limit is None or len(ids) <= limit:
        return ids
    if eos_id is not None and ids[-1] == eos_id:
        return np.append(ids[: limit - 1], np.int32(eos_id))
    return ids[:limit]


def plan(
    config: NetworkConfig,
    examples: Sequence[Example],
    batch_size: int,
    ways: int = 1,
    share: bool = True,
) -> list[RowGroup]:
    """Packs the examples in rows; few shapes, little padding.

    Args:
      ways: a batch has a multiple of this many rows.
      share: whether tokens that follow the same tokens share logits.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; write 1 or more")
    layout = layout_of(config)
    inputs_n = np.array([layout.row_tokens(*example) for example in examples], np.int64)
    targets_n = np.array([sum(map(len, choices)) for _, choices in examples], np.int64)
    groups = []
    for members in _length_classes(inputs_n, batch_size):
        shape, row_n = _best_shape(config, inputs_n[members], targets_n[members])
        order = np.argsort(row_n, kind="stable")
        cuts = np.flatnonzero(np.diff(row_n[order])) + 1
        rows = np.split(members[order], cuts)
        wanted = max(1, round(batch_size * len(rows) / len(members)))
        # Equal batches: the last one of a group is not mostly padding.
        batch_rows = -(-len(rows) // -(-len(rows) // wanted))
        batch_rows = _round_up(batch_rows, ways)
        counted, repeated = _most(rows, batch_rows, batch_rows // ways, examples, share)
        groups.append(RowGroup(rows, batch_rows, shape, ways, counted, repeated, share, layout))
    return groups


def _most(
    rows: Sequence[np.ndarray],
    batch_rows: int,
    shard_rows: int,
    examples: Sequence[Example],
    share: bool,
) -> tuple[int, int]:
    """Returns the most counted positions of a shard, and the most repeated ones of a batch."""
    repeated = np.zeros(len(rows), np.int64)
    if share:
        repeated[:] = [sum(len(repeats(examples[one][1])) for one in row) for row in rows]
    total = np.array([sum(len(c) for one in row for c in examples[one][1]) for row in rows])
    counted = np.add.reduceat(total - repeated, np.arange(0, len(rows), shard_rows))
    by_batch = np.add.reduceat(repeated, np.arange(0, len(rows), batch_rows))
    return _round_up(int(counted.max()), 8), int(by_batch.max())


def _length_classes(inputs_n: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Splits example numbers by powers of two of the row that an input takes.

    A class too small to fill four batches goes along with the next longer one: a shape of its
    own would cost more to compile than it saves.
    """
    power_n = np.ceil(np.log2(np.maximum(inputs_n, 32))).astype(int)
    classes, carried = [], np.empty(0, np.int64)
    present = np.unique(power_n)
    for power in present:
        carried = np.concatenate([carried, np.flatnonzero(power_n == power)])
        if len(carried) >= 4 * batch_size or power == present[-1]:
            classes.append(carried)
            carried = np.empty(0, np.int64)
    return classes


def _best_shape(
    config: NetworkConfig, inputs_n: np.ndarray, targets_n: np.ndarray
) -> tuple[tuple[int, int], np.ndarray]:
    """Tries rows of one, two, four ... longest inputs; returns ((T, S), row of each example)."""
    best, row_cost = None, layout_of(config).row_cost
    ratio = targets_n.sum() / inputs_n.sum()
    for multiple in (1, 2, 4, 8):
        length = _round_up(int(inputs_n.max()) * multiple, _ROW_STEP)
        if multiple > 1 and (length > 1024 or length > inputs_n.sum() + 16):
            break
        room = min(int(length * ratio * 1.05), int(targets_n.sum()))
        targets = max(int(targets_n.max()), room)
        row_n = packing.pack(inputs_n, targets_n, (length, targets))
        # What no row uses is cut off again.
        length = _round_up(int(np.bincount(row_n, inputs_n).max()), _ROW_STEP)
        targets = _round_up(int(np.bincount(row_n, targets_n).max()), 8)
        cost = (int(row_n.max()) + 1) * row_cost(config, length, targets)
        if best is None or cost < best[0]:
            best = (cost, (length, targets), row_n)
    return best[1], best[2]


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def repeats(choices: Sequence[np.ndarray]) -> np.ndarray:
    """Returns [repeats, 2]: (place, first place) of tokens that follow the same tokens as one of
    an earlier choice; places count the tokens of all choices end to end."""
    found, place = [], 0
    first_after: dict[bytes, int] = {}
    for choice in choices:
        raw = choice.tobytes()
        for offset in range(len(choice)):
            first = first_after.setdefault(raw[: offset * choice.itemsize], place)
            if first != place:
                found.append((place, first))
            place += 1
    return np.array(found, np.int64).reshape(-1, 2)


def _fill(group: RowGroup, rows: Sequence[np.ndarray], examples: Sequence[Example]) -> Batch:
    shape = (group.batch_rows, *group.lengths)
    row_targets = shape[2]
    targets_BS = np.zeros((group.batch_rows, row_targets), np.int32)
    counted_P = np.zeros(targets_BS.size, bool)
    pairs, choices = [], []
    for row, members in enumerate(rows):
        at = 0
        for member in members:
            its_choices = examples[member][1]
            base = row * row_targets + at
            pairs.append(repeats(its_choices if group.share else ()) + base)
            for number, choice in enumerate(its_choices):
                start = row * row_targets + at
                targets_BS[row, at : at + len(choice)] = choice
                counted_P[start : start + len(choice)] = True
                choices.append((member, number, start, len(choice)))
                at += len(choice)
    first_Q, repeated_Q = np.zeros((2, group.repeated), np.int32)
    found = np.concatenate(pairs)
    repeated_Q[: len(found)], first_Q[: len(found)] = found.T
    counted_P[found[:, 0]] = False
    features = {
        **group.layout.features(shape, rows, examples),
        "decoder_target_tokens": targets_BS,
        "counted_WN": _positions(counted_P.reshape(group.ways, -1), group.counted),
        "first_Q": first_Q,
        "repeated_Q": repeated_Q,
    }
    return Batch(features, *np.array(choices, np.int64).T)


def _positions(mask: np.ndarray, width: int) -> np.ndarray:
    """Returns int32 [len(mask), width]: where each row is true, then -1."""
    result = np.full((len(mask), width), -1, np.int32)
    for row, true in enumerate(mask):
        where = np.flatnonzero(true)
        result[row, : len(where)] = where
    return result
