"""Choices after a shared input: the rows, and scores equal to each text's alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import choice_packing, partitioning, scoring
from mt0_tpu.models import networks
from tests.tiny_bloom import GOLDEN, TINY_BLOOM, load_params

PREFIX_LM = dataclasses.replace(TINY_BLOOM, inputs_bidirectional_attention=True)


@functools.cache
def whole_rows(config):
    """Returns log p [16, V] at each place of one text, in a row of its own."""

    @jax.jit
    def run(params, tokens_1T, length, inputs):
        columns_1T = jnp.arange(16)[None, :]
        batch = {
            "decoder_input_tokens": tokens_1T,
            "decoder_segment_ids": (columns_1T < length).astype(jnp.int32),
            "decoder_causal_attention": (columns_1T < inputs).astype(jnp.int32),
        }
        network = networks.network(config)
        hidden = network.apply({"params": params}, batch)
        logits = network.apply({"params": params}, hidden, method="logits")
        return jax.nn.log_softmax(logits[0])

    return run


def log_probs(params, config, ids, choice) -> np.ndarray:
    text = np.zeros((1, 16), np.int32)
    text[0, : len(ids) + len(choice)] = [*ids, *choice]
    return whole_rows(config)(params, text, len(ids) + len(choice), len(ids))


def log_p(params, config, ids, choice) -> float:
    """The choice's score: the input and it as one text."""
    before = np.arange(len(ids) - 1, len(ids) + len(choice) - 1)
    return np.asarray(log_probs(params, config, ids, choice), np.float64)[before, choice].sum()


@pytest.fixture(scope="module")
def examples():
    """Inputs and choices with token 0, one-token choices, common beginnings, none with EOS."""
    rng = np.random.default_rng(4)
    drawn = [
        (rng.integers(0, 512, n).tolist(), [rng.integers(0, 512, k).tolist() for k in (1, 3, 2)])
        for n in (5, 1, 9)
    ]
    return [*drawn, ([0, 7, 0], [[0], [0, 0], [8, 9, 10], [8, 9, 11, 0], [0, 0]])]


def test_rows_of_a_batch():
    given = [([11, 12], [[5, 3], [5, 6, 4]]), ([0], [[7], [8]])]
    checked = choice_packing.checked(given, None, None, "trim")
    (group,) = choice_packing.plan(TINY_BLOOM, checked, batch_size=2)
    assert (len(group.rows), group.lengths) == (1, (16, 8))
    (batch,) = group.batches(checked)
    rows = {name: value[0].tolist() for name, value in batch.features.items() if value.ndim == 2}
    assert rows["decoder_input_tokens"] == [11, 12, 5, 5, 6, 0] + [0] * 10
    assert rows["decoder_segment_ids"] == [1, 1, 2, 3, 3, 4] + [0] * 10
    assert rows["decoder_cross_ids"] == [0, 0, 1, 1, 1, 0] + [0] * 10
    assert rows["decoder_positions"] == [0, 1, 2, 2, 3, 0] + [0] * 10
    assert rows["decoder_causal_attention"] == [1, 1, 0, 0, 0, 1] + [0] * 10
    assert rows["decoder_target_tokens"] == [5, 3, 5, 6, 4, 7, 8, 0]
    assert rows["predicted_at"] == [1, 2, 1, 3, 4, 5, 5, 0]
    # Targets 2, 3 and 6 follow what targets 0, 1 and 5 follow.
    assert rows["counted_WN"] == [0, 1, 4, 5, -1, -1, -1, -1]
    assert batch.features["repeated_Q"].tolist() == [2, 3, 6]
    assert batch.features["first_Q"].tolist() == [0, 1, 5]


@pytest.mark.parametrize("size", GOLDEN)
def test_scores_are_those_of_each_choice_alone(golden, examples, size):
    params, config = load_params(golden, size), GOLDEN[size]
    found = scoring.score_choices(params, config, examples, batch_size=4)
    for (ids, choices), row in zip(examples, found, strict=True):
        alone = [log_p(params, config, ids, choice) for choice in choices]
        np.testing.assert_allclose(row, alone, atol=1e-4)


def test_a_prefix_lm_reads_its_input_both_ways(golden, examples):
    params = load_params(golden)
    found = scoring.score_choices(params, PREFIX_LM, examples[:2], batch_size=2)
    causal = scoring.score_choices(params, TINY_BLOOM, examples[:2], batch_size=2)
    for (ids, choices), row in zip(examples[:2], found, strict=True):
        alone = [log_p(params, PREFIX_LM, ids, choice) for choice in choices]
        np.testing.assert_allclose(row, alone, atol=1e-4)
    assert np.abs(found[0] - causal[0]).max() > 0.01


@pytest.mark.parametrize("size", GOLDEN)
def test_scores_on_a_mesh(golden, examples, size):
    params, config = load_params(golden, size), GOLDEN[size]
    wanted = scoring.score_choices(params, config, examples, batch_size=4)
    mesh = partitioning.make_mesh(partitioning.MeshConfig(data=2, fsdp=2, tensor=2))
    placed = jax.device_put(
        params, partitioning.shardings(networks.param_axes(config), params, mesh)
    )
    found = scoring.score_choices(placed, config, examples, batch_size=4, mesh=mesh)
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(wanted), atol=1e-4)


def test_greedy_beginnings(golden, examples):
    params = load_params(golden)
    (ids, choices), best = examples[0], []
    for _ in range(3):
        text = [*ids, *best]
        best.append(int(np.argmax(log_probs(params, TINY_BLOOM, text, [])[len(text) - 1])))
    ((scores, greedy),) = scoring.score_and_compare(
        params, TINY_BLOOM, [(ids, [best, best[:1], choices[1], [*best[:2], (best[2] + 1) % 512]])]
    )
    assert greedy.tolist() == [True, True, False, False]
    assert scores[0] == pytest.approx(log_p(params, TINY_BLOOM, ids, best), abs=1e-4)


def test_what_is_cut_keeps_the_eos_it_is_told(golden):
    params, long = load_params(golden), [*range(10, 20)]
    run = lambda choice, eos: scoring.score_choices(  # noqa: E731
        params, TINY_BLOOM, [([5], [choice])], min_choices=1, max_choice_length=4, eos_id=eos
    )[0][0]
    assert run([*long, 2], 2) == pytest.approx(run([*long[:3], 2], None), abs=1e-5)
    assert run([*long, 1], None) == pytest.approx(run(long[:4], None), abs=1e-5)
