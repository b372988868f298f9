"""What `mt0 tasks show` prints: examples as the model sees them, special tokens and all."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping

from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.providers import facts_of, find_provider, tasks_of
from mt0_tpu.errors import UserError
from mt0_tpu.tasks.task_examples import DEFAULT_LENGTHS, Example, Part, from_source
from mt0_tpu.tasks.text_table import cells, padded, percent, plural
from mt0_tpu.tasks.token_text import Token, losses, marked

# Plain fields an example may carry, shown first and in this order.
SHOWN_FIELDS = ("prompt", "cluster", "language")
_MOST_SOURCE = 1200  # letters of an original text that is shown beside what became of it


def print_examples(
    name: str,
    split: str = "train",
    num_examples: int = 3,
    *,
    module: str | None = None,
    seed: int | None = None,
    lengths: Mapping[str, int] | None = None,
    tokens: bool = False,
    cached: bool = False,
    packed: bool = False,
    cache_dir: str | None = None,
    say: Callable[[str], None] = print,
) -> list[Example]:
    """Prints examples of a task or mixture, and returns them.

    Args:
        name: a registered task or mixture.
        split: which split.
        num_examples: how many; a packed row shows all it holds.
        module: the module that registers it, where it is not one of ours.
        seed: draws examples by rate, as the trainer does with this seed; None shows the first
            of each task.
        lengths: row lengths to trim or pack to.
        tokens: shows each token with its id.
        cached: reads the cache instead of the source.
        packed: shows one packed row of the cache.
        cache_dir: the folder of caches; None for the default.
        say: receives the lines.

    Raises UserError: no such task or split, an unreadable source, no cache.
    """
    if num_examples < 1:
        raise UserError(f"--num_examples is {num_examples}; it must be at least 1")
    find_provider(name, module)  # says what is wrong with a name before a cache is looked for
    if packed and lengths is None:
        raise UserError("--packed needs row lengths: --task_feature_lengths inputs=512,targets=128")
    if packed or cached:
        examples, row = _from_cache(
            name, split, num_examples, module, seed, lengths, cache_dir, packed
        )
    else:
        examples, row = (
            from_source(name, split, num_examples, module=module, seed=seed, lengths=lengths),
            None,
        )
    if not examples:
        say(f"'{name}' [{split}] has no examples")
    for line in row or ():
        say(line)
    for number, example in enumerate(examples, start=1):
        for line in example_lines(example, tokens, number if row else None):
            say(line)
    return examples


def _from_cache(name, split, num_examples, module, seed, lengths, cache_dir, packed):
    from mt0_tpu.tasks import cached_examples

    config = DatasetConfig(
        mixture_or_task_name=name,
        task_feature_lengths=dict(lengths or DEFAULT_LENGTHS),
        split=split,
        pack=packed,
        shuffle=seed is not None,
        seed=seed or 0,
        cache_dir=cache_dir,
        module=module,
    )
    if any("choices" in task.output_features for task in tasks_of(find_provider(name, module))):
        if packed:
            raise UserError(f"'{name}' ranks answer choices: nothing trains on it, in rows or not")
        return cached_examples.ranked_examples(config, num_examples), None
    if not packed:
        return cached_examples.drawn_examples(config, num_examples), None
    row = cached_examples.packed_row(config)
    said = f"one row of {row.lengths[0]} inputs and {row.lengths[1]} targets: "
    said += f"{len(row.examples)} examples, {percent(row.filled[0])} of its inputs and "
    said += f"{percent(row.filled[1])} of its targets filled"
    return list(row.examples), [said]


def example_lines(example: Example, tokens: bool = False, number: int | None = None) -> list[str]:
    """Returns an example as lines: where it comes from, then its features.

    `number` is its segment in a packed row.
    """
    segment = f"segment {number}: " if number else ""
    facts = example_facts(example)
    lines = ["", f"── {segment}{example.task} [{example.split}]{f'  {facts}' if facts else ''}"]
    for part in example.parts:
        lines += part_lines(part, tokens)
    return lines


def example_facts(example: Example) -> str:
    """Returns an example's prompt, cluster and language, its own or its task's, where known."""
    known = {**facts_of(example.task), **example.fields}
    return ", ".join(f"{field} {known[field]}" for field in SHOWN_FIELDS if known.get(field))


def part_lines(part: Part, tokens: bool = False) -> list[str]:
    """Returns a feature as lines: its length, what the model sees, what was lost on the way."""
    size = plural(len(part.ids), "token")
    if not part.vocabulary.readable:
        size += ", ids of a vocabulary that is not at hand"
    if part.cut_from:
        size += f" of {part.cut_from}, cut to the row"
    lines = [f"{'✓ ' if part.right else ''}{part.name} ({size})"]
    if tokens:
        lines += token_lines(part.vocabulary.tokens(part.ids))
    else:
        runs = part.vocabulary.runs(part.ids)
        text = "".join(_special(run.text) if run.special else run.text for run in runs)
        lines += [f"  {line}" for line in text.split("\n")]
    return lines + [f"  {line}" for line in loss_lines(part)]


def loss_lines(part: Part) -> list[str]:
    """Returns what the vocabulary made of the text, and the text itself where it lost any."""
    if not isinstance(part.source, str) or not part.vocabulary.readable or part.cut_from:
        return []
    ids = (
        part.ids[:-1] if part.ids and part.vocabulary.tokens(part.ids[-1:])[0].special else part.ids
    )
    lost = losses(part.source, part.vocabulary.text(ids))
    if not lost:
        return []
    source = marked(part.source[:_MOST_SOURCE]) + ("…" if len(part.source) > _MOST_SOURCE else "")
    return [f"lost: {'; '.join(lost)}", f"was:  {source}"]


def token_lines(tokens: list[Token]) -> list[str]:
    """Returns two lines at a time: pieces, and under each its id, as wide as the terminal."""
    room = max(min(shutil.get_terminal_size((100, 20)).columns, 160) - 2, 20)
    lines, pieces, ids, used = [], [], [], 0
    for token in tokens:
        width = max(cells(token.piece), len(str(token.id)))
        if used and used + width + 1 > room:
            lines += [f"  {' '.join(pieces)}".rstrip(), f"  {' '.join(ids)}".rstrip()]
            pieces, ids, used = [], [], 0
        shown = padded(token.piece, width)
        pieces.append(_special(shown) if token.special else shown)
        ids.append(padded(str(token.id), width))
        used += width + 1
    return [*lines, f"  {' '.join(pieces)}".rstrip(), f"  {' '.join(ids)}".rstrip()]


def _special(text: str) -> str:
    """Colours a special token where the output is a terminal that wants colour."""
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        return f"\x1b[36m{text}\x1b[0m"
    return text
