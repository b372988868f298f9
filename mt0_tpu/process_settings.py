"""How the processes of a job find each other: settings, a pure function of the environment.

The rest of the program asks distributed.py; nothing here imports JAX or opens a connection.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping

from mt0_tpu import process_flags, slurm
from mt0_tpu.errors import UserError
from mt0_tpu.process_flags import INITIALIZATION_TIMEOUT_S, ProcessFlags, check_address

TPU_PORT = 8482  # as JAX on Cloud TPUs
# Set by distributed.initialize for what a joined process starts, such as `mt0 cache`.
ALONE = "MT0_ALONE"

Metadata = Callable[[str], str | None]
"""Reads an attribute of a TPU VM's metadata server; None where there is no such attribute."""


@dataclasses.dataclass(frozen=True)
class ProcessSettings:
    """How this process joins the others.

    Attributes:
      count, index: how many processes there are, and which of them this is.
      coordinator_address: host:port where process 0 is found; None where count is 1.
      source: who said so, for the log: 'SLURM', 'flags', 'plain machine', …
      hosts: the machine of each process, where that is known; else empty.
      local_device_ids: which of the visible GPUs this process uses; None: all.
      initialization_timeout_s: how long it waits for the others.
      note: what a user may want to know besides; one sentence, or empty.
    """

    count: int = 1
    index: int = 0
    coordinator_address: str | None = None
    source: str = "plain machine"
    hosts: tuple[str, ...] = ()
    local_device_ids: tuple[int, ...] | None = None
    initialization_timeout_s: int = INITIALIZATION_TIMEOUT_S
    note: str = ""

    def __post_init__(self) -> None:
        _check_index(self.count, self.index, self.source)
        if self.count > 1 and self.coordinator_address is None:
            raise UserError(
                f"{self.source} says there are {self.count} processes, but not where process 0 "
                "is; add --coordinator_address=HOST:PORT"
            )
        if self.hosts and len(self.hosts) != self.count:
            raise ValueError(f"{len(self.hosts)} hosts of {self.count} processes")

    @property
    def alone(self) -> bool:
        return self.count == 1

    def line(self) -> str:
        """What was found, for the log."""
        if self.alone:
            return f"one process, by {self.source}" + (f"; {self.note}" if self.note else "")
        gpus = ""
        if self.local_device_ids is not None:
            gpus = f", GPUs {','.join(map(str, self.local_device_ids))} of those visible"
        return (
            f"{self.count} processes, this is {self.index}, "
            f"coordinator {self.coordinator_address}{gpus}, by {self.source}"
        ) + (f"; {self.note}" if self.note else "")

    def name_of(self, index: int) -> str:
        """'3', or '3 (node04)' where its machine is known."""
        return f"{index} ({self.hosts[index]})" if self.hosts else str(index)


def refuse_several(job: str, instead: str) -> None:
    """For a job that runs as one process.

    Raises:
      UserError: it was started as one of several.
    """
    found = settings(os.environ, process_flags.taken_flags())
    if not found.alone:
        raise UserError(
            f"{job} runs as one process, but {found.source} started {found.count}; {instead}, "
            f"or set {ALONE}=1 where each shall run by itself, on a disk of its own"
        )


def settings(
    environment: Mapping[str, str],
    flags: ProcessFlags | None = None,
    metadata: Metadata | None = None,
) -> ProcessSettings:
    """Returns how to join, from nothing but its arguments.

    MT0_COORDINATOR, MT0_NUM_PROCESSES and MT0_PROCESS_ID win over whatever started the process;
    the flags complete what the environment says and must agree with it. Then, in JAX's own
    order: Open MPI, SLURM, TPUs in Kubernetes, GPUs in Kubernetes (NNODES and NODE_RANK, as
    xpk sets them), TPU VMs. JAX_COORDINATOR_ADDRESS and JAX_COORDINATOR_PORT replace the
    address that was found.

    Args:
      environment: as os.environ.
      flags: of the command line.
      metadata: reads the metadata of a TPU VM; None where this is none.

    Raises:
      UserError: variables that contradict each other, or of which some are missing.
    """
    flags = flags or ProcessFlags()
    if environment.get(ALONE):
        return ProcessSettings(source=ALONE)
    found = _explicit(environment)
    for look in (_open_mpi, _slurm, _tpu_pods, _nnodes):
        found = found or look(environment)
    if found is None and metadata is not None and "TPU_SKIP_MDS_QUERY" not in environment:
        found = _tpu_vm(environment, metadata)
    found = _with_flags(found, flags, environment)
    if found.count == 1:
        return ProcessSettings(source=found.source, note=found.note)
    return ProcessSettings(
        found.count, found.index, _address(environment, flags, found), found.source, found.hosts,
        found.local_device_ids, flags.initialization_timeout or INITIALIZATION_TIMEOUT_S,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Found:
    """What one source says: as ProcessSettings, of which it is a draft."""

    count: int
    index: int
    coordinator_address: str | None
    source: str
    hosts: tuple[str, ...] = ()
    local_device_ids: tuple[int, ...] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        _check_index(self.count, self.index, self.source)


def _check_index(count: int, index: int, source: str) -> None:
    if count < 1:
        raise UserError(f"the number of processes is {count} by {source}; it must be 1 or more")
    if not 0 <= index < count:
        raise UserError(
            f"this is process {index} by {source}, but of {count} processes the last is "
            f"{count - 1}; they are counted from 0"
        )


def _with_flags(
    found: _Found | None, flags: ProcessFlags, environment: Mapping[str, str]
) -> _Found:
    given = {"--process_count": flags.process_count, "--process_index": flags.process_index}
    asked = [name for name, value in given.items() if value is not None]
    if found is not None and found.count == 1 and flags.process_count not in (None, 1):
        found = None  # started by hand, inside a job step of one task
    if found is None:
        return _by_flags_alone(asked, flags, environment)
    for (name, value), there in zip(given.items(), (found.count, found.index), strict=True):
        if value is not None and value != there:
            raise UserError(
                f"{name} is {value}, but {found.source} says {there}; leave the flag out, or "
                "unset the variables"
            )
    if asked:
        found = dataclasses.replace(found, source=f"flags and {found.source}")
    return found


def _by_flags_alone(
    asked: list[str], flags: ProcessFlags, environment: Mapping[str, str]
) -> _Found:
    """Where nothing in the environment says that there are other processes."""
    if flags.process_count == 1:
        return _Found(1, flags.process_index or 0, None, "flags")
    if len(asked) == 2:
        return _Found(flags.process_count, flags.process_index, None, "flags")
    addresses = ["--coordinator_address"] * (flags.coordinator_address is not None)
    addresses += ["JAX_COORDINATOR_ADDRESS"] * ("JAX_COORDINATOR_ADDRESS" in environment)
    if asked or addresses:
        missing = [name for name in ("--process_count", "--process_index") if name not in asked]
        raise UserError(
            f"{' and '.join(asked + addresses[:1])} came without {' and '.join(missing)}, and "
            "nothing else (srun, mpirun, a TPU) says them; give them too"
        )
    if flags.multiprocess_gpu:
        raise UserError(
            "--multiprocess_gpu asks for other processes, but nothing here says where they are; "
            "add --coordinator_address, --process_count and --process_index, or start it by "
            "srun or mpirun"
        )
    note = ""
    if _number(environment, "SLURM_NTASKS", 1) > 1:
        note = (
            f"SLURM holds {environment['SLURM_NTASKS']} tasks, but srun did not start this "
            "process: write `srun mt0 …` to run them all"
        )
    return _Found(1, 0, None, "plain machine", note=note)


def _address(environment: Mapping[str, str], flags: ProcessFlags, found: _Found) -> str | None:
    """The address found, unless a flag or JAX's own two variables replace it."""
    if flags.coordinator_address is not None:
        mt0s = environment.get("MT0_COORDINATOR", flags.coordinator_address)
        if mt0s != flags.coordinator_address:
            raise UserError(
                f"--coordinator_address is {flags.coordinator_address}, but MT0_COORDINATOR is "
                f"{mt0s}; leave one out"
            )
        return flags.coordinator_address
    address = found.coordinator_address
    if "MT0_COORDINATOR" in environment:
        return address
    given, port = (environment.get(f"JAX_COORDINATOR_{name}") for name in ("ADDRESS", "PORT"))
    if given is not None:
        has_port = re.search(r":\d+$", given) is not None
        address = given if has_port or port is None else f"{given}:{port}"
        return check_address("JAX_COORDINATOR_ADDRESS, with JAX_COORDINATOR_PORT,", address)
    if address is not None and port is not None:
        address = f"{address.rpartition(':')[0]}:{port}"
        return check_address("by JAX_COORDINATOR_PORT the coordinator", address)
    return address


def _number(environment: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = environment.get(name)
    if text is None and otherwise is not None:
        return otherwise
    if text is None:
        raise UserError(f"{name} is missing beside the variables that go with it; see docs/pods.md")
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} is '{text}'; it must be a number") from None


# Who starts processes.


def _explicit(environment: Mapping[str, str]) -> _Found | None:
    names = [f"MT0_{name}" for name in ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID")]
    missing = [name for name in names if name not in environment]
    if len(missing) == len(names):
        return None
    if missing:
        raise UserError(
            f"{', '.join(names[:2])} and {names[2]} go together, but {' and '.join(missing)} "
            "is missing; set all three or none"
        )
    address = check_address(names[0], environment[names[0]])
    count, index = (_number(environment, name) for name in names[1:])
    return _Found(count, index, address, names[1])


def _open_mpi(environment: Mapping[str, str]) -> _Found | None:
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    count = _number(environment, "OMPI_COMM_WORLD_SIZE")
    index = _number(environment, "OMPI_COMM_WORLD_RANK")
    devices = None
    if _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", 1) > 1:
        local = _number(environment, "OMPI_COMM_WORLD_LOCAL_RANK")
        here = _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE")
        devices = _tuple(slurm.local_devices(_without_slurm(environment), here, local))
    # mpirun's own address: 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911. From Open MPI 5 on
    # there is none.
    uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
    match = re.match(r"(\d+)\..*?tcp6?://(?:\[([^,\]]+)|([^,:]+))", uri)
    address = None
    if match:
        host = f"[{match[2]}]" if match[2] else match[3]
        address = f"{host}:{slurm.port(int(match[1]) // 4096, 0)}"
    return _Found(count, index, address, "Open MPI", (), devices)


def _without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    # What SLURM says about tasks is about mpirun's own daemons.
    return {name: text for name, text in environment.items() if not name.startswith("SLURM_")}


def _slurm(environment: Mapping[str, str]) -> _Found | None:
    # Set for what srun started. A batch script has SLURM_NTASKS too, and is one process.
    if "SLURM_STEP_NODELIST" not in environment:
        return None
    count = _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 0))
    if not count:
        raise UserError("SLURM_NTASKS is missing beside SLURM_STEP_NODELIST; see docs/pods.md")
    index = _number(environment, "SLURM_PROCID")
    nodes = slurm.hosts(environment["SLURM_STEP_NODELIST"])
    job = _number(environment, "SLURM_JOB_ID")
    port = slurm.port(job, _number(environment, "SLURM_STEP_ID", 0))
    devices = None
    if count > 1:
        here = _slurm_tasks_here(environment, count, len(nodes))
        local = _number(environment, "SLURM_LOCALID")
        devices = _tuple(slurm.local_devices(environment, here, local))
    hosts = tuple(nodes) if len(nodes) == count else ()
    return _Found(count, index, f"{nodes[0]}:{port}", "SLURM", hosts, devices)


def _slurm_tasks_here(environment: Mapping[str, str], count: int, num_nodes: int) -> int:
    text = environment.get("SLURM_STEP_TASKS_PER_NODE")
    if text is None:
        return -(-count // num_nodes)
    tasks = slurm.tasks_per_node(text)
    if sum(tasks) != count:
        raise UserError(
            f"SLURM_STEP_TASKS_PER_NODE is '{text}', {sum(tasks)} tasks, but there are {count} by "
            "SLURM_NTASKS"
        )
    node = _number(environment, "SLURM_NODEID", 0)
    if not 0 <= node < len(tasks):
        raise UserError(f"SLURM_NODEID is {node}, but the step has {len(tasks)} nodes")
    return tasks[node]


def _tpu_pods(environment: Mapping[str, str]) -> _Found | None:
    """TPUs in Kubernetes: variables of the device plugin and of JobSet."""
    name = "TPU_WORKER_HOSTNAMES"
    name = "TPU_PROCESS_ADDRESSES" if "TPU_PROCESS_ADDRESSES" in environment else name
    hosts = [host for host in environment.get(name, "").split(",") if host.strip()]
    slices = _number(environment, "MEGASCALE_NUM_SLICES", 1)
    if not hosts or (len(hosts) == 1 and slices == 1):
        return None
    if "TPU_WORKER_ID" not in environment:
        raise UserError(f"{name} lists {len(hosts)} hosts, but TPU_WORKER_ID is missing")
    worker = _number(environment, "TPU_WORKER_ID")
    return _slices("TPU pods in Kubernetes", environment, hosts, worker)


def _tpu_vm(environment: Mapping[str, str], metadata: Metadata) -> _Found | None:
    worker, endpoints = metadata("agent-worker-number"), metadata("worker-network-endpoints")
    if worker is None or not endpoints:
        return None
    hosts = []
    for endpoint in endpoints.split(","):
        # A name or address, or (older) name:id:address.
        parts = endpoint.strip().split(":")
        if len(parts) not in (1, 3):
            raise UserError(f"the TPU VM's metadata name a worker '{endpoint}', which is not known")
        hosts.append(parts[-1])
    megascale = dict(environment)
    for row in (metadata("tpu-env") or "").splitlines():
        key, _, value = row.partition(":")
        if key.strip().startswith("MEGASCALE_"):
            megascale.setdefault(key.strip(), value.strip().strip("'\""))
    index = _number({"agent-worker-number": worker}, "agent-worker-number")
    return _slices("the TPU VM's metadata", megascale, hosts, index)


def _slices(source: str, environment: Mapping[str, str], hosts: list[str], worker: int) -> _Found:
    """Processes are counted slice by slice; the first of the first slice coordinates."""
    if not 0 <= worker < len(hosts):
        raise UserError(
            f"this is worker {worker} by {source}, but the slice has {len(hosts)} workers, "
            "counted from 0"
        )
    slices = _number(environment, "MEGASCALE_NUM_SLICES", 1)
    if slices <= 1:
        address = f"{hosts[0].partition(':')[0]}:{TPU_PORT}"
        return _Found(len(hosts), worker, address, source, tuple(hosts))
    names = ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_SLICE_ID")
    for name in names:
        if name not in environment:
            raise UserError(f"MEGASCALE_NUM_SLICES is {slices}, but {name} is missing")
    number = _number(environment, names[1])
    if not 0 <= number < slices:
        raise UserError(f"MEGASCALE_SLICE_ID is {number} of {slices} slices, counted from 0")
    address = f"{environment[names[0]].partition(':')[0]}:{TPU_PORT}"
    index = number * len(hosts) + worker
    return _Found(slices * len(hosts), index, address, f"{source}, {slices} slices")


def _nnodes(environment: Mapping[str, str]) -> _Found | None:
    """GPUs in Kubernetes: an indexed job or JobSet, with xpk's spelling of what JAX needs."""
    if "NNODES" not in environment or "KUBERNETES_SERVICE_HOST" not in environment:
        return None
    name = "NODE_RANK" if "NODE_RANK" in environment else "JOB_COMPLETION_INDEX"
    count, index = _number(environment, "NNODES"), _number(environment, name)
    return _Found(count, index, None, f"NNODES and {name}")


def _tuple(devices: list[int] | None) -> tuple[int, ...] | None:
    return None if devices is None else tuple(devices)
