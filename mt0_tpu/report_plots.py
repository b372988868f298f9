"""The report's figures: bars by cluster, learning curves. matplotlib, without a display."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable

from mt0_tpu.report_runs import Run, arm_title, arms_in_order
from mt0_tpu.report_tables import Column, Scores, cluster_title

# Okabe and Ito's palette: told apart by colour-blind readers and in grey print.
COLOURS = {
    "untrained": "#BBBBBB",
    "pretrain": "#8C8C8C",
    "scratch": "#CC79A7",
    "english": "#E69F00",
    "multilingual": "#0072B2",
}
_OTHERS = ("#009E73", "#56B4E9", "#D55E00", "#F0E442", "#444444")

_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#888888",
    "legend.frameon": False,
    # Data may hold a dollar sign; it is no formula.
    "text.parse_math": False,
    # The same numbers give the same bytes.
    "svg.hashsalt": "mt0_tpu",
}

# What a run's curves show: title, and the metric names that may hold it, best first.
_CURVES = (
    ("loss per target token", ("loss_per_nonpadding_target_token", "cross_ent_loss", "loss")),
    ("accuracy of target tokens", ("accuracy",)),
    (
        "real tokens per second",
        (
            "timing/real_tokens_per_second",
            "timing/nonpadding_tokens_per_second",
            "timing/tokens_per_second",
            "timing/target_tokens_per_second",
        ),
    ),
)
_MOST_POINTS = 300


def colour(arm: str, arms: list[str]) -> str:
    """Returns an arm's colour, the same in every figure and table of a report."""
    strangers = [name for name in arms if name not in COLOURS]
    return COLOURS.get(arm) or _OTHERS[strangers.index(arm) % len(_OTHERS)]


def ascii_only(text: str) -> str:
    """Returns text that any font can draw; other characters become question marks."""
    return text.encode("ascii", "replace").decode()


def curve(run: Run, split: str, names: tuple[str, ...]) -> list[tuple[int, float]]:
    """Returns the first of the named metrics that a run has, as [(step, value)]."""
    metrics = run.curves.get(split, {})
    return next((metrics[name] for name in names if metrics.get(name)), [])


def speed_curve(run: Run) -> list[tuple[int, float]]:
    """Returns a run's tokens a second, by step."""
    return curve(run, "train", _CURVES[2][1])


def loss_curve(run: Run) -> list[tuple[int, float]]:
    """Returns a run's training loss, by step."""
    return curve(run, "train", _CURVES[0][1])


def draw_figures(runs: list[Run], scores: Scores) -> dict[str, bytes]:
    """Draws what the runs allow; returns images by file name, each as .svg and as .png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    wanted: dict[str, Callable] = {}
    if scores.held_out:
        wanted["held_out"] = lambda: _bars(pyplot, scores, scores.held_out)
    if scores.trained:
        wanted["trained"] = lambda: _bars(pyplot, scores, scores.trained)
    if any(loss_curve(run) for run in runs):
        wanted["curves"] = lambda: _curves(pyplot, runs)
    drawn = {}
    for name, draw in wanted.items():
        with pyplot.rc_context(_STYLE):
            figure = draw()
            for kind in ("png", "svg"):
                buffer = io.BytesIO()
                # The date is left out: a report depends on its runs alone.
                metadata = {"Date": None} if kind == "svg" else {"Software": None}
                figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
                drawn[f"{name}.{kind}"] = buffer.getvalue()
            pyplot.close(figure)
    return drawn


def _bars(pyplot, scores: Scores, clusters: tuple[str, ...]):
    """One panel a cluster: bars of the arms on seen and unseen languages, seeds as dots."""
    across = min(len(clusters), 4)
    down = -(-len(clusters) // across)
    figure, axes = pyplot.subplots(
        down,
        across,
        figsize=(max(2.6 * across, 6.5), 2.4 * down + 0.5),
        squeeze=False,
        layout="constrained",
    )
    arms = list(scores.cells)
    for axis in axes.flat[len(clusters) :]:
        axis.set_visible(False)
    for axis, cluster in zip(axes.flat, clusters, strict=False):
        columns = [Column((cluster,), split, split) for split in ("seen", "unseen")]
        columns = [c for c in columns if any(scores.over_seeds(a, c) for a in arms)]
        for place, column in enumerate(columns):
            _bar_group(axis, scores, arms, column, place)
        axis.set_xticks(range(len(columns)), [f"{c.title} languages" for c in columns])
        axis.tick_params(axis="x", length=0)
        axis.set_title(ascii_only(cluster_title(cluster)), loc="left")
        # One or two groups fill a panel alike.
        axis.set_xlim(-0.5, max(len(columns), 2) - 0.5)
        axis.set_ylim(bottom=0)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy, %")
    handles = [
        pyplot.Rectangle((0, 0), 1, 1, color=colour(arm, arms), label=ascii_only(arm_title(arm)))
        for arm in arms
    ]
    handles.append(pyplot.Line2D([], [], color="#222222", linestyle="--", label="chance"))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 3))
    return figure


def _bar_group(axis, scores: Scores, arms: list[str], column: Column, place: int) -> None:
    width = 0.8 / len(arms)
    for index, arm in enumerate(arms):
        found = scores.over_seeds(arm, column)
        if found is None:
            continue
        x = place - 0.4 + width * (index + 0.5)
        axis.bar(x, 100 * found.mean, 0.92 * width, color=colour(arm, arms), zorder=2)
        if len(found.values) > 1:
            dots = [100 * value for value in found.values]
            error = {"color": "#222222", "lw": 1, "capsize": 2, "zorder": 3}
            axis.errorbar(x, 100 * found.mean, 100 * found.deviation, **error)
            axis.plot([x] * len(dots), dots, ".", color="#222222", ms=3, zorder=4)
    chance = [scores.over_seeds(arm, column, "chance") for arm in arms]
    level = 100 * statistics.fmean(found.mean for found in chance if found)
    axis.plot([place - 0.45, place + 0.45], [level, level], "--", color="#222222", lw=1, zorder=5)


def _curves(pyplot, runs: list[Run]):
    """Loss, token accuracy and speed by step: pretraining apart, for its loss is another's."""
    groups = [
        ("pretraining", [run for run in runs if run.arm.split("/")[-1] == "pretrain"]),
        ("finetuning", [run for run in runs if run.arm.split("/")[-1] != "pretrain"]),
    ]
    groups = [(name, some) for name, some in groups if any(loss_curve(run) for run in some)]
    shown = [c for c in _CURVES if any(curve(run, "train", c[1]) for run in runs)]
    figure, axes = pyplot.subplots(
        len(groups),
        len(shown),
        figsize=(3.5 * len(shown), 2.4 * len(groups) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    arms = arms_in_order(runs)
    for row, (name, members) in zip(axes, groups, strict=True):
        for axis, (title, names) in zip(row, shown, strict=True):
            for run in members:
                _curve(axis, run, names, colour(run.arm, arms))
            axis.set_title(title if len(groups) == 1 else f"{name}: {title}", loc="left")
            axis.grid(axis="y", color="#E5E5E5", lw=0.6)
            axis.set_xlabel("step")
            if names is not _CURVES[0][1]:
                axis.set_ylim(bottom=0)
    handles = [
        pyplot.Line2D([], [], color=colour(arm, arms), label=ascii_only(arm_title(arm)))
        for arm in arms
        if any(run.arm == arm and loss_curve(run) for run in runs)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _curve(axis, run: Run, names: tuple[str, ...], ink: str) -> None:
    """Draws a run's training curve, and its evaluation's as dots, where they exist."""
    if points := curve(run, "train", names):
        axis.plot(*zip(*thinned(points), strict=True), color=ink, lw=1.1, alpha=0.8)
    for split in sorted(set(run.curves) - {"train"}):
        if points := curve(run, split, names):
            axis.plot(*zip(*points, strict=True), "o--", color=ink, lw=0.8, ms=3, alpha=0.8)


def thinned(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Averages neighbouring points of a long curve until few enough are left to draw."""
    size = -(-len(points) // _MOST_POINTS)
    chunks = [points[start : start + size] for start in range(0, len(points), size)]
    return [tuple(statistics.fmean(values) for values in zip(*c, strict=True)) for c in chunks]
