"""The counter against programs whose products and collectives are known by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mt0_tpu.planning import hlo_costs

F32 = jnp.float32


def counted(function, *shapes, **options):
    """Costs of a function compiled for one CPU device."""
    arguments = [jax.ShapeDtypeStruct(shape, F32) for shape in shapes]
    return hlo_costs.count(jax.jit(function).lower(*arguments).compile().as_text(), **options)


def on_mesh(function, mesh, *pairs):
    """Costs of one device of a mesh; pairs of (shape, PartitionSpec)."""
    arguments = [
        jax.ShapeDtypeStruct(shape, F32, sharding=NamedSharding(mesh, spec))
        for shape, spec in pairs
    ]
    with jax.set_mesh(mesh):
        return hlo_costs.count(jax.jit(function).lower(*arguments).compile().as_text())


def mesh_of(*shape):
    names = ("a", "b", "c")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))


def test_a_product():
    assert counted(lambda x, y: x @ y, (8, 16), (16, 4)).flops == 2 * 8 * 16 * 4


def test_a_batched_product_with_two_summed_dimensions():
    product = functools.partial(jnp.einsum, "bxyz,byzw->bxw")
    assert counted(product, (3, 4, 5, 6), (3, 5, 6, 7)).flops == 2 * 3 * 4 * 5 * 6 * 7


def test_products_inside_fusions_are_found():
    costs = counted(lambda x, y: jnp.tanh(x @ y + 1.0) * 2.0, (64, 32), (32, 16))
    assert costs.flops == 2 * 64 * 32 * 16


def test_a_scan_counts_its_body_every_time():
    def run(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)[0]

    assert counted(run, (8, 16), (5, 16, 16)).flops == 5 * 2 * 8 * 16 * 16


def test_nested_loops_multiply():
    def run(x, kernels):
        def outer(x, kernel):
            return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ kernel), x), None

        return jax.lax.scan(outer, x, kernels)[0]

    assert counted(run, (8, 16), (5, 16, 16)).flops == 5 * 3 * 2 * 8 * 16 * 16


def test_gradient_of_a_scan_under_remat():
    """Forward, forward again, and two products backward: four of each."""

    def loss(kernels, x):
        body = jax.checkpoint(lambda x, kernel: (jnp.tanh(x @ kernel), None))
        return jnp.sum(jax.lax.scan(body, x, kernels)[0])

    costs = counted(jax.grad(loss), (5, 16, 16), (8, 16))
    assert costs.flops == pytest.approx(5 * 4 * 2 * 8 * 16 * 16, rel=0.26)
    assert costs.flops > 5 * 3 * 2 * 8 * 16 * 16 - 1


def test_the_dearest_branch_counts():
    def run(flag, x):
        dear, cheap = (lambda x: x @ x @ x), (lambda x: x @ x)
        return jax.lax.cond(flag[0] > 0, dear, cheap, x)

    assert counted(run, (1,), (16, 16)).flops == 2 * 2 * 16**3


def test_a_loop_that_the_data_end_is_named_and_counted_as_told():
    def run(x, limit):
        def unfinished(state):
            return (state[0] < 9) & (jnp.sum(state[1]) < limit[0])

        return jax.lax.while_loop(unfinished, lambda s: (s[0] + 1, s[1] @ s[1]), (0, x))[1]

    for trips in (1, 7):
        costs = counted(run, (8, 8), (1,), unknown_trips=trips)
        assert costs.flops == trips * 2 * 8**3
        assert len(costs.unknown_loops) == 1


def test_convolution_leaves_out_padding():
    """'SAME' padding: the outermost of 3 taps falls outside at both ends."""

    def run(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1,), "SAME")

    costs = counted(run, (2, 3, 10), (4, 3, 3))
    assert costs.flops == 2 * 2 * 4 * 3 * (3 * 10 - 2)


CONVOLUTION = """\
HloModule m

ENTRY %main (x: bf16[8,2,512], k: bf16[256,2,128]) -> bf16[8,128] {
  %x = bf16[8,2,512]{2,1,0} parameter(0)
  %k = bf16[256,2,128]{2,1,0} parameter(1)
  ROOT %c = bf16[8,1,128]{2,1,0} convolution(%x, %k), window={WINDOW}, dim_labels=LABELS
}
"""


def convolution(window, labels, left, right, result):
    text = CONVOLUTION.replace("WINDOW", window).replace("LABELS", labels)
    for old, new in (("[8,2,512]", left), ("[256,2,128]", right), ("[8,1,128]", result)):
        text = text.replace(f"bf16{old}{{2,1,0}}", f"bf16{new}{{2,1,0}}")
    return hlo_costs.count(text).flops


def test_products_as_the_compiler_for_tpu_writes_them():
    # A product whose summed dimension is split: 8x(2x256) @ (2x256)x128.
    split = convolution("size=2", "b0f_i0o->b0f", "[8,2,256]", "[256,2,128]", "[8,1,128]")
    assert split == 2 * 8 * 512 * 128
    # A batch of 4 products 8x16 @ 16x32: each output meets one tap, the others fall on holes.
    batched = convolution(
        "size=4 stride=3 pad=0_0 lhs_dilate=4", "b0f_i0o->b0f",
        "[8,4,16]", "[16,4,32]", "[8,4,32]",
    )  # fmt: skip
    assert batched == 2 * 8 * 16 * 32 * 4


# Eight devices.


def test_all_gather_and_its_bytes():
    costs = on_mesh(lambda x, y: x @ y, mesh_of(8), ((8, 64), P()), ((64, 32), P("a")))
    kinds = {kind: values[:2] for (kind, _, _), values in costs.collectives.items()}
    # Either side may be cut: gather 64x32 float32, or sum the partial 8x32.
    assert kinds in ({"all-gather": [1, 64 * 32 * 4]}, {"all-reduce": [1, 8 * 32 * 4]})


def shard_mapped(function, mesh, in_spec, out_spec):
    return jax.shard_map(function, mesh=mesh, in_specs=in_spec, out_specs=out_spec, check_vma=False)


WHOLE = 64 * 32 * 4  # bytes of the whole array
OPERATIONS = {  # function, out_spec, kind, output bytes, wire bytes of one of eight devices
    "psum": (lambda x: jax.lax.psum(x, "a"), P(), "all-reduce", WHOLE / 8, 2 * WHOLE / 8 * 7 / 8),
    "gather": (
        lambda x: jax.lax.all_gather(x, "a", tiled=True), P(),
        "all-gather", WHOLE, WHOLE * 7 / 8,
    ),
    "scatter": (
        lambda x: jax.lax.psum_scatter(x, "a", tiled=True), P("a"),
        "reduce-scatter", WHOLE / 64, WHOLE / 64 * 7,
    ),
    "all to all": (
        lambda x: jax.lax.all_to_all(x, "a", 0, 1, tiled=True), P(None, "a"),
        "all-to-all", WHOLE / 8, WHOLE / 8 * 7 / 8,
    ),
    "permute": (
        lambda x: jax.lax.ppermute(x, "a", [(i, (i + 1) % 8) for i in range(8)]), P("a"),
        "collective-permute", WHOLE / 8, WHOLE / 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_collectives(name):
    function, out_spec, kind, output, wire = OPERATIONS[name]
    mesh = mesh_of(8)
    costs = on_mesh(shard_mapped(function, mesh, P("a"), out_spec), mesh, ((64, 32), P("a")))
    found = {one: values for (one, _, _), values in costs.collectives.items()}
    assert list(found) == [kind]
    np.testing.assert_allclose(found[kind], [1, output, wire])


def test_a_collective_in_a_loop_counts_every_time():
    mesh = mesh_of(2, 4)

    def run(x):
        return jax.lax.fori_loop(0, 6, lambda _, x: jax.lax.psum(x, "b") * 0.5, x)

    costs = on_mesh(shard_mapped(run, mesh, P("a"), P("a")), mesh, ((8, 16), P("a")))
    ((kind, _, _), (count, output, wire)) = next(iter(costs.collectives.items()))
    assert (kind, count, output) == ("all-reduce", 6, 6 * 4 * 16 * 4)
    assert wire == 2 * output * 3 / 4


def test_traffic_of_a_scan_over_stacked_kernels_is_not_the_stack_each_time():
    def run(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)[0]

    costs = counted(run, (8, 256), (16, 256, 256))
    stack = 16 * 256 * 256 * 4
    assert stack < costs.hbm_bytes < 6 * stack


STARTED = """\
HloModule m

ENTRY %main (x: f32[16,4]) -> f32[16,4] {
  %x = f32[16,4]{1,0} parameter(0)
  %start = SHAPE
  ROOT %y = f32[16,4]{1,0} bitcast(%x)
}
"""


@pytest.mark.parametrize(
    "shape, moved",
    [  # S(1): memory on the chip, whose traffic is left out
        ("((f32[16,4]), f32[2,4], s32[]{:S(2)}) slice-start(%x), slice={[0:2], [0:4]}", 2 * 32),
        ("((f32[16,4]), f32[2,4]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x)", 32),
        ("(f32[16,4], f32[16,4], u32[]{:S(2)}) copy-start(%x)", 2 * 256),
        ("(f32[16,4]{1,0:S(1)}, f32[16,4], u32[]{:S(2)}) copy-start(%x)", 256),
    ],
)
def test_traffic_of_what_is_started_and_awaited_apart(shape, moved):
    assert hlo_costs.count(STARTED.replace("SHAPE", shape)).hbm_bytes == moved


@pytest.mark.parametrize(
    "shape, moved",
    [  # S(5): the memory of the host
        (
            "((f32[16,4]{1,0:S(5)}, f32[2,4], s32[]), f32[16,4]{1,0:S(5)}, u32[]{:S(2)})"
            " dynamic-update-slice-start(%x)",
            32,
        ),
        ("((f32[16,4]{1,0:S(5)}, s32[]), f32[2,4], u32[]{:S(2)}) dynamic-slice-start(%x)", 32),
        ("(f32[16,4]{1,0:S(5)}, f32[16,4], u32[]{:S(2)}) copy-start(%x)", 256),
        ("(f32[16,4], f32[16,4], u32[]{:S(2)}) copy-start(%x)", 0),
    ],
)
def test_what_goes_to_the_host_and_back(shape, moved):
    assert hlo_costs.count(STARTED.replace("SHAPE", shape)).host_bytes == moved


def test_op_seconds_take_the_slower_resource():
    rates = hlo_costs.Rates(flops_per_s=1.0, hbm_bytes_per_s=1e30)
    assert counted(lambda x, y: x @ y, (8, 16), (16, 4), rates=rates).op_seconds >= 1024
