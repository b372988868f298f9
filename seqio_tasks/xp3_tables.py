"""What is known of the xP3 family before a file is opened: collections, languages, data sets.

The tables lie beside this file in `tables/`. A value that no source was read for says UNVERIFIED
there, or is named in the column `not_verified`.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from pathlib import Path

FOLDER = Path(__file__).with_name("tables")
UNVERIFIED = "UNVERIFIED"


@dataclasses.dataclass(frozen=True)
class Collection:
    """One of the six released collections, or a user's own in the same layout.

    Attributes:
      name: prefix of its tasks, such as 'xp3mt'.
      repository: on the Hub; empty for a user's own.
      layout: 'merged' (one file a language), 'prompts' (one file a prompt), 'p3' or 'megatron'.
      folder: where in the repository the language folders lie.
      languages: the table of its languages; empty where none is known.
      examples: rows, where published.
      not_verified: what the sources at hand could not confirm.
    """

    name: str
    repository: str = ""
    layout: str = "prompts"
    folder: str = ""
    languages: str = ""
    examples: int | None = None
    not_verified: str = ""


@dataclasses.dataclass(frozen=True)
class Language:
    """A language folder of a collection.

    Attributes:
      code: the folder's name.
      name: in English.
      examples: published rows of xP3, or an estimate of xP3x's; None where unknown.
      bloomz_weight: share that BLOOMZ was trained with (bytes; code × 1.3); None where unknown.
      own_prompts: whether xP3mt has prompts in this language.
      verified: whether the folder was seen in a listing.
    """

    code: str
    name: str
    examples: int | None = None
    bloomz_weight: float | None = None
    own_prompts: bool = False
    verified: bool = True


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, or those of its configs that share a cluster.

    Attributes:
      name: as on the Hub.
      also_called: other names it has in file names.
      configs: the configs this line is about; empty for all.
      cluster: xP3's task cluster.
      held_out: whether the published models never trained on the cluster.
      pairs: whether a config is a pair of languages, hence files by the thousand.
      collections: which collections have it.
      licence: as far as known.
    """

    name: str
    also_called: tuple[str, ...]
    configs: tuple[str, ...]
    cluster: str
    held_out: bool
    pairs: bool
    collections: tuple[str, ...]
    licence: str


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@functools.cache
def collections() -> dict[str, Collection]:
    """The six released collections by name."""
    return {
        row["collection"]: Collection(
            name=row["collection"],
            repository=row["repository"],
            layout=row["layout"],
            folder=row["folder"],
            languages=row["languages"],
            examples=int(row["examples"]) if row["examples"] else None,
            not_verified=row["not_verified"],
        )
        for row in _rows("collections.tsv")
    }


@functools.cache
def languages(table: str) -> dict[str, Language]:
    """The languages of a table ('xp3_languages', 'xp3x_languages') by code; none for ''."""
    if not table:
        return {}
    rows = _rows(f"{table}.tsv")
    if table == "xp3_languages":
        found = [
            Language(
                code=row["language"],
                name=row["name"],
                examples=int(row["xp3_examples"]),
                bloomz_weight=float(row["bloomz_weight"]),
                own_prompts=row["xp3mt_own_prompts"] == "yes",
            )
            for row in rows
        ]
    else:
        found = [
            Language(
                code=row["language"],
                name=row["name"],
                examples=_number(row["examples_estimate"]),
                verified=row["in_collection"] == "verified",
            )
            for row in rows
        ]
    return {language.code: language for language in found}


def _number(text: str) -> int | None:
    return None if text == UNVERIFIED else int(text)


@functools.cache
def datasets() -> tuple[Dataset, ...]:
    """Every data set of the family, a line a cluster."""
    return tuple(
        Dataset(
            name=row["dataset"],
            also_called=tuple(row["also_called"].split()),
            configs=() if row["configs"] == "*" else tuple(row["configs"].split()),
            cluster=row["cluster"],
            held_out=row["held_out_cluster"] == "yes",
            pairs=row["folding"] == "pairs",
            collections=tuple(row["collections"].split()),
            licence=row["licence"],
        )
        for row in _rows("datasets.tsv")
    )


@functools.cache
def clusters() -> tuple[str, ...]:
    """The names of all clusters, sorted."""
    return tuple(sorted({dataset.cluster for dataset in datasets()}))
