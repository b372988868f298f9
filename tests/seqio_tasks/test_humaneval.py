"""HumanEval as a task, on the published problems and on some of our own."""

import gzip
import json
import random

import numpy as np
import pytest
import seqio

from seqio_tasks import code_execution, humaneval, task_facts, vocabularies
from seqio_tasks.code_metrics import judged

can_isolate = pytest.mark.skipif(
    code_execution.missing_walls() != (), reason="this machine cannot isolate programs"
)
PROBLEMS = [
    {
        "task_id": f"Test/{number}",
        "prompt": f'def times(x):\n    """{number} times x."""\n',
        "canonical_solution": f"    return {number} * x\n",
        "test": f"def check(candidate):\n    assert candidate(3) == {3 * number}\n",
        "entry_point": "times",
    }
    for number in (2, 3)
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "HumanEval.jsonl.gz"
    with gzip.open(path, "wt") as lines:
        lines.writelines(json.dumps(problem) + "\n" for problem in PROBLEMS)
    return str(path)


@pytest.fixture
def registered():
    before = set(seqio.TaskRegistry.names())
    yield
    for name in set(seqio.TaskRegistry.names()) - before:
        seqio.TaskRegistry.remove(name)


@pytest.mark.parametrize(
    "completion, kept",
    [
        ("    return 1\n\n\ndef other():\n    pass", "    return 1\n\n"),
        ("    return 1\nprint(2)\nclass A:", "    return 1"),
        ("    if x:\n        return 1\n    # why\n", "    if x:\n        return 1\n    # why\n"),
        ("    return 1\n# done", "    return 1"),
        ("    return 1\nif __name__", "    return 1"),
        ("", ""),
    ],
)
def test_a_completion_is_cut_where_published(completion, kept):
    assert humaneval.truncate(completion) == kept


def test_the_task(file, registered):
    task = humaneval.add_humaneval_task("eval_own_code", file, vocabularies.byt5())
    first = next(task.get_dataset(None, "test", shuffle=False).as_numpy_iterator())
    decoded = task.output_features["inputs"].vocabulary.decode(first["inputs"].tolist())
    assert decoded == PROBLEMS[0]["prompt"]  # every line break and blank, and no EOS
    assert first["inputs"][-1] != 1
    facts = task_facts.facts("eval_own_code")
    assert facts["executes_code"] is True and facts["decode"]["num_decodes"] == 20
    with pytest.raises(ValueError, match="There is a task 'eval_own_code' already"):
        humaneval.add_humaneval_task("eval_own_code", file, vocabularies.byt5())


@can_isolate
@pytest.mark.parametrize("num_samples", [1, 2])
def test_seqios_metric_runs_the_samples(file, registered, num_samples):
    vocabulary = vocabularies.byt5()
    task = humaneval.add_humaneval_task("eval_own_code", file, vocabulary, ks=(1, 2))
    examples = list(task.get_dataset(None, "test", shuffle=False).as_numpy_iterator())
    # The right answer to the first problem, with more behind it; then wrong ones.
    texts = [["    return 2 * x\n\ndef more(:", "    return 0"], ["    return 2", "    return"]]
    ids = np.zeros((2, num_samples, 40), np.int32)
    for number, samples in enumerate(texts):
        for at, text in enumerate(samples[:num_samples]):
            encoded = vocabulary.encode(text)
            ids[number, at, : len(encoded)] = encoded
    (metric,) = task.metric_objs
    output = ids if num_samples > 1 else ids[:, 0]
    instance = metric.from_model_output(examples, output, task.output_features, "targets")
    with pytest.raises(ValueError, match="off until it is asked for"):
        instance.actual_compute(examples, task.output_features)
    with code_execution.allowed():
        found, told = instance.actual_compute(examples, task.output_features)
    assert found == ({"pass@1": 0.5} if num_samples == 1 else {"pass@1": 0.25, "pass@2": 0.5})
    assert told["prediction"][0][0] == "    return 2 * x\n"
    assert told["targets"][1]["task_id"] == "Test/3"


def test_problems_that_are_none(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({**PROBLEMS[0], "test": None}) + "\n")
    with pytest.raises(ValueError, match="problem 1 lacks test; write the fields task_id, prompt"):
        list(humaneval.examples(str(path)))
    path.write_text((json.dumps(PROBLEMS[0]) + "\n") * 2)
    with pytest.raises(ValueError, match="has 'Test/2' twice"):
        list(humaneval.examples(str(path)))
    with pytest.raises(ValueError, match="there is no file"):
        list(humaneval.examples(str(tmp_path / "none.jsonl")))


def test_the_file_is_found(file, tmp_path, monkeypatch):
    monkeypatch.setenv("MT0_EVAL_DIR", str(tmp_path))
    assert [one["task_id"] for one in humaneval.examples()] == ["Test/2", "Test/3"]
    (tmp_path / "humaneval").mkdir()
    (tmp_path / "humaneval" / "HumanEval.jsonl").write_text(json.dumps(PROBLEMS[1]))
    with pytest.raises(ValueError, match="2 files could be its problems"):
        humaneval.find()
    monkeypatch.setenv("MT0_EVAL_DIR", str(tmp_path / "humaneval"))
    assert [one["task_id"] for one in humaneval.examples()] == ["Test/3"]


def test_ensure(registered, file, monkeypatch):
    made = []
    monkeypatch.setattr(humaneval, "add_humaneval_task", lambda: made.append(humaneval.NAME))
    assert humaneval.ensure("eval_humaneval") and made == ["eval_humaneval"]
    assert not humaneval.ensure("eval_xcopa_sw")


def published(shared):
    return list(humaneval.examples(str(shared / "data/humaneval/HumanEval.jsonl.gz")))


def outcomes(examples, completions):
    targets = [
        humaneval.postprocess("", {**one, "inputs_pretokenized": one["inputs"]}, is_target=True)
        for one in examples
    ]
    with code_execution.allowed():
        found = judged(targets, completions)
    return {name: outcome for name, (outcome,) in found.items()}


@can_isolate
def test_all_164_canonical_solutions_pass(shared):
    examples = published(shared)
    found = outcomes(examples, [one["targets"] for one in examples])
    assert len(found) == 164
    assert [name for name, outcome in found.items() if not outcome.passed] == []


@can_isolate
def test_none_of_164_wrong_ones_passes(shared):
    examples = published(shared)
    choice = random.Random(0)
    wrong = [
        "    pass\n", "    return None\n", "    return (\n", "", "    raise SystemExit\n",
        "    import sys\n    sys.exit(0)\n", "    import os\n    os._exit(0)\n",
        "    return object()\n",
    ]  # fmt: skip
    found = outcomes(examples, [choice.choice(wrong) for _ in examples])
    assert [name for name, outcome in found.items() if outcome.passed] == []
    # The solution of the next problem is wrong as well.
    turned = [one["targets"] for one in examples[1:] + examples[:1]]
    passed = [name for name, outcome in outcomes(examples, turned).items() if outcome.passed]
    assert passed == []


@can_isolate
def test_solutions_survive_the_cut(shared):
    """What is cut off a canonical solution with a further function behind it is only that."""
    examples = published(shared)
    more = [one["targets"] + "\n\ndef check(candidate):\n    pass\n" for one in examples]
    cut = humaneval.postprocess(more)
    assert [one.rstrip() for one in cut] == [one["targets"].rstrip() for one in examples]
