"""The report as one HTML page: every part a function that returns '' where its data is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mt0_tpu import reference_scores
from mt0_tpu.reporting.bars import base, dataset_table, generalisation
from mt0_tpu.reporting.curves import learning_curves
from mt0_tpu.reporting.document import document, escaped, plural
from mt0_tpu.reporting.generation import generation
from mt0_tpu.reporting.language_maps import STYLE as MAP_STYLE
from mt0_tpu.reporting.language_maps import language_maps
from mt0_tpu.reporting.languages import seen_and_unseen
from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.prompts import sensitivity
from mt0_tpu.reporting.references import References
from mt0_tpu.reporting.runs import ARM_TITLES, Run, arm_title, arms_in_order
from mt0_tpu.reporting.sample_blocks import question_blocks, written_blocks
from mt0_tpu.reporting.samples import sample_questions, sample_written
from mt0_tpu.reporting.setup import setup
from mt0_tpu.reporting.steps import checkpoints
from mt0_tpu.reporting.tables import Column, Scores, Spread
from mt0_tpu.reporting.verdicts import Verdict, conclusion, verdicts

_HEADING = re.compile(r'<h2 id="([\w-]+)">(.+?)</h2>')


def page(title: str, runs: Sequence[Run]) -> str:
    """Returns the whole report of some runs."""
    palette = Palette(arms_in_order(runs))
    scores, by_dataset = Scores(runs), Scores(runs, "dataset")
    lines = [line for run in runs for line in run.rank]
    references = References(lines, [run.config for run in runs])
    answers, missing = verdicts(scores)
    parts = [
        _headline(scores, palette),
        _verdicts(scores, answers, missing),
        generalisation(by_dataset, references, palette),
        dataset_table(by_dataset, references, palette),
        seen_and_unseen(by_dataset, references, palette),
        sensitivity(runs, by_dataset, palette),
        language_maps(by_dataset, references, palette),
        checkpoints(runs, palette),
        generation(runs, palette),
        learning_curves(runs, palette),
        question_blocks(*sample_questions(runs), palette),
        written_blocks(*sample_written(runs), palette),
        setup(runs, palette),
    ]
    parts += [_method(scores, references), _absent(parts)]
    top = [
        f'<div class="soft">mt0 report</div><h1>{escaped(title)}</h1>',
        _opening(runs, scores),
        _contents(parts),
        _finding(answers),
    ]
    return document(title, [*top, *parts], palette.style() + MAP_STYLE)


def _contents(parts: Iterable[str]) -> str:
    links = [
        f'<a href="#{name}">{title}</a>' for part in parts for name, title in _HEADING.findall(part)
    ]
    return f'<nav aria-label="Contents">{"".join(links)}</nav>'


def _opening(runs: Sequence[Run], scores: Scores) -> str:
    runs = [run for run in runs if run.only_step is None]
    arms, seeds = arms_in_order(runs), {run.seed for run in runs}
    facts = [plural(len(arms), "run" if len(seeds) == 1 else "arm")]
    if len(seeds) > 1:
        facts.append(plural(len(seeds), "seed"))
    if sizes := sorted({run.parameters for run in runs if run.parameters}):
        facts.append(f"{' / '.join(sizes)} parameters")
    if scores:
        languages = {language: cell.seen for (_, language), cell in scores.union.items()}
        unseen = sum(not seen for seen in languages.values())
        facts.append(
            f"scored on {plural(len(scores.groups), 'task cluster')} in "
            f"{plural(len(languages), 'language')}, {unseen} of them never finetuned on"
        )
    return f"<p>{escaped('; '.join(facts))}.</p>"


def _finding(answers: Sequence[Verdict]) -> str:
    finding = conclusion(answers)
    return f'<p class="finding">{escaped(finding)}</p>' if finding else ""


def _verdicts(scores: Scores, answers: Sequence[Verdict], missing: Sequence[str]) -> str:
    if not scores:
        return (
            "<p><b>No scores yet:</b> none of the runs has a <code>rank.jsonl</code>. "
            "<code>mt0 eval</code> writes it.</p>"
        )
    kinds = {"yes": "yes", "no": "no", "within noise": "noise"}
    items = [
        f'<li><span class="word {kinds[v.answer]}">{v.answer}</span>'
        f"<span>{escaped(v.sentence)}"
        f'<br><span class="soft">{escaped(v.noise)}</span></span></li>'
        for v in answers
    ]
    note = ""
    # Who compares runs of their own asked none of the study's questions.
    if missing and any(arm in ARM_TITLES for arm in scores.cells if arm != "untrained"):
        names = ", ".join(f"<i>{escaped(arm_title(arm))}</i>" for arm in missing)
        note = (
            f'<p class="soft">Not answered here, for want of a scored arm: {names}. '
            "<code>make study</code> trains them all.</p>"
        )
    return f'<ul class="verdicts">{"".join(items)}</ul>{note}'


def _points(found: Spread | None) -> str:
    """Writes a score in percent, with its deviation where there are several seeds."""
    if found is None:
        return "&ndash;"
    more = f"<small>&plusmn;{100 * found.deviation:.1f}</small>" if len(found.values) > 1 else ""
    return f"{100 * found.mean:.1f}{more}"


def _headline(scores: Scores, palette: Palette) -> str:
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
    seeds = '<th rowspan="2">seeds</th>' if scores.several_seeds else ""
    return (
        '<div class="wide"><table class="headline"><thead><tr><th rowspan="2">accuracy, %</th>'
        f"{top}{seeds}</tr><tr>"
        + "".join(f"<th>{column.split}</th>" for column in columns)
        + f"</tr></thead><tbody>{_headline_rows(scores, columns, palette)}</tbody></table></div>"
        + _headline_note(scores)
    )


def _headline_rows(scores: Scores, columns: Sequence[Column], palette: Palette) -> str:
    several = scores.several_seeds
    best = {
        column: max(
            (round(s.mean, 6) for arm in scores.cells if (s := scores.over_seeds(arm, column))),
            default=None,
        )
        for column in columns
    }
    rows = []
    for name, field in (("chance (untrained)", "chance"), ("majority answer", "majority")):
        cells = "".join(f"<td>{base(scores, column, field):.1f}</td>" for column in columns)
        rows.append(f'<tr class="base"><th>{name}</th>{cells}{"<td></td>" if several else ""}</tr>')
    for arm, seeds in scores.cells.items():
        row = []
        for column in columns:
            found = scores.over_seeds(arm, column)
            # The best of one is no news.
            first = found is not None and round(found.mean, 6) == best[column]
            cell = _points(found)
            row.append(f"<td>{f'<b>{cell}</b>' if first and len(scores.cells) > 1 else cell}</td>")
        number = f"<td>{len(seeds)}</td>" if several else ""
        rows.append(f"<tr><th>{palette.tag(arm)}</th>{''.join(row)}{number}</tr>")
    return "".join(rows)


def _headline_note(scores: Scores) -> str:
    over = "; mean &plusmn; standard deviation over seeds" if scores.several_seeds else ""
    bold = "; the best of a column in bold" if len(scores.cells) > 1 else ""
    held = " Clusters named one by one were held out of finetuning." if scores.held_out else ""
    uneven = (
        " Some runs were scored on other tasks or languages than others: their rows are not "
        "strictly comparable (the answers below use what both sides share)."
        if scores.uneven()
        else ""
    )
    return (
        '<p class="soft">Rank classification; median over prompts, mean over languages'
        f"{over}{bold}. <i>Seen</i> and <i>unseen</i>: languages that multilingual finetuning had, "
        f"or that occurred in pretraining alone.{held}{uneven}</p>"
    )


def _method(scores: Scores, references: References) -> str:
    if not scores:
        return ""
    published = ""
    if references:
        published = (
            f"<p>Published scores: {escaped(reference_scores.SOURCE)}. Their models are larger, or "
            "were trained on more, than most that this report is about; they say what is known to "
            "be possible.</p>"
        )
    return (
        '<h2 id="method">How to read the scores</h2><p>A question offers a few answers; the '
        "model's choice is the one with the greatest sum of token log-probabilities given the "
        "input. <i>Chance</i> is one over the number of choices, what an untrained model reaches; "
        "<i>majority</i> is what always giving the most frequent answer reaches. An accuracy near "
        "either shows no understanding.</p><p>A comparison says <i>yes</i> or <i>no</i> only where "
        "the 95% interval of the difference leaves zero out: Student's t over the differences of "
        "the same seed, or with a single seed the sampling error of the test questions "
        f"alone.</p>{published}"
    )


# What a page may lack, by the id of its part, and what would fill it.
_PARTS = {
    "tasks": "scores by rank: no run has a rank.jsonl, which `mt0 eval` writes",
    "languages": "a chart of seen and unseen languages: no data set was scored in both",
    "prompts": "how prompts differ: every task was scored under one prompt",
    "checkpoints": "a comparison of checkpoints: no run was scored at more than one step",
    "generation": "metrics of written text: no run has inference_eval/<task>-metrics.jsonl",
    "curves": "curves of training: no run has a metrics.jsonl with points",
    "samples": "questions: no run has inference_eval/<task>-<step>.jsonl of a rank task",
}


def _absent(parts: Sequence[str]) -> str:
    there = {name for part in parts for name, _ in _HEADING.findall(part)}
    lacking = [text for name, text in _PARTS.items() if name not in there]
    if "tasks" not in there:
        lacking = [text for text in lacking if text not in (_PARTS["languages"], _PARTS["prompts"])]
    if not lacking:
        return ""
    items = "".join(f"<li>{escaped(text)}.</li>" for text in lacking)
    return f'<h2 id="absent">What this page lacks</h2><ul class="soft">{items}</ul>'
