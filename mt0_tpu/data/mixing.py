"""Which example comes when: pure functions of (seed, position), so any window is reachable at once.

The stream of a mixture is cut into windows of a fixed number of examples. How many examples of a
task a window holds is systematic sampling: tasks lie end to end on a line, each as long as its
share of the window, and take as many examples as there are points u + 0, u + 1, … on their
stretch. So a window has exactly its number of examples and each task the floor or ceiling of its
share; u runs through the van der Corput sequence, which carries the remainders: after any number
of windows a task is within a few examples of its share, and exact after every power of two where
the share allows it.

Dims: K tasks, n examples of a window.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numba
import numpy as np

_BITS = 40  # fraction bits of the line; window numbers stay below 2**_BITS
_ONE = np.int64(1) << _BITS


@dataclasses.dataclass(frozen=True)
class Draws:
    """Examples in the order of the stream.

    Attributes:
        tasks_n: int32, which task each comes from.
        draws_n: int64, how many examples of that task came before it, over all epochs.
        indices_n: int64, which example of the task it is.
    """

    tasks_n: np.ndarray
    draws_n: np.ndarray
    indices_n: np.ndarray


def stable_key(*parts: int | str) -> int:
    """Returns 64 bits that depend on the parts alone, not on the process or machine."""
    text = "\x00".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def counts_before(rates_K: Sequence[float], window_examples: int, window: int) -> np.ndarray:
    """Returns int64 [K]: examples of each task in the windows 0..window-1 together."""
    line = _line(rates_K, window_examples)
    below = (line >> _BITS) * np.int64(window) + _van_der_corput_below(line & (_ONE - 1), window)
    return np.diff(below, prepend=0)


def window_counts(rates_K: Sequence[float], window_examples: int, window: int) -> np.ndarray:
    """Returns int64 [K]: examples of each task in this window; they sum to window_examples."""
    line = _line(rates_K, window_examples)
    point = _van_der_corput(window)
    return np.diff((line - point + _ONE - 1) >> _BITS, prepend=0)


def draw_window(
    rates_K: Sequence[float],
    sizes_K: Sequence[int],
    keys_K: Sequence[int],
    window_examples: int,
    window: int,
    *,
    seed: int,
    shuffle: bool,
) -> Draws:
    """Returns what window `window` of an endless mixture holds.

    Args:
        rates_K: relative rates, any positive scale.
        sizes_K: examples of each task, at least 1.
        keys_K: a number that names the task, so that other tasks do not change its order.
        window_examples: examples in a window.
        window: which window, from 0.
        seed: decides every order.
        shuffle: False keeps each task's own order and interleaves tasks evenly.
    """
    counts_K = window_counts(rates_K, window_examples, window)
    before_K = counts_before(rates_K, window_examples, window)
    tasks_n = np.repeat(np.arange(len(counts_K), dtype=np.int32), counts_K)
    rank_n = np.arange(len(tasks_n)) - np.repeat(np.cumsum(counts_K) - counts_K, counts_K)
    draws_n = before_K[tasks_n] + rank_n
    sizes_n = np.asarray(sizes_K, np.int64)[tasks_n]
    if shuffle:
        keys_n = np.array([stable_key(seed, key) for key in keys_K], np.uint64)[tasks_n]
        indices_n = permute(draws_n % sizes_n, sizes_n, _mix(keys_n, draws_n // sizes_n))
        order_n = _shuffled(len(tasks_n), stable_key(seed, "window", window))
    else:
        indices_n = draws_n % sizes_n
        # The j-th of c examples of a task stands at (j + 1/2) / c of the window.
        order_n = np.argsort((rank_n + 0.5) / counts_K[tasks_n], kind="stable")
    return Draws(tasks_n[order_n], draws_n[order_n], indices_n[order_n])


def epoch_windows(sizes_K: Sequence[int], window_examples: int) -> int:
    """Returns the number of windows in which every example comes once."""
    return -(-int(np.sum(sizes_K)) // window_examples)


def draw_epoch_window(
    sizes_K: Sequence[int], window_examples: int, window: int, *, seed: int, shuffle: bool
) -> Draws:
    """Returns window `window` of one pass in which every example of every task comes once.

    The windows are of (nearly) equal size: a short last one would pack badly.
    """
    ends_K = np.cumsum(np.asarray(sizes_K, np.int64))
    total, windows = int(ends_K[-1]), epoch_windows(sizes_K, window_examples)
    positions_n = np.arange(window * total // windows, (window + 1) * total // windows)
    if shuffle:
        keys_n = np.full(len(positions_n), stable_key(seed, "epoch"), np.uint64)
        positions_n = permute(positions_n, np.full(len(positions_n), total), keys_n)
    tasks_n = np.searchsorted(ends_K, positions_n, "right").astype(np.int32)
    indices_n = positions_n - (ends_K - np.asarray(sizes_K, np.int64))[tasks_n]
    return Draws(tasks_n, indices_n, indices_n)


def permute(positions_n: np.ndarray, sizes_n: np.ndarray, keys_n: np.ndarray) -> np.ndarray:
    """Returns where a keyed permutation of range(size) sends each position, in O(1) each.

    A Feistel network permutes the next power of four; walking its cycle until it lands below
    `size` makes that a permutation of range(size) (Black and Rogaway 2002).

    Args:
        positions_n: int64, each in range(size).
        sizes_n: int64, the size of each permutation.
        keys_n: uint64, which permutation.
    """
    return _permute(
        np.ascontiguousarray(positions_n, np.int64),
        np.ascontiguousarray(sizes_n, np.int64),
        np.ascontiguousarray(keys_n, np.uint64),
    )


def _shuffled(num: int, key: int) -> np.ndarray:
    """Returns a keyed permutation of range(num)."""
    return permute(np.arange(num), np.full(num, num), np.full(num, key, np.uint64))


def shuffled(num: int, *parts: int | str) -> np.ndarray:
    """Returns int64 [num]: the permutation of range(num) that the parts name."""
    return _shuffled(num, stable_key(*parts))


def draw_keys(task_keys_n: np.ndarray, draws_n: np.ndarray) -> np.ndarray:
    """Returns uint64 [n]: a random key for each draw of a task, for steps that run at drawing."""
    return _mix(np.asarray(task_keys_n, np.uint64), np.asarray(draws_n, np.int64))


def _line(rates_K: Sequence[float], window_examples: int) -> np.ndarray:
    """Returns int64 [K]: where each task's stretch ends, in units of 2**-_BITS examples."""
    ends_K = np.cumsum(np.asarray(rates_K, np.float64))
    line = np.rint(ends_K / ends_K[-1] * window_examples * float(_ONE)).astype(np.int64)
    line[-1] = np.int64(window_examples) << _BITS
    return np.minimum(line, line[-1])


def _van_der_corput(window: int) -> np.int64:
    """Returns the window's point in [0, 2**_BITS): its bits reversed."""
    return np.int64(int(f"{window:0{_BITS}b}"[::-1], 2))


def _van_der_corput_below(limit_K: np.ndarray, window: int) -> np.ndarray:
    """Returns int64 [K]: how many of the first `window` points lie below each limit.

    [0, window) falls apart into aligned blocks of 2**j windows, whose points are 2**-j apart.
    """
    count_K = np.zeros_like(limit_K)
    begin = 0
    for j in reversed(range(window.bit_length())):
        if not window >> j & 1:
            continue
        first = _van_der_corput(begin)
        spacing = np.int64(_BITS - j)
        inside_K = (limit_K - first + (np.int64(1) << spacing) - 1) >> spacing
        count_K += np.clip(inside_K, 0, np.int64(1) << j)
        begin += 1 << j
    return count_K


def _mix(keys_n: np.ndarray, numbers_n: np.ndarray) -> np.ndarray:
    """Hashes two 64-bit numbers into one (the finaliser of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = keys_n + (numbers_n.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def split_mix(z):
    """SplitMix64's finaliser on one uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _permute(positions_n, sizes_n, keys_n):
    result_n = np.empty_like(positions_n)
    for i in range(len(positions_n)):
        half = np.uint64(1)
        while (np.int64(1) << np.int64(2 * half)) < sizes_n[i]:
            half += np.uint64(1)
        mask = (np.uint64(1) << half) - np.uint64(1)
        x = np.uint64(positions_n[i])
        while True:
            left = x >> half
            right = x & mask
            for turn in range(6):
                mixed = split_mix(
                    keys_n[i]
                    + right * np.uint64(0x9E3779B97F4A7C15)
                    + np.uint64(turn + 1) * np.uint64(0xD1B54A32D192ED03)
                )
                left, right = right, left ^ (mixed & mask)
            x = (left << half) | right
            if x < np.uint64(sizes_n[i]):
                break
        result_n[i] = np.int64(x)
    return result_n
