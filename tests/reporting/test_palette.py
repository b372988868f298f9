"""mt0_tpu/reporting/palette.py: an arm's colour is its own."""

from __future__ import annotations

from mt0_tpu.reporting.palette import Palette


def test_arms_of_the_study_keep_their_colours_and_others_take_free_ones():
    palette = Palette(["pretrain", "multilingual", *"xyz"])
    light = palette.style().splitlines()[0]
    colours = [rule.split(":")[1] for rule in light.removesuffix("}").split("}")]
    assert len(set(colours)) == 5
    assert ".a1{--c:#0069a8}" in light and ".a1{--c:#4fb0ea}" in palette.style().splitlines()[1]
    assert palette.tag("multilingual") == '<span class="arm a1">multilingual multitask</span>'
    assert palette.tag("x", "<x>") == '<span class="arm a2">&lt;x&gt;</span>'


def test_more_runs_than_colours():
    arms = [f"run {number}" for number in range(30)]
    palette = Palette(arms)
    assert len({palette.css_class(arm) for arm in arms}) == 30
