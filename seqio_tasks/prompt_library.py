"""Where templates come from: a user's copy of promptsource, never this package.

A copy is a folder of `KEY/templates.yaml` files, a checkout that has `promptsource/templates`
inside, or promptsource's source archive (.tar.gz), which is read without unpacking it. Several
copies are searched in the order given, so that a folder of one's own prompts can stand before.
`mt0 tasks prompts --get` fetches release 0.2.3; the prompts that only xP3 has (wiki_lingua, mlqa,
xlsum, flores, the long ones, ...) are in the branches tr13, xp3mt and xp3x of the fork that made
it: github.com/Muennighoff/promptsource.
"""

from __future__ import annotations

import functools
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from seqio_tasks import prompts
from seqio_tasks.near_names import did_you_mean
from seqio_tasks.prompts import Template

VARIABLE = "MT0_PROMPTS_DIR"
RELEASE = "0.2.3"
_FILE = "templates.yaml"
_INSIDE = "promptsource/templates"
# Data sets of xP3 whose templates release 0.2.3 lacks, by the branches that have them.
_BRANCHES: dict[str, tuple[str, ...]] = {
    "tr13, xp3mt or xp3x": (
        "GEM/wiki_lingua",
        "GEM/BiSECT",
        "GEM/xlsum",
        "mlqa",
        "khalidalt/tydiqa-primary",
        "khalidalt/tydiqa-goldp",
        "pasinit/xlwic",
        "xcopa",
        "Muennighoff/xwinograd",
        "Muennighoff/xstory_cloze",
        "Muennighoff/mbpp",
        "clue",
        "codeparrot/codecomplex",
        "codeparrot/github-jupyter-text-code-pairs",
        "codeparrot/apps",
        "codeparrot/xlcost-text-to-code",
        "teven/code_contests",
        "teven/code_docstring_corpus",
        "Fraser/python-state-changes",
    ),
    "tr13 or xp3mt (xp3x has one set for all pairs, x_x)": (
        "facebook/flores",
        "Helsinki-NLP/tatoeba_mt",
        "allenai/wmt22_african",
        "multi_eurlex",
    ),
    "xp3x": ("Muennighoff/multi_eurlex",),
}


def default_place() -> Path:
    """Where `mt0 tasks prompts --get` puts the release."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "mt0_tpu" / "prompts" / f"promptsource-{RELEASE}"


def branches_with(key: str) -> str:
    """A sentence that names the branches with templates for a key, or an empty string."""
    for branches, datasets in _BRANCHES.items():
        if any(key == name or key.startswith(name + "/") for name in datasets):
            return (
                f" Release {RELEASE} never had them: take a checkout of github.com/Muennighoff/"
                f"promptsource, branch {branches}, and name it in --prompts_dir or ${VARIABLE}."
            )
    return ""


class _Folder:
    def __init__(self, root: Path):
        self.root = root

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        found = (path.parent.relative_to(self.root) for path in self.root.rglob(_FILE))
        return tuple(sorted(path.as_posix() for path in found))

    def read(self, key: str) -> bytes:
        return (self.root / key / _FILE).read_bytes()


class _Archive:
    """A tar archive with the templates inside; its members are read into memory, never written."""

    def __init__(self, path: Path):
        self.root = path

    @functools.cached_property
    def _files(self) -> dict[str, bytes]:
        files = {}
        with tarfile.open(self.root) as archive:
            for member in archive:
                before, inside, key = member.name.partition(f"{_INSIDE}/")
                if inside and member.isfile() and key.endswith(f"/{_FILE}"):
                    files[str(PurePosixPath(key).parent)] = archive.extractfile(member).read()
        return files

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(sorted(self._files))

    def read(self, key: str) -> bytes:
        return self._files[key]


def _copy(place: str | Path) -> _Folder | _Archive:
    """The copy at a place; ValueError if there is none."""
    path = Path(place).expanduser()
    if path.is_file():
        if not tarfile.is_tarfile(path):
            raise ValueError(f"{path} is no tar archive; name a folder of templates or a .tar.gz.")
        return _Archive(path)
    if not path.is_dir():
        raise ValueError(f"There are no prompts at {path}; name a promptsource copy.")
    for inside in (_INSIDE, "templates"):
        if (path / inside).is_dir():
            return _Folder(path / inside)
    return _Folder(path)


class PromptLibrary:
    """Templates of one or several copies.

    Args:
      places: paths, searched in order, or one string with the system's path separator between
        them; by default $MT0_PROMPTS_DIR, else the fetched release. ValueError for a place that
        is not there or holds no templates.
    """

    def __init__(self, places: str | Iterable[str | Path] | None = None):
        places = places or os.environ.get(VARIABLE)
        if not places:
            if not default_place().is_dir():
                raise ValueError(
                    f"There are no prompts at hand: `mt0 tasks prompts --get` fetches release "
                    f"{RELEASE} of promptsource, or name a copy in --prompts_dir or ${VARIABLE}."
                )
            places = [default_place()]
        if isinstance(places, str):
            places = [place for place in places.split(os.pathsep) if place]
        self._copies = [_copy(place) for place in places]
        self._read: dict[str, dict[str, Template]] = {}
        for copy in self._copies:
            if not copy.keys:
                raise ValueError(f"{copy.root} has no {_FILE} in it; name a promptsource copy.")

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """Every key at hand, such as 'super_glue/copa' or 'imdb'."""
        return tuple(sorted({key for copy in self._copies for key in copy.keys}))

    @property
    def places(self) -> tuple[str, ...]:
        """The folders and archives searched, in order."""
        return tuple(str(copy.root) for copy in self._copies)

    def templates(self, key: str) -> dict[str, Template]:
        """Templates of a key by name.

        ValueError where no copy has the key, with the nearest that one has or the branches of the
        fork that have it, and for a file that cannot be read.
        """
        if key in self._read:
            return dict(self._read[key])
        for copy in self._copies:
            if key in copy.keys:
                where = f"{copy.root}/{key}/{_FILE}"
                self._read[key] = prompts.read_templates(copy.read(key), where)
                return dict(self._read[key])
        siblings = [known for known in self.keys if known.split("/")[0] == key.split("/")[0]]
        near = did_you_mean(key, siblings) or did_you_mean(key, self.keys)
        # A data set that the copy has is misspelt; one that it lacks may be in a branch.
        hint = near if near and siblings else branches_with(key) or near
        raise ValueError(f"There are no templates for '{key}' in {', '.join(self.places)}.{hint}")

    def count(self, key: str) -> int:
        """How many templates a key has, without reading them."""
        text = next(copy.read(key) for copy in self._copies if key in copy.keys)
        return text.count(b"!Template") - text.count(b"!TemplateMetadata")

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys)
