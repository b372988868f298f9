"""The Jinja that prompts are written in, fenced in: no attribute of Python's, no endless work.

promptsource's templates are data that came from the net. They render here with the functions
they use (`zip`, `namespace`, `range`, and the filters `choice`, `most_frequent`, `highlight`
beside Jinja's plain ones) and with nothing else. A template cannot reach Python's objects, files
or modules (`jinja2.sandbox`), cannot define macros, include or import, and a render stops after
MAX_STEPS (turns of loops, calls, items that a filter goes through) or when a text would pass
MAX_CHARS. That bounds what templates do by mistake and the known tricks; where strangers' templates
run on a machine that matters, a limit on the process is wanted as well.

The immutable sandbox would be stricter, but 80 published templates append to lists; since every
render gets its own copy of the row, that is harmless.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jinja2
import jinja2.filters
import jinja2.visitor
from jinja2 import nodes, sandbox

MAX_STEPS = 1_000_000
MAX_CHARS = 10_000_000
_REFUSED_NODES = (
    nodes.Macro,
    nodes.CallBlock,
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.Block,
)
# Of Jinja's own filters those that only rearrange what they are given. Left out are the ones that
# make text of any width (center, indent, wordwrap, format's kin), markup, and `attr`.
_PLAIN_FILTERS = """abs batch capitalize count d default dictsort e escape first float format
groupby int items join last length list lower map max min reject rejectattr replace reverse round
select selectattr slice sort string striptags sum title trim truncate unique upper
wordcount""".split()
_QUICK_METHODS = ("append", "get", "items", "keys", "pop", "setdefault", "values")
_WIDE_METHODS = (
    "center",
    "expandtabs",
    "format",
    "format_map",
    "ljust",
    "rjust",
    "translate",
    "zfill",
)


class _State:
    """What one render may still do, and where its chances come from."""

    def __init__(self, seed: str | int):
        self.steps_left = MAX_STEPS
        self._seed, self._random = seed, None

    @property
    def random(self) -> random.Random:
        """Made when first asked for: few templates leave anything to chance."""
        if self._random is None:
            self._random = random.Random(self._seed)
        return self._random


_state: contextvars.ContextVar[_State] = contextvars.ContextVar("mt0_prompt_state")


@contextlib.contextmanager
def rendering(seed: str | int) -> Iterator[None]:
    """Within it a template may be rendered: with its own budget and its own seeded chances."""
    token = _state.set(_State(seed))
    try:
        yield
    finally:
        _state.reset(token)


def _step(count: int = 1) -> _State:
    state = _state.get()
    state.steps_left -= count
    if state.steps_left < 0:
        raise sandbox.SecurityError(f"the template takes more than {MAX_STEPS} steps")
    return state


def _bounded(chars: int) -> None:
    if chars > MAX_CHARS:
        raise sandbox.SecurityError(f"the template makes a text of {chars} characters")


def _charge(value: Any) -> None:
    """Counts the work of going through a value once: an item a step, a text a hundred letters."""
    if isinstance(value, str):
        _step(len(value) // 100)
    elif hasattr(value, "__len__"):
        _step(len(value))


def _charged(function: Callable[..., Any]) -> Callable[..., Any]:
    """One of Jinja's filters, what it goes through counted."""
    # Some are given the context or the environment before the value.
    place = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def charged(*args: Any, **kwargs: Any) -> Any:
        if len(args) > place:
            _step()
            _charge(args[place])
        return function(*args, **kwargs)

    return charged


@jinja2.pass_context
def _choice(context: Any, items: Any) -> Any:
    """One of the items, by the example's seed. (pass_context keeps Jinja from folding it.)"""
    return _step().random.choice(list(items) if not hasattr(items, "__getitem__") else items)


@jinja2.pass_context
def _random(context: Any, items: Any) -> Any:
    """Jinja's `random`, by the example's seed; Jinja's answer for nothing to choose from."""
    items = list(items) if not hasattr(items, "__getitem__") else items
    if not items:
        return context.environment.undefined("No random item, sequence was empty.")
    return _step().random.choice(items)


def _most_frequent(items: Iterable[Any]) -> list[Any] | None:
    """The items that occur most often, in the order of their first occurrence."""
    if not items:
        return None
    counts = Counter(items)
    most = max(counts.values())
    return [item for item, count in counts.items() if count == most]


def _highlight(text: str) -> str:
    return f"<span style='color: #F08080'>{text}</span>"


@jinja2.pass_context
def _counted(context: Any, items: Iterable[Any]) -> Iterator[Any]:
    """The items of a loop, each a step."""
    for item in items:
        _step()
        yield item


@jinja2.pass_context
def _measured(context: Any, value: Any) -> Any:
    """The value itself, once it is sure that its text is no longer than a prompt may be."""
    waiting, chars = [value], 0
    while waiting:
        value_ = waiting.pop()
        if isinstance(value_, str):
            chars += len(value_)
            _bounded(chars)
        elif isinstance(value_, dict):
            waiting += [*value_, *value_.values()]
        elif isinstance(value_, list | tuple | set):
            waiting += value_
        if value_ is not value:
            _step()
    return value


@jinja2.pass_context
def _join(context: Any, items: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    """Jinja's `join`, measured first."""
    items = [_measured(context, item) for item in items]
    _bounded(len(items) * len(str(d)) + sum(len(str(item)) for item in items))
    return jinja2.filters.sync_do_join(context.eval_ctx, items, d, attribute)


@jinja2.pass_context
def _list(context: Any, items: Iterable[Any]) -> list[Any]:
    return list(_counted(context, items))


@jinja2.pass_context
def _string(context: Any, value: Any) -> str:
    return jinja2.filters.soft_str(_measured(context, value))


class _Fence(jinja2.visitor.NodeTransformer):
    """Rewrites a template's tree: loops are counted, `a ~ b` is measured."""

    def _filtered(self, node: nodes.Expr, name: str) -> nodes.Expr:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Counts a loop's steps; a loop that calls itself is refused."""
        if node.recursive:
            raise sandbox.SecurityError("the template has a recursive loop")
        self.generic_visit(node)
        node.iter = self._filtered(node.iter, "counted_")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Measures what `~` made, so that doubling a text stops early."""
        self.generic_visit(node)
        return self._filtered(node, "measured_")


class PromptEnvironment(sandbox.SandboxedEnvironment):
    """The environment of every prompt; `from_string` compiles a template within the fence."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self):
        super().__init__(autoescape=False, finalize=_measured)
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        self.globals["zip"] = zip
        self.filters = {name: _charged(self.filters[name]) for name in _PLAIN_FILTERS} | {
            "choice": _choice,
            "random": _random,
            "most_frequent": _most_frequent,
            "highlight": _highlight,
            "format": _format,
            "join": _join,
            "list": _list,
            "replace": _replace,
            "string": _string,
            "counted_": _counted,
            "measured_": _measured,
        }

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """`*`, `**`, `+` and `%`, refused where the result would be too large to be a prompt."""
        if operator == "*":
            if isinstance(left, int) and isinstance(right, int):
                _bounded(100 * (left.bit_length() + right.bit_length()))
            for value, times in ((left, right), (right, left)):
                if hasattr(value, "__len__") and isinstance(times, int):
                    _bounded(len(value) * times)
                    if not isinstance(value, str):
                        _step(max(len(value) * times, 0))
        elif operator == "+":
            for value in (left, right):
                _charge(value)
            if isinstance(left, str) and isinstance(right, str):
                _bounded(len(left) + len(right))
        elif operator == "**" and (abs(left) > 1_000_000 or abs(right) > 64):
            raise sandbox.SecurityError(f"the template raises {left} to the power {right}")
        elif operator == "%" and isinstance(left, str):
            _check_percent(left)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls what the sandbox allows, counted; a method that widens text is refused."""
        _step()
        owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
        # What a list's append or a dict's get takes does not grow with the list.
        for value in () if name in _QUICK_METHODS else (owner, *args):
            if isinstance(value, str | list | tuple | dict):
                _charge(value)
        # `format` is Jinja's own function around the string's.
        if name in _WIDE_METHODS and (isinstance(owner, str) or name.startswith("format")):
            raise sandbox.SecurityError(f"the template calls the string method '{name}'")
        if isinstance(owner, str) and name == "replace" and len(args) > 1:
            _bounded(_replaced_length(owner, str(args[0]), str(args[1])))
        if isinstance(owner, str) and name == "join" and args:
            args = ([_measured(context, item) for item in args[0]],)
            _bounded(sum(len(str(item)) + len(owner) for item in args[0]))
        return super().call(context, called, *args, **kwargs)

    def parse(self, source: str, name: str | None = None, filename: str | None = None) -> Any:
        """The template's tree, its loops counted and its joins measured."""
        tree = super().parse(source, name, filename)
        for node in tree.find_all(_REFUSED_NODES):
            raise sandbox.SecurityError(
                f"the template has a {type(node).__name__.lower()}, which prompts may not"
            )
        return _Fence().visit(tree).set_environment(self)


def _replaced_length(text: str, old: str, new: str) -> int:
    return len(text) + (text.count(old) if old else len(text) + 1) * len(new)


def _replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    """Jinja's `replace`, measured first."""
    text, old, new = str(text), str(old), str(new)
    _bounded(_replaced_length(text, old, new))
    return text.replace(old, new, -1 if count is None else count)


def _format(text: str, *values: Any, **named: Any) -> str:
    """Jinja's `format`, its widths checked first."""
    _check_percent(text)
    return str(text) % (named or values)


_WIDTH = re.compile(r"%(\([^)]*\))?[^A-Za-z%]*(\*|\d{4,})")


def _check_percent(text: str) -> None:
    """Refuses `%` formats whose width or precision has four digits or is computed (`*`)."""
    if _WIDTH.search(str(text)):
        raise sandbox.SecurityError("the template formats to a width beyond 999")
