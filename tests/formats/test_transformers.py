"""Exported folders in transformers and torch: the same logits, answers and token ids as ours.

Ours runs here, theirs in the environment of `make torch-venv` (transformers_side.py).
"""

import dataclasses
from xml.etree import ElementTree

import jax
import ml_dtypes
import numpy as np
import pytest

from mt0_tpu import checkpoints, cli
from mt0_tpu.formats import hf_export
from mt0_tpu.models import names
from mt0_tpu.models.t5 import T5
from mt0_tpu.predict import predict
from mt0_tpu.schedules import LearningRate
from mt0_tpu.text_vocabulary import EOS_ID, SentencePieceText
from tests import tiny_run
from tests.formats.hf_folders import NETWORK, InMemory
from tests.tiny import TINY, load_batch, load_params

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4


def convert(*arguments):
    assert cli.main(["convert", *map(str, arguments)]) == 0


@pytest.fixture(scope="module")
def golden_folder(golden, tmp_path_factory):
    """The golden network, from T5X's names to a folder of ours."""
    folder = tmp_path_factory.mktemp("golden") / "hf"
    params = names.unstack(load_params(golden))
    arrays = {name: np.asarray(array) for name, array in params.items()}
    hf_export.write(InMemory(arrays), folder, config=TINY)
    return folder


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """(MODEL_DIR, its parameters): a network that has been trained a little."""
    folder = tmp_path_factory.mktemp("own")
    tiny_run.write_tiny_cache(folder / "cache")
    # At this rate a dozen steps move the parameters far from where they were drawn.
    tiny_run.run(
        folder / "run", folder / "cache", learning_rate=LearningRate(base_learning_rate=0.05)
    )
    return folder / "run", checkpoints.restore_params(str(folder / "run"), tiny_run.ONE_LAYER)


def ragged(vocab_size, lengths, seed):
    """Token ids [rows, longest] that end with EOS, padded."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = [*rng.integers(2, vocab_size, length - 1), EOS_ID]
    return rows


def question_of(batch):
    return {
        "inputs": batch["encoder_input_tokens"],
        "decoder_inputs": batch["decoder_input_tokens"],
    }


def ragged_batch(vocab_size):
    """Inputs and targets of many lengths, one input and one target of EOS alone."""
    targets = ragged(vocab_size, [5, 1, 3, 8, 2], seed=1)
    return {
        "encoder_input_tokens": ragged(vocab_size, [9, 3, 1, 14, 6], seed=0),
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
    }


def our_logits(network, params, batch):
    model = T5(network)

    @jax.jit
    def run(params, batch):
        hidden = model.apply({"params": params}, batch)
        return model.apply({"params": params}, hidden, method="logits")

    return np.asarray(run(params, batch))


def near(found, wanted, batch):
    real = batch["decoder_target_tokens"] > 0
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[real], wanted[real], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["unpacked", "long"])
def test_the_golden_network(ask, golden, golden_folder, name):
    """Against T5X's own numbers."""
    batch = load_batch(golden, name)
    answer = ask("logits", golden_folder, question_of(batch))
    assert not answer["tied"] and answer["dtype"] == "torch.float32"
    found, real = answer["logits"], batch["decoder_loss_weights"] > 0
    with np.load(golden / "t5_tiny" / "logits.npz") as wanted:
        if name == "long":
            found, real = (array[:, wanted["long_positions"]] for array in (found, real))
        np.testing.assert_allclose(found[real], wanted[name][real], rtol=0, atol=TOLERANCE)


def test_an_own_run(ask, own_run, tmp_path):
    """Trained, converted by the command and read by transformers: our logits, untied."""
    model_dir, params = own_run
    convert(model_dir, tmp_path / "hf", "--to", "hf")
    batch = ragged_batch(512)
    answer = ask("logits", tmp_path / "hf", question_of(batch))
    near(answer["logits"], our_logits(tiny_run.ONE_LAYER, params, batch), batch)
    assert not answer["tied"]
    # With the head tied to the embedding, the test would see it.
    head = params["decoder"]["logits_dense"]["kernel"]
    wrong = dict(params, decoder=dict(params["decoder"], logits_dense={"kernel": head * 1.001}))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        near(answer["logits"], our_logits(tiny_run.ONE_LAYER, wrong, batch), batch)


def test_bfloat16(ask, own_run, tmp_path):
    """It loads as bfloat16; its values are ours rounded, so computed in float32 they agree."""
    model_dir, params = own_run
    convert(model_dir, tmp_path / "hf", "--to", "hf", "--dtype", "bfloat16")
    batch = ragged_batch(512)
    answer = ask("logits", tmp_path / "hf", question_of(batch))
    assert answer["dtype"] == "torch.bfloat16"
    rounded = jax.tree.map(
        lambda one: np.asarray(one).astype(ml_dtypes.bfloat16).astype(np.float32), params
    )
    near(answer["logits"], our_logits(tiny_run.ONE_LAYER, rounded, batch), batch)


@pytest.mark.parametrize("which", ["golden", "own"])
def test_greedy_answers(ask, golden, golden_folder, own_run, tmp_path, which):
    length = 24
    if which == "golden":
        network, params, folder = TINY, load_params(golden), golden_folder
        inputs = load_batch(golden, "decode")["encoder_input_tokens"]
    else:
        network, (model_dir, params), folder = tiny_run.ONE_LAYER, own_run, tmp_path / "hf"
        convert(model_dir, folder, "--to", "hf")
        inputs = ragged_batch(512)["encoder_input_tokens"]
    theirs = ask("generate", folder, {"inputs": inputs, "length": length})["ids"]
    rows = [row[: np.count_nonzero(row)] for row in inputs]
    ours = predict(params, network, rows, max_decode_len=length)
    found = np.zeros_like(theirs)
    for row, one in zip(found, ours, strict=True):
        ids = [*one.ids[0], EOS_ID][:length]
        row[: len(ids)] = ids
    np.testing.assert_array_equal(found, theirs)
    ends = (theirs == EOS_ID).any(axis=1)
    if which == "golden":  # some end early and some do not
        assert ends.any() and not ends.all()


def multilingual(shared):
    """About a thousand texts in all the languages at hand, and some that are awkward."""
    texts = []
    for path in sorted((shared / "data" / "tatoeba").glob("tatoeba.*-eng.*")):
        texts += path.read_text(encoding="utf-8").splitlines()[:20]
    for path in sorted((shared / "data" / "udhr").glob("*.xml")):
        paragraphs = ElementTree.parse(path).iterfind(".//{*}para")
        texts += ["".join(one.itertext()) for one in paragraphs][:10]
    return texts + [
        "", " ", "two  spaces", " before and after ", "tab\there", "line\nbreak",
        "<extra_id_0> is a piece", "ﬁ ½ Ａ", "e\u0301", "\u200bzero",
        "👩‍👩‍👧 🇫🇷", "हिन्दी",
    ]  # fmt: skip


def test_the_tokenizer(ask, shared, tmp_path):
    """AutoTokenizer gives the ids that training had, EOS last, and the same text back."""
    spiece = shared / "vocab" / "mt5" / "spiece.model"
    if not spiece.is_file():
        pytest.skip(f"no vocabulary at {spiece}")
    network = dataclasses.replace(NETWORK, vocab_size=250_112, emb_dim=2)
    arrays = {n: np.zeros(leaf.shape, np.float32) for n, leaf in names.expected(network).items()}
    hf_export.write(InMemory(arrays), tmp_path / "hf", vocabulary=spiece)
    texts, words = multilingual(shared), SentencePieceText(spiece)
    # Written in a text, special tokens are text to us; transformers takes them for the tokens.
    answer = ask("tokenize", tmp_path / "hf", [*texts, "</s>", "<pad>"])
    ids = answer["ids"]
    assert len(texts) > 700 and ids[-2:] == [[EOS_ID, EOS_ID], [0, EOS_ID]]
    wanted = [[*words.encode(text), EOS_ID] for text in texts]
    other = [text for text, *pair in zip(texts, ids, wanted, strict=False) if pair[0] != pair[1]]
    assert other == []
    assert answer["texts"][:-2] == [words.decode(ids) for ids in wanted]
