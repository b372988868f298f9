"""The `mt0` command: its words, its exit codes, what it imports."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mt0_tpu import cli

REPOSITORY = Path(__file__).resolve().parent.parent


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mt0_tpu", *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip


def complaint(capsys, *arguments):
    """The one line on stderr of a command line that must be refused."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mt0: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_help_imports_nothing_heavy():
    # Whoever adds an import at the top of cli.py, errors.py or __init__.py learns of it here.
    probe = (
        "import sys; from mt0_tpu import cli; cli._parsers()[0].format_help(); "
        "print([m for m in ('jax', 'gin', 'numpy', 'tensorflow', 'seqio') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", probe], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


def test_help_names_every_command(capsys):
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    for command in ("tasks", "cache", "train", "study", "eval", "infer", "report"):
        assert f"    {command} " in shown


def test_a_users_mistake_is_one_line_and_exit_code_2():
    done = run("trian")
    assert done.returncode == 2
    assert done.stderr == "mt0: error: there is no command 'trian'. Did you mean 'train'?\n"
    assert done.stdout == ""


def test_unquoted_text_exits_2_through_the_module():
    done = run(
        "train", "--gin_file=recipes/mt0_small.gin", "--gin.MODEL_DIR=gs://bucket/run", "--dry_run"
    )
    assert done.returncode == 2
    assert "--gin.MODEL_DIR=\"'gs://bucket/run'\"" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["wash"], "There are: tasks, cache, train"),
        (["train", "--gin_fil=x"], "Did you mean '--gin_file'?"),
        (["train", "--gin.MODEL_DIR"], "write --gin.MODEL_DIR=VALUE"),
        (["train", "--gin.TRAIN_STEPS=3"], "need a gin file"),
        (["train", "--gin_file=x.gin", "--seed=3"], "--gin.RANDOM_SEED"),
        (["train", "--seed=three"], "--seed: invalid int value: 'three'"),
        (["eval"], "--gin_file=runs/eval.gin"),
        (["infer", "--interactive"], "--gin_file=runs/infer.gin"),
        (["infer", "--interactiv"], "Did you mean '--interactive'?"),
        (["study", "--seeds=1,x"], "--seeds=0,1,2"),
        (["cache", "--cache_dir=c"], "--mixture"),
        (["tasks", "shw"], "invalid choice: 'shw'"),
        (["tasks", "show"], "required: NAME"),
        (["report"], "RUN"),
    ],
)
def test_what_is_refused(capsys, arguments, said):
    assert said in complaint(capsys, *arguments)


def test_interrupt_is_130(monkeypatch, capsys):
    def interrupted(flags):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.job_commands, "run_train", interrupted)
    assert cli.main(["train"]) == 130


def test_dry_run_prints_the_resolved_run(capsys):
    arguments = [
        "train",
        "--gin_file=recipes/mt0_small.gin",
        "--gin.MODEL_DIR='runs/x'",
        "--gin.BATCH_SIZE=64",
        "--dry_run",
    ]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "BATCH_SIZE = 64  # the command line" in shown
    assert "train/utils.DatasetConfig.pack = False" in shown


def test_dry_run_of_the_embedded_default(capsys):
    assert cli.main(["train", "--dry_run", "--output_dir=runs/elsewhere"]) == 0
    assert "MODEL_DIR = 'runs/elsewhere'" in capsys.readouterr().out


def test_dry_run_touches_no_device():
    # With a backend that does not exist, any use of a device would raise.
    probe = (
        "import os; os.environ['JAX_PLATFORMS'] = 'none_such'\n"
        "from mt0_tpu import cli\n"
        "code = cli.main(['train', '--dry_run'])\n"
        "import sys; assert 'tensorflow' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_prompt_gets_what_it_takes(monkeypatch):
    from mt0_tpu import interactive

    called = {}
    monkeypatch.setattr(interactive, "interact", _noted(interactive.interact, called))
    line = ["infer", "--interactive", "--gin_file=recipes/mini_infer.gin"]
    assert cli.main([*line, "--gin.CHECKPOINT_PATH='runs/x'"]) == 0
    assert (called["checkpoint_path"], called["vocabulary"]) == ("runs/x", "mini")
    assert "infer_output_dir" not in called and "params" not in called


def _noted(function, called):
    @functools.wraps(function)
    def stand_in(**arguments):
        called.update(arguments)

    return stand_in


def test_cache_hands_its_flags_on(monkeypatch):
    from mt0_tpu.data import cache

    called = []
    monkeypatch.setattr(cache, "cache_mixture", lambda *a, **k: called.append((a, k)))
    line = "cache --mixture m --cache_dir c --split train --split validation --num_processes 2"
    assert cli.main(line.split()) == 0
    (name, folder), options = called[0]
    assert (name, folder) == ("m", "c")
    assert options == {
        "splits": ["train", "validation"],
        "module": None,
        "num_processes": 2,
        "overwrite": False,
        "lengths": None,
        "beam": None,
    }


def test_report_lands_beside_its_first_run(monkeypatch, capsys):
    from mt0_tpu import report

    called = []
    monkeypatch.setattr(report, "write_report", lambda runs, folder: called.append((runs, folder)))
    assert cli.main(["report", "runs/a", "runs/b"]) == 0
    assert called == [(["runs/a", "runs/b"], "runs/a/report")]


@pytest.mark.parametrize(
    "flag, steps", [("--check_replicas", 1000), ("--check_replicas=50", 50), (None, None)]
)
@pytest.mark.parametrize("files", [(), ("--gin_file=recipes/mini_mt0.gin", "--gin.MODEL_DIR='x'")])
def test_check_replicas_is_a_binding_of_any_training(capsys, flag, steps, files):
    assert cli.main(["train", "--dry_run", *files, *filter(None, [flag])]) == 0
    said = capsys.readouterr().out
    assert f"train.check_replicas_every_steps = {steps}\n" in said


def test_check_replicas_wants_steps(capsys):
    assert cli.main(["train", "--dry_run", "--check_replicas=often"]) == 2
    assert "invalid int value: 'often'" in capsys.readouterr().err


@pytest.mark.parametrize("name, code", [("SIGTERM", 42), ("SIGUSR1", 42), ("SIGINT", 130)])
def test_a_signal_ends_any_command_with_a_code_for_launchers(name, code, monkeypatch, capsys):
    def work(arguments):
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(10)

    monkeypatch.setattr(cli, "_dispatch", work)
    assert cli.main(["cache"]) == code
    said = capsys.readouterr().err
    assert said == "mt0: interrupted\n" or said.startswith(f"mt0: stopped by {name}; the same ")
