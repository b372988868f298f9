"""The published scores that stand beside a run's: the same tasks, languages and prompts' language.

A reference is the paper's median over five prompts of a task; it is averaged over just those
tasks and languages that the runs were scored on, as theirs is.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable

from mt0_tpu import reference_scores
from mt0_tpu.reporting.config import RunConfig
from mt0_tpu.reporting.records import RankLine
from mt0_tpu.reporting.tables import Column, Scores

# Of the 27 models of the tables, those that the paper's charts are about.
SHOWN = (
    "T0-11B",
    "BLOOM",
    "BLOOMZ-7.1B",
    "BLOOMZ",
    "mT0-300M",
    "mT0-560M",
    "mT0-1.2B",
    "mT0-3.7B",
    "mT0-13B",
)


def published_size(config: RunConfig) -> str | None:
    """Returns the published model of the size of a run's network; None where none has it."""
    families = (("network.T5Config", "num_encoder_layers"), ("network.BloomConfig", "num_layers"))
    for family, layers in families:
        names = (f"{family}.emb_dim", f"{family}.{layers}")
        sizes = [config.parameters.get(name, "") for name in names]
        if all(size.isdecimal() for size in sizes):
            alone = family == "network.BloomConfig"
            return reference_scores.model_of_size(*map(int, sizes), decoder_only=alone)
    return None


class References:
    """The published scores of the tasks in some lines of rank.jsonl.

    `same_size` holds the published models of the size of a run, for a reader's eye.
    """

    def __init__(self, lines: Iterable[RankLine], configs: Iterable[RunConfig] = ()):
        self.same_size = {model for c in configs if (model := published_size(c))}
        self._tasks: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._scores: dict[str, dict[str, float]] = defaultdict(dict)
        for line in lines:
            self._tasks[line.group("dataset"), line.language].add(line.task)
        wanted = set().union(*self._tasks.values())
        for score in reference_scores.reference_scores(metric=reference_scores.MEDIAN):
            # The task says the language of the prompts, too.
            if score.task in wanted:
                self._scores[score.task][score.model] = score.value

    def __bool__(self) -> bool:
        return bool(self._scores)

    def score(self, scores: Scores, column: Column, model: str) -> float | None:
        """Returns a model's percent on a column; None where a part of it was not published."""
        values = []
        for (group, language), cell in scores.union.items():
            if not column.holds(group, cell):
                continue
            value = self.of_language(group, language, model)
            if value is None:
                return None
            values.append(value)
        return statistics.fmean(values) if values else None

    def of_language(self, group: str, language: str, model: str) -> float | None:
        """Returns a model's percent on a data set in one language, the mean over its tasks."""
        tasks = sorted(self._tasks.get((group, language), ()))
        found = [self._scores.get(task, {}).get(model) for task in tasks]
        return None if not found or None in found else statistics.fmean(found)

    def models(self, scores: Scores, column: Column) -> list[tuple[str, float]]:
        """Returns (model, percent) of the models shown that have this column in full."""
        found = ((model, self.score(scores, column, model)) for model in SHOWN)
        return [(model, value) for model, value in found if value is not None]
