import json

import numpy as np
import pytest

from mt0_tpu.data import length_counts as module
from mt0_tpu.data.length_counts import length_counts, overlong


@pytest.mark.parametrize("block", [3, 1 << 22])
def test_counts_do_not_depend_on_the_block(monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    sizes_S = np.array([0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13], np.int32)
    found = length_counts(sizes_S)
    assert (found["sequences"], found["tokens"], found["longest"]) == (12, 59, 13)
    assert found["length_histogram"] == {
        "up_to": [0, 1, 2, 3, 4, 6, 8, 12, 16, 24],
        "counts": [1, 2, 1, 1, 1, 2, 2, 1, 1, 0],
    }
    empty = length_counts(sizes_S[:0])
    assert (empty["tokens"], empty["longest"]) == (0, 0)


def test_overlong_examples_count_eos_once_an_example(tmp_path, cache_writer, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 2)
    pairs = [(range(i), range(j)) for i, j in ((9, 1), (10, 1), (9, 3), (12, 9), (1, 2))]
    pairs = [(list(inputs), list(targets)) for inputs, targets in pairs]
    cache_writer(tmp_path, {"t": pairs}, append_eos=(True, False))
    folder = tmp_path / "t" / "train"
    info = json.loads((folder / "info.json").read_text())
    assert overlong(folder, info, {"inputs": 10, "targets": 2}) == 3
    assert overlong(folder, info, {"inputs": 13, "targets": 9}) == 0
    assert overlong(folder, info | {"draw_steps": [{}]}, {"inputs": 2, "targets": 2}) == 0
    assert overlong(folder, info | {"kind": "rank"}, {"inputs": 2, "targets": 2}) == 0
