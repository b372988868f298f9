"""Searching on formulas alone, and on eight simulated devices."""

import dataclasses
from types import SimpleNamespace

import pytest

from mt0_tpu import train_state
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.errors import UserError
from mt0_tpu.models.t5 import T5, T5Config
from mt0_tpu.optimizers import Adafactor, AdamW
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.planning import analytic_model, search, search_text
from mt0_tpu.planning.topologies import topology
from tests.tiny import TINY

XXL = T5Config(
    vocab_size=250112, emb_dim=4096, num_heads=64, head_dim=64, mlp_dim=10240,
    num_encoder_layers=24, num_decoder_layers=24, remat_policy="minimal",
)  # fmt: skip


def arguments(model, rows, inputs, targets):
    dataset = DatasetConfig("unread", {"inputs": inputs, "targets": targets}, rows, pack=True)
    return {"model": model, "train_dataset": dataset, "optimizer": Adafactor(),
            "mesh": MeshConfig(), "total_steps": 10}  # fmt: skip


FOR_XXL = arguments(XXL, 128, 1024, 256)
V4 = topology("v4-128")
SIXTEEN_BY_FOUR = analytic_model.Candidate(
    replica=1, data=1, fsdp=16, tensor=4, num_microbatches=1, remat_policy="minimal",
    sequence_parallel=False, rows=128, inputs=1024, targets=256,
)  # fmt: skip


def predicted(**changes):
    one = dataclasses.replace(SIXTEEN_BY_FOUR, **changes)
    return search.predictions(FOR_XXL, [one], V4)[0][1]


def test_every_candidate_divides():
    found = list(search.candidates(FOR_XXL, V4))
    assert SIXTEEN_BY_FOUR in found and len(set(found)) == len(found)
    for one in found:
        assert one.data * one.fsdp * one.tensor == 64 and 64 % one.tensor == 0
        assert one.rows % (one.batch_ways * one.num_microbatches) == 0


def test_state_is_exact():
    """12.92e9 parameters of 4 bytes over 64 devices; AdamW keeps two more of each."""
    shapes, axes = train_state.abstract_state(T5(XXL), AdamW())
    parameters, moments = analytic_model.state_bytes(shapes, axes, SIXTEEN_BY_FOUR)
    assert parameters == pytest.approx(12.921e9 * 4 / 64, rel=2e-3)
    assert moments == pytest.approx(2 * parameters, rel=1e-6)


def test_memory_of_xxl_is_near_what_was_compiled():
    """benchmarks/LOG.md: 11.8 GiB alive at once without cutting the sequence."""
    assert predicted().peak_bytes / 2**30 == pytest.approx(11.8, rel=0.15)


def test_memory_falls_where_it_should():
    base = predicted()
    assert predicted(remat_policy="full").saved < base.saved / 4
    assert predicted(remat_policy="none").saved > 3 * base.saved
    assert predicted(sequence_parallel=True).saved < 0.7 * base.saved
    assert predicted(num_microbatches=2).saved == base.saved / 2
    assert predicted(fsdp=8, data=2).parameters == pytest.approx(2 * base.parameters, rel=1e-3)


def test_time_rises_where_it_should():
    base = predicted()
    assert predicted(remat_policy="full").seconds > 1.2 * base.seconds
    assert predicted(num_microbatches=4).seconds > base.seconds
    assert predicted(tensor=64, fsdp=1).seconds > base.seconds
    two = search.predictions(FOR_XXL, [dataclasses.replace(SIXTEEN_BY_FOUR, replica=2)],
                             topology("v4-128", 2))[0][1]  # fmt: skip
    assert two.parameters == base.parameters


def test_no_fit_says_the_smallest_slice_that_does():
    with pytest.raises(UserError, match=r"nothing fits v5e-4: .* should do is v5e-(16|32)$"):
        search.search(FOR_XXL, topology("v5e-4"))


def test_rows_of_another_length_keep_the_positions():
    found = {
        (one.rows, one.inputs, one.targets)
        for one in search.candidates(FOR_XXL, V4, [(512, 128), (1024, 256)])
    }
    assert found == {(128, 1024, 256), (256, 512, 128)}


def test_gin_lines_are_read_back(tmp_path):
    from mt0_tpu import gin_config

    best = dataclasses.replace(SIXTEEN_BY_FOUR, sequence_parallel=True, num_microbatches=2)
    pasted = tmp_path / "pasted.gin"
    pasted.write_text("\n".join(search.gin_lines(best, XXL)))
    files = ["recipes/packed_mt0_xxl.gin", str(pasted)]
    resolved = gin_config.resolve("train", files, ["MODEL_DIR = ''"]).arguments
    assert resolved["mesh"].tensor_ways == 4 and resolved["mesh"].fsdp == 16
    assert resolved["num_microbatches"] == 2 and resolved["model"].sequence_parallel


def test_search_compiles_and_ranks():
    said = []
    found = search.search(
        arguments(TINY, 16, 16, 8), topology("cpu-8"), compile_most=2, say=said.append
    )
    assert len(found.tried) == len(said) == 2
    kinds = {(one.candidate.tensor, one.candidate.remat_policy) for one in found.tried}
    assert len(kinds) == 2  # not two of a kind
    for one in found.tried:
        assert one.plan.mesh["tensor"] == one.candidate.tensor
        assert one.plan.num_microbatches == one.candidate.num_microbatches
    text = "\n".join(search_text.lines(found))
    assert "2 compiled" in text and "partitioning.PjitPartitioner.fsdp = " in text


def test_agreement_counts_pairs():
    def tried(guess, step, fits=True):
        estimate = SimpleNamespace(step_s=step) if fits else None
        prediction, made = (
            SimpleNamespace(seconds=guess),
            SimpleNamespace(estimate=estimate, fits=fits),
        )
        return search.Tried(SIXTEEN_BY_FOUR, prediction, made)

    one, two, three = tried(1.0, 1.5), tried(2.0, 1.2), tried(3.0, 4.0)
    assert search.agreement([one, two, three]) == (2, 3)
    assert search.agreement([one, tried(2.0, None, False)]) == (0, 0)
