"""What xP3 does to rows of some data sets before a prompt sees them.

Each change is a function from a row to a new row, or to a reason why the row is left out.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Callable
from typing import Any

from seqio_tasks import recipe_languages

Row = dict[str, Any]
# A new row, or the reason (a key of REASONS) for having none.
Change = Callable[[Row, int], "Row | str"]
REASONS = {
    "other_direction": "a pair of the other direction, which is a data set of its own",
    "no_solution": "apps without a solution",
    "bad_fields": "fields that the data set's rows should have are missing",
}


def change(
    collection: str, dataset: str, subset: str | None, seed: int = 0
) -> Callable[[Row, int], Row | str]:
    """The change of a data set's rows: called with a row and its number in the split.

    Most data sets have none. `seed` decides which solution of apps is taken.
    """
    made = _change(collection, dataset, subset or "", seed)
    if made is None:
        return lambda row, number: row

    def guarded(row: Row, number: int) -> Row | str:
        try:
            return made(row, number)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
            return "bad_fields"

    return guarded


def _change(collection: str, dataset: str, subset: str, seed: int) -> Change | None:
    if dataset == "GEM/wiki_lingua":
        pair = tuple(subset.split("_")) if "_" in subset else None
        return functools.partial(_wiki_lingua, pair=pair)
    if dataset == "codeparrot/apps":
        return functools.partial(_apps, seed=seed)
    if dataset == "codeparrot/xlcost-text-to-code":
        return _xlcost
    if collection != "xp3x":
        return None
    inverted = subset.endswith("-inverted")
    if dataset == "facebook/flores":
        return functools.partial(_flores, pair=subset.split("-"))
    if dataset == "Helsinki-NLP/tatoeba_mt":
        pair = subset.removesuffix("-inverted").split("-")
        return functools.partial(_tatoeba, pair=pair, inverted=inverted)
    if dataset == "allenai/wmt22_african":
        return functools.partial(_wmt22, inverted=inverted)
    return None


def _named(row: Row, source: str, target: str) -> Row:
    return row | {
        "source_language_name": recipe_languages.language_name(source),
        "target_language_name": recipe_languages.language_name(target),
    }


def _wiki_lingua(row: Row, number: int, pair: tuple[str, ...] | None) -> Row | str:
    found = (row["source_language"], row["target_language"])
    if pair is not None and found != pair:
        return "other_direction"
    return _named(row, *found)


def _apps(row: Row, number: int, seed: int) -> Row | str:
    solutions = row["solutions"]
    if isinstance(solutions, str):
        solutions = json.loads(solutions) if solutions.strip() else []
    if not solutions:
        return "no_solution"
    return row | {"solution": random.Random(f"{seed} apps {number}").choice(solutions)}


_XLCOST = {"INDENT": "", "DEDENT": "", "STRNEWLINE": "\n", "TABSYMBOL": "\t"}
_XLCOST_WORD = re.compile("|".join(_XLCOST))


def _xlcost(row: Row, number: int) -> Row:
    """Code whose line breaks and indents were written as words."""
    lines, depth = [], 0
    for line in row["code"].split("NEW_LINE"):
        words = _XLCOST_WORD.findall(line)
        depth += words.count("INDENT") - words.count("DEDENT")
        code = _XLCOST_WORD.sub(lambda word: _XLCOST[word[0]], line)
        lines.append("\t" * depth + code.strip())
    return row | {"code_clean": "\n".join(lines)}


def _flores(row: Row, number: int, pair: list[str]) -> Row:
    source, target = pair
    renamed = dict(row)
    renamed["source"] = renamed.pop(f"sentence_{source}")
    renamed["target"] = renamed.pop(f"sentence_{target}")
    return _named(renamed, source, target)


def _tatoeba(row: Row, number: int, pair: list[str], inverted: bool) -> Row:
    # The Hub writes one of the two with a small letter; files of one's own may lack them.
    source, target = row.get("sourceLang", pair[0]), row.get("targetlang", pair[-1])
    if not inverted:
        return _named(row, source, target)
    turned = row | {"sourceString": row["targetString"], "targetString": row["sourceString"]}
    return _named(turned, target, source)


def _wmt22(row: Row, number: int, inverted: bool) -> Row:
    pair = list(row["translation"].items())
    (source, text), (target, translated) = pair[::-1] if inverted else pair
    return _named(row | {"source": text, "target": translated}, source, target)
