"""The report as one HTML page: every piece a function that returns '' where its data is missing."""

from __future__ import annotations

import base64
import os
import statistics
from collections.abc import Iterable

from mt0_tpu.report_details import (
    arm_tag,
    escaped,
    language_tables,
    prompt_table,
    question_blocks,
)
from mt0_tpu.report_plots import colour, loss_curve, speed_curve
from mt0_tpu.report_runs import Run, arm_title, arms_in_order
from mt0_tpu.report_samples import Question
from mt0_tpu.report_tables import Column, Scores, Spread, Verdict, conclusion

GENERATOR = '<meta name="generator" content="mt0 report">'

_STYLE = """
:root { --ink:#1c2430; --soft:#5d6878; --line:#d9dee6; --paper:#fff; --wash:#f5f7fa; }
* { box-sizing:border-box; }
body { margin:0; background:var(--wash); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif; }
main { max-width:1080px; margin:0 auto; padding:28px 36px 60px; background:var(--paper); }
h1 { font-size:27px; line-height:1.2; margin:8px 0 4px; }
h2 { font-size:19px; margin:40px 0 8px; padding-top:12px; border-top:1px solid var(--line); }
h3 { font-size:14px; margin:0 0 6px; } h3 .soft { display:block; font-weight:400; }
p { margin:6px 0 12px; max-width:78ch; }
.soft, caption, figcaption { color:var(--soft); font-size:13px; }
caption { text-align:left; caption-side:bottom; padding-top:6px; }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; margin:10px 0; }
th, td { padding:4px 10px; text-align:right; border-bottom:1px solid var(--line); }
th { font-weight:600; } thead th { border-bottom:2px solid #aab3c0; vertical-align:bottom; }
th[colspan] { text-align:center; }
th:first-child, td.text, th.text { text-align:left; }
tr.base td, tr.base th { color:var(--soft); font-weight:400; }
td small { color:var(--soft); font-size:11px; margin-left:3px; }
.headline { width:100%; } .headline td, .headline th { padding:6px 10px; }
.arm::before { content:""; display:inline-block; width:11px; height:11px; border-radius:2px;
  background:var(--c); margin-right:7px; }
ul.verdicts { list-style:none; padding:0; margin:14px 0; }
ul.verdicts li { display:flex; gap:12px; padding:7px 0; border-bottom:1px solid var(--line); }
ul.verdicts span.word { flex:0 0 96px; height:22px; line-height:22px; border-radius:11px;
  text-align:center; font-size:12px; font-weight:600; color:#fff; }
.yes { background:#1b7f4d; } .no { background:#b3361e; } .noise { background:#76808f; }
figure { margin:14px 0; } figure img { max-width:100%; height:auto; display:block; }
.side { display:flex; flex-wrap:wrap; gap:14px 26px; align-items:flex-start; }
.heat td, .heat th { padding:1px 6px; font-size:12px; border-bottom:1px solid #fff; }
.heat td { min-width:46px; padding:1px 4px; text-align:center; }
.heat tr.group th { padding-top:8px; color:var(--soft); font-weight:400; }
.heat thead th { border:0; height:7px; padding:0; }
.tight td, .tight th { padding:1px 10px; line-height:1.35; } .tight svg { display:block; }
.legend span { margin-right:22px; white-space:nowrap; }
p.finding { font-size:16px; font-weight:600; margin-top:14px; }
.question { border:1px solid var(--line); border-radius:6px; padding:10px 14px; margin:10px 0;
  break-inside:avoid; }
.question pre { white-space:pre-wrap; overflow-wrap:anywhere; font:13px/1.45 ui-monospace,
  "DejaVu Sans Mono","Noto Sans Mono",monospace; margin:4px 0 8px; }
.question li.right { font-weight:600; } .question ol { margin:4px 0; padding-left:22px; }
.pick { display:inline-block; font-size:11px; font-weight:400; color:var(--soft);
  margin-left:9px; }
code { font-size:12.5px; overflow-wrap:anywhere; }
@media print { body { background:#fff; font-size:11px; } main { max-width:none; padding:0; }
  * { print-color-adjust:exact; -webkit-print-color-adjust:exact; }
  figure, table, ul.verdicts { break-inside:avoid; } h2 { break-after:avoid; } }
"""


def page(
    title: str,
    runs: list[Run],
    scores: Scores,
    answers: list[Verdict],
    missing: list[str],
    questions: list[Question],
    figures: dict[str, bytes],
) -> str:
    """Returns the whole report; figures are images by file name, their .svg is put inline."""
    colours = {arm: colour(arm, arms_in_order(runs)) for arm in arms_in_order(runs)}
    body = [
        f'<div class="soft">mt0 report</div><h1>{escaped(title)}</h1>',
        _opening(runs, scores),
        _finding(answers),
        _headline(scores, colours),
        _verdicts(scores, answers, missing),
        _bars(scores, figures),
        prompt_table(scores, colours),
        language_tables(scores, colours),
        _curves(figures),
        question_blocks(questions),
        _runs(runs, colours),
        _method(scores),
    ]
    return document(title, body)


def document(
    title: str, body: Iterable[str], more_style: str = "", generator: str = GENERATOR
) -> str:
    """Returns a page of our look, in one piece; empty parts of the body are left out."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{generator}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}{more_style}</style></head>\n"
        "<body><main>\n" + "\n".join(part for part in body if part) + "\n</main></body></html>\n"
    )


def _points(found: Spread | None) -> str:
    """Writes a score in percent, with its deviation where there are several seeds."""
    if found is None:
        return "&ndash;"
    more = f"<small>&plusmn;{100 * found.deviation:.1f}</small>" if len(found.values) > 1 else ""
    return f"{100 * found.mean:.1f}{more}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _opening(runs: list[Run], scores: Scores) -> str:
    arms, seeds = arms_in_order(runs), {run.seed for run in runs}
    facts = [_plural(len(arms), "arm"), _plural(len(seeds), "seed")]
    if sizes := sorted({run.facts["parameters"] for run in runs if "parameters" in run.facts}):
        facts.insert(0, f"{' / '.join(sizes)} parameters")
    if scores:
        languages = {language: cell.seen for (_, language), cell in scores.union.items()}
        unseen = sum(not seen for seen in languages.values())
        facts.append(
            f"scored on {_plural(len(scores.held_out) + len(scores.trained), 'task cluster')} in "
            f"{_plural(len(languages), 'language')}, {unseen} of them never finetuned on"
        )
    return f"<p>{escaped('; '.join(facts))}.</p>"


def _finding(answers: list[Verdict]) -> str:
    finding = conclusion(answers)
    return f'<p class="finding">{escaped(finding)}</p>' if finding else ""


def _verdicts(scores: Scores, answers: list[Verdict], missing: list[str]) -> str:
    if not scores:
        return (
            "<p><b>No scores yet:</b> none of the runs has an <code>eval/rank.jsonl</code>. "
            "<code>mt0 eval</code> writes it.</p>"
        )
    kinds = {"yes": "yes", "no": "no", "within noise": "noise"}
    items = [
        f'<li><span class="word {kinds[v.answer]}">{v.answer}</span>'
        f"<span>{escaped(v.sentence[0].upper() + v.sentence[1:])}"
        f'<br><span class="soft">{escaped(v.noise)}</span></span></li>'
        for v in answers
    ]
    note = ""
    if missing:
        names = ", ".join(f"<i>{escaped(arm_title(arm))}</i>" for arm in missing)
        note = (
            f'<p class="soft">Not answered here, for want of a scored arm: {names}. '
            "<code>make study</code> trains them all.</p>"
        )
    return f'<ul class="verdicts">{"".join(items)}</ul>{note}'


def _headline(scores: Scores, colours: dict[str, str]) -> str:
    """The table of arms by held-out and trained clusters, seen and unseen languages."""
    if not scores:
        return ""
    columns = scores.columns()
    groups: dict[str, int] = {}
    for column in columns:
        groups[column.title] = groups.get(column.title, 0) + 1
    top = "".join(
        f'<th colspan="{width}">{escaped(title)}'
        + (" <small>(unseen concepts)</small>" if title == "trained clusters" else "")
        + "</th>"
        for title, width in groups.items()
    )
    best = {
        column: max(
            (round(s.mean, 6) for arm in scores.cells if (s := scores.over_seeds(arm, column))),
            default=None,
        )
        for column in columns
    }
    rows = [
        f'<tr class="base"><th>{name}</th>{_base_row(scores, columns, field)}<td></td></tr>'
        for name, field in (("chance (untrained)", "chance"), ("majority answer", "majority"))
    ]
    for arm, seeds in scores.cells.items():
        row = []
        for column in columns:
            found = scores.over_seeds(arm, column)
            top_one = found is not None and round(found.mean, 6) == best[column]
            row.append(
                f"<td>{'<b>' if top_one else ''}{_points(found)}{'</b>' if top_one else ''}</td>"
            )
        rows.append(f"<tr><th>{arm_tag(arm, colours)}</th>{''.join(row)}<td>{len(seeds)}</td></tr>")
    uneven = (
        " Some runs were scored on other tasks or languages than others: their rows are not "
        "strictly comparable (the answers below use what both sides share)."
        if scores.uneven()
        else ""
    )
    return (
        '<table class="headline"><thead><tr><th rowspan="2">accuracy, %</th>'
        f'{top}<th rowspan="2">seeds</th></tr><tr>'
        + "".join(f"<th>{column.split}</th>" for column in columns)
        + f"</tr></thead><tbody>{''.join(rows)}</tbody><caption>Rank classification; median over "
        "prompts, mean over languages; mean &plusmn; standard deviation over seeds; the best arm "
        "of a column in bold. <i>Seen</i> and <i>unseen</i>: languages that multilingual "
        "finetuning had, or that occurred in pretraining alone. Clusters named one by one were "
        f"held out of finetuning altogether.{uneven}</caption></table>"
    )


def _base_row(scores: Scores, columns: Iterable[Column], field: str) -> str:
    spreads = [[scores.over_seeds(arm, c, field) for arm in scores.cells] for c in columns]
    return "".join(
        f"<td>{100 * statistics.fmean(s.mean for s in found if s):.1f}</td>" for found in spreads
    )


def _image(name: str, figures: dict[str, bytes], alt: str) -> str:
    if f"{name}.svg" not in figures:
        return ""
    data = base64.b64encode(figures[f"{name}.svg"]).decode()
    return (
        f'<figure><img alt="{escaped(alt)}" src="data:image/svg+xml;base64,{data}">'
        f'<figcaption>{escaped(alt)} <a href="{name}.png">PNG</a> <a href="{name}.svg">SVG</a>'
        "</figcaption></figure>"
    )


def _bars(scores: Scores, figures: dict[str, bytes]) -> str:
    if not scores:
        return ""
    tail = "Bars: mean over seeds; dots: single seeds; dashes: chance."
    parts = ["<h2>By cluster</h2>"]
    parts.append(_image("held_out", figures, f"Clusters held out of finetuning. {tail}"))
    parts.append(_image("trained", figures, f"Trained clusters, on concepts never shown. {tail}"))
    return "".join(parts)


def _curves(figures: dict[str, bytes]) -> str:
    image = _image(
        "curves",
        figures,
        "Training, one line a seed; dots: evaluation during training, where there was any. "
        "Pretraining's loss is that of span corruption and not comparable with finetuning's.",
    )
    return f"<h2>Learning curves</h2>{image}" if image else ""


def _runs(runs: list[Run], colours: dict[str, str]) -> str:
    """What was trained and where it lies."""
    root = os.path.commonpath([run.path for run in runs])
    rows = []
    for run in runs:
        loss, speed = loss_curve(run), speed_curve(run)
        steps = max(
            (points[-1][0] for metrics in run.curves.values() for points in metrics.values()),
            default=None,
        )
        numbers = (
            "&ndash;" if steps is None else f"{steps:,}",
            f"{loss[-1][1]:.3f}" if loss else "&ndash;",
            f"{statistics.median(value for _, value in speed):,.0f}" if speed else "&ndash;",
            escaped(run.facts.get("evaluated step") or _scored_step(run)),
        )
        rows.append(
            f"<tr><th>{arm_tag(run.arm, colours)}</th><td>{run.seed}</td>"
            + "".join(f"<td>{number}</td>" for number in numbers)
            + f'<td class="text"><code>{escaped(os.path.relpath(run.path, root))}</code></td></tr>'
        )
    settings = "".join(
        f'<tr><th class="text">{arm_tag(arm, colours)}</th><td class="text"><code>{facts}</code>'
        "</td></tr>"
        for arm in arms_in_order(runs)
        if (facts := _settings(next(run for run in runs if run.arm == arm)))
    )
    return (
        '<h2>The runs</h2><table class="tight"><thead><tr><th>arm</th><th>seed</th>'
        "<th>last step</th><th>last loss</th><th>tokens/s</th><th>scored at step</th>"
        f'<th class="text">folder</th></tr></thead><tbody>{"".join(rows)}</tbody><caption>Folders '
        f"within <code>{escaped(root)}</code>.</caption></table>"
        + (f"<table><tbody>{settings}</tbody></table>" if settings else "")
    )


def _scored_step(run: Run) -> str:
    return str(run.rank[0].step) if run.rank else "-"


def _settings(run: Run) -> str:
    """The macros of a run's config.gin that say what it was."""
    return "; ".join(
        f"{name} = {escaped(value)}" for name, value in run.facts.items() if name.isupper()
    )


def _method(scores: Scores) -> str:
    if not scores:
        return ""
    return (
        "<h2>How to read the scores</h2><p>A question offers a few answers; the model's choice is "
        "the one with the greatest sum of token log-probabilities given the input. <i>Chance</i> "
        "is one over the number of choices, what an untrained model reaches; <i>majority</i> is "
        "what always giving the most frequent answer reaches. An accuracy near either shows no "
        "understanding.</p><p>A comparison says <i>yes</i> or <i>no</i> only where the 95% "
        "interval of the difference leaves zero out: Student's t over the differences of the "
        "same seed, or with a single seed the sampling error of the test questions alone.</p>"
    )
