import json
import struct

import numpy as np
import pytest
import seqio

from mt0_tpu.data import linked, sources
from mt0_tpu.data.batches import Loader, check_vocabulary, open_sources
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.indexed import IndexedDataset, IndexedWriter
from mt0_tpu.data.task_definition import define, fingerprint
from mt0_tpu.errors import UserError
from seqio_tasks import megatron

PAIRS = [([7, 250_679], [9, 2]), ([4, 5, 6], [2]), ([8], [3, 3, 3, 2])]


def write(prefix, sequences, dtype=np.int32, **options):
    for end in ("bin", "idx"):
        prefix.with_name(f"{prefix.name}.{end}").unlink(missing_ok=True)
    with IndexedWriter(prefix, dtype) as writer:
        for sequence in sequences:
            writer.add(np.array(sequence), **options)


def definition(folder, size=250_680, preprocessors=()):
    vocabulary = seqio.PassThroughVocabulary(size=size, eos_id=2)
    features = {
        f: seqio.Feature(vocabulary, add_eos=False, dtype=np.int32) for f in ("inputs", "targets")
    }
    prefixes = {f: folder / f"xp3_sw_{f}_document" for f in features}
    source = megatron.MegatronPairs({"train": prefixes})
    return define(seqio.Task("linked_sw", source, features, list(preprocessors)))


@pytest.fixture
def originals(tmp_path):
    folder = tmp_path / "xp3megds"
    folder.mkdir()
    for side, feature in enumerate(("inputs", "targets")):
        write(folder / f"xp3_sw_{feature}_document", [pair[side] for pair in PAIRS])
    return folder


def link(root, folder, **options):
    task = definition(folder, **options)
    info = linked.link(root, task, "train", fingerprint(task))
    entry = {"name": "linked_sw", "rate": 1.0, "splits": ["train"]}
    (root / "linked_sw.mixture.json").write_text(json.dumps({"tasks": [entry]}))
    return info


def config(root, **changes):
    options = {"batch_size": 1, "pack": False, "shuffle": False} | changes
    return DatasetConfig("linked_sw", {"inputs": 4, "targets": 4}, cache_dir=str(root), **options)


def test_existing_files_are_a_cache_and_nothing_is_copied(tmp_path, originals):
    root = tmp_path / "caches"
    root.mkdir()
    info = link(root, originals)
    assert [p.name for p in (root / "linked_sw" / "train").iterdir()] == ["info.json"]
    assert info["files"]["inputs"] == str(originals / "xp3_sw_inputs_document")
    assert info == sources.read_info(root / "linked_sw" / "train")
    assert info["features"]["targets"]["tokens"] == 7
    assert info["features"]["targets"]["length_histogram"]["counts"][:5] == [0, 1, 1, 0, 1]
    assert info["features"]["inputs"]["ids_checked"] == "all"
    with Loader(open_sources(config(root)), config(root), epochs=1) as loader:
        rows = [batch["decoder_target_tokens"][0].tolist() for batch in loader]
    assert sorted(rows) == sorted(([*t, 0, 0, 0])[:4] for _, t in PAIRS)
    with pytest.raises(UserError, match="vocabulary of 250680 ids in 'inputs', but the model has"):
        check_vocabulary(open_sources(config(root)), 250_112)
    assert not list(root.glob(".partial*"))


def test_bloomz_trains_on_the_files_as_they_are(tmp_path, originals):
    """BLOOM's row: the targets' </s> (2) is in the file, and nothing stands between the two."""
    root = tmp_path / "caches"
    root.mkdir()
    link(root, originals)
    options = {"layout": "decoder_only", "pack": True, "shuffle": False, "batch_size": 1}
    data = DatasetConfig("linked_sw", {"decoder": 12}, cache_dir=str(root), **options)
    with Loader(open_sources(data), data, epochs=1) as loader:
        (batch,) = list(loader)
    row = {name: values[0].tolist() for name, values in batch.items()}
    assert row["decoder_input_tokens"] == [7, 250_679, 9, 4, 5, 6, 8, 3, 3, 3, 0, 0]
    assert row["decoder_target_tokens"] == [250_679, 9, 2, 5, 6, 2, 3, 3, 3, 2, 0, 0]
    assert row["decoder_loss_weights"] == [0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0, 0]
    assert row["decoder_segment_ids"] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 0, 0]


def test_mt0_cache_links_such_a_task(tmp_path, originals):
    from mt0_tpu.data.cache import cache_mixture

    name = "linked_test_by_cache"
    task = definition(originals).task
    seqio.TaskRegistry.add(
        name, task.source, preprocessors=[], output_features=dict(task.output_features)
    )
    root, said = tmp_path / "caches", []
    cache_mixture(name, root, progress=said.append)
    assert [p.name for p in (root / name / "train").iterdir()] == ["info.json"]
    assert sources.read_info(root / name / "train")["num_examples"] == 3
    assert said[-1].split()[:3] == ["total", "3", "13"]
    write(originals / "xp3_sw_inputs_document", [[1], [2], [3]])
    with pytest.raises(UserError, match="another definition of task .*source"):
        cache_mixture(name, root, progress=said.append)
    cache_mixture(name, root, progress=said.append, overwrite=True)
    assert said[-1].split()[:3] == ["total", "3", "10"]


def test_a_changed_or_missing_original_is_noticed(tmp_path, originals):
    root = tmp_path / "caches"
    link(root, originals)
    write(originals / "xp3_sw_inputs_document", [[1], [2], [3]])
    with pytest.raises(UserError, match="xp3_sw_inputs_document.bin changed since .*bytes was 24"):
        open_sources(config(root))
    link(root, originals)
    open_sources(config(root))
    index = originals / "xp3_sw_targets_document.idx"
    content = index.read_bytes()
    index.unlink()
    with pytest.raises(UserError, match="targets_document.idx is gone: .*linked to it, not cop"):
        open_sources(config(root))
    index.write_bytes(content)  # the same bytes at another time
    with pytest.raises(UserError, match="mtime_ns was .*mt0 cache --mixture linked_sw"):
        open_sources(config(root))


def test_what_cannot_be_linked(tmp_path, originals):
    inputs = originals / "xp3_sw_inputs_document"
    with pytest.raises(UserError, match="holds ids 4 to 250679, and its vocabulary has 250100"):
        link(tmp_path, originals, size=250_100)
    with pytest.raises(UserError, match="no step before CacheDatasetPlaceholder"):
        steps = [seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder()]
        link(tmp_path, originals, preprocessors=steps)
    write(inputs, [[1], [2]])
    task = definition(originals)
    with pytest.raises(UserError, match="has 2 sequences and .*targets_document has 3"):
        linked.link(tmp_path, task, "train", {})
    with IndexedWriter(originals / "joined", np.int32) as writer:
        writer.add_flat(np.arange(3), [1, 1, 1], end_document=False)
        writer.end_document()
    for end in ("bin", "idx"):
        (originals / f"joined.{end}").replace(f"{inputs}.{end}")
    with pytest.raises(UserError, match="3 sequences in 1 documents"):
        linked.link(tmp_path, task, "train", {})
    write(inputs, [[1.0], [2.0], [3.0]], np.float64)
    with pytest.raises(UserError, match="holds float64, expected token ids"):
        linked.link(tmp_path, task, "train", {})
    (originals / "xp3_sw_inputs_document.bin").unlink()
    with pytest.raises(UserError, match="inputs_document.bin is missing"):
        linked.link(tmp_path, task, "train", {})
    assert not (tmp_path / "linked_sw").exists()


def test_the_index_is_not_read_again(tmp_path, originals, monkeypatch):
    root = tmp_path / "caches"
    link(root, originals)
    monkeypatch.setattr("mt0_tpu.data.indexed._check_pointers", lambda *unused: pytest.fail("read"))
    (task,) = open_sources(config(root))
    assert task.datasets[1][2].tolist() == PAIRS[2][1]


def read_by_description(prefix):
    """An independent reader: the golden README's description of the format, struct alone."""
    raw = prefix.with_name(prefix.name + ".idx").read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    version, code, count, documents = struct.unpack_from("<QBQQ", raw, 9)
    assert version == 1
    at = 9 + struct.calcsize("<QBQQ")
    sizes = struct.unpack_from(f"<{count}i", raw, at)
    pointers = struct.unpack_from(f"<{count}q", raw, at + 4 * count)
    document_index = struct.unpack_from(f"<{documents}q", raw, at + 12 * count)
    assert len(raw) == at + 12 * count + 8 * documents
    letter = {1: "B", 4: "i", 5: "q", 8: "H"}[code]
    tokens = prefix.with_name(prefix.name + ".bin").read_bytes()
    sequences = [
        list(struct.unpack_from(f"<{size}{letter}", tokens, pointer))
        for size, pointer in zip(sizes, pointers, strict=True)
    ]
    return code, sequences, list(document_index)


@pytest.mark.parametrize("size, code", [(65_499, 8), (65_500, 4), (250_680, 4)])
def test_megatron_reads_our_caches(tmp_path, size, code):
    """One document a sequence, and Megatron's token type for the vocabulary."""
    from mt0_tpu.data.cache import cache_mixture
    from seqio_tasks.sources import PythonDataSource

    ids = [[5, size - 1], [], [3] * 40]
    name = f"linked_test_{size}"
    vocabulary = seqio.PassThroughVocabulary(size=size, eos_id=2)
    features = {f: seqio.Feature(vocabulary, add_eos=False) for f in ("inputs", "targets")}
    rows = [{"inputs": one, "targets": [7, *one]} for one in ids]
    source = PythonDataSource({"train": lambda: rows}, fingerprint=name)
    steps = [seqio.CacheDatasetPlaceholder()]
    seqio.TaskRegistry.add(name, source, preprocessors=steps, output_features=features)
    cache_mixture(name, tmp_path, num_processes=1, progress=lambda line: None)
    found = read_by_description(tmp_path / name / "train" / "inputs_document")
    assert found == (code, ids, [0, 1, 2, 3])
    found = read_by_description(tmp_path / name / "train" / "targets_document")
    assert found == (code, [row["targets"] for row in rows], [0, 1, 2, 3])
    # And back: the cache's files, given as Megatron's, are the same examples.
    prefixes = {f: tmp_path / name / "train" / f"{f}_document" for f in features}
    again = list(megatron.MegatronPairs({"train": prefixes}).python_examples("train"))
    assert [example["inputs"].tolist() for example in again] == ids


def test_large_files_are_read_here_and_there(tmp_path, monkeypatch):
    monkeypatch.setattr("mt0_tpu.data.indexed._LARGE", 8)
    write(tmp_path / "set", [[1, 2], [3]])
    data = IndexedDataset(tmp_path / "set")
    data.expect_random_reads()
    assert data[0].tolist() == [1, 2]


def test_unchecked_opening_still_sees_files_of_the_wrong_length(tmp_path):
    write(tmp_path / "set", [[1, 2], [3]])
    tokens = tmp_path / "set.bin"
    tokens.write_bytes(tokens.read_bytes()[:-1])
    with pytest.raises(UserError, match="found 11 bytes, expected 12"):
        IndexedDataset(tmp_path / "set", check_index=False)
