"""What info.json says of the lengths of cached sequences, counted in blocks of bounded memory.

Dims: S sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mt0_tpu.data.dataset_config import FEATURES
from mt0_tpu.data.indexed import IndexedDataset

_BLOCK = 1 << 22  # sequences looked at at a time


def length_counts(sizes_S: np.ndarray) -> dict[str, Any]:
    """Returns sequences, tokens, longest and a histogram of up to 0, 1, 2, 3, 4, 6, 8, 12, 16, …"""
    longest = max((int(block.max()) for block in _blocks(sizes_S)), default=0)
    top = max(longest, 1).bit_length()
    edges = [0, 1, *(edge for j in range(1, top + 1) for edge in (1 << j, 3 << (j - 1)))]
    counts, tokens = np.zeros(len(edges), np.int64), 0
    for block in _blocks(sizes_S):
        counts += np.bincount(np.searchsorted(edges, block), minlength=len(edges))
        tokens += int(block.sum(dtype=np.int64))
    return {
        "sequences": len(sizes_S),
        "tokens": tokens,
        "longest": longest,
        "length_histogram": {"up_to": edges, "counts": counts.tolist()},
    }


def overlong(folder: Path, info: Mapping[str, Any], lengths: Mapping[str, int]) -> int:
    """Returns how many examples of a cached split are longer than a row, EOS counted.

    Texts that are cut up when drawn (span corruption) and rank tasks have none.
    """
    if info["kind"] != "pairs" or info["draw_steps"]:
        return 0
    files = info.get("files") or {name: folder / f"{name}_document" for name in FEATURES}
    sides = [
        (IndexedDataset(files[name]).sizes_S, lengths[name] - bool(info["append_eos"][name]))
        for name in FEATURES
    ]
    count = 0
    for begin in range(0, info["num_examples"], _BLOCK):
        too_long = [sizes_S[begin : begin + _BLOCK] > room for sizes_S, room in sides]
        count += int(np.count_nonzero(too_long[0] | too_long[1]))
    return count


def _blocks(sizes_S: np.ndarray) -> Iterator[np.ndarray]:
    return (sizes_S[begin : begin + _BLOCK] for begin in range(0, len(sizes_S), _BLOCK))
