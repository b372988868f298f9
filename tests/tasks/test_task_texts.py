import json
import types

import numpy as np
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.tasks import task_texts
from mt0_tpu.tasks.overlap import Texts
from seqio_tasks import sources


def task(source, **features):
    return types.SimpleNamespace(name="t", source=source, output_features=features)


def rows(count):
    return [{"inputs": f"question {i}", "targets": f"answer {i}"} for i in range(count)]


def read(source, count=None, seed=0, decoder=None):
    return [e.texts for e in task_texts.read(task(source), "train", count, seed, decoder)]


def test_everything_or_a_seeded_sample():
    source = sources.PythonDataSource({"train": lambda: rows(500)}, fingerprint="x")
    everything = read(source)
    assert everything[3] == ("question 3", "answer 3") and len(everything) == 500
    some = read(source, 50)
    assert len(set(some)) == 50 and set(some) <= set(everything)
    assert some == read(source, 50) and set(some) != set(read(source, 50, seed=1))
    assert len({int(texts[0].split()[1]) // 100 for texts in some}) == 5
    assert sorted(read(source, 900)) == sorted(everything)


def test_large_files_are_read_here_and_there(tmp_path, monkeypatch):
    monkeypatch.setattr(task_texts, "_SAMPLED_BYTES", 100)
    for part in range(2):
        lines = [json.dumps(row) + "\n" for row in rows(3000)[part * 1500 : part * 1500 + 1500]]
        (tmp_path / f"{part}.jsonl").write_text("".join(lines))
    source = sources.JsonlDataSource({"train": str(tmp_path / "*.jsonl")})
    monkeypatch.setattr(source, "python_examples", None)  # not even asked
    some = read(source, 200)
    numbers = [int(texts[0].split()[1]) for texts in some]
    assert len(some) == 200 and min(numbers) < 600 and max(numbers) > 2400
    assert some == read(source, 200)
    with (tmp_path / "0.jsonl").open("a") as file:
        file.write("no json\n" * 3000)
    damaged = sources.JsonlDataSource({"train": str(tmp_path / "*.jsonl")})
    with pytest.raises(UserError, match=r"task 't', split 'train': .*0.jsonl, line \d+: not JSON"):
        read(damaged, 200)


def test_ids_are_decoded(tmp_path):
    class Pairs:
        def python_examples(self, split):
            yield {"inputs": np.array([1, 2]), "targets": np.array([3])}

        python_example = None

        def megatron_prefixes(self, split):
            return {}

    decoder = types.SimpleNamespace(decode=lambda ids: " ".join(f"w{i}" for i in ids))
    assert read(Pairs(), decoder=decoder) == [("w1 w2", "w3")]
    assert read(Pairs()) == [()]

    class PassThroughVocabulary:
        pass

    def feature(vocabulary):
        return types.SimpleNamespace(vocabulary=vocabulary)

    passing = task(Pairs(), inputs=feature(PassThroughVocabulary()))
    assert task_texts.decoder_of(passing, None) == (False, None)
    assert task_texts.decoder_of(passing, decoder) == (True, decoder)
    own = task(Pairs(), inputs=feature(decoder))
    assert task_texts.decoder_of(own, None) == (True, decoder)


@pytest.mark.parametrize(
    "example, texts",
    [
        ({"inputs": "a", "targets": b"b", "choices": ["c"], "prompt": "p"}, Texts(("a", "b"), "p")),
        ({"premise": "a", "label": 1, "choice1": "b"}, Texts(("a", "b"))),
        ({"inputs": np.array([b"x", b"y"], object), "template": "q"}, Texts(("x", "y"), "q")),
        ({"inputs": " ", "targets": "b"}, Texts(("b",))),
    ],
)
def test_texts_of_an_example(example, texts):
    assert task_texts.texts_of(example) == texts


def test_files(tmp_path):
    path = tmp_path / "eval.jsonl"
    path.write_text('{"inputs": "a"}\n\n{"premise": "b"}\n')
    assert [e.texts for e in task_texts.read_file(str(path))] == [("a",), ("b",)]
    with pytest.raises(UserError, match="is no file"):
        list(task_texts.read_file(str(tmp_path / "none.jsonl")))
    for line, words in (
        ("[1]", "holds no text"),
        ('{"label": 1}', "holds no text"),
        ("{", ": Exp"),
    ):
        path.write_text('{"inputs": "a"}\n' + line)
        with pytest.raises(UserError, match=f"eval.jsonl, line 2.*{words}"):
            list(task_texts.read_file(str(path)))
