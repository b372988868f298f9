"""Raw text of mini-xP3 for span corruption: lines of CLDR's facts in all languages.

Held-out languages and held-out concepts are here, and nowhere else but in evaluation. No line has
the form of a question.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator

from seqio_tasks import mini_facts as facts
from seqio_tasks.mini_facts import Draw
from seqio_tasks.mini_names import Names, names

# Lines a language has: some for every name, up to a cap, so that small languages are seen.
_LINES_A_NAME, _LEAST_LINES, _MOST_LINES = 4, 300, 2600
_VALIDATION_SHARE = 50


def _label(language: str, draw: Draw) -> str:
    return f"{facts.endonym(language)}: " if draw.chance(35) else ""


def _members(pool: Names, draw: Draw, count: int) -> list[str] | None:
    large = pool.large(count)
    if not large:
        return None
    largest = max(len(pool.groups[c]) for c in large)
    group = draw.choice(large)
    # Large categories twice as often as months and days.
    if len(pool.groups[group]) < 20 and largest > 20 and draw.chance(60):
        group = draw.choice([c for c in large if len(pool.groups[c]) > 20] or large)
    return draw.sample(pool.groups[group], count)


def _list_line(pool: Names, draw: Draw) -> str | None:
    chosen = _members(pool, draw, 3 + draw.below(4))
    if not chosen:
        return None
    text = [pool.name[c] for c in chosen]
    joined = facts.list_text(pool.language, text) if draw.chance(50) else ", ".join(text)
    return _label(pool.language, draw) + joined


def _repeated_line(pool: Names, draw: Draw) -> str | None:
    """A list said twice, in two orders: what was named can be found again."""
    chosen = _members(pool, draw, 2 + draw.below(2))
    if not chosen:
        return None
    text = [pool.name[c] for c in chosen]
    return f"{facts.list_text(pool.language, text)} / {', '.join(draw.shuffled(text))}"


def _aligned_line(pool: Names, draw: Draw) -> str | None:
    """Names of some concepts beside their English ones."""
    chosen = _members(pool, draw, 2 + draw.below(2))
    if not chosen or pool.language == "en":
        return None
    english = facts.names("en")
    pairs = [(pool.name[c], english[c]) for c in chosen]
    if draw.chance(50):
        pairs = [(b, a) for a, b in pairs]
    return "; ".join(f"{a} = {b}" for a, b in pairs)


def _many_languages_line(pool: Names, draw: Draw) -> str | None:
    """One concept in three or four languages, each after its code."""
    chosen = _members(pool, draw, 1)
    if not chosen:
        return None
    codes = [pool.language, "en", draw.choice(facts.LANGUAGES), draw.choice(facts.LANGUAGES)]
    entries = {
        code: facts.own_names(code)[chosen[0]]
        for code in draw.shuffled(dict.fromkeys(codes))
        if chosen[0] in facts.own_names(code)
    }
    if len(entries) < 2:
        return None
    return "; ".join(f"{code}: {name}" for code, name in entries.items())


def _fact_line(pool: Names, draw: Draw) -> str | None:
    """A place with its currency and its official language."""
    places = pool.groups["territory"]
    if not places:
        return None
    place, known = draw.choice(places), facts.names(pool.language)
    linked = (facts.currency_of().get(place), facts.language_of().get(place))
    told = [known[c] for c in linked if c and c in known]
    return f"{pool.name[place]}: {', '.join(told)}" if told else None


def _date_line(pool: Names, draw: Draw) -> str | None:
    day = datetime.date(1950 + draw.below(80), 1, 1) + datetime.timedelta(days=draw.below(365))
    first, second = draw.sample(("full", "long", "medium", "short"), 2)
    texts = [facts.date_text(pool.language, day, first)]
    texts.append(
        day.isoformat() if draw.chance(50) else facts.date_text(pool.language, day, second)
    )
    return f"{_label(pool.language, draw)}{' / '.join(draw.shuffled(texts))}"


def _calendar_line(pool: Names, draw: Draw) -> str | None:
    """Some months or days in their order."""
    kind = draw.choice(("month", "day"))
    known = facts.names(pool.language)
    numbers = range(1, 13) if kind == "month" else range(7)
    ordered = [known[f"{kind}:{n}"] for n in numbers if f"{kind}:{n}" in known]
    start = draw.below(max(1, len(ordered) - 3))
    return _label(pool.language, draw) + ", ".join(ordered[start : start + 4 + draw.below(4)])


def _number_line(pool: Names, draw: Draw) -> str | None:
    largest = facts.largest_number(pool.language)
    if largest < 0:
        return None
    start = draw.below(largest - 2)
    words = [(n, facts.number_words(pool.language, n)) for n in range(start, start + 3)]
    return ", ".join(f"{number} {text}" for number, text in words if text)


def _unit_line(pool: Names, draw: Draw) -> str | None:
    amounts = [(draw.choice(facts.UNITS), 1 + draw.below(99)) for _ in range(4)]
    texts = [facts.unit_text(pool.language, unit, amount) for unit, amount in amounts]
    known = [text for text in texts if text]
    return ", ".join(known) if len(known) > 1 else None


_KINDS = (
    (_list_line, 14), (_repeated_line, 34), (_aligned_line, 20), (_many_languages_line, 12),
    (_fact_line, 6), (_date_line, 7), (_calendar_line, 4), (_number_line, 4), (_unit_line, 3),
)  # fmt: skip


def _line(pool: Names, draw: Draw) -> str | None:
    place = draw.below(sum(weight for _, weight in _KINDS))
    for make, weight in _KINDS:
        place -= weight
        if place < 0:
            return make(pool, draw)
    raise AssertionError("weights are positive")


@functools.cache
def lines(language: str) -> tuple[str, ...]:
    """The different lines of a language."""
    pool = names(language, "all")
    wanted = min(_MOST_LINES, max(_LEAST_LINES, _LINES_A_NAME * len(pool.name)))
    found: dict[str, None] = {}
    for attempt in range(3 * wanted):
        line = _line(pool, Draw("pretraining", language, attempt))
        if line:
            found[line] = None
        if len(found) == wanted:
            break
    return tuple(found)


def pretraining_examples(split: str) -> Iterator[dict[str, str]]:
    """Examples of every language's lines: empty `inputs`, the text in `targets`."""
    for language in facts.LANGUAGES:
        for index, line in enumerate(lines(language)):
            if (index % _VALIDATION_SHARE == 0) == (split == "validation"):
                yield {"inputs": "", "targets": line}
