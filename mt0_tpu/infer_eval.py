"""Evaluation during training: the job of `mt0 eval` on the live parameters, every so many steps.

Nothing of the run depends on it: parameters are read, not given away, and no random number or
batch of training is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax

from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.eval_follow import RUN_FILE
from mt0_tpu.eval_outputs import EvalOutputs
from mt0_tpu.eval_tasks import EvalData
from mt0_tpu.evaluator import Evaluator
from mt0_tpu.models.networks import NetworkConfig
from mt0_tpu.place import absolute
from mt0_tpu.whole_file import write_whole


class InferEval:
    """T5X's "infer_eval": writes MODEL_DIR/rank.jsonl, summary.json and inference_eval/.

    Args:
      model_dir: of the run.
      folder: where its small files are written: model_dir, or a copy of a bucket's (remote_run.py).
      dataset: which mixture and split; lengths of None cut nothing.
      period: steps between two evaluations.
      num_examples: at most this many of each task.
      decode: how predictions are made.
      say: takes lines of progress.

    Raises:
      UserError: nothing of the mixture can be evaluated.
    """

    def __init__(
        self,
        model_dir: str,
        folder: str,
        dataset: DatasetConfig,
        model: NetworkConfig,
        mesh,
        period: int,
        num_examples: int | None,
        decode: DecodeConfig,
        say: Callable[[str], None],
    ):
        if period < 1:
            raise UserError(f"infer_eval_period is {period}; write 1 or more steps")
        data = EvalData(
            mixture_or_task_name=dataset.mixture_or_task_name,
            split=dataset.split,
            task_feature_lengths=dataset.task_feature_lengths,
            num_examples=num_examples,
            decode=decode,
            module=dataset.module,
            cache_dir=dataset.cache_dir,
            use_cached=dataset.use_cached,
            data_dir=dataset.data_dir,
        )
        self._evaluator = Evaluator(data, model, mesh, dataset.batch_size, say=say)
        settings = {"checkpoints_of": absolute(model_dir), **data.settings()}
        # A run that goes on from an earlier checkpoint evaluates its steps again.
        name = dataset.mixture_or_task_name
        self._outputs = EvalOutputs(folder, name, settings, overwrite=True)
        self._outputs.check(0)
        self._model_dir, self._period, self._say = model_dir, period, say

    def is_due(self, step: int, final_step: int) -> bool:
        """Whether a step is one to evaluate at: every period, and the last."""
        return step % self._period == 0 or step == final_step

    def is_done(self, step: int) -> bool:
        """Whether a step was evaluated to its end, by this process or one before it."""
        return self._outputs.has_finished(step)

    def run(self, params, step: int, point: Callable[[], None] | None = None) -> None:
        """Evaluates the parameters of a step and says how they did.

        Args:
          point: called by every process at the same places; what it raises ends the evaluation.
        """
        try:
            summary = self._evaluator.run(params, step, self._model_dir, self._outputs, point=point)
        except OSError as error:
            # Where others compute along, one cannot leave in the middle.
            if jax.process_count() > 1:
                raise
            self._say(f"  infer eval {step} was not written ({error}); training goes on")
            return
        if jax.process_index() == 0:
            self._say(f"  infer eval {step}: {_in_a_line(summary)}")

    def close(self) -> None:
        """Closes the files."""
        self._outputs.close()


def _in_a_line(summary) -> str:
    words = [
        f"{group['cluster']} {100 * group['median_accuracy']:.1f} %"
        for group in summary["groups"]
        if group["languages"] == "all"
    ]
    words += [
        f"{task} {name} {value:.4g}"
        for task, metrics in summary["tasks"].items()
        for name, value in metrics.items()
        if isinstance(value, int | float)
    ]
    more = f" and {len(words) - 8} more" if len(words) > 8 else ""
    return "; ".join(words[:8]) + more


def write_run_file(model_dir: str, first_step: int, final_step: int) -> None:
    """Says in MODEL_DIR where the run will stop, for `mt0 eval` that follows it."""
    text = json.dumps({"first_step": first_step, "final_step": final_step})
    write_whole(Path(model_dir) / RUN_FILE, text + "\n")
