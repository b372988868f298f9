"""Names of the xP3 family: what a file name says, and the task names made of it.

A released file is called `xp3_{data set}_{config}_{split}_{template}.jsonl`, with '/' and ' ' (in
xP3x also '-') written as '_': where one part ends and the next begins only a table of data sets
can say. A task is called `<collection>_<language>_<that name without xp3_>`, in the letters that
SeqIO allows, so that a task's name can be taken apart as a file's can.
"""

from __future__ import annotations

import dataclasses
import functools
import re

from seqio_tasks import xp3_tables
from seqio_tasks.xp3_tables import Dataset

UNKNOWN = "unknown"
PAIRS = "pairs"  # stands for the config where many language pairs make one task
# Splits that the family's data sets have; the first such word after the data set is the split.
_SPLITS = (
    "train validation test dev devtest train_r1 train_r2 train_r3 dev_r1 dev_r2 dev_r3 test_r1 "
    "test_r2 test_r3 sampled_validation sampled_test unsupervised prompt"
).split()
_LANGUAGE = re.compile(r"(code|[a-z]{2,3})(?=_|$)")
_LANGUAGE_AND_SCRIPT = re.compile(r"([a-z]{3}_[A-Z][a-z]{3})(?=_|$)")


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a file's or a task's name says; 'unknown' where the table does not know.

    Attributes:
      dataset: as on the Hub, such as 'facebook/flores'.
      config: as written in the name; 'None' where the data set has none.
      split: the data set's own split the examples were made of.
      prompt: name of the template; without the language pair where `pairs` is true.
      cluster: task cluster of xP3.
      pairs: whether the config is a language pair.
    """

    dataset: str
    config: str
    split: str
    prompt: str
    cluster: str
    pairs: bool = False

    @property
    def folded(self) -> str:
        """The name with the language pair taken out, where there is one."""
        return f"{legal(self.dataset)}_{PAIRS}_{self.split}_{self.prompt}"


def legal(text: str) -> str:
    """The text in letters that a SeqIO name may have: 'C++ (a/b)' → 'Cpp_a_b'."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", text.replace("++", "pp")).strip("_")


@functools.cache
def _by_written_name() -> list[tuple[str, str, list[Dataset]]]:
    """(name as written, name, its lines of the table), longest first."""
    lines: dict[str, list[Dataset]] = {}
    for dataset in xp3_tables.datasets():
        lines.setdefault(dataset.name, []).append(dataset)
    written = [
        (legal(called), name, datasets)
        for name, datasets in lines.items()
        for called in (name, *datasets[0].also_called)
    ]
    return sorted(written, key=lambda entry: -len(entry[0]))


def parse(written: str) -> Parts:
    """Takes apart a file's stem (with or without 'xp3_') or the end of a task's name.

    Never fails: what is not in the table gives 'unknown', and the words before the first split's
    name are then the config.
    """
    rest = legal(written).removeprefix("xp3_")
    name, datasets = UNKNOWN, []
    for called, known, lines in _by_written_name():
        if rest == called or rest.startswith(f"{called}_"):
            name, datasets, rest = known, lines, rest[len(called) + 1 :]
            break
    config, split, prompt = _around_split(rest)
    dataset = _line(datasets, config)
    if dataset is None:
        return Parts(name, config, split, prompt, UNKNOWN)
    if dataset.pairs:
        prompt = _without_pair(prompt, config, name)
    return Parts(name, config, split, prompt, dataset.cluster, dataset.pairs)


def _around_split(rest: str) -> tuple[str, str, str]:
    """'ar_test_answer_this' → ('ar', 'test', 'answer_this')."""
    words = rest.split("_")
    for start in range(len(words)):
        for length in (2, 1):  # 'sampled_test' before 'test'
            split = "_".join(words[start : start + length])
            if split in _SPLITS and start + length <= len(words):
                return "_".join(words[:start]), split, "_".join(words[start + length :])
    return rest, UNKNOWN, ""


def _line(datasets: list[Dataset], config: str) -> Dataset | None:
    for dataset in datasets:
        if not dataset.configs or config in {legal(known) for known in dataset.configs}:
            return dataset
    return None


def _without_pair(prompt: str, config: str, dataset: str) -> str:
    """'in_eng_Latn_twi_Latn' → 'in'; xP3x writes the pair as 'x_x', multi_eurlex as 'fr_en'."""
    pair = {"x", *config.split("_")}
    kept = [
        word
        for word in prompt.split("_")
        if word not in pair and not (dataset == "multi_eurlex" and len(word) == 2)
    ]
    return "_".join(kept) or "prompt"


def collection_of(name: str, known: tuple[str, ...] = ()) -> tuple[str, str]:
    """('xp3mt', 'sw') for 'xp3mt_sw'; ('', '') for a name outside the family.

    Args:
      name: a task's or mixture's name.
      known: further collections (users' own), looked at first.
    """
    for collection in (*known, *sorted(xp3_tables.collections(), key=len, reverse=True)):
        if name == collection:
            return collection, ""
        if name.startswith(f"{collection}_"):
            return collection, name[len(collection) + 1 :]
    return "", ""


def language_of(rest: str, codes: list[str]) -> tuple[str, str]:
    """('yor_Latn', 'mlqa_…') for 'yor_Latn_mlqa_…'; ('', rest) where no language begins it.

    A code may hold letters that a task's name may not ('jupyter-notebook'); the code is returned.
    """
    for code in sorted(codes, key=len, reverse=True):
        if rest == legal(code) or rest.startswith(f"{legal(code)}_"):
            return code, rest[len(legal(code)) + 1 :]
    return "", rest


def guessed_language(rest: str) -> str:
    """The code that a name begins with, by its form alone; '' where there is none."""
    match = _LANGUAGE_AND_SCRIPT.match(rest) or _LANGUAGE.match(rest)
    return match.group(1) if match else ""
