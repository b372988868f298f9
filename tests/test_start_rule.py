"""The start rule, and what is said of folders that are no checkpoint of ours."""

import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.start_rule import Start, check_total_steps, find_start


def fake_run(folder, *steps):
    for step in steps:
        (folder / "checkpoints" / str(step) / "state").mkdir(parents=True)
    return str(folder)


def test_the_start_rule_is_an_order(tmp_path):
    own = fake_run(tmp_path / "own", 5, 20, 100)
    other = fake_run(tmp_path / "other", 7, 9)
    empty = str(tmp_path / "empty")
    assert find_start(own, other, True) == Start("resume", own, 100)
    assert find_start(empty, other, True) == Start("initial", other, 9)
    assert find_start(empty, f"{other}/checkpoints", False) == Start("initial", other, 9)
    assert find_start(empty, f"{other}/checkpoints/7", False) == Start("initial", other, 7)
    assert find_start(empty, None, True) == Start("scratch")
    with pytest.raises(UserError, match="nothing to start from"):
        find_start(empty, None, False)


@pytest.mark.parametrize(
    "folder, kind, step",
    [
        ("t5_tiny/ckpt_legacy_float32/checkpoint_1000003", "T5X", 1000003),
        ("t5_tiny/ckpt_orbax/checkpoint_1000003", "T5X Orbax", 1000003),
        ("t5_tiny/hf", "Hugging Face", 0),
    ],
)
def test_a_run_starts_from_other_formats(golden, tmp_path, folder, kind, step):
    start = find_start(str(tmp_path), str(golden / folder), False)
    assert (start.kind, start.step, start.weights.kind) == ("foreign", step, kind)
    assert kind in str(start)


@pytest.mark.parametrize(
    "folder, said", [("rank", "holds no checkpoint that is known"), ("rink", "does not exist")]
)
def test_what_is_no_checkpoint_is_said(golden, tmp_path, folder, said):
    with pytest.raises(UserError, match=f"no checkpoint at .*{said}; give a MODEL_DIR"):
        find_start(str(tmp_path), str(golden / folder), False)


@pytest.mark.parametrize("kind", ["initial", "foreign"])
def test_steps_of_a_pretraining_that_the_start_does_not_know(kind):
    start = Start(kind, "there/hf")
    said = "TRAIN_STEPS is 1,007,000, and there/hf names no step.*TRAIN_STEPS_RELATIVE = 7000 for"
    with pytest.raises(UserError, match=said):
        check_total_steps(start, 1_007_000, None)
    # What is meant is clear in all of these.
    check_total_steps(start, 1_007_000, 7000)
    check_total_steps(start, 7000, None)
    check_total_steps(Start(kind, "there/t5x", 1_000_000), 1_007_000, None)
    check_total_steps(Start("scratch"), 1_007_000, None)
    check_total_steps(Start("resume", "run", 0), 1_007_000, None)
