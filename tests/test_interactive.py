"""The prompt: at a pipe by the command itself, and its answers against infer's."""

import io
import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import checkpoints, infer, interactive, scoring
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.train_state import TrainState
from tests.conftest import REPOSITORY
from tests.tiny import TINY, load_params

LENGTHS = {"inputs": 24, "targets": 6}
TEXTS = ["abc", "今日は", "a longer line than the row is wide"]


@pytest.fixture(scope="module")
def params(golden):
    return load_params(golden)


def answers(params, lines, **changes):
    output = io.StringIO()
    settings = {"model": TINY, "checkpoint_path": "in memory", "task_feature_lengths": LENGTHS,
                "vocabulary": "byt5", "params": params, "output": output}  # fmt: skip
    interactive.interact(**(settings | {"lines": [f"{one}\n" for one in lines]} | changes))
    return output.getvalue().split("\n")[:-1]


def byte_ids(text, length):
    return [*(byte + 3 for byte in text.encode())][: length - 1] + [1]


def test_it_answers_as_infer_does(params, tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"inputs": text}) + "\n" for text in TEXTS))
    summary = infer.infer(
        str(tmp_path / "out"), TINY, "in memory", str(path), LENGTHS, "byt5", params=params,
        batch_size=8,
    )  # fmt: skip
    with open(summary.path, encoding="utf-8") as file:
        wanted = [json.loads(line)["prediction"] for line in file]
    said = answers(params, [TEXTS[0], "", TEXTS[1], TEXTS[2]])
    assert said == [*wanted, "(the input was longer than 24 tokens and was cut)"]


def test_choices_are_ranked_until_they_end(params):
    said = answers(params, ["choices: yes | no | a", "abc", "Choices:", "abc"])
    scores = scoring.score_choices(
        params, TINY, [(byte_ids("abc", 24), [byte_ids(c, 6) for c in ("yes", "no", "a")])]
    )[0]
    names = [("yes", "no", "a")[at] for at in np.argsort(-scores)]
    assert [line.split()[1] for line in said[:3]] == names
    assert float(said[0].split()[0]) == pytest.approx(scores.max(), abs=2e-3)
    assert len(said) == 4


def test_a_mistake_does_not_end_it(params, capsys):
    said = answers(params, ["choices: one", "choices: a || b", "abc"])
    errors = capsys.readouterr().err
    assert "ranking compares two or more" in errors and "choice 1 is empty" in errors
    assert len(said) == 1


def test_refused_choices_leave_those_before(params):
    kept = answers(params, ["choices: yes | no", "choices: one", "abc"])
    assert len(kept) == 2 and kept == answers(params, ["choices: yes | no", "abc"])


def test_all_decodes_with_their_scores(params):
    said = answers(params, ["abc"], decode=DecodeConfig(method="beam", num_decodes=3))
    scores = [float(line.split()[0]) for line in said]
    assert len(said) == 3 and scores == sorted(scores, reverse=True)


def test_a_vocabulary_is_needed(params):
    with pytest.raises(UserError, match="VOCABULARY is not set"):
        answers(params, [], vocabulary=None)


def test_lines_from_a_pipe(params, tmp_path):
    checkpointer = checkpoints.Checkpointer(str(tmp_path / "run"), checkpoints.CheckpointConfig())
    checkpointer.save(TrainState(jnp.int32(3), params, {"x": jnp.zeros(2)}), {})
    checkpointer.close()
    (tmp_path / "tiny.gin").write_text(
        "include 'models/mt5/tiny.gin'\ninclude 'runs/infer.gin'\n"
        + "".join(
            f"network.T5Config.{name} = {getattr(TINY, name)!r}\n"
            for name in ("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim",
                         "num_encoder_layers", "num_decoder_layers", "dtype")
        )
    )  # fmt: skip
    command = [
        sys.executable, "-m", "mt0_tpu", "infer", "--interactive",
        f"--gin_file={tmp_path}/tiny.gin",
        f"--gin.CHECKPOINT_PATH='{tmp_path}/run'", "--gin.VOCABULARY='byt5'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 24, 'targets': 6}",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=REPOSITORY, input="abc\nchoices: yes | no\nabc\n", capture_output=True,
        text=True, env={**os.environ, "XLA_FLAGS": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *ranked = done.stdout.split("\n")[:-1]
    assert [first] == answers(params, ["abc"])
    assert sorted(line.split()[1] for line in ranked) == ["no", "yes"]
    assert not list(tmp_path.glob("out*"))
