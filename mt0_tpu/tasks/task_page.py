"""What `mt0 tasks list|show|stats --html` write: one page, nothing outside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.errors import UserError
from mt0_tpu.reporting.document import document, escaped
from mt0_tpu.tasks.cached_examples import drawn_examples, ranked_examples
from mt0_tpu.tasks.row_lengths import Recommendation, RowChoice
from mt0_tpu.tasks.stats_lines import (
    CHOICE_HEADS,
    LEGEND,
    choice_cells,
    gin_lines,
    length_table_cells,
    named,
    times,
)
from mt0_tpu.tasks.task_examples import DEFAULT_LENGTHS, Example, Part
from mt0_tpu.tasks.task_listing import Entry, cached_cells, groups_of
from mt0_tpu.tasks.task_show import example_facts, loss_lines
from mt0_tpu.tasks.task_stats import Lengths, MixtureStats, Share
from mt0_tpu.tasks.text_table import counted, percent, plural
from mt0_tpu.whole_file import write_whole

GENERATOR = '<meta name="generator" content="mt0 tasks">'
_INK = {"inputs": "#0072B2", "texts": "#0072B2", "targets": "#E69F00", "choices": "#E69F00"}
_EXAMPLES, _MOST_TOKENS = 6, 400
_MOST_TASKS = 100

_STYLE = """
.share { position:relative; min-width:150px; } .share i { position:absolute; left:0; top:5px;
  bottom:5px; background:var(--c,#0072B2); opacity:.28; border-radius:2px; }
.share b { position:absolute; left:0; top:5px; bottom:5px; border-right:2px solid var(--ink); }
.tokens { font:13px/2 ui-monospace,"DejaVu Sans Mono","Noto Sans Mono",monospace;
  overflow-wrap:anywhere; margin:2px 0 8px; }
.tokens span { padding:2px 1px; border-radius:3px; } .tokens span:nth-child(odd) {
  background:var(--mark); } .tokens span:nth-child(even) { background:var(--other); }
.tokens span.special { background:var(--ink); color:var(--paper); font-size:11px; padding:2px 4px; }
.lost { color:var(--no); font-size:13px; margin:0 0 6px; }
pre.paste { background:var(--wash); padding:10px 14px; border-radius:6px; overflow-x:auto; }
tr.best td, tr.best th { font-weight:600; } .wide { overflow-x:auto; }
details { margin:6px 0; } summary { cursor:pointer; }
"""


def write_list(
    path: str, patterns: Sequence[str], entries: Sequence[Entry], say: Callable = print
) -> None:
    """Writes a page of mixtures and of tasks in groups, each group's tasks behind a click."""
    mixtures = [entry for entry in entries if entry.kind == "mixture"]
    tasks = [entry for entry in entries if entry.kind != "mixture"]
    chosen = f"whose name holds {' or '.join(patterns)}" if patterns else "registered"
    body = [
        '<div class="soft">mt0 tasks list</div><h1>Tasks and mixtures</h1>',
        f"<p>{plural(len(mixtures), 'mixture')} and {plural(len(tasks), 'task')} "
        f"{escaped(chosen)}.</p>",
    ]
    if mixtures:
        body.append("<h2>Mixtures</h2>" + _entries(mixtures, "mixture"))
    if tasks:
        body.append("<h2>Tasks</h2>")
    for group in groups_of(tasks):
        merged = group.merged()
        what = [plural(len(group.entries), "task"), merged.kind]
        what += [plural(len(merged.languages), "language")] if merged.languages else []
        state, examples, tokens = cached_cells(merged)
        state = f"{examples} examples, {tokens} tokens cached" if state != "no" else "not cached"
        body.append(
            f"<details><summary><b>{escaped(merged.name)}</b> {', '.join(what)} "
            f'<span class="soft">{state}</span></summary>'
            f"{_entries(group.entries, 'task')}</details>"
        )
    _write(path, "Tasks and mixtures", body, say)


def write_examples(
    path: str, names: Sequence[str], examples: Sequence[Example], say: Callable = print
) -> None:
    """Writes a page of examples with their token boundaries."""
    title = f"Examples of {', '.join(names)}"
    body = [f'<div class="soft">mt0 tasks show</div><h1>{escaped(title)}</h1>', _KEY]
    _write(path, title, [*body, *map(example_block, examples)], say)


def write_stats(
    path: str,
    found: Sequence[tuple[MixtureStats, Recommendation | None]],
    module: str | None = None,
    say: Callable = print,
) -> None:
    """Writes a page of what mixtures hold: lengths, shares, row lengths and drawn examples."""
    title = " and ".join(f"{stats.name} [{stats.split}]" for stats, _ in found)
    body = ['<div class="soft">mt0 tasks stats</div>']
    for stats, rows in found:
        body += _stats(stats, rows, module, say)
    _write(path, title, body, say)


def _write(path: str, title: str, body: Sequence[str], say: Callable) -> None:
    write_whole(Path(path), document(title, body, _STYLE, GENERATOR))
    say(f"page: {path}")


def _stats(stats: MixtureStats, rows: Recommendation | None, module, say) -> list[str]:
    parts = [
        f"<h1>{escaped(stats.name)} <small>{escaped(stats.split)}</small></h1>",
        f"<p>{plural(len(stats.tasks), 'task')}, {plural(stats.examples, 'example')}, "
        f"{counted(stats.tokens)} tokens, EOS counted. "
        f'<span class="soft">Cached in <code>{escaped(stats.root)}</code>.</span></p>',
    ]
    if not stats.drawn:
        return parts
    parts += ["<h2>Lengths</h2>", _lengths(stats)]
    for by in ("language", "cluster"):
        shares = stats.shares(by)
        if len(shares) > 1:
            parts += [f"<h2>By {by}</h2>", _shares(shares, by)]
    if rows:
        parts += ["<h2>Row lengths</h2>", _rows(rows)]
    parts += _drawn_examples(stats, module, say)
    shares = stats.shares("task")
    if len(shares) > 1:
        parts += ["<h2>By task</h2>", _shares(shares[:_MOST_TASKS], "task")]
        if len(shares) > _MOST_TASKS:
            parts.append(f'<p class="soft">and {len(shares) - _MOST_TASKS:,} more.</p>')
    return parts


def _table(heads: Sequence[str], rows: Sequence[str], caption: str = "", texts: int = 1) -> str:
    top = "".join(
        f"<th{' class=text' if i < texts else ''}>{escaped(head)}</th>"
        for i, head in enumerate(heads)
    )
    caption = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="wide"><table class="tight"><thead><tr>{top}</tr></thead><tbody>'
        f"{''.join(rows)}</tbody>{caption}</table></div>"
    )


def _entries(entries: Sequence[Entry], title: str) -> str:
    rows = []
    for entry in entries:
        what = f"{len(entry.tasks):,}" if title == "mixture" else entry.kind
        texts = [what, " ".join(entry.languages), entry.cluster, " ".join(entry.splits)]
        rows.append(
            f"<tr><th class=text>{escaped(entry.name)}</th>"
            + "".join(f"<td class=text>{escaped(text)}</td>" for text in texts)
            + "".join(f"<td>{escaped(cell)}</td>" for cell in cached_cells(entry))
            + "</tr>"
        )
    heads = [title, "tasks" if title == "mixture" else "kind", "languages", "cluster", "splits"]
    return _table([*heads, "cached", "examples", "tokens"], rows, texts=5)


def _lengths(stats: MixtureStats) -> str:
    figures = "".join(
        f"<figure>{histogram(lengths, _INK.get(feature, '#0072B2'))}"
        f"<figcaption>{escaped(feature)}: share of sequences by length in tokens"
        "</figcaption></figure>"
        for feature, lengths in stats.drawn.items()
    )
    heads, cells = length_table_cells(stats)
    rows = [
        f"<tr><th class=text>{escaped(row[0])}</th>"
        + "".join(f"<td>{escaped(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in cells
    ]
    return f'<div class="side">{figures}</div>' + _table(
        heads, rows, "At the mixture's rates, as the trainer draws them."
    )


def histogram(lengths: Lengths, ink: str) -> str:
    """Returns an inline SVG of a length distribution: a bar a bin, lengths on a log scale."""
    bins = lengths.bins(fine=True)
    top = max(share for _, share in bins)
    width, height, foot = 480, 190, 26
    step = width / len(bins)
    parts = []
    for place, (edge, share) in enumerate(bins):
        tall = (height - foot - 16) * share / top
        x = place * step
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{height - foot - tall:.1f}" width="{step - 2:.1f}" '
            f'height="{tall:.1f}" fill="{ink}"><title>up to {edge:,}: {percent(share)}</title>'
            "</rect>"
        )
        if step > 26 or place % 2 == len(bins) % 2:
            parts.append(_label(x + step / 2, height - 10, f"{edge:,}"))
        if share > 0.1 * top:
            shown = f"{100 * share:.0f}%" if share >= 0.01 else percent(share)
            parts.append(_label(x + step / 2, height - foot - tall - 4, shown))
    base = height - foot
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="histogram of lengths"><line x1="0" x2="{width}" y1="{base}" y2="{base}" '
        f'stroke="#aab3c0"/>{"".join(parts)}</svg>'
    )


def _label(x: float, y: float, text: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="#5d6878" '
        f'text-anchor="middle">{text}</text>'
    )


def _shares(shares: Sequence[Share], by: str) -> str:
    top = max(max(share.of["drawn"], share.of["examples"]) for share in shares) or 1.0
    rows = []
    for share in shares:
        drawn, cached = (100 * share.of[kind] / top for kind in ("drawn", "examples"))
        bar = (
            f'<td class="share"><i style="width:{drawn:.1f}%"></i>'
            f'<b style="left:{cached:.1f}%"></b></td>'
        )
        cells = [
            percent(share.of["drawn"]), percent(share.of["drawn tokens"]),
            f"{share.examples:,}", percent(share.of["examples"]),
            counted(share.tokens), percent(share.of["tokens"]),
            times(share),
        ]  # fmt: skip
        rows.append(
            f"<tr><th class=text>{escaped(share.name)}</th>{bar}"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    heads = [by, "", "drawn", "of tokens", "examples", "of all", "tokens", "of all", "seen in 1M"]
    return _table(
        heads,
        rows,
        "Bar: share of the examples that the rates draw; upright line: share of the cached "
        "examples. Seen in 1M: times that a million draws go through the part.",
    )


def _rows(rows: Recommendation) -> str:
    parts = [
        f"<p>From {rows.examples:,} drawn examples, packed as the trainer packs; the cost is the "
        f"matrix products of mT5-{escaped(rows.size.name)}, head included; at most "
        f"{percent(rows.most_trimmed)} of the examples are trimmed. {escaped(LEGEND)}.</p>"
    ]
    for packed, choices in ((True, rows.packed[:8]), (False, rows.unpacked[:4])):
        references = rows.references[packed]
        lines = [
            _choice(f"{place}.", choice, references, best=place == 1)
            for place, choice in enumerate(choices, start=1)
        ]
        lines += [
            _choice("reference", one, references)
            for one in references
            if one.lengths not in {choice.lengths for choice in choices}
        ]
        parts.append(_table(["packed" if packed else "not packed", *CHOICE_HEADS], lines))
        if packed:
            paste = "\n".join(gin_lines(choices[0]))
            parts.append(f'<pre class="paste">{escaped(paste)}</pre>')
    parts.append(f"<p>Not packed: <code>{escaped(named(rows.unpacked[0].lengths))}</code></p>")
    return "".join(parts)


def _choice(title: str, choice: RowChoice, references, best: bool = False) -> str:
    kind = ' class="best"' if best else ' class="base"' if title == "reference" else ""
    cells = "".join(f"<td>{escaped(cell)}</td>" for cell in choice_cells(choice, references))
    return f"<tr{kind}><th class=text>{title}</th>{cells}</tr>"


def _drawn_examples(stats: MixtureStats, module: str | None, say: Callable) -> list[str]:
    """Returns examples in the order that training with seed 0 draws them.

    The page goes without where the tasks are not registered here: their vocabulary is not known.
    """
    config = DatasetConfig(
        stats.name, DEFAULT_LENGTHS, split=stats.split, cache_dir=str(stats.root),
        module=module or stats.module,
    )  # fmt: skip
    try:
        if stats.kinds == {"rank"}:
            examples = ranked_examples(config, _EXAMPLES)
        else:
            examples = drawn_examples(config, _EXAMPLES)
    except UserError as error:
        say(f"page: without examples ({error})")
        return []
    return ["<h2>Examples</h2>", _KEY, *map(example_block, examples)]


_KEY = (
    '<p class="soft">What the model is given, a box a token (its id on hovering); ▁ is the blank '
    "before a word, white on dark are special tokens. ✓ marks the right choice.</p>"
)


def example_block(example: Example) -> str:
    """Returns one example as HTML, every token a box."""
    facts = example_facts(example)
    parts = "".join(_part(part) for part in example.parts)
    return (
        f'<div class="question"><h3>{escaped(example.task)} '
        f'<span class="soft">{escaped(example.split)} {escaped(facts)}</span></h3>{parts}</div>'
    )


def _part(part: Part) -> str:
    tokens = part.vocabulary.tokens(part.ids[:_MOST_TOKENS])
    boxes = "".join(
        f'<span title="{token.id}"{" class=special" if token.special else ""}>'
        f"{escaped(token.piece)}</span>"
        for token in tokens
    )
    more = len(part.ids) - len(tokens)
    rest = f' <span class="soft">… {more:,} more</span>' if more > 0 else ""
    lost = "".join(f'<p class="lost">{escaped(line)}</p>' for line in loss_lines(part))
    count = f"{len(part.ids):,} tokens" + (f" of {part.cut_from:,}" if part.cut_from else "")
    return (
        f"<div><b>{'✓ ' if part.right else ''}{escaped(part.name)}</b> "
        f'<span class="soft">{count}</span><div class="tokens" dir="auto">{boxes}{rest}</div>'
        f"{lost}</div>"
    )
