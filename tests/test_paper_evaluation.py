"""The paper's evaluation end to end: rows and prompts in files, a network, a table."""

import dataclasses
import json
import re

import seqio

import seqio_tasks
from mt0_tpu import evaluate
from seqio_tasks import vocabularies
from tests.seqio_tasks.evaluation_folders import RTE, write_copa_prompts, write_prompts, write_rows
from tests.tiny import TINY


def test_from_files_to_scores_beside_the_published(tmp_path, monkeypatch, capsys):
    seqio_tasks.load()  # mini-xP3's stay registered, the paper's are forgotten again
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
        monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setenv("MT0_EVAL_DIR", str(tmp_path / "rows"))
    monkeypatch.setenv("MT0_PROMPTS_DIR", str(tmp_path / "prompts"))
    monkeypatch.setenv("MT0_VOCABULARY", str(vocabularies.MINI_PATH))
    write_copa_prompts(tmp_path / "prompts")
    jinja = "{{ premise }} So {{ hypothesis }}? ||| {{ answer_choices[label] }}"
    write_prompts(tmp_path / "prompts", "super_glue/rte", RTE, jinja, "Yes ||| No")
    write_rows(tmp_path / "rows" / "xcopa" / "sw" / "val.sw.jsonl", 4)
    write_rows(tmp_path / "rows" / "xcopa" / "et" / "val.et.jsonl", 2)
    row = {"premise": "p", "hypothesis": "h", "label": "entailment"}
    rows = [{**row, "idx": number} for number in range(3)]
    write_rows(tmp_path / "rows" / "SuperGLUE" / "RTE" / "val.jsonl", rows)

    summary = evaluate.evaluate(
        eval_output_dir=str(tmp_path / "eval"),
        model=dataclasses.replace(TINY, vocab_size=4096),
        mixture_or_task_name="mt0_eval_at_hand",
        cache_dir=str(tmp_path / "cache"),
        task_feature_lengths={"inputs": 512},
        untrained=True,
    )

    lines = [json.loads(line) for line in (tmp_path / "eval" / "rank.jsonl").open()]
    assert len(lines) == 15 and {line["num_examples"] for line in lines} == {2, 3, 4}
    sw = [line for line in lines if line["task"] == "eval_xcopa_sw"]
    assert {line["dataset"] for line in sw} == {"xcopa"} and sw[0]["seen_language"]
    scores = {(s["dataset"], s["languages"]): s for s in summary["datasets"]}
    assert scores["xcopa", "L1"]["tasks"] == ["eval_xcopa_sw"]
    assert scores["xcopa", "L2"]["chance"] == 0.5
    # Half of the answers are the first, half the second; of RTE all are the first.
    assert (scores["xcopa", "all"]["majority"], scores["super_glue/rte", "all"]["majority"]) == (
        0.5, 1.0,
    )  # fmt: skip
    assert scores["super_glue/rte", "all"]["median"] in (0.0, 1.0)
    said = capsys.readouterr().out
    # Beside the Swahili score stands the Swahili score of mT0-300M.
    head = next(line for line in said.splitlines() if line.startswith("data set"))
    column = re.split(r"\s+", head).index("mT0-300M") + 1  # the row's name has a word more
    (found,) = (line.split() for line in said.splitlines() if line.startswith("xcopa L1 (1)"))
    assert found[column] == "50.0"
