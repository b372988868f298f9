"""`mt0 convert`: its flags, and what runs it."""

from __future__ import annotations

import argparse


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", help="a run of ours, T5X's, Hugging Face's or Mesh TensorFlow's"
    )
    parser.add_argument("destination", metavar="DST", help="a folder that is not there yet")
    parser.add_argument("--to", required=True, metavar="KIND", help="orbax (a run), t5x or hf")
    parser.add_argument(
        "--dtype",
        default="float32",
        help="float32, bfloat16; float16 of a BLOOM to hf (%(default)s)",
    )
    parser.add_argument("--with_state", action="store_true", help="takes Adafactor's state along")
    parser.add_argument("--overwrite", action="store_true", help="replaces what is at DST")
    parser.add_argument("--t5x_layout", metavar="LAYOUT", help="of t5x: msgpack (its own) or orbax")
    parser.add_argument(
        "--vocabulary", help="spiece.model or tokenizer.json, for hf's tokenizer ($MT0_VOCABULARY)"
    )


def run(flags: argparse.Namespace) -> None:
    from mt0_tpu import convert

    convert.convert(
        flags.source,
        flags.destination,
        flags.to,
        dtype=flags.dtype,
        with_state=flags.with_state,
        overwrite=flags.overwrite,
        vocabulary=flags.vocabulary,
        t5x_layout=flags.t5x_layout,
    )
