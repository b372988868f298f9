"""Examples out of a cache, row by row, as the trainer hands them to the model.

The ids are the cache's; the registered task lends its vocabulary, to read them with.
"""

from __future__ import annotations

import dataclasses

from mt0_tpu import rank_tasks
from mt0_tpu.data.dataset_config import FEATURES, DatasetConfig
from mt0_tpu.data.providers import find_provider
from mt0_tpu.data.rows import empty_rows, fill_rows
from mt0_tpu.data.sources import open_sources
from mt0_tpu.data.windows import Planner
from mt0_tpu.errors import UserError
from mt0_tpu.tasks.task_examples import Example, Part
from mt0_tpu.tasks.token_text import TokenText


@dataclasses.dataclass(frozen=True)
class PackedRow:
    """A row of a batch: its examples in order, and how full its two sides are (0..1)."""

    examples: tuple[Example, ...]
    lengths: tuple[int, int]
    filled: tuple[float, float]


def packed_row(config: DatasetConfig) -> PackedRow:
    """Returns the first row that the trainer makes of a cached mixture with this config.

    Raises UserError: not cached, or no such task is registered here.
    """
    planner = Planner(open_sources(config), config)
    plan = planner.plan(0)
    if not plan.num_rows:
        raise UserError(f"'{config.mixture_or_task_name}' has no example that fits a row")
    batch = empty_rows(config, 1)
    fill_rows(batch, 0, planner, plan, 0, 1)
    end = int(plan.starts_r[1])
    examples = [_cut_out(config, planner, plan, batch, place, 0) for place in range(end)]
    used = [int(plan.totals[side][:end].sum()) for side in (0, 1)]
    lengths = (config.inputs_length, config.targets_length)
    filled = tuple(count / limit for count, limit in zip(used, lengths, strict=True))
    return PackedRow(tuple(examples), lengths, filled)


def drawn_examples(config: DatasetConfig, num_examples: int) -> list[Example]:
    """Returns the first examples that the trainer draws from a cached mixture, one a row."""
    config = dataclasses.replace(config, pack=False)
    planner = Planner(open_sources(config), config)
    plan = planner.plan(0)
    count = min(num_examples, plan.num_rows)
    batch = empty_rows(config, count)
    fill_rows(batch, 0, planner, plan, 0, count)
    return [_cut_out(config, planner, plan, batch, place, place) for place in range(count)]


def _cut_out(config: DatasetConfig, planner, plan, batch, place: int, row: int) -> Example:
    """Returns the place-th example of a plan, which lies in a row of the batch."""
    name = planner.tasks[plan.tasks_n[place]].task.name
    outputs = find_provider(name, config.module).output_features
    parts = []
    sides = zip(FEATURES, ("encoder_input_tokens", "decoder_target_tokens"), strict=True)
    for side, (feature, tokens) in enumerate(sides):
        begin = int(plan.totals[side][:place].sum()) if config.pack else 0
        ids = batch[tokens][row, begin : begin + int(plan.totals[side][place])]
        vocabulary = outputs[feature].vocabulary if feature in outputs else None
        parts.append(Part(feature, ids.tolist(), None, TokenText(vocabulary)))
    return Example(name, config.split, {}, tuple(parts))


def ranked_examples(config: DatasetConfig, num_examples: int) -> list[Example]:
    """Returns cached examples of rank tasks, of a mixture's tasks in turn."""
    tasks = rank_tasks.open_rank_tasks(
        config.mixture_or_task_name, config.cache_dir, config.split, config.module, True,
        num_examples, print, cache_missing=False,
    )  # fmt: skip
    places = [(at, task) for at in range(num_examples) for task in tasks if at < len(task.examples)]
    return [_ranked(task, at, config) for at, task in places[:num_examples]]


def _ranked(task: rank_tasks.RankTask, at: int, config: DatasetConfig) -> Example:
    outputs = find_provider(task.name, config.module).output_features
    inputs, choices = task.examples[at]
    vocabulary = TokenText(outputs["choices"].vocabulary)
    parts = [Part("inputs", inputs.tolist(), None, TokenText(outputs["inputs"].vocabulary))]
    for place, choice in enumerate(choices):
        right = place == task.answers[at]
        parts.append(Part(f"choice {place + 1}", choice.tolist(), None, vocabulary, right=right))
    fields = dataclasses.asdict(task.belongings[at])
    return Example(task.name, config.split, fields, tuple(parts))
