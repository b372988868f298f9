"""Exported BLOOMs in transformers and torch: the same logits, greedy answers and token ids as ours.

Ours runs here, theirs in the environment of `make torch-venv` (transformers_side.py).
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from mt0_tpu import checkpoints, cli
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.formats import hf_export
from mt0_tpu.models import names
from mt0_tpu.models.networks import network
from mt0_tpu.optimizers import AdamW
from mt0_tpu.schedules import LearningRate
from mt0_tpu.text_vocabulary import TokenizerJsonText
from tests import byte_level, tiny_run
from tests.formats.hf_folders import InMemory
from tests.tiny_bloom import GOLDEN, TINY_BLOOM, load_outputs, load_params

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
PAD_ID, EOS_ID = 3, 2
ONE_LAYER = dataclasses.replace(TINY_BLOOM, emb_dim=24, num_heads=3, mlp_dim=96, num_layers=1)


def convert(*arguments):
    assert cli.main(["convert", *map(str, arguments)]) == 0


@pytest.fixture(scope="module", params=list(GOLDEN))
def golden_folder(golden, tmp_path_factory, request):
    """(size, folder): a golden network, from our names to a folder of ours."""
    folder = tmp_path_factory.mktemp("golden") / "hf"
    params = names.unstack(load_params(golden, request.param))
    arrays = {name: np.asarray(array) for name, array in params.items()}
    hf_export.write(InMemory(arrays), folder, config=GOLDEN[request.param])
    return request.param, folder


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """(MODEL_DIR, its parameters): a network that has been trained a little."""
    folder = tmp_path_factory.mktemp("own")
    tiny_run.write_tiny_cache(folder / "cache")
    dataset: DatasetConfig = tiny_run.dataset(folder / "cache")
    tiny_run.run(
        folder / "run", folder / "cache", model=ONE_LAYER, train_dataset=dataset,
        optimizer=AdamW(), learning_rate=LearningRate("constant", base_learning_rate=1e-2),
    )  # fmt: skip
    # As `mt0 train` leaves it: the heads are in no shape.
    (folder / "run" / "config.gin").write_text("network.BloomConfig.num_heads = 3\n")
    return folder / "run", checkpoints.restore_params(str(folder / "run"), ONE_LAYER)


def our_logits(config, params, ids_BS, mask_BS):
    """Float32 logits [B, S, V] of rows that are padded right."""
    model = network(config)
    batch = {
        "decoder_input_tokens": jnp.asarray(ids_BS, jnp.int32),
        "decoder_segment_ids": jnp.asarray(mask_BS, jnp.int32),
    }

    @jax.jit
    def run(params, batch):
        hidden = model.apply({"params": params}, batch)
        return model.apply({"params": params}, hidden, method="logits")

    return np.asarray(run(params, batch))


def right_padded(lengths, seed=0):
    """(ids, mask): rows with 0, a token of BLOOM's, in them."""
    rng = np.random.default_rng(seed)
    mask_BS = (np.arange(max(lengths))[None] < np.array(lengths)[:, None]).astype(np.int64)
    ids_BS = rng.integers(4, 512, mask_BS.shape)
    ids_BS[:, 0], ids_BS[0, 2] = 0, 0
    return np.where(mask_BS, ids_BS, PAD_ID), mask_BS


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_golden_networks(ask, golden, golden_folder, side):
    """Against the numbers that transformers gave for the original folder."""
    size, folder = golden_folder
    wanted = load_outputs(golden, size)
    ids, mask = (wanted[f"{side}_{name}"] for name in ("input_ids", "attention_mask"))
    answer = ask("logits", folder, {"inputs": ids, "mask": mask})
    assert answer["tied"] and answer["dtype"] == "torch.float32"
    real = mask > 0
    np.testing.assert_allclose(
        answer["logits"][real], wanted[f"{side}_logits"][real], rtol=0, atol=TOLERANCE
    )
    if side == "right":
        found = our_logits(GOLDEN[size], load_params(golden, size), ids, mask)
        np.testing.assert_allclose(found[real], answer["logits"][real], rtol=0, atol=TOLERANCE)


def test_the_golden_greedy_answers(ask, golden, golden_folder):
    size, folder = golden_folder
    wanted = load_outputs(golden, size)
    question = {"inputs": wanted["left_input_ids"], "mask": wanted["left_attention_mask"]}
    answer = ask("generate", folder, question | {"length": 16})
    np.testing.assert_array_equal(answer["ids"], wanted["greedy_new_ids"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_own_run(ask, own_run, tmp_path, dtype):
    """Trained, converted by the command and read by transformers: our logits, rounded as stored."""
    model_dir, params = own_run
    convert(model_dir, tmp_path / "hf", "--to", "hf", "--dtype", dtype)
    kind = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    rounded = jax.tree.map(lambda one: np.asarray(one).astype(kind).astype(np.float32), params)
    ids, mask = right_padded([9, 3, 1, 14])
    answer = ask("logits", tmp_path / "hf", {"inputs": ids, "mask": mask})
    assert answer["tied"] and answer["dtype"] == f"torch.{dtype}"
    found, real = our_logits(ONE_LAYER, rounded, ids, mask), mask > 0
    np.testing.assert_allclose(answer["logits"][real], found[real], rtol=0, atol=TOLERANCE)
    # With other heads, which have the same tensors, the test would see it.
    other = our_logits(dataclasses.replace(ONE_LAYER, num_heads=4), rounded, ids, mask)
    assert np.abs(other - found)[real].max() > 100 * TOLERANCE


def test_greedy_answers_of_an_own_run(ask, own_run, tmp_path):
    """Ours by the whole row anew for each token: no cache is trusted here."""
    model_dir, params = own_run
    convert(model_dir, tmp_path / "hf", "--to", "hf")
    lengths, new = [9, 3, 1, 14], 12
    ids, mask = right_padded(lengths)
    left = np.stack([np.roll(row, len(row) - n) for row, n in zip(ids, lengths, strict=True)])
    left_mask = np.stack([np.roll(row, len(row) - n) for row, n in zip(mask, lengths, strict=True)])
    question = {"inputs": left, "mask": left_mask, "length": new}
    theirs = ask("generate", tmp_path / "hf", question)["ids"]
    rows, ended = np.pad(ids, ((0, 0), (0, new))), np.zeros(len(ids), bool)
    ours, index = np.full((len(ids), new), PAD_ID), np.arange(len(ids))
    for step in range(new):
        at = np.array(lengths) + step
        seen = (np.arange(rows.shape[1])[None] < at[:, None]).astype(np.int64)
        best = our_logits(ONE_LAYER, params, rows, seen)[index, at - 1].argmax(axis=-1)
        rows[index, at] = best
        ours[:, step] = np.where(ended, PAD_ID, best)
        ended |= best == EOS_ID
    theirs[:, :] = np.where(np.cumsum(theirs == EOS_ID, axis=1) - (theirs == EOS_ID) > 0,
                            PAD_ID, theirs)  # fmt: skip
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("alone", [False, True])
def test_the_tokenizer(ask, golden, tmp_path, alone):
    """AutoTokenizer gives the ids that training has, without BOS or EOS, and the text back."""
    vocabulary = byte_level.write(tmp_path / "vocabulary")
    vocabulary = vocabulary / "tokenizer.json" if alone else vocabulary
    arrays = {n: np.asarray(a) for n, a in names.unstack(load_params(golden)).items()}
    if alone:  # no settings beside it: ours are written
        (tmp_path / "vocabulary/tokenizer_config.json").unlink()
        (tmp_path / "vocabulary/special_tokens_map.json").unlink()
    hf_export.write(
        InMemory(arrays), tmp_path / "hf", config=TINY_BLOOM, vocabulary=vocabulary
    )  # fmt: skip
    texts = [*byte_level.TEXTS, "", " ", "ქართული", "a\r\n\tb  c", "</s><unk> <pad>"]
    answer, words = ask("tokenize", tmp_path / "hf", texts), TokenizerJsonText(vocabulary)
    assert answer["ids"] == [words.encode(text) for text in texts]
    assert answer["texts"][:-1] == texts[:-1]
