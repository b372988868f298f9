"""Data-set repositories of the Hugging Face Hub: what is in them, and their files on this machine.

Files are listed and fetched one by one through huggingface_hub: its cache, its resuming of broken
downloads, its offline mode (HF_HUB_OFFLINE=1), its token. No loader script is ever run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_EVERY_SECONDS = 5.0
_MIB = 1 << 20
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder of a repository at one commit.

    Attributes:
      commit: of the repository; a later download of it gives the same bytes.
      files: path in the repository -> bytes.
      folders: paths of the folders in it.
    """

    commit: str
    files: dict[str, int]
    folders: tuple[str, ...]


def list_folder(repository: str, folder: str = "", revision: str | None = None) -> Folder:
    """Lists a folder of a data-set repository, not what is below it.

    Args:
      repository: such as 'bigscience/xP3'.
      folder: path in it; '' for its root.
      revision: branch, tag or commit; the main branch by default.

    Raises:
      ValueError: no such repository, folder or revision; no permission; offline; no network.
    """
    api = _huggingface_hub().HfApi()
    with _explained(repository, folder, revision):
        commit = api.dataset_info(repository, revision=revision).sha
        entries = list(
            api.list_repo_tree(
                repository, path_in_repo=folder or None, revision=commit, repo_type="dataset"
            )
        )
    # A folder has no size; asked for by attribute, since the classes have changed names before.
    files = {entry.path: entry.size for entry in entries if hasattr(entry, "size")}
    folders = tuple(sorted(entry.path for entry in entries if not hasattr(entry, "size")))
    return Folder(commit, dict(sorted(files.items())), folders)


def cached(repository: str, path: str, revision: str | None = None) -> str | None:
    """The local path of a file that huggingface_hub's cache holds already, else None."""
    found = _huggingface_hub().try_to_load_from_cache(
        repository, path, revision=revision, repo_type="dataset"
    )
    return found if isinstance(found, str) else None


def download(
    repository: str,
    path: str,
    revision: str | None = None,
    *,
    local_dir: str | None = None,
    report: Callable[[int], None] | None = None,
) -> str:
    """Brings a file to this machine and returns its local path; what is there is not fetched again.

    Args:
      repository, path, revision: which file.
      local_dir: folder to lay the file out in as the repository does; huggingface_hub's cache by
        default.
      report: receives numbers of bytes as they arrive; lines on stderr by default.

    Raises:
      ValueError: as list_folder's, or the download failed; running it again goes on with it.
    """
    hub = _huggingface_hub()
    if local_dir is None and (found := cached(repository, path, revision)):
        return found
    with _explained(repository, path, revision):
        return hub.hf_hub_download(
            repository,
            path,
            repo_type="dataset",
            revision=revision,
            local_dir=local_dir,
            tqdm_class=_bar(report or _lines(f"{repository}/{path}")),
        )


def _huggingface_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(
            "The Hub needs the package huggingface_hub, which is not installed; "
            "write: pip install huggingface_hub"
        ) from None
    return huggingface_hub


@contextlib.contextmanager
def _explained(repository: str, path: str, revision: str | None) -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence each."""
    from huggingface_hub import errors

    what = f"{repository}/{path}" if path else repository
    at = f" at revision '{revision}'" if revision else ""
    try:
        yield
    except errors.GatedRepoError:
        raise ValueError(
            f"{repository} is gated; ask for access on its page of the Hub and log in with "
            "`hf auth login` (or set HF_TOKEN)."
        ) from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"The Hub has no data set '{repository}' that you may read; mend the name, or log in "
            "with `hf auth login` if it is private."
        ) from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{repository} has no revision '{revision}'; write another.") from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        if _offline():
            why = "the Hub is switched off (HF_HUB_OFFLINE); fetch it once with it switched on"
        else:
            why = f"the Hub cannot be reached ({_first_line(error)}); try again when it can"
        raise ValueError(f"{what}{at} is not on this machine and {why}.") from None
    except errors.EntryNotFoundError:
        raise ValueError(f"{repository}{at} holds no '{path}'; mend the path.") from None
    except Exception as error:
        # The network's errors are of whichever HTTP library huggingface_hub uses this year.
        if getattr(error, "errno", None) in _DISK:
            raise
        raise ValueError(
            f"{what}{at}: the Hub's answer was {_first_line(error)}; run it again, what has "
            "arrived is kept."
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _bar(report: Callable[[int], None]) -> type:
    """A progress bar for huggingface_hub that draws nothing and passes the bytes on."""
    from tqdm.std import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread that redraws

        def __init__(self, *args, **keywords):
            super().__init__(*args, **keywords)
            # Of a Xet download there are two bars, one of the network and one of the disk.
            self._counts = not str(keywords.get("desc", "")).endswith("downloading bytes")
            if self._counts and keywords.get("initial"):
                report(int(keywords["initial"]))

        def update(self, n=1):
            super().update(n)
            if self._counts:
                report(int(n or 0))

        def display(self, *args, **keywords):
            pass

        def close(self):
            self.leave = False
            self.disable = True

    return Bar


def _lines(what: str) -> Callable[[int], None]:
    """Says now and then on stderr how much of a file has arrived."""
    started = last = time.monotonic()
    total = 0

    def report(arrived: int) -> None:
        nonlocal total, last
        total += arrived
        now = time.monotonic()
        if now - last >= _EVERY_SECONDS:
            last = now
            speed = total / (now - started) / _MIB
            print(f"{what}: {total / _MIB:,.0f} MiB, {speed:.1f} MiB/s", file=sys.stderr)

    return report
