"""What `mt0 tasks build` can be told, with the defaults and what each option does."""

from __future__ import annotations

import dataclasses
import os

from mt0_tpu.errors import UserError, did_you_mean

RELEASED = ("p3", "xp3", "xp3mt", "xp3all", "xp3x")
CHOICES = {
    "prompts": ("english", "native"),
    "splits": ("train", "published"),
    "cap_order": ("shortest", "sample", "alphabetical"),
    "layout": ("prompts", "merged"),
    "bad_rows": ("skip", "stop"),
}
# What --faithful sets where nothing else is said.
_FAITHFUL = {"splits": "published", "cap_order": "alphabetical", "held_out": True}
_DEFAULT = {"splits": "train", "cap_order": "shortest", "held_out": False}


def _option(default, help: str, off: str = ""):
    """A field with its documentation; `off` is that of the flag which turns a True one off."""
    return dataclasses.field(default=default, metadata={"help": help, "off": off})


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """A build: what is made of which data with which prompts. `help` of a field documents it.

    None for splits, cap_order and held_out means the better behaviour, or with `faithful` the
    published one; `resolved()` fills them in. UserError for what cannot be.
    """

    collection: str = _option(
        "xp3",
        "p3, xp3, xp3mt, xp3all or xp3x: its data sets, prompts, languages and layout; any other "
        "name is a collection of your own, made of all data at hand by xp3's rules",
    )
    output_dir: str | None = _option(
        None, "the collection becomes a folder in it ($MT0_DATA_DIR, where its tasks look for it)"
    )
    prompts_dir: str | None = _option(
        None, "promptsource copies, ':' between them, the first that has a key counts ($MT0_PROMPTS"
        "_DIR, else what `mt0 tasks prompts --get` fetched)"
    )  # fmt: skip
    raw_dir: str | None = _option(
        None,
        "folder of raw data as DATASET/SUBSET/SPLIT.jsonl (.json .parquet .tsv .csv .txt; .gz)",
    )
    data: tuple[str, ...] = _option(
        (), "TOML list of raw data, [[data]] with dataset, subset, split, files; may be repeated"
    )
    hub: bool = _option(
        False, "raw data that is not at hand comes from the Hub (pip install .[hf]; no scripts)"
    )
    only: tuple[str, ...] = _option(
        (), "only data sets that match, as 'xcopa/*' or 'GEM/xlsum/hindi'; may be repeated"
    )
    faithful: bool = _option(
        False,
        "reproduces the published sets with their slips: test splits in training, the cap keeps "
        "the alphabetically first inputs, xp3x's code without line breaks at the |||, one failing "
        "row loses its whole prompt, no Modern Standard Arabic in flores, four mlqa pairs missing, "
        "wmt22 by chance; order and draws are by seed, where the published ones were by chance",
    )
    prompts: str | None = _option(
        None, "english: English prompts for all languages (default but for xp3mt); native: the "
        "subset's own where the copy has them"
    )  # fmt: skip
    splits: str | None = _option(
        None, "train: no split named as evaluation data (default); published: all that xP3 used"
    )
    held_out: bool | None = _option(
        None, "takes data sets of the held-out clusters (NLI, coreference, sentence completion) too"
    )
    skip_prompts: bool = _option(
        True,
        "leaves out prompts on splits with hidden labels, as xP3 did",
        off="takes prompts on splits with hidden labels too, which xP3 left out",
    )
    max_examples: int = _option(
        100_000, "examples kept of a data set, subset, split and prompt; 0 for all"
    )
    max_rows: int = _option(
        500_000, "rows drawn of a split before rendering, some give no example; 0 for all"
    )
    cap_order: str | None = _option(
        None, "what a full prompt keeps: the shortest inputs (default), a sample, or the "
        "alphabetically first"
    )  # fmt: skip
    max_variable_chars: int = _option(
        2048, "each variable a prompt prints is cut to so many characters; 0 for no cut"
    )
    layout: str | None = _option(
        None, "prompts: a file a prompt; merged: one file a language, without duplicates, in a "
        "drawn order (default: as the collection was released)"
    )  # fmt: skip
    bad_rows: str = _option("skip", "raw rows that cannot be read: skip and count, or stop")
    seed: int = _option(0, "of every draw and order")
    num_processes: int | None = _option(None, "processes (one per core)")
    merge_mib: int = _option(256, "memory that merging a language may hold, in MiB")

    def __post_init__(self):
        if not self.collection or not self.collection.replace("_", "").isalnum():
            raise UserError(f"collection is '{self.collection}'; write letters, digits and _.")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                hint = did_you_mean(str(value), choices) or f" Write one of {', '.join(choices)}."
                raise UserError(f"{name} is '{value}', which is not a choice.{hint}")
        for name in ("max_examples", "max_rows", "max_variable_chars"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; write 0 for no limit, or more.")
        if self.max_rows and self.max_examples > self.max_rows:
            raise UserError(
                f"max_examples is {self.max_examples}, beyond max_rows {self.max_rows}; "
                "write max_rows as large at least, or 0."
            )
        if self.merge_mib < 1 or (self.num_processes is not None and self.num_processes < 1):
            raise UserError("merge_mib and num_processes are counts; write 1 or more.")
        if not (self.raw_dir or self.data or self.hub):
            raise UserError(
                "There is no raw data: name a folder (--raw_dir), a list (--data) or take the "
                "Hub's (--hub)."
            )

    def resolved(self) -> BuildConfig:
        """The same with every None that stands for a rule filled in."""
        chosen = _FAITHFUL if self.faithful else _DEFAULT
        values = {name: value for name, value in chosen.items() if getattr(self, name) is None}
        output_dir = self.output_dir or os.environ.get("MT0_DATA_DIR")
        if not output_dir:
            raise UserError("There is no place to build in: write --output_dir or $MT0_DATA_DIR.")
        if "://" in output_dir:
            raise UserError(f"output_dir is {output_dir}; build in a local folder, then copy it.")
        values["output_dir"] = output_dir
        if self.layout is None:
            values["layout"] = "merged" if self.collection == "xp3" else "prompts"
        if self.prompts is None:
            values["prompts"] = "native" if self.collection == "xp3mt" else "english"
        if self.num_processes is None:
            values["num_processes"] = os.cpu_count() or 1
        return dataclasses.replace(self, **values)
