"""Sick steps: stopped at or skipped, kept to be repeated, and never in a sum."""

import json
import math
import time

import jax
import numpy as np
import pytest

from mt0_tpu import checkpoints, run_folder
from mt0_tpu.data import batches
from mt0_tpu.errors import UserError
from mt0_tpu.step_health import HealthConfig, StepHealth
from tests import sick_loss, tiny_run
from tests.test_train import record

STEPS = 12


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    sick_loss.write_marked_cache(root)
    return root


@pytest.fixture(scope="module")
def marked_steps(cache_dir) -> dict[str, list[int]]:
    """The steps of a run of STEPS whose batch holds a marked example, by what turns NaN."""
    config = tiny_run.dataset(cache_dir)
    found = {kind: [] for kind in sick_loss.MARKS}
    with batches.Loader(batches.open_sources(config), config) as loader:
        for step, batch in zip(range(1, STEPS + 1), loader, strict=False):
            for kind, mark in sick_loss.MARKS.items():
                if (batch["decoder_target_tokens"] == mark).any():
                    found[kind].append(step)
    # The gradient's comes first; neither is in the first step or in most.
    assert 1 < found["gradient"][0] < found["loss"][0]
    assert all(2 <= len(steps) < STEPS / 3 for steps in found.values())
    return found


def params_of(folder):
    return checkpoints.restore_params(str(folder), tiny_run.ONE_LAYER)


def test_stop_keeps_the_batch_and_the_ids_of_its_examples(
    cache_dir, marked_steps, tmp_path, monkeypatch
):
    sick_loss.sicken(monkeypatch)
    first = marked_steps["gradient"][0]
    said = f"the gradient norm is nan at step {first} .*its batch, examples and how"
    with pytest.raises(UserError, match=said):
        tiny_run.run(tmp_path / "run", cache_dir, STEPS, config_text="# none\n")
    assert all(step < first for step in run_folder.steps_of(tmp_path / "run"))
    folder = tmp_path / "run" / "sick" / f"step-{first}"
    examples = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    marked = [one for one in examples if (one["task"], one["index"]) == ("two", 0)]
    assert len(marked) == 1
    # EOS, which the cache adds, is in the row.
    assert marked[0]["targets_ids"] == [sick_loss.MARKS["gradient"], 1]
    with np.load(folder / "batch-0.npz") as batch:
        row = batch["decoder_target_tokens"][marked[0]["row"]]
        segments = batch["decoder_segment_ids"][marked[0]["row"]]
        assert row[segments == marked[0]["segment"]].tolist() == marked[0]["targets_ids"]
        assert sum(len(one["inputs_ids"]) for one in examples) == np.count_nonzero(
            batch["encoder_input_tokens"]
        )
    record = json.loads((folder / "step.json").read_text())
    assert record["step"] == first and str(folder) in record["command"]
    assert (folder / "config.gin").read_text() == "# none\n"


def test_skipped_steps_are_counted_and_in_no_sum(cache_dir, marked_steps, tmp_path, monkeypatch):
    """Loss and gradient both; and in two parts it is the same run, to the bit."""
    sick_loss.sicken(monkeypatch)
    run = tmp_path / "run"
    summary = tiny_run.run(run, cache_dir, STEPS, on_nonfinite="skip")
    assert summary.step == STEPS
    assert all(bool(np.all(np.isfinite(leaf))) for leaf in jax.tree.leaves(params_of(run)))
    skipped = {step: metrics["skipped_steps"] for step, _, metrics in record(run)}
    sick = sorted({step for steps in marked_steps.values() for step in steps})
    expected = {line: sum(line - 2 < s <= line for s in sick) for line in range(2, 13, 2)}
    assert skipped == expected
    assert all(math.isfinite(v) for _, _, metrics in record(run) for v in metrics.values())
    assert {path.name for path in (run / "sick").iterdir()} == {f"step-{step}" for step in sick}

    for stop in (marked_steps["loss"][0], STEPS):
        tiny_run.run(tmp_path / "parts", cache_dir, stop, on_nonfinite="skip")
    jax.tree.map(np.testing.assert_array_equal, params_of(run), params_of(tmp_path / "parts"))
    assert record(run)[-1] == record(tmp_path / "parts")[-1]


def test_without_a_sick_step_skip_and_stop_are_the_same_run(cache_dir, tmp_path):
    for choice in ("stop", "skip"):
        tiny_run.run(tmp_path / choice, cache_dir, 4, on_nonfinite=choice)
    jax.tree.map(
        np.testing.assert_array_equal, params_of(tmp_path / "stop"), params_of(tmp_path / "skip")
    )


def test_too_many_in_a_row_stop_the_run_with_good_parameters(cache_dir, tmp_path, capfd):
    """A learning rate that ruins the parameters at once: every later step is sick."""
    from mt0_tpu.schedules import LearningRate

    ruinous = LearningRate(base_learning_rate=float("1e30"), min_learning_rate=1.0)
    with pytest.raises(UserError, match="4 steps in a row were skipped .*is 3"):
        tiny_run.run(
            tmp_path / "run", cache_dir, STEPS, on_nonfinite="skip", max_consecutive_skips=3,
            learning_rate=ruinous, log_every_steps=1,
        )  # fmt: skip
    said = capfd.readouterr().err
    assert said.count("skipped, nothing is changed by it") == 3
    assert "every step since the last line was skipped" in said
    lines = [metrics for _, _, metrics in record(tmp_path / "run")]
    assert {"skipped_steps": 1.0} in lines


def test_a_spike_is_told_with_its_examples_and_changes_nothing(
    cache_dir, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr("mt0_tpu.loss_spikes.LEAST_STEPS", 4)
    # So low a bound that ordinary noise is a spike.
    changed = {"spike_threshold": 0.01}
    tiny_run.run(tmp_path / "whole", cache_dir, STEPS, **changed)
    told = capfd.readouterr().err
    lines = (tmp_path / "whole" / "sick" / "spikes.jsonl").read_text().splitlines()
    spikes = [json.loads(line) for line in lines]
    assert spikes and told.count("loss spike at step") == len(spikes)
    assert all(len(spike["examples"]) > 8 for spike in spikes)
    # In two parts the same are told, once each; with none the parameters are the same.
    for stop in (spikes[0]["step"] + 1, STEPS):
        tiny_run.run(tmp_path / "parts", cache_dir, stop, **changed)
    assert (tmp_path / "parts" / "sick" / "spikes.jsonl").read_text().splitlines() == lines
    tiny_run.run(tmp_path / "none", cache_dir, STEPS, spike_threshold=None)
    assert not (tmp_path / "none" / "sick").exists()
    jax.tree.map(
        np.testing.assert_array_equal, params_of(tmp_path / "whole"), params_of(tmp_path / "none")
    )


def test_a_folder_that_cannot_be_written_does_not_change_the_outcome(
    cache_dir, marked_steps, tmp_path, monkeypatch, capfd
):
    sick_loss.sicken(monkeypatch)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sick").write_text("in the way")
    assert tiny_run.run(tmp_path / "run", cache_dir, STEPS, on_nonfinite="skip").step == STEPS
    said = capfd.readouterr().err
    assert said.count("/sick cannot be written") >= len(marked_steps["loss"])


def test_a_flipped_bit_stops_the_run_before_it_is_saved(cache_dir, tmp_path, monkeypatch):
    from mt0_tpu import train_step
    from tests.test_replica_check import flipped

    compile_train_step = train_step.compile_train_step

    def compile_with_a_flip(*arguments):
        run_step = compile_train_step(*arguments)

        def step(state, batch):
            state, sums = run_step(state, batch)
            if int(state.step) == 5:
                params = state.params
                scale = params["decoder"]["decoder_norm"]["scale"]
                params["decoder"]["decoder_norm"]["scale"] = flipped(scale, 3, bit=20)
            return state, sums

        return step

    monkeypatch.setattr(train_step, "compile_train_step", compile_with_a_flip)
    # The parts differ in one bit at step 5, and everywhere a step later.
    said = r"at step 6 .*params/decoder/decoder_norm/scale: device 3 .* against 7 others"
    with pytest.raises(UserError, match=said):
        tiny_run.run(tmp_path / "run", cache_dir, STEPS, check_replicas_every_steps=1000)
    # Its save at 3 goes on in the background.
    deadline = time.monotonic() + 60
    while run_folder.steps_of(tmp_path / "run") != [3]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def judge(tmp_path, *sums, **changes) -> list[bool]:
    """What becomes of steps with these (loss, gradient norm)."""
    health = StepHealth(
        HealthConfig(**changes), str(tmp_path), (), None, 0, "", None, 0, lambda text: None
    )
    return [
        health.admits(step, {"loss": loss, "grad_norm": norm, "weighted_loss": loss, "weight": 1.0})
        for step, (loss, norm) in enumerate(sums, 1)
    ]


@pytest.mark.parametrize("sick", [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_whatever_is_not_finite_is_sick(tmp_path, sick):
    assert judge(tmp_path, (1.0, 1.0), sick, (1.0, 1.0), on_nonfinite="skip") == [True, False, True]
    with pytest.raises(
        UserError, match=f"{sick[0] if sick[1] == 1.0 else 'norm is nan'} at step 1"
    ):
        judge(tmp_path, sick)


def test_skips_that_are_not_in_a_row_do_not_add_up(tmp_path):
    well, sick = (1.0, 1.0), (math.nan, 1.0)
    bound = {"on_nonfinite": "skip", "max_consecutive_skips": 2}
    assert judge(tmp_path, *[sick, sick, well] * 5, **bound) == [False, False, True] * 5
    with pytest.raises(UserError, match="3 steps in a row were skipped"):
        judge(tmp_path, well, sick, sick, sick, **bound)


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("on_nonfinite", "skp", r"'skp'; write 'stop' or 'skip'. Did you mean 'skip'"),
        ("max_consecutive_skips", 0, "is 0; write 1 or more"),
        ("spike_threshold", 0.0, r"is 0.0; write a number of deviations > 0"),
    ],
)
def test_settings_that_mean_nothing(name, value, said):
    with pytest.raises(UserError, match=f"train.{name} .*{said}|train.{name} {said}"):
        HealthConfig(**{name: value})
