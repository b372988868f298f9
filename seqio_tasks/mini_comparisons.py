"""Items that compare: paraphrases, languages told apart, and the two held-out clusters.

The held-out kinds ask for the skills that the others train (finding a text again, in this language
or in English; telling kinds and languages apart), in questions that no finetuning row has.
"""

from __future__ import annotations

import functools
import unicodedata

from seqio_tasks import mini_facts as facts
from seqio_tasks.mini_facts import Draw
from seqio_tasks.mini_names import (
    LABELLED,
    Item,
    Names,
    drawn_day,
    few,
    names,
    other_than,
    pick,
    two_options,
)
from seqio_tasks.mini_prompts import LABELS


def _partner(pool: Names, draw: Draw) -> dict[str, str]:
    """The names that a translation pair is completed with: English mostly."""
    if pool.part == "seen" and draw.chance(25):
        return facts.own_names(draw.choice(facts.SEEN_LANGUAGES))
    return facts.names("en")


_SHORT = {"month": "months", "day": "days"}


def _english_variant(concept: str, draw: Draw) -> str | None:
    """Another way to write a name inside English: a code or an abbreviation."""
    kind, code = concept.split(":", 1)
    if kind in _SHORT:
        return getattr(facts.locale("en"), _SHORT[kind])["format"]["abbreviated"][int(code)]
    return code.upper() if kind != "language" else code


def same_meaning(pool: Names, draw: Draw) -> Item | None:
    """Two names of one concept or of two; or two lists; or two dates."""
    share = draw.below(100)
    if share < 55:
        return _same_name(pool, draw)
    return _same_list(pool, draw) if share < 85 else _same_date(pool, draw)


def _same_name(pool: Names, draw: Draw) -> Item | None:
    picked = pick(pool, draw, 1)
    if not picked:
        return None
    concept, same = picked[0], draw.chance(50)
    second = concept if same else other_than(pool, draw, concept)
    if second is None:
        return None
    if pool.language == "en":
        b = _english_variant(second, draw)
    else:
        b = _partner(pool, draw).get(second)
    a = pool.name[concept]
    if not b or a.casefold() == b.casefold():
        return None
    a, b = (a, b) if draw.chance(50) else (b, a)
    return Item("same_meaning", {"a": a, "b": b}, 0 if same else 1, (), (concept, second))


def _same_list(pool: Names, draw: Draw) -> Item | None:
    picked = pick(pool, draw, 4)
    if not picked:
        return None
    size, same = few(draw), draw.chance(50)
    first = picked[:size]
    second = draw.shuffled(first if same else [*first[:-1], picked[-1]])
    if first == second:
        second = [*second[1:], second[0]]
    a, b = ([pool.name[c] for c in chosen] for chosen in (first, second))
    fields = {"a": facts.list_text(pool.language, a), "b": ", ".join(b)}
    return Item("same_meaning", fields, 0 if same else 1, (), tuple(sorted({*first, *second})))


def _same_date(pool: Names, draw: Draw) -> Item | None:
    day, same = drawn_day(pool, draw), draw.chance(50)
    other = day if same else drawn_day(pool, draw)
    if day is None or other is None or (other == day) != same:
        return None
    long = facts.date_text(pool.language, day, "long")
    second = other.isoformat()
    if not same and draw.chance(50):
        # The hard case: only the day of the month differs.
        second = f"{day.year}-{day.month:02}-{1 + day.day % 28:02}"
    used = (f"month:{day.month}", f"month:{other.month}")
    return Item("same_meaning", {"a": long, "b": second}, 0 if same else 1, (), used)


def _text(pool: Names, draw: Draw) -> tuple[str, tuple[str, ...]] | None:
    """A list of names as a sample of the language."""
    picked = pick(pool, draw, 3)
    if not picked:
        return None
    used = picked[: few(draw)]
    return facts.list_text(pool.language, [pool.name[c] for c in used]), tuple(used)


@functools.cache
def _rivals(language: str, among: tuple[str, ...]) -> tuple[str, ...]:
    """Languages of the same script, to be told apart the hard way."""

    def script(code: str) -> str:
        name = "".join(facts.own_names(code).values())
        return unicodedata.name(next(c for c in name if c.isalpha())).split()[0]

    own = script(language)
    return tuple(code for code in among if code != language and script(code) == own)


def same_language(pool: Names, draw: Draw) -> Item | None:
    """Two lists, of one language or of two."""
    first, same = _text(pool, draw), draw.chance(50)
    among = facts.SEEN_LANGUAGES if pool.language in facts.SEEN_LANGUAGES else facts.LANGUAGES
    rivals = _rivals(pool.language, among)
    if same:
        other = pool.language
    elif rivals and draw.chance(50):
        other = draw.choice(rivals)
    else:
        other = draw.choice(among)
    second = _text(names(other, pool.part), draw)
    if not first or not second or (other == pool.language) != same:
        return None
    if set(first[1]) & set(second[1]):
        return None
    a, b = (first[0], second[0]) if draw.chance(50) else (second[0], first[0])
    return Item("same_language", {"a": a, "b": b}, 0 if same else 1, (), first[1] + second[1])


def which_language(pool: Names, draw: Draw) -> Item | None:
    """A list of names; the language's English name is the target."""
    sample = _text(pool, draw)
    concept = f"language:{pool.language}"
    target = facts.names("en").get(concept)
    if not sample or not target:
        return None
    return Item("which_language", {"a": sample[0]}, 0, (target,), (*sample[1], concept))


def nli(pool: Names, draw: Draw) -> Item | None:
    """A premise of names and a claim about it: their kind, a name in it, a date's month."""
    share = draw.below(100)
    if share < 60:
        return _nli_kind(pool, draw)
    return _nli_name(pool, draw) if share < 85 else _nli_date(pool, draw)


def _nli_kind(pool: Names, draw: Draw) -> Item | None:
    """The names are places, languages or currencies; the claim names one of these kinds."""
    labels = LABELS["en"]
    label, follows = draw.below(len(labels)), draw.chance(50)
    members = pool.groups[LABELLED[label]]
    if len(members) < 4:
        return None
    used = draw.sample(members, 1 + draw.below(3))
    claim = label if follows else (label + 1 + draw.below(2)) % 3
    premise = facts.list_text(pool.language, [pool.name[c] for c in used])
    fields = {"premise": premise, "hypothesis": f"a {labels[claim]} is named"}
    return Item("nli", fields, 0 if follows else 1, (), tuple(used))


def _nli_name(pool: Names, draw: Draw) -> Item | None:
    """A list and a name in it or not, in the language or in English."""
    picked = pick(pool, draw, 4)
    if not picked:
        return None
    follows = draw.chance(50)
    listed = picked[: few(draw)]
    claim = draw.choice(listed) if follows else picked[-1]
    stated = pool.name[claim]
    if pool.language != "en" and draw.chance(30):
        stated = facts.names("en")[claim]
    premise = facts.list_text(pool.language, [pool.name[c] for c in listed])
    used = tuple(dict.fromkeys([*listed, claim]))
    fields = {"premise": premise, "hypothesis": f"{stated} is named"}
    return Item("nli", fields, 0 if follows else 1, (), used)


def _nli_date(pool: Names, draw: Draw) -> Item | None:
    day = drawn_day(pool, draw)
    months = pool.groups["month"]
    if not day or len(months) < 4 or f"month:{day.month}" not in months:
        return None
    follows = draw.chance(50)
    claim = f"month:{day.month}" if follows else draw.choice(months)
    if (claim == f"month:{day.month}") != follows:
        return None
    fields = {
        "premise": facts.date_text(pool.language, day, "long"),
        "hypothesis": f"{pool.name[claim]} is named",
    }
    used = (f"month:{day.month}", claim)
    return Item("nli", fields, 0 if follows else 1, (), used)


def completion(pool: Names, draw: Draw) -> Item | None:
    """A list begun; the ending of its kind or language, against one of another."""
    picked = pick(pool, draw, 4)
    if not picked:
        return None
    begun, right = picked[: few(draw)], picked[-1]
    context = ", ".join(pool.name[c] for c in begun)
    if draw.chance(60):
        kinds = [c for c in pool.large(1) if c != facts.category(right)]
        if not kinds:
            return None
        wrong = draw.choice(pool.groups[draw.choice(kinds)])
        return two_options("completion", {"context": context}, pool, draw, [right, wrong], begun)
    rivals = _rivals(pool.language, facts.LANGUAGES) or facts.LANGUAGES
    foreign = facts.own_names(draw.choice(rivals))
    own = set(pool.name.values())
    same_kind = [
        c
        for c in pool.groups[facts.category(right)]
        if c in foreign and c not in picked and foreign[c] not in own
    ]
    if not same_kind:
        return None
    wrong = draw.choice(same_kind)
    answer = draw.below(2)
    options = (pool.name[right], foreign[wrong])
    options = options if answer == 0 else options[::-1]
    fields = {"context": context, "a": options[0], "b": options[1]}
    return Item("completion", fields, answer, options, (*begun, right, wrong))
