"""`mt0 tasks prompts`: what it lists, and that it keeps only what it knows."""

import hashlib
import io
import subprocess
import tarfile

import pytest

from mt0_tpu import cli
from mt0_tpu.building import prompt_commands
from mt0_tpu.errors import UserError

TEMPLATE = """
dataset: pets
templates:
  id-1: !Template
    name: which
    id: id-1
    jinja: 'Which pet says {{ sound }}? ||| {{ answer_choices[label] }}'
    answer_choices: cat ||| dog
    metadata: !TemplateMetadata {metrics: [Accuracy], languages: [en], original_task: true}
"""


@pytest.fixture
def copy(tmp_path):
    for key in ("pets", "zoo/lions", "zoo/bears"):
        path = tmp_path / "copy" / key / "templates.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(TEMPLATE)
    return str(tmp_path / "copy")


def archive(folder, monkeypatch):
    path = folder / "made.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name, text in {
            "promptsource-0.2.3/promptsource/templates/pets/templates.yaml": TEMPLATE,
            "promptsource-0.2.3/promptsource/app.py": "raise SystemExit",
            "promptsource-0.2.3/LICENSE": "Apache",
            "promptsource-0.2.3/../../promptsource/templates/evil/templates.yaml": "x",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            file.addfile(member, io.BytesIO(text.encode()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(prompt_commands, "SHA256", digest)
    return path


def test_all_keys_are_listed_with_their_counts(copy, capsys):
    assert cli.main(["tasks", "prompts", f"--prompts_dir={copy}"]) == 0
    shown = capsys.readouterr().out
    assert "zoo/bears" in shown and "3 keys, 3 templates" in shown


@pytest.mark.parametrize("asked", ["zoo/lions", "zoo/*", "zoo"])
def test_templates_of_a_key(copy, capsys, asked):
    assert cli.main(["tasks", "prompts", asked, f"--prompts_dir={copy}", "--jinja"]) == 0
    shown = capsys.readouterr().out
    for word in ("zoo/lions:", "which", "id-1", "Accuracy", "cat | dog", "Which pet says"):
        assert word in shown
    assert ("zoo/bears:" in shown) == (asked != "zoo/lions")


def test_a_missing_key_is_told_the_nearest(copy, capsys):
    assert cli.main(["tasks", "prompts", "zoo/lion", f"--prompts_dir={copy}"]) == 2
    assert "Did you mean 'zoo/lions'?" in capsys.readouterr().err


def test_fetching_keeps_templates_and_licence_alone(tmp_path, monkeypatch, capsys):
    made = archive(tmp_path, monkeypatch)
    target = tmp_path / "cache" / "promptsource"
    prompt_commands.fetch(target, lambda folder: made)
    files = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "cache").rglob("*"))
    assert [name for name in files if name.endswith(("LICENSE", ".yaml", ".py"))] == [
        "cache/promptsource/LICENSE",
        "cache/promptsource/promptsource/templates/pets/templates.yaml",
    ]
    assert "Apache License 2.0" in capsys.readouterr().out
    prompt_commands.fetch(target, None)
    assert "already" in capsys.readouterr().out


def test_another_file_is_not_unpacked(tmp_path, monkeypatch):
    made = archive(tmp_path, monkeypatch)
    monkeypatch.setattr(prompt_commands, "SHA256", "0" * 64)
    with pytest.raises(UserError, match="it was not unpacked"):
        prompt_commands.fetch(tmp_path / "target", lambda folder: made)
    assert not (tmp_path / "target").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        prompt_commands.fetch(tmp_path / "full", lambda folder: made)


def test_pip_is_asked_for_the_one_known_file(tmp_path, monkeypatch):
    asked = []

    def pip(command, **options):
        asked.append((command, (tmp_path / "requirements.txt").read_text()))
        return subprocess.CompletedProcess(command, 1, "", "no network\nat all")

    monkeypatch.setattr(prompt_commands.subprocess, "run", pip)
    with pytest.raises(UserError, match="no network at all.*name it in --prompts_dir"):
        prompt_commands._pip_download(tmp_path)
    ((command, requirements),) = asked
    assert requirements == f"promptsource==0.2.3 --hash=sha256:{prompt_commands.SHA256}\n"
    assert {"--require-hashes", "--no-deps", "--ignore-requires-python"} <= set(command)
