"""docs/launching.md: each command is one that its program takes."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mt0_tpu import cli, launch, launch_check
from mt0_tpu.tpu_types import tpu_type

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs/launching.md").read_text()


def commands(*start):
    """Those in blocks of code that begin so, a list of words each."""
    blocks = re.findall(r"^```\n(.+?)^```", TEXT, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.split(r" && (?![^']*'$)", line)]
    words = [shlex.split(part, comments=True) for part in parts]
    # Variables may stand in front.
    words = [
        [w for i, w in enumerate(one) if i or not re.match(r"[A-Z_0-9]+=", w)] for one in words
    ]
    return [one for one in words if one[: len(start)] == list(start)]


def test_mt0_takes_them():
    found = [words[1:] for words in commands("mt0") if words[1] not in ("launch", "plan")]
    assert {words[0] for words in found} == {"tasks", "cache", "convert", "report"}
    for words in found:
        parser, _ = cli._parsers(words)
        known, unknown = parser.parse_known_args(words)
        assert not unknown and known.command == words[0], words


def test_launch_takes_them(monkeypatch):
    ran = []

    def run(command, **_):
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(launch.subprocess, "run", run)
    found = [words[1:] for words in commands("mt0", "launch")]
    assert {words[1] for words in found} == {"tpu", "gke", "slurm"}
    for words in found:
        cut = words.index("--")
        assert cli.main([*words[:cut], "--no_check", *words[cut:]]) == 0, words
    assert len(ran) == len(found)


@pytest.mark.slow
def test_the_runs_resolve(capsys):
    """What is launched is what mt0 itself takes, gin files and all; its mesh fits the TPUs."""
    tried = 0
    for words in commands("mt0", "launch"):
        run = words[words.index("--") + 1 :]
        if "…" not in run:
            assert cli.main([*run, "--dry_run"]) == 0
            text = capsys.readouterr().out
            for kind in (word[7:] for word in words if word.startswith("--type=")):
                launch_check.check_mesh(text, tpu_type(kind), "1")
            tried += 1
    assert tried == 3


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_gcloud_takes_them(tmp_path):
    found = [shlex.join(words) for words in commands("gcloud")]
    assert len(found) >= 6
    file = tmp_path / "commands.json"
    file.write_text(json.dumps([{"command_string": one} for one in found]))
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={file}"],
        env=os.environ | {
            "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true"
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    verdicts = json.loads(done.stdout)
    assert len(verdicts) == len(found)
    wrong = [
        (one["command_string"], one["error_message"]) for one in verdicts if not one["success"]
    ]
    assert wrong == []


def test_what_it_names_is_there():
    for name in re.findall(r"`((?:tpu|gke|xpk|slurm|worker)_\w+\.(?:sh|py)|Dockerfile)`", TEXT):
        assert (REPOSITORY / "launch" / name).exists(), name
    for link in re.findall(r"\]\((\w+\.md)\)", TEXT):
        assert (REPOSITORY / "docs" / link).exists(), link
