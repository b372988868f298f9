"""The evaluation job over a small cache: files, aggregation, refusals."""

import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import checkpoints, evaluate, evaluator, rank_results
from mt0_tpu.data.indexed import IndexedWriter
from mt0_tpu.data.sources import INFO_VERSION
from mt0_tpu.errors import UserError
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.rank_tasks import RankTask
from mt0_tpu.train_state import TrainState
from tests.tiny import TINY, load_params

GROUPS = {
    "quiz_en": ("quiz", "en", 0, 1),
    "quiz_sw": ("quiz", "sw", 0, 0),
    "nli_en": ("nli", "en", 1, 1),
}


def write_task(root, name, examples, answers):
    """A rank cache as `mt0 cache` writes it; the golden choices' EOS is appended at reading."""
    folder = root / name / "validation"
    folder.mkdir(parents=True)
    cluster, language, held_out, seen = GROUPS[name]
    with IndexedWriter(folder / "inputs_document", np.uint16) as writer:
        for example in examples:
            writer.add(np.array(example["inputs"]))
    with IndexedWriter(folder / "choices_document", np.uint16) as writer:
        for example in examples:
            for choice in example["choices"]:
                writer.add(np.array(choice[:-1]), end_document=False)
            writer.end_document()
    np.save(folder / "answers.npy", np.array(answers, np.int32))
    meta = [
        {"prompt": f"p{i % 2}", "cluster": cluster, "language": language,
         "held_out_cluster": held_out, "seen_language": seen}
        for i in range(len(examples))
    ]  # fmt: skip
    (folder / "meta.jsonl").write_text("".join(json.dumps(line) + "\n" for line in meta))
    info = {
        "version": INFO_VERSION, "kind": "rank", "num_examples": len(examples), "fingerprint": {},
        "features": {f: {"eos_id": 1, "add_eos": True} for f in ("inputs", "choices")},
        "append_eos": {"inputs": False, "choices": True}, "eos_after_trim": True,
    }  # fmt: skip
    (folder / "info.json").write_text(json.dumps(info))


@pytest.fixture(scope="module")
def rank(golden):
    lines = (golden / "rank" / "examples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def cache(tmp_path_factory, rank):
    root = tmp_path_factory.mktemp("cache")
    right = [example["argmax"] for example in rank]
    wrong = [(example["argmax"] + 1) % len(example["choices"]) for example in rank]
    write_task(root, "quiz_en", rank, right)
    write_task(root, "quiz_sw", rank[:8], wrong[:8])
    # Right under prompt p0, wrong under p1.
    mixed = [right[i] if i % 2 == 0 else wrong[i] for i in range(20)]
    write_task(root, "nli_en", rank, mixed)
    tasks = [{"name": name, "rate": 1.0, "splits": ["validation"]} for name in GROUPS]
    content = {"name": "quizzes", "tasks": tasks, "definition_files": {}, "module": None}
    (root / "quizzes.mixture.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def job(golden, cache, tmp_path):
    def run(**changes):
        arguments = {
            "eval_output_dir": str(tmp_path / "eval"),
            "model": TINY,
            "mixture_or_task_name": "quizzes",
            "cache_dir": str(cache),
            "batch_size": 8,
            "step": 7,
            "params": load_params(golden),
        }
        return evaluate.evaluate(**(arguments | changes))

    return run


def read(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def test_files_and_numbers(job, rank, tmp_path, capsys):
    summary = job()
    lines = {(x["task"], x["prompt"]): x for x in read(tmp_path / "eval" / "rank.jsonl")}
    assert len(lines) == 6
    first = lines["quiz_en", "p0"]
    chances = [1 / len(example["choices"]) for example in rank[::2]]
    answers = [example["argmax"] for example in rank[::2]]
    assert first == {
        "task": "quiz_en", "cluster": "quiz", "dataset": "quiz", "language": "en",
        "prompt_language": "", "prompt": "p0",
        "num_examples": 10, "accuracy": 1.0, "chance": pytest.approx(np.mean(chances)),
        "majority": np.bincount(answers).max() / 10, "held_out_cluster": False,
        "seen_language": True, "step": 7,
    }  # fmt: skip
    accuracies = {key: line["accuracy"] for key, line in lines.items()}
    assert accuracies["quiz_sw", "p1"] == 0.0
    assert (accuracies["nli_en", "p0"], accuracies["nli_en", "p1"]) == (1.0, 0.0)

    groups = {(g["cluster"], g["languages"]): g for g in summary["groups"]}
    assert groups["quiz", "all"]["median_accuracy"] == 0.5
    assert groups["quiz", "seen"]["median_accuracy"] == 1.0
    assert groups["quiz", "unseen"]["num_languages"] == 1
    assert (groups["nli", "all"]["median_accuracy"], groups["nli", "all"]["max"]) == (0.5, 1.0)
    assert ("nli", "unseen") not in groups
    saved = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert saved == summary and saved["step"] == 7
    said = capsys.readouterr()
    assert "nli*" in said.out and "100.0 (1)" in said.out
    assert "eval 48/48 examples" in said.err


def test_inference_files(job, rank, tmp_path):
    job(vocabulary="byt5", mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    (line, *_), text = read(tmp_path / "eval" / "inference_eval" / "quiz_en-000007.jsonl"), rank[0]
    np.testing.assert_allclose(line["scores"], text["scores_t5x"], atol=1e-4)
    assert (line["prediction"], line["answer"]) == (text["argmax"], text["argmax"])
    assert isinstance(line["inputs"], str) and len(line["choices"]) == len(text["choices"])
    job(step=8)
    (line, *_) = read(tmp_path / "eval" / "inference_eval" / "quiz_en-000008.jsonl")
    assert line["inputs"] == text["inputs"] and line["choices"] == text["choices"]


def test_results_of_a_step_are_not_overwritten_unasked(job, tmp_path):
    job()
    before = (tmp_path / "eval" / "rank.jsonl").read_text()
    with pytest.raises(UserError, match="holds the results of step 7 already"):
        job()
    assert (tmp_path / "eval" / "rank.jsonl").read_text() == before
    job(overwrite=True)
    assert (tmp_path / "eval" / "rank.jsonl").read_text() == before
    # An older step adds its lines, and the summary stays that of the newest.
    job(step=3, num_examples=2)
    lines = read(tmp_path / "eval" / "rank.jsonl")
    assert sorted({line["step"] for line in lines}) == [3, 7]
    assert json.loads((tmp_path / "eval" / "summary.json").read_text())["step"] == 7
    assert sum(line["num_examples"] for line in lines if line["step"] == 3) == 6


def test_untrained(job, tmp_path):
    summary = job(params=None, untrained=True, step=None)
    assert (summary["checkpoint"], summary["step"]) == ("untrained", 0)


def test_a_job_started_again_when_it_is_done_does_nothing(job, tmp_path, capsys):
    """As a launcher does after a kill at the very end."""
    again = {"params": None, "untrained": True, "step": None}
    job(**again)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "eval").rglob("*.json*")}
    assert job(**again) == {}
    assert "nothing to do" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(UserError, match="with drawn .*'random_seed': 0.* this job has .*: 1"):
        job(**again, random_seed=1)


def test_a_checkpoint_of_a_run(job, golden, tmp_path):
    checkpointer = checkpoints.Checkpointer(str(tmp_path / "run"), checkpoints.CheckpointConfig())
    for step in (5, 9):
        params = jax.tree.map(lambda x, step=step: x * float(step == 5), load_params(golden))
        checkpointer.save(TrainState(jnp.int32(step), params, {"x": jnp.zeros(2)}), {})
    checkpointer.close()
    run = {"params": None, "checkpoint_path": str(tmp_path / "run")}
    with pytest.raises(UserError, match="no checkpoint of step 7; it has"):
        job(**run)
    first = job(**run, step=5)
    accuracy = {
        g["cluster"]: g["median_accuracy"] for g in first["groups"] if g["languages"] == "seen"
    }
    assert (first["step"], accuracy["quiz"]) == (5, 1.0)
    # The latest, all zero: every choice of n tokens scores n * -log 512, the shortest wins.
    latest = job(**run | {"step": None})
    assert latest["step"] == 9
    (line, *_) = read(tmp_path / "eval" / "inference_eval" / "quiz_en-000009.jsonl")
    lengths = [len(choice) for choice in line["choices"]]
    np.testing.assert_allclose(line["scores"], -np.log(512) * np.array(lengths), atol=1e-3)


def test_lengths_cut_inputs_with_a_warning(job, caplog):
    job(task_feature_lengths={"inputs": 8, "targets": 3})
    assert "inputs were cut to 8 tokens" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": None, "step": None}, "give a checkpoint, or untrained=True"),
        ({"num_examples": 0}, "num_examples is 0"),
        ({"eval_output_dir": "s3://bucket/x"}, "remote"),
        ({"split": "validatoin"}, "has no split 'validatoin'.*Did you mean 'validation'"),
        (
            {"params": None, "checkpoint_path": "nowhere", "step": None},
            "no checkpoint at .*nowhere",
        ),
    ],
)
def test_refusals(job, changes, message):
    with pytest.raises(UserError, match=message):
        job(**changes)


def test_a_vocabulary_larger_than_the_table_is_refused(job, cache, tmp_path, rank):
    with pytest.raises(UserError, match="embedding has only 100 rows"):
        job(model=dataclasses.replace(TINY, vocab_size=100))


def test_lines_are_readable_in_the_vocabulary_of_the_environment(monkeypatch):
    mini = evaluator.mini_model()
    digest = hashlib.sha256(mini.read_bytes()).hexdigest()
    made_with_it = RankTask("quiz", [], np.empty(0, np.int32), [], {"fingerprint": [digest]})
    monkeypatch.setattr(evaluator, "mini_model", lambda: Path("nowhere"))
    monkeypatch.setenv("MT0_VOCABULARY", str(mini))
    words = evaluator._vocabulary_of(made_with_it, None)
    assert words.decode(words.encode("Kenya")) == "Kenya"
    made_with_another = dataclasses.replace(made_with_it, info={"fingerprint": ["ef78f8"]})
    assert evaluator._vocabulary_of(made_with_another, None) is None


def test_a_finished_cache_needs_no_tensorflow(cache, tmp_path):
    code = f"""
import sys
from mt0_tpu import evaluate
from tests.tiny import TINY
evaluate.evaluate({str(tmp_path / "eval")!r}, TINY, untrained=True, cache_dir={str(cache)!r},
                  mixture_or_task_name="quizzes", num_examples=2)
assert not {{"tensorflow", "seqio"}} & set(sys.modules)
"""
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "XLA_FLAGS": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.slow
def test_two_processes_evaluate_and_infer_as_one(cache, tmp_path):
    inputs = tmp_path / "asked.jsonl"
    lines = [{"inputs": f"question {n}", "choices": ["yes", "no, not"]} for n in range(7)]
    inputs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).resolve().parent.parent

    def child(out, more):
        command = [sys.executable, "-m", "tests.eval_pair", str(tmp_path / out), str(cache)]
        environment = {**os.environ, "XLA_FLAGS": "", **more}
        return subprocess.Popen([*command, str(inputs)], cwd=root, env=environment)

    pair = {"MT0_COORDINATOR": f"127.0.0.1:{port}", "MT0_NUM_PROCESSES": "2"}
    children = [child("pair", pair | {"MT0_PROCESS_ID": str(number)}) for number in range(2)]
    assert [one.wait(timeout=600) for one in children] == [0, 0]
    assert child("alone", {}).wait(timeout=600) == 0
    names = sorted(p.relative_to(tmp_path / "alone") for p in (tmp_path / "alone").rglob("*.jsonl"))
    assert len(names) == 9
    for name in names:
        for one, other in zip(
            read(tmp_path / "pair" / name), read(tmp_path / "alone" / name), strict=True
        ):
            assert one.keys() == other.keys()
            scores = [line.pop("scores", 0.0) for line in (one, other)]
            np.testing.assert_allclose(*scores, atol=1e-4)
            assert one == other


def test_median_over_prompts_then_mean_over_languages():
    def line(task, language, prompt, accuracy, seen=True):
        return {
            "task": task, "cluster": "c", "language": language, "prompt": prompt,
            "accuracy": accuracy, "chance": 0.5, "majority": 0.6, "held_out_cluster": False,
            "seen_language": seen,
        }  # fmt: skip

    lines = [line("a", "en", str(i), x) for i, x in enumerate((0.1, 0.9, 0.4))]
    lines += [line("b", "fr", str(i), x) for i, x in enumerate((0.6, 0.8))]
    lines.append(line("d", "sw", "0", 0.3, seen=False))
    groups = {group["languages"]: group for group in rank_results.groups(lines)}
    assert groups["seen"]["median_accuracy"] == pytest.approx((0.4 + 0.7) / 2)
    assert groups["seen"]["max"] == pytest.approx((0.9 + 0.8) / 2)
    assert groups["unseen"]["median_accuracy"] == pytest.approx(0.3)
    assert groups["all"]["num_languages"] == 3
    assert groups["all"]["mean"] == pytest.approx((1.4 / 3 + 0.7 + 0.3) / 3)
    table = rank_results.table(list(groups.values()))
    assert "55.0 (2)" in table and "30.0 (1)" in table
