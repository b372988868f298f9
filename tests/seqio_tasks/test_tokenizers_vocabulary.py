"""A tokenizer.json as SeqIO's vocabulary, and tasks that use it."""

import pickle

import pytest
import seqio
import tensorflow as tf

from seqio_tasks import evaluation, vocabularies, xp3_tasks
from seqio_tasks.bloomz_text import BlankBefore
from seqio_tasks.tokenizers_vocabulary import TokenizersVocabulary
from tests import byte_level


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return byte_level.write(tmp_path_factory.mktemp("bloom"))


@pytest.fixture(scope="module")
def vocabulary(folder):
    return TokenizersVocabulary(folder)


def test_seqio_sees_the_files_ids(vocabulary):
    ids = (vocabulary.unk_id, vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id)
    assert ids == (0, 1, 2, 3)
    assert vocabulary.vocab_size == vocabulary.tokenizer.size
    for text in byte_level.TEXTS:
        found = vocabulary.encode(text)
        assert found == vocabulary.tokenizer.encode(text)
        assert vocabulary.decode([*found, 2, 5, 6]) == text
    assert vocabulary.decode([vocabulary.vocab_size]) == "<unk>"


def test_tensorflow_gives_the_same(vocabulary):
    texts = byte_level.TEXTS[:3]
    wanted = [vocabulary.encode(text) for text in texts]
    assert vocabulary.encode_tf(tf.constant(texts[0])).numpy().tolist() == wanted[0]
    assert vocabulary.encode_tf(tf.constant("")).numpy().tolist() == []
    ragged = vocabulary.encode_tf(tf.constant(texts))
    assert ragged.to_list() == wanted
    padded = tf.constant([[*wanted[0], 2, 9, 9]])
    assert vocabulary.decode_tf(padded).numpy() == [texts[0].encode()]
    assert vocabulary.decode_tf(padded[0]).numpy() == texts[0].encode()


def test_a_path_is_read_when_it_is_asked_for(tmp_path, folder):
    vocabulary = TokenizersVocabulary(tmp_path / "tokenizer.json")
    assert "tokenizer.json" in str(vocabulary)
    with pytest.raises(ValueError, match="there is no such file"):
        vocabulary.encode("a")
    read = TokenizersVocabulary(folder)
    read.encode("a")
    sent = pickle.loads(pickle.dumps(read))
    assert sent == read and sent.encode("Dodoma") == read.encode("Dodoma")
    assert TokenizersVocabulary(folder / "tokenizer.json") == read != vocabularies.mini()


def test_the_variable_names_either_kind(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("MT0_VOCABULARY", str(folder))
    assert vocabularies.named() == vocabularies.bloom() == TokenizersVocabulary(folder)
    monkeypatch.setenv("MT0_VOCABULARY", "some/spiece.model")
    assert vocabularies.named().sentencepiece_model_file == "some/spiece.model"
    assert vocabularies.named(str(folder / "tokenizer.json")) == TokenizersVocabulary(folder)
    monkeypatch.delenv("MT0_VOCABULARY")
    assert vocabularies.named().sentencepiece_model_file == vocabularies.MT5_PATH
    with pytest.raises(ValueError, match="in MT0_VOCABULARY"):
        vocabularies.bloom()


def test_inputs_end_in_eos_as_the_networks_were_trained(vocabulary, monkeypatch):
    monkeypatch.delenv("MT0_INPUTS_EOS", raising=False)
    assert vocabularies.inputs_eos(vocabularies.mini()) and not vocabularies.inputs_eos(vocabulary)
    monkeypatch.setenv("MT0_INPUTS_EOS", "1")
    assert vocabularies.inputs_eos(vocabulary)
    monkeypatch.setenv("MT0_INPUTS_EOS", "no")
    assert not vocabularies.inputs_eos(vocabularies.mini())


def test_a_blank_comes_before_what_is_to_be_written():
    step = BlankBefore()
    pair = {"inputs": "Jina?", "targets": "Dodoma", "answer": 0}
    assert step.numpy_map(pair) == pair | {"targets": " Dodoma"}
    ranked = {"inputs": "Jina?", "choices": ["ja", " nein"], "targets": None}
    assert step.numpy_map(ranked) == ranked | {"choices": [" ja", "  nein"]}
    for example in (pair, {"inputs": "a", "choices": ["ja", "nein"]}):
        given = tf.data.Dataset.from_tensors(example)
        (found,) = step(given).as_numpy_iterator()
        wanted = step.numpy_map(example)
        for name, value in wanted.items():
            value = [one.encode() for one in value] if isinstance(value, list) else value
            value = value.encode() if isinstance(value, str) else value
            assert list(found[name]) == value if isinstance(value, list) else found[name] == value


def test_evaluation_ranks_as_published_for_bloomz(folder):
    features = evaluation._features(str(folder))
    assert [features[f].add_eos for f in ("inputs", "choices")] == [False, False]
    assert len(vocabularies.text_steps(features["choices"].vocabulary)) == 1
    mini = evaluation._features("some/spiece.model")
    assert [mini[f].add_eos for f in ("inputs", "choices")] == [False, True]


def test_xp3_tasks_take_it_by_the_variable(folder, monkeypatch, tmp_path):
    data = tmp_path / "data" / "sw"
    data.mkdir(parents=True)
    lines = '{"inputs": "Mji mkuu?", "targets": "Dodoma"}\n{"inputs": "<unk>", "targets": "a b"}\n'
    (data / "merged_sw.jsonl").write_text(lines)
    monkeypatch.setenv("MT0_VOCABULARY", str(folder))
    monkeypatch.delenv("MT0_INPUTS_EOS", raising=False)
    xp3_tasks.add_collection("bloomtexts", str(tmp_path / "data"), layout="merged")
    task = seqio.get_mixture_or_task("bloomtexts_sw")
    task = task if isinstance(task, seqio.Task) else task.tasks[0]
    examples = list(
        task.get_dataset({"inputs": 64, "targets": 64}, "train", shuffle=False).as_numpy_iterator()
    )
    tokenizer = TokenizersVocabulary(folder).tokenizer
    assert [example["inputs"].tolist() for example in examples] == [
        tokenizer.encode("Mji mkuu?"),
        [0],
    ]
    assert [example["targets"].tolist() for example in examples] == [
        [*tokenizer.encode(" Dodoma"), 2],
        [*tokenizer.encode(" a b"), 2],
    ]
