"""Which language folder an example of xP3 belongs to, and what languages are called in prompts.

The folder is that of the target, what the loss is computed on. xP3, xP3mt and xP3all name folders
by two letters (three where ISO 639 has no two: fon, nso, tum), xP3x by FLORES code (yor_Latn).
"""

from __future__ import annotations

import csv
import functools
import re

from seqio_tasks import xp3_tables

_CODE_SETS = {
    "Muennighoff/mbpp": "python",
    "openai_humaneval": "python",
    "great_code": "python",
    "neural_code_search": "python",
    "codeparrot/codecomplex": "java",
    "codeparrot/github-jupyter-text-code-pairs": "jupyter-notebook",
    "codeparrot/apps": "python",
    "codeparrot/xlcost-text-to-code": "python",
    "teven/code_contests": "python",
    "teven/code_docstring_corpus": "python",
    "Fraser/python-state-changes": "python",
}
# Names and codes that the data sets write otherwise than ISO 639 does.
_ALIASES = {
    "cmn": "zh",
    "npi": "ne",
    "ory": "or",
    "swh": "sw",
    "kirundi": "rn",
    "punjabi": "pa",
    "chinese_simplified": "zh",
    "chinese_traditional": "zh",
}
_BY_TEMPLATE = ("Helsinki-NLP/tatoeba_mt", "allenai/wmt22_african", "multi_eurlex")
_LONE_CODE = re.compile(r"[a-z]{2,3}")


@functools.cache
def _codes() -> dict[str, dict[str, str]]:
    with (xp3_tables.FOLDER / "recipe_codes.tsv").open(encoding="utf-8", newline="") as file:
        return {row["code"]: row for row in csv.DictReader(file, delimiter="\t")}


@functools.cache
def _xp3_folders() -> dict[str, str]:
    """Code, three-letter code or English name (whole, or its first word) -> folder."""
    folders = dict(_ALIASES)
    with (xp3_tables.FOLDER / "xp3_languages.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            code, name = row["language"], row["name"].lower()
            for key in (code, row["iso639_3"], name, name.split(" ")[0]):
                if key:
                    folders.setdefault(key, code)
    return folders


@functools.cache
def _xp3x_folders() -> dict[str, str]:
    folders = {row["code"]: row["xp3x"] for row in _codes().values()}
    for code, language in xp3_tables.languages("xp3x_languages").items():
        for key in (code.lower(), language.name.lower(), code.split("_")[0]):
            folders.setdefault(key, code)
    return folders


def flores_codes(faithful: bool) -> list[str]:
    """FLORES codes of xP3's languages. `faithful` leaves out arb_Arab, which the published pairs
    lack: their code looked for 'ara'."""
    with (xp3_tables.FOLDER / "xp3_languages.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        codes = [code for row in rows for code in row["xp3x_languages"].split()]
    return sorted(code for code in codes if not (faithful and code == "arb_Arab"))


def language_name(code: str) -> str:
    """A language's English name as prompts print it ('zh' → 'Chinese'); ValueError if unknown.

    ISO 639-3's reference names where the table has them, else FLORES' names.
    """
    known = _codes().get(code)
    if known:
        return known["name"]
    languages = xp3_tables.languages("xp3x_languages")
    for candidate in (code, _xp3x_folders().get(code.lower(), "")):
        if candidate in languages:
            return languages[candidate].name
    raise ValueError(f"There is no name for the language '{code}'; give it to the rows yourself.")


def _target(dataset: str, subset: str, template: str) -> str:
    """The part of the subset's or template's name that says the target's language."""
    inverted = subset.endswith("-inverted")
    pair = subset.removesuffix("-inverted").split("-")
    if inverted:
        return pair[0]
    if dataset in ("facebook/flores", "Muennighoff/multi_eurlex"):
        return pair[-1]
    if dataset in _BY_TEMPLATE:
        named = template.replace("-source+target", "").split("-")[-1]
        # One set of prompts for all pairs ('…-x-x') leaves the subset to say it.
        return pair[-1] if named == "x" else named
    if dataset == "pasinit/xlwic" or (dataset == "GEM/wiki_lingua" and "_" in subset):
        return subset.split("_")[-1]
    if dataset in ("xquad", "mlqa"):
        # mlqa.<context>.<question>: the answer is in the context's language.
        return subset.split(".")[1] if "." in subset else subset
    return subset


def folder(
    dataset: str, subset: str | None, template: str, xp3x: bool = False, faithful: bool = False
) -> str:
    """The language folder of a data set under a template.

    Args:
      xp3x: FLORES codes and three folders of code, instead of two letters and 'code'.
      faithful: what xP3 does not know goes to 'en', as published. Otherwise a lone language code
        names its own folder ('de'), so that German never counts as English.
    """
    if dataset in _CODE_SETS:
        return _CODE_SETS[dataset] if xp3x else "code"
    if dataset == "clue":
        return "zho_Hans" if xp3x else "zh"
    known, english = (_xp3x_folders(), "eng_Latn") if xp3x else (_xp3_folders(), "en")
    target = _target(dataset, subset or "", template)
    for key in (target, target.lower(), target.split("_")[0].lower()):
        if key in known and key:
            return known[key]
    if not faithful and _LONE_CODE.fullmatch(target.split("_")[0]) and not xp3x:
        return _short(target.split("_")[0])
    return english


def _short(code: str) -> str:
    """'deu' and 'jp' as two letters where the table has them."""
    flores = _xp3x_folders().get(code)
    for known, row in _codes().items():
        if len(known) == 2 and row["xp3x"] == flores:
            return known
    return code
