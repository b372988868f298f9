"""Which files a build makes: data at hand × prompts at hand, less what the recipe leaves out."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mt0_tpu.building.build_config import RELEASED, BuildConfig
from mt0_tpu.building.build_job import Job
from mt0_tpu.errors import UserError, did_you_mean

# Why a whole data set, split or prompt is left out.
UNIT_REASONS = {
    "no data at hand": "neither in --raw_dir nor in --data, and --hub was not given",
    "not in the collection": "the recipe of the collection does not have it",
    "held-out cluster": "evaluation of mT0 rests on it; --held_out takes it",
    "evaluation split": "named as evaluation data; --splits published takes it",
    "split never used for xP3": "the published pipeline left it out as well",
    "no templates": "no copy of promptsource at hand has them",
    "other prompts than published": "the copy at hand has fewer prompts of a key, or more",
    "hidden labels": "the split's labels are hidden; --no_skip_prompts takes it",
    "template refused": "not a template that may run",
    "same file name": "another prompt's file is called the same; published once",
    "no rows": "the split has no row that can be used",
}


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Something the build does not make: what, a key of UNIT_REASONS, and what else to say."""

    what: str
    reason: str
    detail: str = ""


@dataclasses.dataclass
class Plan:
    """The files to make and what is left out, before any row is read."""

    jobs: list[Job]
    left_out: list[LeftOut]


def plan(config: BuildConfig, library: Any) -> Plan:
    """Returns what a resolved config makes.

    Args:
      library: a seqio_tasks.prompt_library.PromptLibrary.
    Raises:
      UserError: data listed twice, nothing to match `only`, or nothing that could be made.
    """
    from seqio_tasks import xp3_recipe

    left_out: list[LeftOut] = []
    groups = _grouped(_sources(config, left_out))
    known_names = ["/".join(filter(None, group)) for group in groups]
    groups = {key: splits for key, splits in groups.items() if _asked_for(config.only, *key)}
    if not groups:
        hint = did_you_mean(config.only[0], known_names) if config.only else ""
        raise UserError(f"No data at hand matches {list(config.only)}.{hint}")
    jobs: list[Job] = []
    for (dataset, subset), splits in groups.items():
        name = "/".join(filter(None, (dataset, subset)))
        if not xp3_recipe.belongs(config.collection, dataset, subset, config.faithful):
            left_out.append(LeftOut(name, "not in the collection"))
            continue
        cluster = xp3_recipe.held_out(dataset, subset)
        if cluster and not config.held_out:
            left_out.append(LeftOut(name, "held-out cluster", cluster))
            continue
        reasons = xp3_recipe.kept_splits(
            config.collection, dataset, subset, list(splits), config.splits
        )
        left_out += [
            LeftOut(f"{name} {split}", reason) for split, reason in reasons.items() if reason
        ]
        kept = [splits[split] for split, reason in reasons.items() if not reason]
        if kept:
            jobs += _prompted(config, library, kept, left_out)
    unique = _once(jobs, config.faithful, left_out)
    return Plan(unique, list(dict.fromkeys(left_out)))


def _sources(config: BuildConfig, left_out: list[LeftOut]) -> list[Any]:
    """Every split at hand: the lists', the folder's, then the Hub's for what is missing."""
    from seqio_tasks import raw_lists, raw_rows, xp3_recipe

    found = []
    released = config.collection in RELEASED
    try:
        for path in config.data:
            found += raw_lists.read_list(path)
        if config.raw_dir:
            found += raw_rows.find_local(config.raw_dir, xp3_recipe.datasets())
        at_hand = {(split.dataset, split.subset) for split in found}
        members = xp3_recipe.members(config.collection, config.faithful) if released else []
        missing = [
            member
            for member in members
            if member not in at_hand and _asked_for(config.only, *member)
        ]
        if config.hub:
            for dataset, subset in missing:
                found += _hub_splits(dataset, subset)
        else:
            left_out += _not_at_hand(missing)
    except ValueError as error:
        raise UserError(str(error)) from None
    return found


# More missing subsets of one data set are told by their number: flores has 41,000 pairs in xP3x.
_MOST_TOLD = 100


def _not_at_hand(missing: list[tuple[str, str | None]]) -> list[LeftOut]:
    by_dataset: dict[str, list[str]] = {}
    for dataset, subset in missing:
        by_dataset.setdefault(dataset, []).append("/".join(filter(None, (dataset, subset))))
    told = []
    for dataset, names in by_dataset.items():
        if len(names) > _MOST_TOLD:
            told.append(LeftOut(dataset, "no data at hand", f"{len(names):,} subsets"))
        else:
            told += [LeftOut(name, "no data at hand") for name in names]
    return told


def _hub_splits(dataset: str, subset: str | None) -> list[Any]:
    from seqio_tasks import raw_rows

    asked = (subset or "").removesuffix("-inverted") or None
    names = raw_rows.hub_splits(dataset, asked)
    return [raw_rows.RawSplit(dataset, subset, name) for name in names]


def _grouped(splits: Iterable[Any]) -> dict[tuple[str, str | None], dict[str, Any]]:
    groups: dict[tuple[str, str | None], dict[str, Any]] = {}
    for split in splits:
        group = groups.setdefault((split.dataset, split.subset), {})
        if split.split in group:
            raise UserError(
                f"{split.name} is given twice; leave one out, or name both files in one entry."
            )
        group[split.split] = split
    return groups


def _asked_for(patterns: tuple[str, ...], dataset: str, subset: str | None) -> bool:
    name = "/".join(filter(None, (dataset, subset)))
    return not patterns or any(
        fnmatch.fnmatchcase(name, pattern) or dataset == pattern for pattern in patterns
    )


def _prompted(
    config: BuildConfig, library: Any, splits: list[Any], left_out: list[LeftOut]
) -> list[Job]:
    """The jobs of a data set's splits: each under every template of its key."""
    from seqio_tasks import xp3_recipe

    jobs = []
    told: set[str] = set()
    for split in splits:
        key, templates, message = _templates(config, library, split)
        published = xp3_recipe.published_prompts(config.collection, key)
        if templates and published not in (None, len(templates)) and key not in told:
            detail = f"{len(templates)} prompts where {config.collection} has {published}"
            left_out.append(LeftOut(key, "other prompts than published", detail))
            told.add(key)
        if not templates:
            left_out.append(LeftOut(split.name, "no templates", message))
            continue
        for template in templates.values():
            if config.skip_prompts and xp3_recipe.skipped(
                config.collection, key, split.split, template.name
            ):
                left_out.append(LeftOut(f"{split.name}, '{template.name}'", "hidden labels"))
                continue
            try:
                template.check()
            except ValueError as error:
                left_out.append(
                    LeftOut(f"{split.name}, '{template.name}'", "template refused", str(error))
                )
                continue
            jobs.append(_job(config, split, template, key))
    return jobs


def _templates(config: BuildConfig, library: Any, split: Any) -> tuple[str, dict, str]:
    from seqio_tasks import xp3_recipe

    keys = (split.prompts,) if split.prompts else xp3_recipe.prompt_keys(
        config.collection, split.dataset, split.subset, config.prompts == "english"
    )  # fmt: skip
    try:
        for key in keys:
            if key in library.keys:
                return key, library.templates(key), ""
        library.templates(keys[0])
    except ValueError as error:
        return keys[0], {}, str(error)
    raise AssertionError("a key that is not at hand cannot be read")


def _job(config: BuildConfig, split: Any, template: Any, key: str) -> Job:
    from seqio_tasks import recipe_languages, xp3_recipe

    folder = split.language or recipe_languages.folder(
        split.dataset,
        split.subset,
        template.name,
        xp3x=config.collection == "xp3x",
        faithful=config.faithful,
    )
    name = xp3_recipe.file_name(
        config.collection, split.dataset, split.subset, split.split, template.name
    )
    return Job(config, split, template, key, folder, f"{folder}/{name}")


def _once(jobs: list[Job], faithful: bool, left_out: list[LeftOut]) -> list[Job]:
    """No two jobs for one file: the published code left the second out, we number it."""
    taken: set[str] = set()
    unique = []
    for job in jobs:
        path, number = Path(job.path), 2
        if job.path in taken and faithful:
            left_out.append(LeftOut(f"{job.split.name}, '{job.template.name}'", "same file name"))
            continue
        while str(path) in taken:
            path = Path(job.path).with_stem(f"{Path(job.path).stem}_{number}")
            number += 1
        taken.add(str(path))
        unique.append(dataclasses.replace(job, path=str(path)))
    return unique


def made_of(
    plan_: Plan, counts: dict[str, dict[str, Any]], say: Callable[[str], None]
) -> list[Job]:
    """The jobs with their splits' row counts; splits without a usable row are left out."""
    jobs = []
    for job in plan_.jobs:
        counted = counts[job.split.name]
        if counted["rows"]:
            jobs.append(dataclasses.replace(job, rows=counted["rows"]))
    for name, counted in counts.items():
        if not counted["rows"]:
            plan_.left_out.append(LeftOut(name, "no rows", "; ".join(counted["errors"])))
        elif counted["errors"]:
            say(f"build: {name}: {counted['errors'][0]} ({counted['dropped']['bad_row']} such)")
    return jobs
