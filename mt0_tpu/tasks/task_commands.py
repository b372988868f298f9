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
    from mt0_tpu.building import build_flags

    build_flags.add_flags(add("build", build_flags.run, "raw data × prompts → jsonl, as xP3 was"))
    return words.choices


def _add_module(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--module", help="module that registers tasks, as MIXTURE_OR_TASK_MODULE")


# list, show, stats


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="TEXT",
        help="keeps names that hold one of these; names of the xP3 family are looked up by it",
    )
    _add_module(parser)
    parser.add_argument("--all", action="store_true", help="every task, not groups of them")
    parser.add_argument("--cache_dir", help="folder of caches ($MT0_CACHE_DIR)")
    parser.add_argument("--html", metavar="FILE", help="writes a page as well")


def _run_list(flags: argparse.Namespace) -> None:
    from mt0_tpu.tasks import task_listing

    entries = task_listing.print_list(
        flags.names, flags.module, cache_dir=flags.cache_dir, everything=flags.all
    )
    if flags.html:
        from mt0_tpu.tasks import task_page

        task_page.write_list(flags.html, flags.names, entries)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="a task or mixture")
    _add_module(parser)
    parser.add_argument("--split", default="train", help="split to show (%(default)s)")
    parser.add_argument("--num_examples", type=int, default=3, help="examples (%(default)s)")
    parser.add_argument(
        "--seed",
        type=int,
        help="draws examples by rate; with --cached as training with it (first ones)",
    )
    parser.add_argument("--tokens", action="store_true", help="pieces apart, their ids below")
    parser.add_argument(
        "--task_feature_lengths",
        metavar="inputs=N,targets=M",
        help="trims to rows of these lengths (nothing is trimmed)",
    )
    parser.add_argument("--cached", action="store_true", help="reads the cache, not the source")
    parser.add_argument("--packed", action="store_true", help="one packed row of the cache")
    parser.add_argument("--cache_dir", help="folder of caches ($MT0_CACHE_DIR)")
    parser.add_argument("--html", metavar="FILE", help="writes a page as well")


def _run_show(flags: argparse.Namespace) -> None:
    from mt0_tpu.tasks import task_show

    examples = []
    for name in flags.names:
        examples += task_show.print_examples(
            name,
            flags.split,
            flags.num_examples,
            module=flags.module,
            seed=flags.seed,
            lengths=_lengths(flags.task_feature_lengths),
            tokens=flags.tokens,
            cached=flags.cached,
            packed=flags.packed,
            cache_dir=flags.cache_dir,
        )
    if flags.html:
        from mt0_tpu.tasks import task_page

        task_page.write_examples(flags.html, flags.names, examples)


def _lengths(text: str | None) -> dict[str, int] | None:
    """Reads inputs=512,targets=128."""
    if text is None:
        return None
    try:
        pairs = dict(part.split("=") for part in text.replace(" ", "").split(","))
        lengths = {name: int(length) for name, length in pairs.items()}
    except ValueError:
        lengths = {}
    if sorted(lengths) != ["inputs", "targets"] or min(lengths.values()) < 2:
        raise UserError(
            f"--task_feature_lengths is '{text}'; write --task_feature_lengths "
            "inputs=512,targets=128, each at least 2"
        )
    return lengths


def _add_stats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="a cached task or mixture")
    _add_module(parser)
    parser.add_argument("--split", default="train", help="split (%(default)s)")
    parser.add_argument("--cache_dir", help="folder of caches ($MT0_CACHE_DIR)")
    parser.add_argument("--all", action="store_true", help="every language, cluster and task")
    parser.add_argument(
        "--model",
        default="large",
        metavar="SIZE",
        help="mT5 whose computation is counted: small, base, … (%(default)s)",
    )
    parser.add_argument(
        "--trimmed", type=float, default=0.005, metavar="SHARE",
        help="share of examples that rows may trim (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--html", metavar="FILE", help="writes a page as well")


def _run_stats(flags: argparse.Namespace) -> None:
    from mt0_tpu.tasks import stats_lines

    found = []
    for number, name in enumerate(flags.names):
        if number:
            print()
        found.append(
            stats_lines.print_stats(
                name,
                flags.split,
                flags.cache_dir,
                size=flags.model,
                most_trimmed=flags.trimmed,
                everything=flags.all,
                module=flags.module,
            )  # fmt: skip
        )
    if flags.html:
        from mt0_tpu.tasks import task_page

        task_page.write_stats(flags.html, found, flags.module)


# check


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Exit code 0: nothing found; 3: evaluation data found. By text: windows of 13 words, and "
        "shorter sentences whole, of the evaluation examples are looked for in the training "
        "examples; what many examples of a prompt have in common is boilerplate and ignored."
    )
    parser.add_argument("name", metavar="MIXTURE", help="the training mixture")
    _add_module(parser)
    parser.add_argument("--split", default="train", help="training split (%(default)s)")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="NAME|FILE.jsonl",
        help="evaluation task, mixture or file; repeat it (the rank tasks at hand)",
    )
    parser.add_argument(
        "--num_examples",
        type=int,
        default=200_000,
        help="training examples to sample, over all tasks (%(default)s)",
    )
    parser.add_argument("--full", action="store_true", help="reads every training example")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (%(default)s)")
    parser.add_argument(
        "--vocabulary",
        default="",
        metavar="FILE",
        help="reads Megatron's token ids: BLOOM's tokenizer.json, or a SentencePiece .model",
    )
    parser.add_argument("--json", default="", metavar="FILE", help="writes everything found")


def _run_check(flags: argparse.Namespace) -> int:
    from mt0_tpu.tasks import task_check

    if flags.num_examples < 1:
        raise UserError(f"--num_examples is {flags.num_examples}; write at least 1, or --full")
    options = task_check.CheckOptions(
        split=flags.split,
        against=tuple(flags.against),
        num_examples=None if flags.full else flags.num_examples,
        seed=flags.seed,
        vocabulary=flags.vocabulary,
        json_file=flags.json,
    )
    return task_check.check(flags.name, flags.module, options)


# fetch, prompts


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="xp3, xp3mt, xp3all, xp3x, xp3megds, p3; or a part of one: xp3_sw, xp3x_yor_Latn",
    )
    parser.add_argument(
        "--data_dir", help="folder of the collections ($MT0_DATA_DIR); hf:// is the Hub's own cache"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the repository")
    parser.add_argument("--refresh", action="store_true", help="list the repository anew")
    parser.add_argument("--dry_run", action="store_true", help="only say how much it is")


def _run_fetch(flags: argparse.Namespace) -> None:
    from mt0_tpu.tasks import fetch

    fetch.fetch(
        flags.names,
        flags.data_dir,
        revision=flags.revision,
        refresh=flags.refresh,
        dry_run=flags.dry_run,
    )


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "keys", nargs="*", metavar="KEY", help="promptsource keys, such as super_glue/copa"
    )
    parser.add_argument(
        "--get", action="store_true", help="fetches promptsource 0.2.3 by pip, into --prompts_dir"
    )
    parser.add_argument(
        "--prompts_dir", help="promptsource copies, ':' between them ($MT0_PROMPTS_DIR)"
    )
    parser.add_argument("--jinja", action="store_true", help="prints the templates' text too")


def _run_prompts(flags: argparse.Namespace) -> None:
    from mt0_tpu.building import prompt_commands

    prompt_commands.run(flags.keys, flags.get, flags.prompts_dir, flags.jinja)
