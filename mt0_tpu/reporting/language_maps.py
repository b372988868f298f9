"""Every language of a data set: a map of scores to look at, and a table to read numbers off."""

from __future__ import annotations

import dataclasses
import statistics

from mt0_tpu.reporting.charts import shortened
from mt0_tpu.reporting.document import escaped, plural
from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.references import SHOWN, References
from mt0_tpu.reporting.runs import short_title
from mt0_tpu.reporting.tables import Cell, Column, Scores, group_title

_LEVELS = 9
_NAME_WIDTH = 24
# Nine shades either way: u1 … u9 above chance, d1 … d9 below it.
STYLE = "".join(
    f".{letter}{level}{{background:rgba(var(--{side}),{0.08 * level:.2f})}}"
    for letter, side in (("u", "above"), ("d", "below"))
    for level in range(1, _LEVELS + 1)
)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Scores of one data set: rows of runs and published models, columns of languages.

    Attributes:
      languages: those seen in finetuning first; within each kind English first, then by code.
      cells: of each language, for what does not depend on the run.
      rows: (name as HTML, percent of each language or None).
    """

    group: str
    languages: list[str]
    cells: dict[str, Cell]
    rows: list[tuple[str, list[float | None]]]

    @property
    def num_seen(self) -> int:
        return sum(self.cells[language].seen for language in self.languages)


def language_maps(scores: Scores, references: References, palette: Palette) -> str:
    """A map of each data set in several languages, and behind a click its table."""
    groups = [g for g in scores.groups if len(scores.languages(Column((g,), "all", ""))) > 1]
    if not groups:
        return ""
    grids = [_grid(scores, references, palette, group) for group in groups]
    parts = [
        f"<div><h3>{escaped(group_title(grid.group))}</h3>{_map(grid)}{_table(grid)}</div>"
        for grid in grids
    ]
    return (
        '<h2 id="by-language">By language</h2><p>Percent: the median over prompts, the mean over '
        "seeds. Blue above chance, orange below it, the deeper the farther.</p>"
        + f'<div class="side">{"".join(parts)}</div>'
    )


def _grid(scores: Scores, references: References, palette: Palette, group: str) -> _Grid:
    cells = {language: cell for (name, language), cell in scores.union.items() if name == group}
    # English first: one arm of the study was finetuned on nothing else.
    languages = sorted(cells, key=lambda lang: (not cells[lang].seen, lang != "en", lang))
    rows = [
        (
            palette.tag(arm, shortened(short_title(arm), _NAME_WIDTH)),
            [_score(scores, arm, group, language) for language in languages],
        )
        for arm in scores.cells
    ]
    for model in SHOWN:
        values = [references.of_language(group, language, model) for language in languages]
        if any(value is not None for value in values):
            rows.append((f'<span class="soft">{model}</span>', values))
    return _Grid(group, languages, cells, rows)


def _score(scores: Scores, arm: str, group: str, language: str) -> float | None:
    seeds = scores.cells[arm].values()
    found = [cells[group, language].median for cells in seeds if (group, language) in cells]
    return 100 * statistics.fmean(found) if found else None


def _map(grid: _Grid) -> str:
    """Runs down and languages across, whole percents on their tint."""
    # A gap parts languages seen from unseen ones.
    first = grid.num_seen
    gaps = [' class="gap"' if 0 < first == i else "" for i in range(len(grid.languages))]
    kinds = [("seen", first, ""), ("unseen", len(gaps) - first, ' class="gap"' if first else "")]
    top = "".join(
        f'<th colspan="{count}"{gap}>{title}</th>' for title, count, gap in kinds if count
    )
    codes = "".join(
        f"<th{gap}>{escaped(language)}</th>"
        for language, gap in zip(grid.languages, gaps, strict=True)
    )
    rows = []
    for name, values in grid.rows:
        drawn = []
        for language, value, gap in zip(grid.languages, values, gaps, strict=True):
            shade = shade_of(value, 100 * grid.cells[language].chance)
            css = " ".join(filter(None, ["gap" if gap else "", shade]))
            text = "" if value is None else f"{value:.0f}"
            drawn.append(f'<td class="{css}">{text}</td>' if css else f"<td>{text}</td>")
        rows.append(f"<tr><th>{name}</th>{''.join(drawn)}</tr>")
    return (
        f'<div class="wide"><table class="map"><thead><tr><th></th>{top}</tr><tr><th></th>{codes}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _table(grid: _Grid) -> str:
    """Languages down; questions, chance, majority and runs across."""
    rows = []
    for index, language in enumerate(grid.languages):
        cell = grid.cells[language]
        values = "".join(
            f'<td class="{shade_of(found[index], 100 * cell.chance)}">{found[index]:.1f}</td>'
            if found[index] is not None
            else "<td>&ndash;</td>"
            for _, found in grid.rows
        )
        rows.append(
            f'<tr><th>{escaped(language)}</th><td class="base">'
            f'{"seen" if cell.seen else "unseen"}</td><td class="base">{cell.num_examples:,}</td>'
            f'<td class="base">{100 * cell.chance:.1f}</td>'
            f'<td class="base">{100 * cell.majority:.1f}</td>{values}</tr>'
        )
    heads = "".join(f"<th>{name}</th>" for name, _ in grid.rows)
    return (
        f"<details><summary>{plural(len(grid.languages), 'language')} as a table</summary>"
        '<div class="wide"><table class="heat"><thead><tr><th></th><th>finetuning</th>'
        f"<th>questions</th><th>chance</th><th>majority</th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def shade_of(value: float | None, chance: float) -> str:
    """Returns the class of a tint by how far percents are from chance, of what was possible."""
    if value is None:
        return ""
    room = (100 - chance) if value > chance else chance
    strength = min(abs(value - chance) / room, 1) if room else 0
    level = round(_LEVELS * strength**0.7)
    return f"{'u' if value > chance else 'd'}{level}" if level else ""
