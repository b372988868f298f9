"""Checkpoints beside each other: how the scores move with the step."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

from mt0_tpu.reporting.charts import Line, lines
from mt0_tpu.reporting.curves import legend
from mt0_tpu.reporting.document import escaped, panel, panels
from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.runs import Run, short_title
from mt0_tpu.reporting.tables import Column, cells_of, group_title, score

_MOST_ROWS = 40
_LEAST_SPAN = 10.0  # points


def checkpoints(runs: Sequence[Run], palette: Palette) -> str:
    """Scores by step of every run that has two steps or more; '' where none has."""
    found = {id(run): by_step(run) for run in runs}
    several = [run for run in runs if len(found[id(run)]) > 1]
    if not several:
        return ""
    groups = list(dict.fromkeys(g for run in several for s in found[id(run)].values() for g in s))
    drawn = []
    for group in groups:
        series = []
        for run in several:
            points = [(step, s[group]) for step, s in found[id(run)].items() if group in s]
            if len(points) > 1:
                css = palette.css_class(run.arm)
                series.append(Line(_name(run, runs), tuple(points), css, marked=True))
        if series:
            said = "; ".join(
                f"{line.label} {', '.join(f'{v:.1f} at {s}' for s, v in line.points)}"
                for line in series
            )
            title = group_title(group)
            drawn.append(
                panel(
                    title,
                    lines(series, f"{title}, percent by step: {said}", least_span=_LEAST_SPAN),
                    "by step",
                )
            )
    uneven = (
        " Some steps were scored on fewer questions than others, so small moves say little."
        if any(_is_uneven(run) for run in several)
        else ""
    )
    return (
        '<h2 id="checkpoints">Checkpoints compared</h2><p>The score of every step that was '
        "evaluated: median over prompts, mean over languages, in percent. Step 0 is the network "
        f"as it was drawn, untrained. Tables and charts elsewhere show the newest step.{uneven}</p>"
        + legend(list(dict.fromkeys(run.arm for run in several)), palette)
        + panels(drawn)
        + _table(several, found, groups, palette, runs)
    )


def by_step(run: Run) -> dict[int, dict[str, float]]:
    """Returns step -> data set -> percent, by step."""
    at: dict[int, list] = defaultdict(list)
    for line in run.history:
        at[line.step].append(line)
    result = {}
    for step, rank in sorted(at.items()):
        cells = cells_of(rank, "dataset")
        values = {g: score(cells, Column((g,), "all", "")) for g in sorted({g for g, _ in cells})}
        result[step] = {group: 100 * value for group, value in values.items()}
    return result


def _is_uneven(run: Run) -> bool:
    """Says whether a task and prompt had other numbers of questions at other steps."""
    counts: dict[tuple, set[int]] = defaultdict(set)
    for line in run.history:
        counts[line.task, line.language, line.prompt].add(line.num_examples)
    return any(len(found) > 1 for found in counts.values())


def _name(run: Run, runs: Sequence[Run]) -> str:
    several = len({other.seed for other in runs if other.arm == run.arm}) > 1
    return f"{short_title(run.arm)}, seed {run.seed}" if several else short_title(run.arm)


def _table(several: Sequence[Run], found: dict, groups: list[str], palette: Palette, runs) -> str:
    rows = []
    for run in several:
        for index, (step, scores) in enumerate(found[id(run)].items()):
            name = palette.tag(run.arm, _name(run, runs)) if index == 0 else ""
            cells = "".join(
                f"<td>{scores[group]:.1f}</td>" if group in scores else "<td>&ndash;</td>"
                for group in groups
            )
            mean = statistics.fmean(scores.values())
            rows.append(f"<tr><th>{name}</th><td>{step:,}</td>{cells}<td>{mean:.1f}</td></tr>")
    left_out = len(rows) - _MOST_ROWS
    note = f"<caption>{left_out} more rows are left out.</caption>" if left_out > 0 else ""
    heads = "".join(f"<th>{escaped(group_title(group))}</th>" for group in groups)
    return (
        "<details><summary>The same as a table</summary>"
        '<div class="wide"><table class="tight"><thead><tr><th>run</th><th>step</th>'
        f"{heads}<th>mean</th></tr></thead><tbody>{''.join(rows[:_MOST_ROWS])}</tbody>{note}"
        "</table></div></details>"
    )
