"""Shards of jsonl files: the same cache from any number of processes, after any kill; bad input."""

import errno
import gzip
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import seqio

from mt0_tpu.data import cache_folder, cache_shards, definition_files
from mt0_tpu.data.batches import Loader, open_sources
from mt0_tpu.data.cache import cache_mixture, ensure_cached
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.indexed import IndexedDataset
from mt0_tpu.errors import UserError
from seqio_tasks import line_files

# What a collection of xP3's layout registers; small ranges, so that there are many.
MODULE = """
from pathlib import Path
import seqio
from seqio_tasks import line_files
from seqio_tasks.sources import JsonlDataSource

line_files.RANGE_BYTES = 20_000
FOLDER = Path(__file__).parent
FEATURES = {n: seqio.Feature(seqio.ByteVocabulary()) for n in ("inputs", "targets")}
names = []
for file in sorted(FOLDER.glob("*/merged_*.jsonl")):
    names.append(f"shards_{FOLDER.name}_{file.parent.name}")
    seqio.TaskRegistry.add(
        names[-1],
        source=JsonlDataSource({"train": str(file)}, ("inputs", "targets"), validation_one_in=20,
                               OPTIONS),
        preprocessors=[seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder(),
                       seqio.preprocessors.append_eos_after_trim],
        output_features=FEATURES,
    )
seqio.MixtureRegistry.add(f"shards_{FOLDER.name}", names,
                          default_rate=seqio.mixing_rate_num_examples)
"""
FILES = ("inputs_document.bin", "inputs_document.idx", "targets_document.bin", "info.json")


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch):
    """Undoes what the modules do to the range, which in workers only they can."""
    monkeypatch.setattr(line_files, "RANGE_BYTES", 20_000)


def write_collection(folder, sizes, options=""):
    for language, count in sizes.items():
        (folder / language).mkdir(parents=True)
        lines = [
            json.dumps({"inputs": f"{language} é {i} " + "x" * (i % 50), "targets": str(i)})
            for i in range(count)
        ]
        (folder / language / f"merged_{language}.jsonl").write_text("\n".join(lines))
    module = folder / f"{folder.name}_tasks.py"
    module.write_text(MODULE.replace("OPTIONS", options))
    return f"shards_{folder.name}", str(module)


def run(name, root, module, processes=1, **options):
    said = []
    cache_mixture(name, root, module=module, num_processes=processes, progress=said.append,
                  **options)  # fmt: skip
    return said


def content(root, name):
    """Every file of a mixture's cache, but where its mixture was cached from."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.glob(f"{name}_*/*/*"))
    }


def test_processes_and_an_uncut_file_give_the_same_cache(tmp_path, monkeypatch):
    name, module = write_collection(tmp_path / "made", {"en": 2500, "sw": 40})
    said = run(name, tmp_path / "one", module)
    count = len(seqio.TaskRegistry.get(f"{name}_en").source.ranges("train"))
    assert count > 5
    assert "total" in said[-1] and " 2,540 " in said[-1]
    monkeypatch.setattr(cache_shards, "_SMALL_BYTES", 1000)
    monkeypatch.setattr(cache_shards, "_GROUP_BYTES", 1000)
    run(name, tmp_path / "two", module, processes=2)
    monkeypatch.setattr(line_files, "RANGE_BYTES", 1 << 30)
    run(name, tmp_path / "whole", module)
    one = content(tmp_path / "one", name)
    assert len(one) == 2 * 2 * 5
    assert one == content(tmp_path / "two", name) == content(tmp_path / "whole", name)
    # Rates by size come from the counts of the cache, and the validation split is its own.
    mixture = json.loads((tmp_path / "one" / f"{name}.mixture.json").read_text())
    rates = {task["name"]: task["rate"] for task in mixture["tasks"]}
    config = DatasetConfig(name, {"inputs": 80, "targets": 8}, cache_dir=str(tmp_path / "two"))
    opened = {task.name: len(task.datasets[0]) for task in open_sources(config)}
    assert rates == opened and 2200 < rates[f"{name}_en"] < 2500
    with Loader(open_sources(config), config, epochs=1) as loader:
        for _ in loader:
            pass
    assert loader.stats.examples == sum(opened.values())


def test_caching_one_split_counts_no_lines_for_the_rates(tmp_path, monkeypatch):
    from seqio_tasks.sources import JsonlDataSource

    name, module = write_collection(tmp_path / "rates", {"en": 100, "sw": 40})
    tell = JsonlDataSource.num_input_examples
    monkeypatch.setattr(
        JsonlDataSource,
        "num_input_examples",
        lambda self, split: tell(self, split) if self._num_input_examples else pytest.fail("read"),
    )
    run(name, tmp_path / "cache", module, splits=["train"])
    mixture = json.loads((tmp_path / "cache" / f"{name}.mixture.json").read_text())
    assert 0 < mixture["tasks"][1]["rate"] <= 40 < mixture["tasks"][0]["rate"]


def _started(folder, name, module, cache_dir):
    """Starts `mt0 cache` in processes of its own and waits for its first whole shard."""
    code = (
        "from mt0_tpu.data import cache, cache_shards\n"
        "cache_shards._SMALL_BYTES = cache_shards._GROUP_BYTES = 1000\n"
        f"cache.cache_mixture({name!r}, {str(cache_dir)!r}, module={module!r}, num_processes=2,\n"
        "    splits=['train'])\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while child.poll() is None and not list(cache_dir.glob(".partial-*/shard-?????-of-?????")):
        time.sleep(0.005)
    return child


def _group(session):
    """Processes of a session, zombies left out."""
    found = []
    for folder in os.listdir("/proc"):
        if folder.isdigit():
            try:
                with open(f"/proc/{folder}/stat") as file:
                    _, _, rest = file.read().rpartition(")")
            except OSError:
                continue
            state, _, _, number, *_ = rest.split()
            if int(number) == session and state != "Z":
                found.append(int(folder))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_killed_caching_goes_on_and_leaves_no_process(tmp_path, monkeypatch):
    name, module = write_collection(tmp_path / "killed", {"en": 120_000})
    killed = tmp_path / "cache"
    child = _started(tmp_path, name, module, killed)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    deadline = time.monotonic() + 60
    while _group(child.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _group(child.pid)  # workers end with their parent
    assert not list(killed.glob("shards_*"))
    kept = {path.name for path in killed.glob(".partial-*-train-*/shard-?????-of-?????")}
    written = []
    monkeypatch.setattr(
        cache_shards,
        "write_shard",
        lambda folder, *rest: written.append(folder.name) or WRITE_SHARD(folder, *rest),
    )
    run(name, killed, module, splits=["train"])
    count = len(seqio.TaskRegistry.get(f"{name}_en").source.ranges("train"))
    assert kept and not kept & set(written) and len(kept) + len(written) == count
    monkeypatch.undo()
    run(name, tmp_path / "unharmed", module, splits=["train"])
    assert content(killed, name) == content(tmp_path / "unharmed", name)
    assert not list(killed.glob(".partial-*"))


WRITE_SHARD = cache_shards.write_shard


def spoil(tmp_path, name, lines, options=""):
    """A collection of one language whose file gets further lines."""
    mixture, module = write_collection(tmp_path / name, {"en": 600}, options)
    path = tmp_path / name / "en" / "merged_en.jsonl"
    with path.open("ab") as file:
        file.write(b"\n" + b"\n".join(lines))
    return mixture, module, path


def test_a_bad_line_is_named_and_skipped_on_demand(tmp_path):
    bad = [b"{", b'{"inputs": "a"}', b'{"inputs": 1, "targets": "b"}', b"[]",
           b'{"inputs": "", "targets": "b"}'] * 5  # fmt: skip
    name, module, path = spoil(tmp_path, "stops", bad)
    with pytest.raises(
        UserError, match=r"task 'shards_stops_en': .*merged_en\.jsonl, line 6\d\d: "
    ):
        run(name, tmp_path / "cache", module)
    assert not list((tmp_path / "cache").glob("shards_*"))

    name, module, path = spoil(tmp_path, "skips", bad, "bad_lines='skip'")
    said = run(name, tmp_path / "cache", module)
    infos = {
        split: json.loads((tmp_path / "cache" / f"{name}_en" / split / "info.json").read_text())
        for split in ("train", "validation")
    }
    lost = [sum(i[key] for i in infos.values()) for key in ("num_examples", "bad_lines", "empty")]
    assert lost == [600, 20, 5]
    assert infos["train"]["first_bad"][0].startswith(f"{path}, line 60")
    assert "dropped      bad    empty" in said[0]
    (total,) = [line.split() for line in said if line.startswith("total")]
    assert total[-3:] == ["0", "20", "5"]
    assert 3 <= sum(line.startswith(f"skipped: {path}, line 6") for line in said) <= 5
    assert said[-1].startswith("skipped: … 20 bad lines in all")


def test_a_bad_line_through_tf_data_is_named_as_well(tmp_path):
    name, module, path = spoil(tmp_path, "through_tf", [b"{"])
    step = "lambda dataset: dataset.filter(lambda x: True)"
    text = Path(module).read_text()
    Path(module).write_text(text.replace("preprocessors=[", f"preprocessors=[{step}, "))
    with pytest.raises(UserError, match=r"merged_en\.jsonl, line 601: not JSON"):
        run(name, tmp_path / "cache", module)


def test_other_data_and_missing_files_are_named(tmp_path):
    name, module = write_collection(tmp_path / "packed", {"en": 50})
    path = tmp_path / "packed" / "en" / "merged_en.jsonl"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match="was given as JSON lines and is gzip data"):
        run(name, tmp_path / "cache", module)
    name, module = write_collection(tmp_path / "gone", {"en": 50})
    import seqio_tasks

    seqio_tasks.load(module)
    (tmp_path / "gone" / "en" / "merged_en.jsonl").unlink()
    with pytest.raises(UserError, match=r"names .*merged_en\.jsonl, and there is no such file"):
        run(name, tmp_path / "cache", module)


def test_a_changed_file_is_noticed_without_reading_it(tmp_path, monkeypatch):
    name, module = write_collection(tmp_path / "changed", {"en": 50})
    path = tmp_path / "changed" / "en" / "merged_en.jsonl"
    run(name, tmp_path / "cache", module)
    config = DatasetConfig(name, {"inputs": 80, "targets": 8}, module=module,
                           cache_dir=str(tmp_path / "cache"))  # fmt: skip
    from mt0_tpu.data import cache

    commands, said = [], []
    monkeypatch.setattr(
        cache.cache_child, "run", lambda command, progress: commands.append(command)
    )
    ensure_cached(config, said.append)
    assert not commands
    with path.open("a") as file:
        file.write('\n{"inputs": "new", "targets": "new"}')
    ensure_cached(config, said.append)
    assert commands and f"{path} changed since '{name}' was cached" in said[-1]
    seqio.TaskRegistry.get(f"{name}_en").source._found.clear()
    with pytest.raises(
        UserError, match=rf"changed is source .*files that changed: {path}\); rebui"
    ):
        run(name, tmp_path / "cache", module)
    # Where the file is not at hand, the cache is trained on as it is.
    path.rename(tmp_path / "elsewhere")
    assert definition_files.changed_data({str(path): [1, 1]}) == []


def test_another_rule_for_lines_is_another_definition(tmp_path):
    name, module = write_collection(tmp_path / "rules", {"en": 50})
    run(name, tmp_path / "cache", module)
    seqio.TaskRegistry.get(f"{name}_en").source._skip = True
    with pytest.raises(UserError, match="changed is source .*bad_lines=stop.*bad_lines=skip"):
        run(name, tmp_path / "cache", module)


def test_overlong_examples_are_counted_for_row_lengths(tmp_path):
    name, module = write_collection(tmp_path / "overlong", {"en": 100})
    said = run(name, tmp_path / "cache", module, lengths={"inputs": 40, "targets": 3})
    assert said[0].split()[-1] == "overlong"
    expected = 0
    for split in ("train", "validation"):
        inputs, targets = (
            IndexedDataset(tmp_path / "cache" / f"{name}_en" / split / f"{feature}_document")
            for feature in ("inputs", "targets")
        )
        expected += sum(
            len(a) + 1 > 40 or len(b) + 1 > 3 for a, b in zip(inputs, targets, strict=True)
        )
    assert 0 < expected < 100
    assert said[-1].split()[-1] == str(expected)


def test_a_source_without_ranges_keeps_its_cut_when_it_goes_on(tmp_path, monkeypatch):
    import functools

    from mt0_tpu.data.task_definition import define, fingerprint
    from seqio_tasks import sources

    rows = functools.partial(map, _row, range(100))
    seqio.TaskRegistry.add(
        "strides",
        source=sources.PythonDataSource({"train": rows}),
        preprocessors=[seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder()],
        output_features={n: seqio.Feature(seqio.ByteVocabulary()) for n in ("inputs", "targets")},
    )
    for name in ("_SMALL_BYTES", "_GROUP_BYTES"):
        monkeypatch.setattr(cache_shards, name, 1000)
    definitions = {"strides": define(seqio.TaskRegistry.get("strides"))}
    prints = {name: fingerprint(definition) for name, definition in definitions.items()}
    plan = [tmp_path, definitions, prints, [("strides", "train")]]
    three = cache_shards.plan(*plan, 3)
    assert [part.index for part in three] == [0, 1, 2]
    cache_shards.write_part(three[1], definitions["strides"], lambda *numbers: None)
    assert cache_shards.plan(*plan, 8) == three
    assert [part.count for part in cache_shards.plan(*plan, 1)] == [1]


def _row(number):
    return {"inputs": f"row {number}", "targets": str(number)}


def test_a_killed_worker_is_said(tmp_path, monkeypatch):
    name, module = write_collection(tmp_path / "worker", {"en": 300})
    with open(module, "a") as file:
        file.write("\nimport os, multiprocessing\n"
                   "if multiprocessing.parent_process(): os.kill(os.getpid(), 9)\n")  # fmt: skip
    for constant in ("_SMALL_BYTES", "_GROUP_BYTES"):
        monkeypatch.setattr(cache_shards, constant, 1000)
    with pytest.raises(UserError, match="a caching process was killed.*finished parts are kept"):
        run(name, tmp_path / "cache", module, processes=2)


def test_a_generated_collection_goes_through_cache_and_loader(tmp_path, shared, monkeypatch):
    """The trial of benchmarks/caching.py in small: xP3's layout, mT5's vocabulary, processes."""
    path = Path(__file__).parents[2] / "benchmarks" / "collection.py"
    specification = importlib.util.spec_from_file_location("collection", path)
    collection = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(collection)
    collection.write_collection(tmp_path / "made", shared, 3000)
    command = [sys.executable, "-m", "mt0_tpu", "cache", "--mixture", "collection"]
    command += ["--module", str(tmp_path / "made" / "collection_tasks.py")]
    command += ["--cache_dir", str(tmp_path / "cache")]
    command += ["--task_feature_lengths", "inputs=1024,targets=256"]
    model = str(shared / "vocab" / "mt5" / "spiece.model")
    environment = {**os.environ, "MT0_VOCABULARY": model}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (total,) = [line.split() for line in done.stdout.splitlines() if line.startswith("total")]
    assert total[1] == "3,000" and total[3:6] == ["0", "0", "0"] and int(total[6]) > 50
    config = DatasetConfig("collection", {"inputs": 1024, "targets": 256}, batch_size=8,
                           cache_dir=str(tmp_path / "cache"))  # fmt: skip
    opened = open_sources(config)
    with Loader(opened, config, epochs=1) as loader:
        for _ in loader:
            pass
    # The others make the split `validation`, about one in 2000.
    assert loader.stats.examples == sum(len(task.datasets[0]) for task in opened) > 2980


def test_a_disk_that_fills_up_while_joining_keeps_the_shards(tmp_path, monkeypatch):
    name, module = write_collection(tmp_path / "full", {"en": 1500})

    def full(self, prefix):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache_folder.IndexedWriter, "append", full)
        with pytest.raises(UserError, match="is full .* finished parts are kept"):
            run(name, tmp_path / "cache", module, splits=["train"])
    kept = {path.name[:6] for path in (tmp_path / "cache").glob(".partial-*/*")}
    assert kept == {"shard-"}
    monkeypatch.setattr(cache_shards, "write_shard", lambda *rest: pytest.fail("written again"))
    run(name, tmp_path / "cache", module, splits=["train"])
    assert not list((tmp_path / "cache").glob(".partial-*"))
