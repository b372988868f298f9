"""Facts of mini-xP3: what CLDR says, through Babel and unicode-rbnf, in 42 languages of xP3.

A concept is an id such as `territory:FR`, `language:sw`, `currency:EUR`, `month:3`, `day:0` or
`number:42`; a language gives it a name, or none. Everything here is a pure function of the
installed CLDR, memoised for a process; nothing is read when the module is imported.

Only Babel's `['format']` names are used: its stand-alone months, days and quarters return another
locale's words once several locales were read in one process.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
from collections.abc import Iterable, Sequence

# xP3's natural languages that CLDR covers, in xP3's order of size. Tumbuka and Fon have no locale
# in Babel, and Twi is CLDR's Akan.
LANGUAGES = tuple(
    "en es pt fr ar id zh hi vi ur te ta bn mr sw gu pa ne yo ig ny zu xh sn ts rw lg tn nso rn "
    "ml kn or as ln wo ki st ca eu ak bm".split()
)
# Never in a finetuning row; only in span corruption and in evaluation.
HELD_OUT_LANGUAGES = ("pt", "ca", "eu", "ne", "bn", "te", "xh", "ig", "ak")
SEEN_LANGUAGES = tuple(code for code in LANGUAGES if code not in HELD_OUT_LANGUAGES)
CATEGORIES = ("territory", "language", "currency", "month", "day")
# Names that few locales have would teach a handful of languages only (and CLDR has 659 languages).
_LEAST_LOCALES = {"territory": 26, "language": 28, "currency": 26, "month": 26, "day": 26}
_LONGEST_NAME = 32
# Chosen so that months and days have held-out members too.
_SALT = "mini-xP3 concept 6"
# Codes of CLDR that are no place of their own.
_NOT_TERRITORIES = frozenset("EU EZ UN QO ZZ XA XB".split())
# Codes for "unknown", "several", "none", "test".
_NOT_NAMES = frozenset("language:und language:mul language:zxx language:mis currency:XXX "
                       "currency:XTS".split())  # fmt: skip
# Above this, CLDR's rules for some languages join words in ways nobody writes.
_LARGEST_NUMBER = {"ar": 99, "ta": 99, "ne": 99}
UNITS = ("kilometer", "meter", "centimeter", "kilogram", "gram", "liter", "hour", "minute",
         "second", "day", "week", "month", "year")  # fmt: skip
_UNIT_KINDS = {"kilometer": "length", "meter": "length", "centimeter": "length",
               "kilogram": "mass", "gram": "mass", "liter": "volume"}  # fmt: skip


class Draw:
    """A stream of choices that depends on its key alone (splitmix64 seeded by BLAKE2)."""

    def __init__(self, *key: object):
        text = "\x1f".join(str(part) for part in key)
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        self._state = int.from_bytes(digest, "little")

    def below(self, bound: int) -> int:
        """A whole number from 0 to bound - 1."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        return ((mixed ^ (mixed >> 31)) * bound) >> 64

    def choice(self, items: Sequence):
        """One of the items."""
        return items[self.below(len(items))]

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 draws."""
        return self.below(100) < percent

    def sample(self, items: Sequence, count: int) -> list:
        """`count` different positions' items (fewer when there are fewer), in drawn order."""
        if 3 * count > len(items):
            return self.shuffled(items)[:count]
        taken: dict[int, None] = {}
        while len(taken) < count:
            taken[self.below(len(items))] = None
        return [items[index] for index in taken]

    def shuffled(self, items: Iterable) -> list:
        """The items in a drawn order."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order


@functools.cache
def held_out(concept: str) -> bool:
    """True for the fifth of the concepts that no finetuning row may mention.

    The names of mini-xP3's own languages are never among them: prompts say them.
    """
    if concept.removeprefix("language:") in LANGUAGES:
        return False
    digest = hashlib.blake2b(f"{_SALT} {concept}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % 5 == 0


@functools.cache
def locale(language: str):
    """Babel's locale; ValueError for a language that mini-xP3 lacks."""
    if language not in LANGUAGES:
        raise ValueError(f"mini-xP3 has no language '{language}'; it has {' '.join(LANGUAGES)}.")
    from babel import Locale

    return Locale.parse(language)


@functools.cache
def _raw_names(language: str) -> dict[str, str]:
    """Every name that Babel gives in a language, before concepts are chosen."""
    data = locale(language)
    found = {}
    for code, name in data.territories.items():
        if len(code) == 2 and code.isalpha() and code not in _NOT_TERRITORIES:
            found[f"territory:{code}"] = name
    for code, name in data.languages.items():
        if code.isalpha() and len(code) <= 3:
            found[f"language:{code}"] = name
    # Not `.items()`: of the three mappings only this one is read lazily, key by key.
    for code, name in dict(data.currencies).items():
        found[f"currency:{code}"] = name
    for number, name in data.months["format"]["wide"].items():
        found[f"month:{number}"] = name
    for number, name in data.days["format"]["wide"].items():
        found[f"day:{number}"] = name
    tidy = {concept: " ".join(str(name).split()) for concept, name in found.items()}
    return {c: name for c, name in tidy.items() if name and len(name) <= _LONGEST_NAME}


@functools.cache
def concepts() -> tuple[str, ...]:
    """The concepts of mini-xP3: those named by most locales, in a fixed order."""
    counts: dict[str, int] = {}
    for language in LANGUAGES:
        for concept in _raw_names(language):
            counts[concept] = counts.get(concept, 0) + 1
    # A digit in the English name marks a currency of the past: "Zambian Kwacha (1968-2012)".
    kept = [
        concept
        for concept, name in _raw_names("en").items()
        if counts[concept] >= _LEAST_LOCALES[category(concept)]
        and concept not in _NOT_NAMES
        and not any(c.isdecimal() for c in name)
    ]
    return tuple(sorted(kept, key=_order))


def category(concept: str) -> str:
    """`territory:FR` -> `territory`."""
    return concept.split(":", 1)[0]


def _order(concept: str) -> tuple:
    kind, code = concept.split(":", 1)
    return (kind, int(code), "") if code.isdigit() else (kind, 0, code)


@functools.cache
def names(language: str) -> dict[str, str]:
    """Concept -> name in a language. Names that two concepts share are dropped."""
    raw = _raw_names(language)
    chosen = {concept: raw[concept] for concept in concepts() if concept in raw}
    owners: dict[str, int] = {}
    for name in chosen.values():
        owners[name.casefold()] = owners.get(name.casefold(), 0) + 1
    return {c: name for c, name in chosen.items() if owners[name.casefold()] == 1}


@functools.cache
def own_names(language: str) -> dict[str, str]:
    """Names that are the language's own: unlike English ones (all of them, for English).

    CLDR repeats the English name where a locale has no other (most territories of Shona).
    """
    if language == "en":
        return names("en")
    english = {concept: name.casefold() for concept, name in names("en").items()}
    own = {c: n for c, n in names(language).items() if n.casefold() != english.get(c)}
    return {concept: name for concept, name in own.items() if concept in english}


def endonym(language: str) -> str:
    """A language's name in itself; its code where CLDR has none."""
    return locale(language).languages.get(language) or language


@functools.cache
def currency_of() -> dict[str, str]:
    """Territory concept -> concept of the one currency that is legal tender there today."""
    from babel.core import get_global

    known, found = set(concepts()), {}
    for code, history in get_global("territory_currencies").items():
        current = [entry[0] for entry in history if entry[2] is None and entry[3]]
        pair = (f"territory:{code}", f"currency:{current[0]}" if current else "")
        if len(current) == 1 and set(pair) <= known:
            found[pair[0]] = pair[1]
    return found


@functools.cache
def language_of() -> dict[str, str]:
    """Territory concept -> concept of its one official language."""
    from babel.core import get_global

    known, found = set(concepts()), {}
    for code, spoken in get_global("territory_languages").items():
        official = [c for c, facts in spoken.items() if facts["official_status"] == "official"]
        pair = (f"territory:{code}", f"language:{official[0]}" if official else "")
        if len(official) == 1 and set(pair) <= known:
            found[pair[0]] = pair[1]
    return found


@functools.cache
def _date_pattern(language: str, width: str):
    from babel.dates import parse_pattern

    pattern = locale(language).date_formats[width].pattern
    parts = pattern.split("'")
    # Outside quotes, L and c ask for stand-alone names: their `format` twins are M and E.
    parts[::2] = [part.replace("L", "M").replace("c", "E") for part in parts[::2]]
    return parse_pattern("'".join(parts))


def date_text(language: str, day: datetime.date, width: str) -> str:
    """A date as the language writes it; width is full, long, medium or short."""
    return " ".join(_date_pattern(language, width).apply(day, locale(language)).split())


def has_conjunction(language: str) -> bool:
    """False where CLDR's list pattern is the root's (commas alone)."""
    patterns = locale(language).list_patterns.get("standard", {})
    return bool(patterns) and any(c.isalpha() for c in patterns["end"].format("", ""))


def list_text(language: str, items: Sequence[str]) -> str:
    """Items joined as the language does ("A, B, and C"), by CLDR's `standard` list pattern."""
    if len(items) < 2 or not has_conjunction(language):
        return ", ".join(items)
    patterns = locale(language).list_patterns["standard"]
    if len(items) == 2:
        return patterns["2"].format(*items)
    joined = patterns["start"].format("{0}", "{1}").format(items[0], "\x00")
    for item in items[1:-2]:
        joined = joined.replace("\x00", patterns["middle"].format(item, "\x00"))
    return joined.replace("\x00", patterns["end"].format(items[-2], items[-1]))


@functools.cache
def unit_text(language: str, unit: str, amount: int) -> str | None:
    """An amount in words ("5 kilometres"); None where CLDR has no long name for the unit."""
    from babel.units import format_unit

    name = f"{_UNIT_KINDS.get(unit, 'duration')}-{unit}"
    text = " ".join(format_unit(amount, name, length="long", locale=locale(language)).split())
    # Babel falls back to the unit's key, or to the root's bare symbol.
    if name in text or "-" in text or not any(c.isalpha() for c in text):
        return None
    root = " ".join(format_unit(amount, name, length="short", locale="en").split())
    return None if text == root else text


@functools.cache
def _number_engine(language: str):
    from unicode_rbnf import RbnfEngine

    try:
        return RbnfEngine.for_language(language)
    except ValueError:
        return None


def largest_number(language: str) -> int:
    """The largest whole number that mini-xP3 writes out; -1 where CLDR has no rules."""
    if _number_engine(language) is None:
        return -1
    return _LARGEST_NUMBER.get(language, 999)


@functools.cache
def number_words(language: str, number: int) -> str | None:
    """A whole number written out by CLDR's rules, None outside what `largest_number` allows."""
    if not 0 <= number <= largest_number(language):
        return None
    words = _number_engine(language).format_number(number).text.replace("\u00ad", "")
    return None if any(c.isdecimal() for c in words) else words
