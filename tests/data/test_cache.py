import errno
import functools
import itertools
import json
import shutil

import numpy as np
import pytest
import seqio

from mt0_tpu.data import cache, cache_folder, cache_shards, definition_files
from mt0_tpu.data.batches import Loader, open_sources
from mt0_tpu.data.cache import cache_mixture, ensure_cached
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.indexed import IndexedDataset
from mt0_tpu.data.task_definition import define, fingerprint
from mt0_tpu.data.tokenizing import encoded
from mt0_tpu.errors import UserError
from seqio_tasks import sources

VOCABULARY = seqio.ByteVocabulary(extra_ids=10)
_numbers = itertools.count()


def rows(count, word="line"):
    for i in range(count):
        yield {"inputs": f"{word} é {i}", "targets": f"{i * 7}"}


def source(count=30, word="line"):
    make = functools.partial(rows, count, word)
    return sources.PythonDataSource({"train": make, "validation": functools.partial(rows, 3)})


def tf_source(count=30, word="line"):
    import tensorflow as tf

    def make(split, shuffle_files, seed=None):
        examples = list(rows(count if split == "train" else 3, word))
        return tf.data.Dataset.from_tensor_slices(
            {key: [example[key] for example in examples] for key in ("inputs", "targets")}
        )

    return seqio.FunctionDataSource(make, splits=["train", "validation"])


def features(vocabulary=VOCABULARY, **eos):
    return {
        name: seqio.Feature(vocabulary, add_eos=eos.get(name, True))
        for name in ("inputs", "targets")
    }


def steps(*before, after=(seqio.preprocessors.append_eos_after_trim,)):
    return [seqio.preprocessors.tokenize, *before, seqio.CacheDatasetPlaceholder(), *after]


def add(name=None, **changes):
    name = name or f"cache_test_{next(_numbers)}"
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    options = {"source": source(), "preprocessors": steps(), "output_features": features()}
    seqio.TaskRegistry.add(name, **(options | changes))
    return name


def ids(root, task, feature="inputs", split="train"):
    data = IndexedDataset(root / task / split / f"{feature}_document")
    return [sequence.tolist() for sequence in data]


def quiet(line):
    pass


def run(name, root, **options):
    cache_mixture(name, root, progress=quiet, num_processes=1, **options)


def test_ids_and_info_of_a_task(tmp_path):
    said = []
    name = add()
    cache_mixture(name, tmp_path, progress=said.append)
    assert ids(tmp_path, name) == [VOCABULARY.encode(row["inputs"]) for row in rows(30)]
    assert ids(tmp_path, name, "targets", "validation") == [
        VOCABULARY.encode(row["targets"]) for row in rows(3)
    ]
    info = json.loads((tmp_path / name / "train" / "info.json").read_text())
    assert (info["num_examples"], info["kind"], info["draw_steps"]) == (30, "pairs", [])
    assert info["append_eos"] == {"inputs": True, "targets": True}
    targets = info["features"]["targets"]
    lengths = [len(row["targets"]) for row in rows(30)]
    assert (targets["tokens"], targets["longest"]) == (sum(lengths), max(lengths))
    assert sum(targets["length_histogram"]["counts"]) == 30
    assert said[0].split() == ["task", "split", "examples", "tokens", "dropped", "bad", "empty"]
    assert said[-1].split()[:2] == ["total", "33"]
    # Nothing but the cache is left.
    assert {p.name for p in tmp_path.iterdir()} == {name, f"{name}.mixture.json"}
    assert {p.suffix for p in (tmp_path / name / "train").iterdir()} == {".bin", ".idx", ".json"}


def test_golden_ids_of_mt5s_vocabulary(shared, golden, tmp_path):
    texts = (golden / "seqio" / "lines.jsonl").read_text().splitlines()
    lines = [{k: v for k, v in json.loads(t).items() if k != "lang"} for t in texts]
    expected = [json.loads(t) for t in (golden / "seqio" / "ids.jsonl").read_text().splitlines()]
    vocabulary = seqio.SentencePieceVocabulary(
        str(shared / "vocab" / "mt5" / "spiece.model"), extra_ids=0
    )
    given = sources.PythonDataSource({"train": lambda: lines})
    name = add(source=given, output_features=features(vocabulary))
    run(name, tmp_path)
    for feature in ("inputs", "targets"):
        assert ids(tmp_path, name, feature) == [line[feature] for line in expected]
    assert IndexedDataset(tmp_path / name / "train" / "inputs_document").dtype == np.int32


def _longer(example):
    number = int(bytes(i - 3 for i in example["targets"]))
    return None if number % 3 == 0 else {**example, "inputs": list(example["inputs"]) + [5]}


def plain_step(dataset):
    raise AssertionError("the plain path does not call it")


plain_step.numpy_map = _longer


@seqio.map_over_dataset
def tf_step(example):
    return {**example, "inputs": example["inputs"][:4]}


def test_tf_data_gives_what_plain_python_gives(tmp_path):
    plain, through_tf = add(), add(source=tf_source())
    assert define(seqio.TaskRegistry.get(plain)).plain
    assert not define(seqio.TaskRegistry.get(through_tf)).plain
    for name in (plain, through_tf):
        run(name, tmp_path)
    assert ids(tmp_path, plain) == ids(tmp_path, through_tf)
    assert ids(tmp_path, plain, "targets") == ids(tmp_path, through_tf, "targets")


def test_steps_in_tf_data_and_in_numpy(tmp_path):
    name = add(preprocessors=steps(tf_step))
    run(name, tmp_path)
    assert ids(tmp_path, name) == [VOCABULARY.encode(r["inputs"])[:4] for r in rows(30)]
    name = add(preprocessors=steps(plain_step))
    run(name, tmp_path)
    kept = [r for r in rows(30) if int(r["targets"]) % 3]
    assert ids(tmp_path, name) == [[*VOCABULARY.encode(r["inputs"]), 5] for r in kept]
    assert json.loads((tmp_path / name / "train" / "info.json").read_text())["dropped"] == 10


def test_a_task_without_placeholder(tmp_path):
    name = add(preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos])
    run(name, tmp_path, splits=["train"])
    info = json.loads((tmp_path / name / "train" / "info.json").read_text())
    assert info["append_eos"]["targets"] and not info["eos_after_trim"]
    assert ids(tmp_path, name) == [VOCABULARY.encode(row["inputs"]) for row in rows(30)]


def _two_a(dataset):
    return dataset


class Draw:
    draw_step = {"name": "span_corruption", "noise_density": 0.2}

    def __call__(self, dataset):
        return dataset


def test_what_may_run_at_drawing(tmp_path):
    eos = seqio.preprocessors.append_eos_after_trim
    with pytest.raises(UserError, match="_two_a' comes after CacheDatasetPlaceholder"):
        run(add(preprocessors=steps(after=(_two_a, eos))), tmp_path)
    with pytest.raises(UserError, match="at most one step and then at most one append_eos"):
        run(add(preprocessors=steps(after=(Draw(), Draw()))), tmp_path)
    with pytest.raises(UserError, match="at most one step and then at most one append_eos"):
        run(add(preprocessors=steps(after=(eos, Draw()))), tmp_path)
    with pytest.raises(UserError, match="cannot be tokenised by seqio.vocabularies.ByteVocab"):
        bad = sources.PythonDataSource({"train": lambda: [{"inputs": 3.5, "targets": "x"}]})
        run(add(source=bad), tmp_path)


def test_span_corruption_is_recorded_and_read(tmp_path):
    texts = sources.PythonDataSource(
        {"train": lambda: [{"inputs": "", "targets": r["inputs"]} for r in rows(20)]}
    )
    name = add(
        source=texts,
        preprocessors=steps(after=(Draw(), seqio.preprocessors.append_eos_after_trim)),
    )
    run(name, tmp_path)
    info = json.loads((tmp_path / name / "train" / "info.json").read_text())
    assert info["draw_steps"] == [
        {"name": "span_corruption", "noise_density": 0.2, "first_sentinel": 268}
    ]
    config = DatasetConfig(name, {"inputs": 40, "targets": 20}, batch_size=2,
                           cache_dir=str(tmp_path))  # fmt: skip
    with Loader(open_sources(config), config, epochs=1) as loader:
        assert (next(loader)["encoder_input_tokens"] == 268).any()


def test_nested_mixtures_multiply_rates_as_seqio_does(tmp_path):
    a, b, c = add(), add(), add()
    inner, outer = f"{a}_inner", f"{a}_outer"
    seqio.MixtureRegistry.add(inner, [(a, 1.0), (b, 3.0)])
    seqio.MixtureRegistry.add(outer, [(inner, 2.0), (c, 2.0), (a, 0.5)])
    run(outer, tmp_path)
    mixture = json.loads((tmp_path / f"{outer}.mixture.json").read_text())
    rates = {task["name"]: task["rate"] for task in mixture["tasks"]}
    assert rates == {a: 1.0, b: 1.5, c: 2.0}
    assert rates[a] == seqio.MixtureRegistry.get(outer).get_rate(seqio.TaskRegistry.get(a))


def test_rates_by_number_of_examples_count_what_is_cached(tmp_path):
    tasks = [add(source=source(30)), add(source=source(50))]
    tasks.append(add(preprocessors=steps(plain_step)))  # keeps 20 of 30
    name = f"{tasks[0]}_by_size"
    seqio.MixtureRegistry.add(name, tasks, default_rate=seqio.mixing_rate_num_examples)
    run(name, tmp_path)
    mixture = json.loads((tmp_path / f"{name}.mixture.json").read_text())
    assert [task["rate"] for task in mixture["tasks"]] == [30, 50, 20]
    # SeqIO does not keep taking our folder for its own.
    assert seqio.TaskRegistry.get(tasks[0]).cache_dir is None


def test_a_task_that_no_mixture_draws_is_not_cached(tmp_path):
    a, b, c = add(), add(), add()
    inner, outer = f"{a}_drawn_inner", f"{a}_drawn"
    seqio.MixtureRegistry.add(inner, [(a, 1.0), (b, 0.0)])
    asked = []

    def rate(task):
        asked.append((tmp_path / task.name).is_dir())
        return 0.0

    seqio.MixtureRegistry.add(outer, [(inner, 2.0), (b, 0), (c, rate)])
    run(outer, tmp_path)
    assert (tmp_path / a).is_dir() and not (tmp_path / b).exists()
    # A function may count examples, so it is asked when there is a cache to count.
    assert (tmp_path / c).is_dir() and asked and all(asked)


def rank_rows():
    for i in range(7):
        yield {
            "inputs": f"q {i}",
            "choices": [f"c{j}" for j in range(2 + i % 3)],
            "answer": i % 2,
            "prompt": "p1",
            "language": "eu",
        }


def rank_features(**changes):
    return {
        "inputs": seqio.Feature(VOCABULARY),
        "choices": seqio.Feature(VOCABULARY, rank=2),
    } | changes


def test_rank_tasks_keep_choices_together(tmp_path):
    name = add(
        source=sources.PythonDataSource({"validation": rank_rows}),
        output_features=rank_features(),
    )
    run(name, tmp_path)
    folder = tmp_path / name / "validation"
    choices = IndexedDataset(folder / "choices_document")
    assert choices.num_documents == 7
    for i, row in enumerate(rank_rows()):
        found = [choice.tolist() for choice in choices.document(i)]
        assert found == [VOCABULARY.encode(choice) for choice in row["choices"]]
    assert np.load(folder / "answers.npy").tolist() == [0, 1, 0, 1, 0, 1, 0]
    meta = [json.loads(line) for line in (folder / "meta.jsonl").read_text().splitlines()]
    assert meta == [{"prompt": "p1", "language": "eu"}] * 7
    config = DatasetConfig(name, {"inputs": 8, "targets": 8}, "validation", cache_dir=str(tmp_path))
    with pytest.raises(UserError, match="ranks answer choices"):
        open_sources(config)
    wrong = sources.PythonDataSource({"validation": lambda: [{**next(rank_rows()), "answer": 9}]})
    with pytest.raises(UserError, match=r"found answer \[9\] among 2 choices"):
        run(add(source=wrong, output_features=rank_features()), tmp_path)


def test_a_changed_definition_is_an_error_that_names_it(tmp_path):
    name = add()
    run(name, tmp_path)
    before = ids(tmp_path, name)
    add(name, source=source(31), output_features=features(inputs=False))
    with pytest.raises(UserError, match="changed is drawing .*feature 'inputs'.*source") as error:
        run(name, tmp_path)
    assert "--overwrite" in str(error.value)
    assert ids(tmp_path, name) == before
    run(name, tmp_path, overwrite=True)
    assert len(ids(tmp_path, name)) == 31
    add(name, source=source(31), output_features=features(inputs=False),
        preprocessors=steps(tf_step))  # fmt: skip
    with pytest.raises(UserError, match="changed is preprocessors"):
        run(name, tmp_path)


def test_fingerprints_are_the_same_in_every_process():
    parts = fingerprint(define(seqio.TaskRegistry.get(add(source=tf_source()))))
    assert " at 0x" not in json.dumps(parts)
    again = fingerprint(define(seqio.TaskRegistry.get(add(source=tf_source()))))
    assert parts == again


def test_an_interrupted_caching_goes_on(tmp_path, monkeypatch):
    a, b = add(), add()
    name = f"{a}_interrupted"
    seqio.MixtureRegistry.add(name, [(a, 1.0), (b, 1.0)])

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache, "finish", interrupt)
        run(name, tmp_path)
    assert not (tmp_path / a).exists()
    assert len(list(tmp_path.glob(f".partial-{a}-train-*/shard-*"))) == 1
    tokenised = []
    monkeypatch.setattr(
        cache_shards,
        "encoded",
        lambda d, s, *a, **k: tokenised.append((d.task.name, s)) or encoded(d, s),
    )
    run(name, tmp_path)
    assert (a, "train") not in tokenised and (b, "train") in tokenised
    assert len(ids(tmp_path, a)) == 30
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.parametrize("before", [(), (plain_step,)])
def test_the_number_of_shards_does_not_change_the_cache(tmp_path, before, monkeypatch):
    monkeypatch.setattr(cache_folder, "_MERGE_BLOCK", 7)
    name = add(source=source(50), preprocessors=steps(*before))
    definition = define(seqio.TaskRegistry.get(name))
    prints = fingerprint(definition)
    for shards in (1, 3):
        root = tmp_path / str(shards)
        partial = cache_folder.partial_folder(root, name, "train", prints)
        folders = [partial / f"shard-{i}" for i in range(shards)]
        for i, folder in enumerate(folders):
            batches = encoded(definition, "train", i, shards)
            cache_folder.write_shard(
                folder, definition, batches, lambda *count: None, keep_order=shards > 1
            )
        cache_folder.finish(root, definition, "train", prints, folders)
    for file in ("inputs_document.bin", "inputs_document.idx", "targets_document.bin", "info.json"):
        one, three = ((tmp_path / n / name / "train" / file).read_bytes() for n in "13")
        assert one == three, file


def test_what_a_kill_left_beside_info_json_goes(tmp_path, monkeypatch):
    write = cache_folder.write_json

    def after_a_kill(path, content):
        if path.name == "info.json":
            path.with_name("info.json.tmp-1").write_text("{")
        write(path, content)

    monkeypatch.setattr(cache_folder, "write_json", after_a_kill)
    task = add()
    run(task, tmp_path)
    assert (tmp_path / task / "train" / "info.json").is_file()
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    name = add()

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache_folder.IndexedWriter, "add_flat", full)
        with pytest.raises(UserError, match="is full .* make room and run it again"):
            run(name, tmp_path)
    left = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert left == []
    run(name, tmp_path)
    assert len(ids(tmp_path, name)) == 30


def test_misspelt_names(tmp_path):
    name = add("cache_test_spelt")
    with pytest.raises(UserError, match="Did you mean 'cache_test_spelt'"):
        run("cache_test_spelled", tmp_path)
    with pytest.raises(UserError, match="no split 'trian'.*Did you mean 'train'"):
        run(name, tmp_path, splits=["trian"])


def test_a_folder_without_info_is_not_taken_for_a_cache(tmp_path):
    name = add()
    run(name, tmp_path)
    (tmp_path / name / "train" / "info.json").unlink()
    with pytest.raises(UserError, match="no whole cache"):
        run(name, tmp_path)
    shutil.rmtree(tmp_path / name / "train")
    run(name, tmp_path)


def test_ensure_cached_runs_a_child_only_when_needed(tmp_path, monkeypatch):
    commands, said = [], []
    monkeypatch.setattr(
        cache.cache_child, "run", lambda command, progress: commands.append(command)
    )
    name = add()
    config = DatasetConfig(name, {"inputs": 8, "targets": 8}, cache_dir=str(tmp_path), module="m")
    ensure_cached(config, said.append)
    assert commands[0][1:] == [
        "-m", "mt0_tpu", "cache", "--mixture", name, "--cache_dir", str(tmp_path),
        "--split", "train", "--module", "m",
    ]  # fmt: skip
    assert "is not cached" in said[0]
    with pytest.raises(UserError, match="use_cached is True"):
        ensure_cached(
            DatasetConfig(name, {"inputs": 8, "targets": 8}, cache_dir=str(tmp_path),
                          use_cached=True), said.append,
        )  # fmt: skip

    run(name, tmp_path, splits=["train"])
    ensure_cached(config, said.append)
    assert len(commands) == 1
    monkeypatch.setattr(definition_files, "changed", lambda files, module: ["seqio_tasks.mini"])
    ensure_cached(config, said.append)
    assert len(commands) == 2 and "seqio_tasks.mini changed since" in said[-1]


def test_definition_files_are_compared_without_importing(tmp_path, monkeypatch):
    package = tmp_path / "someones_tasks"
    (package / "inner").mkdir(parents=True)
    files = [package / "__init__.py", package / "inner" / "__init__.py", package / "more.py"]
    for file in files:
        file.write_text("raise ImportError\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = ["someones_tasks", "someones_tasks.inner", "someones_tasks.more"]
    hashes = {n: definition_files._hash(f) for n, f in zip(names, files, strict=True)}
    assert definition_files.changed(hashes | {"nowhere.at_all": "0"}, None) == []
    files[2].write_text("x = 1\n")
    assert definition_files.changed(hashes, None) == ["someones_tasks.more"]


TASK_MODULE = """
import functools
import seqio
from seqio_tasks.sources import PythonDataSource

def rows(count):
    for i in range(count):
        yield {"inputs": f"question {i}", "targets": f"{i}"}

FEATURES = {n: seqio.Feature(seqio.ByteVocabulary()) for n in ("inputs", "targets")}
for number, count in enumerate((90, 5, 4)):
    seqio.TaskRegistry.add(
        f"someones_{number}",
        source=PythonDataSource({"train": functools.partial(rows, count)}),
        preprocessors=[seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder(),
                       seqio.preprocessors.append_eos_after_trim],
        output_features=FEATURES,
    )
seqio.MixtureRegistry.add("someones", [(f"someones_{i}", 1.0) for i in range(3)])
"""


@pytest.mark.slow
def test_processes_and_the_child_command(tmp_path, monkeypatch):
    module = tmp_path / "someones_module.py"
    module.write_text(TASK_MODULE)
    monkeypatch.setattr(cache_shards, "_SMALL_BYTES", 50 * 256)
    monkeypatch.setattr(cache_shards, "_GROUP_BYTES", 30 * 256)
    processes = tmp_path / "processes"
    cache_mixture("someones", processes, module=str(module), num_processes=2, progress=quiet)
    expected = [seqio.ByteVocabulary().encode(f"question {i}") for i in range(90)]
    assert ids(processes, "someones_0") == expected
    assert len(ids(processes, "someones_2")) == 4

    child = tmp_path / "child"
    config = DatasetConfig("someones", {"inputs": 32, "targets": 8}, cache_dir=str(child),
                           module=str(module))  # fmt: skip
    said = []
    ensure_cached(config, said.append)
    assert any(line.startswith("total") for line in said)
    assert ids(child, "someones_0") == expected
    ensure_cached(config, lambda line: pytest.fail(line))
    module.write_text(TASK_MODULE.replace("question", "Question"))
    with pytest.raises(UserError, match="another definition of task"):
        ensure_cached(config, said.append)
