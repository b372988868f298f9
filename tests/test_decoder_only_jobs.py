"""BLOOM through the jobs: its tokenizer, BLOOMZ's text rules, and nothing but its gin file."""

import dataclasses
import io
import json

import numpy as np
import pytest

from mt0_tpu import cli, evaluate, infer, interactive, scoring
from mt0_tpu.errors import UserError
from mt0_tpu.models.config import BloomConfig
from mt0_tpu.predict import predict
from mt0_tpu.text_vocabulary import open_vocabulary
from tests import byte_level, tiny_run
from tests.test_infer_eval import quiz, read, write_quiz
from tests.tiny_bloom import TINY_BLOOM, load_params

LENGTHS = {"inputs": 24, "targets": 6}
ASKED = "Mji mkuu wa Tanzania ni upi?"
CHOICES = ["Dodoma.", "Ja", "nein"]


@pytest.fixture(scope="module")
def params(golden):
    return load_params(golden)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(byte_level.write(tmp_path_factory.mktemp("bloom")))


@pytest.fixture
def answered(params, tokenizer, tmp_path):
    """Runs infer on one line and returns what it wrote."""

    def run(mode, **fields):
        inputs = tmp_path / f"{'-'.join(['asked', *fields])}.jsonl"
        inputs.write_text(json.dumps({"inputs": ASKED, **fields}) + "\n")
        summary = infer.infer(
            str(tmp_path / "out"), TINY_BLOOM, "in memory", str(inputs), LENGTHS, tokenizer,
            params=params, batch_size=8, mode=mode,
        )  # fmt: skip
        return read(summary.path)[0]

    return run


def test_infer_goes_by_the_rules_of_bloomz(answered, params, tokenizer):
    words = open_vocabulary(tokenizer)
    ids = words.encode(ASKED)
    (found,) = predict(params, TINY_BLOOM, [ids], max_decode_len=6, batch_size=8, eos_id=2)
    assert answered("predict")["prediction"] == words.decode(found.ids[0])
    # A blank before each choice, no EOS after it; a target does end with EOS.
    choices = [words.encode(f" {choice}") for choice in CHOICES]
    scored = [*choices, [*choices[1], 2]]
    (wanted,) = scoring.score_choices(params, TINY_BLOOM, [(ids, scored)])
    np.testing.assert_allclose(answered("score", choices=CHOICES)["scores"], wanted[:3], atol=1e-4)
    assert answered("score", targets="Ja")["score"] == pytest.approx(wanted[3], abs=1e-4)
    with pytest.raises(UserError, match=r"line 1.*has no tokens; leave the line out"):
        answered("predict", inputs="")


def test_a_prompt_answers_and_ranks_as_infer_does(answered, params, tokenizer):
    output = io.StringIO()
    interactive.interact(
        TINY_BLOOM, "in memory", LENGTHS, tokenizer, params=params, output=output,
        lines=[f"{ASKED}\n", f"choices: {' | '.join(CHOICES)}\n", f"{ASKED}\n"],
    )  # fmt: skip
    first, *ranked = output.getvalue().split("\n")[:-1]
    assert first == answered("predict")["prediction"]
    scores = answered("score", choices=CHOICES)["scores"]
    order = sorted(range(3), key=lambda at: -scores[at])
    assert ranked == [f"{scores[at]:9.3f}  {CHOICES[at]}" for at in order]


@pytest.fixture
def cache(tmp_path):
    """A rank task cached as for BLOOM: EOS 2, and choices that do not end with it."""
    (tmp_path / "cache").mkdir()
    write_quiz(tmp_path / "cache")
    path = tmp_path / "cache" / "quiz_en" / "validation" / "info.json"
    info = json.loads(path.read_text())
    info["append_eos"]["choices"] = False
    for feature in info["features"].values():
        feature["eos_id"] = 2
    path.write_text(json.dumps(info))
    return tmp_path / "cache"


def test_rank_tasks_are_evaluated(params, cache, tmp_path):
    evaluate.evaluate(
        str(tmp_path / "eval"), TINY_BLOOM, "in memory", "quiz", cache_dir=str(cache), params=params
    )
    lines = read(tmp_path / "eval" / "inference_eval" / "quiz_en-000000.jsonl")
    examples = [(line["inputs"], line["choices"]) for line in lines]
    assert {len(choice) for _, choices in examples for choice in choices} == {2}
    wanted = scoring.score_choices(params, TINY_BLOOM, examples)
    np.testing.assert_allclose([line["scores"] for line in lines], wanted, atol=1e-4)


def test_the_model_s_gin_file_is_all_that_changes(cache, tmp_path, capsys):
    places = {"EVAL_OUTPUT_DIR": tmp_path / "eval", "evaluate.cache_dir": cache}
    quoted = [f"--gin.{name}='{path}'" for name, path in places.items()]
    done = cli.main(
        ["eval", "--gin_file=models/bloom/mini.gin", "--gin_file=runs/eval.gin",
         "--gin.MIXTURE_OR_TASK_NAME='quiz'", "--gin.CHECKPOINT_PATH=None",
         "--gin.evaluate.untrained=True", *quoted]
    )  # fmt: skip
    assert done == 0, capsys.readouterr().err
    lines = read(tmp_path / "eval" / "rank.jsonl")
    assert [(line["task"], line["prompt"]) for line in lines] == [
        ("quiz_en", "p0"),
        ("quiz_en", "p1"),
    ]


def test_training_is_evaluated_as_it_goes(cache, tmp_path):
    tiny_run.write_tiny_cache(cache)
    config = dataclasses.replace(TINY_BLOOM, emb_dim=16, num_heads=2, num_layers=1)
    tiny_run.run(
        tmp_path / "run", cache, 4, model=config, infer_eval_dataset=quiz(cache),
        infer_eval_period=2,
    )  # fmt: skip
    lines = read(tmp_path / "run" / "inference_eval" / "quiz_en-metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4]
    # The checkpoint that training left scores as the live parameters did.
    evaluate.evaluate(
        str(tmp_path / "eval"), config, str(tmp_path / "run"), "quiz", cache_dir=str(cache)
    )
    (again,) = read(tmp_path / "eval" / "inference_eval" / "quiz_en-metrics.jsonl")
    assert again == lines[1]


def test_published_scores_of_its_size_stand_beside_it():
    small = BloomConfig(vocab_size=250880, emb_dim=1024, num_heads=16, num_layers=24)
    assert evaluate.published_model(small) == "BLOOMZ-560M"
    assert evaluate.published_model(dataclasses.replace(small, num_layers=23)) is None
