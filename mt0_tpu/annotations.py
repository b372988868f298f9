"""Whether a value written in a config fits the annotation of the parameter it is for."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any


class Misfit(Exception):
    """A value does not fit; the message is what was wanted, such as "int or None"."""


def describe(annotation: Any) -> str:
    """Returns an annotation in words: "int", "str or None", "dict of str to int"."""
    if annotation is None or annotation is type(None):
        return "None"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is typing.Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if origin is dict or (origin and issubclass(origin, typing.Mapping)):
        return f"dict of {describe(arguments[0])} to {describe(arguments[1])}"
    if origin in (tuple, list) or (origin and issubclass(origin, typing.Sequence)):
        kinds = list(dict.fromkeys(describe(a) for a in arguments if a is not Ellipsis))
        return f"{origin.__name__.lower()} of {' and '.join(kinds)}"
    return getattr(annotation, "__name__", str(annotation))


def fit(value: Any, annotation: Any) -> Any:
    """Returns `value` as the annotated type, or raises Misfit.

    Only lossless changes of type are made: an int where a float is wanted, a list where
    a tuple is wanted. Annotations this function does not know accept everything.
    """
    try:
        return _fit(value, annotation)
    except Misfit:
        # The caller wants to read the whole annotation, not the branch that failed last.
        raise Misfit(describe(annotation)) from None


def _fit(value: Any, annotation: Any) -> Any:
    if annotation is Any or isinstance(annotation, (str, typing.TypeVar)):
        return value
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _fit_union(value, arguments)
    if origin is typing.Literal:
        return value if value in arguments else _refuse()
    if annotation is None or annotation is type(None):
        return value if value is None else _refuse()
    if annotation in (int, float, bool, str, bytes):
        return _fit_scalar(value, annotation)
    return _fit_container(value, annotation, origin or annotation, arguments)


def _refuse() -> Any:
    raise Misfit


def _fit_union(value: Any, arguments: tuple) -> Any:
    # A member of the very type goes first, so that 1 stays an int for `float | int`.
    for argument in sorted(arguments, key=lambda argument: type(value) is not argument):
        try:
            return _fit(value, argument)
        except Misfit:
            continue
    raise Misfit


def _fit_scalar(value: Any, annotation: type) -> Any:
    if type(value) is annotation:
        return value
    # bool is a subclass of int in Python, but `batch_size = True` is a mistake.
    if annotation is float and type(value) is int:
        return float(value)
    raise Misfit


def _fit_container(value: Any, annotation: Any, origin: Any, arguments: tuple) -> Any:
    if not isinstance(origin, type):
        return value
    if issubclass(origin, typing.Mapping):
        if not isinstance(value, typing.Mapping):
            raise Misfit
        if not arguments:
            return value
        return {_fit(k, arguments[0]): _fit(v, arguments[1]) for k, v in value.items()}
    if issubclass(origin, (tuple, list)) or origin is typing.get_origin(typing.Sequence[int]):
        return _fit_sequence(value, origin, arguments)
    if dataclasses.is_dataclass(origin):
        return value if isinstance(value, origin) else _refuse()
    return value


def _fit_sequence(value: Any, origin: type, arguments: tuple) -> Any:
    if not isinstance(value, (tuple, list)):
        raise Misfit
    kinds = [argument for argument in arguments if argument is not Ellipsis]
    fixed_length = issubclass(origin, tuple) and kinds and Ellipsis not in arguments
    if fixed_length and len(value) != len(kinds):
        raise Misfit
    if kinds and not fixed_length:
        kinds = kinds * len(value)
    items = [_fit(item, kind) for item, kind in zip(value, kinds, strict=True)] if kinds else value
    return list(items) if issubclass(origin, list) else tuple(items)
