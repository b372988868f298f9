"""Span-length packing: which examples share a row, decided from lengths alone.

An example is a pair (input tokens, target tokens); a row holds at most `row_lengths` of each. In
a decoder-only row the pair is one span, and packing has one dimension.
Packing is planned for a whole window of examples, so it can afford to look at all of them.

Dims: n examples.
"""

from __future__ import annotations

import numba
import numpy as np

# Weights of the less scarce side in an example's size, and whether the scarce side steers the fit.
# No single rule wins on every mix of lengths; each costs 0.3 microseconds an example.
_RULES = ((0.5, True), (1.0, True), (1.0, False))


def pack(inputs_n: np.ndarray, targets_n: np.ndarray, row_lengths: tuple[int, int]) -> np.ndarray:
    """Assigns every example to a row, using nearly as few rows as `lower_bound`.

    Best fit decreasing in two dimensions: examples are placed largest first, each into the row
    with the least room left on one side that still holds both its sides. A few rules for
    "largest" and "side" are tried and the one with the fewest rows is kept.

    Args:
        inputs_n: input tokens of each example, at most row_lengths[0].
        targets_n: target tokens of each example, at most row_lengths[1].
        row_lengths: a row's (input, target) tokens.

    Returns:
        int32 row number of each example; numbers run from 0 without a gap.
    """
    sides = []
    for name, lengths_n, limit in zip(
        ("inputs", "targets"), (inputs_n, targets_n), row_lengths, strict=True
    ):
        lengths_n = np.ascontiguousarray(lengths_n, np.int64)
        if len(lengths_n) and not 0 <= lengths_n.min() <= lengths_n.max() <= limit:
            raise ValueError(f"{name} of {lengths_n.max()} tokens do not fit rows of {limit}")
        sides.append((lengths_n.sum() / limit, lengths_n, limit))
    (_, scarce_n, scarce_limit), (_, other_n, other_limit) = sorted(
        sides, key=lambda side: -side[0]
    )
    best = None
    for weight, by_scarce in _RULES:
        size_n = scarce_n / scarce_limit + weight * other_n / other_limit
        order_n = np.argsort(-size_n, kind="stable")
        if by_scarce:
            plan = _best_fit(order_n, scarce_n, other_n, scarce_limit, other_limit)
        else:
            plan = _best_fit(order_n, other_n, scarce_n, other_limit, scarce_limit)
        if best is None or plan[1] < best[1]:
            best = plan
    return best[0]


def pack_spans(spans_n: np.ndarray, row_length: int) -> np.ndarray:
    """Assigns spans of one dimension to rows: best fit, the longest first.

    Args:
        spans_n: positions of each example, at most row_length.
        row_length: positions of a row.

    Returns:
        int32 row number of each example; numbers run from 0 without a gap.
    """
    spans_n = np.ascontiguousarray(spans_n, np.int64)
    if len(spans_n) and not 0 <= spans_n.min() <= spans_n.max() <= row_length:
        raise ValueError(f"spans of {spans_n.max()} positions do not fit rows of {row_length}")
    order_n = np.argsort(-spans_n, kind="stable")
    return _best_fit(order_n, spans_n, np.zeros_like(spans_n), row_length, 0)[0]


def spans_lower_bound(spans_n: np.ndarray, row_length: int) -> int:
    """Returns a number of rows below which no packing of spans exists.

    For every length c: spans above row_length - c share no row with one of c or more, so the
    former take a row each and the middle ones fill what they leave (Martello and Toth 1990, L2).
    """
    counts = np.bincount(np.asarray(spans_n, np.int64), minlength=row_length + 1)
    tokens = np.cumsum(counts * np.arange(row_length + 1))
    above = len(spans_n) - np.cumsum(counts)  # spans longer than each length
    best = 0
    for c in range(row_length // 2 + 1):
        alone = int(above[row_length - c])
        halves = int(above[row_length // 2] - above[row_length - c])
        # The spans of c..half a row, less the room beside those of half a row to row_length - c.
        middle = tokens[row_length - c] - (tokens[c - 1] if c else 0)
        beside = halves * row_length
        best = max(best, alone + halves + max(0, -(-int(middle - beside) // row_length)))
    return best


def pack_in_order(
    inputs_n: np.ndarray, targets_n: np.ndarray, row_lengths: tuple[int, int]
) -> np.ndarray:
    """Assigns examples to rows in their order, a new row when either side is full (next fit)."""
    rows_n = np.empty(len(inputs_n), np.int32)
    row, room = -1, (-1, -1)
    for i, lengths in enumerate(zip(inputs_n.tolist(), targets_n.tolist(), strict=True)):
        if row < 0 or lengths[0] > room[0] or lengths[1] > room[1]:
            row, room = row + 1, row_lengths
        room = (room[0] - lengths[0], room[1] - lengths[1])
        rows_n[i] = row
    return rows_n


def lower_bound(inputs_n: np.ndarray, targets_n: np.ndarray, row_lengths: tuple[int, int]) -> int:
    """Returns a number of rows below which no packing exists.

    Rows that one side alone fills take nothing else (of examples with both sides), so they are
    counted apart; the rest need at least their tokens over the row's, on either side.
    """
    both_n = (inputs_n > 0) & (targets_n > 0)
    full_n = both_n & ((inputs_n == row_lengths[0]) | (targets_n == row_lengths[1]))
    rest = max(
        -(-int(inputs_n[~full_n].sum()) // row_lengths[0]),
        -(-int(targets_n[~full_n].sum()) // row_lengths[1]),
    )
    return int(full_n.sum()) + rest


@numba.njit(cache=True, nogil=True)
def _best_fit(order_n, first_n, second_n, first_limit, second_limit):
    """Best fit by the room left on the first side; returns (row of each example, rows)."""
    num = len(order_n)
    # Rows hang in one linked list for every amount of room left on the first side.
    head = np.full(first_limit + 1, -1, np.int64)
    following = np.empty(num, np.int64)
    first_room = np.empty(num, np.int64)
    second_room = np.empty(num, np.int64)
    row_n = np.empty(num, np.int32)
    rows = 0
    for i in order_n:
        found = -1
        for room in range(first_n[i], first_limit + 1):
            before = -1
            row = head[room]
            while row >= 0 and second_room[row] < second_n[i]:
                before = row
                row = following[row]
            if row >= 0:
                if before >= 0:
                    following[before] = following[row]
                else:
                    head[room] = following[row]
                found = row
                break
        if found < 0:
            found = rows
            rows += 1
            first_room[found] = first_limit
            second_room[found] = second_limit
        first_room[found] -= first_n[i]
        second_room[found] -= second_n[i]
        row_n[i] = found
        # A row full on the first side still takes examples without tokens there.
        following[found] = head[first_room[found]]
        head[first_room[found]] = found
    return row_n, rows
