"""The `mt0` command: its words, and nothing else.

Every subcommand imports what it needs when it is run, so that `mt0 --help` needs neither JAX
nor gin nor TensorFlow and answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from mt0_tpu import exit_codes, process_flags, stop_signals
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.redaction import RedactedStream, show_exception

GIN_FLAGS_HELP = """\
T5X's flags:
  --gin_file=FILE            a gin file; repeat it, later files override earlier ones.
                             Names are looked up here and among the files of mt0_tpu,
                             such as models/mt5/small.gin, runs/finetune.gin.
  --gin.NAME=VALUE           sets a macro or a parameter; text needs quotes inside the
                             shell's: --gin.MODEL_DIR="'runs/mine'"
  --gin_bindings='N = V'     the same in gin's own writing.
  --gin_search_paths=A,B     further folders to look gin files up in.
  --dry_run                  prints the resolved run and exits; touches no device, no data.
"""
CHECK_REPLICAS_STEPS = 1000
_EXAMPLE_RUNS = {"train": "finetune", "plan": "finetune", "eval": "eval", "infer": "infer"}
JOB_FLAGS = ("--gin_file", "--gin_bindings", "--gin_search_paths")


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors as UserErrors: one line, no usage above it."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns the exit code, as exit_codes.py lists them.

    `mt0 tasks check` and `mt0 plan` have codes of their own for what they found.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Answers of a model are its own; all else, tracebacks too, is said without secrets.
    sys.excepthook = show_exception
    spoken = sys.stdout if arguments[:1] == ["infer"] else RedactedStream(sys.stdout)
    with contextlib.redirect_stdout(spoken), contextlib.redirect_stderr(RedactedStream(sys.stderr)):
        return _ends(arguments)


def _ends(arguments: list[str]) -> int:
    """Dispatches, and turns how that ends into an exit code."""
    try:
        with stop_signals.installed():
            return _dispatch(arguments)
    except UserError as error:
        sentence = " ".join(str(error).split())
        print(f"mt0: error: {sentence}", file=sys.stderr)
        return _ended(exit_codes.USER_ERROR, sentence)
    except stop_signals.Stopped as stopped:
        print(f"mt0: {stopped.why}", file=sys.stderr)
        return _ended(stopped.code, stopped.why)
    except KeyboardInterrupt:
        print("mt0: interrupted", file=sys.stderr)
        return _ended(exit_codes.INTERRUPTED, "interrupted")
    except BrokenPipeError:
        # `mt0 tasks list | head`: the reader has seen enough. Python would complain on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _ended(code: int, why: str) -> int:
    """Returns the code, once the other processes of a job know it."""
    if "mt0_tpu.distributed" in sys.modules:
        from mt0_tpu import distributed

        distributed.leave(code, why)
    return code


def _dispatch(arguments: list[str]) -> int:
    parser, commands = _parsers(arguments)
    words = [word for word in arguments[:1] if not word.startswith("-")]
    if words and words[0] not in commands:
        hint = did_you_mean(words[0], commands) or f" There are: {', '.join(commands)}."
        raise UserError(f"there is no command '{words[0]}'.{hint}")
    launched: list[str] = []
    if words == ["launch"] and "--" in arguments:
        # What stands after -- is the launched command's own.
        cut = arguments.index("--")
        arguments, launched = arguments[:cut], arguments[cut + 1 :]
    known, unknown = parser.parse_known_args(_gin_bindings_spelt_out(arguments))
    known.launched = launched
    if unknown:
        name = " ".join(filter(None, (known.command, getattr(known, "what", None))))
        options = commands[name]._option_string_actions if name else ()
        hint = did_you_mean(unknown[0].partition("=")[0], options)
        if known.command == "launch":
            hint = hint or " The command to launch stands after --."
        raise UserError(f"`mt0 {name}` takes no '{unknown[0]}'.{hint}")
    if known.command is None:
        parser.print_help()
        return 0
    # A user's task module in the current folder is found, as under `python -m`; last, so that
    # a file there never hides a library.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    # TensorFlow greets with a screen of lines about the processor, should it be imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    process_flags.take_flags(known)
    return known.run(known) or 0


def _gin_bindings_spelt_out(arguments: list[str]) -> list[str]:
    """--gin.NAME=VALUE as a --gin_bindings flag, which argparse can be told of."""
    spelt_out = []
    for argument in arguments:
        if argument.startswith("--gin."):
            name, equals, value = argument.removeprefix("--gin.").partition("=")
            if not equals:
                raise UserError(f"{argument} has no value; write {argument}=VALUE.")
            argument = f"--gin_bindings={name} = {value}"
        spelt_out.append(argument)
    return spelt_out


def _parsers(
    arguments: Sequence[str] = (),
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    import mt0_tpu

    parser = _Parser(prog="mt0", description=mt0_tpu.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mt0_tpu {mt0_tpu.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    commands: dict[str, argparse.ArgumentParser] = {}

    def add(name: str, run: Callable[..., None], help: str, epilog: str = "") -> _Parser:
        command = subparsers.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        commands[name] = command
        return command

    tasks = add("tasks", None, "list, show, make and check tasks, mixtures and prompts")
    if list(arguments[:1]) == ["tasks"]:
        from mt0_tpu.tasks import task_commands

        words = task_commands.add_words(tasks)
        commands |= {f"tasks {word}": parser for word, parser in words.items()}
    _add_cache(add("cache", _run_cache, "tokenise a task or mixture into its cache"))
    train = add("train", _run_train, "train; with no gin file, the embedded mini mT0")
    study = add("study", _run_study, "train all arms of the mini study and compare them")
    _add_job(add("eval", _run_job, "score checkpoints, or those of a running job", GIN_FLAGS_HELP))
    infer = add("infer", _run_infer, "answer or score a file's inputs or a task's", GIN_FLAGS_HELP)
    _add_job(infer)
    infer.add_argument(
        "--interactive", action="store_true", help="answer lines typed at a prompt, or piped in"
    )
    train.epilog = GIN_FLAGS_HELP
    _add_job(train)
    train.add_argument(
        "--check_replicas",
        type=int,
        nargs="?",
        const=CHECK_REPLICAS_STEPS,
        metavar="STEPS",
        help="compare what devices hold copies of, every STEPS (%(const)s) and before each save",
    )
    train.add_argument("--output_dir", help="run folder of the embedded mini mT0 (runs/mini)")
    train.add_argument("--seed", type=int, help="seed of the embedded mini mT0 (0)")
    train.add_argument("--quick", action="store_true", help="a few steps, to try the embedded run")
    study.add_argument("--output_dir", default="runs/study", help="folder (%(default)s)")
    study.add_argument(
        "--arms", default="pretrain,multilingual,english,scratch",
        help="comma list, of these and bloomz (%(default)s)",
    )  # fmt: skip
    study.add_argument("--seeds", default="0,1,2", help="comma list of seeds (%(default)s)")
    study.add_argument("--quick", action="store_true", help="a few steps each, to try it out")
    plan = add("plan", _run_plan, "say whether a run fits a TPU slice, and how long it may take")
    if list(arguments[:1]) == ["plan"]:
        from mt0_tpu.planning import plan_command

        plan.description, plan.epilog = plan_command.HELP, GIN_FLAGS_HELP
        plan_command.add_flags(plan)
        _add_gin_flags(plan)
    _add_convert(add("convert", _run_convert, "turn a checkpoint of one kind into another"))
    launch = add("launch", _run_launch, "run a command on TPUs, GKE or SLURM; see launch/")
    if list(arguments[:1]) == ["launch"]:
        commands |= _add_launch(launch)
    report = add("report", _run_report, "write an HTML report of runs beside each other")
    report.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a MODEL_DIR, an EVAL_OUTPUT_DIR, or a folder of either",
    )
    report.add_argument("--output", help="its folder, or FILE.html (RUN/report of the first)")
    return parser, commands


# train, eval, infer


def _add_gin_flags(parser: argparse.ArgumentParser) -> None:
    # Documented together in the epilog, where --gin.NAME can stand beside them.
    for flag in JOB_FLAGS:
        parser.add_argument(flag, action="append", default=[], help=argparse.SUPPRESS)


def _add_job(parser: argparse.ArgumentParser) -> None:
    _add_gin_flags(parser)
    parser.add_argument("--dry_run", action="store_true", help=argparse.SUPPRESS)
    process_flags.add_flags(parser)


def _run_job(flags: argparse.Namespace) -> None:
    from mt0_tpu import gin_config

    resolved = gin_config.resolve(flags.command, *_gin_flags(flags))
    if flags.dry_run:
        print(resolved.text, end="")
    else:
        resolved.run()


def _run_plan(flags: argparse.Namespace) -> int:
    from mt0_tpu.planning import plan_command

    return plan_command.run(flags, _gin_flags(flags))


def _run_infer(flags: argparse.Namespace) -> None:
    if not flags.interactive:
        _run_job(flags)
        return
    from mt0_tpu import gin_config

    # No file is written, so none need be named.
    flags.gin_bindings = ["INFER_OUTPUT_DIR = ''", *flags.gin_bindings]
    resolved = gin_config.resolve("infer", *_gin_flags(flags))
    if flags.dry_run:
        print(resolved.text, end="")
        return
    from mt0_tpu import interactive

    taken = inspect.signature(interactive.interact).parameters
    chosen = {name: value for name, value in resolved.arguments.items() if name in taken}
    interactive.interact(**chosen)


def _gin_flags(flags: argparse.Namespace) -> tuple[list[str], list[str], list[str]]:
    """Returns (files, bindings, folders); UserError where no file is named."""
    if not flags.gin_file:
        raise UserError(
            f"`mt0 {flags.command}` needs a gin file, for example "
            f"--gin_file=models/mt5/small.gin --gin_file=runs/{_EXAMPLE_RUNS[flags.command]}.gin"
        )
    folders = [folder for paths in flags.gin_search_paths for folder in paths.split(",") if folder]
    return flags.gin_file, flags.gin_bindings, folders


def _run_train(flags: argparse.Namespace) -> None:
    checks = []
    if flags.check_replicas is not None:
        checks = [f"train.check_replicas_every_steps = {flags.check_replicas}"]
    if flags.gin_file:
        flags.gin_bindings = [*checks, *flags.gin_bindings]
        for name in ("output_dir", "seed"):
            if getattr(flags, name) is not None:
                macro = {"output_dir": "MODEL_DIR", "seed": "RANDOM_SEED"}[name]
                raise UserError(f"--{name} is for the embedded run; set --gin.{macro}=… instead.")
        _run_job(flags)
        return
    if flags.gin_bindings or flags.gin_search_paths:
        raise UserError(
            "--gin flags need a gin file to act on, for example --gin_file=recipes/mini_mt0.gin"
        )
    if flags.dry_run:
        flags.gin_file = ["recipes/mini_mt0.gin"]
        flags.gin_bindings = [f"MODEL_DIR = {flags.output_dir or 'runs/mini'!r}", *checks]
        _run_job(flags)
        return
    from mt0_tpu import study

    chosen = {n: getattr(flags, n) for n in ("output_dir", "seed") if getattr(flags, n) is not None}
    study.run_default(**chosen, quick=flags.quick, bindings=checks)


def _run_study(flags: argparse.Namespace) -> None:
    try:
        seeds = tuple(int(seed) for seed in flags.seeds.split(","))
    except ValueError:
        raise UserError(f"--seeds is '{flags.seeds}', but wants integers: --seeds=0,1,2") from None
    from mt0_tpu import study

    arms = study.chosen_arms(flags.arms.split(","))
    study.run_study(output_dir=flags.output_dir, seeds=seeds, quick=flags.quick, arms=arms)


# cache, report


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mixture", required=True, action="append", help="task or mixture; repeat it for more"
    )
    parser.add_argument("--cache_dir", help="folder of caches ($MT0_CACHE_DIR)")
    parser.add_argument(
        "--data_dir", help="folder of released files, xP3 and so on ($MT0_DATA_DIR)"
    )
    parser.add_argument("--module", help="module that registers it, as MIXTURE_OR_TASK_MODULE")
    parser.add_argument("--split", action="append", help="split; repeat it (all splits)")
    parser.add_argument("--num_processes", type=int, help="processes (one per core)")
    parser.add_argument("--overwrite", action="store_true", help="cache again what is cached")
    parser.add_argument(
        "--task_feature_lengths",
        metavar="inputs=N,targets=M",
        help="a job's row lengths, to count the examples that are longer",
    )
    parser.add_argument(
        "--bad_lines",
        choices=("stop", "skip"),
        help="what a malformed line of jsonl does; skipped ones are counted ($MT0_BAD_LINES, stop)",
    )
    parser.add_argument(
        "--runner",
        help="run on Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner, …",
    )
    parser.add_argument(
        "--runner_option",
        action="append",
        default=[],
        metavar="--NAME=VALUE",
        help="a pipeline option of Beam's; repeat it: --runner_option=--project=x",
    )
    process_flags.add_flags(parser)


def _feature_lengths(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    try:
        lengths = {name: int(value) for name, value in (p.split("=") for p in text.split(","))}
    except ValueError:
        lengths = {}
    if lengths.keys() != {"inputs", "targets"}:
        raise UserError(
            f"--task_feature_lengths is '{text}'; write --task_feature_lengths "
            "inputs=1024,targets=256"
        )
    return lengths


def _beam(flags: argparse.Namespace) -> dict | None:
    if flags.runner is None:
        if flags.runner_option:
            raise UserError("--runner_option is for a Beam runner; name it with --runner=…")
        return None
    return {"runner": flags.runner, "options": flags.runner_option}


def _run_cache(flags: argparse.Namespace) -> None:
    from mt0_tpu import process_settings
    from mt0_tpu.data import cache, cache_child

    cache_child.end_with_parent()
    process_settings.refuse_several(
        "`mt0 cache`", "start it once (`srun --ntasks=1 mt0 cache …`: it uses every core)"
    )
    # Read by seqio_tasks, here and in workers.
    for variable, value in (("DATA_DIR", flags.data_dir), ("BAD_LINES", flags.bad_lines)):
        if value:
            os.environ[f"MT0_{variable}"] = value
    for mixture in flags.mixture:
        cache.cache_mixture(
            mixture,
            flags.cache_dir,
            splits=flags.split,
            module=flags.module,
            num_processes=flags.num_processes,
            overwrite=flags.overwrite,
            lengths=_feature_lengths(flags.task_feature_lengths),
            beam=_beam(flags),
        )


def _add_convert(parser: argparse.ArgumentParser) -> None:
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


def _run_convert(flags: argparse.Namespace) -> None:
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


def _run_report(flags: argparse.Namespace) -> None:
    from mt0_tpu import report

    output = flags.output or os.path.join(flags.runs[0], "report")
    print(f"report: {report.write_report(flags.runs, output)}")


# launch


def _add_launch(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    from mt0_tpu.launch import PLATFORMS, SWITCHES

    parser.usage = "mt0 launch WHERE --name=NAME … -- train --gin_file=…"
    subparsers = parser.add_subparsers(
        dest="what", metavar="WHERE", required=True, parser_class=_Parser
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


def _run_launch(flags: argparse.Namespace) -> int:
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
