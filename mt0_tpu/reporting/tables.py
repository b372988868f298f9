"""From rank.jsonl lines to the numbers of the report: medians, means and spreads.

Aggregation as the mT0 paper's: accuracy; per (task, language) the median over prompts; a
cluster's score is the mean over its languages; several clusters are averaged unweighted.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable

from mt0_tpu.reporting.records import RankLine
from mt0_tpu.reporting.runs import Run


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run's accuracy on a cluster or data set in one language, over its prompts (0..1)."""

    low: float
    median: float
    high: float
    chance: float
    majority: float
    num_examples: int
    held_out: bool
    seen: bool


Cells = dict[tuple[str, str], Cell]  # by (cluster or data set, language)


@dataclasses.dataclass(frozen=True)
class Column:
    """Which cells a score is made of: clusters, and languages seen in finetuning or not."""

    clusters: tuple[str, ...]
    split: str  # seen, unseen, all
    title: str

    def holds(self, cluster: str, cell: Cell) -> bool:
        """Says whether a cell belongs to this column."""
        return cluster in self.clusters and self.split in ("all", "seen" if cell.seen else "unseen")


@dataclasses.dataclass(frozen=True)
class Spread:
    """A score over seeds: mean and sample standard deviation (0 for one seed)."""

    mean: float
    deviation: float
    values: tuple[float, ...]


def cells_of(lines: Iterable[RankLine], by: str = "cluster") -> Cells:
    """Reduces prompts: median (and least, greatest) per task and language, mean over tasks."""
    by_task: dict[tuple[str, str], dict[str, list[RankLine]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for line in lines:
        by_task[line.group(by), line.language][line.task].append(line)
    cells = {}
    for key, tasks in sorted(by_task.items()):
        accuracies = [[line.accuracy for line in prompts] for prompts in tasks.values()]
        first = [prompts[0] for prompts in tasks.values()]
        cells[key] = Cell(
            low=statistics.fmean(map(min, accuracies)),
            median=statistics.fmean(map(statistics.median, accuracies)),
            high=statistics.fmean(map(max, accuracies)),
            chance=statistics.fmean(
                statistics.fmean(line.chance for line in prompts) for prompts in tasks.values()
            ),
            majority=statistics.fmean(
                statistics.fmean(line.majority for line in prompts) for prompts in tasks.values()
            ),
            # The prompts of a task ask the same questions: they count once.
            num_examples=sum(line.num_examples for line in first),
            held_out=first[0].held_out_cluster,
            seen=first[0].seen_language,
        )
    return cells


def score(cells: Cells, column: Column, field: str = "median") -> float | None:
    """Returns the mean over languages, then over clusters, of a cell's field; None if empty."""
    means = []
    for cluster in column.clusters:
        values = [
            getattr(cell, field)
            for (name, _), cell in cells.items()
            if name == cluster and column.holds(name, cell)
        ]
        if values:
            means.append(statistics.fmean(values))
    return statistics.fmean(means) if means else None


def sampling_variance(cells: Cells, column: Column) -> float:
    """Returns the variance of score() that the finite number of test questions brings.

    Each language's accuracy p over n questions is binomial, p(1-p)/n; means of independent
    terms follow.
    """
    variances = []
    for cluster in column.clusters:
        held = [c for (name, _), c in cells.items() if name == cluster and column.holds(name, c)]
        if held:
            terms = (c.median * (1 - c.median) / max(c.num_examples, 1) for c in held)
            variances.append(sum(terms) / len(held) ** 2)
    return sum(variances) / len(variances) ** 2 if variances else 0.0


def spread(values: Iterable[float | None]) -> Spread | None:
    """Returns mean and sample standard deviation of the values that exist."""
    kept = tuple(value for value in values if value is not None)
    if not kept:
        return None
    return Spread(statistics.fmean(kept), statistics.stdev(kept) if len(kept) > 1 else 0.0, kept)


class Scores:
    """All runs' cells by arm and seed, and the columns that they fill.

    `by` says what is one unit: the 'cluster' of tasks, or the 'dataset' as the paper's charts.
    """

    def __init__(self, runs: Iterable[Run], by: str = "cluster"):
        self.cells: dict[str, dict[int, Cells]] = {}
        for run in runs:
            if run.rank:
                self.cells.setdefault(run.arm, {})[run.seed] = cells_of(run.rank, by)
        self.union: Cells = {}
        for seeds in self.cells.values():
            for cells in seeds.values():
                self.union.update(cells)
        self.held_out = tuple(sorted({c for (c, _), cell in self.union.items() if cell.held_out}))
        self.trained = tuple(sorted({c for c, _ in self.union} - set(self.held_out)))

    def __bool__(self) -> bool:
        return bool(self.union)

    @property
    def groups(self) -> tuple[str, ...]:
        """Clusters or data sets, those held out of finetuning first."""
        return self.held_out + self.trained

    @property
    def several_seeds(self) -> bool:
        """Says whether any arm has more than one seed."""
        return any(len(seeds) > 1 for seeds in self.cells.values())

    def columns(self, merged: bool = False) -> list[Column]:
        """Returns the headline columns: held-out clusters (one by one unless merged), trained."""
        groups = (
            [(self.held_out, "held-out clusters")]
            if merged
            else [((cluster,), group_title(cluster)) for cluster in self.held_out]
        )
        groups.append((self.trained, "trained clusters"))
        columns = [
            Column(clusters, split, title)
            for clusters, title in groups
            for split in ("seen", "unseen")
        ]
        return [column for column in columns if score(self.union, column) is not None]

    def over_seeds(self, arm: str, column: Column, field: str = "median") -> Spread | None:
        """Returns an arm's score on a column over its seeds."""
        return spread(score(cells, column, field) for cells in self.cells.get(arm, {}).values())

    def languages(self, column: Column) -> list[str]:
        """Returns the languages that any run was scored on in a column."""
        return sorted(lang for (g, lang), cell in self.union.items() if column.holds(g, cell))

    def uneven(self) -> bool:
        """Says whether some runs were scored on other tasks or languages than others."""
        return len({frozenset(c) for seeds in self.cells.values() for c in seeds.values()}) > 1

    def compare(self, better: str, worse: str, column: Column) -> list[tuple[float, float, float]]:
        """Returns (score, other score, sampling variance) per seed that both arms have.

        Only cells that both were scored on count. `worse` is an arm, or "baseline": the better
        of chance and the majority answer.
        """
        pairs = []
        for seed, cells in self.cells.get(better, {}).items():
            if worse == "baseline":
                mine = score(cells, column)
                fields = [score(cells, column, field) for field in ("chance", "majority")]
                if mine is not None:
                    pairs.append((mine, max(fields), sampling_variance(cells, column)))
                continue
            other = self.cells.get(worse, {}).get(seed, {})
            shared = cells.keys() & other.keys()
            left, right = ({k: c[k] for k in sorted(shared)} for c in (cells, other))
            if (mine := score(left, column)) is not None:
                variance = sampling_variance(left, column) + sampling_variance(right, column)
                pairs.append((mine, score(right, column), variance))
        return pairs


# Names of data sets and clusters that prose writes otherwise than code does.
_TITLES = {
    "nli": "NLI",
    "closed_book_qa": "closed-book QA",
    "extractive_qa": "extractive QA",
    "qa": "QA",
    "xnli": "XNLI",
    "anli": "ANLI",
    "super_glue_rte": "RTE",
    "super_glue_cb": "CB",
    "super_glue_copa": "COPA",
    "rte": "RTE",
    "cb": "CB",
    "copa": "COPA",
    "xcopa": "XCOPA",
    "xwinograd": "XWinograd",
    "xstory_cloze": "XStoryCloze",
    "story_cloze": "StoryCloze",
    "story_cloze_2016": "StoryCloze",
    "winogrande": "Winogrande",
    "winogrande_xl": "Winogrande",
}


_PROMPTS = {"MT": "machine-translated prompts", "HT": "human-translated prompts"}


def group_title(group: str) -> str:
    """Returns the name of a cluster or data set as prose."""
    name, _, prompts = group.partition("@")
    title = _TITLES.get(name.lower().replace("/", "_"), name.replace("_", " "))
    return f"{title}, {_PROMPTS[prompts]}" if prompts in _PROMPTS else title
