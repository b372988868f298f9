"""Span corruption under plain SeqIO: T5's lengths and the trainer's distribution."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mt0_tpu.data import denoising
from seqio_tasks import vocabularies
from seqio_tasks.span_corruption import SpanCorruption

VOCABULARY = vocabularies.mini()
FIRST = int(VOCABULARY.vocab_size) - 1
FEATURES = vocabularies.output_features(VOCABULARY)
ROWS = {"inputs": 64, "targets": 24}


def corrupted(documents, rows=ROWS, seed=7, **settings):
    """What SeqIO makes of the documents, as (inputs, targets) lists without EOS."""
    dataset = tf.data.Dataset.from_generator(
        lambda: ({"inputs": np.zeros(0, np.int32), "targets": d} for d in documents),
        output_signature={name: tf.TensorSpec([None], tf.int32) for name in ("inputs", "targets")},
    )
    with seqio.utils.map_seed_manager(seed):
        dataset = SpanCorruption(**settings)(dataset, FEATURES, rows)
    return [
        (example["inputs"].tolist(), example["targets"].tolist())
        for example in dataset.as_numpy_iterator()
    ]


def text(length, start=3):
    return (np.arange(length) + start).astype(np.int32)


def restored(inputs, targets, lowest=FIRST - 99):
    """Puts the masked spans back where their sentinels stand."""
    spans, now = {}, None
    for token in targets:
        if token >= lowest:
            now = spans.setdefault(token, [])
        else:
            now.append(token)
    assert list(spans) == [FIRST - i for i in range(len(spans))] and all(spans.values())
    whole = []
    for token in inputs:
        whole += spans.pop(token) if token >= lowest else [token]
    assert not spans
    return whole


@pytest.mark.parametrize("density, mean", [(0.15, 3.0), (0.5, 1.0), (0.05, 8.0)])
def test_inputs_and_targets_hold_the_text_once_in_the_trainers_lengths(density, mean):
    settings = {"noise_density": density, "mean_noise_span_length": mean}
    numpys = denoising.SpanCorruption(FIRST, density, mean)
    lengths = [2, 3, 7, 10, 13, 20, 50, 150]
    found = corrupted([text(n) for n in lengths], rows=None, **settings)
    assert [restored(*pair) for pair in found] == [text(n).tolist() for n in lengths]
    inputs_n, targets_n = numpys.lengths(lengths)
    assert [(len(i), len(t)) for i, t in found] == list(zip(inputs_n, targets_n, strict=True))


def test_the_two_roundings_are_numpys_for_every_length():
    step, numpys = SpanCorruption(), denoising.SpanCorruption(FIRST)
    lengths = np.arange(2, 3000)
    tokens_n, spans_n = numpys.noise(lengths)
    assert [step.noise(n) for n in lengths.tolist()] == list(zip(tokens_n, spans_n, strict=True))
    in_a_graph = tf.map_fn(
        lambda length: tf.stack(step._noise_tensors(length)), tf.constant(lengths, tf.int32)
    )
    np.testing.assert_array_equal(in_a_graph.numpy().T, [tokens_n, spans_n])


@pytest.mark.parametrize("rooms", [(511, 113), (127, 47), (63, 23), (2, 2)])
def test_rows_take_what_the_trainer_puts_into_them(rooms):
    assert SpanCorruption().longest(*rooms) == denoising.SpanCorruption(FIRST).longest(*rooms)


def test_long_documents_are_cut_into_rows_and_every_token_is_read_once():
    documents = [text(n) for n in (300, 8, 2, 1, 0, 77)]
    found = corrupted(documents)
    pieces = [restored(*pair) for pair in found]
    longest = SpanCorruption().longest(63, 23)
    assert max(map(len, pieces)) == longest
    assert all(len(i) < 64 and len(t) < 24 for i, t in found)
    # A single token cannot be both kept and masked.
    kept = [d.tolist() for d in documents if len(d) > 1]
    assert [300 % longest, 77 % longest].count(1) == 0
    assert sum(pieces, []) == sum(kept, [])


def test_every_place_is_masked_as_often_as_by_the_trainer():
    length, draws = 120, 3000
    numpys = denoising.SpanCorruption(FIRST)

    def shares(targets_of_draws):
        masked = np.zeros(length)
        first_gap = np.zeros(length)
        for targets in targets_of_draws:
            masked[[token - 3 for token in targets if token < FIRST - 99]] += 1
            first_gap[targets[1] - 3] += 1
        return masked / draws, first_gap / draws

    found, first = shares(t for _, t in corrupted([text(length)] * draws, rows=None))
    expected, expected_first = shares(
        numpys.apply(text(length), key)[1].tolist() for key in range(draws)
    )
    assert found.mean() == expected.mean() == 18 / length
    # Three thousand draws leave an error of 0.007 on a share of 0.15.
    assert np.abs(found - expected).max() < 0.045
    assert (found[0], found[-1]) == (0, 1)
    # The spans themselves fall alike: where the first one begins, as a distribution.
    assert np.abs(np.cumsum(first) - np.cumsum(expected_first)).max() < 0.06


def test_a_seed_repeats_itself_and_an_epoch_does_not():
    documents = [text(60)] * 4
    assert corrupted(documents) == corrupted(documents)
    assert corrupted(documents) != corrupted(documents, seed=8)
    assert len({tuple(inputs) for inputs, _ in corrupted(documents)}) > 1


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="noise_density is 15"):
        SpanCorruption(15)
    with pytest.raises(ValueError, match="mean_noise_span_length is 0"):
        SpanCorruption(0.15, 0)
    with pytest.raises(ValueError, match="too short for span corruption"):
        corrupted([text(9)], rows={"inputs": 2, "targets": 2})
