"""Groups of devices in each of XLA's notations, and what crosses slices."""

import pytest

from mt0_tpu.planning import hlo_text
from mt0_tpu.planning.hlo_collectives import collective_of

LINE = """\
HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%fused (p: f32[16,4]) -> f32[4,4] {
  %p = f32[16,4]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %sum = f32[16,4]{1,0} all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %part = f32[4,4]{1,0} dynamic-slice(%sum, %zero, %zero), dynamic_slice_sizes={4,4}
}

%wrapped (q: f32[16,4]) -> f32[16,4] {
  %q = f32[16,4]{1,0} parameter(0)
  ROOT %t = f32[16,4]{1,0} all-to-all(%q), replica_groups={{0,1,2,3}}, dimensions={0}
}

ENTRY %main (x: f32[16,4]) -> f32[16,4] {
  %x = f32[16,4]{1,0} parameter(0)
  %one = OPERATION
  ROOT %y = f32[16,4]{1,0} copy(%x)
}
"""


def collective(operation, slice_of=None):
    module = hlo_text.parse(LINE.replace("OPERATION", operation))
    home = module["main"]
    return collective_of(module, home, home.instructions["one"], slice_of)


GATHER = "f32[64,4]{1,0} all-gather(%x), replica_groups=GROUPS, dimensions={0}"


@pytest.mark.parametrize(
    "groups, size, crosses",
    [  # eight devices, two slices of four
        ("{{0,1,2,3},{4,5,6,7}}", 4, False),
        ("{{0,4},{1,5},{2,6},{3,7}}", 2, True),
        ("[2,4]<=[8]", 4, False),
        ("[4,2]<=[2,4]T(1,0)", 2, True),
        ("mesh['a'=2,'b'=4] {'b'}", 4, False),
        ("mesh['a'=2,'b'=4] {'a'}", 2, True),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", 4, True),
    ],
)
def test_groups(groups, size, crosses):
    found = collective(GATHER.replace("GROUPS", groups), (0, 0, 0, 0, 1, 1, 1, 1))
    assert (found.group_size, found.crosses_slices) == (size, crosses)
    assert found.output_bytes == 64 * 4 * 4
    assert found.wire_bytes == pytest.approx(found.output_bytes * (size - 1) / size)


def test_started_and_awaited_apart():
    gather = collective(
        "(f32[16,4]{1,0}, f32[64,4]{1,0}) all-gather-start(%x), replica_groups=[1,4]<=[4], "
        "dimensions={0}"
    )
    assert (gather.kind, gather.asynchronous, gather.output_bytes) == ("all-gather", True, 1024)
    permute = collective(
        "(f32[16,4]{1,0}, f32[16,4]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x),"
        " source_target_pairs={{0,1},{1,0}}",
        (0, 1),
    )
    assert (permute.kind, permute.output_bytes, permute.wire_bytes) == (
        "collective-permute", 256, 256,
    )  # fmt: skip
    assert permute.crosses_slices
    wrapped = collective(
        "((f32[16,4]{1,0}), f32[16,4]{1,0}, u32[]) async-start(%x), calls=%wrapped"
    )
    assert (wrapped.kind, wrapped.asynchronous, wrapped.group_size) == ("all-to-all", True, 4)
    assert collective("f32[64,4]{1,0} all-gather-done(%x)") is None


def test_a_fused_reduce_scatter_is_one():
    found = collective("f32[4,4]{1,0} fusion(%x), kind=kCustom, calls=%fused")
    assert (found.kind, found.output_bytes, found.wire_bytes) == ("reduce-scatter", 64, 64 * 3)


def test_other_work_is_none():
    assert collective("f32[16,4]{1,0} negate(%x)") is None


def test_slices_are_joined_by_sends_to_the_hosts():
    operation = (
        "(f32[16,4]{1,0}, u32[], token[]) send(%x), channel_id=5, is_host_transfer=true, "
        'frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",KIND}'
    )
    kind = '_xla_megascale_transfer_type="ALL_REDUCE"'
    found = collective(operation.replace("KIND", kind), (0, 0, 1, 1, 2, 2, 3, 3))
    assert (found.kind, found.asynchronous, found.crosses_slices) == ("all-reduce", True, True)
    assert (found.group_size, found.output_bytes, found.wire_bytes) == (4, 256, 2 * 256 * 3 / 4)
    assert collective(operation.replace(",KIND", "")) is None
