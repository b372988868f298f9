"""The rule for spikes: what is one, how often it is told, and that it resumes exactly."""

import json

import numpy as np
import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.loss_spikes import LEAST_STEPS, WINDOW_STEPS, LossSpikes


def quiet(num: int, level: float = 2.0) -> list[float]:
    return (level + 0.05 * np.random.default_rng(0).normal(size=num)).tolist()


def told(losses, spikes=None):
    spikes = spikes or LossSpikes(8.0)
    return [step for step, loss in enumerate(losses) if spikes.add(step, loss)]


def test_a_jump_is_told_once_and_again_after_calm():
    losses = quiet(100) + [4.0, 4.2, 4.1] + quiet(20) + [5.0] + quiet(5)
    assert told(losses) == [100, 123]


def test_noise_a_falling_curve_and_the_beginning_are_no_spike():
    assert told(quiet(2000)) == []
    assert told((10 / np.sqrt(np.arange(1, 500))).tolist()) == []
    assert told([2.0] * (LEAST_STEPS - 1) + [9.0]) == []
    # A loss that does not vary at all: a hundredth more is no spike.
    assert told([2.0] * 50 + [2.02] + [2.0] * 50) == []


def test_the_median_is_not_moved_by_outliers():
    losses = quiet(WINDOW_STEPS)
    for place in range(40, WINDOW_STEPS, 10):
        losses[place] = 50.0
    assert told(losses) == list(range(40, WINDOW_STEPS, 10))


def test_a_level_that_stays_becomes_the_usual_one():
    spikes = LossSpikes(8.0)
    assert told(quiet(WINDOW_STEPS) + quiet(WINDOW_STEPS, 6.0), spikes) == [WINDOW_STEPS]
    assert spikes.add(999, 6.0) is None and not spikes.state["inside"]


def test_it_goes_on_from_its_state_as_if_nothing_had_been():
    losses = quiet(60) + [9.0, 9.0, 9.0] + quiet(60) + [9.0]
    whole = told(losses)
    for cut in (10, 61, 62, 90):
        first = LossSpikes(8.0)
        before = told(losses[:cut], first)
        state = json.loads(json.dumps(first.state))
        after = [cut + step for step in told(losses[cut:], LossSpikes(8.0, state))]
        assert before + after == whole == [60, 123]


def test_what_a_spike_says():
    spikes = LossSpikes(10.0)
    for step in range(40):
        spikes.add(step, 1.0 + 0.1 * (step % 2))
    found = spikes.add(40, 7.0)
    assert (found.step, found.loss, found.median) == (40, 7.0, 1.05)
    assert found.bound == pytest.approx(1.05 + 10 * 1.4826 * 0.05)


def test_off_and_wrong():
    assert told(quiet(100) + [9.0], LossSpikes(None)) == []
    with pytest.raises(UserError, match="train.spike_threshold is -1"):
        LossSpikes(-1)
