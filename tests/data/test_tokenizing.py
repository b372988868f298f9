"""mt0_tpu/data/tokenizing.py with BLOOM's kind of vocabulary: `mt0 cache` and `mt0 tasks show`."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mt0_tpu import cli
from mt0_tpu.data import cache_shards
from mt0_tpu.data.cache import cache_mixture, ensure_cached
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.indexed import IndexedDataset
from mt0_tpu.errors import UserError
from tests import byte_level

# xP3-like lines in a folder, registered as a user does it; <unk> is a token here, and its id 0.
MODULE = """
from pathlib import Path
from seqio_tasks import xp3_tasks

xp3_tasks.add_collection("{name}", str(Path(__file__).parent / "lines"), layout="merged")
"""
PAIRS = [(text, text[::2]) for text in byte_level.TEXTS] + [("<unk>", "a </s> b")]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return byte_level.write(tmp_path_factory.mktemp("bloom"))


def written(folder: Path, name: str, copies: int = 1, languages=("sw",)) -> Path:
    """A module that registers `<name>_sw`, and the file it reads."""
    lines = [json.dumps({"inputs": a, "targets": b}) + "\n" for a, b in PAIRS] * copies
    for language in languages:
        (folder / "lines" / language).mkdir(parents=True)
        file = folder / "lines" / language / f"merged_{language}.jsonl"
        file.write_text("".join(lines))
    module = folder / f"{name}_module.py"
    module.write_text(MODULE.format(name=name))
    return module


def rows(root, task, feature):
    data = IndexedDataset(root / task / "train" / f"{feature}_document")
    return [list(data[i]) for i in range(len(data))]


def wanted(vocabulary):
    tokenizer = Tokenizer.from_file(str(vocabulary / "tokenizer.json"))
    inputs = [tokenizer.encode(a).ids for a, _ in PAIRS]
    return inputs, [tokenizer.encode(" " + b).ids for _, b in PAIRS]


def test_a_cache_holds_the_tokenizers_ids(vocabulary, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MT0_VOCABULARY", str(vocabulary))
    monkeypatch.delenv("MT0_INPUTS_EOS", raising=False)
    module, root = written(tmp_path, "bloomcached"), tmp_path / "cache"
    command = ["cache", "--mixture", "bloomcached_sw", "--cache_dir", str(root)]
    assert cli.main([*command, "--module", str(module)]) == 0
    inputs, targets = wanted(vocabulary)
    assert rows(root, "bloomcached_sw", "inputs") == inputs
    assert rows(root, "bloomcached_sw", "targets") == targets
    info = json.loads((root / "bloomcached_sw" / "train" / "info.json").read_text())
    assert info["append_eos"] == {"inputs": False, "targets": True}
    assert [info["features"][f]["eos_id"] for f in ("inputs", "targets")] == [2, 2]
    assert "TokenizersVocabulary" in json.dumps(info["fingerprint"])

    capsys.readouterr()
    show = ["tasks", "show", "bloomcached_sw", "--module", str(module), "--num_examples", "2"]
    assert cli.main([*show, "--tokens"]) == 0
    shown = capsys.readouterr().out
    assert "inputs (9 tokens)" in shown and " capital  of  Tanzania" in shown
    assert "68 2\n" in shown and " </s>\n" in shown


def test_another_vocabulary_is_not_taken_for_the_cached_one(vocabulary, tmp_path, monkeypatch):
    monkeypatch.setenv("MT0_VOCABULARY", str(vocabulary))
    module, root = written(tmp_path, "bloomchanged"), tmp_path / "cache"
    name = "bloomchanged_sw"
    cache_mixture(name, root, module=str(module), progress=lambda line: None)
    lengths = {"inputs": 64, "targets": 64}
    config = DatasetConfig(name, lengths, cache_dir=str(root), module=str(module))
    ensure_cached(config, lambda line: pytest.fail(line))

    changed = json.loads((vocabulary / "tokenizer.json").read_text())
    changed["model"]["merges"] = changed["model"]["merges"][:-20]
    other = tmp_path / "other" / "tokenizer.json"
    other.parent.mkdir()
    other.write_text(json.dumps(changed))
    monkeypatch.setenv("MT0_VOCABULARY", str(other))
    said = []
    # In its child process, as the name is registered here with the first vocabulary.
    with pytest.raises(UserError, match="another definition of task.*feature 'inputs'"):
        ensure_cached(config, said.append)
    assert "$MT0_VOCABULARY changed since" in said[0]


def test_processes_write_the_same_ids(vocabulary, tmp_path, monkeypatch):
    monkeypatch.setenv("MT0_VOCABULARY", str(vocabulary))
    copies, languages = 30, ("fr", "sw")
    module = written(tmp_path, "bloomparallel", copies, languages)
    monkeypatch.setattr(cache_shards, "_SMALL_BYTES", 1)
    monkeypatch.setattr(cache_shards, "_GROUP_BYTES", 1)
    root = tmp_path / "cache"
    cache_mixture("bloomparallel", root, module=str(module), num_processes=2,
                  progress=lambda line: None)  # fmt: skip
    for language in languages:
        task = f"bloomparallel_{language}"
        assert rows(root, task, "inputs") == wanted(vocabulary)[0] * copies


def test_a_missing_or_damaged_file_is_one_sentence(tmp_path, monkeypatch, capsys):
    module = written(tmp_path, "bloommissing")
    file = tmp_path / "tokenizer.json"
    monkeypatch.setenv("MT0_VOCABULARY", str(file))
    command = ["cache", "--mixture", "bloommissing_sw", "--cache_dir", str(tmp_path / "cache")]
    assert cli.main([*command, "--module", str(module)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mt0: error: ") and "there is no such file" in said
    file.write_text('{"model":')
    assert cli.main([*command, "--module", str(module)]) == 2
    assert "is no tokenizer.json or is damaged (9 bytes" in capsys.readouterr().err
