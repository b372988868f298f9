"""Which tasks of a mixture are ranked and which answered, from the cache or through SeqIO."""

import dataclasses
import json

import pytest

from mt0_tpu import evaluate
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.eval_tasks import EvalData, open_eval_tasks, some, split_of
from tests.tiny import TINY

RANK, TEXT = "mini_eval_nli_sw", "mini_closed_book_qa_sw"


def test_both_kinds_at_once(tmp_path, capsys):
    model = dataclasses.replace(TINY, vocab_size=4096)
    summary = evaluate.evaluate(
        str(tmp_path / "eval"), model, untrained=True, mixture_or_task_name=f"{RANK}, {TEXT}",
        cache_dir=str(tmp_path / "cache"), num_examples=8, batch_size=8,
        task_feature_lengths={"inputs": 64, "targets": 8},
    )  # fmt: skip
    assert [group["cluster"] for group in summary["groups"]] == ["nli", "nli"]
    assert [score["dataset"] for score in summary["datasets"]] == ["nli", "nli"]
    assert summary["tasks"][TEXT].keys() == {"exact_match"}
    folder = tmp_path / "eval" / "inference_eval"
    for task in (RANK, TEXT):
        assert len((folder / f"{task}-000000.jsonl").read_text("utf-8").split("\n")) == 9
    said = capsys.readouterr()
    assert f"caching '{RANK}'" in said.err
    assert "exact_match" in said.out and "nli*" in said.out
    rank, text = open_eval_tasks(
        EvalData(f"{TEXT},{RANK}", cache_dir=str(tmp_path / "cache"), num_examples=3), True, print
    )
    assert [task.name for task in rank] == [RANK] and [task.name for task in text] == [TEXT]
    bare = EvalData(RANK, cache_dir=str(tmp_path / "cache"), num_examples=3, inputs_eos=False)
    ((without,), _) = open_eval_tasks(bare, True, print)
    for (ids, _), (fewer, _) in zip(rank[0].examples, without.examples, strict=True):
        assert ids.tolist() == [*fewer.tolist(), 1]
    assert "caching" not in capsys.readouterr().out
    with pytest.raises(UserError, match=f"evaluates '{TEXT}' more than once"):
        open_eval_tasks(EvalData(f"{TEXT},{TEXT}", num_examples=1), True, print)


def test_a_mixture_cached_for_training_is_still_answered(tmp_path):
    """Its cache holds pairs, so metrics are run through SeqIO."""
    folder = tmp_path / TEXT / "validation"
    folder.mkdir(parents=True)
    (folder / "info.json").write_text(json.dumps({"version": 1, "kind": "pairs"}))
    entry = {"name": TEXT, "rate": 1.0, "splits": ["validation"]}
    (tmp_path / f"{TEXT}.mixture.json").write_text(json.dumps({"name": TEXT, "tasks": [entry]}))
    data = EvalData(TEXT, cache_dir=str(tmp_path), num_examples=2, use_cached=True)
    rank, text = open_eval_tasks(data, True, print)
    assert not rank and len(text[0].examples) == 2


def test_splits_and_names():
    assert split_of(["train", "validation"], None) == "validation"
    assert split_of(["train", "dev"], None) == "train" and split_of(["dev"], None) == "dev"
    assert split_of(["train"], "test") is None and split_of([], None) is None
    assert some(list("abcdefg")) == "'a', 'b', 'c', 'd', 'e' and 2 more"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_examples": 0}, "num_examples is 0; write 1 or more"),
        ({"overlong": "cut"}, "write 'trim' or 'error'"),
        ({"inputs_eos": "no"}, "inputs_eos is 'no'; write True, False, or None"),
        ({"task_feature_lengths": {"inputs": 1}}, "at least 2 tokens each"),
    ],
)
def test_data_checks_itself(changes, message):
    with pytest.raises(UserError, match=message):
        EvalData("x", **changes)


def test_settings_name_what_decides_results():
    one = EvalData("x", decode=DecodeConfig(method="beam", num_decodes=4)).settings()
    assert one["decode"]["num_decodes"] == 4 and json.loads(json.dumps(one)) == one
    assert "cache_dir" not in one
    assert EvalData("x", inputs_eos=True).settings()["inputs_eos"] is True
