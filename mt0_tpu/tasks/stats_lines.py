"""What `mt0 tasks stats` prints: tables and bars of a cached mixture, and row lengths to use."""

from __future__ import annotations

from collections.abc import Callable

from mt0_tpu.data.dataset_config import DatasetConfig, cache_path, remote_url
from mt0_tpu.errors import UserError
from mt0_tpu.tasks import row_lengths
from mt0_tpu.tasks.network_cost import network_size
from mt0_tpu.tasks.row_lengths import Recommendation, RowChoice
from mt0_tpu.tasks.task_stats import SHARES, Lengths, MixtureStats, Share, load_facts, read_stats
from mt0_tpu.tasks.text_table import bar, counted, padded, percent, plural, table

PERCENTILES = (50, 90, 95, 99, 99.9)
_MOST_ROWS = 12
_MOST_CHOICES = {True: 6, False: 3}  # by packed
CHOICE_HEADS = (
    "inputs", "targets", "rows/1000", "inputs full", "targets full", "trimmed", "useful",
    "vs 1024/1024", "vs 1024/256",
    "T5X vs 1024/1024",
)  # fmt: skip
LEGEND = (
    "useful: what the real tokens alone would cost; vs: cost of an example, rows like these at "
    "100%; T5X: as stock T5X computes it, the head over padding too"
)
_BAR, _SHARE_BAR = 24, 10  # cells
LIMITS = (16, 32, 64, 128, 256, 512, 1024, 2048)


def print_stats(
    name: str,
    split: str,
    cache_dir: str | None = None,
    *,
    size: str = "large",
    most_trimmed: float = row_lengths.MOST_TRIMMED,
    everything: bool = False,
    module: str | None = None,
    say: Callable[[str], None] = print,
) -> tuple[MixtureStats, Recommendation | None]:
    """Prints what a cached mixture holds and which rows suit it; returns both.

    Args:
        name: the mixture or task.
        split: which split.
        cache_dir: the folder of caches; None for the default.
        size: of the mT5 whose computation is counted, a file of gin/models/mt5.
        most_trimmed: share of examples that rows may trim, 0..1.
        everything: every language, cluster and task, not the most drawn alone.
        module: a module that says what its tasks are about; importing it may need SeqIO.
        say: receives the lines.

    Raises UserError: not cached, no such split or size, a damaged cache.
    """
    if not 0 <= most_trimmed < 1:
        raise UserError(
            f"--trimmed is {most_trimmed}; write a share such as 0.005 (half a percent)"
        )
    network = network_size(size)
    if module:
        load_facts(module)
    if url := remote_url(cache_dir):
        from mt0_tpu.data import remote_cache

        remote_cache.fetch(url, name, [split], say=say)
    stats = read_stats(cache_path(cache_dir), name, split)
    for line in stats_lines(stats, everything):
        say(line)
    rows = recommended(stats, most_trimmed, network)
    for line in recommendation_lines(rows) if rows else ():
        say(line)
    return stats, rows


def recommended(stats: MixtureStats, most_trimmed: float, network) -> Recommendation | None:
    """Returns row lengths for the tasks that are trained on; None where there is none."""
    if not stats.trained:
        return None
    # The lengths are only there to complete it: every candidate puts in its own.
    lengths = {"inputs": 1024, "targets": 256}
    config = DatasetConfig(stats.name, lengths, split=stats.split, cache_dir=str(stats.root))
    return row_lengths.recommend(stats.trained, config, network, most_trimmed)


def stats_lines(stats: MixtureStats, everything: bool = False) -> list[str]:
    """Returns the lines of sizes, lengths and shares."""
    dropped = sum(task.dropped for task in stats.tasks)
    empty = [task.name for task in stats.tasks if not task.examples]
    tasks = len(stats.tasks)
    lines = [
        f"{stats.name} [{stats.split}]: {plural(tasks, 'task')}, "
        f"{plural(stats.examples, 'example')}, {counted(stats.tokens)} tokens, in {stats.root}"
    ]
    if dropped:
        lines.append(f"{dropped:,} examples were dropped by the tasks' own steps when caching")
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        lines.append(f"without examples: {', '.join(empty[:5])}{more}")
    if not stats.drawn:
        return lines
    by_rate = ", at the mixture's rates" if tasks > 1 else ""
    lines += ["", f"lengths in tokens, EOS counted{by_rate}", *table(*length_table_cells(stats))]
    for feature, lengths in stats.drawn.items():
        lines += ["", feature, *histogram_lines(lengths)]
    lines += ["", *longer_table(stats)]
    parts = [by for by in ("language", "cluster") if len(stats.shares(by)) > 1]
    for by in (*parts, "task"):
        lines += ["", *share_lines(stats, by, everything)]
    if tasks > 1:
        lines.append(
            "drawn: what the rates draw; seen in 1M: how often a million draws go through a part"
        )
    return lines


def length_table_cells(stats: MixtureStats) -> tuple[list[str], list[list[str]]]:
    """Returns heads and rows: mean, percentiles and greatest length of each feature."""
    heads = ["", "mean", *(f"p{p}" for p in PERCENTILES), "longest"]
    rows = [
        [feature, f"{lengths.mean:.1f}", *(f"{lengths.percentile(p):,}" for p in PERCENTILES),
         f"{lengths.longest:,}"]
        for feature, lengths in stats.drawn.items()
    ]  # fmt: skip
    return heads, rows


def histogram_lines(lengths: Lengths) -> list[str]:
    """Returns a bar for each bin of lengths, the longest bar of fixed width."""
    bins = lengths.bins()
    top = max(share for _, share in bins)
    width = len(f"{bins[-1][0]:,}")
    return [
        f"  ≤ {edge:>{width},}  {padded(bar(share / top, _BAR), _BAR)}  {percent(share):>6}"
        for edge, share in bins
    ]


def longer_table(stats: MixtureStats) -> list[str]:
    """Returns the share of each feature that is longer than a row of 16, 32, 64, … tokens."""
    longest = max(lengths.longest for lengths in stats.drawn.values())
    limits = [limit for limit in LIMITS if limit < 2 * longest] or [LIMITS[0]]
    rows = [
        [feature, *(percent(lengths.share_above(limit)) for limit in limits)]
        for feature, lengths in stats.drawn.items()
    ]
    return table(["longer than", *(f"{limit:,}" for limit in limits)], rows)


def share_lines(stats: MixtureStats, by: str, everything: bool = False) -> list[str]:
    """Returns a table of a mixture's parts, the most drawn first."""
    shares = stats.shares(by)
    shown = shares if everything else shares[:_MOST_ROWS]
    top = max(share.of["drawn"] for share in shares) or 1.0
    of_all = by != "task"  # tasks have their lengths instead
    rows = []
    for share in shown:
        of = {kind: percent(share.of[kind]) for kind in SHARES}
        passes = times(share)
        row = [share.name, padded(bar(share.of["drawn"] / top, _SHARE_BAR), _SHARE_BAR)]
        row += [of["drawn"], of["drawn tokens"], f"{share.examples:,}"]
        row += [of["examples"], counted(share.tokens), of["tokens"], passes]
        if not of_all:
            row = [*row[:5], row[6], passes, *_task_lengths(stats, share.name)]
        rows.append(row)
    heads = [f"by {by}", "", "drawn", "of tokens", "examples", "of all", "tokens", "of all"]
    if not of_all:
        heads = [*heads[:5], "tokens"]
    heads.append("seen in 1M")
    heads += [] if of_all else [f"{feature} p50/p99/max" for feature in stats.drawn]
    lines = table(heads, rows, texts=(0, 1))
    if len(shares) > len(shown):
        rest = sum(share.of["drawn"] for share in shares[len(shown) :])
        lines.append(f"… {len(shares) - len(shown)} more, {percent(rest)} drawn (--all shows them)")
    return lines


def times(share: Share) -> str:
    """Returns how often a million draws go through a part."""
    if not share.examples:
        return "–"
    return f"{share.passes:,.0f}×" if share.passes >= 100 else f"{share.passes:.3g}×"


def _task_lengths(stats: MixtureStats, name: str) -> list[str]:
    task = next(task for task in stats.tasks if task.name == name)
    figures = [task.lengths.get(feature) for feature in stats.drawn]
    return ["–" if f is None else "/".join(f"{n:,}" for n in f[2:]) for f in figures]


def recommendation_lines(rows: Recommendation) -> list[str]:
    """Returns the tables of row lengths and the gin lines of the cheapest."""
    best, within = rows.packed[0], rows.packed[0].trimmed <= rows.most_trimmed
    lines = [
        "",
        f"row lengths, from {rows.examples:,} drawn examples; cost is matrix products of mT5-"
        f"{rows.size.name}, head included, at most {percent(rows.most_trimmed)} trimmed",
    ]
    if not within:
        lines.append(
            f"no row of up to {row_lengths.INPUTS_LENGTHS[-1]} inputs and "
            f"{row_lengths.TARGETS_LENGTHS[-1]} targets trims so few; the one that trims least:"
        )
    if rows.cuts_texts:
        lines.append("texts are cut to the row, none is trimmed: short rows cost less and show "
                     "less of a text at a time")  # fmt: skip
    for packed, choices in ((True, rows.packed), (False, rows.unpacked)):
        lines += ["", *choice_table(rows, packed, choices[: _MOST_CHOICES[packed]])]
    saved = percent(best.cost / rows.references[False][0].cost)
    lines += [
        "",
        f"The cheapest packed rows cost {saved} of mT0's published setting (1024/1024, not "
        "packed). To paste:",
        *(f"  {line}" for line in gin_lines(best)),
    ]
    lines.insert(2, LEGEND)
    plain = rows.unpacked[0].lengths
    lines.append(f"Not packed: TASK_FEATURE_LENGTHS = {named(plain)}")
    return lines


def choice_table(rows: Recommendation, packed: bool, choices: tuple[RowChoice, ...]) -> list[str]:
    """Returns the best choices and the references, costs relative to the references."""
    references = rows.references[packed]
    heads = ["packed" if packed else "not packed", *CHOICE_HEADS]
    known = {choice.lengths for choice in choices}
    shown = [*choices, *(one for one in references if one.lengths not in known)]
    cells = []
    for place, choice in enumerate(shown):
        title = f"{place + 1}." if place < len(choices) else "reference"
        cells.append([title, *choice_cells(choice, references)])
    return table(heads, cells)


def choice_cells(choice: RowChoice, references: tuple[RowChoice, ...]) -> list[str]:
    """Returns a choice as text: lengths, rows, fill, trimmed, useful, relative costs."""
    wide, usual = references
    return [
        *map(str, choice.lengths),
        f"{choice.rows_per_1000:,.0f}"
        if choice.rows_per_1000 >= 10
        else f"{choice.rows_per_1000:.1f}",
        *map(percent, choice.filled),
        percent(choice.trimmed),
        percent(choice.useful),
        percent(choice.cost / wide.cost),
        percent(choice.cost / usual.cost),
        percent(choice.cost_t5x / wide.cost_t5x),
    ]


def named(lengths: tuple[int, int]) -> str:
    """Returns row lengths as gin writes them."""
    return f"{{'inputs': {lengths[0]}, 'targets': {lengths[1]}}}"


def gin_lines(choice: RowChoice) -> list[str]:
    """Returns what to write into a gin file for packed rows of these lengths."""
    each = 1000 / choice.rows_per_1000
    rows = row_lengths.batch_rows(choice)
    return [
        f"TASK_FEATURE_LENGTHS = {named(choice.lengths)}",
        "utils.DatasetConfig.pack = True",
        f"BATCH_SIZE = {rows}  # packed rows of {each:.1f} examples: {rows * each:,.0f} a step",
    ]
