"""Tasks of rows under prompts, for training and for evaluation by rank."""

import json
import pickle

import pytest
import seqio

from seqio_tasks import prompted, raw_rows, task_facts, vocabularies
from seqio_tasks.prompts import Template

ROWS = [
    {"q": "up", "a": "down", "b": "left", "label": 0},
    {"q": "x", "a": "1", "b": "2", "label": 1},
]
RANK = [
    Template("one", "{{ q }}? ||| {{ answer_choices[label] }}", "{{ a }} ||| {{ b }}"),
    Template("two", "Opposite of {{ q }} ||| {{ answer_choices[label] }}", "{{ a }}|||{{ b }}"),
]


def rows():
    return ROWS


@pytest.fixture
def registered():
    names = []
    yield names
    for name in names:
        seqio.TaskRegistry.remove(name)


def test_pairs_under_every_template():
    source = prompted.PromptedDataSource({"train": rows}, RANK)
    assert list(source.python_examples("train")) == [
        {"inputs": "up?", "targets": "down"},
        {"inputs": "x?", "targets": "2"},
        {"inputs": "Opposite of up", "targets": "down"},
        {"inputs": "Opposite of x", "targets": "2"},
    ]
    assert source.num_input_examples("train") == 4


def test_rank_examples():
    source = prompted.PromptedDataSource(
        {"validation": rows}, RANK[:1], rank=True, language="sw", fields={"cluster": "opposites"}
    )
    assert list(source.python_examples("validation"))[1] == {
        "inputs": "x?", "choices": ["1", "2"], "answer": 1, "prompt": "one", "language": "sw",
        "cluster": "opposites",
    }  # fmt: skip


def test_what_is_left_out_is_counted_or_stops():
    bad = [*ROWS, {"q": "", "a": "", "b": "z", "label": 0}, {"q": "s", "a": "t", "b": "u"}]
    template = Template(
        "t", "{{ q }} ||| {{ 'other' if label is undefined else a }}", "{{ a }}|||b"
    )
    source = prompted.PromptedDataSource({"train": lambda: bad}, template, rank=True)
    assert len(list(source.python_examples("train"))) == 2
    assert source.dropped["train"] == {"empty_input": 1, "answer_not_among_choices": 1}
    assert source.take_tally().bad == 2 and source.take_tally().bad == 0
    # The second of two shards reads the same rows; they count once.
    list(source.python_examples("train", 1, 2))
    assert source.take_tally().bad == 0
    source = prompted.PromptedDataSource({"train": lambda: bad}, template, errors="stop")
    with pytest.raises(ValueError, match="Split 'train', row 2: nothing before"):
        list(source.python_examples("train"))


def test_the_fingerprint_follows_files_and_prompts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    split = raw_rows.RawSplit("d", None, "train", files=(str(path),))

    def mark(**options):
        return prompted.PromptedDataSource({"train": split}, **options).fingerprint()

    assert mark(templates=RANK) == mark(templates=RANK) != mark(templates=RANK[:1])
    assert mark(templates=RANK) != mark(templates=RANK, seed=1)
    # A callable's examples are hashed themselves.
    source = prompted.PromptedDataSource({"train": rows}, RANK)
    assert source.fingerprint() == prompted.PromptedDataSource({"train": rows}, RANK).fingerprint()


def test_a_source_can_be_sent_to_another_process():
    source = prompted.PromptedDataSource({"train": rows}, RANK, rank=True)
    sent = pickle.loads(pickle.dumps(source))
    assert list(sent.python_examples("train")) == list(source.python_examples("train"))


def test_a_registered_task_under_plain_seqio(registered):
    vocabulary = vocabularies.mini()
    registered += ["prompted_pairs", "prompted_rank"]
    prompted.add_prompted_task("prompted_pairs", {"train": rows}, RANK[0], vocabulary)
    prompted.add_prompted_task(
        "prompted_rank", {"validation": rows}, RANK, vocabulary, rank=True, inputs_eos=False,
        language="sw", facts={"cluster": "opposites"},
    )  # fmt: skip
    dataset = seqio.TaskRegistry.get("prompted_pairs").get_dataset(
        {"inputs": 32, "targets": 32}, "train", shuffle=False
    )
    first = next(dataset.as_numpy_iterator())
    assert vocabulary.decode(first["targets"].tolist()) == "down" and first["targets"][-1] == 1
    dataset = seqio.TaskRegistry.get("prompted_rank").get_dataset(
        {"inputs": 32, "targets": 32, "choices": 32}, "validation", shuffle=False
    )
    first = next(dataset.as_numpy_iterator())
    assert len(first["choices"]) == 2 and first["answer"] == 0
    facts = task_facts.facts("prompted_rank")
    assert (facts["language"], facts["cluster"]) == ("sw", "opposites")
    with pytest.raises(ValueError, match="There is a task 'prompted_pairs' already"):
        prompted.add_prompted_task("prompted_pairs", {"train": rows}, RANK, vocabulary)


@pytest.mark.parametrize(
    "templates, options, error",
    [
        ([], {}, "write a Template"),
        (["text"], {}, "write a Template"),
        (Template("open", "a|||b"), {"rank": True}, "'open' has no answer_choices"),
        (Template("broken", "{% if %}"), {}, "'broken'"),
        (RANK, {"errors": "ignore"}, "write 'skip' or 'stop'"),
    ],
)
def test_mistakes_are_told(templates, options, error):
    with pytest.raises(ValueError, match=error):
        prompted.PromptedDataSource({"train": rows}, templates, **options)
