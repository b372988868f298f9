"""Original releases of the evaluation's data sets, and their rows in the Hub's columns.

Templates know the columns that a data set has on the Hub. Its own release often has other names,
labels that are words, or all languages in one file; `to_columns` turns such a row into the Hub's,
and leaves a row alone that is one already.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Release:
    """Where a release has the scored split.

    Attributes:
      files: patterns below a folder, the first that matches counts; {config} is the language.
      columns: of tables without a first line of names.
    """

    files: tuple[str, ...]
    columns: tuple[str, ...] = ()


# By the name that scores are reported as (`EvaluationTask.reported_as`).
RELEASES = {
    "xcopa": Release(("{config}/val.{config}.jsonl", "data/{config}/val.{config}.jsonl")),
    "xnli": Release(
        ("xnli.dev.tsv", "xnli.dev.jsonl", "XNLI*/xnli.dev.tsv", "XNLI*/xnli.dev.jsonl")
    ),
    "super_glue/copa": Release(("COPA/val.jsonl",)),
    "super_glue/rte": Release(("RTE/val.jsonl",)),
    "super_glue/cb": Release(("CB/val.jsonl",)),
    "anli": Release(("{round}/dev.jsonl", "anli_v*/{round}/dev.jsonl")),
    "winogrande": Release(("winogrande_1*/dev.jsonl",)),
    "story_cloze": Release(("cloze_test_val__spring2016*.csv",)),
    "xstory_cloze": Release(("spring2016.val.{config}.tsv.split_20_80_eval.tsv",)),
    "xwinograd": Release(
        ("crosslingual_winograd*/dataset.tsv",),
        ("language", "source", "reference", "text", "tokens", "pronoun", "candidates"),
    ),
}
# XWinograd's table has 16 of the 504 Chinese rows that were scored; the others are CLUEWSC's.
_INCOMPLETE = (("xwinograd", "zh"),)

# The Hub's order of labels.
_CLASSES = {
    "xnli": ("entailment", "neutral", "contradiction"),
    "anli": ("entailment", "neutral", "contradiction"),
    "super_glue/cb": ("entailment", "contradiction", "neutral"),
    "super_glue/rte": ("entailment", "not_entailment"),
    "super_glue/copa": ("0", "1"),
    "xcopa": ("0", "1"),
}
_SHORT = {"anli": {"e": "entailment", "n": "neutral", "c": "contradiction"}}
_STORY = {
    "InputStoryid": "story_id",
    **{f"InputSentence{n}": f"input_sentence_{n}" for n in range(1, 5)},
    "RandomFifthSentenceQuiz1": "sentence_quiz1",
    "RandomFifthSentenceQuiz2": "sentence_quiz2",
    "AnswerRightEnding": "answer_right_ending",
}
_RENAMED = {
    "xnli": {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
    "anli": {"context": "premise"},
    "story_cloze": _STORY,
    "xstory_cloze": _STORY,
}
_NLI = ("premise", "hypothesis", "label")
_COPA = ("premise", "choice1", "choice2", "question", "label")
_BLANK = ("sentence", "option1", "option2", "answer")
_COLUMNS = {
    "xnli": _NLI,
    "anli": _NLI,
    "super_glue/cb": _NLI,
    "super_glue/rte": _NLI,
    "super_glue/copa": _COPA,
    "xcopa": _COPA,
    "winogrande": _BLANK,
    "xwinograd": _BLANK,
    "story_cloze": tuple(_STORY.values())[1:],
    "xstory_cloze": tuple(_STORY.values())[1:],
}
# Columns that tell rows apart.
IDS = ("idx", "uid", "pairID", "qID", "story_id")


def to_columns(reported_as: str, config: str | None, row: Row) -> Row | None:
    """A row in the Hub's columns; None for one of another language.

    Args:
      reported_as: the data set, as in RELEASES; rows of others are returned as they are.
      config: the language, where one file holds several.

    Raises:
      ValueError: a column is missing, or the label is none.
    """
    wanted = _COLUMNS.get(reported_as)
    if wanted is None:
        return row
    several = reported_as in ("xnli", "xwinograd") and "language" in row
    if several and row["language"] != config:
        return None
    if "candidates" in row:
        row = _winograd_row(row)
    names = {old: new for old, new in _RENAMED.get(reported_as, {}).items() if new not in row}
    row = {names.get(name, name): value for name, value in row.items()}
    for name in wanted:
        if row.get(name) is None:
            raise ValueError(f"it has no '{name}', but {', '.join(sorted(row))}")
    return {**row, **_right(reported_as, row)}


def _right(reported_as: str, row: Mapping[str, Any]) -> Row:
    """The column of the right answer as the Hub has it."""
    if reported_as in _CLASSES:
        return {"label": _label(reported_as, row["label"])}
    name = "answer" if "answer" in row and "option1" in row else "answer_right_ending"
    if str(row[name]) not in ("1", "2"):
        raise ValueError(f"its {name} is {row[name]!r}, where 1 or 2 is the right one")
    # Winogrande's is text on the Hub, and its templates compare it with '1'.
    return {name: str(row[name]) if name == "answer" else int(row[name])}


def _label(reported_as: str, label: Any) -> int:
    classes = _CLASSES[reported_as]
    text = _SHORT.get(reported_as, {}).get(str(label), str(label))
    if text in classes:
        return classes.index(text)
    if text.isdigit() and int(text) < len(classes):
        return int(text)
    hidden = ", as of rows whose answer is kept secret" if text in ("-1", "-") else ""
    raise ValueError(
        f"its label is {label!r}{hidden}; known are {', '.join(classes)} or their numbers"
    )


def _winograd_row(row: Row) -> Row:
    """XWinograd's own table: the pronoun becomes '_'.

    The pronoun is found by walking over the tokens before it, as its word may stand in others.
    """
    text: str = row["text"]
    try:
        tokens, (pronoun, (begin, _), _), candidates = (
            json.loads(row[name]) for name in ("tokens", "pronoun", "candidates")
        )
        (first, *_, right), (second, *_, other) = candidates
    except (ValueError, TypeError) as error:
        raise ValueError(f"it is no row of XWinograd's table ({error})") from None
    at = _after(text, tokens[:begin])
    place = text.find(pronoun, at)
    if place < 0 or right == other:
        raise ValueError(f"'{pronoun}' is not in it, or not one of two answers is right")
    return {
        "sentence": f"{text[:place]}_{text[place + len(pronoun) :]}",
        "option1": first,
        "option2": second,
        "answer": "1" if right else "2",
    }


def _after(text: str, tokens: Sequence[str]) -> int:
    """Where the text goes on after its first tokens."""
    at = 0
    for token in tokens:
        word = '"' if token in ("``", "''") else token  # NLTK's quotation marks
        found = text.find(word, at)
        if found >= 0:
            at = found + len(word)
    return at


def patterns(reported_as: str, config: str | None) -> tuple[str, ...]:
    """A release's patterns for one language or config; () where none holds all that is scored."""
    release = RELEASES.get(reported_as)
    if release is None or (reported_as, config) in _INCOMPLETE:
        return ()
    number = (config or "").removeprefix("dev_").upper()  # ANLI's folders are R1 to R3
    return tuple(name.format(config=config, round=number) for name in release.files)
