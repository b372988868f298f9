import functools
import itertools
import json
import random
import types

import numpy as np
import pytest
import seqio

from mt0_tpu import cli
from mt0_tpu.data.indexed import IndexedWriter
from mt0_tpu.errors import UserError
from mt0_tpu.tasks import task_check
from mt0_tpu.tasks.task_check import FOUND, CheckOptions, check
from seqio_tasks import megatron, sources, task_facts
from tests.seqio_tasks.evaluation_folders import copa_row, write_copa_prompts, write_rows

VOCABULARY = seqio.ByteVocabulary()
PAIR = {name: seqio.Feature(VOCABULARY) for name in ("inputs", "targets")}
RANK = {"inputs": seqio.Feature(VOCABULARY), "choices": seqio.Feature(VOCABULARY, rank=2)}
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "nrlsmt"]
_numbers = itertools.count()


def texts(count, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) for _ in range(25)) for _ in range(count)]


def training_rows(seed, planted=()):
    rows = [{"inputs": text, "targets": "yes"} for text in texts(300, seed)]
    return rows + [{"inputs": f"Consider this. {text}", "targets": "no"} for text in planted]


def evaluation_rows():
    for text in texts(40, "evaluation"):
        inputs = f"{text}\nWhich of the two endings is the better one, the first or the second?"
        yield {"inputs": inputs, "choices": ["the first", "the second"], "answer": 0, "prompt": "p"}


def add(source, features, name=None, preprocessors=(seqio.preprocessors.tokenize,), **facts):
    name = name or f"check_test_{next(_numbers)}"
    seqio.TaskRegistry.add(
        name, source=source, preprocessors=list(preprocessors), output_features=features
    )
    if facts:
        task_facts.register_facts(name, **facts)
    return name


@pytest.fixture
def evaluation():
    name = add(sources.PythonDataSource({"validation": evaluation_rows}), RANK)
    yield name
    seqio.TaskRegistry.remove(name)


def training(*tasks, planted=(), **facts):
    make = functools.partial(training_rows, next(_numbers), planted)
    return add(sources.PythonDataSource({"train": make}), PAIR, **facts)


def run(name, **options):
    said = []
    code = check(name, None, CheckOptions(**options), said.append)
    return code, said


def test_a_clean_mixture(evaluation, tmp_path):
    a, b = training(), training(dataset="glue", config="mrpc", source_split="train")
    seqio.MixtureRegistry.add(f"{a}_mixture", [(a, 1.0), (b, 1.0)])
    path = tmp_path / "found.json"
    code, said = run(f"{a}_mixture", against=(evaluation,), json_file=str(path))
    assert code == 0
    assert said[0].startswith("by name: nothing known against the 2 tasks")
    assert said[1].startswith("by text: 0 of 40 evaluation examples (0%) share a passage")
    found = json.loads(path.read_text())
    assert found["found"] is False and found["by_text"]["read"] == {a: 300, b: 300}


def test_planted_examples_and_known_names_are_found(evaluation, tmp_path):
    planted = texts(40, "evaluation")[5:12]
    a = training(planted=planted)
    b = training(dataset="facebook/flores", source_split="dev", cluster="translation")
    seqio.MixtureRegistry.add(f"{a}_mixture", [(a, 1.0), (b, 1.0)])
    path = tmp_path / "found.json"
    code, said = run(f"{a}_mixture", against=(evaluation,), json_file=str(path))
    assert code == FOUND == 3
    text = "\n".join(said)
    assert said[0] == f"by name: 1 task of 2 of '{a}_mixture'"
    assert "xmtf, issue 22" in text and "by text: 7 of 40" in text
    assert f"── {evaluation} in {a}" in text
    found = json.loads(path.read_text())
    assert [finding["dataset"] for finding in found["by_name"]] == ["facebook/flores"]
    (one,) = found["by_text"]["evaluations"]
    assert (one["touched"], one["touched_by_window"], one["weak"]) == (7, 7, 0)
    (pair,) = one["training"]
    assert pair["task"] == a and pair["training_examples"] == 7 == pair["evaluation_examples"]
    assert pair["samples"][0]["training"].startswith("Consider this.")


def test_files_and_samples(evaluation, tmp_path):
    planted = texts(40, "evaluation")
    name = training(planted=planted)
    file = tmp_path / "held_out.jsonl"
    file.write_text("".join(json.dumps({"premise": text}) + "\n" for text in planted[:4]))
    code, said = run(name, against=(str(file), evaluation), num_examples=None)
    assert code == FOUND and "44 of 44" in said[1] and "all 340 training" in said[1]
    _, said = run(name, against=(str(file),), num_examples=30)
    assert "a sample of 30 training examples" in said[1]
    assert said == run(name, against=(str(file),), num_examples=30)[1]


def test_progress_by_examples_and_by_bytes(evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr(task_check, "_EVERY_S", 0.0)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in training_rows(0) * 3))
    name = add(sources.JsonlDataSource({"train": str(file)}), PAIR)
    _, said = run(name, against=(evaluation,), num_examples=900)
    assert any(line.startswith("check: 768 of 900 training examples, task 1 of 1") for line in said)
    _, said = run(name, against=(evaluation,), num_examples=None)
    assert any(line.startswith("check: 512 training") and "left" in line for line in said)


def test_files_that_are_not_at_hand_are_said(evaluation, tmp_path):
    file = tmp_path / "xp3_facebook_flores_eng_Latn-twi_Latn_dev_in.jsonl"
    missing = add(sources.JsonlDataSource({"train": str(file)}), PAIR)
    here = training()
    seqio.MixtureRegistry.add(f"{here}_missing", [(missing, 1.0), (here, 1.0)])
    code, said = run(f"{here}_missing", against=(evaluation,))
    assert code == 0
    assert said[2] == f"not read, as their files are not at hand: 1 task ({missing})"
    file.write_text('{"inputs": "a", "targets": "b"}\n')
    code, said = run(f"{here}_missing", against=(evaluation,))
    assert code == FOUND and "facebook/flores dev" in said[2]


def test_training_on_an_evaluation_task_is_said(evaluation):
    code, said = run(evaluation, split="validation", against=(evaluation,))
    assert code == FOUND
    assert any("evaluation task by rank is itself part of the mixture" in line for line in said)
    assert any("40 of 40 evaluation examples (100%)" in line for line in said)


def test_which_evaluations_are_at_hand(evaluation):
    import seqio_tasks

    seqio_tasks.load()
    mini = types.SimpleNamespace(name="mini_translation_sw")
    other = types.SimpleNamespace(name="mine")
    assert task_check._evaluations_at_hand([mini]) == ["mini_eval"]
    found = task_check._evaluations_at_hand([mini, other])
    assert evaluation in found and not any(name.startswith("mini_") for name in found)
    own = types.SimpleNamespace(name=evaluation)
    assert evaluation not in task_check._evaluations_at_hand([own, other])


def test_the_papers_evaluation_is_looked_for_where_it_is_at_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("MT0_EVAL_DIR", str(tmp_path / "rows"))
    monkeypatch.setenv("MT0_PROMPTS_DIR", str(tmp_path / "prompts"))
    premises = texts(20, "xcopa")
    rows = [copa_row(number, premise=text) for number, text in enumerate(premises)]
    write_rows(tmp_path / "rows" / "xcopa" / "sw" / "val.sw.jsonl", rows)
    (tmp_path / "prompts").mkdir()
    said = []
    kept = {n: t for n, t in seqio.TaskRegistry._REGISTRY.items() if not n.startswith("eval_")}
    monkeypatch.setattr(seqio.TaskRegistry, "_REGISTRY", kept)
    other = types.SimpleNamespace(name="mine")
    assert "eval_xcopa_sw" not in task_check._evaluations_at_hand([other], said.append)
    assert said[0].startswith("check: the paper's evaluation is left out: ")
    write_copa_prompts(tmp_path / "prompts")
    assert "eval_xcopa_sw" in task_check._evaluations_at_hand([other], said.append)
    code, said = run(training(planted=premises[:3]))
    assert code == FOUND
    assert any(line.startswith("eval_xcopa_sw") and " 15 " in line for line in said)


def test_without_evaluations_names_alone_are_looked_at(monkeypatch):
    monkeypatch.setattr(task_check, "_evaluations_at_hand", lambda *_: [])
    code, said = run(training())
    assert code == 0 and "name one, or a .jsonl file of its examples, with --against" in said[1]


def test_megatron_files_need_a_vocabulary(evaluation, tmp_path):
    prefixes = {}
    # A tokenizer.json of single letters.
    letters = {chr(i): i for i in range(33, 127)} | {"Ġ": 200, "Ċ": 201}
    ids = {**letters, " ": 200, "\n": 201}
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(json.dumps({"model": {"vocab": letters}}))
    for feature in ("inputs", "targets"):
        prefixes[feature] = tmp_path / f"xp3_en_{feature}_document"
        with IndexedWriter(prefixes[feature], np.int32) as writer:
            for row in training_rows(1, texts(40, "evaluation")[:3]):
                writer.add(np.array([ids[letter] for letter in row[feature]]))
    vocabulary = seqio.PassThroughVocabulary(250_680, eos_id=2)
    features = {f: seqio.Feature(vocabulary, add_eos=False) for f in ("inputs", "targets")}
    name = add(megatron.MegatronPairs({"train": prefixes}), features, preprocessors=())
    code, said = run(name, against=(evaluation,))
    assert code == 0 and said[2] == f"not read, as their token ids need --vocabulary: {name}"
    code, said = run(name, against=(evaluation,), vocabulary=str(tokenizer))
    assert code == FOUND and "3 of 40" in said[1]
    with pytest.raises(UserError, match="neither a tokenizer.json nor a SentencePiece model"):
        run(name, against=(evaluation,), vocabulary=str(tmp_path / "x.model"))


def test_samples_are_shown_around_the_passage():
    text = "word " * 100 + "The man turned-on the FAUCET. " + "more " * 100
    shown = task_check._cut(text, "the man turned on the faucet")
    assert "The man turned-on the FAUCET." in shown and len(shown) <= 160
    assert shown.startswith("…") and shown.endswith("…")
    assert task_check._cut("short\n text", "nowhere") == "short text"


def test_bad_words(evaluation, capsys):
    name = training()
    with pytest.raises(UserError, match="no split 'trian'.*Did you mean 'train'"):
        run(name, split="trian")
    with pytest.raises(UserError, match="no SeqIO mixture or task is named 'nothing'"):
        run(name, against=("nothing",))
    assert cli.main(["tasks", "check", name, "--num_examples", "0"]) == 2
    assert "--num_examples is 0; write at least 1, or --full" in capsys.readouterr().err


def test_the_command_gives_the_code(evaluation, capsys):
    clean, dirty = training(), training(planted=texts(40, "evaluation"))
    assert cli.main(["tasks", "check", clean, "--against", evaluation]) == 0
    assert cli.main(["tasks", "check", dirty, "--against", evaluation, "--full"]) == FOUND
    assert "40 of 40" in capsys.readouterr().out


def test_xcopa_planted_among_tatoeba(shared, tmp_path):
    """Rendered by one template, evaluated by another; the parallel sentences are alike in kind."""
    tatoeba = []
    for english in sorted((shared / "data" / "tatoeba").glob("tatoeba.*-eng.eng")):
        language = english.name.split(".")[1].removesuffix("-eng")
        other = english.with_name(english.name.removesuffix("eng") + language)
        lines = zip(other.read_text().splitlines(), english.read_text().splitlines(), strict=True)
        tatoeba += [{"inputs": f"In English: {a}", "targets": b} for a, b in lines]
    items = []
    for language in ("id", "sw", "th", "zh", "qu"):
        file = shared / "data" / "xcopa" / language / f"val.{language}.jsonl"
        items += map(json.loads, file.read_text().splitlines())
    planted = [
        {"inputs": f"{item['premise']} Because... {item['choice1']} / {item['choice2']}",
         "targets": item["choice1"]}
        for item in items
    ]  # fmt: skip
    file = tmp_path / "xcopa.jsonl"
    template = "Sentence: {premise}\nWhat goes on from it?\n* {choice1}\n* {choice2}\n"
    file.write_text(
        "".join(json.dumps({"inputs": template.format(**item)}) + "\n" for item in items)
    )

    def read(rows):
        name = add(sources.PythonDataSource({"train": lambda: rows}, fingerprint="x"), PAIR)
        path = tmp_path / f"{name}.json"
        run(name, against=(str(file),), num_examples=None, json_file=str(path))
        (one,) = json.loads(path.read_text())["by_text"]["evaluations"]
        return one["touched"], sum(t["training_examples"] for t in one["training"])

    assert len(planted) == 500
    false_evaluation, false_training = read(tatoeba)
    assert false_evaluation <= 2 and false_training <= 2  # of 14,760
    touched, matched = read(tatoeba + planted)
    assert touched >= 470 and matched >= 470


@pytest.mark.slow
def test_mini_shares_short_lists_of_names_with_its_evaluation_and_no_window(tmp_path):
    path = tmp_path / "mini.json"
    run("mini_multilingual", num_examples=None, json_file=str(path))
    found = json.loads(path.read_text())
    assert found["by_name"] == []
    evaluations = found["by_text"]["evaluations"]
    assert sum(one["touched_by_window"] for one in evaluations) == 0
    size = sum(one["examples"] for one in evaluations)
    assert sum(one["touched"] for one in evaluations) < 0.01 * size
