"""Trip counts of loops as two compilers write them."""

import pytest

from mt0_tpu.planning import hlo_text
from mt0_tpu.planning.hlo_loops import trip_count

MODULE = """\
HloModule m

%add_one (p: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  %one = s32[] constant(STEP)
  ROOT %sum = s32[]{:T(128)} add(%p, %one)
}

%cond (t: (s32[], f32[4], s32[])) -> pred[] {
  %t = (s32[], f32[4]{0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %bound = s32[] BOUND
  ROOT %lt = pred[] compare(%i, %bound), direction=DIRECTION
}

%body (t.1: (s32[], f32[4], s32[])) -> (s32[], f32[4], s32[]) {
  %t.1 = (s32[], f32[4]{0}, s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%t.1), index=0
  %x = f32[4]{0} get-tuple-element(%t.1), index=1
  %n = s32[] get-tuple-element(%t.1), index=2
  %next = s32[] fusion(%i.1), kind=kLoop, calls=%add_one
  ROOT %out = (s32[], /*index=1*/f32[4]{0}, s32[]) tuple(%next, %x, %CARRIED)
}

ENTRY %main (a: f32[4], start: s32[]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %start = s32[] parameter(1)
  %zero = s32[] constant(FROM)
  %limit = s32[] constant(24)
  %copied = s32[] copy(%zero)
  %init = (s32[], f32[4]{0}, s32[]) tuple(%copied, %a, %limit)
  %loop = (s32[], f32[4]{0}, s32[]) while(%init), condition=%cond, body=%body KNOWN
  ROOT %y = f32[4]{0} get-tuple-element(%loop), index=1
}
"""
CONSTANT = "constant(24)"
CARRIED = "get-tuple-element(%t), index=2"


def trips(step=1, start="0", bound=CONSTANT, direction="LT", carried="n", known=""):
    text = MODULE
    for old, new in {
        "STEP": str(step), "FROM": start, "BOUND": bound, "DIRECTION": direction,
        "%CARRIED": f"%{carried}", " KNOWN": known,
    }.items():  # fmt: skip
        text = text.replace(old, new)
    module = hlo_text.parse(text)
    home = module[module.entry]
    return trip_count(module, home, home.instructions["loop"])


@pytest.mark.parametrize(
    "expected, written",
    [
        (24, {}),
        (12, {"step": 2}),
        (8, {"step": 3, "start": "1"}),  # 1, 4, … 22
        (25, {"direction": "LE"}),
        (24, {"direction": "NE"}),
        (None, {"direction": "NE", "step": 5}),
        (6, {"step": -1, "start": "30", "direction": "GT"}),
        (0, {"start": "30"}),
        (None, {"step": -1}),  # away from the bound
        (24, {"bound": CARRIED}),
        (None, {"bound": CARRIED, "carried": "next"}),  # the bound changes as well
        (7, {"known": ', backend_config={"known_trip_count":{"n":"7"}}'}),
    ],
)
def test_trips(expected, written):
    assert trips(**written) == expected


def test_a_start_that_is_an_argument_is_unknown():
    text = MODULE.replace("tuple(%copied, %a", "tuple(%start, %a").replace("STEP", "1")
    text = text.replace("FROM", "0").replace("BOUND", CONSTANT).replace("DIRECTION", "LT")
    module = hlo_text.parse(text.replace("%CARRIED", "%n").replace(" KNOWN", ""))
    home = module[module.entry]
    assert trip_count(module, home, home.instructions["loop"]) is None
