"""Cached rank tasks: what their examples say of themselves, and what cannot be ranked."""

import json

import numpy as np
import pytest

from mt0_tpu.data.indexed import IndexedWriter
from mt0_tpu.data.sources import INFO_VERSION, mixture_file
from mt0_tpu.errors import UserError
from mt0_tpu.rank_tasks import open_rank_tasks
from tests.seqio_tasks.evaluation_folders import write_copa_prompts, write_rows

TASK = "eval_xcopa_sw"
TWO = [([5, 6], [[7], [8, 9]])]


def write_cache(root, examples, name=TASK, mixture=None, choices_eos=True, **fields):
    """A cached rank task of (inputs, choices); the first choice is right."""
    folder = root / name / "validation"
    folder.mkdir(parents=True)
    with IndexedWriter(folder / "inputs_document", np.uint16) as writer:
        for inputs, _ in examples:
            writer.add(np.array(inputs))
    with IndexedWriter(folder / "choices_document", np.uint16) as writer:
        for _, choices in examples:
            for choice in choices:
                writer.add(np.array(choice), end_document=False)
            writer.end_document()
    np.save(folder / "answers.npy", np.zeros(len(examples), np.int32))
    meta = {"prompt": "p", "cluster": "c", "language": "sw", "held_out_cluster": True,
            "seen_language": True, **fields}  # fmt: skip
    (folder / "meta.jsonl").write_text((json.dumps(meta) + "\n") * len(examples))
    info = {
        "version": INFO_VERSION, "kind": "rank", "num_examples": len(examples), "fingerprint": {},
        "features": {f: {"eos_id": 1, "add_eos": True} for f in ("inputs", "choices")},
        "append_eos": {"inputs": False, "choices": choices_eos}, "eos_after_trim": True,
    }  # fmt: skip
    (folder / "info.json").write_text(json.dumps(info))
    mixture = mixture or name
    tasks = [{"name": name, "rate": 1.0, "splits": ["validation"]}]
    content = {"name": mixture, "tasks": tasks, "definition_files": {}, "module": None}
    mixture_file(root, mixture).write_text(json.dumps(content))


def opened(root, name=TASK, say=print, **options):
    arguments = {"split": None, "module": None, "use_cached": None, "num_examples": None}
    return open_rank_tasks(name, str(root), say=say, **(arguments | options))


def test_examples_say_what_they_count_towards(tmp_path):
    write_cache(tmp_path, TWO, dataset="super_glue/rte", prompt_language="MT")
    (task,) = opened(tmp_path)
    (belonging,) = task.belongings
    assert (belonging.dataset, belonging.prompt_language) == ("super_glue/rte", "MT")
    write_cache(tmp_path, TWO, name="other")
    (belonging,) = opened(tmp_path, "other")[0].belongings
    assert (belonging.dataset, belonging.prompt_language) == ("c", "")


def test_whether_inputs_end_in_eos_is_decided_when_scoring(tmp_path):
    write_cache(tmp_path, TWO)
    ids = {eos: opened(tmp_path, inputs_eos=eos)[0].examples[0][0] for eos in (None, False, True)}
    assert [ids[eos].tolist() for eos in (None, False, True)] == [[5, 6], [5, 6], [5, 6, 1]]
    assert [choice.tolist() for choice in opened(tmp_path)[0].examples[0][1]] == [[7, 1], [8, 9, 1]]


@pytest.mark.parametrize(
    "examples, choices_eos, said",
    [
        ([*TWO, ([5], [[6]])], True, "example 1 has 1 choice: there is nothing to rank"),
        ([*TWO, ([5], [])], True, "example 1 has 0 choice"),
        ([([5], [[], [6]])], False, "example 0 has an empty choice"),
    ],
)
def test_what_cannot_be_ranked(tmp_path, examples, choices_eos, said):
    write_cache(tmp_path, examples, choices_eos=choices_eos)
    with pytest.raises(UserError, match=f"task '{TASK}', {said}"):
        opened(tmp_path)


def test_what_is_at_hand_is_asked_again(tmp_path, monkeypatch):
    cache, name, said = tmp_path / "cache", "mt0_eval_at_hand", []
    monkeypatch.setenv("MT0_EVAL_DIR", str(tmp_path / "rows"))
    monkeypatch.setenv("MT0_PROMPTS_DIR", str(tmp_path / "prompts"))
    write_cache(cache, TWO, mixture=name)
    assert len(opened(cache, name)) == 1  # neither rows nor prompts here: the cache serves
    write_copa_prompts(tmp_path / "prompts")
    write_rows(tmp_path / "rows" / "xcopa" / "sw" / "validation.jsonl", 1)
    assert len(opened(cache, name)) == 1 and mixture_file(cache, name).is_file()
    write_rows(tmp_path / "rows" / "xcopa" / "id" / "validation.jsonl", 1)
    assert len(opened(cache, name, use_cached=True)) == 1

    def stop(*arguments):
        raise UserError("cached again")

    monkeypatch.setattr("mt0_tpu.data.cache.ensure_cached", stop)
    with pytest.raises(UserError, match="cached again"):
        opened(cache, name, say=said.append)
    assert said == ["eval: 'mt0_eval_at_hand' has 2 tasks by now, and 1 in the cache"]
    assert not mixture_file(cache, name).exists()
