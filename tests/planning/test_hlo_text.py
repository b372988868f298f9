"""The notation of compiled programs, line by line."""

import pytest

from mt0_tpu.planning import hlo_text
from mt0_tpu.planning.hlo_text import Array

TEXT = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[2,3]{1,0})->f32[2,3]{1,0}}

%fused (p.0: f32[2,3], p.1: f32[]) -> f32[2,3] {
  %p.0 = f32[2,3]{1,0:T(8,128)S(1)} parameter(0)
  %p.1 = f32[]{:T(128)} parameter(1)
  %b = f32[2,3]{1,0} broadcast(%p.1), dimensions={}
  ROOT %m = f32[2,3]{1,0} multiply(%p.0, %b), metadata={op_name="jit(f)/mul(a, b)/x{}" id=3}
}

ENTRY %main.7 (x: f32[2,3]) -> f32[2,3] {
  %x = f32[2,3]{1,0} parameter(0), sharding={devices=[2,1]<=[2]}
  %c = f32[] constant(2.5)
  %start = (f32[2,3]{1,0}, /*index=1*/f32[4,3]{1,0}, u32[]{:S(2)}) all-gather-start(%x), \
replica_groups=[1,2]<=[2], dimensions={0}
  ROOT %f = f32[2,3]{1,0} fusion(f32[2,3]{1,0} %x, %c), kind=kLoop, calls=%fused
}
"""


def test_computations_and_instructions():
    module = hlo_text.parse(TEXT)
    assert list(module.computations) == ["fused", "main.7"] and module.entry == "main.7"
    main, fused = module["main.7"], module["fused"]
    assert list(main.instructions) == ["x", "c", "start", "f"]
    assert main.root.opcode == "fusion" and main.root.operands == ("x", "c")
    assert main.root.called("calls") == ("fused",)
    assert main.instructions["c"].literal == "2.5" and main.instructions["c"].operands == ()
    assert fused.parameters[0].arrays == (Array("f32", (2, 3), space=1),)
    assert fused.root.op_name == "jit(f)/mul(a, b)/x{}"


def test_shapes_of_tuples():
    start = hlo_text.parse(TEXT)["main.7"].instructions["start"]
    assert start.arrays == (
        Array("f32", (2, 3)), Array("f32", (4, 3)), Array("u32", (), space=2),
    )  # fmt: skip
    assert start.bytes == 24 + 48 + 4
    assert start.attribute("replica_groups") == "[1,2]"
    assert start.attribute("dimensions") == "{0}"
    assert start.attribute("nothing") is None


@pytest.mark.parametrize(
    "text, size",
    [("bf16[8,128]{1,0:T(8,128)(2,1)}", 2048), ("pred[]", 1), ("f8e4m3fn[16]{0}", 16),
     ("(s32[2]{0}, f64[3]{0})", 32), ("token[]", 0)],
)  # fmt: skip
def test_bytes(text, size):
    assert sum(array.bytes for array in hlo_text.arrays_of(text)) == size


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo_text.parse("module @jit_f { func.func public @main() }")
