"""`mt0 tasks build`: a flag for each option of a build, in the words of its documentation."""

from __future__ import annotations

import argparse
import dataclasses

from mt0_tpu.building.build_config import CHOICES, BuildConfig


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Gives the parser a flag for each option of a build; those not given keep their default."""
    parser.formatter_class = argparse.HelpFormatter
    for field in dataclasses.fields(BuildConfig):
        flag, help = f"--{field.name}", field.metadata["help"].replace("%", "%%")
        default = field.default
        if field.type == "tuple[str, ...]":
            parser.add_argument(
                flag, action="append", metavar="NAME" if field.name == "only" else "FILE", help=help
            )
        elif field.type.startswith("bool"):
            # --held_out, and --no_skip_prompts for what is on by default.
            off = default is True
            parser.add_argument(
                f"--no_{field.name}" if off else flag,
                dest=field.name,
                action="store_false" if off else "store_true",
                default=None,
                help=field.metadata["off"] if off else help,
            )
        else:
            number = field.type.startswith("int")
            shown = f" ({default})" if default is not None else ""
            parser.add_argument(
                flag,
                type=int if number else str,
                metavar="|".join(CHOICES.get(field.name, ())) or ("N" if number else "TEXT"),
                help=help + shown,
            )


def run(flags: argparse.Namespace) -> None:
    """Builds what the flags say."""
    from mt0_tpu.building import build

    given = {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in dataclasses.fields(BuildConfig)
        if (value := getattr(flags, field.name)) is not None
    }
    build.build(BuildConfig(**given))
