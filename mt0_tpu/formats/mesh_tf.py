"""Mesh-TensorFlow checkpoints, model.ckpt-<step>.{index,data-*}: how mT5 was first published.

TensorFlow reads them and is imported when one is opened, never before. Names and the order of
Adafactor's slots: facts, section 2.9, and Mesh-TensorFlow's optimize.py.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path

import numpy as np

from mt0_tpu.errors import UserError
from mt0_tpu.formats.weights import TensorInfo, Weights

# The last eight bytes of every table that TensorFlow writes.
_TABLE_END = bytes.fromhex("57fb808b247547db")
_MARK = b"shared/embedding"
_SLOTS = {"_slot_vr": "v_row", "_slot_vc": "v_col", "_slot_v": "v", "_slot_m": "m"}
_MATRICES = {"q": "query", "k": "key", "v": "value", "o": "out"}
_NORMS = {
    "encoder": ("pre_attention_layer_norm", "pre_mlp_layer_norm"),
    "decoder": (
        "pre_self_attention_layer_norm",
        "pre_cross_attention_layer_norm",
        "pre_mlp_layer_norm",
    ),
}
_ATTENTIONS = {
    ("encoder", "SelfAttention"): "attention",
    ("decoder", "SelfAttention"): "self_attention",
    ("decoder", "EncDecAttention"): "encoder_decoder_attention",
}
_BLOCK = r"(?P<tower>encoder|decoder)/block_(?P<block>\d{3})/layer_(?P<layer>\d{3})/"


def find(path: Path) -> Path | None:
    """Returns the prefix of a checkpoint at a folder (its latest), a prefix or one of its files.

    It is one if its index is a table of TensorFlow's that names 'shared/embedding'.
    """
    path = Path(path)
    if path.is_dir():
        found = [one for one in path.glob("*.index") if _is_index(one)]
        if not found:
            return None
        return max(found, key=_step_in_name).with_suffix("")
    prefix = re.sub(r"\.(index|data-\d{5}-of-\d{5}|meta)$", "", path.name)
    index = path.with_name(f"{prefix}.index")
    return path.with_name(prefix) if index.is_file() and _is_index(index) else None


def _step_in_name(index: Path) -> tuple[int, str]:
    match = re.search(r"-(\d+)\.index$", index.name)
    return (int(match[1]) if match else -1, index.name)


def _is_index(path: Path) -> bool:
    with path.open("rb") as file:
        # Its end first: an index of some other kind may be large.
        file.seek(max(0, path.stat().st_size - len(_TABLE_END)))
        if file.read() != _TABLE_END:
            return False
        file.seek(0)
        return _MARK in file.read()


def open_weights(path: Path) -> Weights:
    """Opens what `find` returned.

    Raises UserError where TensorFlow is not installed, a data file is missing, or a variable has
    no place in an encoder-decoder of ours.
    """
    prefix = find(path)
    if prefix is None:
        raise UserError(
            f"no Mesh TensorFlow checkpoint at {path}: give a folder that has model.ckpt-STEP.index"
        )
    return MeshTensorFlow(prefix)


def t5x_name(variable: str) -> str | None:
    """Returns the T5X name of a variable without slot, or None where it has none."""
    fixed = {
        "shared/embedding": "token_embedder.embedding",
        "decoder/logits/kernel": "decoder.logits_dense.kernel",
    }
    if variable in fixed:
        return fixed[variable]
    if match := re.fullmatch(r"(encoder|decoder)/(?:final_layer|rms)_norm/scale", variable):
        return f"{match[1]}.{match[1]}_norm.scale"
    match = re.fullmatch(_BLOCK + r"(?P<rest>.+)", variable)
    if match is None:
        return None
    tower, block, layer, rest = match.group("tower", "block", "layer", "rest")
    if rest == "SelfAttention/relative_attention_bias":
        # mT5 shares the first block's table; a table a block is another network.
        return f"{tower}.relpos_bias.rel_embedding" if int(block) == 0 else None
    inner = _in_block(tower, int(layer), rest)
    return f"{tower}.layers_{int(block)}.{inner}" if inner else None


def _in_block(tower: str, layer: int, rest: str) -> str | None:
    norms = _NORMS[tower]
    if re.fullmatch(r"(layer|rms)_norm/scale", rest):
        return f"{norms[layer]}.scale" if layer < len(norms) else None
    if match := re.fullmatch(r"(SelfAttention|EncDecAttention)/([qkvo])", rest):
        attention = _ATTENTIONS.get((tower, match[1]))
        return f"{attention}.{_MATRICES[match[2]]}.kernel" if attention else None
    if match := re.fullmatch(r"DenseReluDense/(wi|wi_0|wi_1|wo)/kernel", rest):
        return f"mlp.{match[1]}.kernel"
    return None


class MeshTensorFlow(Weights):
    """One checkpoint of Mesh-TensorFlow's; matrices need no turning.

    Attributes:
      step: the variable global_step.
    """

    kind = "Mesh TensorFlow"

    def __init__(self, prefix: Path):
        self.path = str(prefix)
        self._check_files(prefix)
        self._reader = _reader(prefix)
        shapes = self._reader.get_variable_to_shape_map()
        dtypes = self._reader.get_variable_to_dtype_map()
        self._infos = {
            name: TensorInfo(tuple(shape), np.dtype(dtypes[name].as_numpy_dtype).name)
            for name, shape in sorted(shapes.items())
        }
        self.step = int(self._get("global_step")) if "global_step" in shapes else None
        self._params, self._slots = self._placed()
        self._name_by_length()

    def _check_files(self, prefix: Path) -> None:
        """Data files are named '…-00003-of-00016'; UserError naming the first that is missing."""
        there = {one.name for one in prefix.parent.glob(f"{glob.escape(prefix.name)}.data-*")}
        counts = {name.rpartition("-of-")[2] for name in there}
        count = counts.pop() if len(counts) == 1 else "00001"
        wanted = [f"{prefix.name}.data-{i:05d}-of-{count}" for i in range(int(count))]
        missing = [name for name in wanted if name not in there]
        if missing:
            raise UserError(
                f"{prefix} is not whole: {missing[0]} is missing ({len(there)} of {len(wanted)} "
                "data files are there); copy it anew"
            )

    def _placed(self) -> tuple[dict[str, str], dict[str, str]]:
        """{T5X name: variable} of parameters and of statistics."""
        params, slots, unknown = {}, {}, []
        for variable in self._infos:
            base, _, slot = variable.partition("_slot_")
            name = t5x_name(base)
            key = _SLOTS.get(f"_slot_{slot}") if slot else None
            if variable == "global_step":
                continue
            if name is None or (slot and key is None):
                unknown.append(variable)
            elif slot:
                slots[f"{name}.{key}"] = variable
            else:
                params[name] = variable
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise UserError(
                f"{self.path} is of a network that mt0_tpu does not have: {', '.join(unknown[:3])}"
                f"{more} have no place in mT5's encoder and decoder; give a T5 or mT5 checkpoint"
            )
        return params, slots

    def _name_by_length(self) -> None:
        """In a square matrix Mesh's slot_vr runs along the columns, T5X's v_row along the rows.

        Both let v_row be as long as the shorter side, and take different sides where they are
        equal. T5X's own importer overlooks this.
        """
        for name, variable in self._params.items():
            shape = self._infos[variable].shape
            row, col = f"{name}.v_row", f"{name}.v_col"
            if len(shape) == 2 and shape[0] == shape[1] and row in self._slots:
                self._slots[row], self._slots[col] = self._slots[col], self._slots[row]

    def tensors(self) -> dict[str, TensorInfo]:
        return {name: self._infos[variable] for name, variable in self._params.items()}

    def state_tensors(self) -> dict[str, TensorInfo]:
        if not self._slots:
            return {}
        placeholder = TensorInfo((1,), "float32")
        return {
            name: self._infos[self._slots[name]] if name in self._slots else placeholder
            for name in (f"{p}.{key}" for p in self._params for key in _SLOTS.values())
        }

    def read(self, name: str) -> np.ndarray:
        return self._get(self._params[name])

    def read_state(self, name: str) -> np.ndarray:
        if name not in self._slots and name in self.state_tensors():
            return np.zeros(1, np.float32)
        return self._get(self._slots[name]).astype(np.float32, copy=False)

    def _get(self, variable: str) -> np.ndarray:
        try:
            return np.asarray(self._reader.get_tensor(variable))
        except Exception as error:  # TensorFlow's errors share no base of Python's
            raise UserError(
                f"{self.path} is damaged: {variable} cannot be read "
                f"({str(error).splitlines()[0][:160]}); copy it anew"
            ) from None


def _reader(prefix: Path):
    try:
        import tensorflow as tf
    except ImportError:
        raise UserError(
            f"{prefix} is a Mesh TensorFlow checkpoint and reading it needs TensorFlow; "
            "pip install tensorflow-cpu, convert it once, and use the result"
        ) from None
    try:
        return tf.train.load_checkpoint(str(prefix))
    except Exception as error:
        raise UserError(
            f"{prefix} is damaged: its index cannot be read "
            f"({str(error).splitlines()[0][:160]}); copy it anew"
        ) from None
