import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from sentencepiece import SentencePieceProcessor

from mt0_tpu.errors import UserError
from mt0_tpu.formats import hf_export, huggingface
from mt0_tpu.formats.model_card import ModelCard
from mt0_tpu.models import names
from mt0_tpu.text_vocabulary import mini_model

from .hf_folders import NETWORK, InMemory, t5x_arrays, torch_arrays


def library_reads(folder):
    """{name: array} of every safetensors file of a folder, by the safetensors library."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            assert file.metadata() == {"format": "pt"}
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        assert found[name].tobytes() == array.tobytes(), name
    return True


def test_the_golden_folder_is_written_as_it_was(golden, tmp_path):
    """transformers wrote it: the same tensors in the same bytes, and what else it says."""
    folder = golden / "t5_tiny" / "hf"
    hf_export.write(huggingface.open_weights(folder), tmp_path / "out")
    written = tmp_path / "out" / "model.safetensors"
    assert written.read_bytes() == (folder / "model.safetensors").read_bytes()
    theirs = json.loads((folder / "config.json").read_text())
    ours = json.loads((tmp_path / "out" / "config.json").read_text())
    # Both follow from feed_forward_proj.
    del theirs["dense_act_fn"], theirs["is_gated_act"]
    assert {key: ours.get(key) for key in theirs} == theirs
    tokens = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert tokens == {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


@pytest.mark.parametrize("shard_bytes", [10**9, 2000, 1])
def test_written_and_read_back(tmp_path, shard_bytes):
    arrays = t5x_arrays()
    hf_export.write(InMemory(arrays), tmp_path / "out", shard_bytes=shard_bytes)
    assert same(library_reads(tmp_path / "out"), torch_arrays(arrays))
    weights = huggingface.open_weights(tmp_path / "out")
    assert same({name: weights.read(name) for name in weights.tensors()}, arrays)
    config = weights.config
    assert (config.num_heads, config.head_dim, config.num_decoder_layers) == (2, 3, 1)


def test_shards_are_no_larger_than_told_and_indexed(tmp_path):
    hf_export.write(InMemory(t5x_arrays()), tmp_path / "out", shard_bytes=2000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    stored = torch_arrays(t5x_arrays())
    assert set(index["weight_map"]) == set(stored)
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in stored.values())
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert shards == sorted(set(index["weight_map"].values())) and len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    for shard in shards:
        size = sum(stored[name].nbytes for name, at in index["weight_map"].items() if at == shard)
        assert size <= 2000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", [np.float32, ml_dtypes.bfloat16])
def test_dtypes(tmp_path, dtype, stored):
    arrays = t5x_arrays(dtype=stored)
    hf_export.write(InMemory(arrays), tmp_path / "out", dtype=dtype)
    weights = huggingface.open_weights(tmp_path / "out")
    assert {info.dtype for info in weights.tensors().values()} == {dtype}
    # NumPy's cast to bfloat16 rounds to nearest, ties to even; to float32 it is exact.
    wanted = {name: array.astype(hf_export.DTYPES[dtype]) for name, array in arrays.items()}
    assert same({name: weights.read(name) for name in weights.tensors()}, wanted)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype


def test_rows_in_blocks_give_the_same_bytes(tmp_path, monkeypatch):
    hf_export.write(InMemory(t5x_arrays()), tmp_path / "whole")
    blocks = hf_export.row_blocks
    monkeypatch.setattr(hf_export, "row_blocks", lambda array: blocks(array, 40))
    hf_export.write(InMemory(t5x_arrays()), tmp_path / "blocks")
    name = "model.safetensors"
    assert (tmp_path / "blocks" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def refused(tmp_path, match, arrays=None, **options):
    there = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=match) as caught:
        hf_export.write(InMemory(arrays or t5x_arrays()), tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == there


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_not_exported(tmp_path, value):
    arrays = t5x_arrays()
    arrays["decoder.layers_0.mlp.wo.kernel"][3, 1] = value
    refused(tmp_path, "1 of 96 values of decoder.layers_0.mlp.wo.kernel are NaN", arrays)
    hf_export.write(InMemory(arrays), tmp_path / "out", allow_not_finite=True)
    assert same(library_reads(tmp_path / "out"), torch_arrays(arrays))


def test_other_networks_are_refused(tmp_path):
    arrays = t5x_arrays()
    tied = {name: a for name, a in arrays.items() if name != "decoder.logits_dense.kernel"}
    refused(tmp_path, "logits_via_embedding True is no mT5", tied)
    refused(tmp_path, "other.kernel", arrays | {"other.kernel": np.zeros(3, np.float32)})
    one = "encoder.layers_1.mlp.wo.kernel"
    refused(tmp_path, one, {name: array for name, array in arrays.items() if name != one})
    refused(tmp_path, "expected", config=dataclasses.replace(NETWORK, num_heads=3))
    relu = dataclasses.replace(NETWORK, mlp_activations=("silu", "gelu"))
    refused(tmp_path, "is no mT5", config=relu)


def test_options_that_are_wrong(tmp_path):
    refused(tmp_path, "dtype 'bfloat61'.*Did you mean 'bfloat16'", dtype="bfloat61")
    refused(tmp_path, "no optimizer state", with_state=True)
    refused(tmp_path, "shard_bytes is 0", shard_bytes=0)
    refused(tmp_path, "is not a SentencePiece model|No such file", vocabulary=tmp_path / "none")


def test_nothing_is_overwritten_unless_told_to(tmp_path):
    out = tmp_path / "out"
    hf_export.write(InMemory(t5x_arrays(seed=0)), out)
    refused(tmp_path, "exists")
    assert same(library_reads(out), torch_arrays(t5x_arrays(seed=0)))
    hf_export.write(InMemory(t5x_arrays(seed=1)), out, overwrite=True, shard_bytes=2000)
    assert same(library_reads(out), torch_arrays(t5x_arrays(seed=1)))
    assert not (out / "model.safetensors").exists()


def test_a_reader_that_fails_leaves_nothing(tmp_path):
    class Failing(InMemory):
        def read(self, name):
            if name == "encoder.encoder_norm.scale":
                raise UserError("it is damaged")
            return super().read(name)

    with pytest.raises(UserError, match="it is damaged"):
        hf_export.write(Failing(t5x_arrays()), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def vocabulary(shared):
    path = shared / "vocab" / "mt5" / "spiece.model"
    if not path.is_file():
        pytest.skip(f"no vocabulary at {path}")
    return path


def test_the_tokenizer_is_what_mt5_has(tmp_path, vocabulary):
    network = dataclasses.replace(NETWORK, vocab_size=250_112, emb_dim=2)
    arrays = {n: np.zeros(leaf.shape, np.float32) for n, leaf in names.expected(network).items()}
    out = tmp_path / "out"
    said = []
    hf_export.write(InMemory(arrays), out, vocabulary=vocabulary, say=said.append)
    assert (out / "spiece.model").read_bytes() == vocabulary.read_bytes()
    assert not [text for text in said if "BPE" in text]
    theirs = json.loads((vocabulary.parent / "special_tokens_map.json").read_text())
    assert json.loads((out / "special_tokens_map.json").read_text()) == theirs
    tokenizer = json.loads((out / "tokenizer_config.json").read_text())
    published = json.loads((vocabulary.parent / "tokenizer_config.json").read_text())
    for key in ("eos_token", "unk_token", "pad_token", "extra_ids", "legacy"):
        assert tokenizer[key] == published[key]
    assert json.loads((out / "config.json").read_text())["tokenizer_class"] == "T5Tokenizer"


def test_a_bpe_model_is_told_of(tmp_path):
    """transformers would cut its text as a unigram model's, and find other pieces."""
    rows = SentencePieceProcessor(model_file=str(mini_model())).get_piece_size()
    network = dataclasses.replace(NETWORK, vocab_size=rows, emb_dim=2)
    arrays = {n: np.zeros(leaf.shape, np.float32) for n, leaf in names.expected(network).items()}
    said = []
    hf_export.write(InMemory(arrays), tmp_path / "out", vocabulary=mini_model(), say=said.append)
    assert [text for text in said if "mini.model is a BPE model" in text]


def test_a_vocabulary_of_another_network(tmp_path, vocabulary):
    refused(tmp_path, "250,100 ids and the embedding 24 rows", vocabulary=vocabulary)


def test_the_model_card(tmp_path):
    card = ModelCard(
        name="me/mine", base_model="google/mt5-small", mixture="xp3_ru", languages=("ru", "no"),
        recipe='MIXTURE = "x"\n# ```\n', metrics={"xnli_ru/accuracy": 0.4321, "a|b": 1.0},
        license="apache-2.0",
    )  # fmt: skip
    hf_export.write(InMemory(t5x_arrays(), step=1000), tmp_path / "out", card=card)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    import yaml

    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers", "tags": ["mt5", "mt0_tpu"], "license": "apache-2.0",
        "base_model": "google/mt5-small", "language": ["ru", "no"],
    }  # fmt: skip
    assert "| xnli_ru/accuracy | 0.4321 |" in body and "`xp3_ru`" in body
    assert "| Training step | 1000 |" in body and r"a\|b" in body
    # A fence inside the recipe does not end the recipe's own.
    assert '````gin\nMIXTURE = "x"\n# ```\n````' in body


def test_a_card_of_nothing(tmp_path):
    hf_export.write(InMemory(t5x_arrays()), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Recipe" not in text and "Evaluation" not in text and "base_model" not in text
    assert "Converted with mt0_tpu" in text and "None" not in text
