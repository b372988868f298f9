"""T5X's scanned trees (scalable_t5): a tower's layers in one array, given out layer by layer.

Dims in layouts: e embed, L layers, h heads, d head width, f MLP width. T5X puts L at axis 1 and
does not join heads and head width; names and joined shapes here are those of the unscanned tree.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from mt0_tpu.errors import UserError
from mt0_tpu.formats.weights import TensorInfo, Weights

_TOWERS = ("encoder", "decoder")
_RELPOS = "relpos_bias.rel_embedding"
# The last two parts of a name: the dims as they are stored.
_LAYOUTS = {
    "query.kernel": "eLhd", "key.kernel": "eLhd", "value.kernel": "eLhd", "out.kernel": "hLde",
    "wi.kernel": "eLf", "wi_0.kernel": "eLf", "wi_1.kernel": "eLf", "wo.kernel": "fLe",
    "rel_embedding": "hLb",
}  # fmt: skip
_WHOLE_LAYOUTS = {"token_embedder.embedding": "Ve", "decoder.logits_dense.kernel": "eV"}
_JOINED = "hd"
# For tensors of no layer whose dims need no names.
_NAMELESS = "euvwxyz"


def is_scanned(names: Mapping[str, TensorInfo]) -> bool:
    """Says whether parameter names are of a scanned tree."""
    return any(name.startswith(tuple(f"{t}.{t}." for t in _TOWERS)) for name in names)


@dataclasses.dataclass(frozen=True)
class _Part:
    """Where an unscanned tensor lies: a stored tensor, the index of its layer, its own shape."""

    stored: str
    index: tuple
    info: TensorInfo


class UnscannedWeights(Weights):
    """A scanned T5X checkpoint under unscanned names.

    Tensors are listed stack by stack, and each is cut out of its stack when it is read.

    Args:
      scanned: the checkpoint, its `read` and `read_state` taking an index besides the name.

    Raises:
      UserError: an unknown tensor in a tower, layers of unequal number, or a tower whose layers
        have unequal tables of relative positions: mT5 has one table a tower.
    """

    def __init__(self, scanned: Weights):
        self._scanned = scanned
        self.kind, self.path, self.step = f"{scanned.kind} (scanned)", scanned.path, scanned.step
        found = scanned.tensors()
        self._num_layers = {tower: _num_layers(scanned, tower) for tower in _TOWERS}
        self._parameters: dict[str, _Part] = {}
        self._statistics: dict[str, _Part] = {}
        statistics = scanned.state_tensors()
        for name, info in found.items():
            layout = _layout(scanned, name, info)
            self._add(self._parameters, name, None, info, layout)
            for slot in ("v_row", "v_col", "v", "m"):
                if f"{name}.{slot}" in statistics:
                    self._add_statistic(name, slot, statistics[f"{name}.{slot}"], info, layout)

    def tensors(self) -> dict[str, TensorInfo]:
        return {name: part.info for name, part in self._parameters.items()}

    def read(self, name: str) -> np.ndarray:
        part = self._parameters[name]
        return self._scanned.read(part.stored, part.index).reshape(part.info.shape)

    def state_tensors(self) -> dict[str, TensorInfo]:
        return {name: part.info for name, part in self._statistics.items()}

    def read_state(self, name: str) -> np.ndarray:
        part = self._statistics[name]
        return self._scanned.read_state(part.stored, part.index).reshape(part.info.shape)

    def _add(
        self,
        to: dict[str, _Part],
        name: str,
        slot: tuple[str, str] | None,
        info: TensorInfo,
        layout: str,
    ) -> None:
        """Adds the unscanned tensors that a stored one holds.

        Args:
          name: of the parameter, as it is stored.
          slot: of a statistic, its slot as stored and unscanned; None for the parameter itself.
          info, layout: of the stored tensor.
        """
        stored, end = (f"{name}.{slot[0]}", f".{slot[1]}") if slot else (name, "")
        if "L" not in layout:
            to[name + end] = _Part(stored, (), info)
            return
        tower, rest = name.split(".", 2)[1:]
        axis = layout.index("L")
        shape = _joined_shape(layout.replace("L", ""), info.shape[:axis] + info.shape[axis + 1 :])
        one = TensorInfo(shape, info.dtype)
        if rest == _RELPOS:
            self._check_shared(stored, is_statistic=slot is not None)
            to[f"{tower}.{rest}{end}"] = _Part(stored, _at(axis, 0), one)
            return
        for i in range(self._num_layers[tower]):
            to[f"{tower}.layers_{i}.{rest}{end}"] = _Part(stored, _at(axis, i), one)

    def _add_statistic(
        self, name: str, slot: str, info: TensorInfo, parameter: TensorInfo, layout: str
    ) -> None:
        """A row statistic runs over embed, a column one over all else; v and m over everything."""
        kept = {"v_row": "eL", "v_col": layout.replace("e", "")}.get(slot, layout)
        dims = dict(zip(layout, parameter.shape, strict=True))
        expected = tuple(size for dim, size in dims.items() if dim in kept)
        if info.shape != expected:
            raise UserError(
                f"{self.path}: {name}.{slot} has the shape {info.shape}, expected {expected}; "
                "convert without optimizer state"
            )
        mine = "".join(dim for dim in layout if dim in kept)
        slots = (slot, _unscanned_slot(slot, layout, dims))
        self._add(self._statistics, name, slots, info, mine)

    def _check_shared(self, stored: str, is_statistic: bool) -> None:
        table = (self._scanned.read_state if is_statistic else self._scanned.read)(stored, ())
        if not np.array_equal(table, np.broadcast_to(table[:, :1], table.shape)):
            raise UserError(
                f"{self.path}: the layers of {stored} differ, as scalable_t5 trains one table of "
                "relative positions a layer; mT5 has one a tower, so this network is another and "
                "cannot be converted: train mT5's network (unscanned examples/t5)"
            )


def _at(axis: int, layer: int) -> tuple:
    return (slice(None),) * axis + (layer,)


def _num_layers(scanned: Weights, tower: str) -> int:
    stacks = {
        name: info.shape[1]
        for name, info in scanned.tensors().items()
        if name.startswith(f"{tower}.{tower}.") and len(info.shape) > 1
    }
    if len(set(stacks.values())) != 1:
        shown = ", ".join(f"{name}: {count}" for name, count in sorted(stacks.items())[:4])
        raise UserError(
            f"{scanned.path} is a scanned T5X tree whose {tower} has no one number of layers at "
            f"axis 1 ({shown or 'no stacked arrays'}); save it with param_scan_axis = 1"
        )
    return next(iter(stacks.values()))


def _layout(scanned: Weights, name: str, info: TensorInfo) -> str:
    """Returns the dims of a stored parameter, one letter each."""
    if not is_scanned({name: info}):
        return _WHOLE_LAYOUTS.get(name, _NAMELESS[: len(info.shape)])
    parts = name.split(".")
    layout = _LAYOUTS.get(parts[-1]) or _LAYOUTS.get(".".join(parts[-2:]))
    if parts[-1] == "scale":
        layout = "eL"
    if layout is None or len(layout) != len(info.shape):
        raise UserError(
            f"{scanned.path}: {name} of shape {info.shape} is not what scalable_t5 stores; "
            "only its trees with param_scan_axis = 1 can be unscanned"
        )
    return layout


def _joined_shape(layout: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if _JOINED not in layout:
        return shape
    at = layout.index(_JOINED)
    return (*shape[:at], math.prod(shape[at : at + 2]), *shape[at + 2 :])


def _unscanned_slot(slot: str, layout: str, dims: Mapping[str, int]) -> str:
    """Unscanned, v_row is the shorter dim's statistic, and of equal ones the first dim's."""
    if slot not in ("v_row", "v_col"):
        return slot
    embed = dims["e"]
    other = math.prod(size for dim, size in dims.items() if dim not in "eL")
    embed_is_row = embed < other or (embed == other and layout[0] == "e")
    return slot if embed_is_row else {"v_row": "v_col", "v_col": "v_row"}[slot]
