"""Inference on the examples of SeqIO tasks: the same lines as from a file, in shards, resumed."""

import dataclasses
import json

import numpy as np
import pytest

from mt0_tpu import infer, infer_requests, train_state
from mt0_tpu.errors import UserError
from mt0_tpu.models.t5 import T5
from tests.test_text_tasks import ROWS, register
from tests.tiny import TINY, load_params

seqio = pytest.importorskip("seqio")
LENGTHS = {"inputs": 12, "targets": 6}


@pytest.fixture(scope="module")
def params(golden):
    register()
    return load_params(golden)


@pytest.fixture
def job(params, tmp_path):
    def run(name, **changes):
        arguments = {
            "infer_output_dir": str(tmp_path / "out"),
            "model": TINY,
            "checkpoint_path": "in memory",
            "mixture_or_task_name": name,
            "task_feature_lengths": LENGTHS,
            "batch_size": 8,
            "checkpoint_period": 1,
            "params": params,
        }
        return infer.infer(**(arguments | changes))

    return run


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def as_file(tmp_path, lines):
    path = tmp_path / "same.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"mixture_or_task_name": None, "inputs_path": str(path), "vocabulary": "byt5"}


def test_predictions_are_those_of_a_file(job, tmp_path, capsys):
    summary = job("text_predict")
    assert summary.path.endswith("out/text_predict-00000-of-00001.jsonl")
    lines = read(summary.path)
    assert [(line["inputs"], line["targets"]) for line in lines] == ROWS
    assert "1 inputs and 0 targets were longer" in capsys.readouterr().err
    same = read(job(None, **as_file(tmp_path, [{"inputs": text} for text, _ in ROWS])).path)
    assert [line["prediction"] for line in lines] == [line["prediction"] for line in same]


def test_scores_are_those_of_a_file(job, tmp_path):
    lines = read(job("text_score", mode="score").path)
    asked = [{"inputs": text, "targets": target} for text, target in ROWS]
    same = read(job(None, mode="score", **as_file(tmp_path, asked)).path)
    for one, other in zip(lines, same, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_choices_of_a_rank_task(job, tmp_path):
    model = dataclasses.replace(TINY, vocab_size=4096)
    drawn = train_state.init_params(T5(model), 0)
    more = {"model": model, "params": drawn, "mode": "score", "batch_size": 16}
    more["task_feature_lengths"] = {"inputs": 64, "targets": 16}
    lines = read(job("mini_eval_nli_sw", **more).path)
    asked = [{"inputs": line["inputs"], "choices": line["choices"]} for line in lines[:20]]
    same = read(job(None, **more | as_file(tmp_path, asked) | {"vocabulary": "mini"}).path)
    assert len(lines) > 20 and {line["answer"] for line in lines} <= {0, 1, 2}
    for one, other in zip(lines, same, strict=False):
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-4)
        assert (one["best"], one["prediction"]) == (other["best"], other["prediction"])
        assert one["prediction"] == one["choices"][one["best"]] and one["cluster"] == "nli"


def test_shards_and_restarts_change_nothing(job, tmp_path, monkeypatch):
    whole = read(job("text_both").path)
    shards = [job("text_both", shard_id=i, num_shards=2, batch_size=8) for i in range(2)]
    assert [line for shard in shards for line in read(shard.path)] == whole
    monkeypatch.setattr(infer, "predict", _fails_at_second(infer.predict))
    more = {"infer_output_dir": str(tmp_path / "killed"), "batch_size": 1}
    one_device = {"mesh": infer.MeshConfig(tensor=8)}
    with pytest.raises(KeyboardInterrupt):
        job("text_both", **more, **one_device)
    monkeypatch.undo()
    summary = job("text_both", **more, **one_device)
    assert summary.num_written == len(ROWS) - 1
    assert read(summary.path) == whole
    with pytest.raises(UserError, match="written with split 'validation'|written with length"):
        job("text_both", length_normalised=True)


def _fails_at_second(predict):
    calls = []

    def fails(*arguments, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(*arguments, **more)

    return fails


def test_a_mixture_gives_a_file_each(job):
    summary = job("text_all")
    names = [path.rsplit("/", 1)[1] for path in summary.paths]
    assert sorted(names) == [
        f"{name}-00000-of-00001.jsonl"
        for name in ("text_both", "text_predict", "text_silent", "text_train_only")
    ]
    assert summary.num_lines == summary.num_written == 4 * len(ROWS)


def test_examples_are_read_in_pieces(params, monkeypatch):
    task = seqio.TaskRegistry.get("text_both")
    cutting = infer_requests.Cutting(LENGTHS, "trim")
    requests = infer_requests.TaskRequests(task, None, cutting, False, 512)
    original, began = requests._examples, []
    monkeypatch.setattr(requests, "_examples", lambda at: began.append(at) or original(at))
    texts = [requests.read(at, at + 1)[0].fields["inputs"] for at in (2, 3, 4)]
    assert texts == [text for text, _ in ROWS[2:]] and began == [2]
    assert requests.read(0, 1)[0].fields["inputs"] == "abc" and began == [2, 0]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("text_both", {"split": "validaton"}, "no split 'validaton'.*Did you mean 'validation'"),
        ("text_boht", {}, "no SeqIO mixture or task is named 'text_boht'"),
        ("text_both", {"overlong": "error"}, "example 3 of task 'text_both': its inputs have 20"),
    ],
)
def test_refusals(job, name, changes, message):
    with pytest.raises(UserError, match=message):
        job(name, **changes)
