"""Task generalisation by model: bars of every run, and of the paper's models beside them."""

from __future__ import annotations

import dataclasses
import statistics

from mt0_tpu.reporting.charts import Bar, BarGroup, bars
from mt0_tpu.reporting.document import escaped, panel, panels, plural
from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.references import SHOWN, References
from mt0_tpu.reporting.runs import short_title
from mt0_tpu.reporting.tables import Column, Scores, group_title


def generalisation(scores: Scores, references: References, palette: Palette) -> str:
    """Charts of each data set, those held out of finetuning first, on seen languages and unseen."""
    if not scores:
        return ""
    parts = [
        '<h2 id="tasks">Task generalisation by model</h2><p>Accuracy in percent by rank '
        "classification: the median over prompts, then the mean over languages. Dashed: chance; "
        "dotted: always giving the most frequent answer.</p>"
    ]
    if references:
        star = " A star marks a model of the size of a run." if references.same_size else ""
        parts.append(
            '<p class="soft">Grey bars are published models, on the same tasks, languages and '
            "language of prompts (median over the paper's five prompts). Their source stands under "
            f'<a href="#method">How to read</a>.{star}</p>'
        )
    for groups, title in (
        (scores.held_out, "Held out of finetuning: tasks of a kind that was never trained on"),
        (scores.trained, "Kinds of task that finetuning had, on concepts it never showed"),
    ):
        if groups:
            drawn = [_panel(scores, references, palette, group) for group in groups]
            parts.append(f"<h4>{title}</h4>{panels(drawn, stacked=bool(references))}")
    if scores.several_seeds:
        parts.append(
            '<p class="soft">Bars are means over seeds, dots single seeds, whiskers one standard '
            "deviation.</p>"
        )
    return "".join(parts)


def _panel(scores: Scores, references: References, palette: Palette, name: str) -> str:
    """One data set: its bars on seen languages, and below them on unseen ones."""
    found = []
    for split in ("seen", "unseen"):
        column = Column((name,), split, group_title(name))
        languages = scores.languages(column)
        if languages:
            title = f"{plural(len(languages), 'language')} {split}"
            found.append(_group(scores, references, palette, column, title))
    # A data set in English alone has no languages to tell apart.
    if scores.languages(Column((name,), "all", "")) == ["en"]:
        found = [dataclasses.replace(found[0], title="")]
    said = "; ".join(
        f"{group.title or 'English'}: " + ", ".join(f"{b.label} {b.value:.1f}" for b in group.rows)
        for group in found
    )
    note = "" if found[0].title else "English"
    label = f"{group_title(name)}, accuracy in percent. {said}"
    return panel(group_title(name), bars(found, label), note)


def _group(
    scores: Scores, references: References, palette: Palette, column: Column, title: str
) -> BarGroup:
    rows = []
    for arm in scores.cells:
        if found := scores.over_seeds(arm, column):
            values = tuple(100 * value for value in found.values)
            css = palette.css_class(arm)
            rows.append(Bar(short_title(arm), 100 * found.mean, css, 100 * found.deviation, values))
    for model, value in references.models(scores, column):
        star = " *" if model in references.same_size else ""
        rows.append(Bar(model + star, value, "ref"))
    levels = (base(scores, column, field) for field in ("chance", "majority"))
    return BarGroup(title, tuple(rows), *levels)


def base(scores: Scores, column: Column, field: str) -> float:
    """Returns chance or majority of a column in percent, the mean over the runs that have it."""
    found = [scores.over_seeds(arm, column, field) for arm in scores.cells]
    return 100 * statistics.fmean(spread.mean for spread in found if spread)


def dataset_table(scores: Scores, references: References, palette: Palette) -> str:
    """The same numbers as a table, with the published models, to be read off or copied."""
    columns = [
        (group, split)
        for group in scores.groups
        for split in ("seen", "unseen")
        if scores.languages(Column((group,), split, ""))
    ]
    if not columns:
        return ""
    published = {
        (group, split): dict(references.models(scores, Column((group,), split, "")))
        for group, split in columns
    }
    models = [model for model in SHOWN if any(model in found for found in published.values())]
    rows = []
    for group, split in columns:
        column = Column((group,), split, "")
        cells = [f"{base(scores, column, field):.1f}" for field in ("chance", "majority")]
        for arm in scores.cells:
            found = scores.over_seeds(arm, column)
            cells.append(f"{100 * found.mean:.1f}" if found else "&ndash;")
        theirs = published[group, split]
        cells += [f"{theirs[m]:.1f}" if m in theirs else "&ndash;" for m in models]
        rows.append(
            f'<tr><th>{escaped(group_title(group))}</th><td class="text">{split}</td>'
            f"<td>{len(scores.languages(column))}</td>"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    heads = "".join(
        f"<th>{palette.tag(arm, short_title(arm))}</th>" for arm in scores.cells
    ) + "".join(f'<th class="base">{escaped(model)}</th>' for model in models)
    return (
        "<details><summary>The same as a table</summary>"
        '<div class="wide"><table class="tight"><thead><tr><th>data set</th>'
        '<th class="text">languages</th><th>n</th><th>chance</th><th>majority</th>'
        f"{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )
