import dataclasses
import gc
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mt0_tpu.data.batches import (
    Loader,
    LoaderState,
    abstract_batch,
    check_vocabulary,
    open_sources,
)
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.errors import UserError

ROW = {"inputs": 24, "targets": 10}


@pytest.fixture(scope="module")
def root(tmp_path_factory, cache_writer):
    """Three tasks whose every example carries tokens of its own."""
    folder, random, token = tmp_path_factory.mktemp("cache"), np.random.default_rng(0), 10
    tasks = {}
    for name, size in (("a", 40), ("b", 23), ("c", 90)):
        tasks[name] = []
        for _ in range(size):
            lengths = random.integers(1, (24, 10))
            tasks[name].append([np.arange(token, token + n) for n in lengths])
            token += 30
    cache_writer(folder, tasks, rates={"a": 1.0, "b": 2.0, "c": 5.0})
    return folder


def _config(root, **changes):
    return DatasetConfig(
        "mix", **{"task_feature_lengths": ROW, "batch_size": 4, "cache_dir": str(root),
                  "window_examples": 32} | changes,
    )  # fmt: skip


def _loader(root, config=None, **options):
    config = config or _config(root)
    return Loader(open_sources(config), config, **options)


def _take(loader, count):
    with loader:
        return [(batch, loader.state) for batch, _ in zip(loader, range(count), strict=False)]


def _same(one, other):
    assert sorted(one) == sorted(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_any_position_resumes_exactly(root, packed, prefetch):
    config = _config(root, pack=packed)
    whole = _take(_loader(root, config), 40)
    assert {state.window for _, state in whole} >= {0, 1, 2}
    for begin in range(0, 39, 3):
        resumed = _take(_loader(root, config, state=whole[begin][1], prefetch=prefetch), 2)
        for (batch, state), (expected, expected_state) in zip(
            resumed, whole[begin + 1 :], strict=False
        ):
            _same(batch, expected)
            assert state == expected_state


@given(window=st.integers(0, 3000), row=st.integers(0, 4), batch_size=st.integers(1, 9))
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_stream_is_one_whatever_the_position_and_batch(root, window, row, batch_size):
    begin = LoaderState(window, row)
    big = _take(_loader(root, _config(root, batch_size=batch_size * 2), state=begin), 1)
    small = _take(_loader(root, _config(root, batch_size=batch_size), state=begin), 2)
    _same(
        big[0][0],
        {name: np.concatenate([b[name] for b, _ in small]) for name in small[0][0]},
    )
    assert big[0][1] == small[1][1]


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_one_global_stream(root, hosts):
    alone = _take(_loader(root), 12)
    parts = [
        _take(_loader(root, process_index=host, process_count=hosts), 12) for host in range(hosts)
    ]
    for step, (batch, state) in enumerate(alone):
        # The layout of jax.make_array_from_process_local_data: host after host.
        together = [part[step][0] for part in parts]
        _same(batch, {name: np.concatenate([p[name] for p in together]) for name in batch})
        assert all(part[step][1] == state for part in parts)


def _examples(batches):
    """Returns the (inputs, targets) of every segment, EOS taken off."""
    found = []
    for batch in batches:
        for row in range(len(batch["encoder_input_tokens"])):
            for segment in range(1, batch["decoder_segment_ids"][row].max() + 1):
                pair = []
                for tower, tokens in (
                    ("encoder", "encoder_input_tokens"),
                    ("decoder", "decoder_target_tokens"),
                ):
                    here = batch[f"{tower}_segment_ids"][row] == segment
                    side = batch[tokens][row][here].tolist()
                    assert side.pop() == 1
                    assert batch[f"{tower}_positions"][row][here].tolist() == list(
                        range(len(side) + 1)
                    )
                    pair.append(tuple(side))
                found.append(tuple(pair))
    return found


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("window", [7, 64, 5000])
def test_one_epoch_gives_every_example_once(root, shuffle, window):
    config = _config(root, shuffle=shuffle, window_examples=window)
    with _loader(root, config, epochs=1) as loader:
        batches = list(loader)
        stats = loader.stats
    assert all(len(b["encoder_input_tokens"]) == 4 for b in batches)
    expected = [
        (tuple(pair[0].tolist()), tuple(pair[1].tolist()))
        for source in open_sources(config)
        for pair in zip(source.datasets[0], source.datasets[1], strict=True)
    ]
    found = _examples(batches)
    assert sorted(found) == sorted(expected)
    assert stats.examples == len(expected) == 153
    assert stats.inputs_tokens == sum(len(pair[0]) + 1 for pair in expected)
    assert 0 < stats.packing_efficiency <= 1
    with _loader(root, config, epochs=1, process_count=2, process_index=1) as half:
        assert len(list(half)) == len(batches)


def test_the_mixture_comes_by_its_rates(root):
    with _loader(root, _config(root, window_examples=64), prefetch=0) as loader:
        first_token = {10: "a", 10 + 40 * 30: "b", 10 + 63 * 30: "c"}
        found = []
        while loader.state.window < 9:
            found += _examples([next(loader)])
    starts = sorted(first_token)
    names = [first_token[starts[np.searchsorted(starts, p[0][0], "right") - 1]] for p in found]
    counts = [names[: 64 * 8].count(name) / 64 for name in "abc"]
    assert np.abs(np.array(counts) - (1, 2, 5)).max() < 0.15


def test_seeds_and_epochs_change_the_order(root):
    one, other = (_take(_loader(root, _config(root, seed=s)), 1)[0][0] for s in (0, 1))
    assert not np.array_equal(one["encoder_input_tokens"], other["encoder_input_tokens"])


def test_abstract_batch_is_what_comes(root):
    for packed in (True, False):
        config = _config(root, pack=packed)
        shapes = abstract_batch(config)
        batch = _take(_loader(root, config), 1)[0][0]
        assert {n: (a.shape, a.dtype) for n, a in batch.items()} == {
            n: (s.shape, s.dtype) for n, s in shapes.items()
        }


def test_a_dropped_loader_ends_its_thread(root):
    before = threading.active_count()
    loader = _loader(root)
    next(loader)
    assert threading.active_count() == before + 1
    thread = loader._thread
    del loader
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_errors(root, tmp_path, cache_writer):
    with pytest.raises(UserError, match="batch_size is 4, not divisible by the 3 processes"):
        _loader(root, process_count=3)
    with pytest.raises(UserError, match="epochs is 2"):
        _loader(root, epochs=2)
    with pytest.raises(UserError, match="saved position is row 99 of window 0"):
        next(_loader(root, state=LoaderState(0, 99)))
    with pytest.raises(UserError, match="'mx' is not cached .* Did you mean 'mix'"):
        open_sources(dataclasses.replace(_config(root), mixture_or_task_name="mx"))
    with pytest.raises(UserError, match="no split 'trian'.* Did you mean 'train'"):
        open_sources(_config(root, split="trian"))
    with pytest.raises(
        UserError, match="vocabulary of 250100 ids in 'inputs', but the model has 32000"
    ):
        check_vocabulary(open_sources(_config(root)), 32_000)
    check_vocabulary(open_sources(_config(root)), 250_112)
    with pytest.raises(UserError, match="mT5's vocabulary .* BLOOM's 250,880 rows: set MT0_VOCAB"):
        check_vocabulary(open_sources(_config(root)), 250_880)
    cache_writer(tmp_path, {"long": [(range(99), [1])] * 5})
    with pytest.raises(UserError, match="hold no usable example .* 32 were longer than a row"):
        next(_loader(tmp_path, _config(tmp_path, overlong="drop")))
    (tmp_path / "long" / "train" / "inputs_document.bin").write_bytes(b"12")
    with pytest.raises(UserError, match="inputs_document.bin is damaged: found 2 bytes"):
        open_sources(_config(tmp_path))
    (tmp_path / "long" / "train" / "info.json").write_text('{"version": 0}')
    with pytest.raises(UserError, match="has version 0, expected 1"):
        open_sources(_config(tmp_path))
    (tmp_path / "mix.mixture.json").write_text("{")
    with pytest.raises(UserError, match="mix.mixture.json cannot be read"):
        open_sources(_config(tmp_path))


def test_training_over_a_cache_imports_neither_seqio_nor_tensorflow(root):
    program = """
        import sys
        from mt0_tpu.data.batches import Loader, open_sources
        from mt0_tpu.data.cache import ensure_cached
        from mt0_tpu.data.dataset_config import DatasetConfig
        config = DatasetConfig(
            "mix", {"inputs": 24, "targets": 10}, batch_size=4, cache_dir=sys.argv[1]
        )
        with Loader(open_sources(config), config) as loader:
            next(loader)
        found = {"tensorflow", "seqio", "jax", "gin"} & set(sys.modules)
        assert not found, found
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(root)],
        check=True,
        cwd=Path(__file__).parents[2],
    )
