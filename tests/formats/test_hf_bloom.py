"""BLOOM in transformers' folders: names, config.json, weights and tokenizer, in and out again."""

import dataclasses
import json
import re
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest

from mt0_tpu import checkpoints, cli
from mt0_tpu.convert import convert
from mt0_tpu.errors import UserError
from mt0_tpu.formats import (
    detect,
    hf_bloom,
    hf_export,
    hf_names,
    huggingface,
    own_run,
    shape_of,
    sound,
)
from mt0_tpu.formats.safetensors_file import SafetensorsFile
from mt0_tpu.models import names
from mt0_tpu.models.config import BloomConfig
from mt0_tpu.text_vocabulary import mini_model
from tests import byte_level
from tests.formats.hf_folders import InMemory
from tests.formats.made import made
from tests.formats.test_huggingface import KINDS, equal, opened, refused, save_safetensors, sharded
from tests.tiny import TINY
from tests.tiny_bloom import GOLDEN, TINY_BLOOM, load_params

SIZES = list(GOLDEN)
PREFIX = "transformer."
# 560 million to 176 billion: (emb_dim, num_heads, num_layers).
PUBLISHED = {
    "560m": (1024, 16, 24), "1b1": (1536, 16, 24), "1b7": (2048, 16, 24), "3b": (2560, 32, 30),
    "7b1": (4096, 32, 30), "176b": (14336, 112, 70),
}  # fmt: skip


def quietly(source, destination, to, **options):
    convert(str(source), str(destination), to, say=lambda text: None, **options)


def arrays_of(golden, size="heads4", dtype=np.float32):
    """{our name: array} of a golden network."""
    params = names.unstack(jax.tree.map(np.asarray, load_params(golden, size)))
    return {name: np.ascontiguousarray(array.astype(dtype)) for name, array in params.items()}


def torch_arrays(arrays, prefix=PREFIX):
    """The same in transformers' names and axes."""
    found = {}
    for name, array in arrays.items():
        place = hf_names.BLOOM.to_torch(name)
        key = prefix + place.name.removeprefix(PREFIX)
        found[key] = np.ascontiguousarray(array.T) if place.swapped else array
    return found


def description(golden, **changes):
    text = (golden / "bloom_tiny" / "heads4" / "config.json").read_text()
    kept = {key: value for key, value in (json.loads(text) | changes).items() if value != "gone"}
    return json.dumps(kept)


def folder(golden, room, arrays, name="model.safetensors", save=save_safetensors, **changes):
    """Writes a folder of these arrays, in transformers' names, with the golden description."""
    room.mkdir(exist_ok=True)
    (room / "config.json").write_text(description(golden, **changes))
    save(room / name, arrays)
    return room


# names


def test_every_name_has_its_place_and_comes_back():
    for name in names.expected(TINY_BLOOM):
        place = hf_names.BLOOM.to_torch(name)
        assert place.name.startswith(PREFIX)
        wanted = hf_names.Place(name, place.swapped)
        assert hf_names.BLOOM.from_torch(place.name) == wanted
        assert hf_names.BLOOM.from_torch(place.name.removeprefix(PREFIX)) == wanted
    place = hf_names.BLOOM.to_torch("decoder.layers_69.attention.query_key_value.kernel")
    assert place.name == "transformer.h.69.self_attention.query_key_value.weight" and place.swapped
    assert not hf_names.BLOOM.to_torch("token_embedder.embedding").swapped


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "h.01.input_layernorm.weight", "h.0.input_layernorm", "", "h.{i}.x",
             "transformer.transformer.ln_f.weight", "shared.weight"],
)  # fmt: skip
def test_names_that_are_none(name):
    assert hf_names.BLOOM.from_torch(name) is None
    assert hf_names.BLOOM.to_torch(name) is None


# weights, read


@pytest.mark.parametrize("size", SIZES)
def test_the_golden_folder_is_read(golden, size):
    weights = opened(golden / "bloom_tiny" / size)
    assert equal(weights, arrays_of(golden, size))
    assert dataclasses.replace(weights.config, dtype="float32") == GOLDEN[size]
    assert weights.ids == hf_bloom.IDS


@pytest.mark.parametrize("prefix", [PREFIX, ""])
@pytest.mark.parametrize("name,save", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_one_file_of_any_kind(golden, tmp_path, name, save, dtype, prefix):
    """As stored, the names with and without what BloomForCausalLM puts before them."""
    arrays = arrays_of(golden, dtype=dtype)
    folder(golden, tmp_path, torch_arrays(arrays, prefix), name, save)
    assert equal(opened(tmp_path), arrays)


@pytest.mark.parametrize("name,save", KINDS[:2])
def test_shards_with_an_index(golden, tmp_path, name, save):
    arrays = arrays_of(golden)
    sharded(tmp_path, name, save, torch_arrays(arrays, ""))
    (tmp_path / "config.json").write_text(description(golden))
    assert equal(opened(tmp_path), arrays)


def test_the_head_is_the_embedding(golden, tmp_path):
    arrays = arrays_of(golden)
    stored = torch_arrays(arrays)
    table = stored[PREFIX + "word_embeddings.weight"]
    folder(golden, tmp_path, stored | {"lm_head.weight": table})
    assert equal(opened(tmp_path), arrays)
    # One of the two may be left out as a duplicate, whichever.
    alone = {n: a for n, a in stored.items() if "word_embeddings.weight" not in n}
    folder(golden, tmp_path, alone | {"lm_head.weight": table})
    assert equal(opened(tmp_path), arrays)
    other = table.copy()
    other[7, 3] += 1
    folder(golden, tmp_path, stored | {"lm_head.weight": other})
    refused(tmp_path, "lm_head.weight differs from .*BLOOM has one embedding for input and head")
    folder(golden, tmp_path, stored, tie_word_embeddings=False)
    refused(tmp_path, "tie_word_embeddings false")


def test_a_tensor_twice_or_missing_or_too_many_or_of_another_shape(golden, tmp_path):
    stored = torch_arrays(arrays_of(golden))
    bare = "h.1.mlp.dense_4h_to_h.bias"
    folder(golden, tmp_path, stored | {bare: stored[PREFIX + bare]})
    refused(tmp_path, f"has both {PREFIX}{bare} and {bare}|has both {bare} and {PREFIX}{bare}")
    folder(golden, tmp_path, {n: a for n, a in stored.items() if n != PREFIX + bare})
    refused(tmp_path, f"{PREFIX}{bare} is missing")
    folder(golden, tmp_path, stored | {"h.0.lora_A": np.zeros((2, 2), np.float32)})
    refused(tmp_path, "h.0.lora_A is no parameter of BLOOM")
    name = PREFIX + "h.0.mlp.dense_h_to_4h.weight"
    folder(golden, tmp_path, stored | {name: stored[name][:-4]})
    refused(tmp_path, re.escape(f"{name} is (64, 252) where (64, 256) is expected"))
    folder(golden, tmp_path, stored, vocab_size=500)
    refused(tmp_path, "has 512 rows, expected 500 by config.json's vocab_size.* 250680 ids")
    folder(golden, tmp_path, stored, n_layer=1)
    refused(tmp_path, r"transformer.h.1\..* is of no layer")


def test_flax_is_not_read(golden, tmp_path):
    from flax import serialization

    (tmp_path / "config.json").write_text(description(golden))
    content = {"transformer": {"ln_f": {"scale": np.zeros(64, np.float32)}}}
    (tmp_path / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(content))
    refused(tmp_path, "holds BLOOM in Flax's layout, which is not read")


# config.json


def test_the_words_of_the_published_files(golden, tmp_path):
    """They say n_embed, num_attention_heads and fields of Megatron that change nothing."""
    published = {
        "hidden_size": "gone", "n_embed": 64, "n_head": "gone", "num_attention_heads": 4,
        "pretraining_tp": 4, "slow_but_exact": True, "offset_alibi": 100, "unk_token_id": 0,
        "masked_softmax_fusion": True, "skip_bias_add": True, "n_inner": None,
    }  # fmt: skip
    folder(golden, tmp_path, torch_arrays(arrays_of(golden), ""), **published)
    assert dataclasses.replace(opened(tmp_path).config, dtype="float32") == TINY_BLOOM


def test_what_it_says_of_the_network_is_kept(golden, tmp_path):
    said = {
        "apply_residual_connection_post_layernorm": True, "layer_norm_epsilon": 1e-6,
        "hidden_dropout": 0.1, "attention_dropout": 0.1, "eos_token_id": 9, "pad_token_id": None,
    }  # fmt: skip
    folder(golden, tmp_path / "in", torch_arrays(arrays_of(golden)), **said)
    config = opened(tmp_path / "in").config
    assert config.residual_post_layernorm
    assert (config.layer_norm_epsilon, config.dropout_rate) == (1e-6, 0.1)
    hf_export.write(opened(tmp_path / "in"), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    del said["pad_token_id"]
    assert {key: written[key] for key in said} == said and "pad_token_id" not in written


@pytest.mark.parametrize(
    "changes,match",
    [
        ({"n_head": 5}, "emb_dim is 64 and num_heads 5"),
        ({"n_head": 8, "num_attention_heads": 4}, "n_head 8 and num_attention_heads 4, which mean"),
        ({"hidden_size": "gone"}, "lacks 'hidden_size'"),
        ({"hidden_size": 32, "n_embed": "gone"}, "does not hold the network"),
        ({"n_inner": 100}, "n_inner 100 and hidden_size 64"),
        ({"hidden_dropout": 0.1}, "hidden_dropout 0.1 and attention_dropout 0.0"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon is 0"),
        ({"n_layer": "two"}, "num_layers is 'two'"),
        ({"apply_residual_connection_post_layernorm": "no"}, "residual_post_layernorm is 'no'"),
        ({"n_layer": 10**9}, "no 1000000000 layers"),
    ],
)
def test_what_is_no_bloom(golden, tmp_path, changes, match):
    folder(golden, tmp_path, torch_arrays(arrays_of(golden)), **changes)
    refused(tmp_path, match)


def test_a_network_that_transformers_cannot_describe(golden, tmp_path):
    for changes in ({"inputs_bidirectional_attention": True}, {"mlp_dim": 100}):
        config = dataclasses.replace(TINY_BLOOM, **changes)
        with pytest.raises(UserError, match="there it would compute something else"):
            hf_bloom.config_json(config, "float32")


# out again


@pytest.mark.parametrize("size", SIZES)
def test_through_a_run_and_back_to_the_bit(golden, tmp_path, size):
    """The very file that transformers wrote, and what its config.json says."""
    source = golden / "bloom_tiny" / size
    assert cli.main(["convert", str(source), str(tmp_path / "run"), "--to=orbax"]) == 0
    assert cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "hf"), "--to=hf"]) == 0
    written = tmp_path / "hf" / "model.safetensors"
    assert written.read_bytes() == (source / "model.safetensors").read_bytes()
    theirs = json.loads((source / "config.json").read_text())
    ours = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert theirs.pop("dtype") == ours["torch_dtype"]
    del theirs["transformers_version"]
    assert {key: ours.get(key) for key in theirs} == theirs
    tokens = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert tokens == hf_bloom.IDS
    quietly(source, tmp_path / "direct", "hf")
    assert (tmp_path / "direct/model.safetensors").read_bytes() == written.read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_was_stored_in_sixteen_bits_comes_out_so(golden, tmp_path, dtype):
    kind = hf_export.DTYPES.get(dtype, np.dtype(np.float16))
    stored = torch_arrays(arrays_of(golden, dtype=kind))
    folder(golden, tmp_path / "in", stored)
    quietly(tmp_path / "in", tmp_path / "run", "orbax")
    quietly(tmp_path / "run", tmp_path / "out", "hf", dtype=dtype)
    for room, file in (("in", "model.safetensors"), ("out", "model.safetensors")):
        opened_file = SafetensorsFile(tmp_path / room / file)
        for name, array in stored.items():
            assert opened_file.read(name).tobytes() == array.tobytes(), (room, name)
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == dtype


def test_float16_is_for_values_that_it_holds(golden, tmp_path):
    arrays = arrays_of(golden)
    arrays["decoder.layers_0.mlp.wi.bias"][3] = 70000
    weights = InMemory(arrays)
    with pytest.raises(UserError, match="layers_0.mlp.wi.bias holds values beyond float16's range"):
        hf_export.write(weights, tmp_path / "out", dtype="float16", config=TINY_BLOOM)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="mT5 overflows it"):
        hf_export.write(made(TINY), tmp_path / "out", dtype="float16")


def test_shards_and_dtypes_written_and_read_back(golden, tmp_path):
    arrays = arrays_of(golden, "heads6")
    out = tmp_path / "out"
    hf_export.write(InMemory(arrays), out, config=GOLDEN["heads6"], shard_bytes=20_000)
    assert len(list(out.glob("model-*.safetensors"))) > 3
    assert equal(opened(out), arrays)


def test_t5x_has_no_bloom(golden, tmp_path, capsys):
    command = ["convert", str(golden / "bloom_tiny/heads4"), str(tmp_path / "out"), "--to=t5x"]
    assert cli.main(command) == 2
    assert "T5X has no BLOOM; convert to orbax or hf" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_card_says_what_it_is(golden, tmp_path):
    quietly(golden / "bloom_tiny/heads4", tmp_path / "out", "hf")
    text = (tmp_path / "out" / "README.md").read_text()
    assert 'tags: ["bloom", "mt0_tpu"]' in text and "AutoModelForCausalLM" in text
    assert "2 layers, width 64, 4 heads of 16" in text and "mT5" not in text


# the tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_level.write(tmp_path_factory.mktemp("bloom"), size=500)


def test_the_tokenizers_files_go_along(golden, tmp_path, tokenizer, monkeypatch):
    monkeypatch.delenv("MT0_VOCABULARY", raising=False)
    source = folder(golden, tmp_path / "in", torch_arrays(arrays_of(golden)))
    for file in tokenizer.iterdir():
        shutil.copy(file, source)
    quietly(source, tmp_path / "direct", "hf")
    quietly(source, tmp_path / "run", "orbax")
    quietly(tmp_path / "run", tmp_path / "named", "hf", vocabulary=str(tokenizer))
    for room in ("direct", "named"):
        for file in tokenizer.iterdir():
            assert (tmp_path / room / file.name).read_bytes() == file.read_bytes()
    # A file alone: transformers still has to be told which tokens are special.
    alone = tmp_path / "mine.json"
    shutil.copy(tokenizer / "tokenizer.json", alone)
    monkeypatch.setenv("MT0_VOCABULARY", str(alone))
    quietly(tmp_path / "run", tmp_path / "alone", "hf")
    assert (tmp_path / "alone/tokenizer.json").read_bytes() == alone.read_bytes()
    settings = json.loads((tmp_path / "alone/tokenizer_config.json").read_text())
    assert (settings["eos_token"], settings["padding_side"]) == ("</s>", "left")


def test_a_tokenizer_of_another_network(tmp_path, tokenizer):
    with pytest.raises(UserError, match="ids and the embedding 250,880 rows .*BLOOM's: 250,680"):
        sound.check_tokenizer(tokenizer, 250_880)
    with pytest.raises(UserError, match="there is no such file"):
        sound.check_tokenizer(tmp_path / "tokenizer.json", 512)
    assert sound.check_tokenizer(tokenizer, 512).eos_id == 2


def test_a_sentencepiece_model_of_a_run_on_the_mini_mixtures(golden, tmp_path):
    """Its ids of EOS and padding stand in config.json, not BLOOM's; no tokenizer is written."""
    with pytest.raises(UserError, match="4,096 ids and the embedding 512 rows"):
        quietly(golden / "bloom_tiny/heads4", tmp_path / "out", "hf", vocabulary=str(mini_model()))
    config = dataclasses.replace(TINY_BLOOM, vocab_size=4096, num_layers=1)
    weights = made(config)
    hf_export.write(weights, tmp_path / "out", config=config, vocabulary=mini_model())
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {k: v for k, v in written.items() if k.endswith("_token_id")} == {
        "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    assert not list((tmp_path / "out").glob("*token*json")) + list(tmp_path.glob("*/*.model"))


# what no shape tells


def test_published_sizes_are_known_by_their_shapes():
    for name, (width, heads, layers) in PUBLISHED.items():
        config = BloomConfig(250_880, width, heads, layers)
        assert shape_of.size_name(config) == f"bloom-{name}"
    config = BloomConfig(250_880, 1024, 16, 24)
    assert shape_of.shape_of(made(config)) == config
    assert shape_of.size_name(dataclasses.replace(config, num_heads=8)) is None
    assert shape_of.size_name(dataclasses.replace(config, vocab_size=512)) is None
    assert shape_of.describe(config).startswith("bloom-560m: 24 layers, width 1024, 16 heads of 64")
    with pytest.raises(UserError, match="64 wide with 2 layers.*nothing says how many heads"):
        shape_of.shape_of(made(TINY_BLOOM))


def test_a_runs_config_gin_tells_its_heads(golden, tmp_path):
    run = tmp_path / "run"
    hf_folder = golden / "bloom_tiny/heads4"
    quietly(hf_folder, run, "orbax")
    # As if it had been trained: what Orbax's metadata of a conversion notes is not there.
    [metadata] = run.glob("checkpoints/*/_CHECKPOINT_METADATA")
    content = json.loads(metadata.read_text())
    noted = content["custom_metadata"].pop(own_run.NETWORK)
    assert noted["num_heads"] == 4
    metadata.write_text(json.dumps(content))
    with pytest.raises(UserError, match="nothing says how many heads it has"):
        quietly(run, tmp_path / "out", "hf")
    lines = ["HEADS = 4", "network.BloomConfig.num_heads = %HEADS",
             "network.BloomConfig.dropout_rate = 0.1"]  # fmt: skip
    (run / "config.gin").write_text("\n".join(lines) + "\n")
    quietly(run, tmp_path / "out", "hf")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["n_head"], written["hidden_dropout"]) == (4, 0.1)


@pytest.mark.parametrize("through_a_run", [False, True])
def test_other_heads_are_refused_though_the_tensors_fit(golden, tmp_path, through_a_run):
    source = golden / "bloom_tiny/heads4"
    if through_a_run:
        quietly(source, tmp_path / "run", "orbax")
        source = tmp_path / "run"
    params = names.unstack(checkpoints.restore_params(str(source), TINY_BLOOM))
    for name, array in arrays_of(golden).items():
        np.testing.assert_array_equal(np.asarray(params[name]), array)
    for changes, match in (
        ({"num_heads": 8}, "has num_heads 4, and the model 8: the tensors fit"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-05, and the model 1e-06"),
        ({"residual_post_layernorm": True}, "residual_post_layernorm False, and the model True"),
        ({"emb_dim": 128}, "does not fit the model.*expected|params/.*: expected"),
    ):
        other = dataclasses.replace(TINY_BLOOM, **{"mlp_dim": None, **changes})
        with pytest.raises(UserError, match=match):
            checkpoints.restore_params(str(source), other)
    with pytest.raises(UserError, match="does not fit the model|expected"):
        checkpoints.restore_params(str(source), TINY)


def test_what_it_is_is_found_by_content(golden, tmp_path):
    source = golden / "bloom_tiny/heads4"
    assert detect.find(source) == ("huggingface", source)
    quietly(source, tmp_path / "run", "orbax")
    assert detect.find(tmp_path / "run")[0] == "own_run"
    assert huggingface.find(source / "model.safetensors") == source / "model.safetensors"
