import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt0_tpu.data.packing import (
    lower_bound,
    pack,
    pack_in_order,
    pack_spans,
    spans_lower_bound,
)


def peers_mix(seed, num=50_000):
    """The length mix of facts/peers.md E."""
    random = np.random.default_rng(seed)
    inputs = np.clip(random.lognormal(np.log(120), 1.0, num), 1, 1024).astype(np.int64)
    targets = np.clip(random.lognormal(np.log(12), 1.2, num), 1, 256).astype(np.int64)
    return inputs, targets


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=200),
    st.sampled_from([pack, pack_in_order]),
)
@settings(deadline=None)
def test_rows_never_overflow_and_have_no_gap(lengths, packer):
    inputs = np.array([a for a, _ in lengths], np.int64)
    targets = np.array([b for _, b in lengths], np.int64)
    rows = packer(inputs, targets, (40, 12))
    assert len(rows) == len(lengths)
    assert sorted(set(rows.tolist())) == list(range(len(set(rows.tolist()))))
    assert np.bincount(rows, inputs).max(initial=0) <= 40
    assert np.bincount(rows, targets).max(initial=0) <= 12


@pytest.mark.parametrize("seed", [101, 102, 103])
def test_rows_stay_within_half_a_percent_of_the_bound(seed):
    inputs, targets = peers_mix(seed)
    rows = 0
    for begin in range(0, 50_000, 12_500):  # the loader's equal windows of at most 16,384
        part = slice(begin, begin + 12_500)
        rows += pack(inputs[part], targets[part], (1024, 256)).max() + 1
    assert rows <= 1.005 * lower_bound(inputs, targets, (1024, 256))


@pytest.mark.parametrize("lengths", [(1024, 64), (64, 1024), (512, 512), (2048, 1024)])
def test_other_shapes_pack_tightly_too(lengths):
    random = np.random.default_rng(5)
    inputs = np.clip(random.lognormal(4, 1, 16_384), 1, lengths[0]).astype(np.int64)
    targets = np.clip(random.lognormal(3, 1, 16_384), 1, lengths[1]).astype(np.int64)
    rows = pack(inputs, targets, lengths).max() + 1
    assert rows <= 1.02 * lower_bound(inputs, targets, lengths)


def test_next_fit_as_literals():
    rows = pack_in_order(np.array([3, 2, 4, 1]), np.array([1, 1, 1, 3]), (5, 3))
    assert rows.tolist() == [0, 0, 1, 2]


def test_the_bound_counts_rows_that_one_side_fills_apart():
    inputs, targets = np.array([10, 1, 5, 5]), np.array([1, 4, 1, 1])
    assert lower_bound(inputs, targets, (10, 4)) == 3


def test_too_long_is_refused():
    with pytest.raises(ValueError, match="inputs of 11 tokens do not fit rows of 10"):
        pack(np.array([11]), np.array([1]), (10, 4))


@pytest.mark.parametrize("seed", [0, 1])
def test_spans_take_nearly_the_lower_bound_of_rows(seed):
    random = np.random.default_rng(seed)
    spans = np.clip(random.lognormal(np.log(150), 1.0, 16384), 2, 2048).astype(np.int64)
    rows = pack_spans(spans, 2048)
    assert set(rows) == set(range(rows.max() + 1))
    assert np.bincount(rows, spans).max() <= 2048
    bound = spans_lower_bound(spans, 2048)
    assert bound <= rows.max() + 1 <= 1.001 * bound


@pytest.mark.parametrize(
    "spans, bound",
    [
        ([6, 6, 6], 3),  # none shares a row of ten, though 18 tokens would fill two
        ([6, 6, 4, 4], 2),
        ([6, 6, 4, 4, 1], 3),
        ([10, 7, 3], 2),
        ([1] * 21, 3),
        ([], 0),
    ],
)
def test_the_bound_of_spans(spans, bound):
    assert spans_lower_bound(np.array(spans, np.int64), 10) == bound
    rows = pack_spans(np.array(spans, np.int64), 10)
    assert (rows.max() + 1 if len(spans) else 0) == bound


def test_a_span_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="11 positions do not fit rows of 10"):
        pack_spans(np.array([3, 11]), 10)
