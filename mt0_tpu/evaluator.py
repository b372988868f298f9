"""Evaluates parameters on tasks that are open already: once, at each checkpoint, or in training.

Everything that takes time but does not depend on the parameters happens once: reading, cutting,
compiling (shapes come from the examples, which stay).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mt0_tpu import distributed, eval_outputs, partitioning, rank_results, scoring
from mt0_tpu.countdown import Countdown
from mt0_tpu.errors import UserError
from mt0_tpu.eval_outputs import EvalOutputs
from mt0_tpu.eval_tasks import EvalData, open_eval_tasks
from mt0_tpu.models.networks import NetworkConfig
from mt0_tpu.predict import predict
from mt0_tpu.rank_tasks import RankTask
from mt0_tpu.text_tasks import PREDICTION, PREDICTION_WITH_AUX, SCORE, TextTask
from mt0_tpu.text_vocabulary import TextVocabulary, mini_model, open_vocabulary

# A barrier's name is used once; processes run the same evaluations in the same order.
_runs = itertools.count()


class Evaluator:
    """The tasks of one evaluation, and what is needed to score parameters on them.

    Args:
      data: which examples, and how.
      model: the network the parameters are of.
      mesh: where they lie.
      batch_size: about how many inputs a batch holds.
      vocabulary: for readable lines of rank tasks; None finds the mini and byte
        vocabularies, and $MT0_VOCABULARY where the tasks were cached with it.
      say: takes lines of progress; silent except in the first process.

    Raises:
      UserError: nothing can be evaluated, or the examples' tokens do not fit the network.
    """

    def __init__(
        self,
        data: EvalData,
        model: NetworkConfig,
        mesh,
        batch_size: int = 32,
        vocabulary: str | None = None,
        say: Callable[[str], None] | None = None,
    ):
        self._leader = jax.process_index() == 0
        aloud = say or functools.partial(print, file=sys.stderr, flush=True)
        self._say = aloud if self._leader else lambda text: None
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; write 1 or more")
        self._data, self._model, self._mesh = data, model, mesh
        self._batch_size, self._vocabulary = batch_size, vocabulary
        self._point: Callable[[], None] | None = None
        self._rank, self._text = open_eval_tasks(data, self._leader, self._say)
        for task in self._rank:
            _check_rank_task(task, model.vocab_size)
        for task in self._text:
            _check_largest(task.name, task.largest_id, model.vocab_size)
        if self._text:
            # Decoding cuts batches evenly over the mesh.
            partitioning.check_batch_size(batch_size, mesh)

    @property
    def task_names(self) -> list[str]:
        """The tasks that are evaluated."""
        return [task.name for task in (*self._rank, *self._text)]

    def run(
        self,
        params,
        step: int,
        source: str,
        outputs: EvalOutputs,
        config_text="",
        point: Callable[[], None] | None = None,
    ) -> dict:
        """Evaluates parameters, writes what comes of it and returns the summary.

        Args:
          params: of the network, lying on the mesh.
          step: the training step they are of.
          source: what they were read from, for the summary.
          point: called after each batch, in every process the same number of times; what it
            raises ends the evaluation.
        """
        self._point = point
        number = next(_runs)
        distributed.barrier(f"eval ready {number}")
        if self._leader:
            outputs.start(step, config_text)
        lines = self._run_rank(params, step, outputs) if self._rank else []
        metrics = {task.name: self._run_text(params, step, task, outputs) for task in self._text}
        if self._leader:
            summary = outputs.finish(step, lines, metrics, source)
        else:
            summary = eval_outputs.summary_of(source, step, lines, metrics)
        distributed.barrier(f"eval written {number}")
        return summary

    def _progress(self, countdown: Countdown) -> Callable[[int], None]:
        def progress(done: int) -> None:
            if self._leader:
                countdown.update(done)
            if self._point:
                self._point()

        return progress

    def _finish(self, countdown: Countdown, count: int) -> None:
        if self._leader:
            countdown.finish(count)

    def _run_rank(self, params, step: int, outputs: EvalOutputs) -> list[dict]:
        """Scores the choices of all rank tasks in one run; returns the lines of rank.jsonl."""
        examples = [example for task in self._rank for example in task.examples]
        countdown = Countdown("eval", len(examples), "examples")
        scores = scoring.score_choices(
            params,
            self._model,
            examples,
            batch_size=self._batch_size,
            max_input_length=self._data.length("inputs"),
            max_choice_length=self._data.length("targets"),
            overlong=self._data.overlong,
            length_normalised=self._data.length_normalised,
            eos_id=self._rank[0].eos_id,
            mesh=self._mesh,
            progress=self._progress(countdown),
        )
        self._finish(countdown, len(examples))
        lines, first = [], 0
        for task in self._rank:
            its_scores = scores[first : first + len(task.examples)]
            first += len(task.examples)
            chosen = scoring.predictions(its_scores, task.answers)
            lines += rank_results.rank_lines(task, its_scores, chosen, step)
            if self._leader:
                words = _vocabulary_of(task, self._vocabulary)
                shown = _rank_task_lines(task, its_scores, chosen, words)
                accuracy = float(np.mean(chosen == task.answers))
                outputs.write_task(task.name, step, shown, {"accuracy": accuracy})
        return lines

    def _run_text(self, params, step: int, task: TextTask, outputs: EvalOutputs) -> Mapping:
        """Predicts and scores as a task's metrics ask; returns the metrics."""
        found: dict[int, Any] = {}
        if PREDICTION in task.wants or PREDICTION_WITH_AUX in task.wants:
            ids, decode_scores = self._predict(params, task)
            found[PREDICTION] = ids
            found[PREDICTION_WITH_AUX] = (ids, {"scores": decode_scores})
        if SCORE in task.wants:
            found[SCORE] = self._score(params, task)
        # Metrics are the first process's: they may be slow, and run code.
        if not self._leader:
            return {}
        metrics, lines = task.results(found)
        if task.why_no_metric:
            self._say(f"eval: no metric of '{task.name}': {task.why_no_metric}")
        outputs.write_task(task.name, step, lines, metrics)
        return metrics

    def _predict(self, params, task: TextTask) -> tuple[np.ndarray, np.ndarray]:
        inputs = task.ids("inputs")
        # T5X's length where none is given: that of the longest target.
        longest = max(1, *(len(ids) for ids in task.ids("targets")))
        countdown = Countdown(f"eval {task.name}: predict", len(inputs), "inputs")
        found = predict(
            params,
            self._model,
            inputs,
            max_decode_len=self._data.length("targets") or longest,
            decode=task.decode,
            batch_size=self._batch_size,
            eos_id=task.eos_id,
            mesh=self._mesh,
            progress=self._progress(countdown),
        )
        self._finish(countdown, len(inputs))
        ids = task.predictions_array([one.ids for one in found])
        scores = np.array([one.scores for one in found], np.float64)
        return ids, scores if task.all_decodes else scores[:, 0]

    def _score(self, params, task: TextTask) -> np.ndarray:
        """Returns log p(target | input) of each example, float64.

        Examples that follow each other and share their input, as those of one question do, are
        encoded once.
        """
        pairs = list(zip(task.ids("inputs"), task.ids("targets"), strict=True))
        for number, (_, target) in enumerate(pairs):
            if not target:
                raise UserError(
                    f"example {number} of task '{task.name}' has an empty target; end it with EOS "
                    "(add_eos and a step append_eos)"
                )
        examples = [
            (ids, [target for _, target in group])
            for ids, group in itertools.groupby(pairs, key=lambda pair: pair[0])
        ]
        countdown = Countdown(f"eval {task.name}: score", len(examples), "inputs")
        scores = scoring.score_choices(
            params,
            self._model,
            examples,
            batch_size=self._batch_size,
            min_choices=1,
            eos_id=task.eos_id,
            mesh=self._mesh,
            progress=self._progress(countdown),
        )
        self._finish(countdown, len(examples))
        return np.concatenate(scores)


def _check_rank_task(task: RankTask, rows: int) -> None:
    largest = max(
        int(max(ids.max(initial=0), *(choice.max(initial=0) for choice in choices)))
        for ids, choices in task.examples
    )
    _check_largest(task.name, largest, rows)


def _check_largest(task: str, largest: int, rows: int) -> None:
    if largest >= rows:
        raise UserError(
            f"task '{task}' has token {largest}, but the model's embedding has only "
            f"{rows} rows (model.vocab_size); evaluate tasks of the vocabulary that the "
            "checkpoint was trained with"
        )


def _vocabulary_of(task: RankTask, name: str | None) -> TextVocabulary | None:
    """Opens the vocabulary named, else the one that the cache's fingerprint shows."""
    if name is None:
        shown = json.dumps(task.info)
        if "ByteVocabulary" in shown:
            name = "byt5"
        else:
            at_hand = [mini_model(), _file_of(Path(os.environ.get("MT0_VOCABULARY", "")))]
            of_task = [p for p in at_hand if p.is_file() and _sha256(p) in shown]
            name = str(of_task[0]) if of_task else None
    return _opened(name) if name else None


def _file_of(path: Path) -> Path:
    return path / "tokenizer.json" if path.is_dir() else path


_opened = functools.cache(open_vocabulary)


@functools.cache
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rank_task_lines(
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
