import pickle
import struct

import numpy as np
import pytest
import seqio

from seqio_tasks.megatron import MegatronPairs  # noqa: E402

IDS = [[7, 250_679, 2], [], [5]]


def write_pair(prefix, sequences, dtype="<i4", code=4):
    """The format, by its description alone."""
    size = np.dtype(dtype).itemsize
    lengths = [len(sequence) for sequence in sequences]
    pointers = [size * sum(lengths[:i]) for i in range(len(lengths))]
    content = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(lengths), len(lengths) + 1)
    content += struct.pack(f"<{len(lengths)}i", *lengths)
    content += struct.pack(f"<{len(lengths)}q", *pointers)
    content += struct.pack(f"<{len(lengths) + 1}q", *range(len(lengths) + 1))
    prefix.with_name(prefix.name + ".idx").write_bytes(content)
    flat = np.array([i for sequence in sequences for i in sequence], dtype)
    prefix.with_name(prefix.name + ".bin").write_bytes(flat.tobytes())


@pytest.fixture
def pairs(tmp_path):
    """Files under xP3megds' names."""
    for feature in ("inputs", "targets"):
        ids = IDS if feature == "inputs" else IDS[::-1]
        write_pair(tmp_path / f"xp3_sw_{feature}_document", ids)
    return {f: str(tmp_path / f"xp3_sw_{f}_document") for f in ("inputs", "targets")}


def test_ids_come_out_as_they_lie_in_the_files(pairs):
    source = MegatronPairs({"train": pairs})
    examples = list(source.python_examples("train"))
    assert [example["inputs"].tolist() for example in examples] == IDS
    assert [example["targets"].tolist() for example in examples] == IDS[::-1]
    assert examples[0]["inputs"].dtype == np.int32
    assert source.num_input_examples("train") == 3
    sharded = [e["inputs"].tolist() for e in source.python_examples("train", 1, 2)]
    assert sharded == IDS[1::2]
    assert source.megatron_prefixes("train") == pairs


@pytest.mark.parametrize("dtype, code, top", [("<u2", 8, 65_535), ("<i8", 5, 250_000)])
def test_token_types(tmp_path, dtype, code, top):
    prefix = tmp_path / "set"
    write_pair(prefix, [[1, top]], dtype, code)
    source = MegatronPairs({"train": {"inputs": prefix, "targets": prefix}})
    assert next(source.python_examples("train"))["targets"].tolist() == [1, top]


def test_prefixes_may_be_asked_for_late_and_with_an_ending(pairs):
    asked = []

    def inputs():
        asked.append(1)
        return pairs["inputs"] + ".bin"

    source = MegatronPairs({"train": {**pairs, "inputs": inputs}})
    assert not asked
    assert source.megatron_prefixes("train") == pairs
    again = pickle.loads(pickle.dumps(MegatronPairs({"train": pairs})))
    assert len(list(again.python_examples("train"))) == 3


def test_a_seqio_task_of_it(pairs):
    vocabulary = seqio.PassThroughVocabulary(size=250_680, eos_id=2)
    features = {
        f: seqio.Feature(vocabulary, add_eos=False, dtype=np.int32) for f in ("inputs", "targets")
    }
    task = seqio.Task(
        "megatron_test", MegatronPairs({"train": pairs}), output_features=features, preprocessors=[]
    )
    found = list(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    assert [example["inputs"].tolist() for example in found] == IDS


def _cut(path, by):
    path.write_bytes(path.read_bytes()[:-by])


def test_what_is_wrong_is_said(tmp_path, pairs):
    def examples(changed):
        return next(MegatronPairs({"train": {**pairs, **changed}}).python_examples("train"))

    with pytest.raises(ValueError, match=r"is \['a'\]; write"):
        MegatronPairs({"train": ["a"]})
    with pytest.raises(ValueError, match="nowhere.idx is missing"):
        examples({"inputs": tmp_path / "nowhere"})
    with pytest.raises(ValueError, match="gs://b/x is remote"):
        examples({"inputs": "gs://b/x"})
    with pytest.raises(ValueError, match="no split 'test'"):
        MegatronPairs({"train": pairs}).num_input_examples("test")
    short = tmp_path / "short"
    write_pair(short, IDS[:2])
    for ask in (examples, lambda c: MegatronPairs({"train": {**pairs, **c}}).fingerprint()):
        with pytest.raises(ValueError, match="has 3 sequences and .*short has 2"):
            ask({"targets": short})
    write_pair(tmp_path / "float", [[1]], "<f8", 6)
    with pytest.raises(ValueError, match="type code 6, which holds no token ids"):
        examples({"inputs": tmp_path / "float"})
    _cut(tmp_path / "short.bin", 1)
    with pytest.raises(ValueError, match="short.bin has 11 bytes, expected 12"):
        examples({"inputs": short})
    _cut(tmp_path / "short.idx", 4)
    with pytest.raises(ValueError, match="short.idx has .* bytes, expected .* for 2 sequences"):
        examples({"inputs": short})
    (tmp_path / "text.idx").write_text("no index")
    with pytest.raises(ValueError, match="no Megatron index: it begins b'no index'"):
        examples({"inputs": tmp_path / "text"})


def test_the_fingerprint_changes_with_the_files(tmp_path, pairs):
    source = MegatronPairs({"train": pairs})
    before = source.fingerprint()
    assert before == MegatronPairs({"train": pairs}).fingerprint()
    write_pair(tmp_path / "xp3_sw_inputs_document", [[1, 2, 3, 4, 5], [], [5]])
    assert source.fingerprint() != before
