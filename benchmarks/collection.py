"""Writes a collection in xP3's layout out of the shared texts, and the module that registers it.

    python -m benchmarks.collection FOLDER [--examples 1000000] [--seed 0]

FOLDER gets {lang}/merged_{lang}.jsonl and collection_tasks.py, whose mixture is `collection`:
`mt0 cache --mixture collection --module FOLDER/collection_tasks.py`. Lines average the 1,203 bytes
of xP3's (facts/xp3.md 2), lognormal; shares of languages are rounded from the same table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

import numpy as np

# Language, its code in Tatoeba and in UDHR, and its share of the examples.
LANGUAGES = {
    "en": ("eng", None, 0.42), "es": ("spa", "spa", 0.1), "fr": ("fra", "fra", 0.1),
    "zh": ("cmn", None, 0.08), "hi": ("hin", "hin", 0.08), "ar": ("ara", "arb", 0.06),
    "id": ("ind", None, 0.06), "vi": (None, "vie", 0.04), "sw": ("swh", None, 0.03),
    "ta": ("tam", None, 0.03),
}  # fmt: skip
# Bytes of a line's inputs and targets: median and sigma of a lognormal, least and most.
INPUTS, TARGETS = (520, 1.2, 20, 20_000), (40, 1.2, 2, 4_000)
PROMPTS = ("{} ", "Text: {}\nContinue: ", "{}\n\nWhat comes next? ", "Read and go on.\n{}")

MODULE = '''"""Tasks of a generated collection: one a language, beside its file."""

import os
from pathlib import Path

import seqio

from seqio_tasks import vocabularies
from seqio_tasks.sources import JsonlDataSource

FOLDER = Path(__file__).resolve().parent
names = []
for file in sorted(FOLDER.glob("*/merged_*.jsonl")):
    names.append(f"collection_{file.parent.name}")
    seqio.TaskRegistry.add(
        names[-1],
        source=JsonlDataSource(
            {"train": str(file)}, fields=("inputs", "targets"), validation_one_in=2000
        ),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=vocabularies.output_features(vocabularies.mt5()),
    )
seqio.MixtureRegistry.add("collection", names, default_rate=seqio.mixing_rate_num_examples)
'''


def texts(shared: Path, language: str) -> list[str]:
    """Returns sentences and paragraphs of a language: Tatoeba, XQuAD, UDHR."""
    tatoeba, udhr, _ = LANGUAGES[language]
    found: list[str] = []
    for path in sorted((shared / "data/tatoeba").glob(f"tatoeba.*.{tatoeba}")):
        found += path.read_text(encoding="utf-8").splitlines()
    for path in (shared / "data/xquad").glob(f"xquad.{language}.json"):
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                found.append(paragraph["context"])
                found += [question["question"] for question in paragraph["qas"]]
    for path in (shared / "data/udhr").glob(f"udhr_{udhr}.xml"):
        found += re.findall(r"<para>([^<]+)</para>", path.read_text(encoding="utf-8"))
    return [text for text in found if text.strip()]


def write_collection(folder: Path, shared: Path, examples: int, seed: int = 0) -> int:
    """Writes the files and the module; returns the bytes of all lines."""
    random = np.random.default_rng(seed)
    total = 0
    for language, (_, _, share) in LANGUAGES.items():
        count = round(examples * share)
        found = texts(shared, language)
        pool = " ".join(found[i] for i in random.permutation(len(found)))
        character = len(pool.encode()) / len(pool)
        sizes = [_sizes(random, count, character, *side) for side in (INPUTS, TARGETS)]
        starts = random.integers(0, len(pool), count)
        # Twice, so that a slice may run past the end.
        pool *= 1 + -(-max(INPUTS[3], TARGETS[3]) // len(pool)) * 2
        path = folder / language / f"merged_{language}.jsonl"
        path.parent.mkdir(parents=True)
        with path.open("w", encoding="utf-8") as file:
            rows = zip(starts.tolist(), *(side.tolist() for side in sizes), strict=True)
            for number, (start, inputs, targets) in enumerate(rows):
                middle = start + inputs
                line = {
                    "inputs": PROMPTS[number % len(PROMPTS)].format(pool[start:middle]),
                    "targets": pool[middle : middle + targets].strip() or "…",
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        total += path.stat().st_size
    (folder / "collection_tasks.py").write_text(MODULE, encoding="utf-8")
    return total


def _sizes(random, count, character, median, sigma, least, most) -> np.ndarray:
    """Returns lengths in characters of `character` bytes each."""
    sizes = np.clip(random.lognormal(np.log(median), sigma, count), least, most)
    return np.maximum(sizes / character, 1).astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    shared = Path(os.environ.get("MT0_SHARED", "../shared"))
    total = write_collection(flags.folder, shared, flags.examples, flags.seed)
    print(f"{flags.examples:,} examples, {total / 1e6:,.0f} MB in {flags.folder}")


if __name__ == "__main__":
    main()
