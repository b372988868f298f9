"""Decoder-only rows: literal ones, SeqIO's, and what does not fit."""

import json

import numpy as np
import pytest

from mt0_tpu.data import windows
from mt0_tpu.data.batches import Loader, open_sources
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.packing import pack_in_order
from mt0_tpu.errors import UserError

BARE = (False, False)


def one_epoch(root, lengths, **changes):
    changes = {"shuffle": False, "layout": "decoder_only", "cache_dir": str(root)} | changes
    config = DatasetConfig("mix", lengths, **changes)
    with Loader(open_sources(config), config, epochs=1) as loader:
        batches = list(loader)
        stats = loader.stats
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}, stats


def literal(text):
    """{feature: rows} of aligned lines, rows apart by |."""
    table = {}
    for line in text.strip().splitlines():
        name, rows = line.split(maxsplit=1)
        table[name] = [[int(token) for token in row.split()] for row in rows.split("|")]
    return table


def test_packed_rows_as_literals(tmp_path, cache_writer):
    """Targets end in EOS (1), inputs do not; 31 is predicted from 12, the last input."""
    pairs = [([11, 12], [31]), ([13], [32, 33]), ([14, 15, 16, 17], [34, 35])]
    cache_writer(tmp_path, {"task": pairs}, append_eos=(False, True))
    batch, stats = one_epoch(tmp_path, {"decoder": 8}, batch_size=2)
    wanted = literal("""
    decoder_input_tokens     11 12 31 13 32 33  0  0 | 14 15 16 17 34 35  0  0
    decoder_target_tokens    12 31  1 32 33  1  0  0 | 15 16 17 34 35  1  0  0
    decoder_loss_weights      0  1  1  1  1  1  0  0 |  0  0  0  1  1  1  0  0
    decoder_causal_attention  1  1  0  1  0  0  0  0 |  1  1  1  1  0  0  0  0
    decoder_segment_ids       1  1  1  2  2  2  0  0 |  1  1  1  1  1  1  0  0
    decoder_positions         0  1  2  0  1  2  0  0 |  0  1  2  3  4  5  0  0
    """)
    assert {name: rows.tolist() for name, rows in batch.items()} == wanted
    assert (stats.inputs_tokens, stats.targets_tokens, stats.targets_capacity) == (4, 8, 16)
    assert stats.packing_efficiency == 12 / 16


def test_unpacked_rows_have_one_segment(tmp_path, cache_writer):
    cache_writer(tmp_path, {"task": [([11, 12], [0, 31]), ([13], [32])]}, append_eos=(False, True))
    batch, _ = one_epoch(tmp_path, {"inputs": 3, "targets": 3}, batch_size=2, pack=False)
    wanted = literal("""
    decoder_input_tokens     11 12  0 31  0  0 | 13 32  0  0  0  0
    decoder_target_tokens    12  0 31  1  0  0 | 32  1  0  0  0  0
    decoder_loss_weights      0  1  1  1  0  0 |  1  1  0  0  0  0
    decoder_causal_attention  1  1  0  0  0  0 |  1  0  0  0  0  0
    decoder_segment_ids       1  1  1  1  0  0 |  1  1  0  0  0  0
    decoder_positions         0  1  2  3  0  0 |  0  1  0  0  0  0
    """)
    assert {name: rows.tolist() for name, rows in batch.items()} == wanted


def test_a_text_without_inputs_is_learnt_from_its_second_token(tmp_path, cache_writer):
    pairs = [([], [31, 32, 33]), ([], [34]), ([11], [])]
    cache_writer(tmp_path, {"task": pairs}, append_eos=BARE)
    batch, stats = one_epoch(tmp_path, {"decoder": 4}, batch_size=1)
    wanted = literal("""
    decoder_input_tokens     31 32 0 0
    decoder_target_tokens    32 33 0 0
    decoder_loss_weights      1  1 0 0
    decoder_causal_attention  0  0 0 0
    decoder_segment_ids       1  1 0 0
    decoder_positions         0  1 0 0
    """)
    assert {name: rows.tolist() for name, rows in batch.items()} == wanted
    assert (stats.examples, stats.dropped_empty) == (1, 2)
    assert (stats.inputs_tokens, stats.targets_tokens) == (0, 2)


LONG = {
    # What an example of 4 inputs and 3 targets + EOS leaves of itself in a row.
    # 7 positions hold 8 tokens: all of it.
    7: ([11, 12, 13, 14], [31, 32, 33, 1]),
    # The inputs give way ...
    5: ([11, 12], [31, 32, 33, 1]),
    4: ([11], [31, 32, 33, 1]),
    # ... and the targets, EOS kept, where one input is left.
    3: ([11], [31, 32, 1]),
}


@pytest.mark.parametrize("length", LONG)
def test_an_overlong_pair_keeps_its_targets(tmp_path, cache_writer, length):
    pairs = [([11, 12, 13, 14], [31, 32, 33])]
    cache_writer(tmp_path, {"task": pairs}, append_eos=(False, True))
    batch, stats = one_epoch(tmp_path, {"decoder": length}, batch_size=1)
    inputs, targets = LONG[length]
    assert batch["decoder_input_tokens"][0].tolist() == [*inputs, *targets[:-1]]
    weighted = batch["decoder_target_tokens"][batch["decoder_loss_weights"] == 1]
    assert weighted.tolist() == targets
    assert stats.trimmed == (length < 7)


def test_an_overlong_pair_can_be_dropped(tmp_path, cache_writer):
    pairs = [([11, 12, 13, 14], [31, 32, 33]), ([11], [31])]
    cache_writer(tmp_path, {"task": pairs}, append_eos=(False, True))
    _, stats = one_epoch(tmp_path, {"decoder": 6}, batch_size=1, overlong="drop")
    assert (stats.examples, stats.dropped_overlong) == (1, 1)


def seqios_rows(spans_n, row_length):
    """SeqIO's next fit over its own spans, which are one longer, windows of a row's length."""
    rows = []
    for begin in range(0, len(spans_n), row_length):
        part = spans_n[begin : begin + row_length] + 1
        rows.append(pack_in_order(part, np.zeros_like(part), (row_length, 1)))
        if begin:
            rows[-1] = rows[-1] + rows[-2].max() + 1
    return np.concatenate(rows)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_features_are_seqios_less_the_token_fed_first(
    golden, tmp_path, cache_writer, monkeypatch, packed
):
    import seqio
    import tensorflow as tf

    lines = (golden / "seqio" / "ids.jsonl").read_text().splitlines()
    pairs = [(line["inputs"], line["targets"]) for line in map(json.loads, lines)]
    lengths = {"inputs": 128, "targets": 64}
    # SeqIO has no overlong rule here: its tasks cut before.
    pairs = [(i[:127], t[:63]) for i, t in pairs if i and t]
    cache_writer(tmp_path, {"task": pairs}, append_eos=(False, True))
    monkeypatch.setattr(windows, "pack_spans", seqios_rows)
    ours, _ = one_epoch(tmp_path, lengths, batch_size=1, pack=packed)

    def examples():
        for inputs, targets in pairs:
            yield {"inputs": np.int32(inputs), "targets": np.int32([*targets, 1])}

    spec = {name: tf.TensorSpec([None], tf.int32) for name in lengths}
    dataset = tf.data.Dataset.from_generator(examples, output_signature=spec)
    converter = seqio.PrefixLMFeatureConverter(pack=packed, use_custom_packing_ops=False)
    theirs = list(converter(dataset, lengths).as_numpy_iterator())
    assert len(theirs) == len(ours["decoder_positions"])
    assert ours["decoder_positions"].shape[1] == len(theirs[0]["decoder_input_tokens"]) == 192
    for row, their in enumerate(theirs):
        length = (their["decoder_target_tokens"] > 0).sum()
        their.setdefault("decoder_positions", np.arange(192))
        their.setdefault("decoder_segment_ids", (np.arange(192) < length).astype(np.int32))
        kept = (their["decoder_positions"] > 0) & (their["decoder_segment_ids"] > 0)
        real = ours["decoder_segment_ids"][row] > 0
        assert kept.sum() == real.sum()
        for name, values in their.items():
            shift = name == "decoder_positions"
            np.testing.assert_array_equal(ours[name][row][real], values[kept] - shift, err_msg=name)


def test_the_layout_is_the_models():
    config = DatasetConfig("mix", {"inputs": 6, "targets": 3})
    assert not config.decoder_only and config.row_lengths == (6, 3)
    assert config.for_model(False).row_lengths == (6, 3)
    assert config.for_model(True).row_lengths == (0, 9)
    assert config.for_model(True).for_model(True).decoder_only
    assert DatasetConfig("mix", {"decoder": 20}).row_lengths == (0, 20)


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda: DatasetConfig("m", {"decoder": 9}).for_model(False), "{'decoder': 9}, a row of a"),
        (lambda: DatasetConfig("m", {"decoder": 9}, layout="encoder_decoder"), "have a row each"),
        (lambda: DatasetConfig("m", {"decoder": 9, "inputs": 4}), "one of them gives the row's"),
        (lambda: DatasetConfig("m", {"decoder": 1}), "at least 2 tokens"),
        (lambda: DatasetConfig("m", {"decodr": 9}), "names 'decodr'"),
        (lambda: DatasetConfig("m", {"decoder": 9}).inputs_length, "inputs have a length of their"),
        (lambda: DatasetConfig("m", None, layout="decoder"), "Did you mean 'decoder_only'"),
        (
            lambda: DatasetConfig(
                "m", {"inputs": 4, "targets": 4}, layout="decoder_only"
            ).for_model(False),
            "layout is 'decoder_only', and the model reads 'encoder_decoder' rows",
        ),
    ],
)
def test_contradictions_are_errors(act, message):
    with pytest.raises(UserError, match=message):
        act()


def test_span_corruption_needs_a_length_for_either_side(tmp_path, cache_writer):
    step = {"name": "span_corruption", "first_sentinel": 500}
    cache_writer(tmp_path, {"task": [([], list(range(20, 60)))]}, draw_steps=[step])
    with pytest.raises(UserError, match="needs a length for either side"):
        one_epoch(tmp_path, {"decoder": 64}, batch_size=1)
    batch, _ = one_epoch(tmp_path, {"inputs": 50, "targets": 14}, batch_size=1)
    row = {name: values[0] for name, values in batch.items()}
    fed = row["decoder_input_tokens"][row["decoder_segment_ids"] == 1].tolist()
    # Text with sentinels counting down, EOS, then the spans.
    cut = fed.index(1)
    assert 500 in fed[:cut] and 500 in fed[cut + 1 :]
    assert row["decoder_loss_weights"].sum() == row["decoder_segment_ids"].sum() - cut
