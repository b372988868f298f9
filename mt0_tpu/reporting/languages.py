"""Languages seen against unseen: a chart each data set."""

from __future__ import annotations

from mt0_tpu.reporting.bars import base
from mt0_tpu.reporting.charts import Pair, pairs
from mt0_tpu.reporting.document import panel, panels
from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.references import SHOWN, References
from mt0_tpu.reporting.runs import short_title
from mt0_tpu.reporting.tables import Column, Scores, group_title


def seen_and_unseen(scores: Scores, references: References, palette: Palette) -> str:
    """A chart each data set that was scored in languages of both kinds."""
    drawn = []
    for group in scores.groups:
        seen, unseen = (Column((group,), split, group_title(group)) for split in ("seen", "unseen"))
        counts = [len(scores.languages(column)) for column in (seen, unseen)]
        if not all(counts):
            continue
        rows = [
            Pair(short_title(arm), *values, palette.css_class(arm))
            for arm in scores.cells
            if (values := [_percent(scores, arm, column) for column in (seen, unseen)])
            != [None, None]
        ]
        for model in SHOWN:
            values = [references.score(scores, column, model) for column in (seen, unseen)]
            if None not in values:
                rows.append(Pair(model, *values, "ref"))
        whole = Column((group,), "all", "")
        said = "; ".join(f"{row.label} {_said(row.seen)} and {_said(row.unseen)}" for row in rows)
        label = f"{group_title(group)}, percent on seen and unseen languages: {said}"
        svg = pairs(rows, base(scores, whole, "chance"), label)
        drawn.append(panel(group_title(group), svg, f"{counts[0]} seen, {counts[1]} unseen"))
    if not drawn:
        return ""
    return (
        '<h2 id="languages">Languages seen and unseen</h2><p>Full dots: languages that '
        "multilingual finetuning had. Rings: languages that occurred in pretraining alone. On the "
        "right, unseen minus seen in points. The two groups hold different languages, so a gap is "
        "of languages as well as of training.</p>" + panels(drawn)
    )


def _percent(scores: Scores, arm: str, column: Column) -> float | None:
    found = scores.over_seeds(arm, column)
    return 100 * found.mean if found else None


def _said(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.1f}"
