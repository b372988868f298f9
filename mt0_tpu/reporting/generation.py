"""Metrics of generated text and code (BLEU, chrF, ROUGE, pass@k, …): by task, run and step."""

from __future__ import annotations

from collections.abc import Sequence

from mt0_tpu import reference_scores
from mt0_tpu.reporting.charts import Line, lines
from mt0_tpu.reporting.curves import legend
from mt0_tpu.reporting.document import escaped, panel, panels
from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.records import read_signatures
from mt0_tpu.reporting.runs import Run, arm_title, short_title

_MOST_TASKS, _MOST_PANELS = 60, 12
# How the tables of the paper call pass@k of HumanEval.
_CODE_DATASET = "openai_humaneval"
_CODE_MODELS = ("BLOOM", "BLOOMZ-7.1B", "BLOOMZ", "mT0-3.7B")


def generation(runs: Sequence[Run], palette: Palette) -> str:
    """A table of the newest metrics, and charts where there are several steps."""
    scored = [run for run in runs if _metrics(run)]
    if not scored:
        return ""
    keys = list(
        dict.fromkeys(
            (task, metric)
            for run in scored
            for task in sorted(_metrics(run))
            for metric in _metrics(run)[task]
        )
    )
    keys.sort(key=lambda key: key[0])
    tasks = list(dict.fromkeys(task for task, _ in keys))
    shown = [key for key in keys if key[0] in tasks[:_MOST_TASKS]]
    left_out = len(tasks) - _MOST_TASKS
    note = f" {left_out} more tasks are left out." if left_out > 0 else ""
    return (
        '<h2 id="generation">Generated text</h2><p>Each task\'s own metrics of what the model '
        f"wrote, of the newest step, on the scale that the metric gives.{note}</p>"
        + _table(scored, shown, palette)
        + _signatures(scored)
        + _charts(scored, shown, palette)
    )


def _metrics(run: Run) -> dict:
    """A run's metrics of tasks that are not scored by rank."""
    ranked = {line.task for line in run.history}
    return {task: found for task, found in run.task_metrics.items() if task not in ranked}


def _table(runs: Sequence[Run], keys: Sequence[tuple[str, str]], palette: Palette) -> str:
    published = {key: code_references(*key) for key in keys}
    models = [m for m in _CODE_MODELS if any(m in found for found in published.values())]
    rows, last = [], None
    for task, metric in keys:
        cells = []
        for run in runs:
            points = _metrics(run).get(task, {}).get(metric)
            cells.append(
                f"<td>{_written(points[-1][1])}<small>step {points[-1][0]:,}</small></td>"
                if points
                else "<td>&ndash;</td>"
            )
        cells += [
            f'<td class="base">{published[task, metric][m]:.2f}</td>'
            if m in published[task, metric]
            else "<td>&ndash;</td>"
            for m in models
        ]
        name = "" if task == last else escaped(task)
        last = task
        rows.append(
            f'<tr><th>{name}</th><td class="text">{escaped(metric)}</td>{"".join(cells)}</tr>'
        )
    heads = "".join(f"<th>{palette.tag(run.arm, _name(run, runs))}</th>" for run in runs) + "".join(
        f'<th class="base">{model}</th>' for model in models
    )
    return (
        '<div class="wide"><table class="tight"><thead><tr><th>task</th><th class="text">metric'
        f"</th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _signatures(runs: Sequence[Run]) -> str:
    found = sorted(set().union(*(read_signatures(run.prediction_folders) for run in runs)))
    lines = "<br>".join(f"{escaped(metric)}: <code>{escaped(how)}</code>" for metric, how in found)
    return f'<p class="soft">{lines}</p>' if lines else ""


def code_references(task: str, metric: str) -> dict[str, float]:
    """Returns the published pass@k of HumanEval in percent, by model; {} for other tasks."""
    if "humaneval" not in task.lower() or not metric.lower().startswith("pass"):
        return {}
    found = reference_scores.reference_scores(dataset=_CODE_DATASET)
    wanted = metric.lower().replace("_at_", "@").replace("_", "")
    return {score.model: score.value for score in found if score.metric.lower() == wanted}


def _charts(runs: Sequence[Run], keys: Sequence[tuple[str, str]], palette: Palette) -> str:
    drawn = []
    for task, metric in keys:
        series = [
            Line(_name(run, runs), tuple(points), palette.css_class(run.arm), marked=True)
            for run in runs
            if len(points := _metrics(run).get(task, {}).get(metric, [])) > 1
        ]
        if series:
            said = "; ".join(f"{line.label} ends at {line.points[-1][1]:.4g}" for line in series)
            label = f"{task}, {metric} by step: {said}"
            drawn.append(panel(task, lines(series, label), metric))
    if not drawn:
        return ""
    arms = list(dict.fromkeys(run.arm for run in runs))
    more = len(drawn) - _MOST_PANELS
    note = f'<p class="soft">{more} more charts are left out.</p>' if more > 0 else ""
    return legend(arms, palette) + panels(drawn[:_MOST_PANELS]) + note


def _name(run: Run, runs: Sequence[Run]) -> str:
    several = len({other.seed for other in runs if other.arm == run.arm}) > 1
    title = short_title(run.arm) or arm_title(run.arm)
    return f"{title}, seed {run.seed}" if several else title


def _written(value: float) -> str:
    return f"{value:.3g}" if 0 < abs(value) < 0.1 else f"{value:,.2f}"
