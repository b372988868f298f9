"""Plans on simulated devices: the numbers that can be known by hand, and what is refused."""

import dataclasses
import json
import math

import jax
import pytest

from mt0_tpu import cli, plan, train_state
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.errors import UserError
from mt0_tpu.models.t5 import T5
from mt0_tpu.optimizers import Adafactor
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.planning import compile_devices, model_flops, plan_text, programs
from mt0_tpu.planning.topologies import topology
from tests.tiny import TINY

LENGTHS = {"inputs": 16, "targets": 8}
DATASET = DatasetConfig("unread", LENGTHS, batch_size=16, pack=True)
ARGUMENTS = {
    "model": TINY,
    "train_dataset": DATASET,
    "mesh": MeshConfig(fsdp=4, tensor=2),
    "optimizer": Adafactor(),
    "total_steps": 1_030,
    "initial_checkpoint_path": "gs://nowhere/checkpoint_1000",
}
CPU = topology("cpu-8")


@pytest.fixture(scope="module")
def trained():
    return plan.plan("train", ARGUMENTS, CPU)


def test_products_are_the_model_s_own(trained):
    """Without remat nothing is computed twice: 3 x forward, by the formula of network_cost."""
    forward = model_flops.forward_flops(TINY, 16, 16, 8)
    assert trained.model_flops == 3 * forward
    # A relative bias and Adafactor's sums are products of matrices for XLA too: a little more.
    assert trained.flops * 8 == pytest.approx(3 * forward, rel=0.02)


def test_bytes_by_kind(trained):
    shapes, _ = train_state.abstract_state(T5(TINY), Adafactor())
    whole = sum(4 * leaf.size for leaf in jax.tree.leaves(shapes.params))
    # Norms and biases alone are on every device; everything else is cut eight ways.
    assert whole / 8 < trained.memory.parameters < whole / 8 * 1.1
    assert 0 < trained.memory.optimizer < whole / 2
    # Four rows of int32: three features of the inputs' side, five of the targets'.
    assert trained.memory.batch == 4 * 4 * (3 * 16 + 5 * 8)
    assert trained.memory.reserved > trained.memory.parameters + trained.memory.optimizer
    assert trained.fits is None and trained.limit_bytes is None


def test_what_else_it_says(trained):
    assert trained.mesh == {"replica": 1, "data": 1, "fsdp": 4, "tensor": 2}
    assert (trained.rows, trained.input_length, trained.target_length) == (16, 16, 8)
    assert trained.steps == 30  # 1,030 less the checkpoint's 1,000
    assert trained.collective_bytes > 0 and trained.estimate is None
    words = "\n".join(plan_text.lines(trained))
    assert "mesh fsdp 4 x tensor 2; 16 rows of 16 + 8 tokens, in one piece" in words
    kinds = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
    listed = plan_text.lines(dataclasses.replace(trained, collectives=dict.fromkeys(kinds, 2**30)))
    assert any(line.startswith("    (all-gather 1.00, all-reduce 1.00, ") for line in listed)
    assert max(map(len, listed)) <= 100
    assert json.loads(json.dumps(trained.as_dict()))["topology"]["devices"] == 8


def test_microbatches_and_full_remat_cost_what_they_should(trained):
    changed = ARGUMENTS | {
        "num_microbatches": 2, "model": dataclasses.replace(TINY, remat_policy="full"),
    }  # fmt: skip
    made = plan.plan("train", changed, CPU)
    # A third of the layers' products again; the head is not recomputed.
    assert 1.1 < made.flops / trained.flops < 1.34
    assert made.memory.parameters == trained.memory.parameters


@pytest.mark.parametrize("job", ["eval", "decode", "score"])
def test_the_other_jobs(job):
    arguments = ARGUMENTS | {"batch_size": 16, "task_feature_lengths": LENGTHS}
    made = plan.plan(job, arguments, CPU)
    if job == "decode":
        # The encoder and its keys are done once, before the loop that is counted here.
        assert made.memory.cache > 0 and made.unknown_loops
    else:
        assert made.model_flops == model_flops.forward_flops(TINY, 16, 16, 8)
    assert made.flops * 8 == pytest.approx(made.model_flops, rel=0.05 if job == "decode" else 0.02)
    assert made.memory.optimizer == 0 and made.steps is None


def test_what_a_run_would_refuse_is_refused():
    with pytest.raises(UserError, match="does not divide 8 devices"):
        plan.plan("train", ARGUMENTS | {"mesh": MeshConfig(fsdp=3)}, CPU)
    with pytest.raises(UserError, match="nearest that does is 16"):
        dataset = dataclasses.replace(DATASET, batch_size=18)
        plan.plan("train", ARGUMENTS | {"train_dataset": dataset}, CPU)
    with pytest.raises(UserError, match="TASK_FEATURE_LENGTHS is None"):
        plan.plan("decode", {"model": TINY, "mesh": MeshConfig()}, CPU)
    with pytest.raises(UserError, match="wants 64 simulated devices, but this process has 8"):
        compile_devices.devices(topology("cpu-64"))


@pytest.mark.parametrize(
    "arguments, steps",
    [
        ({"total_steps": 100, "initial_checkpoint_path": None}, 100),
        ({"total_steps": 1_010, "initial_checkpoint_path": "a/checkpoint_1000/"}, 10),
        ({"total_steps": 500, "initial_checkpoint_path": "a/checkpoint_1000"}, 500),
        ({"total_steps": 500, "relative_steps": 7}, 7),
        ({}, None),
    ],
)
def test_steps(arguments, steps):
    assert plan.steps_of(arguments) == steps


@pytest.mark.parametrize(
    "message, needed, available",
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
         "temporaries (301.07G) exceeds available HBM (30.75G).", 301.07, 30.75),
        ("RESOURCE_EXHAUSTED: Used 26.68G of 15.75G hbm. Exceeded hbm capacity by", 26.68, 15.75),
    ],
)  # fmt: skip
def test_out_of_memory_is_read(message, needed, available):
    found = programs._out_of_memory(RuntimeError(message))
    assert (found.needed / 2**30, found.available / 2**30) == pytest.approx((needed, available))
    assert programs._out_of_memory(RuntimeError("INVALID_ARGUMENT: 1G of 2G")) is None


def test_head_blocks_as_the_loss_cuts_them():
    mesh = jax.make_mesh((1, 1, 4, 2), ("replica", "data", "fsdp", "tensor"))
    loss = programs.losses.LossConfig(logits_block_mib=1)
    config = dataclasses.replace(TINY, vocab_size=2**16)
    rows, targets = 64, 128  # 8,192 tokens of four devices, fewer than 32,768 columns: gathered
    block = 2**20 // (4 * 2**16 // 8 * 4)  # a token's columns on one device, for four tokens
    blocks = programs.head_blocks(config, loss, rows, targets, mesh)
    assert blocks == math.ceil(64 / 4 * 128 / block)


# The command.


def run(capsys, *flags):
    code = cli.main(["plan", *flags])
    return code, capsys.readouterr()


RECIPE = "--gin_file=recipes/mini_mt0.gin"


def test_command(capsys):
    code, shown = run(capsys, RECIPE, "--topology=cpu-8", "--json", "--gin.BATCH_SIZE=8",
                      "--gin.network.T5Config.num_encoder_layers=1")  # fmt: skip
    assert code == 0 and json.loads(shown.out)["rows"] == 8


@pytest.mark.parametrize(
    "flags, message",
    [
        ((RECIPE,), "needs a topology"),
        ((RECIPE, "--topology=v4-128x"), "v4-128"),
        ((RECIPE, "--topology=cpu-8", "--job=trian"), "Did you mean 'train'"),
        (("--topology=cpu-8",), "needs a gin file"),
        ((RECIPE, "--topology=cpu-8", "--gin.BATCH_SIZE=9"), "BATCH_SIZE 9 does not divide"),
    ],
)
def test_mistakes_are_one_line(capsys, flags, message):
    code, shown = run(capsys, *flags)
    assert code == 2 and message in shown.err and shown.out == ""


def test_libtpu_absent(capsys, monkeypatch):
    monkeypatch.setattr(compile_devices.importlib.util, "find_spec", lambda name: None)
    code, shown = run(capsys, RECIPE, "--topology=v4-8")
    assert code == 2 and "pip install 'mt0_tpu[tpu]'" in shown.err


def test_a_decoder_only_network():
    """Its rows have one side; the head is its token table."""
    from tests.tiny_bloom import TINY_BLOOM

    lengths = {"inputs": 16, "targets": 8}
    dataset = DatasetConfig("unread", lengths, batch_size=16, pack=True)
    arguments = ARGUMENTS | {"model": TINY_BLOOM, "train_dataset": dataset}
    made = plan.plan("train", arguments, CPU)
    assert (made.input_length, made.target_length) == (0, 24)
    assert made.flops * 8 == pytest.approx(made.model_flops, rel=0.02)


@pytest.mark.parametrize("job", ["decode", "score"])
def test_a_decoder_only_network_answers_and_scores(job):
    from tests.tiny_bloom import TINY_BLOOM

    lengths = {"inputs": 16, "targets": 16}
    arguments = {"model": TINY_BLOOM, "mesh": ARGUMENTS["mesh"], "batch_size": 16}
    made = plan.plan(job, arguments | {"task_feature_lengths": lengths}, CPU)
    assert (made.rows, made.input_length, made.target_length) == (16, 16, 16)
    assert made.flops * 8 == pytest.approx(made.model_flops, rel=0.1 if job == "decode" else 0.02)
    assert (made.memory.cache > 0) == (job == "decode")
    with pytest.raises(UserError, match="wants the lengths of both"):
        plan.plan(job, arguments | {"task_feature_lengths": {"decoder": 32}}, CPU)
