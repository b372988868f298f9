"""Work of a step by formula, against what compiled programs were found to need."""

import dataclasses

import pytest

from benchmarks import hardware_table
from mt0_tpu.models.t5 import T5Config
from mt0_tpu.planning import plan_command, search, step_work
from mt0_tpu.planning.analytic_model import Candidate
from mt0_tpu.planning.topologies import topology
from tests.tiny_bloom import TINY_BLOOM

T5 = T5Config(
    vocab_size=1024, emb_dim=64, num_heads=4, head_dim=16, mlp_dim=128,
    num_encoder_layers=2, num_decoder_layers=2,
)  # fmt: skip
ONE = Candidate(
    replica=1, data=1, fsdp=1, tensor=1, num_microbatches=1, remat_policy="none",
    sequence_parallel=False, rows=8, inputs=32, targets=16,
)  # fmt: skip


@pytest.mark.parametrize("pair", sorted(hardware_table.figures()), ids="/".join)
def test_the_formula_is_near_what_was_compiled(pair):
    """Seconds within a third of the compiled program's roofline, by the benchmark's figures."""
    size, name = pair
    made = hardware_table.figures()[pair]["plan"]
    files = [hardware_table.recipe(size), hardware_table.hardware_file(*pair)]
    run = plan_command.arguments_of("train", (files, [], []))
    one = Candidate(
        **made["mesh"], num_microbatches=made["num_microbatches"],
        remat_policy=made["remat_policy"], rows=made["rows"], inputs=made["input_length"],
        targets=made["target_length"],
        sequence_parallel=getattr(run["model"], "sequence_parallel", False),
    )  # fmt: skip
    guess = search.predictions(run, [one], topology(name))[0][1]
    assert guess.seconds == pytest.approx(made["estimate"]["step_s"], rel=1 / 3)


@pytest.mark.parametrize("config, inputs", [(T5, 32), (TINY_BLOOM, 0)], ids=["t5", "bloom"])
def test_products_are_three_times_forward(config, inputs):
    from mt0_tpu.planning import model_flops

    one = dataclasses.replace(ONE, inputs=inputs)
    found = step_work.parts(config, one, 1, (1e6, 1e6))
    forward = model_flops.forward_flops(config, 8, inputs, 16)
    assert sum(part.flops for part in found) == pytest.approx(3 * forward)


def test_rematerialising_costs_products_and_traffic():
    def totals(policy):
        found = step_work.parts(T5, dataclasses.replace(ONE, remat_policy=policy), 1, (1e6, 1e6))
        return sum(p.flops for p in found), sum(p.hbm_bytes for p in found)

    none, minimal, full = map(totals, ("none", "minimal", "full"))
    assert none[0] < minimal[0] < full[0] and none[1] < minimal[1] < full[1]


def test_each_part_takes_its_longer_peak():
    parts = [step_work.Part(10.0, 1.0), step_work.Part(1.0, 10.0)]
    assert step_work.seconds(parts, flops_per_s=10.0, hbm_bytes_per_s=5.0) == 1.0 + 2.0
