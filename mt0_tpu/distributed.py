"""One way to join the processes of a job, to wait for them, and to say who is absent."""

from __future__ import annotations

import atexit
import collections
import ctypes
import os
import sys
import time
from typing import Any

import jax

from mt0_tpu import process_flags, process_settings, roll_call
from mt0_tpu.maintenance import MaintenanceNews, google_metadata
from mt0_tpu.peer_watch import PeerWatch
from mt0_tpu.process_settings import Metadata, ProcessSettings
from mt0_tpu.roll_call import ProcessesAbsentError

# Compilation on one host may take long; gloo alone gives up after 30 s of skew.
BARRIER_TIMEOUT_S = 30 * 60
# JAX's own connecting, once all processes are known to be here.
_CONNECT_S = 60
# Others get their answer before the process that holds the coordinator ends.
_LEADER_LINGERS_S = 2.0

_joined = ProcessSettings()
_watch: PeerWatch | None = None
_times: collections.Counter[str] = collections.Counter()  # that a barrier's name was used


def initialize() -> ProcessSettings:
    """Joins the other processes where there are any; before any device is touched.

    Every job calls it; a second call does nothing. Who has to be joined is
    process_settings.settings' to say, from the environment and the command line. From then on
    the death of one ends all (peer_watch.py).

    Raises:
      UserError: settings that contradict each other.
      ProcessesAbsentError: not all came within the time-out; it names them.
    """
    global _joined, _watch
    if jax.distributed.is_initialized():
        return _joined
    flags = process_flags.taken_flags()
    found = process_settings.settings(os.environ, flags, _tpu_metadata())
    if found.note or not found.alone:
        print(f"mt0: {found.line()}", file=sys.stderr, flush=True)
    if found.alone:
        return found
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    began = time.monotonic()
    connections = roll_call.gather(found)
    _watch = PeerWatch(found, connections)
    _watch.start()
    _say_goodbye_at_the_end()
    # Its handler of SIGTERM would hide ours, and it knows of no other notice (stop_notice.py).
    jax.config.update("jax_enable_preemption_service", False)
    left_s = found.initialization_timeout_s - (time.monotonic() - began)
    jax.distributed.initialize(
        coordinator_address=found.coordinator_address,
        num_processes=found.count,
        process_id=found.index,
        local_device_ids=found.local_device_ids,
        initialization_timeout=max(int(left_s), _CONNECT_S),
        cluster_detection_method="deactivate",
    )
    # What this process starts, such as `mt0 cache`, is none of the job's processes.
    os.environ[process_settings.ALONE] = "1"
    _joined = found
    return found


def watch() -> PeerWatch | None:
    """Returns what watches over the other processes; None where there are none."""
    return _watch


def leave(code: int, why: str) -> None:
    """Tells the other processes that this one is about to end; with code 0, that it is done.

    With another code they end too, with the same, and say why. Does nothing in a process alone.
    """
    if _watch is not None:
        _watch.leave(code, why)
        if code:
            _leave()


def _say_goodbye_at_the_end() -> None:
    """However the interpreter ends, the others hear of it."""
    shown = sys.excepthook

    def end(kind, error, traceback) -> None:
        # Where another process died, the collective in this one failed: the watch knows better.
        _watch.wait_for_verdict()
        shown(kind, error, traceback)
        leave(1, f"{kind.__name__}: {_first_line(error)}")

    sys.excepthook = end
    atexit.register(leave, 0, "")


def platform_news() -> MaintenanceNews | None:
    """Returns what announces that this machine will stop; None where no platform does."""
    from jax._src import cloud_tpu_init

    if not cloud_tpu_init.running_in_cloud_tpu_vm or "TPU_SKIP_MDS_QUERY" in os.environ:
        return None
    return MaintenanceNews(google_metadata)


def _tpu_metadata() -> Metadata | None:
    """Reads attributes as JAX does; None on what is no TPU VM."""
    from jax._src import cloud_tpu_init  # no public spelling of either exists

    if not cloud_tpu_init.running_in_cloud_tpu_vm:
        return None
    from jax._src.clusters import cloud_tpu_cluster

    def read(key: str) -> str | None:
        text, status = cloud_tpu_cluster.get_metadata(key)
        return text if status == cloud_tpu_cluster.metadata_response_code_success else None

    return read


def barrier(name: str, timeout_s: float = BARRIER_TIMEOUT_S) -> None:
    """Waits until every process is here, without a device collective.

    Compiling takes each host a different time, and gloo's first collective gives up after
    30 s: hosts meet here, over the coordinator, before they start to compute.

    Raises:
      ProcessesAbsentError: not all came in time, or one has ended; it names those absent. This
        process can then only end: it has left the others.
    """
    if jax.process_count() == 1:
        return
    client = _client()
    _times[name] += 1
    folder = f"mt0/barrier/{name}/{_times[name]}/"
    # Which are here, for those that wait in vain.
    client.key_value_set(f"{folder}{jax.process_index()}", "here", allow_overwrite=True)
    try:
        client.wait_at_barrier(name, int(timeout_s * 1000))
    except jax.errors.JaxRuntimeError as error:
        raise _absent(name, folder, timeout_s, str(error)) from None


def leader_says(name: str, text: str | None, patience_seconds: float = 0.0) -> str:
    """Returns the first process's text in every process; over the coordinator, as barrier.

    Args:
      name: of this message, used once.
      text: the first process's; the others' is not looked at.
      patience_seconds: how long the first process may take, besides the barrier's time.

    Raises:
      ProcessesAbsentError: the first process did not say it in time.
    """
    if jax.process_count() == 1:
        return str(text)
    client = _client()
    if jax.process_index() == 0:
        client.key_value_set(name, str(text))
        return str(text)
    timeout_s = patience_seconds + BARRIER_TIMEOUT_S
    try:
        return client.blocking_key_value_get(name, int(timeout_s * 1000))
    except jax.errors.JaxRuntimeError as error:
        _leave()
        raise ProcessesAbsentError(
            f"process {_joined.name_of(0)} did not say '{name}' within {timeout_s:g} s "
            f"({_first_line(error)})",
            (0,),
        ) from None


def everyone_says(text: str, timeout_s: float = BARRIER_TIMEOUT_S) -> list[str]:
    """Returns what each process said, in their order; all call it, as often as each other.

    Raises ProcessesAbsentError where one did not come in time, or has ended.
    """
    if jax.process_count() == 1:
        return [text]
    _times["everyone says"] += 1
    turn = _times["everyone says"]
    _client().key_value_set(f"mt0/said/{turn}/{jax.process_index()}", text)
    barrier(f"everyone says {turn}", timeout_s)
    said = _client().key_value_dir_get(f"mt0/said/{turn}/")
    by_process = {int(key.rpartition("/")[2]): its_text for key, its_text in said}
    return [by_process[index] for index in range(jax.process_count())]


def _client() -> Any:
    from jax._src import distributed  # no public spelling of barriers and messages exists yet

    return distributed.global_state.client


def _absent(name: str, folder: str, timeout_s: float, cause: str) -> ProcessesAbsentError:
    """Who did not come to a barrier; and leaves the others."""
    try:
        came = {int(key.rpartition("/")[2]) for key, _ in _client().key_value_dir_get(folder)}
    except jax.errors.JaxRuntimeError:  # the coordinator itself has gone
        came = set(range(1, _joined.count))
    absent = [index for index in range(_joined.count) if index not in came]
    what = f"not all processes came to '{name}'"
    what += f" within {timeout_s:g} s" if "DEADLINE_EXCEEDED" in cause else ", and one has ended"
    if absent:
        what += f": {roll_call.absent_text(_joined, absent)}. Their logs say why"
    else:
        what += f" ({_first_line(cause)})"
    leader = jax.process_index() == 0
    if leader:
        time.sleep(_LEADER_LINGERS_S)
    _leave()
    return ProcessesAbsentError(what, absent)


def _leave() -> None:
    """Forgets the coordinator, whose shutdown would wait five minutes for who is absent."""
    from jax._src import distributed

    state = distributed.global_state
    for one in (state.preemption_sync_manager, state.client, state.service):
        if one is not None:  # never destroyed: the destructors would wait as well, or abort
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))
    state.preemption_sync_manager = state.client = state.service = None


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0]
