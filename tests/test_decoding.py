"""Greedy decoding and sampling against T5X's ids and scores; the engine's parts."""

import jax
import numpy as np
import pytest

from mt0_tpu import decode_weights, decoding, partitioning, train_state
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.models.t5 import T5
from tests.tiny import TINY, load_batch, load_params


@pytest.fixture(scope="module")
def params(golden):
    return load_params(golden)


@pytest.fixture(scope="module")
def wanted(golden):
    with np.load(golden / "t5_tiny" / "decodes.npz") as archive:
        np.testing.assert_array_equal(archive["temperature0.ids"], archive["greedy_beam1.ids"])
        return archive["greedy_beam1.ids"][:, 0]


@pytest.fixture(scope="module")
def tokens(golden):
    return load_batch(golden, "decode")["encoder_input_tokens"]


@pytest.fixture(params=["blocks", "xla"])
def products(request, monkeypatch):
    """Steps by blocks of kernels, whatever machine this is, and by XLA's own products."""
    most_cores = 2**20 if request.param == "blocks" else 0
    monkeypatch.setattr(decode_weights, "MOST_CORES", most_cores)


@pytest.mark.usefixtures("products")
def test_golden_ids(params, tokens, wanted):
    ids = np.asarray(decoding.greedy_decode(params, TINY, tokens, 24))
    np.testing.assert_array_equal(ids, wanted)


def test_golden_ids_on_a_mesh(params, tokens, wanted):
    mesh = partitioning.make_mesh(partitioning.MeshConfig(data=2, fsdp=2, tensor=2))
    axes = train_state.parameter_axes(T5(TINY))
    placed = jax.device_put(params, partitioning.shardings(axes, params, mesh))
    ids = np.asarray(decoding.greedy_decode(placed, TINY, tokens, 24, mesh=mesh))
    np.testing.assert_array_equal(ids, wanted)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("temperature0", {"temperature": 0.0}),
        ("temperature0_topk1", {"temperature": 0.0, "top_k": 1}),
        ("temperature0_raw", {"temperature": 0.0, "rescale_log_probs": False}),
        ("topk1_temperature1", {"top_k": 1}),
        ("topk1_temperature1_raw", {"top_k": 1, "rescale_log_probs": False}),
    ],
)
def test_golden_temperature_runs(params, tokens, golden, name, fields):
    engine = decoding.engine(TINY, DecodeConfig("sample", **fields), 24)
    state = engine.prefill(params, tokens, np.arange(8, dtype=np.int32), 0)
    _, report = engine.run(params, state, 8)
    with np.load(golden / "t5_tiny" / "decodes.npz") as archive:
        np.testing.assert_array_equal(report.ids_BNS, archive[f"{name}.ids"])
        np.testing.assert_allclose(report.scores_BN, archive[f"{name}.scores"], atol=1e-3)


def test_run_stops_when_enough_have_ended_and_goes_on(params, tokens, wanted):
    engine = decoding.engine(TINY, DecodeConfig(), 24)
    state = engine.prefill(params, tokens, np.arange(8, dtype=np.int32), 0)
    state, report = engine.run(params, state, 2)
    # Rows 6 and 7 end first, after 4 and 6 tokens.
    assert np.flatnonzero(report.ended_B).tolist() == [6, 7]
    assert np.asarray(state.position_B).tolist() == [6] * 6 + [4, 6]
    state, _ = engine.run(params, engine.widen(engine.select(state, [5, 9, 0]), 40), 1)
    assert np.asarray(state.ended_B).tolist() == [False, True, False]
    _, report = engine.run(params, state, 3)
    np.testing.assert_array_equal(report.ids_BNS[::2, 0], wanted[[5, 0]])


def test_padding_in_rows_and_columns_changes_nothing(params, tokens, wanted):
    rows, length = tokens.shape
    padded = np.zeros((rows + 2, length + 7), np.int32)
    padded[:rows, :length] = tokens
    ids = np.asarray(decoding.greedy_decode(params, TINY, padded, 24))
    np.testing.assert_array_equal(ids[:rows], wanted)
    assert not ids[rows:].any()


def test_a_shorter_limit_cuts_the_same_ids(params, tokens, wanted):
    ids = np.asarray(decoding.greedy_decode(params, TINY, tokens, 5))
    np.testing.assert_array_equal(ids, wanted[:, :5])


def test_refusals(params, tokens):
    with pytest.raises(UserError, match="max_decode_len is 0"):
        decoding.greedy_decode(params, TINY, tokens, 0)
    with pytest.raises(UserError, match="max_decode_len is True"):
        decoding.greedy_decode(params, TINY, tokens, True)
    with pytest.raises(UserError, match=r"takes \[rows, length\]"):
        decoding.greedy_decode(params, TINY, tokens[0], 4)
