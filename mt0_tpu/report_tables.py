"""From rank.jsonl lines to the numbers of the report: medians, means, spreads and verdicts.

Aggregation as the mT0 paper's: accuracy; per (task, language) the median over prompts; a
cluster's score is the mean over its languages; several clusters are averaged unweighted.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable

from mt0_tpu.report_runs import RankLine, Run, arm_title, short_title


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run's accuracy on one cluster in one language, over its prompts (all within 0..1)."""

    low: float
    median: float
    high: float
    chance: float
    majority: float
    num_examples: int
    held_out: bool
    seen: bool


Cells = dict[tuple[str, str], Cell]  # by (cluster, language)


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


@dataclasses.dataclass(frozen=True)
class Verdict:
    """An answer to one question of the study, computed from the scores."""

    answer: str  # yes, no, within noise
    sentence: str
    noise: str  # what the answer's certainty rests on
    short: str
    decisive: bool  # one of the four comparisons that make up the paper's finding


def cells_of(lines: Iterable[RankLine]) -> Cells:
    """Reduces prompts: median (and least, greatest) per task and language, mean over tasks."""
    by_task: dict[tuple[str, str], dict[str, list[RankLine]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for line in lines:
        by_task[line.cluster, line.language][line.task].append(line)
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
    """All runs' cells by arm and seed, and the columns that they fill."""

    def __init__(self, runs: Iterable[Run]):
        self.cells: dict[str, dict[int, Cells]] = {}
        for run in runs:
            if run.rank:
                self.cells.setdefault(run.arm, {})[run.seed] = cells_of(run.rank)
        self.union: Cells = {}
        for seeds in self.cells.values():
            for cells in seeds.values():
                self.union.update(cells)
        self.held_out = tuple(sorted({c for (c, _), cell in self.union.items() if cell.held_out}))
        self.trained = tuple(sorted({c for c, _ in self.union} - set(self.held_out)))

    def __bool__(self) -> bool:
        return bool(self.union)

    def columns(self, merged: bool = False) -> list[Column]:
        """Returns the headline columns: held-out clusters (one by one unless merged), trained."""
        groups = (
            [(self.held_out, "held-out clusters")]
            if merged
            else [((cluster,), cluster_title(cluster)) for cluster in self.held_out]
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


def cluster_title(cluster: str) -> str:
    """Returns a cluster's name as prose."""
    return {"nli": "NLI", "qa": "QA"}.get(cluster.lower(), cluster.replace("_", " "))


def judge(pairs: list[tuple[float, float, float]]) -> tuple[str, float, float]:
    """Judges paired scores: (answer, mean difference, half width of its 95 % interval).

    Several seeds: Student's t over the seeds' differences. One seed: the sampling error of the
    test questions, which knows nothing of the spread between seeds.
    """
    differences = [mine - other for mine, other, _ in pairs]
    mean = statistics.fmean(differences)
    if len(pairs) > 1:
        from scipy.special import stdtrit

        error = statistics.stdev(differences) / math.sqrt(len(pairs))
        half = float(stdtrit(len(pairs) - 1, 0.975)) * error
    else:
        half = 1.96 * math.sqrt(pairs[0][2])
    # Equal scores differ by rounding of the sums; that is no difference.
    if abs(mean) <= half or abs(mean) < 1e-9:
        return "within noise", mean, half
    return ("yes" if mean > 0 else "no"), mean, half


def verdicts(scores: Scores) -> tuple[list[Verdict], list[str]]:
    """Answers the study's questions; returns the answers, and arms needed for the others."""
    held_out, trained = scores.held_out, scores.trained
    unseen = Column(held_out, "unseen", "unseen languages, held-out clusters")
    trained_unseen = Column(trained, "unseen", "unseen languages, trained clusters")
    # An evaluation of the user's own may hold nothing out.
    everything = (
        Column(held_out, "all", "all languages, held-out clusters")
        if held_out
        else Column(trained, "all", "all languages, trained clusters")
    )
    questions = [
        ("multilingual", "english", unseen, True),
        ("multilingual", "pretrain", everything, True),
        ("english", "pretrain", everything, True),
        ("multilingual", "english", trained_unseen, False),
        ("multilingual", "scratch", everything, False),
    ]
    own = [arm for arm in scores.cells if arm not in ("pretrain", "untrained")]
    # No arm of finetuning yet: say at least where pretraining alone stands.
    bases = reversed(own or list(scores.cells))
    # Differences below chance mean little: the finding needs a model above it.
    questions += [(arm, "baseline", everything, arm == "multilingual") for arm in bases]
    answers, missing = [], set()
    for better, worse, column, decisive in questions:
        missing |= {arm for arm in (better, worse) if arm not in {*scores.cells, "baseline"}}
        if pairs := scores.compare(better, worse, column):
            answers.append(_verdict(better, worse, column, decisive, pairs))
    return answers, sorted(missing)


def conclusion(answers: list[Verdict]) -> str:
    """Says in a sentence whether the paper's finding shows; '' where a part was not measured."""
    decisive = [verdict.answer for verdict in answers if verdict.decisive]
    if len(decisive) < 4:
        return ""
    extent = {4: "shows here in full", 0: "does not show here"}.get(
        decisive.count("yes"),
        f"shows here in part ({decisive.count('yes')} of 4 comparisons)",
    )
    return (
        "The paper's finding, that multitask finetuning carries to tasks never finetuned on and "
        f"doing it in many languages carries to unseen ones, {extent}."
    )


def _verdict(better: str, worse: str, column: Column, decisive: bool, pairs: list) -> Verdict:
    answer, mean, half = judge(pairs)
    mine, other = (statistics.fmean(pair[i] for pair in pairs) for i in (0, 1))
    relation = {
        "yes": "beats",
        "no": "falls behind",
        "within noise": "cannot be told from",
    }[answer]
    baseline = "the better of chance and majority"
    rival = baseline if worse == "baseline" else arm_title(worse)
    short_rival = "chance and majority" if worse == "baseline" else short_title(worse)
    if len(pairs) > 1:
        each = ", ".join(f"{100 * (a - b):+.1f}" for a, b, _ in pairs)
        deviation = statistics.stdev(a - b for a, b, _ in pairs)
        noise = (
            f"{len(pairs)} seeds: {each}; standard deviation {100 * deviation:.1f}; 95% "
            f"interval {100 * (mean - half):+.1f} to {100 * (mean + half):+.1f}."
        )
    else:
        noise = (
            f"One seed: 95% interval {100 * (mean - half):+.1f} to {100 * (mean + half):+.1f} by "
            "the number of test questions alone; the spread between seeds is not known."
        )
    return Verdict(
        answer,
        f"{arm_title(better)} {relation} {rival} ({column.title}): {100 * mine:.1f}% against "
        f"{100 * other:.1f}%, {100 * mean:+.1f} points.",
        noise,
        f"{short_title(better)} {relation} {short_rival} ({column.title}): "
        f"{100 * mean:+.1f} ± {100 * half:.1f}",
        decisive,
    )
