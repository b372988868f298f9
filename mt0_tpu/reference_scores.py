"""Published scores of mT0, BLOOMZ and their rivals, to stand beside one's own.

The tables lie in `seqio_tasks/tables/reference_*.tsv`. Needs neither SeqIO nor TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Iterable

SOURCE = (
    "figure notebooks of github.com/bigscience-workshop/xmtf for Muennighoff et al. 2022, "
    "Crosslingual Generalization through Multitask Finetuning (arXiv 2211.01786)"
)
MODELS = (
    "XGLM-7.5B", "BLOOM-560M", "BLOOM-1.1B", "BLOOM-1.7B", "BLOOM-3B", "BLOOM-7.1B", "BLOOM",
    "T0-11B", "mTk-3.7B", "mTk-13B", "mT0-300M", "mT0-560M", "mT0-1.2B", "mT0-3.7B", "mT0-13B",
    "mT0-13B-MT", "mT0-13B-P3", "BLOOMZ-560M", "BLOOMZ-1.1B", "BLOOMZ-1.7B", "BLOOMZ-3B",
    "BLOOMZ-7.1B", "BLOOMZ-7.1B-MT", "BLOOMZ-7.1B-P3", "BLOOMZ", "BLOOMZ-MT", "BLOOMZ-P3",
)  # fmt: skip
MEDIAN, BEST = "Median acc.", "Max acc."  # metrics of rank tasks, over five prompts
# (width, encoder blocks) of the published mT0s.
_SIZES = {
    (512, 8): "mT0-300M",
    (768, 12): "mT0-560M",
    (1024, 24): "mT0-1.2B",
    (2048, 24): "mT0-3.7B",
    (4096, 24): "mT0-13B",
}
# (width, blocks) of the published BLOOMZs.
_DECODER_SIZES = {
    (1024, 24): "BLOOMZ-560M",
    (1536, 24): "BLOOMZ-1.1B",
    (2048, 24): "BLOOMZ-1.7B",
    (2560, 30): "BLOOMZ-3B",
    (4096, 30): "BLOOMZ-7.1B",
    (14336, 70): "BLOOMZ",
}
_BY_CONFIG = ("super_glue",)


@dataclasses.dataclass(frozen=True)
class ReferenceScore:
    """One published number.

    Attributes:
      task: the SeqIO task that scores the same, such as 'eval_xcopa_sw' or 'eval_xcopa_sw_mt'.
      dataset, config, split: as the table has them: 'super_glue', 'rte', 'validation'.
      prompt_language: 'EN', or 'MT', 'HT' for prompts translated by a machine or by hand.
      metric: MEDIAN, BEST, or 'Pass@1', 'Pass@10', 'Pass@100'.
      model: one of MODELS.
      value: percent.
    """

    task: str
    dataset: str
    config: str
    split: str
    prompt_language: str
    metric: str
    model: str
    value: float


@dataclasses.dataclass(frozen=True)
class ReferenceAverage:
    """A published mean over languages.

    Attributes:
      dataset: as `rank_results.dataset_scores` says it: 'xcopa', 'super_glue/rte'.
      languages: 'L1' for those seen in xP3 (English too), 'L2' for the others.
      prompt_language: 'EN', 'MT' or 'HT'.
      metric: of the prompts of a language: 'median', or 'mean' for the paper's Table 1.
      num_tasks: languages, or ANLI's three rounds; None where the table does not say.
      model: one of MODELS.
      value: percent.
    """

    dataset: str
    languages: str
    prompt_language: str
    metric: str
    num_tasks: int | None
    model: str
    value: float


def reference_scores(
    dataset: str | None = None,
    config: str | None = None,
    model: str | None = None,
    metric: str | None = None,
) -> list[ReferenceScore]:
    """Returns the published scores that match what is given; None matches all."""
    wanted = {"dataset": dataset, "config": config, "model": model, "metric": metric}
    return [
        score
        for score in _scores()
        if all(value is None or getattr(score, name) == value for name, value in wanted.items())
    ]


def reference_averages() -> list[ReferenceAverage]:
    """Returns the published means over languages."""
    found = []
    for row in _rows("reference_averages.tsv"):
        dataset, _, config = row["dataset"].partition("/")
        name = row["dataset"] if dataset in _BY_CONFIG else dataset
        languages = "L1" if row["langs"] == "en" else row["langs"]
        for model, value in _values(row):
            about = (name, languages, "EN", "median", int(row["n"]))
            found.append(ReferenceAverage(*about, model, value))
    for row in _rows("reference_table1_mean.tsv"):
        for model, value in _values(row):
            about = (row["dataset"], "L1", row["prompt_lang"], "mean", None)
            found.append(ReferenceAverage(*about, model, value))
    return found


def model_of_size(emb_dim: int, num_layers: int, decoder_only: bool = False) -> str | None:
    """Returns the published model of a network's size; None where there is none.

    Args:
      num_layers: blocks of the encoder, or of a network that is a decoder alone.
      decoder_only: whether it is a BLOOMZ, and not an mT0.
    """
    return (_DECODER_SIZES if decoder_only else _SIZES).get((emb_dim, num_layers))


@functools.cache
def _scores() -> tuple[ReferenceScore, ...]:
    found = []
    for row in _rows("reference_results.tsv"):
        translated = row["prompt_lang"] != "EN"
        config = "" if row["config"] == "None" else f"_{row['config']}"
        task = f"eval_{row['dataset'].removeprefix('openai_')}{config}"
        task += f"_{row['prompt_lang'].lower()}" if translated else ""
        about = [row[name] for name in ("dataset", "config", "split", "prompt_lang", "metric")]
        found += [ReferenceScore(task, *about, model, value) for model, value in _values(row)]
    return tuple(found)


def _values(row: dict[str, str]) -> Iterable[tuple[str, float]]:
    """Gives (model, percent) of a row; a '-' is left out."""
    return [(model, float(row[model])) for model in MODELS if row.get(model, "-") != "-"]


def _rows(name: str) -> list[dict[str, str]]:
    return importlib.import_module("seqio_tasks.evaluation_tables").read_table(name)
