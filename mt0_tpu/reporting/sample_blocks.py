"""Samples of predictions as HTML: questions with every run's choice, texts beside their target."""

from __future__ import annotations

from collections.abc import Sequence

from mt0_tpu.reporting.document import escaped, plural
from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.runs import arm_title
from mt0_tpu.reporting.samples import Question, Written

_SHOWN = 6
_HIT, _MISS = '<span class="hit">&#10003;</span>', '<span class="miss">&#10007;</span>'


def question_blocks(lead: str, questions: Sequence[Question], palette: Palette) -> str:
    """Questions answered by rank, the first few open and the rest behind a click."""
    if not questions:
        return ""
    blocks = [_question(question, palette) for question in questions]
    rest = "".join(blocks[_SHOWN:])
    more = len(blocks) - _SHOWN
    behind = f"<details><summary>{plural(more, 'more question')}</summary>{rest}</details>"
    return (
        '<h2 id="samples">Some questions</h2><p>Of a seen and an unseen language of each data set, '
        f"the first question that <i>{escaped(arm_title(lead))}</i> answered rightly and the "
        "first it answered wrongly, where there are. The right choice is ticked; beside a choice, "
        f"the runs that ranked it first.</p>{''.join(blocks[:_SHOWN])}{behind if rest else ''}"
    )


def _question(question: Question, palette: Palette) -> str:
    choices = []
    for index, choice in enumerate(question.choices):
        tags = "".join(
            f'<span class="pick">&#9664; {palette.tag(arm)}</span>'
            for arm, pick in question.picks.items()
            if pick == index
        )
        right = index == question.answer
        name = ' class="right"' if right else ""
        choices.append(
            f"<li{name}><bdi>{escaped(choice)}</bdi>{' ' + _HIT if right else ''}{tags}</li>"
        )
    prompt = f", prompt {escaped(question.prompt)}" if question.prompt else ""
    return (
        f'<div class="question"><div class="soft">{escaped(question.task)}{prompt}</div>'
        f'<pre dir="auto">{escaped(question.inputs)}</pre><ol>{"".join(choices)}</ol></div>'
    )


def written_blocks(samples: Sequence[Written], left_out: int, palette: Palette) -> str:
    """Inputs, targets and what each run wrote."""
    if not samples:
        return ""
    blocks = []
    for sample in samples:
        rows = [f'<tr><th>target</th><td dir="auto">{escaped(sample.target)}</td></tr>']
        for arm, text in sample.predictions.items():
            same = sample.target and text.strip() == sample.target.strip()
            mark = f" {_HIT if same else _MISS}" if sample.target else ""
            rows.append(
                f'<tr><th>{palette.tag(arm)}{mark}</th><td dir="auto">{escaped(text)}</td></tr>'
            )
        blocks.append(
            f'<div class="question"><div class="soft">{escaped(sample.task)}</div>'
            f'<pre dir="auto">{escaped(sample.inputs)}</pre><table>{"".join(rows)}</table></div>'
        )
    note = f" {plural(left_out, 'more task')} left out." if left_out else ""
    return (
        '<h2 id="texts">Some texts that were written</h2><p>Of each task an input whose target was '
        "written letter by letter, where there is one, and another. A tick says just that: the "
        f"same as the target; a good translation may have none.{note}</p>{''.join(blocks)}"
    )
