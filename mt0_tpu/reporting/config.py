"""What a run was told: the settings of its config.gin, and where runs differ in them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from mt0_tpu.redaction import redact

_SETTING = re.compile(r"^([A-Za-z_][\w./]*)\s*=\s*(.*)$")
# Where a run lies, and which seed it has, are not how it was run.
_PLACES = re.compile(r"(^|\.)(model_dir|cache_dir|eval_output_dir|random_seed)$", re.IGNORECASE)
_MOST_CHARACTERS = 300


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A config.gin: macros (BATCH_SIZE) and parameters (train.eval_period) as they are written."""

    macros: dict[str, str] = dataclasses.field(default_factory=dict)
    parameters: dict[str, str] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.macros or self.parameters)

    @property
    def settings(self) -> dict[str, str]:
        """Both, macros first."""
        return self.macros | self.parameters


def read_config(path: Path) -> RunConfig:
    """Reads a resolved config.gin; an absent file has no settings. Never raises on its text."""
    if not path.is_file():
        return RunConfig()
    macros, parameters = {}, {}
    for name, value in _settings(redact(path.read_text("utf-8", "replace"))):
        (macros if name.isupper() else parameters)[name] = value
    return RunConfig(macros, parameters)


def _settings(text: str):
    """Yields (name, value); a value goes on over lines that are indented or close its bracket."""
    name, parts = None, []
    for line in text.splitlines():
        line = _without_comment(line)
        started = _SETTING.match(line)
        if started:
            if name:
                yield name, _joined(parts)
            name, parts = started.group(1), [started.group(2)]
        elif name and line.strip():
            parts.append(line)
    if name:
        yield name, _joined(parts)


def _without_comment(line: str) -> str:
    """Cuts a comment off; a # within quotes is none."""
    quote = ""
    for at, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote and line[at - 1] != "\\" else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#":
            return line[:at].rstrip()
    return line.rstrip()


def _joined(parts: list[str]) -> str:
    text = " ".join(part.strip().removesuffix("\\").strip() for part in parts).strip()
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def differences(configs: Mapping[str, RunConfig]) -> dict[str, dict[str, str]]:
    """Returns the settings that are not the same in all: name -> who -> value ('' where unset).

    Folders and seeds of runs are left out: those differ always.
    """
    found = {}
    names = dict.fromkeys(name for config in configs.values() for name in config.settings)
    for name in names:
        if _PLACES.search(name):
            continue
        values = {who: config.settings.get(name, "") for who, config in configs.items()}
        if len(set(values.values())) > 1:
            found[name] = values
    return found
