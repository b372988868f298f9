"""The paper's evaluation as registered SeqIO tasks."""

import pickle

import pytest
import seqio

import seqio_tasks
from seqio_tasks import evaluation, task_facts
from tests.seqio_tasks.evaluation_folders import (
    RTE,
    TWO,
    copa_row,
    write_copa_prompts,
    write_prompts,
    write_rows,
)


def examples(name):
    return list(seqio.TaskRegistry.get(name).source.python_examples("validation"))


def names_of(mixture):
    return [task.name for task in seqio.MixtureRegistry.get(mixture).tasks]


def refused(match, function, *arguments):
    with pytest.raises(ValueError, match=match) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(family, tmp_path, monkeypatch):
    """XCOPA in Swahili and Estonian, and COPA's prompts; the registry forgets the tasks again."""
    monkeypatch.setenv("MT0_EVAL_DIR", str(tmp_path / "rows"))
    monkeypatch.setenv("MT0_PROMPTS_DIR", str(tmp_path / "prompts"))
    monkeypatch.delenv("MT0_BAD_LINES", raising=False)
    write_copa_prompts(tmp_path / "prompts")
    write_rows(tmp_path / "rows" / "xcopa" / "sw" / "val.sw.jsonl", 3)
    write_rows(tmp_path / "rows" / "xcopa" / "et" / "val.et.jsonl", 2)
    return tmp_path


def test_a_task_has_every_row_under_five_prompts(folder):
    evaluation.ensure("eval_xcopa_sw")
    found = examples("eval_xcopa_sw")
    assert len(found) == 15
    assert found[0] == {
        "inputs": "0: premise 0 cause?", "choices": ["one 0", "two 0"], "answer": 0,
        "prompt": "best_option", "language": "sw", "cluster": "sentence_completion",
        "dataset": "xcopa", "prompt_language": "EN", "held_out_cluster": True,
        "seen_language": True,
    }  # fmt: skip
    # The first five are one row under all prompts: a few examples are of all prompts.
    assert len({one["prompt"] for one in found[:5]}) == 5
    assert {one["choices"][0] for one in found[:5]} == {"one 0"}
    assert task_facts.facts("eval_xcopa_sw")["cluster"] == "sentence_completion"
    evaluation.ensure("eval_xcopa_et")
    assert not examples("eval_xcopa_et")[0]["seen_language"]


def test_inputs_end_without_eos_and_choices_with_it(folder):
    evaluation.ensure("eval_xcopa_sw")
    task = seqio.TaskRegistry.get("eval_xcopa_sw")
    assert not task.output_features["inputs"].add_eos and task.output_features["choices"].add_eos
    lengths = {"inputs": 64, "targets": 64, "choices": 64}
    first = next(task.get_dataset(lengths, "validation", shuffle=False).as_numpy_iterator())
    assert first["inputs"][-1] != 1 and first["choices"][0][-1] == 1 and first["targets"][-1] == 1


def test_mixtures(folder):
    evaluation.ensure("eval_xcopa")
    assert len(names_of("eval_xcopa")) == 11  # registered without their files
    evaluation.ensure("mt0_eval_at_hand")
    assert names_of("mt0_eval_at_hand") == ["eval_xcopa_et", "eval_xcopa_sw"]
    evaluation.ensure("eval_xcopa_at_hand")
    assert names_of("eval_xcopa_at_hand") == ["eval_xcopa_et", "eval_xcopa_sw"]
    seqio_tasks.load(names=["mini_eval", "xp3_sw"])  # others' names are left alone


def test_nothing_at_hand(folder, monkeypatch):
    refused(
        "No file of eval_xnli in .*rows; name the folder", evaluation.ensure, "eval_xnli_at_hand"
    )
    row = {"premise": "p", "hypothesis": "h", "label": "entailment", "idx": 0}
    write_rows(folder / "rows" / "RTE" / "val.jsonl", [row])
    refused("no templates 'super_glue/rte'", evaluation.ensure, "eval_super_glue_at_hand")
    monkeypatch.delenv("MT0_PROMPTS_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    refused("There are no prompts at hand: .*--get", evaluation.ensure, "eval_xcopa_sw")


@pytest.mark.parametrize(
    "name, said",
    [
        ("eval_xcopa_sq", "eval_xcopa has id, sw, .*Did you mean 'eval_xcopa_sw'"),
        ("eval_xcpoa_sw", "Did you mean 'eval_xcopa_sw'"),
        ("eval_xcopa_swahili", "Did you mean 'eval_xcopa_sw'"),
        ("eval_humanevall", "Did you mean 'eval_humaneval'"),
        ("eval_wmt14_fr_em", "Did you mean 'eval_wmt14_fr_en'"),
        ("mt0_evals", "Did you mean 'mt0_eval'"),
        ("mt0_validation_at_hands", "Did you mean 'mt0_validation_at_hand'"),
    ],
)
def test_unknown_names(family, name, said):
    refused(f"There is no evaluation task or mixture '{name}'..*{said}", evaluation.ensure, name)


@pytest.mark.parametrize(
    "row, said",
    [
        (copa_row(7, choice1=" "), "an answer to choose from is empty: \\['', 'two 7'\\]"),
        (copa_row(6, choice1=" "), "nothing after the"),  # it is the right one
        ({"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 2},
         "row 4: its label is 2; known are 0, 1"),
    ],
)  # fmt: skip
def test_choices_that_cannot_be_ranked(folder, row, said):
    rows = [*(copa_row(number) for number in range(3)), row]
    write_rows(folder / "rows" / "xcopa" / "sw" / "val.sw.jsonl", rows)
    evaluation.ensure("eval_xcopa_sw")
    refused(said, examples, "eval_xcopa_sw")


@pytest.mark.parametrize(
    "jinja, choices, reason, said",
    [
        ("{{ premise }} ||| neither", TWO, "answer_not_among_choices",
         "row 0: what the template prints behind its ||| is none of its choices: "
         "'neither' of \\['one 0', 'two 0'\\] \\(prompt 'best_option'\\); mend the row.*skip"),
        ("{{ premise }} ||| {{ choice1 }}", "{{ choice1 }}", "one_choice",
         "there is one answer to choose from: \\['one 0'\\]"),
    ],
)  # fmt: skip
def test_prompts_that_give_no_question(folder, monkeypatch, jinja, choices, reason, said):
    prompts = evaluation.evaluation_tables.tasks()["eval_xcopa_sw"].prompts
    write_prompts(folder / "prompts", "super_glue/copa", prompts[1:], "p ||| {{ choice1 }}", TWO)
    other = write_prompts(folder / "more", "xcopa/en", prompts[:1], jinja, choices)
    text = (folder / "prompts" / "super_glue" / "copa" / "templates.yaml").read_text()
    both = other.read_text() + text.partition("templates:\n")[2].replace("'0'", "'9'")
    other.write_text(both)
    monkeypatch.setenv("MT0_PROMPTS_DIR", str(folder / "more"))
    evaluation.ensure("eval_xcopa_sw")
    refused(said.replace("|||", "\\|\\|\\|"), examples, "eval_xcopa_sw")
    # Left out and counted on demand.
    evaluation.ensure("eval_xcopa_et")
    monkeypatch.setenv("MT0_BAD_LINES", "skip")
    seqio.TaskRegistry.remove("eval_xcopa_sw")
    evaluation.ensure("eval_xcopa_sw")
    source = seqio.TaskRegistry.get("eval_xcopa_sw").source
    assert len(examples("eval_xcopa_sw")) == 12
    assert source.dropped["validation"] == {reason: 3} and source.take_tally().bad == 3


def test_duplicate_ids_and_missing_files(folder):
    write_rows(folder / "rows" / "xcopa" / "sw" / "val.sw.jsonl", [copa_row(1), copa_row(1)])
    evaluation.ensure("eval_xcopa")
    refused("eval_xcopa_sw: .*val.sw.jsonl, row 2: its idx 1 is that of row 1", examples,
            "eval_xcopa_sw")  # fmt: skip
    refused("eval_xcopa_qu: no file of xcopa/qu validation in .*rows", examples, "eval_xcopa_qu")


def test_a_source_can_be_sent_to_another_process_and_says_what_it_depends_on(folder):
    evaluation.ensure("eval_xcopa_sw")
    source = seqio.TaskRegistry.get("eval_xcopa_sw").source
    sent = pickle.loads(pickle.dumps(source))
    assert list(sent.python_examples("validation")) == examples("eval_xcopa_sw")
    assert sent.fingerprint() == source.fingerprint()
    (file,) = source.watched_files("validation")
    assert file.local and file.url.endswith("val.sw.jsonl")
    assert "MT0_VOCABULARY" in source.environment


def test_five_prompts_of_rte(folder):
    jinja = "{{ premise }} So {{ hypothesis }}? ||| {{ answer_choices[label] }}"
    write_prompts(folder / "prompts", "super_glue/rte", RTE, jinja, "Yes ||| No")
    row = {"premise": "p", "hypothesis": "h", "label": "not_entailment", "idx": 0}
    write_rows(folder / "rows" / "RTE" / "val.jsonl", [row])
    evaluation.ensure("eval_super_glue_rte")
    assert [(one["answer"], one["dataset"]) for one in examples("eval_super_glue_rte")] == [
        (1, "super_glue/rte")
    ] * 5
