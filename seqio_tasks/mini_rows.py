"""Rows of mini-xP3: items under prompts, for finetuning and for evaluation by rank."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

from seqio_tasks import mini_facts as facts
from seqio_tasks.mini_facts import Draw
from seqio_tasks.mini_items import KINDS
from seqio_tasks.mini_names import Item, names
from seqio_tasks.mini_prompts import Prompt, prompts

# Kinds of a cluster with their shares, and how many rows a language has at most.
CLUSTERS: dict[str, tuple[dict[str, int], int]] = {
    "paraphrase_identification": ({"same_meaning": 1}, 1500),
    "language_identification": ({"same_language": 4, "which_language": 1}, 800),
    "closed_book_qa": (
        {"is_kind": 6, "category": 3, "which_is": 2, "currency_of": 1, "language_of": 1},
        1800,
    ),
    "extractive_qa": ({"lookup": 3, "after": 1, "member": 3}, 900),
    "translation": ({"translate": 1}, 400),
    "data_to_text": ({"date": 1}, 200),
    "structure_to_text": ({"list": 2, "unit": 1}, 250),
    "number_verbalisation": ({"to_words": 1, "to_digits": 1}, 300),
    "code": ({"code": 1}, 250),
}
ENGLISH_FACTOR = 6
_VALIDATION_SHARE = 20
_NATIVE_PERCENT = 40
# What is scored by rank: (kind, which concepts). The last two clusters are never finetuned, so
# there every concept is new to the task; in the others only concepts never finetuned are asked.
EVALUATIONS: dict[str, tuple[str, str]] = {
    "paraphrase_identification": ("same_meaning", "held"),
    "language_identification": ("same_language", "held"),
    "closed_book_qa": ("category", "held"),
    "extractive_qa": ("lookup", "held"),
    "nli": ("nli", "all"),
    "completion": ("completion", "all"),
}
HELD_OUT_CLUSTERS = ("nli", "completion")
# Unseen languages are few: more examples of each, so that their mean is as sure.
EXAMPLES_SEEN, EXAMPLES_UNSEEN = 24, 42
_EVALUATION_PROMPTS = 4


@dataclasses.dataclass(frozen=True)
class Row:
    """A finetuning row, with what a reader may want to know of it."""

    inputs: str
    targets: str
    kind: str
    prompt: str
    concepts: tuple[str, ...]


def _weighted(draw: Draw, weights: dict[str, int]) -> str:
    place = draw.below(sum(weights.values()))
    for name, weight in weights.items():
        place -= weight
        if place < 0:
            return name
    raise AssertionError("weights are positive")


def _prompt(draw: Draw, kind: str, language: str) -> Prompt:
    known = prompts(kind, language)
    native = [prompt for prompt in known if prompt.language != "en"]
    if native and draw.chance(_NATIVE_PERCENT):
        return draw.choice(native)
    return draw.choice([prompt for prompt in known if prompt.language == "en"])


def _draw_row(cluster: str, language: str, attempt: int) -> Row | None:
    draw = Draw("finetuning", cluster, language, attempt)
    kind = _weighted(draw, CLUSTERS[cluster][0])
    item = KINDS[kind](names(language, "seen"), draw)
    if item is None:
        return None
    prompt = _prompt(draw, kind, language)
    target = (item.options or prompt.choices)[item.answer]
    return Row(prompt.render(item.fields), target, kind, prompt.name, item.concepts)


@functools.cache
def rows(cluster: str, language: str) -> tuple[Row, ...]:
    """Every finetuning row of a cluster in a language: no two with the same input.

    Only concepts that are not held out; ValueError for a held-out language.
    """
    if language in facts.HELD_OUT_LANGUAGES:
        raise ValueError(f"'{language}' is held out of finetuning; it has no rows.")
    wanted = CLUSTERS[cluster][1] * (ENGLISH_FACTOR if language == "en" else 1)
    found: dict[str, Row] = {}
    for attempt in range(4 * wanted):
        row = _draw_row(cluster, language, attempt)
        if row is not None and row.inputs not in found:
            found[row.inputs] = row
            if len(found) == wanted:
                break
    return tuple(found.values())


def finetuning_examples(cluster: str, language: str, split: str) -> Iterator[dict[str, str]]:
    """`inputs` and `targets` of a split: every twentieth row is for validation."""
    for index, row in enumerate(rows(cluster, language)):
        if (index % _VALIDATION_SHARE == 0) == (split == "validation"):
            yield {"inputs": row.inputs, "targets": row.targets}


def _balanced_items(cluster: str, language: str) -> list[Item]:
    """Items with every answer index equally often, no two alike, in a drawn order."""
    kind, part = EVALUATIONS[cluster]
    unseen = language in facts.HELD_OUT_LANGUAGES
    prompt = prompts(kind)[0]
    quotas: dict[int, list[Item]] = {}
    wanted, asked, count = EXAMPLES_UNSEEN if unseen else EXAMPLES_SEEN, set(), 2
    for attempt in range(60 * wanted):
        draw = Draw("evaluation", cluster, language, attempt)
        item = KINDS[kind](names(language, part), draw)
        if item is None:
            continue
        count = len(item.options or prompt.choices)
        same = quotas.setdefault(item.answer, [])
        text = prompt.render(item.fields)
        if len(same) < wanted // count and text not in asked:
            same.append(item)
            asked.add(text)
        if sum(map(len, quotas.values())) == wanted // count * count:
            break
    least = min(map(len, quotas.values())) if len(quotas) == count else 0
    chosen = [item for same in quotas.values() for item in same[:least]]
    return Draw("evaluation order", cluster, language).shuffled(chosen)


@functools.cache
def evaluation_rows(cluster: str, language: str) -> tuple[dict, ...]:
    """Rank examples: the same items under each English prompt, as in the paper."""
    kind = EVALUATIONS[cluster][0]
    items = _balanced_items(cluster, language)
    return tuple(
        {
            "inputs": prompt.render(item.fields),
            "choices": list(item.options or prompt.choices),
            "answer": item.answer,
            "prompt": prompt.name,
            "language": language,
            "cluster": cluster,
            "held_out_cluster": int(cluster in HELD_OUT_CLUSTERS),
            "seen_language": int(language not in facts.HELD_OUT_LANGUAGES),
        }
        for prompt in prompts(kind)[:_EVALUATION_PROMPTS]
        for item in items
    )
