"""The `mt0` command: its words, and nothing else.

Every subcommand imports what it needs when it is run, so that `mt0 --help` needs neither JAX
nor gin nor TensorFlow and answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from mt0_tpu import exit_codes, process_flags, stop_signals
from mt0_tpu.commands import cache_command, convert_command, job_commands, launch_command
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.redaction import RedactedStream, show_exception


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

    def add(name: str, run: Callable[..., None] | None, help: str) -> _Parser:
        command = subparsers.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
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
    cache_command.add_flags(
        add("cache", cache_command.run, "tokenise a task or mixture into its cache")
    )
    job_commands.add_train(
        add("train", job_commands.run_train, "train; with no gin file, the embedded mini mT0")
    )
    job_commands.add_study(
        add("study", job_commands.run_study, "train all arms of the mini study and compare them")
    )
    job_commands.add_job(
        add("eval", job_commands.run_job, "score checkpoints, or those of a running job")
    )
    job_commands.add_infer(
        add("infer", job_commands.run_infer, "answer or score a file's inputs or a task's")
    )
    plan = add("plan", _run_plan, "say whether a run fits a TPU slice, and how long it may take")
    if list(arguments[:1]) == ["plan"]:
        from mt0_tpu.planning import plan_command

        plan.description, plan.epilog = plan_command.HELP, job_commands.GIN_FLAGS_HELP
        plan_command.add_flags(plan)
        job_commands.add_gin_flags(plan)
    convert_command.add_flags(
        add("convert", convert_command.run, "turn a checkpoint of one kind into another")
    )
    launch = add("launch", launch_command.run, "run a command on TPUs, GKE or SLURM; see launch/")
    if list(arguments[:1]) == ["launch"]:
        commands |= launch_command.add_words(launch)
    report = add("report", _run_report, "write an HTML report of runs beside each other")
    report.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a MODEL_DIR, an EVAL_OUTPUT_DIR, or a folder of either",
    )
    report.add_argument("--output", help="its folder, or FILE.html (RUN/report of the first)")
    return parser, commands


def _run_plan(flags: argparse.Namespace) -> int:
    from mt0_tpu.planning import plan_command

    return plan_command.run(flags, job_commands.gin_flags(flags))


def _run_report(flags: argparse.Namespace) -> None:
    from mt0_tpu import report
    from mt0_tpu.bucket_mirror import bring_files
    from mt0_tpu.place import is_bucket

    if flags.output is None and is_bucket(flags.runs[0]):
        raise UserError(
            f"{flags.runs[0]} is in a bucket, and a report is written to local disk; name it with "
            "--output=FOLDER"
        )
    output = flags.output or os.path.join(flags.runs[0], "report")
    runs = [bring_files(run) for run in flags.runs]
    print(f"report: {report.write_report(runs, output)}")
