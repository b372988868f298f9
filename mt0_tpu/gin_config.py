"""From gin files and T5X's flags to a checked run, before any device is touched.

gin supplies the language, and only that. What a binding means, and the checks gin leaves out
(a macro nobody reads, a macro set twice in a file, a value of the wrong type), are in
bindings.py; which names can be bound is in gin_names.py.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.machinery
import importlib.util
import inspect
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin.config_parser as gin_parser

import mt0_tpu
from mt0_tpu import gin_names
from mt0_tpu.bindings import COMMAND_LINE, Bindings, Macro, Reference, Statement
from mt0_tpu.errors import UserError
from mt0_tpu.redaction import redact

# T5X's paths of the files that have a namesake here, so that its users' includes are found.
T5X_PATHS = (
    (re.compile(r"^t5x/examples/(?:scalable_)?t5/mt5/(\w+\.gin)$"), r"models/mt5/\1"),
    (re.compile(r"^t5x/configs/runs/(\w+\.gin)$"), r"runs/\1"),
)
# Imports that T5X's gin files make for gin's sake; they mean nothing here and are passed over.
T5X_IMPORTS = frozenset({"__gin__", "__main__", "t5x", "seqio", "gin", "mt0_tpu", "jax", "flax"})
_NEAR_PYTHON = {"true": "True", "false": "False", "none": "None", "null": "None"}


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A run that passed every check.

    Attributes:
        job: "train", "eval" or "infer".
        arguments: what the job's function is called with.
        text: the resolved config, itself a gin file; secrets are *** in it.
    """

    job: str
    arguments: dict[str, Any]
    text: str

    @property
    def function(self) -> Callable[..., Any]:
        return gin_names.JOBS[self.job].function

    def run(self) -> Any:
        """Does the job; the config goes along to be written into the run's folder."""
        takes_text = "config_text" in inspect.signature(self.function).parameters
        text = {"config_text": self.text} if takes_text else {}
        return self.function(**self.arguments, **text)


def gin_folder() -> Path:
    """The folder of the gin files that come with mt0_tpu: the checkout's, else the installed."""
    package = Path(mt0_tpu.__file__).resolve().parent
    checkout, installed = package.parent / "gin", package / "gin_files"
    # A `gin` folder beside an installed mt0_tpu is the gin-config package, not ours.
    return checkout if (checkout / "runs").is_dir() else installed


def resolve(
    job: str,
    gin_files: Sequence[str],
    gin_bindings: Sequence[str] = (),
    gin_search_paths: Sequence[str] = (),
) -> Resolved:
    """Reads files in order, then bindings, and returns the checked run.

    Args:
        job: "train", "eval" or "infer".
        gin_files: names, looked up on the search path.
        gin_bindings: "NAME = VALUE" texts; they override the files.
        gin_search_paths: folders tried before the current one and the files that come with mt0_tpu.
    """
    folders = [*map(Path, gin_search_paths), Path("."), gin_folder()]
    bindings = Bindings(job)
    for name in gin_files:
        for statement in _file_statements(name, folders, ()):
            bindings.add(statement)
    for text in gin_bindings:
        for statement in _command_line_statements(text):
            bindings.add(statement)
    arguments = bindings.build()
    _check_modules_exist(arguments)
    header = f"# mt0 {job}: the resolved config. Give it as --gin_file to repeat the run.\n"
    return Resolved(job, arguments, redact(header + bindings.text()))


def parse(arguments: Iterable[str], job: str) -> Resolved:
    """As `resolve`, from T5X's flags in their "--flag=value" form."""
    files: list[str] = []
    bindings: list[str] = []
    folders: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if not equals:
            raise UserError(f"{argument} has no value; write {argument}=VALUE.")
        if flag == "--gin_file":
            files.append(value)
        elif flag == "--gin_search_paths":
            folders += [folder for folder in value.split(",") if folder]
        elif flag == "--gin_bindings":
            bindings.append(value)
        elif flag.startswith("--gin."):
            bindings.append(f"{flag.removeprefix('--gin.')} = {value}")
        else:
            raise UserError(f"{flag} is not a gin flag.")
    return resolve(job, files, bindings, folders)


# Reading.


class _Delegate(gin_parser.ParserDelegate):
    """Tells gin's parser what to make of @references and %macros."""

    def __init__(self, source: str):
        self._source = source

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, selector = scoped_configurable_name.rpartition("/")
        return Reference(scope, selector, evaluate, self._source)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def _find_file(name: str, folders: Sequence[Path]) -> Path:
    """The first match on the search path, T5X's path of a namesake counting as its own."""
    candidates = [name]
    candidates += [p.sub(ours, name) for p, ours in T5X_PATHS if p.match(name)]
    for candidate in candidates:
        for folder in folders:
            if (folder / candidate).is_file():
                return folder / candidate
    shipped = sorted(
        path.relative_to(gin_folder()).as_posix() for path in gin_folder().rglob("*.gin")
    )
    near = difflib.get_close_matches(name.removeprefix("gin/"), shipped, n=1, cutoff=0.6)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    searched = ", ".join(str(folder) for folder in folders)
    raise UserError(f"no gin file '{name}' in {searched}.{hint}")


def _parsed(text: str, source: str) -> Iterator[Any]:
    """gin's statements of a text, its syntax errors turned into UserErrors."""
    try:
        yield from gin_parser.ConfigParser(text, _Delegate(source))
    except (SyntaxError, tokenize.TokenError) as error:
        line = _line_of(error)
        where = f"{source} line {line}" if line and source != COMMAND_LINE else source
        lines = text.splitlines()
        written = lines[line - 1].strip() if line and line <= len(lines) else text.strip()
        raise UserError(f"{where}: {_syntax_hint(written, source)}") from error


def _line_of(error: Exception) -> int | None:
    details = error.args[1] if len(error.args) > 1 else None
    if isinstance(error, tokenize.TokenError):
        return details[0] if details else None
    return details[1] if isinstance(details, tuple) and len(details) > 1 else None


def _syntax_hint(written: str, source: str) -> str:
    """What is wrong with a line gin cannot read; nearly always text without quotes."""
    name, equals, value = (part.strip() for part in written.partition("="))
    if not equals:
        return f"'{written}' is not NAME = VALUE."
    if not value:
        return f"{name} has no value."
    if value in _NEAR_PYTHON:
        return f"{name} = {value}: gin writes {_NEAR_PYTHON[value]}."
    if value[0] in "\"'[({@%" or value.count("'") % 2 or value.count('"') % 2:
        return f"{name} = {value} cannot be read; is a quote, bracket or comma missing?"
    if source == COMMAND_LINE:
        return f"text needs quotes inside the shell's quotes: --gin.{name}=\"'{value}'\""
    return f"text needs quotes: {name} = '{value}'"


def _file_statements(
    name: str, folders: Sequence[Path], including: tuple[Path, ...]
) -> Iterator[Statement]:
    """The statements of a file and of those it includes, in order."""
    path = _find_file(name, folders)
    if path in including:
        raise UserError(f"{name} includes itself, by way of {including[-1]}.")
    set_at: dict[tuple[str, str, str], int] = {}
    for parsed in _parsed(path.read_text(encoding="utf-8"), name):
        line = parsed.location.line_num
        if isinstance(parsed, gin_parser.IncludeStatement):
            yield from _file_statements(parsed.filename, folders, (*including, path))
        elif isinstance(parsed, gin_parser.ImportStatement):
            _check_import(parsed, f"{name} line {line}")
        elif isinstance(parsed, gin_parser.BindingStatement):
            statement = _statement(parsed, f"{name} line {line}")
            key = (statement.scope, statement.selector, statement.parameter)
            if key in set_at:
                shown = ".".join(part for part in key[1:] if part)
                raise UserError(
                    f"{name}: {shown} is set twice, on lines {set_at[key]} and {line}; "
                    f"keep the one that is meant."
                )
            set_at[key] = line
            yield statement


def _command_line_statements(text: str) -> Iterator[Statement]:
    for parsed in _parsed(text, COMMAND_LINE):
        if isinstance(parsed, gin_parser.BindingStatement):
            yield _statement(parsed, COMMAND_LINE)
        elif not isinstance(parsed, gin_parser.BlockDeclaration):
            raise UserError(f"{COMMAND_LINE}: {text!r} does not belong here; use --gin_file.")


def _statement(parsed: gin_parser.BindingStatement, origin: str) -> Statement:
    return Statement(parsed.scope, parsed.selector, parsed.arg_name, parsed.value, origin)


def _check_import(parsed: gin_parser.ImportStatement, origin: str) -> None:
    if parsed.module == "seqio_tasks.vocabularies":
        raise UserError(
            f"{origin}: this is a file for stock T5X (docs/t5x.md); mt0 takes the one of the same "
            "name in recipes/ or runs/."
        )
    if parsed.module.split(".")[0] not in T5X_IMPORTS:
        raise UserError(
            f"{origin}: a gin file cannot import '{parsed.module}' here; if it registers tasks, "
            f"write MIXTURE_OR_TASK_MODULE = '{parsed.module}'."
        )


def _check_modules_exist(arguments: Mapping[str, Any]) -> None:
    """A task module that cannot be found is an error now, not after caching has begun."""
    named = [arguments.get("module"), *(getattr(v, "module", None) for v in arguments.values())]
    for module in named:
        if isinstance(module, str) and not _module_exists(module):
            raise UserError(
                f"MIXTURE_OR_TASK_MODULE is '{module}', but Python finds no such module; "
                f"run from the folder that holds it, or add that folder to PYTHONPATH."
            )


def _module_exists(name: str) -> bool:
    if name.endswith(".py"):
        return Path(name).is_file()
    # find_spec on a dotted name would import the parents, TensorFlow perhaps with them.
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return False
        top = f"{top}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(top, spec.submodule_search_locations)
    return spec is not None
