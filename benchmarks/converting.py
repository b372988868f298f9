"""`mt0 convert` on checkpoints of mT5's and BLOOM's sizes: time, peak memory, sampled bits equal.

    python -m benchmarks.converting --size xxl --dtype bfloat16 --chain hf,orbax,t5x --folder DIR
    python -m benchmarks.converting --size xl --with_state --chain t5x,orbax,hf --folder DIR
    python -m benchmarks.converting --size bloom-560m --dtype bfloat16 --chain hf,orbax,hf

A chain's first kind is written with random values, a tensor at a time; each next one is converted
from the one before by `mt0 convert` in a process of its own, compared, and the one before deleted:
two checkpoints are on disk at once. Kinds: hf, orbax, t5x, t5x_orbax (T5X's layout of that name).
Peak memory is VmHWM of that process, asked 50 times a second; CPU seconds are user + system.
Disk bytes read are what the page cache did not have.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np

from mt0_tpu.formats import detect, hf_export, own_run, t5x_orbax_writer, t5x_writer
from mt0_tpu.formats.weights import TensorInfo, Weights
from mt0_tpu.models import names
from mt0_tpu.models.config import BloomConfig, T5Config
from mt0_tpu.models.networks import NetworkConfig

# emb_dim, num_heads, mlp_dim, layers of each tower; heads are 64 wide.
SIZES = {
    "small": (512, 6, 1024, 8),
    "base": (768, 12, 2048, 12),
    "large": (1024, 16, 2816, 24),
    "xl": (2048, 32, 5120, 24),
    "xxl": (4096, 64, 10240, 24),
}
# emb_dim, num_heads, layers.
BLOOM_SIZES = {
    "bloom-560m": (1024, 16, 24),
    "bloom-3b": (2560, 32, 30),
    "bloom-7b1": (4096, 32, 30),
}
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
KINDS = {
    "hf": (hf_export.write, ["--to=hf"]),
    "orbax": (own_run.write, ["--to=orbax"]),
    "t5x": (t5x_writer.write, ["--to=t5x"]),
    "t5x_orbax": (t5x_orbax_writer.write, ["--to=t5x", "--t5x_layout=orbax"]),
}
STEP = 1_000_000
# Longer than what a compressor looks back on, so that repeating it does not help.
BLOCK_VALUES = 1 << 24
GIB = 2**30


def network_of(size: str) -> NetworkConfig:
    if size in BLOOM_SIZES:
        return BloomConfig(250880, *BLOOM_SIZES[size])
    emb_dim, num_heads, mlp_dim, layers = SIZES[size]
    return T5Config(
        vocab_size=250112,
        emb_dim=emb_dim,
        num_heads=num_heads,
        head_dim=64,
        mlp_dim=mlp_dim,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
    )


class RandomWeights(Weights):
    """A network with random values, made anew at every reading."""

    kind, path, step = "random", "nowhere", STEP

    def __init__(self, size: str, dtype: str, with_state: bool):
        self.config = network_of(size)
        block = np.random.default_rng(0).standard_normal(BLOCK_VALUES, np.float32) / 16
        self._blocks = {"float32": block, dtype: block.astype(DTYPES[dtype])}
        self._shapes = {name: leaf.shape for name, leaf in names.expected(self.config).items()}
        self._infos = {name: TensorInfo(shape, dtype) for name, shape in self._shapes.items()}
        self._state = {}
        for name, shape in self._shapes.items() if with_state else ():
            if len(shape) == 2 and min(shape) >= 128:
                self._state[f"{name}.v_row"] = TensorInfo((min(shape),), "float32")
                self._state[f"{name}.v_col"] = TensorInfo((max(shape),), "float32")
            else:
                self._state[f"{name}.v"] = TensorInfo(shape, "float32")

    def tensors(self) -> dict[str, TensorInfo]:
        return self._infos

    def state_tensors(self) -> dict[str, TensorInfo]:
        return self._state

    def read(self, name: str) -> np.ndarray:
        return self._drawn(name, self._infos[name])

    def read_state(self, name: str) -> np.ndarray:
        return np.square(self._drawn(name, self._state[name]))

    def _drawn(self, name: str, info: TensorInfo) -> np.ndarray:
        """The block over and over, begun at a place of the name's own."""
        block = self._blocks[info.dtype]
        values = np.empty(math.prod(info.shape), block.dtype)
        at, begin = 0, zlib.crc32(name.encode()) % BLOCK_VALUES
        while at < values.size:
            piece = block[begin : begin + values.size - at]
            values[at : at + piece.size] = piece
            at, begin = at + piece.size, 0
        return values.reshape(info.shape)


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def convert(source: Path, destination: Path, kind: str, options: list[str]) -> dict[str, float]:
    """Runs `mt0 convert` and returns what it took; RuntimeError where it fails."""
    command = [sys.executable, "-m", "mt0_tpu", "convert", str(source), str(destination)]
    began = time.monotonic()
    child = subprocess.Popen([*command, *KINDS[kind][1], *options], stdout=subprocess.DEVNULL)
    peak_kib = 0

    def watch():
        nonlocal peak_kib
        while child.returncode is None:
            try:
                status = Path(f"/proc/{child.pid}/status").read_text()
            except OSError:
                return
            found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
            peak_kib = max([peak_kib, *map(int, found)])
            time.sleep(0.02)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    watching.join()
    if child.returncode:
        raise RuntimeError(f"mt0 convert to {kind} ended with {child.returncode}")
    return {
        "wall_s": time.monotonic() - began,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_gib": peak_kib / 2**20,
        "read_gib": folder_bytes(source) / GIB,
        "disk_gib": used.ru_inblock * 512 / GIB,
        "written_gib": folder_bytes(destination) / GIB,
    }


def compare(random: RandomWeights, folder: Path, every: int, with_state: bool) -> int:
    """Returns how many tensors were compared to the bit: the largest, and every so many."""
    found = detect.open_any(folder)
    infos = random.tensors()
    assert found.tensors() == infos, "other names, shapes or dtypes"
    largest = sorted(infos, key=lambda name: -math.prod(infos[name].shape))[:2]
    chosen = {*largest, *list(infos)[::every]}
    pairs = [(random.read, found.read, name) for name in infos if name in chosen]
    if with_state:
        state = {n: i for n, i in found.state_tensors().items() if i.shape != (1,)}
        assert state == random.state_tensors(), "other statistics"
        pairs += [(random.read_state, found.read_state, name) for name in list(state)[::every]]
    for expected, read, name in pairs:
        bits = "u4" if infos.get(name, TensorInfo((), "float32")).dtype == "float32" else "u2"
        assert np.array_equal(expected(name).view(bits), read(name).view(bits)), name
    return len(pairs)


def run(size: str, dtype: str, chain: list[str], root: Path, with_state: bool, every: int) -> None:
    random = RandomWeights(size, dtype, with_state)
    values = [math.prod(info.shape) for info in random.tensors().values()]
    largest = max(values) * DTYPES[dtype].itemsize / GIB
    state = " with Adafactor's statistics" if with_state else ""
    name = size if size in BLOOM_SIZES else f"mT5-{size}"
    print(f"{name} {dtype}{state}: {sum(values):,} values, largest tensor {largest:.2f} GiB")
    work = root / f"converting-{os.getpid()}"
    work.mkdir(parents=True)
    try:
        source = work / "0" / f"checkpoint_{STEP}"
        source.parent.mkdir()
        KINDS[chain[0]][0](random, source, dtype=dtype, with_state=with_state)
        for number, (before, kind) in enumerate(zip(chain, chain[1:], strict=False), start=1):
            destination = work / str(number) / f"checkpoint_{STEP}"
            destination.parent.mkdir()
            with_state = with_state and kind != "hf"
            options = [f"--dtype={dtype}", *(["--with_state"] if with_state else [])]
            took = convert(source, destination, kind, options)
            shutil.rmtree(source)
            compared = compare(random, destination, every, with_state)
            print(
                f"{before} → {kind}: {took['wall_s']:.0f} s, {took['cpu_s']:.0f} CPU-s, peak "
                f"{took['peak_gib']:.2f} GiB = {took['peak_gib'] / largest:.2f} of the largest "
                f"tensor, read {took['read_gib']:.2f} GiB ({took['disk_gib']:.2f} from disk), "
                f"written {took['written_gib']:.2f} GiB; {compared} tensors equal to the bit",
                flush=True,
            )
            source = destination
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=[*SIZES, *BLOOM_SIZES], default="small")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--chain", default="t5x,orbax,t5x_orbax,hf,t5x", help="(%(default)s)")
    parser.add_argument("--with_state", action="store_true")
    parser.add_argument("--every", type=int, default=20, help="compares every so many tensors")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="room for two of them"
    )
    given = parser.parse_args()
    chain = given.chain.split(",")
    if wrong := [kind for kind in chain if kind not in KINDS]:
        parser.error(f"--chain: no kind {wrong[0]}; there are {', '.join(KINDS)}")
    run(given.size, given.dtype, chain, given.folder, given.with_state, given.every)


if __name__ == "__main__":
    main()
