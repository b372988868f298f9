"""Secrets are hidden wherever a run writes or speaks, and nothing else is."""

import io
import os
import subprocess
import sys

import pytest

from mt0_tpu import cli, gin_config
from mt0_tpu.redaction import RedactedStream, redact, redact_all, secrets_of_environment
from tests.conftest import REPOSITORY

TOKEN = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    "text, shown",
    [
        (f"token {TOKEN}.", "token ***."),
        ("AKIA" + "A1B2" * 4, "***"),
        ("key AIza" + "x" * 35, "key ***"),
        ("ghp_" + "a" * 36, "***"),
        ("s3://AK:se/cr+et@bucket/run", "s3://***@bucket/run"),
        ("read https://me:pw@host/x now", "read https://***@host/x now"),
        ("https://b/x?a=1&X-Amz-Signature=0ab&z=2", "https://b/x?a=1&X-Amz-Signature=***&z=2"),
        ("https://b/x?sig=0ab%2F", "https://b/x?sig=***"),
        ("X.hf_token = 'abc'", "X.hf_token = '***'"),
        ('reader.secret_key = "a\'b"', 'reader.secret_key = "***"'),
        ('{"password": "abc", "n": 1}', '{"password": "***", "n": 1}'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----", "***"),
    ],
)
def test_secrets_are_hidden(text, shown):
    assert redact(text, {}) == shown
    assert redact(shown, {}) == shown


@pytest.mark.parametrize(
    "text",
    [
        "gs://bucket/run/checkpoints/12", "MODEL_DIR = 's3://bucket/a@b'", "a@b.org",
        "token_embedder = 'x'", "eos_token_id = 1", "TASK_FEATURE_LENGTHS = {'inputs': 1024}",
        "decoder_tokens: 12", "http://[::1]:1234/x", "https://h/x?task=one&step=3",
        "step 3/12  loss 6.9  lr 1.00e-03  12 real tokens/s", "node01:1234 hf_hub",
    ],
)  # fmt: skip
def test_what_is_none_stays(text):
    assert redact(text, {}) == text


def test_values_of_the_environment_are_hidden_wherever_they_are(tmp_path):
    file = tmp_path / "key.json"
    file.write_text("{}")
    environment = {
        "HF_TOKEN": "neither-form-nor-name",
        "AWS_SECRET_ACCESS_KEY": "abcdefgh12345",
        "GOOGLE_APPLICATION_CREDENTIALS": str(file),
        "MY_ACCESS_KEY": str(file),  # the name of a file that holds it
        "TOKENIZERS_PARALLELISM": "false-or-true",
        "API_KEY": "short",
    }
    assert set(secrets_of_environment(environment)) == {"neither-form-nor-name", "abcdefgh12345"}
    assert redact("x=neither-form-nor-name;", environment) == "x=***;"


def test_records_are_redacted_at_any_depth():
    record = {"a": [f"at {TOKEN}", 1, None], "b": {"c": "s3://k:s@b"}}
    assert redact_all(record) == {"a": ["at ***", 1, None], "b": {"c": "s3://***@b"}}


def test_a_stream_passes_everything_else_on():
    under = io.StringIO()
    stream = RedactedStream(under)
    print("one", TOKEN, "two", file=stream, flush=True)
    assert under.getvalue() == "one *** two\n" and not stream.isatty()


BINDINGS = [
    "MODEL_DIR = 's3://AK:se/cr+et@bucket/run'", f"MIXTURE_OR_TASK_NAME = '{TOKEN}'",
    "TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 8}", "TRAIN_STEPS = 1",
    "INITIAL_CHECKPOINT_PATH = None",
]  # fmt: skip


def test_the_resolved_config_has_none_and_the_run_has_all():
    found = gin_config.resolve("train", ["models/mt5/small.gin", "runs/finetune.gin"], BINDINGS)
    assert found.arguments["model_dir"] == "s3://AK:se/cr+et@bucket/run"
    assert found.arguments["train_dataset"].mixture_or_task_name == TOKEN
    assert "se/cr+et" not in found.text and TOKEN not in found.text
    assert "MODEL_DIR = 's3://***@bucket/run'" in found.text


def test_the_command_says_none(capsys):
    flags = [f"--gin_bindings={binding}" for binding in BINDINGS]
    files = ["--gin_file=models/mt5/small.gin", "--gin_file=runs/finetune.gin"]
    assert cli.main(["train", "--dry_run", *files, *flags]) == 0
    assert cli.main(["train", f"--gin.MODEL_DIRR='{TOKEN}'"]) == 2
    assert cli.main(["train", f"--{TOKEN}"]) == 2
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err and "se/cr+et" not in said.out
    assert "`mt0 train` takes no '--***'" in said.err


def test_a_traceback_shows_none(tmp_path):
    (tmp_path / "fails.py").write_text(
        "from mt0_tpu import cli, gin_config\n"
        "def fail(*a): raise RuntimeError('s3://AK:' + 'secret@bucket')\n"
        "gin_config.resolve = fail\n"
        "cli.main(['train', '--gin_file=x'])"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "fails.py")], capture_output=True, text=True,
        cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 1 and "RuntimeError: s3://***@bucket" in done.stderr
    assert "AK:secret" not in done.stderr


def test_records_of_evaluation_inference_and_reports_have_none(tmp_path):
    from mt0_tpu.eval_outputs import EvalOutputs
    from mt0_tpu.infer_output import OutputFile
    from mt0_tpu.reporting.config import read_config

    settings = {"cache_dir": "s3://k:s@b", "n": 1}
    output = OutputFile(tmp_path / "lines.jsonl", settings, 1)
    output.start()
    evaluation = EvalOutputs(tmp_path / "eval", "mix", settings)
    evaluation.start(3, "# none")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 3
    assert not [path for path in written if "k:s@b" in path.read_text()]
    # The same job is known for the same.
    assert OutputFile(tmp_path / "lines.jsonl", settings, 1).lines_done() == 0
    # A config that an earlier version wrote.
    (tmp_path / "config.gin").write_text("MODEL_DIR = 's3://k:s@b'\ntrain.x = 1\n")
    assert read_config(tmp_path / "config.gin").macros == {"MODEL_DIR": "'s3://***@b'"}


def test_a_card_has_none(tmp_path):
    from mt0_tpu.formats.run_record import of_checkpoint

    (tmp_path / "config.gin").write_text(f"MIXTURE_OR_TASK_NAME = 'mix'\ntrain.hf = '{TOKEN}'\n")
    record = of_checkpoint(tmp_path / "checkpoints" / "3", 3)
    assert "'***'" in record._recipe() and TOKEN not in record._recipe()
