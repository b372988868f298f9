import json

import numpy as np
import pytest

from mt0_tpu.data import windows
from mt0_tpu.data.batches import Loader, open_sources
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.packing import pack_in_order


def _golden_pairs(golden):
    lines = (golden / "seqio" / "ids.jsonl").read_text().splitlines()
    return [(line["inputs"], line["targets"]) for line in map(json.loads, lines)]


def _one_epoch(root, **changes):
    changes = {"task_feature_lengths": {"inputs": 128, "targets": 64}} | changes
    config = DatasetConfig("mix", cache_dir=str(root), shuffle=False, **changes)
    with Loader(open_sources(config), config, epochs=1) as loader:
        batches = list(loader)
        stats = loader.stats
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}, stats


def _seqios_rows(inputs_n, targets_n, lengths):
    """SeqIO's assignment: next fit, the open row closed after every 128 examples (README)."""
    rows = []
    for begin in range(0, len(inputs_n), 128):
        part = slice(begin, begin + 128)
        rows.append(pack_in_order(inputs_n[part], targets_n[part], lengths))
        if begin:
            rows[-1] = rows[-1] + rows[-2].max() + 1
    return np.concatenate(rows)


@pytest.mark.parametrize("name, eos", [("both", (True, True)), ("targets_only", (False, True))])
@pytest.mark.parametrize("packed", [False, True])
def test_features_equal_seqios(golden, tmp_path, cache_writer, monkeypatch, name, eos, packed):
    expected = np.load(golden / "seqio" / "feature_converter.npz")
    cache_writer(tmp_path, {"lines": _golden_pairs(golden)}, append_eos=eos)
    # Shapes and contents are SeqIO's, given SeqIO's assignment of examples to rows.
    monkeypatch.setattr(windows, "pack", _seqios_rows)
    ours, stats = _one_epoch(tmp_path, batch_size=37 if packed else 200, pack=packed)
    prefix = f"eos_{name}.{'packed' if packed else 'unpacked'}."
    theirs = {k.removeprefix(prefix): expected[k] for k in expected if k.startswith(prefix)}
    if theirs:
        assert sorted(ours) == sorted(theirs)
    for feature, array in theirs.items():
        np.testing.assert_array_equal(ours[feature], array, err_msg=feature)
        assert ours[feature].dtype == np.int32
    lengths = expected[f"eos_{name}.lengths"]
    assert (stats.inputs_tokens, stats.targets_tokens) == tuple(lengths.sum(0))
    assert (stats.examples, stats.trimmed) == (200, 2)


def test_a_packed_row_as_literals(tmp_path, cache_writer):
    pairs = [([11, 12], [21]), ([13], [22, 23]), ([14, 15, 16, 17], [24, 25])]
    cache_writer(tmp_path, {"task": pairs})
    lengths = {"inputs": 6, "targets": 5}
    batch, _ = _one_epoch(tmp_path, batch_size=3, task_feature_lengths=lengths)
    expected = """
    encoder_input_tokens   11 12  1 13  1  0 | 14 15 16 17  1  0 |  0  0  0  0  0  0
    encoder_segment_ids     1  1  1  2  2  0 |  1  1  1  1  1  0 |  0  0  0  0  0  0
    encoder_positions       0  1  2  0  1  0 |  0  1  2  3  4  0 |  0  0  0  0  0  0
    decoder_target_tokens  21  1 22 23  1    | 24 25  1  0  0    |  0  0  0  0  0
    decoder_input_tokens    0 21  0 22 23    |  0 24 25  0  0    |  0  0  0  0  0
    decoder_loss_weights    1  1  1  1  1    |  1  1  1  0  0    |  0  0  0  0  0
    decoder_segment_ids     1  1  2  2  2    |  1  1  1  0  0    |  0  0  0  0  0
    decoder_positions       0  1  0  1  2    |  0  1  2  0  0    |  0  0  0  0  0
    """
    for line in expected.strip().splitlines():
        name, *rows = line.strip().split(maxsplit=1)
        rows = [[int(token) for token in row.split()] for row in rows[0].split("|")]
        assert batch[name].tolist() == rows, name


TRIM = {
    # (eos_after_trim, append_eos): targets of 5 tokens in a row of 4
    (True, True): [21, 22, 23, 1],
    (False, True): [21, 22, 23, 24],
    (True, False): [21, 22, 23, 24],
}


@pytest.mark.parametrize("after_trim, append", TRIM)
def test_overlong_targets_are_cut_as_t5x_cuts_them(tmp_path, cache_writer, after_trim, append):
    cache_writer(
        tmp_path,
        {"task": [([11], [21, 22, 23, 24, 25]), ([12], [26])]},
        append_eos=(True, append),
        eos_after_trim=after_trim,
    )
    lengths = {"inputs": 4, "targets": 4}
    batch, stats = _one_epoch(tmp_path, batch_size=2, pack=False, task_feature_lengths=lengths)
    assert batch["decoder_target_tokens"][0].tolist() == TRIM[after_trim, append]
    assert stats.trimmed == 1


def test_overlong_dropped_and_empty_left_out(tmp_path, cache_writer):
    pairs = [([1, 2, 3, 4], [5]), ([], [6]), ([7], []), ([8], [9])]
    cache_writer(tmp_path, {"task": pairs}, append_eos=(False, False))
    batch, stats = _one_epoch(
        tmp_path, batch_size=1, overlong="drop", task_feature_lengths={"inputs": 3, "targets": 3}
    )
    assert batch["encoder_input_tokens"].tolist() == [[8, 0, 0]]
    assert (stats.examples, stats.dropped_overlong, stats.dropped_empty) == (1, 1, 2)
