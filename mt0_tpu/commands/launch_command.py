"""`mt0 launch`: a subcommand a platform, its flags, and what runs it."""

from __future__ import annotations

import argparse


def add_words(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    from mt0_tpu.launch import PLATFORMS, SWITCHES

    parser.usage = "mt0 launch WHERE --name=NAME … -- train --gin_file=…"
    subparsers = parser.add_subparsers(
        dest="what", metavar="WHERE", required=True, parser_class=type(parser)
    )
    commands = {}
    for where, platform in PLATFORMS.items():
        command = subparsers.add_parser(
            where,
            help=f"by launch/{next(iter(platform.scripts.values()))}",
            usage=f"mt0 launch {where} --name=NAME … -- train --gin_file=…",
            allow_abbrev=False,
        )
        for flag, (_, help) in platform.flags.items():
            switch = {"action": "store_const", "const": "1"} if flag in SWITCHES else {}
            command.add_argument(f"--{flag}", help=help, **switch)
        if len(platform.scripts) > 1:
            steps = ", ".join(platform.scripts)
            command.add_argument("--step", help=f"one script alone: {steps} (the first)")
        command.add_argument("--no_check", action="store_true", help="do not try the command here")
        command.add_argument("--dry_run", action="store_true", help="print the commands, run none")
        commands[f"launch {where}"] = command
    return commands


def run(flags: argparse.Namespace) -> int:
    from mt0_tpu import launch

    known = launch.PLATFORMS[flags.what].flags
    given = {name: getattr(flags, name) for name in known if getattr(flags, name) is not None}
    return launch.launch(
        flags.what,
        given,
        flags.launched,
        step=getattr(flags, "step", None),
        dry_run=flags.dry_run,
        check=not flags.no_check,
    )
