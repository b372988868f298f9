"""Our own runs, MODEL_DIR/checkpoints/<step>/{state,position}, read a tensor at a time.

`state` is what Orbax makes of {step, params, opt_state}: one zarr array a leaf, such as
'params.encoder.layers.mlp.wo.kernel', inside one OCDBT store, and the tree of names in _METADATA.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from mt0_tpu.errors import UserError
from mt0_tpu.formats.weights import TensorInfo, Weights
from mt0_tpu.models.names import LAYERS
from mt0_tpu.models.networks import NetworkConfig
from mt0_tpu.place import BUCKET, entries, is_bucket, place
from mt0_tpu.run_folder import MARK

CHECKPOINTS = "checkpoints"
# Under which Orbax's own metadata holds what no array tells of a network.
NETWORK = "network"
STATISTICS = ("v_row", "v_col", "v", "m")
_HELD_BYTES = 256 << 20
# What Orbax calls a checkpoint until it is whole.
_HALF = re.compile(r"^\d+\.orbax-checkpoint-tmp")
# Kernels whose axes are (…, embed); all others are (embed, …).
_EMBED_LAST = frozenset({"out", "wo"})


def find(path: Path) -> Path | None:
    """Returns the folder of one checkpoint of ours at a MODEL_DIR, its latest, or None.

    Also accepts MODEL_DIR/checkpoints, one checkpoint, and its `state`. Raises UserError where
    only the beginning of one is there.
    """
    given = place(path)
    if given.name == "state":
        given = given.parent
    if _is_step(given):
        if _HALF.search(given.name) or not _is_marked(given):
            raise UserError(_half_written(given))
        return given
    for folder in (given / CHECKPOINTS, given):
        inside = entries(folder)
        steps = [one for one in inside if one.name.isdecimal() and _is_step(one)]
        whole = [one for one in steps if _is_marked(one)]
        if whole:
            return max(whole, key=lambda one: int(one.name))
        if steps:
            raise UserError(_half_written(steps[0]))
        if folder.name == CHECKPOINTS:
            for half in sorted(inside):
                if _HALF.search(half.name):
                    raise UserError(_half_written(half))
    return None


def _is_marked(step: Path) -> bool:
    """Whether a checkpoint has what tells in a bucket that it is whole; on a disk its name does."""
    return not is_bucket(step) or (step / MARK).exists()


def _half_written(folder: Path) -> str:
    return (
        f"{folder} is half-written: its save was cut off, and no whole checkpoint is beside it; "
        "give another run, or run the training again"
    )


def _is_step(folder: Path) -> bool:
    metadata = folder / "state" / "_METADATA"
    if metadata.is_file():
        # T5X's Orbax folders have 'target' there.
        return b"('params'," in metadata.read_bytes()
    # A copy that lacks the file is still one of ours; opening it says what is missing.
    in_place = folder.name.isdecimal() and folder.parent.name == CHECKPOINTS
    return in_place and (folder / "state").is_dir()


def open_weights(path: Path) -> Weights:
    """Opens what `find` returned; UserError when parts of it are missing or damaged."""
    folder = find(path)
    if folder is None:
        raise UserError(f"no checkpoint of ours at {path}: give a MODEL_DIR or one of its steps")
    return OwnRun(folder)


def write(weights: Weights, destination: Path, **options) -> None:
    """Makes `destination` a MODEL_DIR of these weights: see own_run_writing.write."""
    from mt0_tpu.formats import own_run_writing

    own_run_writing.write(weights, destination, **options)


class OwnRun(Weights):
    """One checkpoint of ours. AdamW's moments are not among its state: only Adafactor's are.

    Training saves all layers of a tensor as one piece, which is kept until others need its room;
    so reading is fastest in the order of `tensors()`.
    """

    kind = "mt0_tpu"

    def __init__(self, folder: Path):
        self.path = str(folder)
        self._stores = _open_stores(folder / "state")
        self._held: dict[str, np.ndarray] = {}
        if "step" not in self._stores:
            raise UserError(f"{folder} is damaged: it has no 'step'; use another checkpoint")
        self.step = int(self._read("step", None))
        self._params, self._state = {}, {}
        for name in self._stores:
            top, _, rest = name.partition(".")
            if top == "params":
                self._params |= self._layers(name, rest)
            elif top == "opt_state" and rest.rpartition(".")[2] in STATISTICS:
                self._state |= self._layers(name, rest)
        if _factored_by_name(folder):
            self._to_heuristic()

    @functools.cached_property
    def config(self) -> NetworkConfig | None:
        """A BLOOM's network, whose heads are in no shape: by config.gin, else by its conversion."""
        from mt0_tpu.formats import run_record, shape_of

        if not shape_of.is_bloom(self):
            return None
        record = run_record.of_checkpoint(place(self.path), self.step)
        told = noted_network(place(self.path)) | (record.bloom_fields() if record else {})
        return shape_of.bloom(self, told) if "num_heads" in told else None

    def _layers(self, name: str, rest: str) -> dict[str, tuple[str, int | None]]:
        """{T5X name: (array, layer)}; an unused statistic is one placeholder for all layers."""
        keys = rest.split(".")
        if LAYERS not in keys:
            return {rest: (name, None)}
        at = keys.index(LAYERS)
        kernel = name if name.startswith("params.") else f"params.{rest.rpartition('.')[0]}"
        if kernel not in self._stores:
            raise UserError(f"{self.path} is damaged: it has {name} but not {kernel}")
        shape = self._stores[name].shape
        stacked = kernel == name or tuple(shape) != (1,)
        return {
            ".".join((*keys[:at], f"{LAYERS}_{i}", *keys[at + 1 :])): (name, i if stacked else None)
            for i in range(self._stores[kernel].shape[0])
        }

    def _to_heuristic(self) -> None:
        """Names statistics as T5X's unscanned layout does: v_row is the shorter of the two."""
        for name in self._params:
            shape = self._info(self._params[name]).shape
            if not re.search(rf"\.{LAYERS}_\d", name) or len(shape) != 2 or min(shape) < 128:
                continue
            embed = 1 if name.split(".")[-2] in _EMBED_LAST else 0
            if embed != (0 if shape[0] <= shape[1] else 1):
                row, col = f"{name}.v_row", f"{name}.v_col"
                self._state[row], self._state[col] = self._state[col], self._state[row]

    def _info(self, where: tuple[str, int | None]) -> TensorInfo:
        store, layer = self._stores[where[0]], where[1]
        shape = tuple(store.shape)
        return TensorInfo(shape if layer is None else shape[1:], store.dtype.name)

    def tensors(self) -> dict[str, TensorInfo]:
        return {name: self._info(where) for name, where in self._params.items()}

    def state_tensors(self) -> dict[str, TensorInfo]:
        return {name: self._info(where) for name, where in self._state.items()}

    def read(self, name: str) -> np.ndarray:
        return self._read(*self._params[name])

    def read_state(self, name: str) -> np.ndarray:
        return self._read(*self._state[name])

    def _read(self, name: str, layer: int | None) -> np.ndarray:
        store = self._stores[name]
        try:
            if layer is None:
                return store.read().result()
            if store.chunk_layout.read_chunk.shape[0] == 1 < store.shape[0]:
                return store[layer].read().result()
            return self._whole(name)[layer]
        except (ValueError, OSError) as error:
            raise UserError(
                f"{self.path} is damaged: {name} cannot be read ({_reason(error)}); copy it anew "
                "or use another checkpoint"
            ) from None

    def _whole(self, name: str) -> np.ndarray:
        """All layers of an array, kept while the arrays kept are few or small."""
        if name not in self._held:
            store = self._stores[name]
            size = store.size * store.dtype.numpy_dtype.itemsize
            # Let go first: two large stacks are twice the memory.
            while self._held and size + sum(a.nbytes for a in self._held.values()) > _HELD_BYTES:
                del self._held[next(iter(self._held))]
            self._held[name] = store.read().result()
        return self._held[name]


def noted_network(folder: Path) -> dict[str, Any]:
    """Fields of a BloomConfig that a conversion wrote beside a checkpoint; {} where none did."""
    try:
        noted = json.loads((folder / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))
        return dict(noted["custom_metadata"][NETWORK])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _open_stores(state: Path) -> dict[str, Any]:
    """{dotted name: tensorstore} of every leaf, in the order of the names."""
    stores = {}
    base = {"driver": "file", "path": f"{state}/"}
    if is_bucket(state):
        bucket, _, folder = str(state).removeprefix(BUCKET).partition("/")
        base = {"driver": "gcs", "bucket": bucket, "path": f"{folder}/"}
    context = tensorstore.Context()
    for name in _leaf_names(state):
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"},
            # A lost piece must not read as zeros.
            "fill_missing_data_reads": False,
        }
        stores[name] = tensorstore.open(spec, open=True, read=True, context=context)
    for name, opening in stores.items():
        try:
            stores[name] = opening.result()
        except (ValueError, OSError) as error:
            raise UserError(
                f"{state.parent} is damaged: {name} is in _METADATA but cannot be opened "
                f"({_reason(error)}); copy it anew or use another checkpoint"
            ) from None
    return stores


def _leaf_names(state: Path) -> list[str]:
    for needed in ("_METADATA", "manifest.ocdbt"):
        if not (state / needed).is_file():
            raise UserError(
                f"{state.parent} is not whole: it has no state/{needed}; copy it anew or use "
                "another checkpoint"
            )
    try:
        tree = json.loads((state / "_METADATA").read_text(encoding="utf-8"))["tree_metadata"]
        keys = [[part["key"] for part in leaf["key_metadata"]] for leaf in tree.values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{state}/_METADATA cannot be understood; copy it anew or use another checkpoint"
        ) from None
    return sorted(".".join(map(str, parts)) for parts in keys)


def _factored_by_name(folder: Path) -> bool:
    """Whether the run's config says Adafactor.factor_by_name; the arrays do not tell."""
    config = folder.parent.parent / "config.gin"
    if not config.is_file():
        return False
    text = config.read_bytes().decode("utf-8", "replace")
    return re.search(r"^[^#\n]*factor_by_name\s*=\s*True", text, re.MULTILINE) is not None


def _reason(error: Exception) -> str:
    """The first words of tensorstore's message; what follows is its own source lines."""
    return re.split(r" \[|\n", str(error))[0][:160]
