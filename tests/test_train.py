"""The loop: it learns, it resumes bit for bit, and it refuses what cannot work before a step."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mt0_tpu import checkpoints, run_folder
from mt0_tpu.checkpoints import CheckpointConfig
from mt0_tpu.errors import UserError
from mt0_tpu.optimizers import AdamW
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.schedules import LearningRate
from tests import tiny_run
from tests.conftest import REPOSITORY
from tests.tiny_bloom import TINY_BLOOM

STEPS = 12


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    tiny_run.write_tiny_cache(root)
    return root


def record(model_dir) -> list:
    """metrics.jsonl without what a clock decides."""
    lines = (Path(model_dir) / "metrics.jsonl").read_text().splitlines()
    found = []
    for line in map(json.loads, lines):
        metrics = {name: v for name, v in line["metrics"].items() if "timing" not in name}
        found.append((line["step"], line["split"], metrics))
    return found


@pytest.fixture(scope="module")
def uninterrupted(cache_dir, tmp_path_factory) -> Path:
    model_dir = tmp_path_factory.mktemp("whole") / "run"
    child(model_dir, cache_dir).wait()
    assert len(record(model_dir)) == STEPS // 2
    return model_dir


def child(model_dir, cache_dir, steps: int = STEPS, environment=None) -> subprocess.Popen:
    """A run in its own process, on one device, as a user's is."""
    compiled = Path(cache_dir) / "compiled"  # a restart need not compile again
    environment = (
        (environment or {})
        | os.environ
        | {
            "XLA_FLAGS": "",
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    )
    command = [sys.executable, "-m", "tests.tiny_run", str(model_dir), str(cache_dir), str(steps)]
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, **quiet)


def kill_when(process: subprocess.Popen, condition, patience: float = 120.0) -> bool:
    """SIGKILL as soon as the condition holds; False where the process ended before."""
    deadline = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.001)
    process.kill()
    process.wait()
    return False


@pytest.mark.slow
def test_kill_9_anywhere_leaves_the_metrics_of_an_uninterrupted_run(
    cache_dir, uninterrupted, tmp_path
):
    model_dir = tmp_path / "run"
    folder = model_dir / "checkpoints"
    rng = random.Random(0)
    kills = 0

    def saving():
        return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())

    def lines_written():
        metrics = model_dir / "metrics.jsonl"
        return metrics.read_text().count("\n") if metrics.exists() else 0

    for _ in range(12):
        wanted = lines_written() + rng.randint(1, 2)
        process = child(model_dir, cache_dir)
        if kills % 2:
            killed = kill_when(process, saving)  # in the middle of a save
        else:
            killed = kill_when(process, lambda wanted=wanted: lines_written() >= wanted)
        kills += killed
        if kills == 4:
            break
        if not killed:  # it was too quick for us: again from the start
            shutil.rmtree(model_dir)
    assert kills == 4, f"only {kills} of 12 runs could be killed"
    assert child(model_dir, cache_dir).wait() == 0
    assert record(model_dir) == record(uninterrupted)
    assert not [path for path in folder.iterdir() if "tmp" in path.name]


def test_a_run_asked_for_more_steps_goes_on(cache_dir, tmp_path):
    """8 then 12 steps give the parameters of 12 at once, on eight devices."""
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    first = tiny_run.run(tmp_path / "a", cache_dir, 8, mesh=mesh)
    assert first.step == 8
    tiny_run.run(tmp_path / "a", cache_dir, STEPS, mesh=mesh)
    tiny_run.run(tmp_path / "b", cache_dir, STEPS, mesh=mesh)
    one, other = (
        checkpoints.restore_params(str(tmp_path / name), tiny_run.ONE_LAYER) for name in "ab"
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
    # Resumed at 8 the first log line of the second leg is that of the whole run.
    assert record(tmp_path / "a") == record(tmp_path / "b")


def test_it_learns_evaluates_and_keeps_the_best(cache_dir, tmp_path):
    model_dir = tmp_path / "run"
    tiny_run.run(
        model_dir, cache_dir, 16,
        train_eval_dataset=tiny_run.dataset(
            cache_dir, mixture_or_task_name="held", split="validation"
        ),
        eval_period=4,
        eval_steps=2,
        learning_rate=LearningRate(base_learning_rate=0.05),
        checkpoint=CheckpointConfig(
            save_every_steps=4, keep_last=1, keep_every_steps=8, keep_best_metric="loss"
        ),
    )  # fmt: skip
    lines = record(model_dir)
    name = "loss_per_nonpadding_target_token"
    train_loss = [metrics[name] for _, split, metrics in lines if split == "train"]
    assert train_loss[-1] < train_loss[0] - 0.1
    evaluated = {step: m["loss"] for step, split, m in lines if split == "eval"}
    assert sorted(evaluated) == [4, 8, 12, 16]
    best = min(evaluated, key=evaluated.get)
    assert run_folder.steps_of(model_dir) == sorted({8, 16, best})
    assert list((model_dir / "train").glob("events.out.tfevents.*"))
    assert list((model_dir / "training_eval" / "held").glob("events.out.tfevents.*"))
    info = (model_dir / "model-info.txt").read_text()
    assert "token_embedder/embedding" in info and "total parameters: " in info


def test_initial_checkpoint_with_and_without_optimizer_state(cache_dir, tmp_path, capfd):
    tiny_run.run(tmp_path / "first", cache_dir, 3)
    for restore in (True, False):
        summary = tiny_run.run(
            tmp_path / f"second-{restore}", cache_dir, 0, relative_steps=2,
            initial_checkpoint_path=str(tmp_path / "first"),
            restore_optimizer_state=restore, from_scratch=False,
        )  # fmt: skip
        assert summary.step == 5
        said = capfd.readouterr().err
        assert ("parameters and optimizer state" if restore else "optimizer state afresh") in said
        assert "TRAIN_STEPS_RELATIVE counts: 2 steps on top of 3, not TRAIN_STEPS = 0" in said


def refused(match: str, cache_dir, model_dir, **changes):
    with pytest.raises(UserError, match=match):
        tiny_run.run(model_dir, cache_dir, **changes)
    assert not run_folder.steps_of(model_dir)


def test_bad_input_is_refused_before_a_step(cache_dir, tmp_path):
    model_dir = tmp_path / "run"
    data = tiny_run.dataset
    refused("nothing to start from", cache_dir, model_dir, from_scratch=False)
    refused(
        "it does not exist", cache_dir, model_dir, initial_checkpoint_path="./no/such",
    )  # fmt: skip
    refused("does not divide 8 devices", cache_dir, model_dir, mesh=MeshConfig(tensor=3))
    refused(
        "BATCH_SIZE 6 does not divide", cache_dir, model_dir,
        train_dataset=data(cache_dir, batch_size=6),
    )  # fmt: skip
    refused(
        "'mux' is not cached.*Did you mean 'mix'", cache_dir, model_dir,
        train_dataset=data(cache_dir, mixture_or_task_name="mux"),
    )  # fmt: skip
    refused(
        "vocabulary of 512 ids.*500 embedding rows", cache_dir, model_dir,
        model=dataclasses.replace(tiny_run.ONE_LAYER, vocab_size=500),
    )  # fmt: skip


def test_corrupt_caches_are_refused(cache_dir, tmp_path):
    for name, damage in {
        "idx": lambda f: f.write_bytes(b"XXXXXXXXX" + f.read_bytes()[9:]),
        "bin": lambda f: f.write_bytes(f.read_bytes()[:-7]),
    }.items():
        copy = tmp_path / f"cache-{name}"
        shutil.copytree(cache_dir, copy)
        damage(copy / "one" / "train" / f"inputs_document.{name}")
        refused(f"inputs_document.{name}", copy, tmp_path / "run")


def test_a_checkpoint_of_another_shape_names_path_expected_and_found(cache_dir, tmp_path):
    tiny_run.run(tmp_path / "run", cache_dir, 1)
    wider = dataclasses.replace(tiny_run.ONE_LAYER, mlp_dim=64)
    mismatch = r"params/.*wi_0/kernel: expected \(1, 16, 64\), found \(1, 16, 32\)"
    with pytest.raises(UserError, match=mismatch):
        tiny_run.run(tmp_path / "run", cache_dir, 2, model=wider)
    assert run_folder.steps_of(tmp_path / "run") == [1]


def test_model_dir_that_cannot_be_written(cache_dir, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused("cannot be written", cache_dir, tmp_path / "file" / "run")
    # The kernel's own read-only tree refuses even root.
    refused("cannot be written", cache_dir, Path("/proc/mt0"))


def test_full_disk_before_and_during_a_run(cache_dir, tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: full)
    refused("one checkpoint needs", cache_dir, tmp_path / "run")
    monkeypatch.undo()

    tiny_run.run(tmp_path / "run", cache_dir, 3)
    before = run_folder.steps_of(tmp_path / "run")

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mt0_tpu.checkpoint_saving.FINAL_WAITS_S", (0.0,))
    monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "save", no_space)
    with pytest.raises(UserError, match="No space left.*the last good one is step 3"):
        tiny_run.run(tmp_path / "run", cache_dir, 6)
    assert run_folder.steps_of(tmp_path / "run") == before


def test_a_loss_that_is_not_finite_stops_the_run(cache_dir, tmp_path):
    with pytest.raises(UserError, match="the loss is nan at step"):
        tiny_run.run(
            tmp_path / "run", cache_dir, 6,
            learning_rate=LearningRate(base_learning_rate=float("1e30"), min_learning_rate=1.0),
        )  # fmt: skip


def test_bloom_trains_from_the_same_cache_and_resumes_bit_for_bit(cache_dir, tmp_path):
    """The layout follows from the model; nothing else of the run is told."""
    settings = {
        "model": dataclasses.replace(TINY_BLOOM, emb_dim=16, mlp_dim=32, num_layers=1),
        "train_dataset": tiny_run.dataset(cache_dir, task_feature_lengths={"decoder": 30}),
        "train_eval_dataset": tiny_run.dataset(
            cache_dir, mixture_or_task_name="held", split="validation", shuffle=False,
            task_feature_lengths={"inputs": 16, "targets": 8},
        ),
        "optimizer": AdamW(global_norm_clip=1.0),
        "learning_rate": LearningRate(factors="constant", base_learning_rate=1e-2),
    }  # fmt: skip
    whole = tiny_run.run(tmp_path / "whole", cache_dir, 6, **settings)
    tiny_run.run(tmp_path / "parts", cache_dir, 3, **settings)
    tiny_run.run(tmp_path / "parts", cache_dir, 6, **settings)
    trained = lambda run: [line for line in record(tmp_path / run) if line[1] == "train"]  # noqa: E731
    assert trained("parts")[-1] == trained("whole")[-1]
    metrics = whole.metrics
    assert metrics["loss_per_nonpadding_target_token"] < np.log(512)
    assert metrics["non_padding_fraction/overall"] > 0.7
    assert "non_padding_fraction/encoder" not in metrics
    assert [line[0] for line in record(tmp_path / "whole") if line[1] == "eval"] == [6]


def test_rows_of_another_layout_than_the_models_are_refused(cache_dir, tmp_path):
    dataset = tiny_run.dataset(cache_dir, task_feature_lengths={"decoder": 30})
    with pytest.raises(UserError, match="a row of a decoder-only model"):
        tiny_run.run(tmp_path, cache_dir, train_dataset=dataset)
    dataset = tiny_run.dataset(cache_dir, layout="encoder_decoder")
    with pytest.raises(UserError, match="the model reads 'decoder_only' rows"):
        tiny_run.run(tmp_path, cache_dir, model=TINY_BLOOM, train_dataset=dataset)
