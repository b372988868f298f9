"""A compiled program's text (HLO), read into computations and instructions.

The text is what `Compiled.as_text()` prints; the notation is XLA's. Knows nothing of costs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re

# Bytes of one element; sub-byte types count as one byte, tokens as none.
_BYTES = {
    "pred": 1, "s2": 1, "u2": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2,
    "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
    "token": 0, "opaque": 0,
}  # fmt: skip
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ?([a-z][\w\-]*)\(")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%?([\w.\-]+)$")
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape: element type, dimensions, and memory space (0: the device's HBM)."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        # Types that come later, such as f8e4m3fn, carry their width in bits.
        width = _BYTES.get(self.dtype)
        if width is None:
            width = max(1, int(re.search(r"\d+", self.dtype).group()) // 8)
        return self.size * width


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = shape opcode(operands), attributes`."""

    name: str
    opcode: str
    shape_text: str
    operands: tuple[str, ...]
    attributes: str
    literal: str  # what stands between the parentheses, such as a constant's value
    is_root: bool

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its shape, those of a tuple in order."""
        return arrays_of(self.shape_text)

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    def attribute(self, name: str) -> str | None:
        """Returns the text of `name=…`: braces with what they hold, or up to the next comma."""
        found = re.search(rf"(?:^|[ ,]){name}=", self.attributes)
        if found is None:
            return None
        start = found.end()
        if self.attributes[start : start + 1] in ("{", "["):
            return _balanced(self.attributes, start)
        return re.match(r"[^,\s]*", self.attributes[start:]).group()

    def called(self, name: str) -> tuple[str, ...]:
        """Returns the computations that `name=%one` or `name={%one, %two}` names."""
        text = self.attribute(name)
        return tuple(re.findall(r"[\w.\-]+", text)) if text else ()

    @property
    def op_name(self) -> str:
        """JAX's path of the operation, such as jit(step)/jvp(T5)/encoder/…; "" without one."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""


@dataclasses.dataclass
class Computation:
    """A list of instructions in their order, the last or the marked one being the result."""

    name: str
    instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        for instruction in self.instructions.values():
            if instruction.is_root:
                return instruction
        return list(self.instructions.values())[-1]

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        return {
            int(one.literal): one for one in self.instructions.values() if one.opcode == "parameter"
        }


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, and which is the entry."""

    computations: dict[str, Computation]
    entry: str

    def __getitem__(self, name: str) -> Computation:
        return self.computations[name]


def arrays_of(text: str) -> tuple[Array, ...]:
    """Returns the arrays of a shape's text, such as (bf16[8,4]{1,0:T(8,128)S(1)}, u32[])."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        numbers = tuple(int(one.lstrip("<=")) for one in dims.split(",") if one)
        space = _SPACE.search(layout)
        found.append(Array(dtype, numbers, int(space.group(1)) if space else 0))
    return tuple(found)


def parse(text: str) -> Module:
    """Reads a module's text.

    Raises ValueError where the text has no entry computation, so that a change of the notation
    is an error and not a program without cost.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            header = _HEADER.match(line)
            if header and " = " not in line.split("(")[0]:
                current = Computation(header.group(2))
                computations[current.name] = current
                entry = current.name if header.group(1) else entry
        elif line.startswith("}"):
            current = None
        else:
            instruction = _instruction(line)
            if instruction is not None:
                current.instructions[instruction.name] = instruction
    if not entry:
        raise ValueError("the text holds no ENTRY computation: it is no HLO module")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    begin = _INSTRUCTION.match(line)
    if begin is None:
        return None
    rest = _COMMENT.sub("", line[begin.end() :])
    shape = _balanced(rest, 0) if rest.startswith("(") else rest.split(" ", 1)[0]
    opcode = _OPCODE.match(rest, len(shape))
    if opcode is None:
        return None
    inside = _balanced(rest, opcode.end() - 1)
    attributes = rest[opcode.end() - 1 + len(inside) :].lstrip(", ")
    literal = inside[1:-1]
    return Instruction(
        name=begin.group(2),
        opcode=opcode.group(1),
        shape_text=shape,
        operands=() if opcode.group(1) in ("constant", "parameter") else _operands(literal),
        attributes=attributes,
        literal=literal,
        is_root=bool(begin.group(1)),
    )


def _operands(text: str) -> tuple[str, ...]:
    """Names of operands, whether or not their shapes stand before them."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    found = (_NAME.search(part.strip()) for part in parts)
    return tuple(one.group(1) for one in found if one)


def _balanced(text: str, start: int) -> str:
    """Returns text from the bracket at `start` to the one that closes it."""
    depth, quoted = 0, False
    for at in range(start, len(text)):
        letter = text[at]
        if letter == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
            if depth == 0:
                return text[start : at + 1]
    return text[start:]
