"""A decoder alone through the same engine: Hugging Face's ids, places that come and go, meshes."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import decoding, partitioning, scoring
from mt0_tpu.beam_search import NOTHING
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.models import networks
from mt0_tpu.predict import predict
from tests.tiny_bloom import GOLDEN, TINY_BLOOM, load_outputs, load_params

EOS = 510  # the golden models write it now and then, and their own, 2, never
DECODES = {
    "greedy": DecodeConfig(),
    "sample": DecodeConfig("sample", num_decodes=2, top_p=0.9, seed=7),
    "beam": DecodeConfig("beam", num_decodes=3),
}


@pytest.fixture(scope="module")
def params(golden):
    """Token 0 in place of 328, which is written often: it is none of padding's business."""
    params = load_params(golden)
    table = params["token_embedder"]["embedding"]
    changed = jnp.array([0, 328])
    params["token_embedder"]["embedding"] = table.at[changed].set(table[changed[::-1]])
    return params


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(5)
    # Two length classes, token 0 among the others.
    lengths = [*rng.integers(1, 17, 9), *rng.integers(20, 30, 5)]
    return [(rng.integers(0, 512, n) % 500).tolist() for n in rng.permutation(lengths)] + [[0]]


@functools.cache
def whole_rows(config):
    """Returns logits of texts in rows of 48, without any cache."""

    @jax.jit
    def run(params, tokens, length, inputs):
        columns = jnp.arange(48)[None, :]
        batch = {
            "decoder_input_tokens": tokens,
            "decoder_segment_ids": (columns < length).astype(jnp.int32),
            "decoder_causal_attention": (columns < inputs).astype(jnp.int32),
        }
        network = networks.network(config)
        hidden = network.apply({"params": params}, batch)
        return network.apply({"params": params}, hidden, method="logits")[0, length - 1]

    return run


def greedy_without_cache(params, config, ids, count):
    text = list(ids)
    while len(text) < len(ids) + count and (len(text) == len(ids) or text[-1] != EOS):
        row = np.zeros((1, 48), np.int32)
        row[0, : len(text)] = text
        text.append(int(np.argmax(whole_rows(config)(params, row, len(text), len(ids)))))
    return [token for token in text[len(ids) :] if token != EOS]


@pytest.mark.parametrize("size", GOLDEN)
def test_golden_greedy_ids(golden, size):
    wanted, params = load_outputs(golden, size), load_params(golden, size)
    mask = wanted["left_attention_mask"]
    rows = [row[real == 1].tolist() for row, real in
            zip(wanted["left_input_ids"], mask, strict=True)]  # fmt: skip
    run = functools.partial(predict, params, GOLDEN[size], rows, max_decode_len=16, batch_size=4)
    assert [one.ids[0] for one in run(eos_id=2)] == wanted["greedy_new_ids"].tolist()
    eos = int(wanted["greedy_eos_id"])
    until = [row[: row.index(eos)] if eos in row else row for row in
             wanted["greedy_eos_new_ids"].tolist()]  # fmt: skip
    assert [one.ids[0] for one in run(eos_id=eos)] == until
    assert min(map(len, until)) < 16


def test_golden_greedy_ids_of_one_batch_on_a_mesh(golden):
    wanted = load_outputs(golden)
    mesh = partitioning.make_mesh(partitioning.MeshConfig(data=2, fsdp=2, tensor=2))
    params = load_params(golden)
    axes = networks.param_axes(TINY_BLOOM)
    placed = jax.device_put(params, partitioning.shardings(axes, params, mesh))
    lengths = wanted["right_attention_mask"].sum(axis=1)
    ids = decoding.greedy_decode(
        placed, TINY_BLOOM, wanted["right_input_ids"], 16, lengths_B=lengths, eos_id=2, mesh=mesh
    )
    np.testing.assert_array_equal(ids, wanted["greedy_new_ids"])


@pytest.fixture(scope="module")
def alone(params, inputs):
    """(ids, scores) of each input as a batch of its own, all padded alike; by method."""
    found = {}
    for name, decode in DECODES.items():
        engine = decoding.engine(TINY_BLOOM, decode, 8, eos_id=EOS)
        rows = []
        for number, ids in enumerate(inputs):
            tokens, at = np.zeros((1, 32), np.int32), np.array([number], np.int32)
            tokens[0, : len(ids)] = ids
            length = np.array([len(ids)], np.int32)
            state = engine.prefill(params, tokens, at, decode.seed, length)
            _, report = engine.run(params, state, 1)
            ids_NS, scores = np.asarray(report.ids_BNS)[0].tolist(), np.asarray(report.scores_BN)[0]
            cut = [list(itertools.takewhile(lambda token: token != EOS, row)) for row in ids_NS]
            filled = scores > NOTHING
            rows.append(
                ([ids if one else [] for ids, one in zip(cut, filled, strict=True)], scores)
            )
        found[name] = rows
    return found


def check(found, wanted):
    assert [one.ids for one in found] == [ids for ids, _ in wanted]
    for one, (_, scores) in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.scores, scores, atol=1e-4)


def decoded(params, inputs, name, **changes):
    return predict(
        params, TINY_BLOOM, inputs, max_decode_len=8, decode=DECODES[name], eos_id=EOS, **changes
    )


@pytest.mark.parametrize("name", DECODES)
def test_results_are_those_of_each_input_alone(params, inputs, alone, name):
    check(decoded(params, inputs, name, batch_size=4), alone[name])


def test_beams_on_a_mesh(params, inputs, alone):
    mesh = partitioning.make_mesh(partitioning.MeshConfig(data=2, fsdp=2, tensor=2))
    axes = networks.param_axes(TINY_BLOOM)
    placed = jax.device_put(params, partitioning.shardings(axes, params, mesh))
    check(decoded(placed, inputs, "beam", batch_size=8, mesh=mesh), alone["beam"])


def test_greedy_is_the_arg_max_of_whole_rows(params, inputs, alone):
    wanted = [greedy_without_cache(params, TINY_BLOOM, ids, 8) for ids in inputs]
    assert [ids[0] for ids, _ in alone["greedy"]] == wanted
    assert any(0 in ids for ids in wanted), "token 0 is a token"


def test_a_prefix_lm_reads_its_input_both_ways(params, inputs):
    config = dataclasses.replace(TINY_BLOOM, inputs_bidirectional_attention=True)
    found = predict(params, config, inputs[:4], max_decode_len=8, batch_size=4, eos_id=EOS)
    wanted = [greedy_without_cache(params, config, ids, 8) for ids in inputs[:4]]
    assert [one.ids[0] for one in found] == wanted


@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_scores_are_those_of_scoring(params, inputs, alone, name):
    """A beam's score is its log-probability, EOS included, over T5X's penalty.

    Where none of an input's hypotheses ended in time it is the log-probability as it is.
    """
    whole = [(given, [*ids[0], EOS][:8], scores[0])
             for given, (ids, scores) in zip(inputs, alone[name], strict=True)]  # fmt: skip
    assert any(choice[-1] == EOS for _, choice, _ in whole)
    asked = [(given, [choice]) for given, choice, _ in whole]
    scores = scoring.score_choices(params, TINY_BLOOM, asked, min_choices=1)
    for (_, choice, found), (score,) in zip(whole, scores, strict=True):
        penalised = name == "beam" and choice[-1] == EOS
        penalty = ((5 + len(choice)) / 6) ** 0.6 if penalised else 1
        assert found == pytest.approx(score / penalty, abs=1e-4)


def test_refusals(params):
    with pytest.raises(UserError, match="eos_id is None; write the EOS id"):
        predict(params, TINY_BLOOM, [[5]], max_decode_len=4)
    with pytest.raises(UserError, match="came without lengths"):
        decoding.greedy_decode(params, TINY_BLOOM, np.ones((1, 4), np.int32), 4, eos_id=EOS)
    with pytest.raises(UserError, match="input 1 has no tokens"):
        predict(params, TINY_BLOOM, [[0], []], max_decode_len=4, eos_id=EOS)
