"""Compiled programs kept on disk, so that a run that is started again does not compile again.

JAX does the work (its persistent compilation cache) and names an entry by everything that its
program depends on: the operations, the compiler's version and flags, the kind and number of
devices. An entry of another program is therefore never taken for this one. Here it is decided
where the entries lie. A setting of the user's own, $JAX_COMPILATION_CACHE_DIR or
jax.config.jax_compilation_cache_dir, is left as it is.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import jax

from mt0_tpu.errors import UserError

VARIABLE = "MT0_COMPILE_CACHE"
# Of a folder; those read longest ago go first.
_MOST_BYTES = 20 * 2**30
_HIT = "/jax/compilation_cache/cache_hits"
_hits = 0
_listening = False


def enable(shared_folder: str | None = None) -> str | None:
    """Turns the cache on; before the first program is compiled, after distributed.initialize().

    $MT0_COMPILE_CACHE names a folder, or is 'off'. Without it one process uses
    ~/.cache/mt0_tpu/compiled ($XDG_CACHE_HOME). Of several, JAX lets the first alone write, so a
    folder of each machine's own would help one of them: they use `shared_folder`, or nothing.

    Args:
      shared_folder: that every process reads, such as MODEL_DIR.

    Returns:
      The folder, or None where there is no cache.
    """
    _listen()
    own = jax.config.jax_compilation_cache_dir
    if own or not jax.config.jax_enable_compilation_cache:
        return own or None
    folder = _folder(os.environ.get(VARIABLE, ""), shared_folder, jax.process_count())
    if folder is None:
        return None
    if "://" not in folder:
        _check_writable(folder)
        _drop_oldest(Path(folder), _MOST_BYTES)
    jax.config.update("jax_compilation_cache_dir", folder)
    # A program compiled before now has made JAX remember that there is no cache.
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()
    return folder


def hits() -> int:
    """How many programs this process has read instead of compiling."""
    return _hits


def _folder(setting: str, shared_folder: str | None, processes: int) -> str | None:
    if setting.lower() in ("off", "0", "none"):
        return None
    if setting:
        return setting
    if processes > 1:
        return f"{shared_folder.rstrip('/')}/compiled" if shared_folder else None
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "mt0_tpu", "compiled", _machine())


def _machine() -> str:
    """A name for the kind of this machine's processor.

    JAX's names of entries leave it out, and a home folder may be mounted on several kinds: a
    program compiled for one stops the other on an instruction it has not.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    kept = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:12]


def _check_writable(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"compiled programs cannot be kept in {folder} ({error.strerror}); name another folder "
            f"in ${VARIABLE}, or set it to off"
        ) from None


def _drop_oldest(folder: Path, most_bytes: int) -> None:
    """Makes room. JAX's own bound (jax_compilation_cache_max_size) is not used: it keeps a second
    file beside each entry, and stops writing for good where a killed process left one without."""
    entries = []
    for path in folder.glob("*-cache"):
        try:
            entries.append((path.stat().st_atime, path.stat().st_size, path))
        except FileNotFoundError:  # another process was making room
            continue
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= most_bytes:
            return
        path.unlink(missing_ok=True)
        total -= size


def _listen() -> None:
    global _listening
    if not _listening:
        _listening = True
        jax.monitoring.register_event_listener(_count)


def _count(event: str, **_: object) -> None:
    global _hits
    _hits += event == _HIT
