"""Rank scoring: golden scores, independence from packing, refusals."""

import json

import jax
import numpy as np
import pytest

from mt0_tpu import choice_packing, partitioning, scoring, train_state
from mt0_tpu.errors import UserError
from mt0_tpu.models.t5 import T5
from mt0_tpu.predict import predict
from tests.tiny import TINY, load_params


@pytest.fixture(scope="module")
def params(golden):
    return load_params(golden)


@pytest.fixture(scope="module")
def rank(golden):
    lines = (golden / "rank" / "examples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def pairs(rank):
    return [(example["inputs"], example["choices"]) for example in rank]


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_golden_scores(params, rank, batch_size):
    scores = scoring.score_choices(params, TINY, pairs(rank), batch_size=batch_size)
    for found, example in zip(scores, rank, strict=True):
        np.testing.assert_allclose(found, example["scores_t5x"], atol=1e-4)
        assert found.argmax() == example["argmax"]


def test_golden_scores_on_a_mesh_with_all_axes(params, rank):
    mesh = partitioning.make_mesh(partitioning.MeshConfig(data=2, fsdp=2, tensor=2))
    axes = train_state.parameter_axes(T5(TINY))
    placed = jax.device_put(params, partitioning.shardings(axes, params, mesh))
    scores = scoring.score_choices(placed, TINY, pairs(rank), batch_size=8, mesh=mesh)
    for found, example in zip(scores, rank, strict=True):
        np.testing.assert_allclose(found, example["scores_t5x"], atol=1e-4)


def test_a_choice_scores_the_same_alone(params, rank):
    together = scoring.score_choices(params, TINY, pairs(rank)[:6], batch_size=6)
    for (ids, choices), found in zip(pairs(rank)[:6], together, strict=True):
        # Rank classification wants two choices; the second is a stranger to the first.
        alone = [
            scoring.score_choices(params, TINY, [(ids, [choice, [400, 1]])])[0][0]
            for choice in choices
        ]
        np.testing.assert_allclose(found, alone, atol=1e-4)


def test_choices_that_begin_alike_share_logits_and_keep_their_scores(params):
    ids, choices = [30, 40, 50], [[7, 8, 9, 1], [7, 8, 1], [7, 8, 9, 1], [6, 1]]
    (found,) = scoring.score_choices(params, TINY, [(ids, choices)])
    alone = [scoring.score_choices(params, TINY, [(ids, [c, [500, 1]])])[0][0] for c in choices]
    np.testing.assert_allclose(found, alone, atol=1e-4)
    assert found[0] == pytest.approx(found[2], abs=1e-5)


def test_length_normalised(params, rank):
    example = rank[0]
    (found,) = scoring.score_choices(
        params, TINY, [(example["inputs"], example["choices"])], length_normalised=True
    )
    lengths = [len(choice) for choice in example["choices"]]
    np.testing.assert_allclose(found, np.divide(example["scores_t5x"], lengths), atol=1e-4)


def test_rows_of_a_batch():
    given = [([11, 12], [[5, 1], [5, 6, 1]]), ([13], [[7], [8]])]
    examples = choice_packing.checked(given, None, None, "trim")
    (group,) = choice_packing.plan(TINY, examples, batch_size=2)
    assert (len(group.rows), group.batch_rows, group.lengths[0]) == (1, 1, 16)
    (batch,) = group.batches(examples)
    rows = {name: value.tolist() for name, value in batch.features.items()}
    assert rows["encoder_input_tokens"][0][:4] == [11, 12, 13, 0]
    assert rows["encoder_segment_ids"][0][:4] == [1, 1, 2, 0]
    assert rows["decoder_target_tokens"][0] == [5, 1, 5, 6, 1, 7, 8, 0]
    assert rows["decoder_input_tokens"][0] == [0, 5, 0, 5, 6, 0, 0, 0]
    assert rows["decoder_segment_ids"][0] == [1, 1, 2, 2, 2, 3, 4, 0]
    assert rows["decoder_cross_ids"][0] == [1, 1, 1, 1, 1, 2, 2, 0]
    # Places 2, 3 and 6 follow what places 0, 1 and 5 follow.
    assert rows["counted_WN"] == [[0, 1, 4, 5, -1, -1, -1, -1]]
    assert (rows["repeated_Q"], rows["first_Q"]) == ([2, 3, 6], [0, 1, 5])
    log_probs = np.array([[-1.0, -2, -3, -4, 0, 0, 0, 0]])
    scores = batch.scores(log_probs, np.array([0.0, -0.5, 0.25]))
    np.testing.assert_allclose(scores, [-3, -1 - 2.5 - 3, -4, -3.75])


def test_plan_places_every_example_once_in_few_shapes():
    rng = np.random.default_rng(3)
    examples = [
        (np.ones(rng.integers(1, 400), np.int32), [np.ones(n, np.int32) for n in (2, 3, 5)])
        for _ in range(500)
    ]
    groups = choice_packing.plan(TINY, examples, batch_size=16, ways=4)
    placed = np.concatenate([row for group in groups for row in group.rows])
    assert sorted(placed) == list(range(500))
    assert len(groups) <= 5
    assert all(group.batch_rows % 4 == 0 for group in groups)
    real = sum(len(ids) for ids, _ in examples)
    rows = [-(-len(g.rows) // g.batch_rows) * g.batch_rows * g.lengths[0] for g in groups]
    assert real / sum(rows) > 0.75


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (([5], []), "0 choices"),
        (([5], [[4, 1]]), "1 choices"),
        (([5], [[4, 1], []]), "choice 1 is empty"),
        (([], [[4, 1], [3, 1]]), "empty input"),
    ],
)
def test_what_cannot_be_ranked_is_refused(params, example, message):
    with pytest.raises(UserError, match=message):
        scoring.score_choices(params, TINY, [example])


def test_overlong_inputs_are_trimmed_and_counted_or_refused(caplog):
    long = [(list(range(2, 12)) + [1], [[3, 1], [4, 5, 6, 1]])]
    ((ids, choices),) = choice_packing.checked(long, 4, 3, "trim")
    assert ids.tolist() == [2, 3, 4, 1]
    assert choices[1].tolist() == [4, 5, 1]
    assert "1 of 1 inputs were cut to 4 tokens and 1 choices to 3" in caplog.text
    caplog.clear()
    choice_packing.checked(long, 4, None, "trim")
    choice_packing.checked(long, None, 3, "trim")
    assert caplog.messages == ["1 of 1 inputs were cut to 4 tokens", "1 choices were cut to 3"]
    with pytest.raises(UserError, match="input has 11 tokens and the limit is 4"):
        choice_packing.checked(long, 4, None, "error")
    with pytest.raises(UserError, match="Did you mean 'trim'"):
        choice_packing.checked(long, 4, None, "trimm")


def test_answers_and_ties():
    scores = [np.array([-2.0, -1.0]), np.array([-1.0, -1.0, -3.0])]
    assert scoring.predictions(scores, [0, 2]).tolist() == [1, 0]
    with pytest.raises(UserError, match="the answer is 2, but its 2 choices"):
        scoring.predictions(scores, [2, 0])


@pytest.mark.parametrize("meshed", [False, True])
def test_scores_and_greedy_paths(params, rank, meshed):
    """The scores of score_choices; greedy is what decoding gives, and its beginnings."""
    mesh, placed = None, params
    if meshed:
        mesh = partitioning.make_mesh(partitioning.MeshConfig(data=4, tensor=2))
        axes = train_state.parameter_axes(T5(TINY))
        placed = jax.device_put(params, partitioning.shardings(axes, params, mesh))
    inputs = [example["inputs"] for example in rank[:10]]
    paths = [one.ids[0] for one in predict(params, TINY, inputs, max_decode_len=6)]
    examples, wanted = [], []
    for ids, path in zip(inputs, paths, strict=True):
        other = [*path[:-1], path[-1] % 500 + 2]
        # A beginning that another choice shares, where that one is greedy and where it is not.
        examples.append((ids, [other, path, path[:1], [*path, 3]]))
        wanted.append([False, True, True, False])
    found = scoring.score_and_compare(placed, TINY, examples, batch_size=8, mesh=mesh)
    assert [greedy.tolist() for _, greedy in found] == wanted
    scores = scoring.score_choices(params, TINY, examples)
    for (own, _), row in zip(found, scores, strict=True):
        np.testing.assert_allclose(own, row, atol=1e-4)
