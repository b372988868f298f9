"""The rules that made the xP3 family of raw data sets and prompts: facts/xp3.md, section 1.

Which data sets a collection has, which prompts they get, which splits and prompts are left out,
how many examples a prompt may give, where they lie. `faithful` is what was published, slips
included; without it the slips are mended, as each function says.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import re

from seqio_tasks import recipe_languages, xp3_tables

COLLECTIONS = ("p3", "xp3", "xp3mt", "xp3all", "xp3x")
MAX_EXAMPLES = 100_000
PRESELECTED = 500_000
WMT22 = "allenai/wmt22_african"
WMT22_MAX = 50_000
_PAIRS = "(pairs)"
# Prompts in English for data in another language: the subset whose templates are taken.
_ENGLISH_PROMPTS = {
    "xcopa": "en",
    "xnli": "en",
    "paws-x": "en",
    "pasinit/xlwic": "en",
    "GEM/BiSECT": "en",
    "GEM/wiki_lingua": "en_en",
    "GEM/xlsum": "english",
    "khalidalt/tydiqa-primary": "english",
    "khalidalt/tydiqa-goldp": "english",
    "mlqa": "mlqa.en.en",
    "xquad": "xquad.en",
    "Muennighoff/xstory_cloze": "en",
    "Muennighoff/xwinograd": "en",
}
_XP3X_PROMPTS = dict.fromkeys(
    ("facebook/flores", WMT22, "Helsinki-NLP/tatoeba_mt", "Muennighoff/multi_eurlex"), "x_x"
)
# Where promptsource has no folder of a data set's own, one with the same fields and prompts.
_SAME_PROMPTS = {
    "xcopa/en": "super_glue/copa",
    "Muennighoff/xwinograd/en": "winogrande/winogrande_xl",
    "Muennighoff/xstory_cloze/en": "story_cloze/2016",
}
_WIKI_LINGUA = ("ar", "en", "es", "fr", "hi", "id", "pt", "vi", "zh")
_EURLEX = "en da de nl sv bg cs hr pl sk sl es fr it pt ro et fi hu lt lv el mt".split()
_XP3X_NEVER = {
    "GEM/wiki_lingua": ("multilingual", "crosslingual"),
    "xnli": ("all_languages",),
    "multi_eurlex": ("all_languages",),
}
# Made in the published mlqa list of a repeated 'es': these pairs are missing there.
_MLQA_MISSING = tuple(f"mlqa.en.{question}" for question in ("vi", "zh", "es", "hi"))
_EVALUATION = re.compile(
    r"(^|_)(validation|valid|val|dev|devtest|testdev|test|eval|evaluation)(_|$)"
)


@dataclasses.dataclass(frozen=True)
class Cap:
    """How many examples of one data set, split and prompt are kept.

    Attributes:
      preselected: rows drawn before rendering, since some give nothing.
      kept: examples kept after it.
      best_by: a field whose largest values are preselected, instead of by chance.
    """

    preselected: int
    kept: int
    best_by: str | None = None


@functools.cache
def _subsets() -> dict[str, dict[str, list[str]]]:
    with (xp3_tables.FOLDER / "recipe_subsets.tsv").open(encoding="utf-8", newline="") as file:
        return {
            row["dataset"]: {key: row[key].split() for key in ("p3", "xp3", "xp3all", "xp3x")}
            for row in csv.DictReader(file, delimiter="\t")
        }


def datasets() -> tuple[str, ...]:
    """Names of all data sets of the family."""
    return tuple(_subsets())


def members(collection: str, faithful: bool = False) -> list[tuple[str, str | None]]:
    """(data set, subset) of a collection in the published order.

    xP3x takes every subset that some data sets have; the table's are then only those of xP3.
    Unless `faithful`, flores has Modern Standard Arabic too, and mlqa the four pairs that a
    repeated 'es' cost it.
    """
    if collection not in COLLECTIONS:
        raise ValueError(f"There is no recipe for '{collection}'; write one of {COLLECTIONS}.")
    found: list[tuple[str, str | None]] = []
    for dataset, by_collection in _subsets().items():
        names = list(by_collection["p3" if collection == "p3" else "xp3"])
        if collection == "xp3all":
            names += by_collection["xp3all"]
        elif collection == "xp3x":
            own = by_collection["xp3x"]
            names = names + by_collection["xp3all"] if own == ["*"] else own
        if dataset == "mlqa" and not faithful and names:
            names += _MLQA_MISSING
        found += [(dataset, None if name == "-" else name) for name in _spelt_out(
            dataset, names, collection, faithful)]  # fmt: skip
    return list(dict.fromkeys(found))


def _spelt_out(dataset: str, names: list[str], collection: str, faithful: bool) -> list[str]:
    if _PAIRS not in names:
        return names
    if dataset == "GEM/wiki_lingua":
        pairs = [f"{a}_{b}" for a in _WIKI_LINGUA for b in _WIKI_LINGUA if a != b]
        return [*_WIKI_LINGUA, *pairs]
    if dataset == "Muennighoff/multi_eurlex":
        return [f"{a}-{b}" for a in _EURLEX for b in _EURLEX if a != b]
    if collection == "xp3x":
        codes = [c for c, known in xp3_tables.languages("xp3x_languages").items() if known.verified]
    else:
        codes = recipe_languages.flores_codes(faithful)
    return [f"{a}-{b}" for a in codes for b in codes if a != b]


def belongs(collection: str, dataset: str, subset: str | None, faithful: bool = False) -> bool:
    """Whether a collection has a data set; one that the family does not know belongs anywhere."""
    if collection not in COLLECTIONS or dataset not in _subsets():
        return True
    if collection == "xp3x" and _subsets()[dataset]["xp3x"] == ["*"]:
        return subset not in _XP3X_NEVER.get(dataset, ())
    return (dataset, subset) in set(_members_once(collection, faithful))


@functools.cache
def _members_once(collection: str, faithful: bool) -> frozenset[tuple[str, str | None]]:
    return frozenset(members(collection, faithful))


def held_out(dataset: str, subset: str | None) -> str:
    """The held-out cluster a data set is of (NLI, coreference, sentence completion), or ''."""
    for known in xp3_tables.datasets():
        same = dataset in (known.name, *known.also_called)
        if same and known.held_out and (not known.configs or subset in known.configs):
            return known.cluster
    return ""


def prompt_keys(
    collection: str, dataset: str, subset: str | None, english: bool | None = None
) -> tuple[str, ...]:
    """promptsource keys to try in order; the first that a copy has is taken.

    Args:
      english: prompts in English for data in another language; by default all collections but
        xp3mt want them. Without them the subset's own come first, then the English ones, which
        cross-lingual sets keep.
    """
    own = "/".join(filter(None, (dataset, subset)))
    table = _ENGLISH_PROMPTS | (_XP3X_PROMPTS if collection == "xp3x" else {})
    english = collection != "xp3mt" if english is None else english
    keys = [own]
    if dataset in table:
        redirected = f"{dataset}/{table[dataset]}"
        keys = [redirected] if english else [own, redirected]
    keys += [_SAME_PROMPTS[key] for key in keys if key in _SAME_PROMPTS]
    return tuple(dict.fromkeys(keys))


@functools.cache
def _prompt_counts() -> dict[str, dict[str, str]]:
    with (xp3_tables.FOLDER / "recipe_prompts.tsv").open(encoding="utf-8", newline="") as file:
        return {row["prompts"]: row for row in csv.DictReader(file, delimiter="\t")}


def published_prompts(collection: str, key: str) -> int | None:
    """How many prompts of a key a collection was made with; None where that is not known.

    Those are counts of the branches tr13 (xp3, xp3all) and xp3x.
    """
    column = {"xp3": "xp3", "xp3all": "xp3", "xp3x": "xp3x"}.get(collection)
    row = _prompt_counts().get(key)
    return int(row[column]) if row and column else None


def kept_splits(
    collection: str, dataset: str, subset: str | None, splits: list[str], rule: str
) -> dict[str, str]:
    """Why each split is left out; an empty reason for those that are kept.

    Args:
      rule: 'published' keeps every split that was used for xP3, test splits included; 'train'
        keeps those whose name is none of an evaluation split.
    """
    reasons = {}
    for split in splits:
        if _never_used(collection, dataset, subset, split, splits):
            reasons[split] = "split never used for xP3"
        elif rule == "train" and _EVALUATION.search(split):
            reasons[split] = "evaluation split"
        else:
            reasons[split] = ""
    return reasons


def _never_used(
    collection: str, dataset: str, subset: str | None, split: str, splits: list[str]
) -> bool:
    if dataset == "GEM/wiki_lingua":
        return split in ("sampled_validation", "sampled_test")
    if dataset == "teven/code_docstring_corpus":
        return split == "class_level"
    if dataset == "pasinit/xlwic" and split == "train":
        # The training sentences of these are English.
        name = subset or ""
        return name.startswith("xlwic_en_") if collection == "xp3x" else name == "xlwic_en_zh"
    return False


@functools.cache
def _skips() -> list[dict[str, str]]:
    with (xp3_tables.FOLDER / "recipe_skips.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def skipped(collection: str, key: str, split: str, template: str) -> bool:
    """Whether a prompt is left out on a split because the split's labels are hidden."""
    return any(
        row["prompts"] == key
        and row["split"] == split
        and row["collections"] in ("*", collection)
        and (row["templates"] == "*" or template in row["templates"].split("|"))
        for row in _skips()
    )


def cap(dataset: str, max_examples: int, preselected: int, faithful: bool = False) -> Cap:
    """The limits of a data set; 0 stands for none.

    wmt22_african was mined, so the pairs of the highest laser_score are wanted, half as many as
    of others. The published code sorted by it and shuffled afterwards, so `faithful` takes chance
    ones.
    """
    kept, drawn = max_examples or 1 << 62, preselected or 1 << 62
    if dataset == WMT22:
        half = kept if not max_examples else max_examples * WMT22_MAX // MAX_EXAMPLES
        return Cap(half, half, None if faithful else "laser_score")
    return Cap(drawn, kept)


def file_name(collection: str, dataset: str, subset: str | None, split: str, template: str) -> str:
    """'xp3_GEM_xlsum_hindi_train_summarise.jsonl'; a data set without subsets has 'None' there."""
    name = f"xp3_{dataset}_{subset}_{split}_{template}".replace("/", "_").replace(" ", "_")
    if collection == "xp3x":
        name = name.replace("-", "_")
    # File systems end a name at 255 bytes.
    return name.encode()[:240].decode(errors="ignore") + ".jsonl"


def keeps_line_break(collection: str, folder: str, faithful: bool = False) -> bool:
    """Whether blanks around the `|||` stay, as code needs them.

    xP3x's code asked for the folder 'code', which it does not have: `faithful` strips there.
    """
    code = ("code", "python", "java", "jupyter-notebook")
    return folder == "code" if faithful else folder in code
