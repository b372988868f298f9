"""What was run: folders, steps and sizes; the settings; and where runs differ in them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from mt0_tpu.reporting.config import differences
from mt0_tpu.reporting.curves import loss_curve, speed_curve
from mt0_tpu.reporting.document import escaped
from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.runs import Run, arm_title, arms_in_order, short_title

_MOST_DIFFERENCES, _MOST_CONFIGS, _MOST_LINES = 60, 8, 250


def setup(runs: Sequence[Run], palette: Palette) -> str:
    """The runs as a table, their macros and differences, and each config behind a click."""
    first = {}
    for run in runs:
        if run.config:
            first.setdefault(run.arm, run)
    arms = [arm for arm in arms_in_order(runs) if arm in first]
    return (
        '<h2 id="runs">What was run</h2>'
        + _runs(runs, palette)
        + _macros({arm: first[arm] for arm in arms}, palette)
        + _differences({arm: first[arm] for arm in arms}, palette)
        + _configs([first[arm] for arm in arms])
    )


def _runs(runs: Sequence[Run], palette: Palette) -> str:
    # A single run stands in its parent, so that it has a name.
    root = os.path.commonpath([run.path for run in runs])
    root = os.path.dirname(root) if any(str(run.path) == root for run in runs) else root
    rows = []
    for run in runs:
        loss, speed = loss_curve(run), speed_curve(run)
        last = [p[-1][0] for metrics in run.curves.values() for p in metrics.values()]
        # An untrained network stands in the folder of a trained one.
        own = run.arm != "untrained"
        numbers = (
            run.parameters or "&ndash;",
            f"{max(last):,}" if last else "&ndash;",
            f"{loss[-1][1]:.3f}" if loss else "&ndash;",
            f"{statistics.median(value for _, value in speed):,.0f}" if speed else "&ndash;",
            ", ".join(f"{step:,}" for step in run.scored_steps) or "&ndash;",
        )
        place = escaped(os.path.relpath(run.path, root))
        notes = [f"scores also in {folder}" for folder in run.evaluations if own]
        if own and not run.curves and run.checkpoint:
            notes.append(f"scored: {run.checkpoint}")
        note = "".join(f'<br><span class="soft">{escaped(_short(text))}</span>' for text in notes)
        rows.append(
            f"<tr><th>{palette.tag(run.arm)}</th><td>{run.seed}</td>"
            + "".join(f"<td>{number}</td>" for number in numbers)
            + f'<td class="text"><code>{place}</code>{note}</td></tr>'
        )
    return (
        '<div class="wide"><table class="tight"><thead><tr><th>run</th><th>seed</th>'
        "<th>parameters</th><th>last step</th><th>last loss</th><th>tokens/s</th>"
        f'<th>scored at step</th><th class="text">folder</th></tr></thead><tbody>{"".join(rows)}'
        f"</tbody><caption>Folders within <code>{escaped(root)}</code>.</caption></table></div>"
    )


def _short(text: str) -> str:
    return text if len(text) <= 70 else f"{text[:20]}…{text[-49:]}"


def _macros(runs: dict[str, Run], palette: Palette) -> str:
    """Macros beside each other, one row each; those that differ are marked."""
    names = sorted({name for run in runs.values() for name in run.config.macros})
    table = _side_by_side(
        {n: {arm: run.config.macros.get(n, "") for arm, run in runs.items()} for n in names},
        palette,
        mark=len(runs) > 1,
    )
    if not names:
        return ""
    marked = ", what differs marked" if len(runs) > 1 else ""
    return (
        f"<details{' open' if len(runs) == 1 else ''}><summary>Macros of config.gin{marked}"
        f"</summary>{table}</details>"
    )


def _differences(runs: dict[str, Run], palette: Palette) -> str:
    if len(runs) < 2:
        return ""
    found = differences({arm: run.config for arm, run in runs.items()})
    if not found:
        return "<p>Their settings (config.gin) are the same in everything but folder and seed.</p>"
    left_out = len(found) - _MOST_DIFFERENCES
    shown = dict(list(found.items())[:_MOST_DIFFERENCES])
    note = f'<p class="soft">{left_out} more are left out.</p>' if left_out > 0 else ""
    return (
        "<h3>Where the runs differ</h3><p>Settings of config.gin that are not the same in all; "
        "folders and seeds aside, and one seed of each run.</p>"
        + _side_by_side(shown, palette)
        + note
    )


def _side_by_side(settings: dict[str, dict[str, str]], palette: Palette, mark: bool = False) -> str:
    arms = list(next(iter(settings.values()), {}))
    rows = []
    for name, values in settings.items():
        css = ' class="text changed"' if mark and len(set(values.values())) > 1 else ' class="text"'
        cells = "".join(
            f"<td{css}><code>{escaped(values[arm])}</code></td>"
            if values[arm]
            else f'<td{css}><span class="soft">unset</span></td>'
            for arm in arms
        )
        rows.append(f"<tr><th><code>{escaped(name)}</code></th>{cells}</tr>")
    heads = "".join(f'<th class="text">{palette.tag(arm, short_title(arm))}</th>' for arm in arms)
    return (
        f'<div class="wide"><table class="tight"><thead><tr><th>setting</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _configs(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs[:_MOST_CONFIGS]:
        settings = [f"{name} = {value}" for name, value in run.config.settings.items()]
        more = len(settings) - _MOST_LINES
        end = f"\n# {more} more settings are left out." if more > 0 else ""
        parts.append(
            f"<details><summary>The whole config of {escaped(arm_title(run.arm))}</summary>"
            f'<pre class="config">{escaped(chr(10).join(settings[:_MOST_LINES]))}{end}</pre>'
            "</details>"
        )
    if len(runs) > _MOST_CONFIGS:
        parts.append(f'<p class="soft">{len(runs) - _MOST_CONFIGS} more configs are left out.</p>')
    return "".join(parts)
