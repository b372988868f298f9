"""Inference from a file to a file: order, resuming after a kill anywhere, refusals."""

import json

import numpy as np
import pytest

from mt0_tpu import decoding, infer, scoring, text_vocabulary
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.partitioning import MeshConfig
from tests.tiny import TINY, load_params

LENGTHS = {"inputs": 24, "targets": 6}
TEXTS = ["abc", "é\u2028x", "", "a longer line than the row is wide", "z", "ab", "今日は"]


@pytest.fixture(scope="module")
def params(golden):
    return load_params(golden)


@pytest.fixture
def job(params, tmp_path):
    """Runs infer on TEXTS with what is given changed."""
    inputs = tmp_path / "questions.jsonl"
    lines = [json.dumps({"inputs": t, "id": i}) for i, t in enumerate(TEXTS)]
    inputs.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def run(**changes):
        arguments = {
            "infer_output_dir": str(tmp_path / "out"),
            "model": TINY,
            "checkpoint_path": "in memory",
            "inputs_path": str(inputs),
            "task_feature_lengths": LENGTHS,
            "vocabulary": "byt5",
            "batch_size": 2,
            "checkpoint_period": 1,
            "mesh": MeshConfig(tensor=4, data=2),
            "params": params,
        }
        return infer.infer(**(arguments | changes))

    return run


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_one_line_an_input_in_order(job, params, tmp_path):
    summary = job()
    lines = read(summary.path)
    assert [line["inputs"] for line in lines] == TEXTS
    assert [line["id"] for line in lines] == list(range(len(TEXTS)))
    assert (summary.num_lines, summary.num_written) == (7, 7)
    assert summary.path.endswith("questions-00000-of-00001.jsonl")
    words = text_vocabulary.ByteText()
    for text, line in zip(TEXTS, lines, strict=True):
        ids = [*words.encode(text)[:23], 1]
        alone = np.asarray(decoding.greedy_decode(params, TINY, np.array([ids]), 6))[0]
        assert line["prediction"] == words.decode(alone)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    name = "questions-00000-of-00001.jsonl"
    assert names == [name, f"{name}.COMPLETED"]


def test_finished_output_is_not_done_again(job, monkeypatch):
    before = job()
    monkeypatch.setattr(infer, "predict", None)
    after = job()
    assert (after.num_lines, after.num_written) == (7, 0)
    assert after.path == before.path
    with pytest.raises(UserError, match="task_feature_lengths"):
        job(task_feature_lengths={"inputs": 24, "targets": 5})


def test_killed_anywhere_the_result_is_the_same(job, tmp_path):
    path = tmp_path / "out" / "questions-00000-of-00001.jsonl"
    job()
    whole = path.read_bytes()
    completed = path.with_name(f"{path.name}.COMPLETED")
    for size in [0, 1, len(whole) // 3, whole.index(b"\n") + 1, len(whole) - 1, len(whole)]:
        # What a kill leaves: the partial file up to some byte, and the job's description.
        path.rename(path.with_name(f"{path.name}.partial"))
        path.with_name(f"{path.name}.partial").write_bytes(whole[:size])
        completed.rename(path.with_name(f"{path.name}.partial.job"))
        summary = job()
        assert path.read_bytes() == whole
        assert summary.num_written == len(TEXTS) - whole[:size].count(b"\n")
    # Killed between the last two renames.
    completed.rename(path.with_name(f"{path.name}.partial.job"))
    assert job().num_written == 0
    assert path.read_bytes() == whole and completed.is_file()


def test_an_error_in_the_middle_keeps_what_is_written(job, monkeypatch, tmp_path):
    predict, calls = infer.predict, []

    def fails_later(*arguments, **more):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(*arguments, **more)

    monkeypatch.setattr(infer, "predict", fails_later)
    with pytest.raises(KeyboardInterrupt):
        job()
    partial = tmp_path / "out" / "questions-00000-of-00001.jsonl.partial"
    assert len(read(partial)) == 4
    with pytest.raises(UserError, match="vocabulary"):
        job(vocabulary=str(_bytes_again(monkeypatch)))
    monkeypatch.undo()
    summary = job()
    assert summary.num_written == 3
    assert [line["inputs"] for line in read(summary.path)] == TEXTS


def _bytes_again(monkeypatch):
    monkeypatch.setattr(infer, "open_vocabulary", lambda name: text_vocabulary.ByteText())
    return "another"


def test_shards_put_together_are_the_whole(job, tmp_path):
    whole = read(job().path)
    shards = [
        job(infer_output_dir=str(tmp_path / "shards"), shard_id=i, num_shards=3) for i in range(3)
    ]
    assert [line for shard in shards for line in read(shard.path)] == whole


def test_text_lines(job, tmp_path):
    plain = tmp_path / "plain.txt"
    plain.write_text("abc\nz", encoding="utf-8")
    lines = read(job(inputs_path=str(plain)).path)
    assert [line["inputs"] for line in lines] == ["abc", "z"]
    wanted = {line["inputs"]: line["prediction"] for line in read(job().path)}
    assert [line["prediction"] for line in lines] == [wanted["abc"], wanted["z"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{bad", "line 2: '{bad' is not JSON"),
        ('{"input": "x"}', "line 2: .* has no text field 'inputs'. Did you mean 'input'?"),
        ('{"inputs": 3}', "no text field 'inputs'"),
        ("", "line 2: '' is not JSON"),
    ],
)
def test_a_bad_line_is_named_before_any_work(job, tmp_path, line, message):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"inputs": "x"}\n' + line + '\n{"inputs": "y"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=message):
        job(inputs_path=str(bad))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "predikt"}, "Did you mean 'predict'"),
        ({"mode": "score"}, "line 1: there is nothing to score; write a text 'targets'"),
        ({"overlong": "drop"}, "write 'trim' or 'error'"),
        ({"overlong": "error"}, "line 4: its inputs have 35 tokens .* allows 24"),
        ({"duplicate_ids": "kep"}, "Did you mean 'keep'"),
        ({"inputs_path": None}, "INPUTS_PATH is None and MIXTURE_OR_TASK_NAME is None"),
        ({"mixture_or_task_name": "x"}, "give one of them"),
        ({"checkpoint_period": 0}, "checkpoint_period is 0"),
        ({"decode": {"method": "bean"}}, "Did you mean 'beam'"),
        ({"shard_id": 2, "num_shards": 2}, "shard_id 2 of num_shards 2"),
        ({"task_feature_lengths": {"inputs": 8}}, "at least 2 tokens"),
        ({"vocabulary": "byt6"}, "Did you mean 'byt5'"),
        ({"inputs_path": "nowhere.jsonl"}, "no file of inputs"),
        ({"infer_output_dir": "gs://bucket/x"}, "remote"),
        ({"batch_size": 3}, "does not divide"),
    ],
)
def test_refusals(job, changes, message):
    with pytest.raises(UserError, match=message):
        if "decode" in changes:
            changes = {"decode": DecodeConfig(**changes["decode"])}
        job(**changes)


def test_a_file_of_another_origin_is_left_alone(job, tmp_path):
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "questions-00000-of-00001.jsonl"
    path.write_text("mine")
    with pytest.raises(UserError, match="was not written by"):
        job()
    assert path.read_text() == "mine"


QUESTIONS = [
    {"inputs": "abc", "choices": ["yes", "no"], "answer": 1, "id": "a"},
    {"inputs": "z", "choices": ["one", "two", "three"], "id": "b"},
    {"inputs": "a longer line than the row is wide", "targets": "x", "id": 3},
]


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def byte_ids(text, length):
    return [*(byte + 3 for byte in text.encode())][: length - 1] + [1]


def test_scores_of_targets_and_choices(job, params, tmp_path, capsys):
    path = write_lines(tmp_path / "asked.jsonl", QUESTIONS)
    summary = job(inputs_path=path, mode="score")
    assert summary.path.endswith("asked-score-00000-of-00001.jsonl")
    lines = read(summary.path)
    assert [line["id"] for line in lines] == ["a", "b", 3]
    for line, asked in zip(lines, QUESTIONS, strict=True):
        inputs = byte_ids(asked["inputs"], 24)
        texts = asked.get("choices") or [asked["targets"]]
        scores = [
            scoring.score_choices(params, TINY, [(inputs, [byte_ids(t, 6)])], min_choices=1)[0][0]
            for t in texts
        ]
        np.testing.assert_allclose(line.get("scores") or [line["score"]], scores, atol=1e-4)
        if "choices" in asked:
            assert line["best"] == int(np.argmax(scores))
            assert line["prediction"] == texts[line["best"]]
    assert "1 inputs and 0 targets were longer than" in capsys.readouterr().err
    # In two shards, and killed between them, the lines are the same.
    shards = [
        job(inputs_path=path, mode="score", shard_id=i, num_shards=2, checkpoint_period=1)
        for i in range(2)
    ]
    again = [line for shard in shards for line in read(shard.path)]
    for one, other in zip(again, lines, strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose(
            one.get("scores") or one["score"], other.get("scores") or other["score"], atol=1e-4
        )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"choices": ["a", "b"], "answer": 2}, "line 2: the answer is 2, and its 2 choices"),
        ({"choices": ["a"]}, "there is 1 choice, and ranking compares two or more"),
        ({"choices": []}, "there is no choice"),
        ({"choices": ["a", ""]}, "choice 1 is empty; write its text"),
        ({"choices": "ab"}, "'choices' is 'ab'; write a list of texts"),
        ({"choices": ["a", 3]}, "write a list of texts"),
        ({"targets": ""}, "nothing to score"),
        ({"target": "x"}, "nothing to score.*Did you mean 'target'"),
        ({"targets": "x", "id": 7}, "lines 1 and 2 have the same id, 7"),
    ],
)
def test_bad_lines_to_score(job, tmp_path, line, message):
    lines = [{"inputs": "x", "targets": "y", "id": 7}, {"inputs": "x", **line}]
    path = write_lines(tmp_path / "asked.jsonl", lines)
    with pytest.raises(UserError, match=message):
        job(inputs_path=path, mode="score")
    assert not (tmp_path / "out").exists()


def test_duplicate_ids_kept_on_request(job, tmp_path):
    lines = [{"inputs": "x", "id": {"n": 1}}, {"inputs": "y"}, {"inputs": "z", "id": {"n": 1}}]
    path = write_lines(tmp_path / "asked.jsonl", lines)
    with pytest.raises(UserError, match="lines 1 and 3 have the same id, {'n': 1}"):
        job(inputs_path=path)
    assert len(read(job(inputs_path=path, duplicate_ids="keep").path)) == 3


def test_plain_text_has_nothing_to_score(job, tmp_path):
    (tmp_path / "plain.txt").write_text("abc\n")
    with pytest.raises(UserError, match="plain text, which has nothing to score"):
        job(inputs_path=str(tmp_path / "plain.txt"), mode="score")


def test_beams_and_samples_with_their_scores(job):
    beams = DecodeConfig(method="beam", num_decodes=2)
    best = read(job(decode=beams, mode="predict_with_aux").path)
    every = read(job(decode=beams, mode="predict", return_all_decodes=True).path)
    for one, many in zip(best, every, strict=True):
        assert many["prediction"][0] == one["prediction"] and len(many["prediction"]) == 2
        assert one["aux"]["scores"] < 0
    with pytest.raises(UserError, match="written with decode"):
        job(mode="predict_with_aux")


def test_samples_do_not_depend_on_shards_or_restarts(job, tmp_path):
    sample = DecodeConfig(method="sample", num_decodes=2, seed=3)
    whole = read(job(decode=sample).path)
    assert all(len(line["prediction"]) == 2 for line in whole)
    shards = [
        job(decode=sample, infer_output_dir=str(tmp_path / "shards"), shard_id=i, num_shards=3)
        for i in range(3)
    ]
    assert [line for shard in shards for line in read(shard.path)] == whole
