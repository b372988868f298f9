"""`mt0 tasks …`: the words of looking at data, fetching it, making it and checking it.

The parser is built only when the command is `tasks`; each word imports what it needs when run.
"""

from __future__ import annotations

import argparse

from mt0_tpu.errors import UserError


def add_words(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Gives `mt0 tasks` its words (list, show, …) and returns a parser a word."""
    words = parser.add_subparsers(dest="what", metavar="WORD", required=True)

    def add(name, run, help):
        word = words.add_parser(
            name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False
        )
        word.set_defaults(run=run)
        return word

    _add_list(add("list", _run_list, "names of tasks and mixtures"))
    _add_show(add("show", _run_show, "rendered examples, as the model sees them"))
    _add_stats(add("stats", _run_stats, "lengths and shares of a cached mixture, row lengths"))
    _add_check(add("check", _run_check, "evaluation data inside a training mixture"))
    _add_fetch(add("fetch", _run_fetch, "download released files from the Hub"))
    _add_prompts(add("prompts", _run_prompts, "the prompts at hand; --get fetches promptsource"))
    from mt0_tpu import build_flags

    build_flags.add_flags(add("build", build_flags.run, "raw data × prompts → jsonl, as xP3 was"))
    return words.choices


def _add_module(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--module", help="module that registers tasks, as MIXTURE_OR_TASK_MODULE")


# list, show, stats


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="TEXT", help="keeps names that hold one of these"
    )
    _add_module(parser)
    parser.add_argument("--html", metavar="FILE", help="writes a page instead")


def _run_list(flags: argparse.Namespace) -> None:
    from mt0_tpu import task_listing

    task_listing.print_list(flags.names, flags.module)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="a task or mixture")
    _add_module(parser)
    parser.add_argument("--split", default="train", help="split to show (%(default)s)")
    parser.add_argument("--num_examples", type=int, default=3, help="examples (%(default)s)")


def _run_show(flags: argparse.Namespace) -> None:
    from mt0_tpu import task_listing

    for name in flags.names:
        task_listing.print_examples(name, flags.split, flags.num_examples, flags.module)


def _add_stats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="a cached task or mixture")
    parser.add_argument("--split", default="train", help="split (%(default)s)")
    parser.add_argument("--cache_dir", help="folder of caches ($MT0_CACHE_DIR)")


def _run_stats(flags: argparse.Namespace) -> None:
    from mt0_tpu import task_listing

    for name in flags.names:
        task_listing.print_stats(name, flags.split, flags.cache_dir)


# check


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="MIXTURE", help="the training mixture")
    _add_module(parser)


def _run_check(flags: argparse.Namespace) -> None:
    raise UserError("`mt0 tasks check` is not built yet")


# fetch, prompts


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="a collection or one of its tasks")


def _run_fetch(flags: argparse.Namespace) -> None:
    raise UserError("`mt0 tasks fetch` is not built yet")


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "keys", nargs="*", metavar="KEY", help="promptsource keys, such as super_glue/copa"
    )
    parser.add_argument("--get", action="store_true", help="fetches promptsource 0.2.3")
    parser.add_argument("--prompts_dir", help="folder of templates ($MT0_PROMPTS_DIR)")


def _run_prompts(flags: argparse.Namespace) -> None:
    raise UserError("`mt0 tasks prompts` is not built yet")
