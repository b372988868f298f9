"""predict(): what is decoded does not depend on the batch; order, cutting, refusals."""

import itertools

import jax
import numpy as np
import pytest

from mt0_tpu import decoding, partitioning, predict, train_state
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.models.t5 import T5
from tests.tiny import TINY, load_batch, load_params

DECODES = {
    "greedy": DecodeConfig(),
    "sample": DecodeConfig("sample", num_decodes=2, top_p=0.9, seed=7),
    "beam": DecodeConfig("beam", num_decodes=3),
}


@pytest.fixture(scope="module")
def params(golden):
    return load_params(golden)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(5)
    # Two length classes: 16 and what is longer.
    lengths = [*rng.integers(1, 17, 14), *rng.integers(20, 30, 9)]
    return [rng.integers(2, 512, length).tolist() for length in rng.permutation(lengths)]


@pytest.fixture(scope="module")
def alone(params, inputs):
    """Each input as a batch of its own, all padded alike; by method."""
    found = {}
    for name, decode in DECODES.items():
        engine = decoding.engine(TINY, decode, 12)
        rows = []
        for number, ids in enumerate(inputs):
            tokens = np.zeros((1, 32), np.int32)
            tokens[0, : len(ids)] = ids
            state = engine.prefill(params, tokens, np.array([number], np.int32), decode.seed)
            _, report = engine.run(params, state, 1)
            rows.append((np.asarray(report.ids_BNS)[0], np.asarray(report.scores_BN)[0]))
        found[name] = rows
    return found


def check(found, wanted):
    assert len(found) == len(wanted)
    for one, (ids_NS, scores_N) in zip(found, wanted, strict=True):
        cut = [list(itertools.takewhile(lambda token: token != 1, row)) for row in ids_NS.tolist()]
        # A hypothesis that nothing fills is zeros, and no token at all.
        assert one.ids == [[token for token in row if token] for row in cut]
        np.testing.assert_allclose(one.scores, scores_N, atol=1e-4)


@pytest.mark.parametrize("name", DECODES)
def test_results_are_those_of_each_input_alone(params, inputs, alone, name):
    seen = []
    found = predict.predict(
        params, TINY, inputs, max_decode_len=12, decode=DECODES[name], batch_size=8,
        progress=seen.append,
    )  # fmt: skip
    check(found, alone[name])
    assert seen == sorted(seen) and seen[-1] == len(inputs)


@pytest.mark.parametrize("name", DECODES)
def test_results_on_a_mesh_with_all_axes(params, inputs, alone, name):
    mesh = partitioning.make_mesh(partitioning.MeshConfig(data=2, fsdp=2, tensor=2))
    axes = train_state.parameter_axes(T5(TINY))
    placed = jax.device_put(params, partitioning.shardings(axes, params, mesh))
    found = predict.predict(
        placed, TINY, inputs, max_decode_len=12, decode=DECODES[name], batch_size=16, mesh=mesh
    )
    check(found, alone[name])


def test_a_job_in_parts_draws_what_it_draws_whole(params, inputs, alone):
    parts = [
        predict.predict(
            params, TINY, inputs[begin : begin + 9], max_decode_len=12, batch_size=4,
            decode=DECODES["sample"], first_index=begin,
        )
        for begin in range(0, len(inputs), 9)
    ]  # fmt: skip
    check(sum(parts, []), alone["sample"])


def test_seeds_inputs_and_decodes_draw_differently(params):
    def run(seed):
        decode = DecodeConfig("sample", num_decodes=3, temperature=2.0, seed=seed)
        return predict.predict(
            params, TINY, [[30, 40, 50]] * 2, max_decode_len=12, decode=decode, batch_size=2
        )

    first, again, other = run(1), run(1), run(2)
    assert first == again
    drawn = [tuple(ids) for one in (*first, *other) for ids in one.ids]
    assert len(set(drawn)) == 12
    assert all(one.scores == sorted(one.scores, reverse=True) for one in (*first, *other))


def test_golden_greedy_ids_and_scores(params, golden):
    tokens = load_batch(golden, "decode")["encoder_input_tokens"]
    inputs = [row[row > 0].tolist() for row in tokens]
    found = predict.predict(params, TINY, inputs, max_decode_len=24, batch_size=4)
    with np.load(golden / "t5_tiny" / "decodes.npz") as archive:
        ids, scores = archive["greedy_beam1.ids"], archive["temperature0_raw.scores"]
    check(found, list(zip(ids, scores, strict=True)))


def test_overlong_inputs_are_cut_and_keep_their_eos(params):
    long, cut = [*range(10, 30), 1], [*range(10, 17), 1]
    run = lambda ids, limit: predict.predict(  # noqa: E731
        params, TINY, [ids], max_decode_len=6, max_input_length=limit, batch_size=1
    )
    assert run(long, 8) == run(cut, None)
    assert run(long[:-1], 8) == run(long[:8], None)


def test_nothing_to_do(params):
    assert predict.predict(params, TINY, [], max_decode_len=4) == []


def test_length_classes_and_batch_sizes():
    lengths = [3, 500, 20, 17, 16, 40, 41, 700]
    classes = [(size, members.tolist()) for size, members in predict._length_classes(lengths, 2)]
    assert classes == [(16, [0, 4]), (24, [3, 2]), (48, [5, 6]), (768, [1, 7])]
    assert predict._batch_sizes(1000, 32, None) == (32, 8)
    assert predict._batch_sizes(1000, 6, None) == (6, 1)
    assert predict._batch_sizes(5, 32, None) == (8, 2)
    assert predict._batch_sizes(1, 32, None) == (1, 1)
    mesh = partitioning.make_mesh(partitioning.MeshConfig(data=4, tensor=2))
    assert predict._batch_sizes(1000, 16, mesh) == (16, 4)
    assert predict._batch_sizes(3, 16, mesh) == (4, 4)


@pytest.mark.parametrize(
    ("inputs", "fields", "message"),
    [
        ([[5], []], {}, "input 11 has no tokens"),
        ([[0, 0]], {}, "input 10 has no tokens"),
        ([[5, 512]], {}, "input 10 holds the id 512.*ids 0 to 511"),
        ([[-1, 5]], {}, "input 10 holds the id -1"),
        ([[0.5]], {}, "holds float64"),
        ([[5]], {"max_decode_len": 0}, "max_decode_len is 0"),
        ([[5]], {"max_decode_len": 2.5}, "max_decode_len is 2.5"),
        ([[5]], {"batch_size": 0}, "batch_size is 0"),
        ([[5]], {"max_input_length": 0}, "max_input_length is 0"),
        ([[5]], {"first_index": 2**31}, "first_index is 2147483648"),
        ([[5]], {"decode": DecodeConfig("beam", num_decodes=300)}, "at most 256 beams"),
    ],
)
def test_refusals(params, inputs, fields, message):
    with pytest.raises(UserError, match=message):
        predict.predict(None, TINY, inputs, **({"max_decode_len": 4, "first_index": 10} | fields))
