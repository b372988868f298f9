"""Sensitivity to the prompt: the same questions under every wording."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Sequence

from mt0_tpu.reporting.bars import base
from mt0_tpu.reporting.charts import Strip, strips
from mt0_tpu.reporting.document import escaped, panel, panels
from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.runs import Run, short_title
from mt0_tpu.reporting.tables import Column, Scores, group_title

# A prompt is one in all languages that it was translated to.
_TRANSLATION = re.compile(r"_[a-z]{2,3}(?:mt|ht)$")


def prompt_accuracies(runs: Sequence[Run], by: str) -> dict[str, dict[str, dict[str, float]]]:
    """Returns group -> arm -> prompt -> percent: the mean over tasks, languages and seeds."""
    found: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for run in runs:
        for line in run.rank:
            prompt = _TRANSLATION.sub("", line.prompt)
            found[line.group(by)][run.arm][prompt].append(100 * line.accuracy)
    return {
        group: {
            arm: {prompt: statistics.fmean(values) for prompt, values in sorted(prompts.items())}
            for arm, prompts in arms.items()
        }
        for group, arms in found.items()
    }


def sensitivity(runs: Sequence[Run], scores: Scores, palette: Palette) -> str:
    """A chart each data set with more than one prompt, and the spread by language as a table."""
    found = prompt_accuracies(runs, "dataset")
    groups = [g for g in scores.groups if any(len(prompts) > 1 for prompts in found[g].values())]
    if not groups:
        return ""
    drawn = []
    for group in groups:
        column = Column((group,), "all", group_title(group))
        rows = [
            Strip(
                short_title(arm),
                tuple(found[group][arm].items()),
                100 * scores.over_seeds(arm, column).mean,
                palette.css_class(arm),
            )
            for arm in scores.cells
            if arm in found[group]
        ]
        said = "; ".join(
            f"{row.label} {min(v for _, v in row.dots):.1f} to {max(v for _, v in row.dots):.1f}"
            for row in rows
        )
        label = f"{column.title}, percent by prompt: {said}"
        most = max(len(row.dots) for row in rows)
        drawn.append(
            panel(
                column.title, strips(rows, base(scores, column, "chance"), label), f"{most} prompts"
            )
        )
    return (
        '<h2 id="prompts">Sensitivity to the prompt</h2><p>A dot is one prompt, its accuracy '
        "averaged over languages and seeds. The upright mark, and the figure on the right, is the "
        "score: the median over prompts in each language, then the mean over languages. Dashed: "
        "chance.</p>" + panels(drawn) + _table(scores, groups, palette)
    )


def _table(scores: Scores, groups: Sequence[str], palette: Palette) -> str:
    """How far the wording moves a single language: worst, median and best prompt of each."""
    rows = []
    for group in groups:
        column = Column((group,), "all", "")
        for index, arm in enumerate(scores.cells):
            found = [scores.over_seeds(arm, column, f) for f in ("low", "median", "high")]
            if None in found:
                continue
            cells = "".join(f"<td>{100 * spread.mean:.1f}</td>" for spread in found)
            name = escaped(group_title(group)) if index == 0 else ""
            tag = palette.tag(arm, short_title(arm))
            rows.append(
                f'<tr><th>{name}</th><td class="text">{tag}</td>{cells}'
                f"<td>{100 * (found[2].mean - found[0].mean):.1f}</td></tr>"
            )
    return (
        "<details><summary>Worst, median and best prompt of each language</summary>"
        '<div class="wide"><table class="tight"><thead><tr><th>data set</th><th class="text">run'
        "</th><th>worst</th><th>median</th><th>best</th><th>spread</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody><caption>Each taken by language, then averaged over "
        "languages and seeds.</caption></table></div></details>"
    )
