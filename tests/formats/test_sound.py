"""What is said of weights and vocabularies that are not sound."""

import dataclasses
import re
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import sentencepiece

from mt0_tpu.errors import UserError
from mt0_tpu.formats import own_run, sound
from tests.formats.made import Made, made
from tests.tiny import TINY


def test_sound_tensors_pass_and_say_their_network():
    assert sound.check_tensors(made(TINY), TINY) is TINY
    assert sound.check_tensors(made(TINY)).num_heads == 4


def test_what_does_not_fit_is_listed():
    weights = made(TINY, **{"encoder.encoder_norm.scale": np.zeros(63, np.float32)})
    del weights.arrays["decoder.layers_1.mlp.wo.kernel"]
    weights.arrays["decoder.other"] = np.zeros(3, np.float32)
    with pytest.raises(UserError) as error:
        sound.check_tensors(weights)
    for part in (
        "nowhere (made) is not the network no published size: 2 + 2 layers",
        "decoder.layers_1.mlp.wo.kernel: expected (128, 64), found nothing",
        "decoder.other: expected nothing, found (3,)",
        "encoder.encoder_norm.scale: expected (64,), found (63,)",
    ):
        assert part in str(error.value)
    other = dataclasses.replace(TINY, vocab_size=1024)
    with pytest.raises(UserError, match=r"embedding: expected \(1024, 64\), found \(512, 64\)"):
        sound.check_tensors(made(TINY), other)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_found(dtype, value):
    array = np.zeros((40, 50), dtype)
    sound.check_values("a.b", array, "here")
    array[3, 4] = array[7, 0] = value
    match = re.escape(
        f"here: 2 of 2000 values of a.b are NaN or infinite, the first at (3, 4) ({value}"
    )
    with pytest.raises(UserError, match=match):
        sound.check_values("a.b", array, "here")


def test_values_beyond_the_first_block(monkeypatch):
    monkeypatch.setattr(sound, "_BLOCK", 7)
    array = np.zeros((10, 3), np.float32)
    array[5, 2] = array[9, 2] = np.nan
    with pytest.raises(UserError, match=r"2 of 30 values of x .* the first at \(5, 2\)"):
        sound.check_values("x", array, "here")
    sound.check_values("ids", np.arange(30), "here")


def test_a_transposed_tensor_is_not_copied(monkeypatch):
    monkeypatch.setattr(sound, "_BLOCK", 1000)
    array = np.zeros((500, 400), np.float32).T
    array[3, 5] = np.inf
    tracemalloc.start()
    with pytest.raises(UserError, match=r"1 of 200000 values of x .* the first at \(3, 5\)"):
        sound.check_values("x", array, "here")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < array.nbytes / 4


def test_checked_weights_are_the_same_but_for_damage(tmp_path):
    weights = made(TINY)
    weights.state = {"a.v": np.full(3, np.nan, np.float32), "b.v": np.ones(3, np.float32)}
    weights.arrays["decoder.decoder_norm.scale"][5] = np.nan
    checked = sound.Checked(weights)
    assert (checked.kind, checked.path, checked.step) == ("made", "nowhere", None)
    assert checked.tensors() == weights.tensors()
    assert checked.state_tensors() == weights.state_tensors()
    good = "encoder.encoder_norm.scale"
    assert checked.read(good) is weights.read(good)
    assert checked.read_state("b.v") is weights.state["b.v"]
    with pytest.raises(UserError, match="3 of 3 values of a.v"):
        checked.read_state("a.v")
    with pytest.raises(UserError, match="1 of 64 values of decoder.decoder_norm.scale"):
        own_run.write(checked, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_mt5s_vocabulary_belongs_to_mt5(shared):
    model = shared / "vocab" / "mt5" / "spiece.model"
    sound.check_vocabulary(model, 250112)
    with pytest.raises(UserError, match="250,100 ids and the embedding 32,128 rows .32,128 rows"):
        sound.check_vocabulary(model, 32128)
    with pytest.raises(UserError, match="250,100 ids and the embedding 250,000 rows: they do not"):
        sound.check_vocabulary(model, 250000)


def test_t5s_vocabulary_has_its_sentinels_outside(shared):
    model = shared / "vocab" / "t5_32k" / "spiece.model"
    sound.check_vocabulary(model, 32128)
    with pytest.raises(UserError, match="32,100 ids and the embedding 250,112 rows .*mT5's"):
        sound.check_vocabulary(model, 250112)


def test_rows():
    sound.check_rows(250100, 250112, "v")
    with pytest.raises(UserError, match="250,000 ids and the embedding 250,112 rows"):
        sound.check_rows(250000, 250112, "v")
    sound.check_rows(500, 512, "v")
    with pytest.raises(UserError):
        sound.check_rows(513, 512, "v")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Makes tiny SentencePiece models."""
    folder = tmp_path_factory.mktemp("pieces")

    def train(name, **options):
        text = ["abc bca cab abba", "a b c ab bc ca"] * 20
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text), model_prefix=str(folder / name), minloglevel=2,
            hard_vocab_limit=False, **options,
        )  # fmt: skip
        return folder / f"{name}.model"

    return train


def test_padding_and_eos(train):
    model = train("usual", vocab_size=40)
    with pytest.raises(UserError, match="has padding -1 and EOS 2; .* padding 0 and EOS 1"):
        sound.check_vocabulary(model, 128)


def test_sentinels_count_down(train):
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 60}
    model = train("up", user_defined_symbols=["<extra_id_0>"], **ids)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    at = pieces.piece_to_id("<extra_id_0>")
    last = pieces.get_piece_size() - 1
    assert at < last
    with pytest.raises(UserError, match=f"has <extra_id_0> as id {at}, where mT5's vocabulary"):
        sound.check_vocabulary(model, 128)


def test_no_vocabulary_at_all(tmp_path):
    (tmp_path / "spiece.model").write_text("nonsense")
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        sound.check_vocabulary(tmp_path / "spiece.model", 128)
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        sound.check_vocabulary(tmp_path / "none.model", 128)


def test_special_ids():
    sound.check_ids("config.json", pad=0, eos=1, decoder_start=None)
    match = "config.json has eos_token_id 2 instead of 1, decoder_start_token_id 1 instead of 0"
    with pytest.raises(UserError, match=match):
        sound.check_ids("config.json", pad=0, eos=2, decoder_start=1)


def test_integers_have_nothing_to_check():
    sound.Checked(Made({"x": np.arange(3)})).read("x")
