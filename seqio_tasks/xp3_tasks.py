"""The xP3 family as SeqIO tasks and mixtures, registered by name when they are asked for.

Importing this module registers nothing; `seqio_tasks.xp3` does, for plain SeqIO. Which tasks there
are and what they are called: `xp3_plan`; where files lie: `xp3_files`; rates: `xp3_rates`.

Every collection has mixtures `<collection>` (by size), `<collection>_capped`, `_temperature`,
`_equal` and, where BLOOMZ's weights name its languages, `_bloomz`; those of a file a prompt also
`<collection>_<language>` and `<collection>_cluster_<cluster>`.

Environment, beside that of `xp3_files`: MT0_VOCABULARY names the SentencePiece model
(`vocabularies.mt5`) or BLOOM's tokenizer.json (`vocabularies.bloom`, with BLOOMZ's text rules),
read only when text is tokenised; MT0_INPUTS_EOS=0 leaves EOS off mT5's inputs (whether mT0 had it
there is UNVERIFIED: T5 and mT5 have, T0 has not), and BLOOM's have none.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable

import seqio

from seqio_tasks import (
    task_facts,
    vocabularies,
    xp3_files,
    xp3_layouts,
    xp3_names,
    xp3_plan,
    xp3_rates,
    xp3_tables,
)
from seqio_tasks.near_names import did_you_mean
from seqio_tasks.sources import JsonlDataSource
from seqio_tasks.xp3_files import Store
from seqio_tasks.xp3_plan import TaskPlan
from seqio_tasks.xp3_tables import Collection

LAYOUTS = ("prompts", "merged")
_VARIABLES = ("MT0_VOCABULARY", "MT0_INPUTS_EOS")
_BLOOM_EOS = 2

log = logging.getLogger(__name__)

_own: dict[str, tuple[Collection, Store]] = {}  # collections of the user's
_added: dict[str, TaskPlan] = {}  # tasks registered here


def ensure(name: str) -> None:
    """Registers what a name of the xP3 family needs; any other name is left alone.

    Listing a remote folder happens here, once: `xp3_files` keeps it.

    Raises:
      ValueError: the files are not at hand, or the name stands for none of them.
    """
    if _registered(name):
        return
    own, rest = xp3_names.collection_of(name, tuple(_own))
    if not own:
        return
    collection, store = _collection(own)
    if collection.layout == "merged":
        # Paths are looked up when they are read: the names stand without any file.
        _add_merged(collection, store, rest)
    elif rest in ("", *xp3_plan.RATES) or rest.startswith(xp3_plan.CLUSTER):
        _add_whole(collection, store or xp3_files.store(collection), rest)
    else:
        _add_language(collection, store or xp3_files.store(collection), rest)
    if not _registered(name):
        known = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
        raise ValueError(
            f"{collection.name} has no task or mixture '{name}'.{did_you_mean(name, known)}"
        )


def at_hand() -> list[str]:
    """Names of the collections whose files can be listed without a network."""
    found = list(_own)
    if "://" not in xp3_files.data_dir():
        released = xp3_tables.collections().values()
        found += [c.name for c in released if xp3_files.find_store(c) is not None]
    return found


def ensure_at_hand() -> None:
    """Registers xP3's tasks and all tasks and mixtures of the collections at hand.

    A collection that lacks languages gets those it has and no mixture of the whole; a warning
    says so.
    """
    ensure("xp3")
    for name in at_hand():
        collection, store = _collection(name)
        if collection.layout == "merged" and name not in _own:
            continue
        store = store or xp3_files.store(collection)
        try:
            xp3_plan.check_complete(collection, store)
        except ValueError as error:
            log.warning("%s", error)
            for language in xp3_plan.languages_at_hand(collection, store):
                ensure(f"{name}_{xp3_names.legal(language)}")
        else:
            ensure(name)


def add_collection(name: str, folder: str, layout: str = "prompts") -> None:
    """Registers the tasks and mixtures of a folder of one's own, laid out as xP3mt or xP3 is.

    Args:
      name: what its names begin with.
      folder: the folder of language folders; local, or any address fsspec reads.
      layout: 'prompts' for files a prompt, `LANGUAGE/*.jsonl`; 'merged' for one a language,
        `LANGUAGE/merged_LANGUAGE.jsonl`.

    Raises:
      ValueError: another collection has the name, or the folder holds nothing usable.
    """
    if layout not in LAYOUTS:
        near = did_you_mean(layout, LAYOUTS)
        raise ValueError(f"layout is {layout!r}; write 'prompts' or 'merged'.{near}")
    if xp3_names.legal(name) != name:
        raise ValueError(f"'{name}' cannot begin a task's name; write letters, digits and '_'.")
    taken, _ = xp3_names.collection_of(name, tuple(_own))
    if taken == name:
        raise ValueError(f"There is a collection '{name}' already; call this one something else.")
    if taken:
        raise ValueError(
            f"'{name}' begins with '{taken}_', as that collection's own tasks do; call it "
            "something else."
        )
    folder = folder if "://" in folder else os.path.abspath(os.path.expanduser(folder))
    _own[name] = (Collection(name, layout=layout), Store(folder))
    try:
        ensure(name)
    except ValueError:
        del _own[name]
        raise


def add_mixture(
    name: str,
    collection: str,
    *,
    rates="size",
    languages: Iterable[str] | str | None = None,
    clusters: Iterable[str] | str | None = None,
    datasets: Iterable[str] | str | None = None,
    maximum: int | None = None,
    temperature: float | None = None,
    missing: str = "error",
) -> seqio.Mixture:
    """Registers a mixture of a collection's tasks.

    Args:
      name: of the mixture.
      collection: 'xp3', 'xp3mt', …, or one of `add_collection`.
      rates, maximum, temperature, missing: see `xp3_rates.rates`.
      languages: codes to keep; 'at_hand' for those whose folders are there; all by default.
      clusters, datasets: those to keep; all by default.

    Raises:
      ValueError: a name that is taken or unknown, files that are missing, or no task is left.
    """
    if _registered(name):
        raise ValueError(
            f"There is a task or mixture '{name}' already; call this one something else."
        )
    known, store = _collection(collection)
    if known.layout != "merged":
        store = store or xp3_files.store(known)
    plans = _chosen_plans(known, store, languages)
    plans = _kept(plans, "cluster", clusters, known, list(xp3_tables.clusters()))
    plans = _kept(plans, "dataset", datasets, known, [d.name for d in xp3_tables.datasets()])
    _add_tasks(plans, known, store)
    return _add_mixture(
        name, plans, known, rates, maximum=maximum, temperature=temperature, missing=missing
    )


# which tasks


def _collection(name: str) -> tuple[Collection, Store | None]:
    """A collection and, of a user's own, its folder; ValueError for an unknown name."""
    if name in _own:
        return _own[name]
    released = xp3_tables.collections()
    if name not in released:
        near = did_you_mean(name, [*_own, *released])
        raise ValueError(
            f"There is no collection '{name}'; there are {', '.join([*released, *_own])}.{near}"
        )
    return released[name], None


def _chosen_plans(collection, store, languages) -> list[TaskPlan]:
    """The tasks of the languages asked for."""
    merged = collection.layout == "merged"
    if languages == "at_hand":
        store = store or xp3_files.store(collection)
        codes = xp3_plan.languages_at_hand(collection, store)
    elif languages is None:
        if not merged:
            xp3_plan.check_complete(collection, store)
        codes = _all_codes(collection, store)
    else:
        codes = [languages] if isinstance(languages, str) else list(languages)
        known = sorted({*_all_codes(collection, store), *xp3_plan.known_languages(collection)})
        for code in codes:
            if code not in known:
                near = did_you_mean(code, known)
                raise ValueError(f"{collection.name} has no language '{code}'.{near}")
    return [plan for code in codes for plan in xp3_plan.language_plans(collection, store, code)]


def _all_codes(collection: Collection, store: Store | None) -> list[str]:
    if collection.layout == "merged" and collection.languages:
        return xp3_plan.known_languages(collection)
    return xp3_plan.languages_at_hand(collection, store)


def _kept(plans, fact, wanted, collection, known) -> list[TaskPlan]:
    """The plans whose fact is wanted; ValueError for a name that none has."""
    if wanted is None:
        return plans
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    there = {plan.facts.get(fact) for plan in plans}
    for value in wanted:
        if value not in there:
            word = "data set" if fact == "dataset" else fact
            why = f"no chosen task of {collection.name} has {word} '{value}'"
            if collection.layout != "prompts":
                why += ": its files mix them all; xp3all and xp3mt have a file a prompt"
            raise ValueError(f"{why}.{did_you_mean(value, known)}")
    return [plan for plan in plans if plan.facts.get(fact) in wanted]


# registering


def _registered(name: str) -> bool:
    return name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names()


def _add_merged(collection: Collection, store: Store | None, rest: str) -> None:
    codes = _all_codes(collection, store)
    if not codes:
        raise ValueError(f"{store} holds no folder of a language; name the folder that does.")
    plans = [plan for code in codes for plan in xp3_plan.language_plans(collection, store, code)]
    _add_tasks(plans, collection, store)
    _add_rated(collection, plans)
    if rest not in ("", *xp3_plan.RATES, *map(xp3_names.legal, codes)):
        # A folder that the release does not have, or an error that says which names there are.
        store = store or xp3_files.find_store(collection) or _no_store(collection)
        _add_tasks(xp3_plan.named_plans(collection, store, rest), collection, store)


def _no_store(collection: Collection) -> Store:
    return Store(os.path.join(xp3_files.data_dir(), collection.name))


def _add_whole(collection: Collection, store: Store, rest: str) -> None:
    if rest.startswith(xp3_plan.CLUSTER):
        xp3_plan.cluster_plans(collection, store, rest.removeprefix(xp3_plan.CLUSTER))
    xp3_plan.check_complete(collection, store)
    plans = xp3_plan.all_plans(collection, store)
    if not plans:
        raise ValueError(f"{store} holds no file of {collection.name}; mend MT0_DATA_DIR.")
    _add_tasks(plans, collection, store)
    _add_rated(collection, plans)
    if collection.layout != "prompts":
        return
    for field, prefix in (("language", ""), ("cluster", xp3_plan.CLUSTER)):
        groups: dict[str, list[TaskPlan]] = {}
        for plan in plans:
            groups.setdefault(str(plan.facts[field]), []).append(plan)
        for value, members in groups.items():
            name = f"{collection.name}_{prefix}{xp3_names.legal(value)}"
            if value != xp3_names.UNKNOWN and not _registered(name):
                _add_mixture(name, members, collection, "size")


def _add_language(collection: Collection, store: Store, rest: str) -> None:
    plans = xp3_plan.named_plans(collection, store, rest)
    _add_tasks(plans, collection, store)
    if collection.layout != "prompts" or not plans:
        return
    name = f"{collection.name}_{xp3_names.legal(plans[0].language)}"
    if name == f"{collection.name}_{rest}" and not _registered(name):
        _add_mixture(name, plans, collection, "size")


def _add_rated(collection: Collection, plans: list[TaskPlan]) -> None:
    """The collection's mixture by size, and one for each other kind of rates."""
    for kind in ("size", *xp3_plan.RATES):
        name = collection.name if kind == "size" else f"{collection.name}_{kind}"
        if not _registered(name) and (kind != "bloomz" or _has_weights(collection, plans)):
            _add_mixture(name, plans, collection, kind)


def _has_weights(collection: Collection, plans: list[TaskPlan]) -> bool:
    languages = xp3_tables.languages(collection.languages)
    return all(
        plan.language in languages and languages[plan.language].bloomz_weight for plan in plans
    )


def _add_mixture(name, plans, collection, rates, **options) -> seqio.Mixture:
    if not plans:
        raise ValueError(f"Mixture '{name}' has no task left; keep more of {collection.name}.")
    by_name = xp3_rates.rates(rates, plans, collection, **options)
    return seqio.MixtureRegistry.add(name, list(by_name.items()))


def _add_tasks(plans: Iterable[TaskPlan], collection: Collection, store: Store | None) -> None:
    for plan in plans:
        if plan.name in _added:
            continue
        if _registered(plan.name):
            raise ValueError(
                f"'{plan.name}' is registered already, by another module; rename that task: the "
                f"name is {collection.name}'s."
            )
        steps = [seqio.CacheDatasetPlaceholder()]
        if collection.layout == "megatron":
            source, features = _megatron_source(plan, store), _token_features()
        else:
            source, features = _text_source(plan, collection, store), _text_features()
            steps = [
                *vocabularies.text_steps(features["targets"].vocabulary),
                seqio.preprocessors.tokenize,
                *steps,
                seqio.preprocessors.append_eos_after_trim,
            ]
        seqio.TaskRegistry.add(
            plan.name, source=source, preprocessors=steps, output_features=features
        )
        _added[plan.name] = plan
        task_facts.register_facts(plan.name, **plan.facts)
        xp3_rates.estimate(plan, collection)


def _text_source(plan: TaskPlan, collection: Collection, store: Store | None) -> JsonlDataSource:
    splits = {}
    for split, files in plan.splits.items():
        if collection.layout == "merged":
            splits[split] = functools.partial(_merged_paths, collection, store, plan.language)
        elif collection.layout == "p3":
            splits[split] = functools.partial(xp3_layouts.p3_paths, store, split)
        else:
            splits[split] = functools.partial(store.open_paths, plan.folder, list(files))
    source = JsonlDataSource(splits, fields=("inputs", "targets"), validation_one_in=plan.one_in)
    # A finished cache is looked at by these alone: another vocabulary's ids must not pass for ours.
    source.environment = _VARIABLES
    return source


def _merged_paths(collection: Collection, store: Store | None, language: str) -> list[str]:
    store = store or xp3_files.store(collection)
    return store.open_paths(language, xp3_layouts.merged_files(store, collection, language))


def _megatron_source(plan: TaskPlan, store: Store) -> seqio.DataSource:
    from seqio_tasks.megatron import MegatronPairs

    prefixes = {
        side: functools.partial(_prefix, store, plan, side) for side in ("inputs", "targets")
    }
    return MegatronPairs(splits={"train": prefixes})


def _prefix(store: Store, plan: TaskPlan, side: str) -> str:
    names = [name for name in plan.splits["train"] if f"_{side}_document." in name]
    paths = store.open_paths(plan.folder, names)
    return paths[0].removesuffix(".bin")


def _text_features() -> dict[str, seqio.Feature]:
    return _features(*map(os.environ.get, _VARIABLES))


@functools.cache
def _features(path: str | None, inputs_eos: str | None) -> dict[str, seqio.Feature]:
    # One object for all tasks: thousands of them need one model in memory.
    vocabulary = vocabularies.named(path)
    return vocabularies.output_features(vocabulary, vocabularies.inputs_eos(vocabulary))


@functools.cache
def _token_features() -> dict[str, seqio.Feature]:
    vocabulary = seqio.PassThroughVocabulary(size=vocabularies.BLOOM_PIECES, eos_id=_BLOOM_EOS)
    return {
        name: seqio.Feature(vocabulary, add_eos=False, required=True)
        for name in ("inputs", "targets")
    }
