"""What items of mini-xP3 are drawn from: a language's names, and the draws that kinds share."""

from __future__ import annotations

import dataclasses
import datetime
import functools

from seqio_tasks import mini_facts as facts
from seqio_tasks.mini_facts import Draw

# The kinds of name that questions ask for, in the order of mini_prompts.LABELS.
LABELLED = ("territory", "language", "currency")


@dataclasses.dataclass(frozen=True)
class Item:
    """A question: `fields` for the prompt, and its answer.

    `answer` is the index of the right choice: of the prompt's own choices where `options` is
    empty, else of `options`. A generative kind has one option, the target. `concepts` are all
    those that the row mentions.
    """

    kind: str
    fields: dict[str, str]
    answer: int
    options: tuple[str, ...] = ()
    concepts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Names:
    """A language's names, limited to a part of the concepts, grouped by category."""

    language: str
    part: str
    name: dict[str, str]
    groups: dict[str, tuple[str, ...]]

    def large(self, least: int = 4) -> list[str]:
        """Categories with at least `least` names."""
        return [c for c, members in self.groups.items() if len(members) >= least]


def allowed(concept: str, part: str) -> bool:
    """Whether a part (seen, held, all) of the concepts has this one."""
    return part == "all" or facts.held_out(concept) == (part == "held")


@functools.cache
def names(language: str, part: str) -> Names:
    """Names for drawing. `part`: seen (finetuning), held (concepts never finetuned) or all."""
    chosen = {c: n for c, n in facts.own_names(language).items() if allowed(c, part)}
    groups = {
        category: tuple(c for c in chosen if facts.category(c) == category)
        for category in facts.CATEGORIES
    }
    return Names(language, part, chosen, groups)


def pick(pool: Names, draw: Draw, count: int) -> list[str] | None:
    """`count` concepts of one category; larger categories are likelier."""
    categories = pool.large(count)
    if not categories:
        return None
    # Half by size, half evenly: months and days are few but in every language.
    if draw.chance(75):
        total = sum(len(pool.groups[c]) for c in categories)
        place = draw.below(total)
        for category in categories:
            place -= len(pool.groups[category])
            if place < 0:
                break
    else:
        category = draw.choice(categories)
    return draw.sample(pool.groups[category], count)


def few(draw: Draw) -> int:
    """Two, sometimes three: rows stay short."""
    return 3 if draw.chance(35) else 2


def other_than(pool: Names, draw: Draw, concept: str) -> str | None:
    """A concept to be told from `concept`: half the time of its own category."""
    own = pool.groups[facts.category(concept)]
    members = own if len(own) > 1 and draw.chance(50) else tuple(pool.name)
    other = draw.choice(members)
    return None if other == concept else other


def two_options(
    kind: str, fields: dict[str, str], pool: Names, draw: Draw, concepts: list[str], used=()
) -> Item | None:
    """An item whose options are the names of two concepts, the right one given first."""
    right, wrong = (pool.name[c] for c in concepts)
    if right == wrong:
        return None
    answer = draw.below(2)
    options = (right, wrong) if answer == 0 else (wrong, right)
    mentioned = tuple(dict.fromkeys([*concepts, *used]))
    return Item(kind, {**fields, "a": options[0], "b": options[1]}, answer, options, mentioned)


def drawn_day(pool: Names, draw: Draw) -> datetime.date | None:
    """A date from 1950 to 2029, None where its month or weekday is not the pool's."""
    day = datetime.date(1950 + draw.below(80), 1, 1) + datetime.timedelta(days=draw.below(365))
    return day if all(allowed(c, pool.part) for c in day_concepts(day)) else None


def day_concepts(day: datetime.date) -> tuple[str, str]:
    """A date's month and weekday."""
    return (f"month:{day.month}", f"day:{day.weekday()}")
