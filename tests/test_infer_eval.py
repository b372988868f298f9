"""Evaluation during training: what it writes, and that the run does not notice."""

import json
from pathlib import Path

import numpy as np
import pytest

from mt0_tpu import checkpoints, eval_follow, evaluate, infer_eval, run_folder
from mt0_tpu.checkpoints import CheckpointConfig
from mt0_tpu.errors import UserError
from tests import tiny_run
from tests.test_evaluate import write_task
from tests.test_train import record


def write_quiz(root: Path, mixture: str = "quiz") -> None:
    """A rank task of six random questions."""
    rng = np.random.default_rng(1)
    examples = [
        {
            "inputs": rng.integers(2, 500, 5).tolist(),
            "choices": [[*rng.integers(2, 500, 2).tolist(), 1] for _ in range(3)],
        }
        for _ in range(6)
    ]
    write_task(root, "quiz_en", examples, [0, 1, 2, 0, 1, 2])
    tasks = [{"name": "quiz_en", "rate": 1.0, "splits": ["validation"]}]
    content = {"name": mixture, "tasks": tasks, "definition_files": {}, "module": None}
    (root / f"{mixture}.mixture.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    tiny_run.write_tiny_cache(root)
    write_quiz(root)
    return root


def quiz(cache_dir, **changes):
    settings = {"mixture_or_task_name": "quiz", "split": "validation", "task_feature_lengths": None}
    return tiny_run.dataset(cache_dir, **(settings | changes))


def read(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def runs(cache_dir, tmp_path_factory):
    """The same run without and with evaluation every four steps."""
    root = tmp_path_factory.mktemp("runs")
    keep = CheckpointConfig(save_every_steps=3, keep_last=None)
    tiny_run.run(root / "without", cache_dir, 10, checkpoint=keep)
    tiny_run.run(
        root / "with", cache_dir, 10, checkpoint=keep, infer_eval_dataset=quiz(cache_dir),
        infer_eval_period=4, infer_eval_num_examples=5,
    )  # fmt: skip
    return root


def test_the_run_is_the_same_bit_for_bit(runs):
    import jax

    assert record(runs / "with") == record(runs / "without")
    for step in (3, 9, 10):
        one, other = (
            checkpoints.restore_params(
                str(runs / name / "checkpoints" / str(step)), tiny_run.ONE_LAYER
            )
            for name in ("with", "without")
        )
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_what_it_writes(runs, cache_dir, tmp_path):
    folder = runs / "with"
    lines = read(folder / "rank.jsonl")
    assert sorted({line["step"] for line in lines}) == [4, 8, 10]
    assert sum(line["num_examples"] for line in lines if line["step"] == 8) == 5
    metrics = read(folder / "inference_eval" / "quiz_en-metrics.jsonl")
    assert [line["step"] for line in metrics] == [4, 8, 10]
    assert list((folder / "inference_eval" / "quiz_en").glob("events.out.tfevents.*"))
    assert json.loads((folder / "summary.json").read_text())["step"] == 10
    # The live parameters of step 10 score as those of its checkpoint do.
    evaluate.evaluate(
        str(tmp_path / "eval"), tiny_run.ONE_LAYER, str(folder), "quiz",
        cache_dir=str(cache_dir), num_examples=5, batch_size=8,
    )  # fmt: skip
    name = "inference_eval/quiz_en-000010.jsonl"
    for one, other in zip(read(folder / name), read(tmp_path / "eval" / name), strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-5)


def test_a_run_says_where_it_will_stop(runs):
    assert eval_follow.final_step(runs / "with") == 10
    assert eval_follow.final_step(runs) is None


def test_resumed_it_evaluates_what_is_left(cache_dir, tmp_path):
    more = {"infer_eval_dataset": quiz(cache_dir), "infer_eval_period": 4}
    tiny_run.run(tmp_path / "run", cache_dir, 6, **more)
    tiny_run.run(tmp_path / "run", cache_dir, 8, **more)
    metrics = read(tmp_path / "run" / "inference_eval" / "quiz_en-metrics.jsonl")
    assert [line["step"] for line in metrics] == [4, 6, 8]
    assert eval_follow.final_step(tmp_path / "run") == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture_or_task_name": "quizz"}, "'quizz' is not cached.*use_cached is True"),
        ({"split": "test"}, "has no split 'test'"),
    ],
)
def test_refused_before_a_step(cache_dir, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        tiny_run.run(tmp_path / "run", cache_dir, 2, infer_eval_dataset=quiz(cache_dir, **changes))
    assert not run_folder.steps_of(tmp_path / "run")


def test_rows_need_lengths(cache_dir, tmp_path):
    with pytest.raises(UserError, match="task_feature_lengths is None, and rows have a length"):
        tiny_run.run(
            tmp_path / "run", cache_dir, 2,
            train_dataset=tiny_run.dataset(cache_dir, task_feature_lengths=None),
        )  # fmt: skip


def test_results_that_cannot_be_written_do_not_end_the_run():
    said = []
    evaluation = object.__new__(infer_eval.InferEval)
    evaluation._model_dir, evaluation._outputs, evaluation._say = "run", None, said.append

    class Full:
        def run(self, *unused, point):
            raise OSError(28, "No space left on device")

    evaluation._evaluator = Full()
    evaluation.run(None, 7)
    assert said == [
        "  infer eval 7 was not written ([Errno 28] No space left on device); training goes on"
    ]
