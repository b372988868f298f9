"""`mt0 tasks prompts`: the prompts at hand, and fetching promptsource's release.

Nothing of promptsource is part of this package: the release comes through the user's own pip, with
its index and proxies, and only if it is the very file whose SHA-256 stands here.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mt0_tpu.errors import UserError
from mt0_tpu.tasks.text_table import table

RELEASE = "0.2.3"
SHA256 = "f106c889778a0fe5590e7183904bf964e1a01691c8a29451e44f3df5ddef05f5"
_ARCHIVE = f"promptsource-{RELEASE}.tar.gz"
_NOTICE = (
    f"promptsource {RELEASE} is under the Apache License 2.0 (LICENSE beside the templates); what "
    "is made with it stands under each data set's own licence too"
)


def run(keys: Sequence[str], get: bool, prompts_dir: str | None, jinja: bool = False) -> None:
    """Does what `mt0 tasks prompts` was asked for: fetches, then lists."""
    from seqio_tasks import prompt_library

    if get:
        target = Path(prompts_dir).expanduser() if prompts_dir else prompt_library.default_place()
        fetch(target)
        if not keys:
            return
    try:
        library = prompt_library.PromptLibrary(prompts_dir)
        lines = listing(library, keys, jinja) if keys else overview(library)
    except ValueError as error:
        raise UserError(str(error)) from None
    print("\n".join(lines))


def fetch(target: Path, download: Callable[[Path], Path] | None = None) -> None:
    """Puts the release's templates and licence in a folder; nothing else of it is kept.

    Args:
      target: the folder, which must not be there yet unless it is a finished copy.
      download: gives the archive in a folder; pip by default.
    Raises:
      UserError: pip could not get it, or it is not the file that is known.
    """
    if (target / "promptsource" / "templates").is_dir():
        print(f"prompts: {target} has promptsource {RELEASE} already")
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} holds something else; name an empty folder in --prompts_dir.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".prompts-") as place:
        archive = (download or _pip_download)(Path(place))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != SHA256:
            raise UserError(
                f"{archive.name} has SHA-256 {found}, but promptsource {RELEASE} has {SHA256}; "
                "it was not unpacked."
            )
        kept = Path(place) / "kept"
        count = _keep_templates(archive, kept)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(kept, target)
    print(f"prompts: {count} files of templates in {target}")
    print(f"prompts: {_NOTICE}")


def _keep_templates(archive: Path, kept: Path) -> int:
    """Writes the templates and the licence out of the archive; returns how many files of them."""
    count = 0
    with tarfile.open(archive) as files:
        for member in files:
            name = Path(*Path(member.name).parts[1:])
            template = name.parts[:2] == ("promptsource", "templates") and name.suffix == ".yaml"
            if not member.isfile() or ".." in name.parts or not (
                template or str(name) == "LICENSE"
            ):  # fmt: skip
                continue
            path = kept / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files.extractfile(member).read())
            count += template
    return count


def _pip_download(folder: Path) -> Path:
    """The archive, by pip; pip compares the hash before it unpacks anything.

    To learn its metadata pip then runs the archive's setup.py, whose content the hash fixes.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"promptsource=={RELEASE} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--require-hashes", "--no-deps", "--no-binary", "promptsource"),
        *("--ignore-requires-python", "--dest", str(folder), "--requirement", str(requirements)),
    ]
    # Without it pip fetches a setuptools of its own first.
    if importlib.util.find_spec("setuptools"):
        command.append("--no-build-isolation")
    print(f"prompts: fetching promptsource {RELEASE} through pip …", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archive = folder / _ARCHIVE
    if done.returncode or not archive.is_file():
        reason = " ".join((done.stderr or done.stdout).split())[-400:]
        raise UserError(
            f"pip could not fetch promptsource {RELEASE} ({reason}); fetch {_ARCHIVE} yourself and "
            "name it in --prompts_dir."
        )
    return archive


def overview(library: Any) -> list[str]:
    """Keys at hand with how many templates each has."""
    counts = {key: library.count(key) for key in library.keys}
    lines = table(("prompts", "templates"), [(key, str(counts[key])) for key in counts])
    lines.append(
        f"{len(counts)} keys, {sum(counts.values()):,} templates in {', '.join(library.places)}"
    )
    return lines


def listing(library: Any, keys: Sequence[str], jinja: bool = False) -> list[str]:
    """The templates of keys: name, id, metrics, choices, languages; with `jinja` their text.

    A key may hold `*`; one that names a data set alone means all its subsets.
    """
    lines = []
    for asked in keys:
        known = [k for k in library.keys if fnmatch.fnmatchcase(k, asked)]
        known = known or [k for k in library.keys if k.startswith(f"{asked}/")] or [asked]
        for key in known:
            templates = library.templates(key).values()
            rows = [_line(template) for template in templates]
            lines += [f"{key}:", *table(_HEADS, rows, texts=range(len(_HEADS))), ""]
            if jinja:
                for template in templates:
                    lines += [f"-- {template.name}", template.jinja, ""]
    return lines[:-1]


_HEADS = ("name", "id", "metrics", "choices", "languages", "original task")


def _line(template: Any) -> tuple[str, ...]:
    try:
        fixed = template.fixed_choices()
    except ValueError:
        fixed = None
    if fixed is not None:
        choices = " | ".join(fixed)
    else:
        choices = "open" if template.answer_choices is None else "of the row"
    return (
        template.name,
        template.id,
        ", ".join(template.metrics),
        choices if len(choices) <= 40 else choices[:39] + "…",
        ", ".join(template.languages),
        "yes" if template.original_task else "no",
    )
