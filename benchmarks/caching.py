"""Caching beside SeqIO through tf.data, and a generated collection through cache and loader.

    python -m benchmarks.caching [--examples 1000000] [--processes 1 2]

First: tokens per CPU-second of tokenise-and-append-EOS tasks over the shared texts (Tatoeba, XQuAD,
UDHR), each in a process of its own, user + system of it and its children, TensorFlow's import and
the vocabulary's loading not counted; every id compared. Then, with --examples: `mt0 cache` and the
loader over benchmarks.collection; memory is the peak of the sum over all processes, pages they
share counted once (PSS), and of what is neither file nor shared (anonymous).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

LENGTHS = {"inputs": 1024, "targets": 256}
REPOSITORY = Path(__file__).resolve().parents[1]


def cpu_s() -> float:
    """Returns CPU seconds of this process and its ended children."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(part.ru_utime + part.ru_stime for part in used)


def shared_folder() -> Path:
    return Path(os.environ.get("MT0_SHARED", "../shared"))


# ours against SeqIO


def register(vocabulary: str, file: Path):
    """Registers the same examples twice: from jsonl, and as tensors in memory, for SeqIO's best."""
    import seqio
    import tensorflow as tf

    from seqio_tasks.sources import JsonlDataSource

    model = shared_folder() / "vocab" / vocabulary / "spiece.model"
    features = {
        name: seqio.Feature(seqio.SentencePieceVocabulary(str(model), extra_ids=0))
        for name in LENGTHS
    }

    def tensors(split, shuffle_files, seed=None):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return tf.data.Dataset.from_tensor_slices(
            {name: [line[name] for line in lines] for name in LENGTHS}
        )

    sources = {
        "jsonl": JsonlDataSource({"train": str(file)}, fields=tuple(LENGTHS)),
        "tensors": seqio.FunctionDataSource(tensors, splits=["train"]),
    }
    for name, source in sources.items():
        seqio.TaskRegistry.add(
            f"{vocabulary}_{name}",
            source=source,
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features=features,
        )
    for feature in features.values():
        feature.vocabulary.encode("loads the model")
    return seqio.TaskRegistry.get(f"{vocabulary}_jsonl"), seqio.TaskRegistry.get(
        f"{vocabulary}_tensors"
    )


def write_texts(file: Path, repeat: int) -> None:
    """Writes pairs of consecutive texts as jsonl, several times over."""
    from benchmarks.collection import LANGUAGES, texts

    found = [text for language in LANGUAGES for text in texts(shared_folder(), language)]
    lines = [
        json.dumps({"inputs": a, "targets": b}, ensure_ascii=False) + "\n"
        for a, b in zip(found[::2], found[1::2], strict=False)
    ]
    file.write_text("".join(lines * repeat), encoding="utf-8")


def side_by_side(vocabulary: str, who: str, file: Path, root: Path) -> dict:
    """Runs one side in this process; returns tokens and CPU seconds, and keeps its ids."""
    ours, theirs = register(vocabulary, file)
    begin = cpu_s()
    if who == "ours":
        from mt0_tpu.data.cache import cache_mixture

        cache_mixture(ours.name, root, num_processes=1, progress=lambda line: None)
        spent = cpu_s() - begin
        info = json.loads((root / ours.name / "train" / "info.json").read_text())
        tokens = sum(info["features"][name]["tokens"] + info["num_examples"] for name in LENGTHS)
        return {"tokens": tokens, "cpu_s": spent}
    examples = list(theirs.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    spent = cpu_s() - begin
    for name in LENGTHS:
        np.save(root / f"{vocabulary}_{name}.npy", np.concatenate([e[name] for e in examples]))
    return {"tokens": sum(len(e[name]) for e in examples for name in LENGTHS), "cpu_s": spent}


def same_ids(vocabulary: str, root: Path) -> bool:
    """Whether every id of ours, EOS appended, is SeqIO's."""
    from mt0_tpu.data.indexed import IndexedDataset

    for name in LENGTHS:
        data = IndexedDataset(root / f"{vocabulary}_jsonl" / "train" / f"{name}_document")
        ours = np.concatenate([np.append(sequence, 1) for sequence in data])
        if not np.array_equal(ours, np.load(root / f"{vocabulary}_{name}.npy")):
            return False
    return True


def compare(repeat: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file, root = Path(folder, "texts.jsonl"), Path(folder)
        write_texts(file, repeat)
        print(f"{file.stat().st_size / 1e6:.1f} MB of jsonl; tokens per CPU-second, millions")
        for vocabulary in ("mt5", "t5_32k"):
            speeds = {}
            for who in ("ours", "seqio"):
                command = [sys.executable, "-m", "benchmarks.caching", "--side", who, vocabulary]
                said = subprocess.run(
                    [*command, str(file), str(root)], cwd=REPOSITORY, check=True,
                    capture_output=True, text=True,
                    env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"},
                ).stdout  # fmt: skip
                result = json.loads(said.splitlines()[-1])
                speeds[who] = result["tokens"] / result["cpu_s"] / 1e6
            print(
                f"{vocabulary:8} ours {speeds['ours']:.2f}  seqio {speeds['seqio']:.3f}  "
                f"{speeds['ours'] / speeds['seqio']:.1f}x  {result['tokens']:,} ids "
                f"{'identical' if same_ids(vocabulary, root) else 'DIFFERENT'}",
                flush=True,
            )


# the collection


class Watch:
    """Samples a process and all it started: peaks of memory in MiB, and the CPU time of each.

    Workers are children of a fork server that nobody waits for, so rusage would miss them.
    """

    def __init__(self, pid: int):
        self.pss = self.anonymous = self.most = 0
        self._cpu_s: dict[int, float] = {}
        self._pid, self._stop = pid, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            family = _family(self._pid)
            found = [_memory(pid) for pid in family]
            self._cpu_s |= {pid: spent for pid in family if (spent := _cpu_s(pid))}
            self.pss = max(self.pss, sum(part[0] for part in found))
            self.anonymous = max(self.anonymous, sum(part[1] for part in found))
            self.most = max([self.most, *(part[1] for part in found)])

    def stop(self) -> float:
        """Ends the sampling; returns CPU seconds, each process's last half second left out."""
        self._stop.set()
        self._thread.join()
        return sum(self._cpu_s.values())


def _family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += _family(child)
    return found


def _cpu_s(pid: int) -> float:
    try:
        _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return 0.0
    return sum(map(int, rest.split()[11:13])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> tuple[int, int]:
    """Returns (PSS, anonymous PSS) in MiB; zeros when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return int(sizes["Pss"]) >> 10, int(sizes["Pss_Anon"]) >> 10


def watched(name: str, command: list[str]) -> None:
    """Runs a command and prints its time and memory, and its last lines."""
    wall = time.monotonic()
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    environment.setdefault("MT0_VOCABULARY", str(shared_folder() / "vocab/mt5/spiece.model"))
    with subprocess.Popen(
        command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment,
    ) as child:  # fmt: skip
        watch = Watch(child.pid)
        lines = child.stdout.read().splitlines()
    spent = watch.stop()
    print("\n".join(lines[-15:]))
    print(
        f"{name}: {time.monotonic() - wall:.1f} s, {spent:.1f} CPU-s; peak of all "
        f"processes {watch.pss} MiB, anonymous {watch.anonymous} MiB, of one {watch.most} MiB",
        flush=True,
    )
    if child.returncode:
        raise SystemExit(f"{name} ended with code {child.returncode}")


def read_epoch(cache_dir: str) -> None:
    """One epoch of the collection through the loader, packed."""
    from mt0_tpu.data.batches import Loader, open_sources
    from mt0_tpu.data.dataset_config import DatasetConfig

    config = DatasetConfig("collection", LENGTHS, batch_size=128, cache_dir=cache_dir)
    with Loader(open_sources(config), config, epochs=1) as loader:
        batches = sum(1 for _ in loader)
        print(f"{batches:,} batches, {loader.stats}")


def trial(examples: int, processes: list[int], keep: str | None) -> None:
    from benchmarks.collection import write_collection

    with tempfile.TemporaryDirectory(dir=keep) as folder:
        made = Path(folder, "made")
        total = write_collection(made, shared_folder(), examples)
        print(f"collection: {examples:,} examples, {total / 1e6:,.0f} MB")
        for count in processes:
            cache_dir = str(Path(folder, f"cache-{count}"))
            command = [sys.executable, "-m", "mt0_tpu", "cache", "--mixture", "collection"]
            command += ["--module", str(made / "collection_tasks.py"), "--cache_dir", cache_dir]
            command += ["--num_processes", str(count)]
            command += ["--task_feature_lengths", "inputs=1024,targets=256"]
            watched(f"mt0 cache, {count} processes", command)
        reader = [sys.executable, "-m", "benchmarks.caching", "--read", cache_dir]
        watched("loader, one epoch", reader)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=0, help="of the generated collection")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=5, help="times the shared texts")
    parser.add_argument("--folder", help="where the collection and its caches go")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.side:
        who, vocabulary, file, root = flags.side
        print(json.dumps(side_by_side(vocabulary, who, Path(file), Path(root))))
        return
    if flags.read:
        read_epoch(flags.read)
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if flags.repeat:
        compare(flags.repeat)
    if flags.examples:
        trial(flags.examples, flags.processes, flags.folder)


if __name__ == "__main__":
    main()
