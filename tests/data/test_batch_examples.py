"""Which examples a batch holds, against what the batch itself shows."""

import numpy as np
import pytest

from mt0_tpu.data import batches
from mt0_tpu.data.batch_examples import _columns, batch_at
from tests import tiny_run


@pytest.mark.parametrize("pack", [True, False])
def test_the_examples_are_those_of_the_cache_and_fill_the_batch(tmp_path, pack):
    tiny_run.write_tiny_cache(tmp_path)
    config = tiny_run.dataset(tmp_path, pack=pack)
    sources = batches.open_sources(config)
    by_name = {source.name: source for source in sources}
    with batches.Loader(sources, config) as loader:
        for _ in range(7):  # over the end of a window
            position, fed = loader.state, next(loader)
            batch, examples = batch_at(sources, config, position)
            for name, rows in fed.items():
                np.testing.assert_array_equal(rows, batch[name])
            seen = {side: 0 for side in ("inputs", "targets")}
            for one in examples:
                datasets = dict(zip(("inputs", "targets"), by_name[one.task].datasets, strict=True))
                features = {"inputs": "encoder_input_tokens", "targets": "decoder_target_tokens"}
                for side, feature in features.items():
                    ids = fed[feature][one.row, slice(*getattr(one, side))].tolist()
                    assert ids == [*datasets[side][one.index].tolist(), 1]
                    seen[side] += len(ids)
            # Nothing in the batch is left over.
            assert seen["inputs"] == np.count_nonzero(fed["encoder_input_tokens"])
            assert seen["targets"] == np.count_nonzero(fed["decoder_target_tokens"])


def test_the_columns_of_a_decoder_only_row():
    # Read:      a b X Y | Z    -> in 2, tg 2 and a third token unread: 3 columns; then 0 + 3: 2.
    # inputs  2,0  targets 2,3
    inputs, targets = _columns(np.array([2, 0]), np.array([2, 3]), True)
    assert inputs == [(0, 2), (3, 3)]
    assert targets == [(1, 3), (3, 5)]
