"""`mt0 report`: finished runs as one page for a reader, and as the last screen of training."""

from __future__ import annotations

import os
import tempfile
import textwrap
from pathlib import Path

from mt0_tpu.errors import UserError
from mt0_tpu.report_page import GENERATOR, page
from mt0_tpu.report_plots import draw_figures
from mt0_tpu.report_runs import Run, arm_title, load_runs
from mt0_tpu.report_samples import sample_questions
from mt0_tpu.report_tables import Column, Scores, conclusion, spread, verdicts

_WIDTH, _LINES = 100, 25


def write_report(runs: list[str], output_dir: str) -> str:
    """Writes output_dir/index.html and its figures from run or study folders; returns its path.

    The page depends on the runs' files alone: the same runs give the same bytes. Raises
    UserError where there is no run, a file is malformed, or output_dir cannot be written.
    """
    loaded = load_runs(runs)
    scores = Scores(loaded)
    answers, missing = verdicts(scores)
    figures = draw_figures(loaded, scores)
    text = page(_title(runs), loaded, scores, answers, missing, sample_questions(loaded), figures)
    folder = Path(output_dir)
    index = folder / "index.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if index.exists() and GENERATOR not in index.read_text("utf-8", "replace"):
            raise UserError(
                f"{index} is not a report of ours and is left alone; give another output folder."
            )
        # The page last: where it is new, so are its figures.
        for name, data in figures.items():
            _write_whole(folder / name, data)
        _write_whole(index, text.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {folder}: {error.strerror or error}; give another "
            "output folder or make room in it."
        ) from None
    return str(index)


def _title(runs: list[str]) -> str:
    names = [Path(run).resolve().name for run in runs]
    return "mT0 in small: " + ", ".join(names) if len(names) <= 3 else "mT0 in small"


def _write_whole(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes files for the owner alone; a report is for others too.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
