"""Prompts of mini-xP3: how an item of facts is asked, in English and in eight other languages.

A template is filled by `str.format` with the item's fields. Where the answer comes from a closed
set, the prompt gives the set in its own language, and the item gives an index into it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One way to ask. `choices` is empty where the answer is text that the item brings."""

    name: str
    language: str
    template: str
    choices: tuple[str, ...] = ()

    def render(self, fields: Mapping[str, str]) -> str:
        """The filled template, blanks and line ends reduced to single blanks."""
        named = dict(fields)
        if "label" in named:
            named["label"] = LABELS[self.language][int(named["label"])]
        return " ".join(self.template.format(**named).split())


YES_NO = {
    "en": ("yes", "no"),
    "fr": ("oui", "non"),
    "es": ("sí", "no"),
    "id": ("ya", "tidak"),
    "sw": ("ndiyo", "hapana"),
    "vi": ("có", "không"),
    "zh": ("是", "否"),
    "hi": ("हाँ", "नहीं"),
    "ar": ("نعم", "لا"),
}
# What a name names, in the order of mini_names.LABELLED.
LABELS = {
    "en": ("place", "language", "currency"),
    "fr": ("lieu", "langue", "monnaie"),
    "es": ("lugar", "idioma", "moneda"),
    "id": ("tempat", "bahasa", "mata uang"),
    "sw": ("mahali", "lugha", "sarafu"),
    "vi": ("địa danh", "ngôn ngữ", "tiền tệ"),
    "zh": ("地区", "语言", "货币"),
    "hi": ("स्थान", "भाषा", "मुद्रा"),
    "ar": ("مكان", "لغة", "عملة"),
}

# Training clusters, by kind of item.
_ENGLISH = {
    "same_meaning": (
        "Do {a} and {b} mean the same? yes or no",
        "{a} / {b}. Is the meaning the same? yes or no",
        "Is {a} another way to say {b}? yes or no",
        "First: {a}. Second: {b}. Do they say the same thing? yes or no",
    ),
    "same_language": (
        "Are {a} and {b} in the same language? yes or no",
        "{a} / {b}. Is the language the same? yes or no",
        "First: {a}. Second: {b}. Are they written in one language? yes or no",
        "Is {a} in the language of {b}? yes or no",
    ),
    "which_language": (
        "Which language is this? {a}",
        "{a} - the language of this text:",
        "Name the language of: {a}",
    ),
    "category": (
        "Is {a} a place, a language or a currency?",
        "place, language or currency? {a}",
        "{a}. What kind of name is this: place, language or currency?",
        "What does {a} name? Answer place, language or currency.",
    ),
    "is_kind": (
        "Is this a {label}: {a}? yes or no",
        "{a}. Is that a {label}? yes or no",
        "Does {a} name a {label}? yes or no",
    ),
    "which_is": (
        "Which is a {label}: {a} or {b}?",
        "{a} or {b}? Choose the {label}.",
        "One of these is a {label}: {a}, {b}. Which one?",
    ),
    "currency_of": (
        "What is the currency of {a}?",
        "Which money is used in {a}?",
        "{a}: its currency?",
    ),
    "language_of": (
        "What is the official language of {a}?",
        "Which language is official in {a}?",
        "{a}: its official language?",
    ),
    "lookup": (
        "{context}. What stands beside {a}?",
        "Read: {context}. Question: {a}? Answer:",
        "From the table {context}, give the entry for {a}.",
    ),
    "after": (
        "{context}. What comes after {a}?",
        "In the row {context}, which is the one right after {a}?",
        "Row: {context}. Next after {a}:",
    ),
    "member": (
        "{context}. Which is in the list: {a} or {b}?",
        "{a} or {b}: which of them was listed here? {context}",
        "List: {context}. Choose the one that it has: {a} or {b}.",
    ),
    "translate": (
        "Translate to {language}: {a}",
        "{a} in {language}:",
        "How do you say {a} in {language}?",
        "Give the {language} name of {a}.",
    ),
    "date": (
        "Write as a date: {a}",
        "{a}. Put this into words as one date.",
        "Make a date of these fields: {a}",
    ),
    "list": (
        "Write as a list in words: {a}",
        "Join these items: {a}",
        "{a} as running text:",
    ),
    "unit": (
        "Write in words: {a}",
        "{a} as running text:",
        "Say this amount: {a}",
    ),
    "to_words": (
        "Write {a} in words in {language}.",
        "{a} in {language} words:",
        "Spell out the number {a} in {language}.",
    ),
    "to_digits": (
        "Write in digits: {a}",
        "{a} as a number:",
        "Which number is {a}?",
    ),
    "code": (
        "What does this Python print? {a}",
        "{a} # output:",
        "Run: {a} Result:",
    ),
}  # fmt: skip

# The same kinds asked in the data's own language, only where the wording is short and sure.
_NATIVE = {
    "same_meaning": {
        "fr": "« {a} » et « {b} » veulent-ils dire la même chose ? oui ou non",
        "es": "¿{a} y {b} significan lo mismo? sí o no",
        "id": "Apakah {a} dan {b} sama artinya? ya atau tidak",
        "sw": "Je, {a} na {b} zina maana sawa? ndiyo au hapana",
        "vi": "{a} và {b} có cùng nghĩa không? có hay không",
        "zh": "“{a}”和“{b}”的意思相同吗？是或否",
        "hi": "क्या {a} और {b} का अर्थ एक ही है? हाँ या नहीं",
        "ar": "هل {a} و {b} لهما نفس المعنى؟ نعم أو لا",
    },
    "category": {
        "fr": "{a} : lieu, langue ou monnaie ?",
        "es": "{a}: ¿lugar, idioma o moneda?",
        "id": "{a}: tempat, bahasa, atau mata uang?",
        "sw": "{a}: mahali, lugha au sarafu?",
        "vi": "{a}: địa danh, ngôn ngữ hay tiền tệ?",
        "zh": "{a}：地区、语言还是货币？",
        "hi": "{a}: स्थान, भाषा या मुद्रा?",
        "ar": "{a}: مكان أم لغة أم عملة؟",
    },
    "is_kind": {
        "fr": "{a} : est-ce un nom de {label} ? oui ou non",
        "es": "¿Es {a} nombre de {label}? sí o no",
        "id": "Apakah {a} nama {label}? ya atau tidak",
        "sw": "Je, {a} ni {label}? ndiyo au hapana",
        "vi": "{a} có phải là {label} không? có hay không",
        "zh": "{a}是{label}吗？是或否",
        "hi": "क्या {a} {label} है? हाँ या नहीं",
        "ar": "هل {a} اسم {label}؟ نعم أو لا",
    },
    "currency_of": {
        "fr": "Quelle est la monnaie ici : {a} ?",
        "es": "¿Cuál es la moneda de {a}?",
        "id": "Apa mata uang {a}?",
        "sw": "Sarafu ya {a} ni ipi?",
        "vi": "Tiền tệ của {a} là gì?",
        "zh": "{a}的货币是什么？",
        "hi": "{a} की मुद्रा क्या है?",
        "ar": "ما هي عملة {a}؟",
    },
}

# Held-out clusters: evaluation only.
_HELD_OUT = {
    "nli": (
        "Premise: {premise}. Hypothesis: {hypothesis}. Does it follow? yes or no",
        "Suppose we know: {premise}. Can we infer that {hypothesis}? yes or no",
        "{premise}. Based on this, is it certain that {hypothesis}? yes or no",
        "Given {premise}, should we assume that {hypothesis}? yes or no",
    ),
    "completion": (
        "{context}, ... How does it go on: {a} or {b}?",
        "Begun: {context}. Finish it with {a} or {b}.",
        "{context}, ... Choose the better ending: {a} or {b}",
        "Which belongs at the end of {context}: {a} or {b}?",
    ),
}

_YES_NO_KINDS = ("same_meaning", "same_language", "is_kind", "nli")


def _choices(kind: str, language: str) -> tuple[str, ...]:
    if kind in _YES_NO_KINDS:
        return YES_NO[language]
    return LABELS[language] if kind == "category" else ()


def _prompts() -> dict[str, tuple[Prompt, ...]]:
    made = {}
    for kind, templates in {**_ENGLISH, **_HELD_OUT}.items():
        english = [
            Prompt(f"{kind}_{number}", "en", template, _choices(kind, "en"))
            for number, template in enumerate(templates, start=1)
        ]
        native = [
            Prompt(f"{kind}_{language}", language, template, _choices(kind, language))
            for language, template in _NATIVE.get(kind, {}).items()
        ]
        made[kind] = tuple(english + native)
    return made


PROMPTS = _prompts()
HELD_OUT_KINDS = tuple(_HELD_OUT)


def prompts(kind: str, language: str = "en") -> tuple[Prompt, ...]:
    """English prompts of a kind, then those in `language`; ValueError for an unknown kind."""
    if kind not in PROMPTS:
        raise ValueError(f"mini-xP3 has no prompts of kind '{kind}'; it has {list(PROMPTS)}.")
    return tuple(p for p in PROMPTS[kind] if p.language in ("en", language))
