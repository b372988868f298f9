"""Prompt templates in promptsource's format: reading them and rendering rows with them.

A template is Jinja over the fields of a row. The text before the first `|||` is the input, the
text behind it the target; `answer_choices`, itself Jinja, lists the answers between `|||`. The
format's rules are those of promptsource 0.2.3 and of the branches that made xP3: facts/xp3.md,
sections 1 and 8. The Jinja runs in `seqio_tasks.prompt_sandbox`; the YAML is read by a safe
loader that knows the two tags of templates and refuses every other.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jinja2
import jinja2.meta
import yaml

from seqio_tasks import prompt_sandbox

SEPARATOR = "|||"
# Stands for a `|||` of the data while a template renders. It must be promptsource's own word:
# multi_news has it inside and its templates split the documents at it.
_PROTECTED = "3ed2dface8203c4c9dfb1a5dc58e41e0"
# Characters that a printed variable is cut to, at a blank, with "..." behind.
PUBLISHED_CHARS = 2048
# Why a row gives no example; the names stand in every count of a build.
DROPPED = {
    "blank": "the template rendered to nothing",
    "no_target": "the template printed no |||",
    "several_targets": "the template printed more than one |||",
    "empty_input": "nothing before the |||",
    "empty_target": "nothing after the |||",
    "render_error": "the template failed on the row",
    "answer_not_among_choices": "what the template prints behind its ||| is none of its choices",
    "one_choice": "there is one answer to choose from",
    "empty_choice": "an answer to choose from is empty",
}


class Unprompted(ValueError):
    """A row that a template makes no example of.

    `reason` is a key of DROPPED; `cause` the exception a failing template raised, else None.
    """

    def __init__(self, reason: str, detail: str = "", cause: Exception | None = None):
        self.reason, self.cause = reason, cause
        super().__init__(DROPPED[reason] + (f": {detail}" if detail else ""))


@functools.cache
def _environment() -> prompt_sandbox.PromptEnvironment:
    return prompt_sandbox.PromptEnvironment()


@functools.lru_cache(maxsize=4096)
def _compiled(source: str) -> jinja2.Template:
    environment = _environment()
    return environment.from_string(environment.parse(source))


def _protect(value: Any, deep: bool) -> Any:
    """A copy of a value in which the data's `|||` cannot be taken for the separator."""
    if isinstance(value, str):
        return value.replace(SEPARATOR, _PROTECTED)
    if isinstance(value, Mapping):
        return {key: _protect(item, deep) if deep else item for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_protect(item, deep) for item in value]
    return value


def _copied(value: Any) -> Any:
    """Lists and dicts anew: a template may append to what it is given."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value


def _unprotect(text: str) -> str:
    return text.replace(_PROTECTED, SEPARATOR)


@dataclasses.dataclass(frozen=True)
class Template:
    """One prompt of a data set.

    Attributes:
      name: unique within its data set.
      jinja: the prompt, `input ||| target`.
      answer_choices: Jinja that gives the possible answers, `|||` between them; None if open.
      id: promptsource's own name of it; reference: who wrote it.
      original_task: whether it asks the data set's own task.
      choices_in_prompt: whether the input names the choices.
      metrics: what the author would score it by; languages: of the prompt's own words.
    """

    name: str
    jinja: str
    answer_choices: str | None = None
    id: str = ""
    reference: str = ""
    original_task: bool | None = None
    choices_in_prompt: bool | None = None
    metrics: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()

    def __post_init__(self):
        for field, value in (("name", self.name), ("jinja", self.jinja)):
            if not isinstance(value, str) or not value:
                raise ValueError(f"A template's {field} is {value!r}; write text.")
        if self.answer_choices is not None and not isinstance(self.answer_choices, str):
            raise ValueError(
                f"Template '{self.name}' has answer_choices {self.answer_choices!r}; "
                "write 'one ||| other'."
            )

    def check(self) -> None:
        """Compiles it; ValueError for what is no Jinja or is not allowed in a prompt."""
        for source in (self.jinja, self.answer_choices):
            if source:
                try:
                    _compiled(source)
                except (jinja2.TemplateError, RecursionError, OverflowError) as error:
                    raise ValueError(f"Template '{self.name}': {error}.") from None

    def fixed_choices(self) -> list[str] | None:
        """The answers if they are the same for every row, else None."""
        if self.answer_choices is None:
            return None
        tree = _environment().parse(self.answer_choices)
        if jinja2.meta.find_undeclared_variables(tree):
            return None
        return self.choices({})

    def choices(self, row: Mapping[str, Any], seed: str | int = 0) -> list[str] | None:
        """The answers of a row, stripped, or None for an open prompt.

        Unprompted if the template fails on the row.
        """
        if self.answer_choices is None:
            return None
        text = self._print(self.answer_choices, _fields(row, deep=True), seed)
        return [_unprotect(choice.strip()) for choice in text.split(SEPARATOR)]

    def parts(
        self,
        row: Mapping[str, Any],
        *,
        truncate_chars: int | None = None,
        strip: bool = True,
        seed: str | int = 0,
        top_level_bars_only: bool = False,
    ) -> list[str]:
        """The rendered text, split at `|||`: the input, then the targets.

        Args:
          row: field name -> value. A `-` in a name is taken for `_`.
          truncate_chars: every printed variable is cut to so many characters (at a blank, "..."
            behind it, five characters of leeway). xP3 has 2048. As published, of `{{ a ~ b }}` only
            the last part is cut, and `{{ number + 1 }}` fails.
          strip: whether blanks around each part go. Otherwise only the outer ones do, and one
            blank that stands on both sides of the `|||` is kept once.
          seed: decides what the filters `choice` and `random` pick.
          top_level_bars_only: protect `|||` in plain string fields alone, not inside lists and not
            in the choices, as promptsource does.
        Raises: Unprompted, with the reason render_error.
        """
        deep = not top_level_bars_only
        if "answer_choices" in row:
            raise Unprompted("render_error", "the row has a field named 'answer_choices'")
        fields = _fields(row, deep)
        choices = None
        if self.answer_choices is not None:
            printed = self._print(self.answer_choices, fields, f"{seed} choices")
            choices = [choice.strip() for choice in printed.split(SEPARATOR)]
            if not deep:
                choices = [_unprotect(choice) for choice in choices]
        jinja = self.jinja
        if truncate_chars is not None:
            jinja = jinja.replace("}}", f" | string | truncate({truncate_chars}) }}}}")
        text = self._print(jinja, _copied(fields) | {"answer_choices": choices}, seed)
        parts = text.split(SEPARATOR)
        if strip:
            return [_unprotect(part).strip() for part in parts]
        return _outer_stripped([_unprotect(part) for part in parts])

    def pair(self, row: Mapping[str, Any], **options: Any) -> tuple[str, str]:
        """`(input, target)` of a row; `options` as in `parts`.

        Raises: Unprompted for a row that gives no input, or not exactly one target.
        """
        parts = self.parts(row, **options)
        if len(parts) == 1:
            raise Unprompted("no_target" if parts[0].strip() else "blank")
        if len(parts) > 2:
            raise Unprompted("several_targets")
        for reason, part in zip(("empty_input", "empty_target"), parts, strict=True):
            if not part:
                raise Unprompted(reason)
        return parts[0], parts[1]

    def _print(self, jinja: str, fields: Mapping[str, Any], seed: str | int) -> str:
        try:
            with prompt_sandbox.rendering(seed):
                return _compiled(jinja).render(fields)
        # What a template does to a row it was not written for is anybody's guess.
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
            raise Unprompted("render_error", f"'{self.name}', {detail}", error) from None


def _fields(row: Mapping[str, Any], deep: bool) -> dict[str, Any]:
    """The row as templates see it: names without hyphens, `|||` protected, a copy."""
    fields = {}
    for key, value in row.items():
        value = _protect(value, deep) if deep or isinstance(value, str) else _copied(value)
        fields[key.replace("-", "_")] = value
    return fields


def _outer_stripped(parts: list[str]) -> list[str]:
    """For code: the line break between input and target stays."""
    if len(parts) < 2:
        return parts
    first, rest = parts[0], parts[1:]
    if first.endswith(" ") and all(part.startswith(" ") for part in rest):
        first = first[:-1]
    return [first.lstrip(), *(part.rstrip() for part in rest)]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Safe YAML and the two tags of templates; every other tag is an error."""


def _mapping(loader: yaml.Loader, node: yaml.Node) -> dict:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("!Template", _mapping)
_Loader.add_constructor("!TemplateMetadata", _mapping)


def read_templates(text: str | bytes, where: str) -> dict[str, Template]:
    """Templates of one `templates.yaml` by name, in the order of names.

    Of two with one name the later counts, as in promptsource. ValueError, with `where`, for what
    is not such a file.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} is no safe YAML: {reason}.") from None
    found = content.get("templates") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{where} has no mapping 'templates'; write a promptsource file.")
    templates = {}
    for key, fields in found.items():
        if not isinstance(fields, dict):
            raise ValueError(
                f"{where}: template {key} is {type(fields).__name__}; write !Template."
            )
        template = _template(fields, str(key), where)
        templates[template.name] = template
    return dict(sorted(templates.items()))


def _template(fields: dict, key: str, where: str) -> Template:
    about = fields.get("metadata") or {}
    try:
        return Template(
            name=fields.get("name"),
            jinja=fields.get("jinja"),
            answer_choices=fields.get("answer_choices") or None,
            id=str(fields.get("id") or key),
            reference=str(fields.get("reference") or ""),
            original_task=about.get("original_task"),
            choices_in_prompt=about.get("choices_in_prompt"),
            metrics=tuple(about.get("metrics") or ()),
            languages=tuple(about.get("languages") or ()),
        )
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{where}: template {key}: {error}") from None
