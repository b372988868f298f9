"""mt0_tpu/tasks/row_lengths.py: rows of hand-written caches, counted by hand."""

import numpy as np
import pytest

from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.sources import open_sources
from mt0_tpu.tasks import row_lengths
from mt0_tpu.tasks.network_cost import NetworkSize
from mt0_tpu.tasks.row_lengths import Drawn, batch_rows, recommend, weigh
from tests.data.conftest import write_cache

SIZE = NetworkSize("x", 8, 8, 16, 3, 1, 1, 64)
SPAN = {"name": "span_corruption", "first_sentinel": 99}


def drawn_from(root, tasks, window_examples=8, **more):
    write_cache(root, tasks, **more)
    config = DatasetConfig(
        "mix",
        {"inputs": 1024, "targets": 256},
        cache_dir=str(root),
        window_examples=window_examples,
    )
    return open_sources(config), config


def pair(inputs, targets):
    return [5] * inputs, [6] * targets


def test_rows_fill_and_trimming_by_hand(tmp_path):
    # With EOS: 15 inputs and 3 targets, and once 40 and 8. A window of 8 draws each four times.
    sources, config = drawn_from(tmp_path, {"a": [pair(14, 2), pair(39, 7)]})
    drawn = Drawn(sources, config)
    assert drawn.trimmed((32, 16)) == 0.5
    assert drawn.trimmed((64, 4)) == 0.5
    assert drawn.trimmed((64, 8)) == 0
    # Four rows of 40 + 15 inputs and 8 + 3 targets.
    choice = weigh(drawn, (64, 16), True, 0.0, SIZE)
    assert choice.rows_per_1000 == 500
    assert choice.filled == (55 / 64, 11 / 16)
    assert choice.cost * 8 == 4 * (SIZE.encoder(64) + SIZE.decoder(64, 16)) + 4 * SIZE.head(11)
    assert choice.cost_t5x * 8 == 4 * (SIZE.encoder(64) + SIZE.decoder(64, 16) + SIZE.head(16))
    ideal = 4 * SIZE.examples(np.array([15, 40]), np.array([3, 8]))
    assert choice.useful == pytest.approx(ideal / (choice.cost * 8))


def test_unpacked_rows_hold_one_example(tmp_path):
    sources, config = drawn_from(tmp_path, {"a": [pair(14, 2), pair(39, 7)]})
    choice = weigh(Drawn(sources, config), (64, 16), False, 0.0, SIZE)
    assert choice.rows_per_1000 == 1000
    assert choice.filled == (55 / 128, 11 / 32)


def test_cheapest_first_and_nothing_over_the_limit(tmp_path):
    sources, config = drawn_from(tmp_path, {"a": [pair(14, 2), pair(39, 7)]})
    found = recommend(sources, config, SIZE, most_trimmed=0.0)
    assert found.unpacked[0].lengths == (64, 16)  # the shortest that trims nothing
    assert all(choice.trimmed == 0 for choice in (*found.packed, *found.unpacked))
    costs = [choice.cost for choice in found.packed]
    assert costs == sorted(costs)
    assert [one.lengths for one in found.references[True]] == list(row_lengths.REFERENCES)
    # Half the examples may be trimmed: shorter rows come in.
    more = recommend(sources, config, SIZE, most_trimmed=0.5)
    assert more.unpacked[0].lengths == (32, 16)


def test_where_nothing_fits_the_least_trimmed_rows_come(tmp_path):
    sources, config = drawn_from(tmp_path, {"a": [pair(14, 2), pair(5000, 3)]})
    found = recommend(sources, config, SIZE, most_trimmed=0.1)
    assert [choice.trimmed for choice in found.packed] == [0.5]
    # 5001 inputs are trimmed wherever they go; shorter rows that hold the other are as good.
    assert found.packed[0].lengths == (32, 16)


def test_texts_are_cut_not_trimmed(tmp_path):
    tasks = {"a": [([], list(range(10, 510)))]}
    sources, config = drawn_from(tmp_path, tasks, draw_steps=[SPAN])
    found = recommend(sources, config, SIZE)
    assert found.cuts_texts
    assert {choice.trimmed for choice in found.packed} == {0.0}
    assert min(choice.lengths[0] for choice in found.packed) == 64


def test_rates_decide_what_is_drawn(tmp_path):
    tasks = {"a": [pair(14, 2)], "b": [pair(99, 2)]}
    sources, config = drawn_from(tmp_path, tasks, rates={"a": 3.0, "b": 1.0})
    assert Drawn(sources, config).trimmed((32, 16)) == 0.25


def test_batch_holds_about_mt0s_examples(tmp_path):
    sources, config = drawn_from(tmp_path, {"a": [pair(14, 2), pair(39, 7)]})
    choice = weigh(Drawn(sources, config), (64, 16), True, 0.0, SIZE)
    assert batch_rows(choice) == 256  # two examples a row
