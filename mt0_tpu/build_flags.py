"""`mt0 tasks build`: its flags."""

from __future__ import annotations

import argparse

from mt0_tpu.errors import UserError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Gives the parser a flag for each option of a build."""


def run(flags: argparse.Namespace) -> None:
    """Builds what the flags say."""
    raise UserError("`mt0 tasks build` is not built yet")
