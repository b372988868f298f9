"""The report's finer tables as HTML: prompts, languages, single questions."""

from __future__ import annotations

import html
import statistics

from mt0_tpu.report_runs import arm_title
from mt0_tpu.report_samples import Question
from mt0_tpu.report_tables import Column, Scores, cluster_title


def escaped(value: object) -> str:
    """Returns data as HTML text, also fit for an attribute."""
    return html.escape(str(value), quote=True)


def arm_tag(arm: str, colours: dict[str, str]) -> str:
    """Returns an arm's title with its colour before it."""
    return f'<span class="arm" style="--c:{colours[arm]}">{escaped(arm_title(arm))}</span>'


def prompt_table(scores: Scores, colours: dict[str, str]) -> str:
    """How far the wording of the prompt moves the score: least, median, greatest."""
    if not scores or all(
        c.low == c.high for s in scores.cells.values() for r in s.values() for c in r.values()
    ):
        return ""
    rows = []
    for cluster in (*scores.held_out, *scores.trained):
        column = Column((cluster,), "all", cluster_title(cluster))
        for index, arm in enumerate(scores.cells):
            found = [scores.over_seeds(arm, column, f) for f in ("low", "median", "high")]
            if None in found:
                continue
            chance = scores.over_seeds(arm, column, "chance")
            values = [100 * s.mean for s in found]
            name = escaped(column.title) if index == 0 else ""
            cells = "".join(f"<td>{value:.1f}</td>" for value in values)
            bar = _range_bar(values, 100 * chance.mean, colours[arm])
            rows.append(
                f'<tr><th class="text">{name}</th><td class="text">{arm_tag(arm, colours)}</td>'
                f"{cells}<td>{bar}</td></tr>"
            )
    return (
        "<h2>Sensitivity to the prompt</h2><p>The same questions under every prompt: the worst, "
        "the median and the best prompt of each language, averaged over languages and seeds.</p>"
        '<table class="tight"><thead><tr><th class="text">cluster</th><th class="text">arm</th>'
        "<th>worst</th><th>median</th><th>best</th><th>0 to 100%, chance dashed</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _range_bar(values: list[float], chance: float, ink: str) -> str:
    low, median, high = (2.4 * value for value in values)
    at = 2.4 * chance
    return (
        '<svg width="240" height="14" role="img" aria-label="range over prompts">'
        '<line x1="0" x2="240" y1="7" y2="7" stroke="#d9dee6"/>'
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="14" stroke="#222" stroke-dasharray="2 2"/>'
        f'<rect x="{low:.1f}" y="4" width="{max(high - low, 1):.1f}" height="6" rx="3" '
        f'fill="{ink}" fill-opacity=".45"/>'
        f'<circle cx="{median:.1f}" cy="7" r="4" fill="{ink}"/></svg>'
    )


def language_tables(scores: Scores, colours: dict[str, str]) -> str:
    """A heat table a cluster: languages down, arms across."""
    if not scores:
        return ""
    legend = "".join(arm_tag(arm, colours) for arm in scores.cells)
    tables = [_heat(scores, c, colours) for c in (*scores.held_out, *scores.trained)]
    return (
        "<h2>By language</h2><p>Median over prompts, mean over seeds, in percent. Blue above "
        "chance, orange below it, the deeper the farther.</p>"
        f'<p class="legend">{legend}</p><div class="side">{"".join(tables)}</div>'
    )


def _heat(scores: Scores, cluster: str, colours: dict[str, str]) -> str:
    cells = {lang: cell for (name, lang), cell in scores.union.items() if name == cluster}
    arms = list(scores.cells)
    rows = []
    for seen, title in ((True, "seen in finetuning"), (False, "unseen in finetuning")):
        # English first: one arm was finetuned on nothing else.
        languages = sorted(
            (k for k in cells if cells[k].seen == seen), key=lambda k: (k != "en", k)
        )
        if languages:
            rows.append(
                f'<tr class="group"><th colspan="{len(arms) + 1}" class="text">{title}</th></tr>'
            )
        for language in languages:
            row = [_heat_cell(scores, arm, cluster, language) for arm in arms]
            rows.append(f"<tr><th>{escaped(language)}</th>{''.join(row)}</tr>")
    chance = 100 * statistics.fmean(cell.chance for cell in cells.values())
    heads = "".join(
        f'<th style="background:{colours[arm]}" title="{escaped(arm_title(arm))}"></th>'
        for arm in arms
    )
    kind = "held out" if cluster in scores.held_out else "trained"
    return (
        f'<div><h3>{escaped(cluster_title(cluster))} <span class="soft">({kind}; chance '
        f'{chance:.1f})</span></h3><table class="heat"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _heat_cell(scores: Scores, arm: str, cluster: str, language: str) -> str:
    found = [
        cells[cluster, language]
        for cells in scores.cells[arm].values()
        if (cluster, language) in cells
    ]
    if not found:
        return "<td>&ndash;</td>"
    value = statistics.fmean(cell.median for cell in found)
    chance = statistics.fmean(cell.chance for cell in found)
    room = (1 - chance) if value > chance else chance
    strength = min(abs(value - chance) / room, 1) if room else 0
    tint = "0,114,178" if value > chance else "230,140,0"
    return f'<td style="background:rgba({tint},{0.75 * strength**0.7:.2f})">{100 * value:.1f}</td>'


def question_blocks(questions: list[Question]) -> str:
    """The first question of some tasks, with what each arm chose."""
    blocks = []
    for question in questions:
        choices = []
        for index, choice in enumerate(question.choices):
            picks = [arm_title(arm) for arm, pick in question.picks.items() if pick == index]
            tags = "".join(f'<span class="pick">&#9664; {escaped(title)}</span>' for title in picks)
            right = index == question.answer
            name = ' class="right"' if right else ""
            mark = " &#10003;" if right else ""
            choices.append(f"<li{name}><bdi>{escaped(choice)}</bdi>{mark}{tags}</li>")
        blocks.append(
            f'<div class="question"><div class="soft">{escaped(question.task)}</div>'
            f'<pre dir="auto">{escaped(question.inputs)}</pre><ol>{"".join(choices)}</ol></div>'
        )
    if not blocks:
        return ""
    return (
        "<h2>Some questions</h2><p>The first question of each task, not picked. The right choice "
        "is ticked; beside a choice, the arms that ranked it first.</p>" + "".join(blocks)
    )
