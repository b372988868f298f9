"""Items of mini-xP3: facts drawn for one question, before any prompt is chosen.

One function a kind. Each takes the language's names (`Names`) and a stream of choices, and gives
an `Item`, or None when this draw has no question in it (the caller draws again).
"""

from __future__ import annotations

import json
from collections.abc import Callable

from seqio_tasks import mini_comparisons as comparisons
from seqio_tasks import mini_facts as facts
from seqio_tasks.mini_facts import Draw
from seqio_tasks.mini_names import (
    LABELLED,
    Item,
    Names,
    allowed,
    day_concepts,
    drawn_day,
    few,
    pick,
    two_options,
)


def category(pool: Names, draw: Draw) -> Item | None:
    """One or two names: places, languages or currencies?"""
    label = draw.below(3)
    members = pool.groups[LABELLED[label]]
    if len(members) < 4:
        return None
    used = draw.sample(members, 1 + draw.below(2))
    text = ", ".join(pool.name[c] for c in used)
    return Item("category", {"a": text}, label, (), tuple(used))


def is_kind(pool: Names, draw: Draw) -> Item | None:
    """One or two names of a kind, and a kind: is it theirs?"""
    label = draw.below(3)
    members = pool.groups[LABELLED[label]]
    if len(members) < 4:
        return None
    used = draw.sample(members, 1 + draw.below(2))
    yes = draw.chance(50)
    asked = label if yes else (label + 1 + draw.below(2)) % 3
    fields = {"a": ", ".join(pool.name[c] for c in used), "label": str(asked)}
    return Item("is_kind", fields, 0 if yes else 1, (), tuple(used))


def which_is(pool: Names, draw: Draw) -> Item | None:
    """Two names of different kinds: which is the place (language, currency)?"""
    labels = [label for label in range(3) if len(pool.groups[LABELLED[label]]) >= 4]
    if len(labels) < 2:
        return None
    right, wrong = draw.sample(labels, 2)
    chosen = [draw.choice(pool.groups[LABELLED[label]]) for label in (right, wrong)]
    return two_options("which_is", {"label": str(right)}, pool, draw, chosen)


def _fact(kind: str, table: dict[str, str], pool: Names, draw: Draw) -> Item | None:
    territories = pool.groups["territory"]
    if not territories:
        return None
    place = draw.choice(territories)
    answer = table.get(place)
    if answer is None or not allowed(answer, pool.part):
        return None
    target = facts.names(pool.language).get(answer)
    if not target:
        return None
    return Item(kind, {"a": pool.name[place]}, 0, (target,), (place, answer))


def currency_of(pool: Names, draw: Draw) -> Item | None:
    """A place's legal tender, both named in the language."""
    return _fact("currency_of", facts.currency_of(), pool, draw)


def language_of(pool: Names, draw: Draw) -> Item | None:
    """A place's official language, both named in the language."""
    return _fact("language_of", facts.language_of(), pool, draw)


def lookup(pool: Names, draw: Draw) -> Item | None:
    """A table of two or three pairs; one key is asked for. Two options: two of its values."""
    keys = pick(pool, draw, 3)
    if not keys:
        return None
    keys = keys[: few(draw)]
    if pool.language == "en" or draw.chance(40):
        values = pick(pool, draw, 3)
        if not values or set(keys) & set(values):
            return None
        text = {k: pool.name[v] for k, v in zip(keys, values, strict=False)}
        used = (*keys, *values[: len(keys)])
    else:
        text = {k: facts.names("en")[k] for k in keys}
        used = tuple(keys)
    rows = "; ".join(f"{pool.name[k]} = {text[k]}" for k in draw.shuffled(keys))
    right, wrong = text[keys[0]], text[keys[1]]
    if right == wrong:
        return None
    fields = {"context": rows, "a": pool.name[keys[0]]}
    answer = draw.below(2)
    options = (right, wrong) if answer == 0 else (wrong, right)
    return Item("lookup", fields, answer, options, used)


def after(pool: Names, draw: Draw) -> Item | None:
    """A row of names; the one after a given one. Two options: two of the row."""
    picked = pick(pool, draw, 4)
    if not picked:
        return None
    picked = picked[: 3 + draw.below(2)]
    place = draw.below(len(picked) - 1)
    right, wrong = picked[place + 1], picked[place - 1]
    if wrong == picked[place] or wrong == right:
        return None
    answer = draw.below(2)
    options = (pool.name[right], pool.name[wrong])
    fields = {"context": ", ".join(pool.name[c] for c in picked), "a": pool.name[picked[place]]}
    return Item("after", fields, answer, options if answer == 0 else options[::-1], tuple(picked))


def member(pool: Names, draw: Draw) -> Item | None:
    """A list, and two names of which it has one."""
    picked = pick(pool, draw, 4)
    if not picked:
        return None
    listed, stranger = picked[: few(draw)], picked[-1]
    context = facts.list_text(pool.language, [pool.name[c] for c in listed])
    chosen = [draw.choice(listed), stranger]
    return two_options("member", {"context": context}, pool, draw, chosen, listed)


def translate(pool: Names, draw: Draw) -> Item | None:
    """A name into English, or from English, or between two languages that are seen."""
    picked = pick(pool, draw, 1)
    if not picked or pool.language == "en":
        return None
    concept = picked[0]
    other = draw.choice(facts.SEEN_LANGUAGES) if draw.chance(15) else "en"
    there, here = facts.names(other).get(concept), pool.name[concept]
    labels = [facts.names("en").get(f"language:{c}") for c in (pool.language, other)]
    if not there or there.casefold() == here.casefold() or not all(labels):
        return None
    used = (concept, f"language:{pool.language}", f"language:{other}")
    if draw.chance(50):
        return Item("translate", {"a": here, "language": labels[1]}, 0, (there,), used)
    return Item("translate", {"a": there, "language": labels[0]}, 0, (here,), used)


def date(pool: Names, draw: Draw) -> Item | None:
    """Fields of a date -> the date as the language writes it."""
    day = drawn_day(pool, draw)
    used = day and day_concepts(day)
    if not day or not set(used) <= set(facts.names(pool.language)):
        return None
    month, weekday = (facts.names(pool.language)[c] for c in used)
    text = f"day={weekday} | date={day.day} | month={month} | year={day.year}"
    target = facts.date_text(pool.language, day, "full")
    return Item("date", {"a": text}, 0, (target,), used)


def list_items(pool: Names, draw: Draw) -> Item | None:
    """A JSON array of names -> the list as the language writes it."""
    picked = pick(pool, draw, 4)
    if not picked or not facts.has_conjunction(pool.language):
        return None
    used = picked[: few(draw)]
    items = [pool.name[c] for c in used]
    fields = {"a": json.dumps(items, ensure_ascii=False)}
    return Item("list", fields, 0, (facts.list_text(pool.language, items),), tuple(used))


def unit(pool: Names, draw: Draw) -> Item | None:
    """A JSON object of an amount -> the amount in words of the language."""
    name, amount = draw.choice(facts.UNITS), 1 + draw.below(99)
    target = facts.unit_text(pool.language, name, amount)
    if not target or not allowed(f"unit:{name}", pool.part):
        return None
    fields = {"a": json.dumps({"unit": name, "amount": amount})}
    return Item("unit", fields, 0, (target,), (f"unit:{name}",))


def _number(pool: Names, draw: Draw) -> tuple[int, str] | None:
    largest = facts.largest_number(pool.language)
    if largest < 0:
        return None
    # Small numbers are half of it: the words of the large ones are made of theirs.
    number = draw.below(min(largest, 99) + 1) if draw.chance(50) else draw.below(largest + 1)
    words = facts.number_words(pool.language, number)
    return (number, words) if words and allowed(f"number:{number}", pool.part) else None


def to_words(pool: Names, draw: Draw) -> Item | None:
    """A number written out."""
    found = _number(pool, draw)
    label = facts.names("en").get(f"language:{pool.language}")
    if not found or not label:
        return None
    used = (f"number:{found[0]}", f"language:{pool.language}")
    fields = {"a": str(found[0]), "language": label}
    return Item("to_words", fields, 0, (found[1],), used)


def to_digits(pool: Names, draw: Draw) -> Item | None:
    """Number words read back."""
    found = _number(pool, draw)
    if not found:
        return None
    return Item("to_digits", {"a": found[1]}, 0, (str(found[0]),), (f"number:{found[0]}",))


def code(pool: Names, draw: Draw) -> Item | None:
    """One line of Python over a list of names; the target is what it prints."""
    picked = pick(pool, draw, 4)
    if not picked:
        return None
    used = picked[: few(draw)]
    items = [pool.name[c] for c in used]
    index, which = draw.below(len(items)), draw.below(4)
    shown = json.dumps(items, ensure_ascii=False)
    probe = picked[-1] if draw.chance(50) else used[index]
    programs = (
        (f"print({shown}[{index}])", items[index]),
        (f"print({shown}[-1])", items[-1]),
        (f"print(len({shown}))", str(len(items))),
        (f"print({json.dumps(pool.name[probe], ensure_ascii=False)} in {shown})",
         str(probe in used)),
    )  # fmt: skip
    line, output = programs[which]
    mentioned = tuple(dict.fromkeys([*used, *([probe] if which == 3 else [])]))
    return Item("code", {"a": line}, 0, (output,), mentioned)


KINDS: dict[str, Callable[[Names, Draw], Item | None]] = {
    "same_meaning": comparisons.same_meaning,
    "same_language": comparisons.same_language,
    "which_language": comparisons.which_language,
    "category": category,
    "is_kind": is_kind,
    "which_is": which_is,
    "currency_of": currency_of,
    "language_of": language_of,
    "lookup": lookup,
    "after": after,
    "member": member,
    "translate": translate,
    "date": date,
    "list": list_items,
    "unit": unit,
    "to_words": to_words,
    "to_digits": to_digits,
    "code": code,
    "nli": comparisons.nli,
    "completion": comparisons.completion,
}
