"""mt0_tpu/tasks/task_stats.py and stats_lines.py over hand-written caches."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.tasks import row_lengths, stats_lines
from mt0_tpu.tasks.task_stats import Lengths, count_lengths, read_stats
from tests.data.conftest import write_cache

REPOSITORY = Path(__file__).resolve().parents[2]
SPAN = {"name": "span_corruption", "first_sentinel": 99}


@pytest.fixture(autouse=True)
def few_row_lengths(monkeypatch):
    """Every candidate costs a packing of a whole window."""
    monkeypatch.setattr(row_lengths, "INPUTS_LENGTHS", (32, 64, 128))
    monkeypatch.setattr(row_lengths, "TARGETS_LENGTHS", (16, 32))


def pair(inputs, targets):
    return [5] * inputs, [6] * targets


def printed(root, name="mix", split="train", **more):
    lines = []
    stats_lines.print_stats(name, split, str(root), size="tiny", say=lines.append, **more)
    return lines


def test_lengths_as_literals():
    lengths = Lengths(np.array([0, 0, 3, 0, 1]))  # three of 2 tokens, one of 4
    assert (lengths.sequences, lengths.tokens, lengths.mean, lengths.longest) == (4, 10, 2.5, 4)
    assert [lengths.percentile(p) for p in (1, 50, 75, 76, 100)] == [2, 2, 2, 4, 4]
    assert lengths.share_above(2) == 0.25
    assert lengths.bins() == [(2, 0.75), (4, 0.25)]
    assert lengths.bins(fine=True) == [(2, 0.75), (3, 0.0), (4, 0.25)]


def test_percentiles_are_numpys_least_covering_ones():
    sizes = np.random.default_rng(3).integers(0, 50, 1000)
    lengths = Lengths(np.bincount(sizes))
    for percent in (1, 50, 95, 99.9, 100):
        expected = np.percentile(sizes, percent, method="inverted_cdf")
        assert lengths.percentile(percent) == expected


def test_no_sequences():
    nothing = Lengths(np.zeros(1))
    assert (nothing.mean, nothing.longest, nothing.percentile(50), nothing.bins()) == (0, 0, 0, [])


def test_eos_counts_and_blocks_add_up(tmp_path, monkeypatch):
    from mt0_tpu.data.indexed import IndexedDataset
    from mt0_tpu.tasks import task_stats

    monkeypatch.setattr(task_stats, "_BLOCK", 2)
    write_cache(tmp_path, {"a": [pair(3, 1), pair(1, 1), pair(3, 2), pair(0, 1), pair(3, 1)]})
    data = IndexedDataset(tmp_path / "a" / "train" / "inputs_document")
    assert count_lengths(data, False).tolist() == [1, 1, 0, 3]
    assert count_lengths(data, True).tolist() == [0, 1, 1, 0, 3]


def test_rates_weigh_what_is_drawn(tmp_path):
    tasks = {"a": [pair(4, 1)] * 4, "b": [pair(9, 1)]}
    write_cache(tmp_path, tasks, rates={"a": 1.0, "b": 3.0})
    stats = read_stats(tmp_path, "mix", "train")
    # a: 4 × (5 + 2) tokens, b: 10 + 2. A draw is an a in one of four cases.
    assert (stats.examples, stats.tokens) == (5, 40)
    assert stats.drawn["inputs"].mean == pytest.approx(0.25 * 5 + 0.75 * 10)
    b, a = stats.shares("task")
    assert (b.name, a.name) == ("b", "a")
    assert b.of == pytest.approx(
        {"examples": 0.2, "tokens": 0.3, "drawn": 0.75, "drawn tokens": 36 / (7 + 36)}
    )
    assert b.passes == 750_000
    assert a.passes == 250_000 / 4


def test_languages_and_clusters_come_from_names_or_from_the_cache(tmp_path):
    write_cache(tmp_path, {"mini_code_fr": [pair(3, 1)], "own": [pair(3, 1)], "x": [pair(1, 1)]})
    path = tmp_path / "mix.mixture.json"
    content = json.loads(path.read_text())
    content["tasks"][1]["facts"] = {"language": "fr", "cluster": "poems"}
    path.write_text(json.dumps(content))
    stats = read_stats(tmp_path, "mix", "train")
    languages = {share.name: share.tasks for share in stats.shares("language")}
    assert languages == {"fr": 2, "(unknown)": 1}
    clusters = {share.name for share in stats.shares("cluster")}
    assert clusters == {"code", "poems", "(unknown)"}


def test_a_task_without_a_mixture_file_of_its_own(tmp_path):
    write_cache(tmp_path, {"a": [pair(3, 1)], "b": [pair(4, 1), pair(4, 1)]})
    assert read_stats(tmp_path, "b", "train").examples == 2


def test_empty_tasks_are_named_and_draw_nothing(tmp_path):
    write_cache(tmp_path, {"a": [pair(3, 1)], "void": []})
    lines = printed(tmp_path)
    assert "without examples: void" in lines
    assert read_stats(tmp_path, "mix", "train").shares("task")[-1].of["drawn"] == 0


def test_a_mixture_of_empty_tasks_alone_says_so_and_ends(tmp_path):
    write_cache(tmp_path, {"void": []})
    lines = printed(tmp_path)
    assert lines[0].startswith("mix [train]: 1 task, 0 examples, 0 tokens")
    assert lines[1:] == ["without examples: void"]


def test_texts_for_span_corruption_have_one_length(tmp_path):
    write_cache(tmp_path, {"a": [([], [7] * 20), ([], [7] * 40)]}, draw_steps=[SPAN])
    stats = read_stats(tmp_path, "mix", "train")
    assert stats.tasks[0].kind == "span"
    assert stats.drawn["texts"].tokens == 30  # the mean, as weights sum to one
    assert any("texts are cut to the row" in line for line in printed(tmp_path))


def write_rank_task(root, name="ranked"):
    """One question of 4 tokens with choices of 1 and 2, EOS on both sides."""
    from mt0_tpu.data.indexed import IndexedWriter

    folder = root / name / "validation"
    folder.mkdir(parents=True)
    with IndexedWriter(folder / "inputs_document", np.int32) as writer:
        writer.add(np.array([5, 6, 7, 8], np.int32))
    with IndexedWriter(folder / "choices_document", np.int32) as writer:
        writer.add_flat(np.array([9, 10, 11], np.int32), np.array([1, 2]), end_document=False)
        writer.end_documents([2])
    np.save(folder / "answers.npy", np.array([1], np.int32))
    features = {f: {"eos_id": 1, "vocab_size": 100} for f in ("inputs", "choices")}
    info = {
        "version": 1, "kind": "rank", "num_examples": 1, "features": features, "draw_steps": [],
        "append_eos": {"inputs": True, "choices": True},
    }  # fmt: skip
    (folder / "info.json").write_text(json.dumps(info))


def test_rank_tasks_have_choices_and_no_rows(tmp_path):
    write_rank_task(tmp_path)
    stats = read_stats(tmp_path, "ranked", "validation")
    assert stats.drawn["choices"].bins() == [(2, 0.5), (4, 0.5)]
    lines = printed(tmp_path, "ranked", "validation")
    assert not any("row lengths" in line for line in lines)
    assert any(line.startswith("choices") for line in lines)


def test_what_is_printed_for_a_small_mixture(tmp_path):
    write_cache(tmp_path, {"mini_code_fr": [pair(3, 1)] * 3, "mini_code_en": [pair(9, 2)] * 3})
    lines = printed(tmp_path)
    assert lines[0] == f"mix [train]: 2 tasks, 6 examples, 57 tokens, in {tmp_path}"
    assert "inputs    7.0    4   10   10   10     10       10" in lines
    assert "inputs         50.0%" not in lines
    assert "  ≤  4  ████████████████████████   50.0%" in lines
    assert any(line.startswith("by language") for line in lines)
    assert not any(line.startswith("by cluster") for line in lines)  # one alone
    paste = lines.index("  TASK_FEATURE_LENGTHS = {'inputs': 32, 'targets': 16}")
    assert lines[paste + 1] == "  utils.DatasetConfig.pack = True"
    assert lines[paste + 2].startswith("  BATCH_SIZE = ")
    assert lines[-1].startswith("Not packed: TASK_FEATURE_LENGTHS = {'inputs': 32, 'targets': 16}")


def test_many_tasks_are_cut_short_unless_all_are_asked_for(tmp_path):
    write_cache(tmp_path, {f"t{i:02}": [pair(3, 1)] for i in range(20)})
    assert any(line.startswith("… 8 more, 40.0% drawn") for line in printed(tmp_path))
    assert any(line.startswith("t19") for line in printed(tmp_path, everything=True))


def test_the_pasted_line_is_gin(tmp_path):
    from mt0_tpu.tasks.row_lengths import RowChoice

    choice = RowChoice((256, 64), True, 125.0, (1.0, 1.0), 0.0, 1.0, 1.0, 1.0)
    assert stats_lines.gin_lines(choice) == [
        "TASK_FEATURE_LENGTHS = {'inputs': 256, 'targets': 64}",
        "utils.DatasetConfig.pack = True",
        "BATCH_SIZE = 64  # packed rows of 8.0 examples: 512 a step",
    ]


@pytest.mark.parametrize(
    ("name", "split", "said"),
    [
        ("mixx", "train", "'mixx' is not cached in .*Did you mean 'mix'"),
        ("poem_en", "train", "Did you mean 'poems_en'"),
        ("mix", "trian", "'mix' has no split 'trian'; it has train. Did you mean 'train'"),
    ],
)
def test_near_matches(tmp_path, name, split, said):
    write_cache(tmp_path, {"poems_en": [pair(3, 1)]})
    with pytest.raises(UserError, match=said):
        read_stats(tmp_path, name, split)


def test_no_folder_of_caches(tmp_path):
    with pytest.raises(UserError, match="run `mt0 cache --mixture mix"):
        read_stats(tmp_path / "none", "mix", "train")


def test_a_damaged_cache_is_said(tmp_path):
    write_cache(tmp_path, {"a": [pair(3, 1)]})
    (tmp_path / "a" / "train" / "targets_document.bin").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        read_stats(tmp_path, "mix", "train")


def test_a_remote_cache_is_copied_here_first(tmp_path, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    monkeypatch.setenv("MT0_LOCAL_CACHE_DIR", str(here))
    write_cache(there, {"a": [pair(3, 1)]})
    lines = []
    stats_lines.print_stats("mix", "train", f"file://{there}", size="tiny", say=lines.append)
    assert any(line.startswith("mix [train]: 1 task, 1 example,") for line in lines)


def test_a_share_is_a_share(tmp_path):
    write_cache(tmp_path, {"a": [pair(3, 1)]})
    with pytest.raises(UserError, match="--trimmed is 5; write a share"):
        printed(tmp_path, most_trimmed=5)


def test_neither_seqio_nor_tensorflow_nor_a_device_is_needed(tmp_path):
    write_cache(tmp_path, {"mini_code_fr": [pair(3, 1)], "xp3_sw": [pair(9, 2)]})
    probe = (
        "import os, sys; os.environ['JAX_PLATFORMS'] = 'none_such'\n"
        "from mt0_tpu import cli\n"
        f"code = cli.main(['tasks', 'stats', 'mix', '--cache_dir', {str(tmp_path)!r}])\n"
        "print(code, [m for m in ('tensorflow', 'seqio', 't5') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert "by language" in done.stdout
