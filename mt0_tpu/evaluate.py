"""The evaluation job: rank classification as in the paper, from a checkpoint to rank.jsonl."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from mt0_tpu import distributed, partitioning, rank_results, scoring
from mt0_tpu.countdown import Countdown
from mt0_tpu.errors import UserError
from mt0_tpu.models.t5 import T5, T5Config
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.rank_tasks import RankTask, open_rank_tasks
from mt0_tpu.text_vocabulary import TextVocabulary, mini_model, open_vocabulary
from mt0_tpu.whole_file import write_whole


def evaluate(
    eval_output_dir: str,
    model: T5Config,
    checkpoint_path: str | None = None,
    mixture_or_task_name: str = "mini_eval",
    module: str | None = None,
    cache_dir: str | None = None,
    use_cached: bool | None = None,
    split: str | None = None,
    task_feature_lengths: Mapping[str, int] | None = None,
    batch_size: int = 32,
    step: int | None = None,
    num_examples: int | None = None,
    length_normalised: bool = False,
    vocabulary: str | None = None,
    overwrite: bool = False,
    untrained: bool = False,
    random_seed: int = 0,
    mesh: MeshConfig = MeshConfig(),
    params=None,
    data_dir: str | None = None,
) -> dict:
    """Scores the choices of every rank task of a mixture, and writes and prints accuracies.

    Writes EVAL_OUTPUT_DIR/rank.jsonl (a line each task and prompt; earlier steps' lines stay),
    summary.json and inference_eval/<task>-<step>.jsonl.

    Args:
      model: the network the checkpoint holds.
      checkpoint_path: a MODEL_DIR (its latest, or `step`) or one of its checkpoints.
      module: the Python module that registers the mixture, where it is not one of ours.
      use_cached: True fails where a task is not cached; else it is cached first.
      split: None takes each task's 'test', else its 'validation'.
      task_feature_lengths: tokens of 'inputs', and of 'targets' for a choice; None cuts nothing.
      batch_size: about how many inputs a batch holds.
      num_examples: at most this many of each task.
      length_normalised: divides scores by tokens; the published evaluation does not.
      vocabulary: for readable inference_eval files; None finds the mini and byte vocabularies.
      overwrite: replaces results of the same step, which is an error otherwise.
      untrained: scores a freshly drawn network of random_seed instead, as step 0.
      params: already in memory, scored instead of a checkpoint as `step`.
      data_dir: where released files lie; None is $MT0_DATA_DIR.

    Returns:
      What summary.json holds.
    """
    _check_sources(checkpoint_path, params, untrained, num_examples)
    folder = Path(eval_output_dir)
    if "://" in eval_output_dir:
        raise UserError(f"EVAL_OUTPUT_DIR is remote ({eval_output_dir}); name a local folder")
    device_mesh = partitioning.make_mesh(mesh)
    checkpoint, step = _which(checkpoint_path, params, untrained, step)
    earlier = _other_steps(folder / "rank.jsonl", step, overwrite)

    leader = jax.process_index() == 0
    say = functools.partial(print, file=sys.stderr) if leader else lambda text: None
    open_tasks = functools.partial(
        open_rank_tasks, mixture_or_task_name, cache_dir, split, module, use_cached, num_examples,
        say, data_dir=data_dir,
    )  # fmt: skip
    tasks = open_tasks(cache_missing=True) if leader else None
    distributed.barrier("eval cached")
    tasks = tasks or open_tasks(cache_missing=False)
    _check_vocabulary(tasks, model.vocab_size)
    if params is None:
        params = _parameters(checkpoint, model, untrained, random_seed, device_mesh)

    examples = [example for task in tasks for example in task.examples]
    lengths = task_feature_lengths or {}
    countdown = Countdown("eval", len(examples), "examples")
    distributed.barrier("eval ready")
    scores = scoring.score_choices(
        params,
        model,
        examples,
        batch_size=batch_size,
        max_input_length=lengths.get("inputs"),
        max_choice_length=lengths.get("targets"),
        length_normalised=length_normalised,
        mesh=device_mesh,
        progress=countdown.update if leader else None,
    )
    lines, first = [], 0
    for task in tasks:
        its_scores = scores[first : first + len(task.examples)]
        first += len(task.examples)
        predictions = scoring.predictions(its_scores, task.answers)
        lines += rank_results.rank_lines(task, its_scores, predictions, step)
        if leader:
            words = _vocabulary_of(task, vocabulary)
            path = folder / "inference_eval" / f"{task.name}-{step}.jsonl"
            _write_lines(path, _inference_lines(task, its_scores, predictions, words))
    found = rank_results.groups(lines)
    summary = {"checkpoint": checkpoint or "untrained", "step": step, "groups": found}
    if leader:
        countdown.finish(len(examples))
        _write_lines(folder / "rank.jsonl", earlier + lines)
        # An older step evaluated later adds lines; the summary stays that of the newest.
        if all(line["step"] <= step for line in earlier):
            write_whole(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        print(rank_results.table(found))
    distributed.barrier("eval written")
    return summary


def _check_sources(checkpoint_path, params, untrained: bool, num_examples: int | None) -> None:
    given = [checkpoint_path is not None, untrained]
    if params is None and sum(given) != 1:
        raise UserError(
            f"CHECKPOINT_PATH is {checkpoint_path!r} and untrained is {untrained}; give a "
            "checkpoint, or untrained=True for a freshly drawn network"
        )
    if num_examples is not None and num_examples < 1:
        raise UserError(f"num_examples is {num_examples}; write 1 or more, or None for all")


def _which(checkpoint_path, params, untrained: bool, step: int | None) -> tuple[str | None, int]:
    """Returns (what is evaluated, its step)."""
    if params is not None or untrained:
        return checkpoint_path, step or 0
    from mt0_tpu import checkpoints

    if step is not None:
        inside = Path(checkpoint_path) / checkpoints.FOLDER
        if inside.is_dir():
            there = checkpoints.steps_of(checkpoint_path)
            if step not in there:
                raise UserError(
                    f"{checkpoint_path} has no checkpoint of step {step}; it has {there}"
                )
            return str(inside / str(step)), step
    found = checkpoints.checkpoint_step(checkpoint_path)
    if step not in (None, found):
        raise UserError(f"{checkpoint_path} is step {found}, and step is {step}; leave one out")
    return checkpoint_path, found


def _parameters(path: str | None, model: T5Config, untrained: bool, seed: int, mesh):
    from mt0_tpu import checkpoints, train_state

    if not untrained:
        return checkpoints.restore_params(path, model, mesh)
    network = T5(model)
    shapes = jax.eval_shape(lambda: train_state.init_params(network, 0))
    where = partitioning.shardings(train_state.parameter_axes(network), shapes, mesh)
    return jax.jit(lambda: train_state.init_params(network, seed), out_shardings=where)()


def _other_steps(path: Path, step: int, overwrite: bool) -> list[dict]:
    """Returns the lines of other steps; UserError where this step's must not be replaced."""
    if not path.is_file():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
        same = [line for line in lines if line["step"] == step]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); delete it or move it away") from None
    if same and not overwrite:
        raise UserError(
            f"{path} holds the results of step {step} already; name another EVAL_OUTPUT_DIR, or "
            "set evaluate.overwrite = True to replace them"
        )
    return [line for line in lines if line["step"] != step]


def _check_vocabulary(tasks: Sequence[RankTask], rows: int) -> None:
    for task in tasks:
        largest = max(
            int(max(ids.max(initial=0), *(choice.max(initial=0) for choice in choices)))
            for ids, choices in task.examples
        )
        if largest >= rows:
            raise UserError(
                f"task '{task.name}' has token {largest}, but the model's embedding has only "
                f"{rows} rows (model.vocab_size); evaluate tasks of the vocabulary that the "
                "checkpoint was trained with"
            )


def _vocabulary_of(task: RankTask, name: str | None) -> TextVocabulary | None:
    """Opens the vocabulary named, else the one that the cache's fingerprint shows."""
    if name is None:
        shown = json.dumps(task.info)
        if "ByteVocabulary" in shown:
            name = "byt5"
        elif mini_model().is_file() and _sha256(mini_model()) in shown:
            name = "mini"
    return _opened(name) if name else None


_opened = functools.cache(open_vocabulary)


@functools.cache
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _inference_lines(
    task: RankTask, scores: Sequence[np.ndarray], predictions, words: TextVocabulary | None
) -> list[dict]:
    def shown(ids: np.ndarray):
        return words.decode(ids.tolist()) if words else ids.tolist()

    return [
        {
            "inputs": shown(ids),
            "choices": [shown(choice) for choice in choices],
            "scores": [round(float(score), 6) for score in row],
            "prediction": int(prediction),
            "answer": int(answer),
            "prompt": belonging.prompt,
        }
        for (ids, choices), row, prediction, answer, belonging in zip(
            task.examples, scores, predictions, task.answers, task.belongings, strict=True
        )
    ]


def _write_lines(path: Path, lines: Sequence[Mapping]) -> None:
    write_whole(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines))
