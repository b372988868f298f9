import collections

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mt0_tpu.data import mixing

RATES = st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=12)


@given(RATES, st.integers(1, 500), st.integers(0, 10**9))
@settings(deadline=None)
def test_a_window_holds_floor_or_ceiling_of_every_share(rates, window_examples, window):
    counts = mixing.window_counts(rates, window_examples, window)
    shares = np.array(rates) / np.sum(rates) * window_examples
    assert counts.sum() == window_examples
    assert (counts >= np.floor(shares - 1e-6)).all()
    assert (counts <= np.ceil(shares + 1e-6)).all()


@given(RATES, st.integers(1, 500), st.integers(0, 70))
@settings(deadline=None, max_examples=50)
def test_counts_before_a_window_are_the_sum_of_the_windows_before(rates, window_examples, window):
    windows = [mixing.window_counts(rates, window_examples, w) for w in range(window)]
    expected = np.sum(windows, axis=0) if windows else np.zeros(len(rates))
    assert mixing.counts_before(rates, window_examples, window).tolist() == expected.tolist()


def test_remainders_are_carried():
    rates = np.random.default_rng(0).pareto(1, 200)
    for window in (1, 7, 1000, 123_456, 10**6 + 3):
        shares = rates / rates.sum() * 128 * window
        assert np.abs(mixing.counts_before(rates, 128, window) - shares).max() < 6
    # A rate of 1 % of windows of 50 is one example in every second window, never two in one.
    counts = [mixing.window_counts([99, 1], 50, w)[1] for w in range(64)]
    assert collections.Counter(counts) == {0: 32, 1: 32}


def test_golden_mixture_proportions():
    # rates 1:2:5 as in golden/seqio: exact, where SeqIO's sampling has deviations of 33 to 48
    assert mixing.counts_before([1, 2, 5], 100, 100).tolist() == [1250, 2500, 6250]


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(deadline=None, max_examples=60)
def test_permute_is_a_permutation(size, key):
    places = mixing.permute(np.arange(size), np.full(size, size), np.full(size, key, np.uint64))
    assert sorted(places) == list(range(size))


def test_all_orders_of_four_come_equally_often():
    orders = collections.Counter(tuple(mixing.shuffled(4, i).tolist()) for i in range(12_000))
    assert len(orders) == 24
    # 500 expected, standard deviation 22
    assert 400 < min(orders.values()) and max(orders.values()) < 600


def test_huge_permutations_are_reached_directly():
    size = 10**12
    where = np.array([0, 1, size - 1])
    places = mixing.permute(where, np.full(3, size), np.full(3, 7, np.uint64))
    assert len(set(places.tolist())) == 3 and (places < size).all() and (places >= 0).all()


@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0.05, 20)), min_size=1, max_size=5),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 5),
)
@settings(deadline=None, max_examples=50)
def test_no_example_is_lost_or_repeated_within_an_epoch(tasks, window_examples, shuffle, seed):
    sizes, rates = [t[0] for t in tasks], [t[1] for t in tasks]
    drawn = [[] for _ in tasks]
    for window in range(12):
        draws = mixing.draw_window(
            rates, sizes, range(len(tasks)), window_examples, window, seed=seed, shuffle=shuffle
        )
        order = np.argsort(draws.draws_n, kind="stable")
        for task, draw, index in zip(
            draws.tasks_n[order], draws.draws_n[order], draws.indices_n[order], strict=True
        ):
            assert draw == len(drawn[task])
            drawn[task].append(int(index))
    for size, indices in zip(sizes, drawn, strict=True):
        for begin in range(0, len(indices), size):
            epoch = indices[begin : begin + size]
            assert len(set(epoch)) == len(epoch)
            if len(epoch) == size:
                assert sorted(epoch) == list(range(size))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(1, 30), st.booleans())
@settings(deadline=None, max_examples=50)
def test_an_epoch_holds_every_example_once(sizes, window_examples, shuffle):
    windows = mixing.epoch_windows(sizes, window_examples)
    seen = []
    for window in range(windows):
        draws = mixing.draw_epoch_window(sizes, window_examples, window, seed=3, shuffle=shuffle)
        assert len(draws.tasks_n) <= window_examples
        seen += zip(draws.tasks_n.tolist(), draws.indices_n.tolist(), strict=True)
    expected = [(task, index) for task, size in enumerate(sizes) for index in range(size)]
    assert sorted(seen) == expected
    if not shuffle:
        assert seen == expected


def test_a_new_task_does_not_change_the_order_of_the_others():
    def order(rates, sizes, keys):
        draws = mixing.draw_window(rates, sizes, keys, 64, 0, seed=1, shuffle=True)
        mine = draws.tasks_n == keys.index(11)
        return draws.indices_n[mine][np.argsort(draws.draws_n[mine])][:20].tolist()

    assert order([1.0], [50], [11]) == order([1.0, 1.0], [9, 50], [5, 11])
