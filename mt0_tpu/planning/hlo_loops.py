"""How often a loop of a compiled program runs, read from its condition, its step and its start.

XLA writes `known_trip_count` where it kept it; compiled for TPU it does not, so the counter is
followed: an element of the carried tuple that the condition compares with a constant, that the
body changes by a constant, and that starts at a constant.
"""

from __future__ import annotations

import re

from mt0_tpu.planning.hlo_text import Computation, Instruction, Module

# What passes a scalar on unchanged.
_PASSES = (
    "copy",
    "bitcast",
    "convert",
    "reshape",
    "copy-start",
    "copy-done",
    "optimization-barrier",
)
_FLIPPED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE", "NE": "NE", "EQ": "EQ"}
_INTEGER = re.compile(r"^-?\d+$")


def trip_count(module: Module, home: Computation, loop: Instruction) -> int | None:
    """Returns how often the body of a `while` runs, or None where the data decide.

    Args:
      home: the computation that holds the loop.
    """
    known = re.search(r'known_trip_count"?:\{"n":"?(\d+)', loop.attributes)
    if known:
        return int(known.group(1))
    condition = module[loop.called("condition")[0]]
    body = module[loop.called("body")[0]]
    compared = _comparison(module, condition)
    if compared is None:
        return None
    index, direction, bound = compared
    step = _step(module, body, index)
    start = _start(home, loop, index)
    if isinstance(bound, tuple):  # the bound is carried too: it must not change in the body
        if not _is_carried(module, body, bound[0]):
            return None
        bound = _start(home, loop, bound[0])
    if None in (step, start, bound) or step == 0:
        return None
    return _count(start, bound, step, direction)


def _count(start: int, bound: int, step: int, direction: str) -> int | None:
    if direction == "NE":
        whole, rest = divmod(bound - start, step)
        return whole if rest == 0 and whole >= 0 else None
    if direction in ("LE", "GE"):
        bound += 1 if direction == "LE" else -1
    rising = direction in ("LT", "LE")
    if direction == "EQ" or rising != (step > 0):
        return None
    return max(0, -(-(bound - start) // step))


def _comparison(module: Module, condition: Computation):
    """Returns (tuple index, direction, bound), the bound a number or (tuple index,)."""
    found = _find_compare(module, condition, condition.root, {})
    if found is None:
        return None
    direction, left, right = found
    if isinstance(left, int):
        left, right, direction = right, left, _FLIPPED[direction]
    if not isinstance(left, tuple):
        return None
    return left[0], direction, right


def _find_compare(module: Module, home: Computation, root: Instruction, given: dict):
    """Follows the root to a compare; operands become numbers or (tuple index,)."""
    if root.opcode in _PASSES and root.operands:
        return _find_compare(module, home, home.instructions[root.operands[0]], given)
    if root.opcode in ("fusion", "call"):
        inner = module[root.called("calls" if root.opcode == "fusion" else "to_apply")[0]]
        values = {i: _value(home, name, given) for i, name in enumerate(root.operands)}
        return _find_compare(module, inner, inner.root, values)
    if root.opcode != "compare":
        return None
    left, right = (_value(home, name, given) for name in root.operands)
    if left is None or right is None:
        return None
    return root.attribute("direction"), left, right


def _value(home: Computation, name: str, given: dict):
    """A constant's number, (index,) of the carried tuple's element, or None."""
    one = home.instructions[name]
    if one.opcode == "constant":
        return int(one.literal) if _INTEGER.match(one.literal) else None
    if one.opcode in _PASSES:
        return _value(home, one.operands[0], given)
    if one.opcode == "get-tuple-element":
        source = home.instructions[one.operands[0]]
        return (int(one.attribute("index")),) if source.opcode == "parameter" else None
    if one.opcode == "parameter":
        return given.get(int(one.literal))
    return None


def _element(body: Computation, index: int) -> Instruction | None:
    """The body's new value of one element of the carried tuple."""
    root = body.root
    if root.opcode != "tuple" or index >= len(root.operands):
        return None
    return body.instructions[root.operands[index]]


def _step(module: Module, body: Computation, index: int) -> int | None:
    """What the body adds to an element of the tuple, where that is a constant."""
    element = _element(body, index)
    return None if element is None else _added(module, body, element, (index,), {})


def _added(module: Module, home: Computation, one: Instruction, counter: tuple, given: dict):
    """Returns the number that `one` is above the counter, else None."""
    if _value(home, one.name, given) == counter:
        return 0
    if one.opcode in _PASSES and one.operands:
        return _added(module, home, home.instructions[one.operands[0]], counter, given)
    if one.opcode == "fusion":
        inner = module[one.called("calls")[0]]
        values = {i: _value(home, name, given) for i, name in enumerate(one.operands)}
        return _added(module, inner, inner.root, counter, values)
    if one.opcode in ("add", "subtract"):
        left, right = (home.instructions[name] for name in one.operands)
        for side, other in ((left, right), (right, left)):
            amount = _value(home, other.name, given)
            below = _added(module, home, side, counter, given)
            if isinstance(amount, int) and below is not None:
                if one.opcode == "subtract":
                    return below - amount if side is left else None
                return below + amount
    return None


def _is_carried(module: Module, body: Computation, index: int) -> bool:
    element = _element(body, index)
    return element is not None and _value(body, element.name, {}) == (index,)


def _start(home: Computation, loop: Instruction, index: int) -> int | None:
    """The constant an element of the tuple starts at, where it is one."""
    source = home.instructions[loop.operands[0]]
    while source.opcode in _PASSES and source.operands:
        source = home.instructions[source.operands[0]]
    if source.opcode != "tuple" or index >= len(source.operands):
        return None
    value = _value(home, source.operands[index], {})
    return value if isinstance(value, int) else None
