"""Where a run's small files are written: MODEL_DIR itself or, of a bucket, a copy on this machine.

The copy is sent in the background at each log, and waited for before a checkpoint is saved, so
that whoever goes on from the checkpoint finds the metrics up to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import jax

from mt0_tpu import distributed
from mt0_tpu.bucket_mirror import BucketMirror, mirror_folder
from mt0_tpu.place import is_bucket

_open: set[RemoteRun] = set()


class LocalRun:
    """A run in a folder of the file system: there is nothing to send.

    Attributes:
      folder: where the run's small files are written.
    """

    def __init__(self, model_dir: str):
        self.folder = model_dir

    def send(self) -> None:
        """Sends in the background what has changed."""

    def flush(self) -> None:
        """Returns when what has changed until now is sent; what cannot be is said."""

    def close(self) -> None:
        """As flush, for the last time."""


class RemoteRun(LocalRun):
    """A run in a bucket, one in each process: its small files, sent as they change.

    The first process writes all of them but what each keeps of a sick step. The others bring the
    records alone that all have to agree on.
    """

    def __init__(self, model_dir: str, say: Callable[[str], None]):
        process = jax.process_index()
        super().__init__(str(mirror_folder(model_dir, f"process-{process}" if process else "")))
        self._address, self._say = model_dir, say
        self._mirror = BucketMirror(model_dir, Path(self.folder))
        self._sending = threading.Lock()
        self._changed, self._ends, self._failing = threading.Event(), False, False
        if process == 0:
            self._mirror.bring()
            self.flush()
        distributed.barrier("small files are in the bucket")
        if process != 0:
            self._mirror.bring(_is_record)
        self._thread = threading.Thread(target=self._work, name="sends files", daemon=True)
        self._thread.start()
        _open.add(self)

    def send(self) -> None:
        self._changed.set()

    def flush(self) -> None:
        with self._sending:
            try:
                self._mirror.send()
            except Exception as error:  # of HTTP, of the line, of the login: many libraries' own
                if not self._failing:
                    said = (str(error).splitlines() or [""])[0][:200]
                    self._say(
                        f"files of {self._address} cannot be sent ({type(error).__name__}: "
                        f"{said}); training goes on, and they are in {self.folder} until they can"
                    )
                self._failing = True
            else:
                if self._failing:
                    self._say(f"files of {self._address} can be sent again; it lacks nothing")
                self._failing = False

    def close(self) -> None:
        if self._ends:
            return
        self._ends = True
        self._changed.set()
        self._thread.join()
        self.flush()
        _open.discard(self)
        if self._failing:
            self._say(
                f"{self._address} lacks files that are in {self.folder}: a run on this machine, or "
                "`gcloud storage rsync`, sends them"
            )

    def _work(self) -> None:
        while not self._ends:
            self._changed.wait()
            self._changed.clear()
            if not self._ends:
                self.flush()


def open_run(model_dir: str, say: Callable[[str], None]) -> LocalRun:
    """Returns the run of a MODEL_DIR; of a bucket, brings its small files here first."""
    return RemoteRun(model_dir, say) if is_bucket(model_dir) else LocalRun(model_dir)


def close_all() -> None:
    """Sends what a run that ended with an error has left, such as the batch of a sick step."""
    for run in list(_open):
        run.close()


def _is_record(name: str) -> bool:
    return "/" not in name and name.endswith(".json")
