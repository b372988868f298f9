"""All checkpoints of a run, and a run still going: each once, whole ones only, to the end."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mt0_tpu import eval_follow, evaluate, scoring
from mt0_tpu.checkpoints import CheckpointConfig
from mt0_tpu.errors import UserError
from mt0_tpu.eval_follow import Patience
from tests import tiny_run
from tests.test_infer_eval import read, write_quiz

QUICK = Patience(poll_seconds=0.02, timeout_minutes=0.002)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 9 steps with checkpoints 3, 6 and 9, and its cache."""
    root = tmp_path_factory.mktemp("finished")
    (root / "cache").mkdir()
    tiny_run.write_tiny_cache(root / "cache")
    write_quiz(root / "cache")
    keep = CheckpointConfig(save_every_steps=3, keep_last=None)
    tiny_run.run(root / "run", root / "cache", 9, checkpoint=keep)
    return root


@pytest.fixture
def job(finished, tmp_path):
    def run(**changes):
        arguments = {
            "eval_output_dir": str(tmp_path / "eval"),
            "model": tiny_run.ONE_LAYER,
            "checkpoint_path": str(finished / "run"),
            "mixture_or_task_name": "quiz",
            "cache_dir": str(finished / "cache"),
            "batch_size": 8,
            "checkpoints": "all",
            "follow_poll_seconds": 0.05,
            "follow_timeout_minutes": 1.0,
        }
        return evaluate.evaluate(**(arguments | changes))

    return run


def steps_done(tmp_path) -> list[int]:
    return [line["step"] for line in read(tmp_path / "eval/inference_eval/quiz_en-metrics.jsonl")]


def test_all_checkpoints_compile_once_and_are_remembered(job, finished, tmp_path, capsys):
    job(checkpoint_path=str(finished / "run" / "checkpoints" / "3"), checkpoints="latest")
    compiled = scoring._compiled_step.cache_info().misses
    summary = job()
    assert (summary["step"], steps_done(tmp_path)) == (9, [3, 6, 9])
    assert "done already: steps 3\n" in capsys.readouterr().err
    assert scoring._compiled_step.cache_info().misses == compiled
    assert job() == {}
    with pytest.raises(UserError, match="step 3 of 'quiz' with num_examples None.*has 2"):
        job(num_examples=2)
    with pytest.raises(UserError, match="with checkpoints_of"):
        shutil.copytree(finished / "run", tmp_path / "other")
        job(checkpoint_path=str(tmp_path / "other"))


def test_a_killed_job_goes_on(job, monkeypatch, tmp_path):
    original = evaluate.Evaluator.run

    def killed_at_six(self, params, step, *rest):
        if step == 6:
            rest[1].start(step)
            raise KeyboardInterrupt
        return original(self, params, step, *rest)

    monkeypatch.setattr(evaluate.Evaluator, "run", killed_at_six)
    with pytest.raises(KeyboardInterrupt):
        job()
    monkeypatch.undo()
    record = json.loads((tmp_path / "eval" / "eval.quiz.json").read_text())["steps"]
    assert {step: one["finished"] for step, one in record.items()} == {"3": True, "6": False}
    job()
    assert steps_done(tmp_path) == [3, 6, 9]


def test_a_running_job_is_followed_to_its_end(job, finished, tmp_path, capsys):
    """A thread moves whole checkpoints into place, a half-written one beside them."""
    run = tmp_path / "running"
    (run / "checkpoints").mkdir(parents=True)
    (run / eval_follow.RUN_FILE).write_text('{"first_step": 0, "final_step": 9}')
    half = run / "checkpoints" / "6.orbax-checkpoint-tmp-0"
    (half / "state").mkdir(parents=True)
    # A copy that has only begun: the name is right, the content is not there yet.
    growing = run / "checkpoints" / "3"
    (growing / "state").mkdir(parents=True)
    source = finished / "run" / "checkpoints"

    def appear():
        shutil.rmtree(growing)
        for step in ("3", "6", "9"):
            whole = run / f"whole-{step}"
            shutil.copytree(source / step, whole)
            whole.rename(run / "checkpoints" / step)

    timer = threading.Timer(0.5, appear)
    timer.start()
    job(checkpoint_path=str(run), checkpoints="follow")
    timer.join()
    assert steps_done(tmp_path) == [3, 6, 9]
    said = capsys.readouterr().err
    assert "waiting for the first checkpoint of 9" in said
    assert f"{run} has reached its last step, 9" in said
    job(checkpoint_path=str(run), checkpoints="follow")  # nothing is done twice
    assert steps_done(tmp_path) == [3, 6, 9]


def test_nothing_new_for_long_ends_it(job, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    found = job(
        checkpoint_path=str(tmp_path / "empty"), checkpoints="follow",
        follow_timeout_minutes=0.002,
    )  # fmt: skip
    assert found == {}
    assert "no new checkpoint in" in capsys.readouterr().err


def test_only_whole_checkpoints_are_found(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    folder = run / "checkpoints"
    (folder / "3" / "_CHECKPOINT_METADATA").unlink()
    shutil.rmtree(folder / "6" / "state")
    (folder / "12.orbax-checkpoint-tmp-3").mkdir()
    (folder / "15").write_text("no folder")
    assert list(eval_follow.found_in(run)) == list(eval_follow.found_in(folder)) == [9]
    assert eval_follow.found_in(tmp_path / "nowhere") == {}


def test_t5x_checkpoints_are_found(golden, tmp_path):
    source = next(path for path in sorted(golden.rglob("checkpoint_*")) if path.is_dir())
    shutil.copytree(source, tmp_path / "checkpoint_20")
    shutil.copytree(source, tmp_path / "checkpoint_3")
    (tmp_path / "checkpoint_30.tmp-123").mkdir()
    (tmp_path / "checkpoint_40").mkdir()
    assert list(eval_follow.found_in(tmp_path)) == [3, 20]


def test_deleted_by_retention_is_passed_over(tmp_path):
    said = []
    path = str(tmp_path / "checkpoints" / "3")

    def gone():
        raise FileNotFoundError(path)

    assert eval_follow.read_or_gone(path, gone, QUICK, said.append) is None
    assert said == [f"eval: {path} was deleted before it was read (keep_last); passed over"]


def test_what_cannot_be_read_is_tried_again(finished, tmp_path):
    path = str(finished / "run" / "checkpoints" / "3")
    said, tries = [], []

    def third_time():
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("half an array")
        return "params"

    assert eval_follow.read_or_gone(path, third_time, QUICK, said.append) == "params"
    assert len(said) == 2 and "cannot be read yet (ValueError: half an array)" in said[0]
    tries.clear()

    def never():
        tries.append(1)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        eval_follow.read_or_gone(path, never, QUICK, said.append)
    assert len(tries) == 3


@pytest.mark.slow
def test_two_processes_follow_one_run(finished, tmp_path):
    """What one of them cannot read, the other does not keep; both end where it stays so."""
    run = tmp_path / "running"
    (run / "checkpoints").mkdir(parents=True)
    (run / eval_follow.RUN_FILE).write_text('{"first_step": 0, "final_step": 9}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = {"MT0_COORDINATOR": f"127.0.0.1:{port}", "MT0_NUM_PROCESSES": "2", "XLA_FLAGS": ""}
    places = [str(tmp_path / "eval"), str(finished / "cache"), str(run)]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.follow_pair", *places],
            cwd=Path(__file__).resolve().parent.parent,
            env=os.environ | pair | {"MT0_PROCESS_ID": str(index)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for step in ("3", "6", "9"):
        whole = run / f"whole-{step}"
        shutil.copytree(finished / "run" / "checkpoints" / step, whole)
        whole.rename(run / "checkpoints" / step)
        time.sleep(0.5)
    ends = [child.communicate(timeout=600)[1] for child in children]
    # Where the first one is gone sooner, JAX aborts the second.
    assert all(child.returncode for child in children), ends
    assert steps_done(tmp_path) == [3, 6]
    again = "cannot be read yet (ValueError: half an array); trying again"
    assert ends[0].count(f"checkpoints/6 {again}") == 1
    assert ends[0].count(f"checkpoints/9 {again}") == 2
    assert "process 1" in ends[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": "al"}, "checkpoints is 'al'.*Did you mean 'all'"),
        ({"checkpoints": "all", "step": 3}, "leave the step out"),
        ({"checkpoints": "all", "checkpoint_path": "nowhere"}, "holds no checkpoints"),
        ({"checkpoints": "follow", "checkpoint_path": None, "untrained": True}, "MODEL_DIR"),
        ({"checkpoints": "follow", "checkpoint_path": "s3://b/run"}, "s3://b/run is remote"),
        ({"follow_poll_seconds": 0.0}, "poll_seconds is 0.0; write more than 0"),
    ],
)
def test_refusals(job, changes, message):
    with pytest.raises(UserError, match=message):
        job(**changes)


def test_a_checkpoint_of_another_network_is_an_error_not_a_wait(job):
    import dataclasses

    wider = dataclasses.replace(tiny_run.ONE_LAYER, mlp_dim=64)
    with pytest.raises(UserError, match="does not fit the model"):
        job(checkpoints="follow", model=wider)
