"""Steps and a metric for tasks that rank answer choices, in words that plain SeqIO understands.

A rank task holds `inputs`, a list of `choices` and the index of the right one, `answer`. SeqIO's
encoder-decoder features know no list, so there are two ways to show them such a task:
`RightChoice` gives the right choice as `targets`, and `each_choice` gives one example a choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from seqio_tasks import metrics


class RightChoice:
    """Adds `targets`, the text of the right choice; it stands before `tokenize`.

    With it a rank task can be read through SeqIO's own feature converters. `mt0 eval` and
    `mt0 cache` look at the choices only, and keep nothing of it.
    """

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The step for tf.data; an index beyond the choices stops the reading."""
        return dataset.map(lambda example: {**example, "targets": _right(example)})

    def numpy_map(self, example: dict[str, Any]) -> dict[str, Any]:
        """The step for one plain example, as `mt0 cache` runs it."""
        choices, answer = example["choices"], example["answer"]
        # A wrong index is left for the cache, which names the task and what to write.
        known = isinstance(answer, int) and 0 <= answer < len(choices)
        return {**example, "targets": choices[answer]} if known else example


def _right(example: Mapping[str, Any]) -> tf.Tensor:
    return tf.gather(example["choices"], example["answer"])


def each_choice(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Makes one example of each choice, the choice as `targets`; it stands before `tokenize`.

    Further fields: `example` (which question), `choice`, `num_choices` and `answer`, as
    `choice_accuracy` wants them.
    """

    def split(number: tf.Tensor, example: dict[str, Any]) -> tf.data.Dataset:
        choices = example["choices"]
        count = tf.size(choices)
        kept = {key: value for key, value in example.items() if key != "choices"}

        def one(index: tf.Tensor) -> dict[str, Any]:
            return {
                **kept,
                "targets": choices[index],
                "example": number,
                "choice": tf.cast(index, tf.int32),
                "num_choices": count,
            }

        return tf.data.Dataset.range(tf.cast(count, tf.int64)).map(one)

    return dataset.enumerate().flat_map(split)


def choice_facts(output: Any, *, example: Mapping[str, Any], is_target: bool = False) -> Any:
    """SeqIO's `postprocess_fn`: what `choice_accuracy` needs of an example made by `each_choice`.

    Returns:
      (question, choice, number of choices, right choice) for a target, else the output itself.
    """
    if not is_target:
        return output
    return tuple(int(example[key]) for key in ("example", "choice", "num_choices", "answer"))


def choice_accuracy(targets: Sequence[tuple], scores: Sequence[float]) -> dict[str, float]:
    """Share of questions whose right choice scores highest (0 to 1), as `mt0 eval` counts.

    Args:
      targets: of each example what `choice_facts` returns.
      scores: of each example the log-likelihood of its choice, summed over its tokens.

    Returns:
      `rank_accuracy`; a question that was cut off (EVALUATOR_NUM_EXAMPLES) is left out.
    """
    asked: dict[int, dict[int, float]] = {}
    right: dict[int, int] = {}
    counts: dict[int, int] = {}
    for (question, choice, count, answer), score in zip(targets, scores, strict=True):
        asked.setdefault(question, {})[choice] = float(score)
        right[question], counts[question] = answer, count
    whole = [question for question, found in asked.items() if len(found) == counts[question]]
    ranked = [[asked[q][choice] for choice in range(counts[q])] for q in whole]
    return metrics.rank_accuracy([right[question] for question in whole], ranked)
