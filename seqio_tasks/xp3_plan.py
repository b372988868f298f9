"""Which tasks the files of a collection make: names and files, without SeqIO.

* `merged` (xP3): a task a language, `xp3_sw`, over `sw/merged_sw.jsonl`. Where a folder holds the
  prompts' files instead, those are read; never both, which would count every example twice.
* `prompts` (xP3mt, xP3all, xP3x): a task a file, `xp3mt_<language>_<data set>_<config>_<split>_
  <template>`; a merged file beside them is left alone, for the same reason. Data sets whose
  configs are language pairs (flores, tatoeba, wmt22, multi_eurlex) have files by the thousand:
  all pairs into one language with the same split and prompt are one task, with 'pairs' for config.
* `p3`: the task `p3_en` over p31t0_train.zip and p31t0_validation.jsonl.
* `megatron` (xP3megds): a task a language over its .bin/.idx pairs.

Files made of a data set's own validation split become split 'validation' of their tasks. Of all
others a few lines do, see `held_out_one_in`.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import zlib
from collections.abc import Iterable
from typing import Any

from seqio_tasks import xp3_layouts, xp3_names, xp3_tables
from seqio_tasks.near_names import did_you_mean
from seqio_tasks.xp3_files import Store
from seqio_tasks.xp3_names import legal
from seqio_tasks.xp3_tables import Collection

# xP3's own runs cut the last 5 % of the documents off, which is the most that is held out here;
# of a large file one line in 2,000 is enough to see a loss by.
_MOST_HELD_OUT, _LEAST_HELD_OUT = 20, 2000  # one line in
_HELD_OUT_LINES = 50
_SMALLEST = 1000  # examples; below, SeqIO could meet a validation split without any
# xP3's mean; what files of one size hold differs, so it only stands in for counting.
BYTES_PER_EXAMPLE = 94_941_936_000 / 78_883_588
RATES = ("capped", "temperature", "equal", "bloomz")
CLUSTER = "cluster_"
_MEGATRON = re.compile(r"xp3_(?P<language>.+)_(?P<side>inputs|targets)_document\.(?P<half>bin|idx)")
# A cache names folders by the task: at most 255 letters, some of them its own.
_LONGEST_NAME = 180

log = logging.getLogger(__name__)

_said_unknown: set[tuple[str, str]] = set()


@dataclasses.dataclass(frozen=True)
class TaskPlan:
    """A task that is to be.

    Attributes:
      name: of the task.
      language: code of its folder.
      folder: of its files, in the collection's store.
      splits: split -> names of files in the folder; none where they are looked up when read.
      one_in: one line in so many of 'train' is split 'validation'; None where none is.
      num_bytes: of all its files; None where not known yet.
      facts: for seqio_tasks.task_facts.
    """

    name: str
    language: str
    folder: str
    splits: dict[str, tuple[str, ...]]
    one_in: int | None
    num_bytes: int | None
    facts: dict[str, Any]


def held_out_one_in(num_bytes: int) -> int | None:
    """One line in how many of a file of this size is held out for validation; None for none.

    About fifty lines of each task, but at most one in 20 and at least one in 2,000.
    """
    examples = num_bytes / BYTES_PER_EXAMPLE
    if examples < _SMALLEST:
        return None
    return min(max(int(examples / _HELD_OUT_LINES), _MOST_HELD_OUT), _LEAST_HELD_OUT)


def known_languages(collection: Collection) -> list[str]:
    """Codes of the collection's table."""
    if collection.layout == "p3":
        return ["en"]
    return list(xp3_tables.languages(collection.languages))


def languages_at_hand(collection: Collection, store: Store) -> list[str]:
    """Codes of the languages that the store holds."""
    if collection.layout == "p3":
        return ["en"]
    listing = store.list(collection.folder)
    if collection.layout == "megatron":
        found = (_MEGATRON.fullmatch(name) for name in listing.files)
        return sorted({match["language"] for match in found if match})
    return list(listing.folders)


def missing_languages(collection: Collection, store: Store) -> list[str]:
    """Languages that the release has and the store has not; xP3x's list is not certain."""
    if collection.languages != "xp3_languages" or collection.layout == "megatron":
        return []
    at_hand = set(languages_at_hand(collection, store))
    return [code for code in known_languages(collection) if code not in at_hand]


def check_complete(collection: Collection, store: Store) -> None:
    """Refuses a collection of which languages are missing; ValueError names them."""
    missing = missing_languages(collection, store)
    if missing:
        some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise ValueError(
            f"{collection.name} in {store} lacks the folders of {len(missing)} of its "
            f"{len(known_languages(collection))} languages ({some}); get them with `mt0 tasks "
            f"fetch {collection.name}`, or name a mixture of what is there: "
            f"xp3.add_mixture('my_mixture', '{collection.name}', languages='at_hand')."
        )


def language_plans(collection: Collection, store: Store, language: str) -> list[TaskPlan]:
    """The tasks of one language.

    Raises:
      ValueError: no such folder, or no file in it that this layout can use.
    """
    if collection.layout == "p3":
        return [_p3_plan(collection)]
    if collection.layout == "merged":
        return [_merged_plan(collection, language)]
    if collection.layout == "megatron":
        return [_megatron_plan(collection, store, language)]
    folder = "/".join(filter(None, (collection.folder, language)))
    return _prompt_plans(collection, store, language, folder)


def all_plans(collection: Collection, store: Store) -> list[TaskPlan]:
    """The tasks of every language at hand."""
    codes = languages_at_hand(collection, store)
    return [plan for code in codes for plan in language_plans(collection, store, code)]


def named_plans(collection: Collection, store: Store, rest: str) -> list[TaskPlan]:
    """The tasks that a name stands for: those of a mixture, or the one of its own.

    Args:
      rest: the name without the collection and '_': '', 'capped', 'cluster_<cluster>', a
        language, or a language and a task's own name.

    Raises:
      ValueError: nothing has that name.
    """
    if rest in ("", *RATES):
        return all_plans(collection, store)
    if rest.startswith(CLUSTER):
        return cluster_plans(collection, store, rest.removeprefix(CLUSTER))
    codes = languages_at_hand(collection, store)
    if collection.layout == "merged":
        codes = sorted({*codes, *known_languages(collection)})
    language, task = xp3_names.language_of(rest, codes)
    if not language:
        raise ValueError(_no_language(collection, store, rest, codes))
    plans = language_plans(collection, store, language)
    if not task:
        return plans
    named = [plan for plan in plans if plan.name == f"{collection.name}_{rest}"]
    return named or [_file_plan(collection, store, language, task, plans)]


def cluster_plans(collection: Collection, store: Store, cluster: str) -> list[TaskPlan]:
    """The tasks of a cluster in every language at hand."""
    if cluster not in xp3_tables.clusters():
        near = did_you_mean(cluster, xp3_tables.clusters())
        raise ValueError(
            f"There is no cluster '{cluster}'; there are {', '.join(xp3_tables.clusters())}.{near}"
        )
    plans = [p for p in all_plans(collection, store) if p.facts.get("cluster") == cluster]
    if not plans:
        raise ValueError(
            f"No file of {collection.name} in {store} belongs to cluster '{cluster}'"
            + (
                ": its files hold a language each, all clusters mixed; xp3all and xp3mt have a "
                "file a prompt."
                if collection.layout != "prompts"
                else "; name another."
            )
        )
    return plans


def _no_language(collection: Collection, store: Store, rest: str, codes: list[str]) -> str:
    known = {*codes, *known_languages(collection)}
    wanted, _ = xp3_names.language_of(rest, sorted(known))
    if wanted:
        return (
            f"{collection.name} in {store} has no folder of language '{wanted}'; get it with "
            f"`mt0 tasks fetch {collection.name}_{wanted}`. There are {len(codes)}: "
            f"{', '.join(codes[:8])}{', …' if len(codes) > 8 else ''}."
        )
    words = 2 if any("_" in code for code in known) else 1  # a language and its script
    guess = "_".join(rest.split("_")[:words])
    near = did_you_mean(guess, known)
    return (
        f"{collection.name} has no task or mixture '{collection.name}_{rest}': no language of it "
        f"begins so.{near} Names are {collection.name}, {collection.name}_LANGUAGE, "
        f"{collection.name}_cluster_CLUSTER and those of `mt0 tasks list {collection.name}`."
    )


# layouts


def _merged_plan(collection: Collection, language: str) -> TaskPlan:
    return TaskPlan(
        name=f"{collection.name}_{legal(language)}",
        language=language,
        folder=language,
        splits={"train": ()},
        one_in=_LEAST_HELD_OUT,
        num_bytes=None,
        facts={"collection": collection.name, "language": language},
    )


def _prompt_plans(
    collection: Collection, store: Store, language: str, folder: str
) -> list[TaskPlan]:
    listing = store.list(folder)
    names = [n for n in listing.files if xp3_layouts.is_jsonl(n) and not n.startswith("merged_")]
    if not names:
        names = [name for name in listing.files if xp3_layouts.is_jsonl(name)]  # merged ones alone
    names = xp3_layouts.not_empty(names, listing, store.join(folder))
    if not names:
        raise ValueError(xp3_layouts.nothing_usable(store, folder, listing, "xp3_*.jsonl"))
    xp3_layouts.check_no_doubles(names, store.join(folder))
    groups: dict[str, list[str]] = {}
    parts = {name: xp3_names.parse(xp3_layouts.stem_of(name)) for name in names}
    unknown = [name for name in names if parts[name].dataset == xp3_names.UNKNOWN]
    _say_unknown(collection, store, language, unknown)
    for name in names:
        own = parts[name].folded if parts[name].pairs else _own_name(name)
        groups.setdefault(own, []).append(name)
    plans = []
    for own, files in groups.items():
        if len(files) > 1 and not parts[files[0]].pairs:
            # Two file names that differ in letters SeqIO does not allow alone.
            sets = [(f"{own}_{_mark(name)}", [name]) for name in files]
        else:
            sets = [(own, files)]
        for name, members in sets:
            plans.append(_plan(collection, language, folder, name, members, listing))
    return plans


def _plan(collection, language, folder, own, files, listing, folded=True) -> TaskPlan:
    parts = xp3_names.parse(xp3_layouts.stem_of(files[0]))
    validation = parts.split in ("validation", "sampled_validation")
    num_bytes = sum(listing.files[name] for name in files)
    return TaskPlan(
        name=_short(f"{collection.name}_{legal(language)}_{own}"),
        language=language,
        folder=folder,
        splits={"validation" if validation else "train": tuple(files)},
        one_in=None if validation else held_out_one_in(num_bytes),
        num_bytes=num_bytes,
        facts={
            "collection": collection.name,
            "language": language,
            "cluster": parts.cluster,
            "dataset": parts.dataset,
            "config": xp3_names.PAIRS if parts.pairs and folded else parts.config,
            "prompt": parts.prompt,
            "source_split": parts.split,
        },
    )


def _file_plan(
    collection: Collection, store: Store, language: str, task: str, plans: Iterable[TaskPlan]
) -> TaskPlan:
    """One file of a folded task, by its own name; ValueError where there is none."""
    folder = "/".join(filter(None, (collection.folder, language)))
    listing = store.list(folder)
    for name in listing.files:
        if (
            xp3_layouts.is_jsonl(name)
            and _own_name(name) == task
            and collection.layout == "prompts"
        ):
            return _plan(collection, language, folder, task, [name], listing, folded=False)
    wanted = f"{collection.name}_{legal(language)}_{task}"
    near = did_you_mean(wanted, [plan.name for plan in plans])
    raise ValueError(f"No task of {collection.name} in {store} is called '{wanted}'.{near}")


def _own_name(file: str) -> str:
    return legal(xp3_layouts.stem_of(file)).removeprefix("xp3_")


def _mark(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _short(name: str) -> str:
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}_{_mark(name)}"


def _say_unknown(collection: Collection, store: Store, language: str, names: list[str]) -> None:
    """Warns of sets without a cluster: of a released collection, and of its first language."""
    if not names or not collection.repository or (collection.name, str(store)) in _said_unknown:
        return
    _said_unknown.add((collection.name, str(store)))
    log.warning(
        "%s_%s: %d files are of data sets that tables/datasets.tsv does not have, hence of no "
        "cluster (%s); other languages may have more", collection.name, language, len(names),
        names[0],
    )  # fmt: skip


def _p3_plan(collection: Collection) -> TaskPlan:
    return TaskPlan(
        name=f"{collection.name}_en",
        language="en",
        folder="",
        splits={"train": (), "validation": ()},
        one_in=None,
        num_bytes=None,
        facts={"collection": collection.name, "language": "en"},
    )


def _megatron_plan(collection: Collection, store: Store, language: str) -> TaskPlan:
    listing = store.list(collection.folder)
    names = xp3_layouts.megatron_files(language)
    missing = [name for name in names if name not in listing.files]
    if missing:
        raise ValueError(
            f"{store} lacks {missing[0]}; a language of {collection.name} is four files: "
            f"{', '.join(names)}."
        )
    return TaskPlan(
        name=f"{collection.name}_{legal(language)}",
        language=language,
        folder=collection.folder,
        splits={"train": tuple(names)},
        one_in=None,
        num_bytes=sum(listing.files[name] for name in names),
        facts={"collection": collection.name, "language": language},
    )
