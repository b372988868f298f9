"""What a config binds, checked and turned into the arguments of a job.

gin reads the language (gin_config.py); this file gives it meaning. It does so itself, instead
of through gin's registry, because gin keeps no record of who read a macro and hands values of
any type to whoever asks.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from mt0_tpu import annotations, gin_names
from mt0_tpu.errors import UserError, did_you_mean

REQUIRED = "gin.REQUIRED"
COMMAND_LINE = "the command line"
# Stands for a value that is not known yet; every missing one is collected before the error.
_MISSING = object()
# How a value of a type is written on the command line, for the messages.
_EXAMPLES = {
    "str": "\"'…'\"",
    "int": "N",
    "float": "X",
    "bool": "True",
    "dict": "\"{'inputs': N, 'targets': N}\"",
}


@dataclasses.dataclass(frozen=True)
class Macro:
    """%NAME in a config."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Reference:
    """@scope/name or @scope/name() in a config."""

    scope: str
    selector: str
    evaluate: bool
    origin: str

    def __repr__(self) -> str:
        scope = f"{self.scope}/" if self.scope else ""
        return f"@{scope}{self.selector}{'()' if self.evaluate else ''}"


@dataclasses.dataclass(frozen=True)
class Statement:
    """`scope/selector.parameter = value`, or `selector = value` (a macro, parameter '').

    `origin` says where it was written, for people: "runs/finetune.gin line 12".
    """

    scope: str
    selector: str
    parameter: str
    value: Any
    origin: str

    @property
    def is_macro(self) -> bool:
        return not self.parameter

    @property
    def macro_name(self) -> str:
        return f"{self.scope}/{self.selector}" if self.scope else self.selector


def macros_in(value: Any) -> list[str]:
    """Names of the macros that a value written in a config mentions, in order."""
    if isinstance(value, Macro):
        return [value.name]
    if isinstance(value, dict):
        return [name for item in value.items() for part in item for name in macros_in(part)]
    if isinstance(value, (list, tuple)):
        return [name for part in value for name in macros_in(part)]
    return []


class Bindings:
    """Every statement of a config, in order; a later one replaces an earlier one.

    Args:
        job: "train", "eval" or "infer"; its function is the root of what is built.
    """

    def __init__(self, job: str):
        self.job = job
        self._macros: dict[str, Statement] = {}
        self._parameters: dict[tuple[str, str, str], Statement] = {}
        self._mentioned: set[str] = set()
        self._read: set[str] = set()
        self._used: set[tuple[str, str, str]] = set()
        self._missing: dict[str, str] = {}
        # (scope, configurable) -> {parameter: (value as written, value)}, as built.
        self._built: dict[tuple[str, str], dict[str, tuple[Any, Any]]] = {}

    def add(self, statement: Statement) -> None:
        """Takes one statement; a name that nothing has is a UserError with the near match."""
        self._mentioned.update(macros_in(statement.value))
        if statement.is_macro:
            self._macros[statement.macro_name] = statement
            return
        configurable, parameter = gin_names.find_parameter(
            statement.selector, statement.parameter, self.job, statement.origin
        )
        self._parameters[(statement.scope, configurable, parameter)] = statement

    def build(self) -> dict[str, Any]:
        """Returns the job's arguments.

        Raises UserError for what gin lets pass: macros nobody reads, values of the wrong
        type, values still required, and bindings on the command line that change nothing.
        """
        self._check_macros_are_mentioned()
        arguments = self._arguments(gin_names.JOBS[self.job], scope="")
        if self._missing:
            raise UserError(self._missing_message())
        self._check_command_line_is_used()
        return arguments

    def text(self) -> str:
        """The resolved config: every macro that was read and every parameter, defaults too.

        It is gin again: `--gin_file=MODEL_DIR/config.gin` makes the same run.
        """
        lines = ["# Macros, and where each was set."]
        for name in sorted(self._read):
            statement = self._macros[name]
            lines.append(f"{name} = {_written(statement.value)}  # {statement.origin}")
        for (scope, name), parameters in self._built.items():
            prefix = f"{scope}/" if scope else ""
            lines += ["", f"# Parameters of {prefix}{name}."]
            for parameter, (written, _) in parameters.items():
                lines.append(f"{prefix}{name}.{parameter} = {_written(written)}")
        return "\n".join(lines) + "\n"

    # Checks that gin does not make.

    def _check_macros_are_mentioned(self) -> None:
        for name, statement in self._macros.items():
            # A models/*.gin sets MODEL, also for those who bind the network themselves.
            offered = name == "MODEL" and statement.origin != COMMAND_LINE
            if name not in self._mentioned and not offered:
                raise UserError(
                    f"{statement.origin}: nothing reads the macro {name}, so setting it "
                    f"changes nothing.{did_you_mean(name, self._mentioned - {REQUIRED})}"
                )

    def _check_command_line_is_used(self) -> None:
        for name, statement in self._macros.items():
            if statement.origin == COMMAND_LINE and name not in self._read:
                raise UserError(
                    f"{COMMAND_LINE}: {name} is set, but in this run every parameter that "
                    f"would read it is bound to something else."
                )
        for key, statement in self._parameters.items():
            if statement.origin == COMMAND_LINE and key not in self._used:
                scope, name, parameter = key
                written = f"{scope}/{name}" if scope else name
                scopes = {built_scope for built_scope, _ in self._built if built_scope}
                raise UserError(
                    f"{COMMAND_LINE}: {written}.{parameter} changes nothing, because this run "
                    f"does not use {written}.{did_you_mean(scope, scopes) if scope else ''}"
                )

    def _missing_message(self) -> str:
        names = ", ".join(self._missing)
        how = " ".join(f"--gin.{name}={example}" for name, example in self._missing.items())
        verb = "is" if len(self._missing) == 1 else "are"
        return f"{names} {verb} required and not set; add {how}"

    # Building.

    def _arguments(self, configurable: gin_names.Configurable, scope: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        shown = self._built.setdefault((scope, configurable.name), {})
        for name, parameter in configurable.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            annotation = configurable.annotations.get(name, Any)
            statement = self._statement_for(configurable.name, name, scope)
            if statement is not None:
                value = self._value(statement.value, scope, annotation)
                if value is not _MISSING:
                    value = self._checked(
                        value, annotation, statement, f"{configurable.name}.{name}"
                    )
                shown[name] = (statement.value, value)
                arguments[name] = value
            elif implied := gin_names.configurable_of(parameter.default):
                # A default that can be configured is built, so that bindings on it count.
                reference = Reference("", implied.name, True, COMMAND_LINE)
                arguments[name] = self._referred(reference, scope)
                shown[name] = (reference, arguments[name])
            elif parameter.default is not inspect.Parameter.empty:
                if _is_literal(parameter.default):
                    arguments[name] = parameter.default
                    shown[name] = (parameter.default, parameter.default)
            elif not _has_default_factory(configurable, name):
                self._note_missing(f"{configurable.name}.{name}", annotation)
                arguments[name] = _MISSING
        return arguments

    def _statement_for(self, configurable: str, parameter: str, scope: str) -> Statement | None:
        """The binding of the innermost scope; `a/b` also sees what `a` and no scope bind."""
        parts = scope.split("/") if scope else []
        found = None
        for depth in range(len(parts) + 1):
            key = ("/".join(parts[:depth]), configurable, parameter)
            if key in self._parameters:
                found = self._parameters[key]
                self._used.add(key)
        return found

    def _value(self, written: Any, scope: str, annotation: Any) -> Any:
        if isinstance(written, Macro):
            return self._macro_value(written, scope, annotation)
        if isinstance(written, Reference):
            return self._referred(written, scope)
        if isinstance(written, dict):
            parts = [
                (self._value(k, scope, Any), self._value(v, scope, Any)) for k, v in written.items()
            ]
            return _MISSING if any(_MISSING in pair for pair in parts) else dict(parts)
        if isinstance(written, (list, tuple)):
            items = [self._value(item, scope, Any) for item in written]
            return _MISSING if any(i is _MISSING for i in items) else type(written)(items)
        return written

    def _macro_value(self, macro: Macro, scope: str, annotation: Any) -> Any:
        if macro.name not in self._macros:
            hint = did_you_mean(macro.name, self._macros)
            if macro.name == "MODEL":
                hint = " Give a network before it, such as --gin_file=models/mt5/small.gin."
            raise UserError(f"%{macro.name} is read but never set.{hint}")
        self._read.add(macro.name)
        written = self._macros[macro.name].value
        if written == Macro(REQUIRED):
            self._note_missing(macro.name, annotation)
            return _MISSING
        if macro.name in macros_in(written):
            raise UserError(f"{self._macros[macro.name].origin}: {macro.name} is set to itself.")
        return self._value(written, scope, annotation)

    def _referred(self, reference: Reference, scope: str) -> Any:
        configurable = gin_names.find_configurable(reference.selector, reference.origin)
        if not reference.evaluate:
            raise UserError(f"{reference.origin}: write {reference}() with its parentheses.")
        scope = reference.scope or scope
        arguments = self._arguments(configurable, scope)
        if _MISSING in arguments.values():
            return _MISSING
        try:
            return configurable.function(**arguments)
        except ValueError as error:
            raise UserError(f"{configurable.name}: {error}") from error

    def _checked(self, value: Any, annotation: Any, statement: Statement, reader: str) -> Any:
        """The value as the parameter's type; a misfit names the macro it came from, if one."""
        try:
            return annotations.fit(value, annotation)
        except annotations.Misfit as wanted:
            name, origin = reader, statement.origin
            written = statement.value
            while isinstance(written, Macro):
                name, origin = written.name, self._macros[written.name].origin
                written = self._macros[written.name].value
            reads = "" if name == reader else f", which {reader} reads,"
            raise UserError(f"{origin}: {name}{reads} is {value!r}, but wants {wanted}.") from None

    def _note_missing(self, name: str, annotation: Any) -> None:
        kind = annotations.describe(annotation).split(" ")[0]
        self._missing.setdefault(name, _EXAMPLES.get(kind, "VALUE"))


def _written(value: Any) -> str:
    """A value as gin text; Macro and Reference print themselves inside containers too."""
    return repr(value)


def _is_literal(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_literal(item) for item in value)
    if isinstance(value, dict):
        return all(_is_literal(part) for item in value.items() for part in item)
    return value is None or isinstance(value, (str, int, float, bool))


def _has_default_factory(configurable: gin_names.Configurable, name: str) -> bool:
    fields = getattr(configurable.function, "__dataclass_fields__", {})
    return name in fields and fields[name].default_factory is not dataclasses.MISSING
