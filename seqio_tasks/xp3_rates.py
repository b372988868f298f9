"""How much of each task a mixture of the xP3 family draws: rates, without SeqIO.

* 'size': number of examples, as if the files were one heap;
* 'capped': size, but at most MAXIMUM (T5's examples-proportional mixing);
* 'temperature': min(size, TEMPERATURE_MAXIMUM) ** (1 / TEMPERATURE);
* 'equal': each task the same;
* 'bloomz': BLOOMZ's shares of bytes by language, code × 1.3 (in a language: by bytes);
* a table of the user's: a line a task or language, `name<TAB>rate`.

What mT0 was mixed by is UNVERIFIED; 'size' is the default.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from seqio_tasks import xp3_tables
from seqio_tasks.near_names import did_you_mean
from seqio_tasks.xp3_names import legal
from seqio_tasks.xp3_plan import BYTES_PER_EXAMPLE, TaskPlan
from seqio_tasks.xp3_tables import Collection

Rate = float | Callable[[Any], float]

KINDS = ("size", "capped", "temperature", "equal", "bloomz")
# What the T5 paper found good on its own mixture; there is no published value for this one.
MAXIMUM = 2**19
TEMPERATURE, TEMPERATURE_MAXIMUM = 2.0, 2**21

_estimates: dict[str, float] = {}


@dataclasses.dataclass(frozen=True)
class BySize:
    """SeqIO's mixing_rate_num_examples: min(examples, maximum) ** (1 / temperature).

    Examples are counted where the task is cached. Before, they are the table's (xP3's published
    rows) or estimated from the size of the files, so that asking for a rate reads no data.

    Attributes:
      maximum: examples counted at most; None for no limit.
      temperature: 1 keeps proportions, more brings tasks closer together.
    """

    maximum: int | None = None
    temperature: float = 1.0

    def __post_init__(self):
        if self.maximum is not None and not self.maximum >= 1:
            raise ValueError(f"maximum is {self.maximum!r}; write examples, at least 1, or None.")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature!r}; write a number above 0.")

    def __call__(self, task: Any) -> float:
        """The rate of a seqio.Task."""
        examples = examples_of(task)
        if self.maximum is not None:
            examples = min(examples, self.maximum)
        return examples ** (1 / self.temperature)


def examples_of(task: Any) -> float:
    """Examples of a seqio.Task's train split (of its only one where it has no train split)."""
    if task.cache_dir:
        split = "train" if "train" in task.splits else task.splits[0]
        return task.get_cached_stats(split)["examples"]
    if task.name in _estimates:
        return _estimates[task.name]
    return task.num_input_examples("train" if "train" in task.splits else task.splits[0])


def estimate(plan: TaskPlan, collection: Collection) -> None:
    """Notes how many examples a planned task has, as far as is known before it is cached."""
    if plan.num_bytes is not None:
        _estimates[plan.name] = max(1.0, plan.num_bytes / BYTES_PER_EXAMPLE)
    elif collection.layout == "merged":
        language = xp3_tables.languages(collection.languages).get(plan.language)
        if language and language.examples:
            _estimates[plan.name] = language.examples


def rates(
    kind: str | os.PathLike | Mapping[str, float] | Rate,
    plans: Iterable[TaskPlan],
    collection: Collection,
    *,
    maximum: int | None = None,
    temperature: float | None = None,
    missing: str = "error",
) -> dict[str, Rate]:
    """The rate of each planned task, by its name.

    Args:
      kind: one of KINDS, the path of a .tsv table, a mapping of names to rates, a number, or a
        function from a seqio.Task to its rate.
      maximum: of 'capped' and 'temperature', in examples.
      temperature: of 'temperature'.
      missing: of a table: 'error' where a task is not in it, 'zero' leaves the task out.

    Raises:
      ValueError: no such kind; a table with unknown names, without some, or with bad rates;
        'bloomz' for a language that has no published weight.
    """
    plans = list(plans)
    if maximum is not None and kind not in ("capped", "temperature"):
        raise ValueError(f"rates={kind!r} takes no maximum; write rates='capped'.")
    if temperature is not None and kind != "temperature":
        raise ValueError(f"rates={kind!r} takes no temperature; write rates='temperature'.")
    if callable(kind) or (isinstance(kind, int | float) and not isinstance(kind, bool)):
        return {plan.name: kind for plan in plans}
    if isinstance(kind, Mapping):
        return _from_table(dict(kind), plans, collection, "the mapping of rates", missing)
    if isinstance(kind, os.PathLike) or (isinstance(kind, str) and kind.endswith(".tsv")):
        return _from_table(read_table(kind), plans, collection, str(kind), missing)
    if kind == "bloomz":
        return _bloomz(plans, collection)
    if kind == "temperature":
        t = TEMPERATURE if temperature is None else temperature
        rate: Rate = BySize(maximum or TEMPERATURE_MAXIMUM, t)
    else:
        simple = {"size": BySize(), "capped": BySize(maximum or MAXIMUM), "equal": 1.0}
        if kind not in simple:
            near = did_you_mean(str(kind), KINDS)
            raise ValueError(
                f"rates is {kind!r}; write one of {', '.join(KINDS)}, or a .tsv file.{near}"
            )
        rate = simple[kind]
    return {plan.name: rate for plan in plans}


def _bloomz(plans: list[TaskPlan], collection: Collection) -> dict[str, Rate]:
    languages = xp3_tables.languages(collection.languages)
    totals: dict[str, int] = {}
    for plan in plans:
        weight = languages[plan.language].bloomz_weight if plan.language in languages else None
        if weight is None:
            raise ValueError(
                f"BLOOMZ has no weight for language '{plan.language}' of {collection.name}; "
                "write a .tsv of your own rates, or rates='size'."
            )
        if "train" in plan.splits:
            totals[plan.language] = totals.get(plan.language, 0) + (plan.num_bytes or 1)
    found: dict[str, Rate] = {}
    for plan in plans:
        share = (plan.num_bytes or 1) / totals.get(plan.language, plan.num_bytes or 1)
        found[plan.name] = languages[plan.language].bloomz_weight * share
    return found


# the user's table


def read_table(path: str | os.PathLike) -> dict[str, float]:
    """Reads `name<TAB>rate` lines; '#' begins a comment line.

    Raises:
      ValueError: no such file, or a line that is none; says which.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"There is no table of rates {path}; write name<TAB>rate lines there.")
    table: dict[str, float] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t")
        if len(cells) != 2:
            raise ValueError(f"{path} line {number}: '{line}' is not name<TAB>rate.")
        name = cells[0].strip()
        if name in table:
            raise ValueError(f"{path} line {number}: '{name}' has a rate already; keep one.")
        try:
            table[name] = float(cells[1])
        except ValueError:
            raise ValueError(f"{path} line {number}: '{cells[1]}' is no number.") from None
    return table


def _from_table(
    table: dict[str, float],
    plans: list[TaskPlan],
    collection: Collection,
    where: str,
    missing: str,
) -> dict[str, Rate]:
    if missing not in ("error", "zero"):
        raise ValueError(f"missing is {missing!r}; write 'error' or 'zero'.")
    tasks = {plan.name: plan for plan in plans}
    groups: dict[str, list[TaskPlan]] = {}
    for plan in plans:
        groups.setdefault(f"{collection.name}_{legal(plan.language)}", []).append(plan)
    for name, rate in table.items():
        if not math.isfinite(rate) or rate < 0:
            raise ValueError(f"{where}: '{name}' has rate {rate}; write a number from 0 on.")
        if name not in tasks and name not in groups:
            near = did_you_mean(name, [*groups, *tasks])
            raise ValueError(f"{where}: the mixture has no task or language '{name}'.{near}")
    found: dict[str, Rate] = {}
    for group, members in groups.items():
        total = sum(plan.num_bytes or 1 for plan in members if "train" in plan.splits) or 1
        for plan in members:
            if plan.name in table:
                found[plan.name] = table[plan.name]
            elif group in table:  # a language's rate is shared out by bytes
                found[plan.name] = table[group] * (plan.num_bytes or 1) / total
            elif missing == "error":
                raise ValueError(
                    f"{where} has no rate for '{plan.name}'; write one for it or for '{group}', "
                    "or missing='zero' to leave out what is not named."
                )
    if not any(rate > 0 for rate in found.values()):
        raise ValueError(f"{where} gives no task of the mixture a rate above 0.")
    return found
