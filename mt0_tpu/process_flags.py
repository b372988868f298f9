"""T5X's flags for several processes: --multiprocess_gpu, --coordinator_address and so on."""

from __future__ import annotations

import argparse
import dataclasses

from mt0_tpu.errors import UserError

INITIALIZATION_TIMEOUT_S = 300  # jax.distributed's own default


@dataclasses.dataclass(frozen=True)
class ProcessFlags:
    """T5X's flags of the same names. The last is in seconds, as there.

    Raises:
      UserError: a number out of range, an address that is none.
    """

    multiprocess_gpu: bool = False
    coordinator_address: str | None = None
    process_count: int | None = None
    process_index: int | None = None
    initialization_timeout: int | None = None

    def __post_init__(self) -> None:
        if self.coordinator_address is not None:
            check_address("--coordinator_address", self.coordinator_address)
        for name, least in (
            ("process_count", 1),
            ("process_index", 0),
            ("initialization_timeout", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name} is {value}; it must be at least {least}")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds T5X's flags for several processes to a job's parser."""
    group = parser.add_argument_group(
        "several processes", "found by themselves on TPUs and under SLURM; else, as in T5X"
    )
    group.add_argument(
        "--multiprocess_gpu", nargs="?", const="true", choices=("true", "false"), metavar="BOOL",
        help="there must be other processes",
    )  # fmt: skip
    group.add_argument("--coordinator_address", metavar="HOST:PORT", help="where process 0 is")
    group.add_argument("--process_count", type=int, metavar="N", help="how many there are")
    group.add_argument("--process_index", type=int, metavar="I", help="which this is, from 0")
    group.add_argument(
        "--initialization_timeout", type=int, metavar="SECONDS",
        help=f"how long to wait for the others ({INITIALIZATION_TIMEOUT_S})",
    )  # fmt: skip


_taken = ProcessFlags()


def take_flags(namespace: argparse.Namespace) -> ProcessFlags:
    """Keeps the command line's flags for the job's own initialize(), and returns them.

    A command without these flags has none.
    """
    global _taken
    names = [field.name for field in dataclasses.fields(ProcessFlags)]
    given = {name: getattr(namespace, name, None) for name in names}
    given["multiprocess_gpu"] = given["multiprocess_gpu"] == "true"
    _taken = ProcessFlags(**given)
    return _taken


def taken_flags() -> ProcessFlags:
    return _taken


def check_address(name: str, address: str) -> str:
    """Returns it. Raises UserError where it is not HOST:PORT."""
    host, _, port = address.rpartition(":")
    bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not host or bare or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"{name} is '{address}'; write HOST:PORT, such as node01:1234")
    return address
