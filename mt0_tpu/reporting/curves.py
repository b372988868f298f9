"""Learning curves: loss, accuracy, learning rate and speed by step, runs beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from mt0_tpu.reporting.charts import Line, lines
from mt0_tpu.reporting.document import escaped, panel, panels
from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.records import Points
from mt0_tpu.reporting.runs import Run, arm_title, arms_in_order

# What is drawn: title, the metric names that may hold it (best first), whether from zero.
_LOSS = ("loss_per_nonpadding_target_token", "cross_ent_loss", "loss")
_SPEED = (
    "timing/real_tokens_per_second",
    "timing/nonpadding_tokens_per_second",
    "timing/tokens_per_second",
    "timing/target_tokens_per_second",
)
_CURVES = (
    ("Loss per target token", _LOSS, False),
    ("Accuracy of target tokens", ("accuracy",), True),
    ("Learning rate", ("learning_rate", "learning_rate/current"), True),
)


def curve(run: Run, split: str, names: Sequence[str]) -> Points:
    """Returns the first of the named metrics that a run has."""
    metrics = run.curves.get(split, {})
    return next((metrics[name] for name in names if metrics.get(name)), [])


def loss_curve(run: Run) -> Points:
    """Returns a run's training loss, by step."""
    return curve(run, "train", _LOSS)


def speed_curve(run: Run) -> Points:
    """Returns a run's tokens a second, by step."""
    return curve(run, "train", _SPEED)


def learning_curves(runs: Sequence[Run], palette: Palette) -> str:
    """Charts of what metrics.jsonl holds; pretraining apart, for its loss is another's."""
    drawn_runs = [
        run for run in runs if any(curve(run, s, n) for s in run.curves for _, n, _ in _CURVES)
    ]
    if not drawn_runs:
        return ""
    apart = [run for run in drawn_runs if run.arm.split("/")[-1] == "pretrain"]
    rest = [run for run in drawn_runs if run not in apart]
    parts = []
    for name, members in (("Pretraining (span corruption)", apart), ("Finetuning", rest)):
        drawn = [_panel(members, *what, palette) for what in _CURVES] if members else []
        title = f"<h4>{name}</h4>" if apart and rest else ""
        parts.append(title + panels(drawn) if any(drawn) else "")
    return (
        '<h2 id="curves">Learning curves</h2>'
        + legend(arms_in_order(drawn_runs), palette, _key(drawn_runs))
        + "".join(parts)
    )


def _key(runs: Sequence[Run]) -> str:
    more = [] if len({run.seed for run in runs}) == 1 else ["one line a seed"]
    if any(set(run.curves) - {"train"} for run in runs):
        more.append("dots: evaluation during training")
    return "; ".join(more)


def legend(arms: Sequence[str], palette: Palette, key: str = "") -> str:
    """Returns the arms with their colours, and what else a reader must know of a chart."""
    names = [palette.tag(arm) for arm in arms]
    more = f'<span class="key">{escaped(key)}</span>' if key else ""
    return f'<p class="legend">{"".join(names)}{more}</p>'


def _panel(
    runs: Sequence[Run], title: str, names: Sequence[str], from_zero: bool, palette: Palette
) -> str:
    several = len({run.seed for run in runs}) > 1
    series = []
    for run in runs:
        who = f"{arm_title(run.arm)}, seed {run.seed}" if several else arm_title(run.arm)
        for split in ("train", *sorted(set(run.curves) - {"train"})):
            if points := curve(run, split, names):
                marked = split != "train"
                label = f"{who} ({split})" if marked else who
                series.append(Line(label, tuple(points), palette.css_class(run.arm), marked))
    if not series:
        return ""
    ends = "; ".join(
        f"{line.label} ends at {line.points[-1][1]:.4g} (step {line.points[-1][0]})"
        for line in series
    )
    return panel(title, lines(series, f"{title} by step: {ends}", from_zero), "by step")
