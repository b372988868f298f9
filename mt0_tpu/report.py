"""`mt0 report`: finished runs as one page for a reader, and as the last screen of training."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

from mt0_tpu.errors import UserError
from mt0_tpu.reporting.document import GENERATOR
from mt0_tpu.reporting.page import page
from mt0_tpu.reporting.runs import ARM_TITLES, Run, arm_title, load_runs
from mt0_tpu.reporting.tables import Column, Scores, spread
from mt0_tpu.reporting.verdicts import conclusion, verdicts
from mt0_tpu.whole_file import write_whole

_WIDTH, _LINES = 100, 25


def write_report(runs: list[str], output: str) -> str:
    """Writes a page in one piece of run or study folders; returns its path.

    A run is a MODEL_DIR, an EVAL_OUTPUT_DIR, or a folder of either. What a run lacks is left out
    and named at the end. The page depends on the runs' files alone: the same runs give the same
    bytes.

    Args:
      output: a folder, for index.html in it, or a file named *.html.

    Raises:
      UserError: there is no run, a file is malformed, or the page cannot be written.
    """
    loaded = load_runs(runs)
    text = page(_title(runs, loaded), loaded)
    index = Path(output)
    index = index if index.suffix == ".html" else index / "index.html"
    try:
        if index.exists() and GENERATOR not in index.read_text("utf-8", "replace"):
            raise UserError(
                f"{index} is not a report of ours and is left alone; give another output."
            )
        write_whole(index, text)
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {index}: {error.strerror or error}; give another "
            "output or make room there."
        ) from None
    return str(index)


def _title(runs: list[str], loaded: list[Run]) -> str:
    names = [Path(run).resolve().name for run in runs]
    name = ", ".join(names) if len(names) <= 3 else f"{len(names)} runs"
    study = {run.arm for run in loaded} & set(ARM_TITLES) - {"untrained"}
    return f"mT0 in small: {name}" if study else name


def terminal_summary(runs: list[str]) -> str:
    """Returns where the runs lie and what they scored, in at most 25 lines of 100 characters."""
    loaded = load_runs(runs)
    scores = Scores(loaded)
    if not scores:
        places = _places(loaded)
        return "\n".join(["No scores yet: `mt0 eval` writes them.", *places][:_LINES])
    table = _table(scores)
    meaning = [
        "Median over prompts, mean over languages. Seen, unseen: languages in finetuning or not.",
        "Near chance or majority a score shows no understanding. Below, ±: the 95% interval.",
    ]
    places = _places(loaded)
    room = _LINES - len(table) - len(meaning) - len(places)
    return "\n".join([*table, *meaning, *_verdict_lines(scores, room), *places][:_LINES])


def _table(scores: Scores) -> list[str]:
    """The headline table in text; held-out clusters as one where they would not fit."""
    several = any(len(seeds) > 1 for seeds in scores.cells.values())
    columns = scores.columns()
    room = (_WIDTH - 30) // max(len(columns), 1)
    if room < (11 if several else 9):
        columns = scores.columns(merged=True)
        room = (_WIDTH - 30) // len(columns)
    titles = [column.title.removesuffix(" clusters") for column in columns]
    width = min(room, max(11 if several else 9, *(len(title) + 2 for title in titles)))
    rows = [
        ("accuracy, %", [_fit(title, width - 1) for title in titles]),
        ("", [column.split for column in columns]),
    ]
    for name, field in (("chance (untrained)", "chance"), ("majority answer", "majority")):
        rows.append((name, [_base(scores, column, field) for column in columns]))
    # More arms than a screen holds are the page's.
    for arm in list(scores.cells)[:8]:
        values = []
        for column in columns:
            found = scores.over_seeds(arm, column)
            more = f" ±{100 * found.deviation:.1f}" if found and len(found.values) > 1 else ""
            values.append(f"{100 * found.mean:.1f}{more}" if found else "-")
        rows.append((arm_title(arm), values))
    return [_fit(name, 29).ljust(30) + "".join(v.rjust(width) for v in row) for name, row in rows]


def _base(scores: Scores, column: Column, field: str) -> str:
    found = [scores.over_seeds(arm, column, field) for arm in scores.cells]
    return f"{100 * spread(s.mean for s in found if s).mean:.1f}"


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def _verdict_lines(scores: Scores, room: int) -> list[str]:
    """The comparisons as far as there is room, the paper's finding first."""
    answers, _ = verdicts(scores)
    sentences = [f"{verdict.answer}: {verdict.short}" for verdict in answers]
    lines: list[str] = []
    for sentence in [conclusion(answers), *sentences]:
        wrapped = textwrap.wrap(sentence, _WIDTH, subsequent_indent="  ")
        if len(lines) + len(wrapped) <= room:
            lines += wrapped
    return lines


def _places(loaded: list[Run]) -> list[str]:
    """Lines that say where things are; a path is cut only where no line could hold it."""
    paths = [run.path.resolve() for run in loaded]
    home = Path(os.path.commonpath(paths))
    lines = ["", f"{'runs' if len(loaded) > 1 else 'run'}: {_short(home)}"]
    # A study's report lies beside its seeds, two folders above an arm.
    for folder in (home, *home.parents[:2]):
        if (folder / "report" / "index.html").is_file():
            lines.append(f"report: {_short(folder / 'report' / 'index.html')}")
            break
    best = next((run for run in loaded if run.arm == "multilingual"), loaded[-1])
    if (best.path / "checkpoints").is_dir():
        lines.append(f"model: {_short(best.path.resolve() / 'checkpoints')}")
    return lines


def _short(path: Path) -> str:
    text = min(str(path), os.path.relpath(path), key=len)
    return text if len(text) <= 90 else f"{text[:30]}...{text[-57:]}"
