"""Metrics in the form SeqIO asks of a `metric_fn`: (targets, predictions) or (targets, scores).

Those of generated text and of generated code have files of their own and can be had from here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from seqio_tasks.code_metrics import pass_at_k
from seqio_tasks.generation_metrics import bleu, bleu_for, chrf, over_prompts, rouge

__all__ = [
    "best_choice", "bleu", "bleu_for", "chance", "chrf", "exact_match", "majority", "normalized",
    "normalized_match", "over_prompts", "pass_at_k", "rank_accuracy", "rouge",
]  # fmt: skip


def normalized(text: str) -> str:
    """Text as it is compared: NFKC, lower case, single blanks, no closing full stop."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).rstrip(".。।")


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions equal to their target, letter for letter (0 to 1)."""
    return _share("exact_match", [t == p for t, p in _pairs(targets, predictions)])


def normalized_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions equal to their target after `normalized` (0 to 1)."""
    pairs = _pairs(targets, predictions)
    return _share("normalized_match", [normalized(t) == normalized(p) for t, p in pairs])


def best_choice(scores: Sequence[float]) -> int:
    """Index of the highest score; the first of equals, as in T0's evaluation."""
    if not len(scores):
        raise ValueError("A rank example has no choices; give every example two or more.")
    return max(range(len(scores)), key=lambda index: scores[index])


def rank_accuracy(targets: Sequence[int], scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Share of examples whose right choice scores highest (0 to 1).

    Args:
      targets: index of the right choice of each example.
      scores: for each example the log-likelihood of every choice, summed over its tokens.
    """
    pairs = _pairs(targets, scores)
    return _share("rank_accuracy", [best_choice(values) == right for right, values in pairs])


def chance(num_choices: Sequence[int]) -> float:
    """Accuracy that guessing among the choices would have."""
    return sum(1 / count for count in num_choices) / max(1, len(num_choices))


def majority(answers: Sequence[int]) -> float:
    """Accuracy of always giving the most frequent answer index."""
    answers = list(answers)
    return max((answers.count(a) for a in set(answers)), default=0) / max(1, len(answers))


def _pairs(left: Sequence, right: Sequence) -> list[tuple]:
    if len(left) != len(right):
        raise ValueError(f"{len(left)} targets but {len(right)} results; give one for each.")
    return list(zip(left, right, strict=True))


def _share(name: str, hits: list[bool]) -> dict[str, float]:
    return {name: sum(hits) / max(1, len(hits))}
