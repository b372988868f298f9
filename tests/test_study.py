"""The embedded default from nothing to a report, and again without doing anything twice."""

import json
import os
import subprocess
import sys

import pytest

from mt0_tpu import study
from mt0_tpu.errors import UserError
from tests.conftest import REPOSITORY


def run(output_dir) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mt0_tpu", "study", "--quick", "--seeds", "0"]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [*command, "--output_dir", str(output_dir)],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip


@pytest.mark.slow
def test_every_arm_is_trained_scored_and_reported_once(tmp_path):
    first = run(tmp_path)
    assert first.returncode == 0, first.stderr[-2000:]
    arms = {arm.name for arm in study.ARMS}
    assert {path.name for path in (tmp_path / "seed0").iterdir()} == arms
    steps = {}
    for arm in arms:
        summary = json.loads((tmp_path / "seed0" / arm / "eval" / "summary.json").read_text())
        steps[arm] = summary["step"]
        assert {group["cluster"] for group in summary["groups"]} >= {"nli", "completion"}
    quick = study.QUICK_STEPS
    assert steps == {
        "pretrain": quick,
        "multilingual": 2 * quick,
        "english": 2 * quick,
        "scratch": quick,
    }
    page = (tmp_path / "report" / "index.html").read_text()
    assert "multilingual multitask" in page.lower()
    assert "report:" in first.stdout and "chance" in first.stdout

    events = sorted(tmp_path.rglob("*.jsonl"))
    before = {path: path.stat().st_mtime_ns for path in events if "eval" in path.parts}
    second = run(tmp_path)
    assert second.returncode == 0, second.stderr[-2000:]
    assert second.stderr.count("nothing to do") == len(arms)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_arms_are_chosen_by_name():
    names = lambda *chosen: [arm.name for arm in study.chosen_arms(chosen)]  # noqa: E731
    assert names("bloomz", "multilingual", "pretrain") == ["pretrain", "multilingual", "bloomz"]
    assert study.chosen_arms([arm.name for arm in study.ARMS]) == study.ARMS
    with pytest.raises(UserError, match="names 'blomz'; write some of .*Did you mean 'bloomz'"):
        study.chosen_arms(["blomz"])
    with pytest.raises(UserError, match="multilingual, which starts from pretrain: add pretrain"):
        study.chosen_arms(["multilingual", "bloomz"])


def test_seeds_must_differ(tmp_path):
    with pytest.raises(UserError, match="give one or more different numbers"):
        study.run_study(str(tmp_path), seeds=(1, 1))
