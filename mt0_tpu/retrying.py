"""Trying again what a network lost: a few times, ever later, and only where that may help."""

from __future__ import annotations

import errno
import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

TRIES = 5
FIRST_WAIT_S = 1.0
MOST_WAIT_S = 30.0
# "Wait and ask again": of HTTP, and so of every kind of bucket.
_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        "ETIMEDOUT", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EPIPE", "EAGAIN", "ENETDOWN",
        "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH", "ESTALE",
    )
    if hasattr(errno, name)
)  # fmt: skip
# Of aiohttp, urllib3, requests, botocore and http.client, none of which need be installed.
_NAMES = ("Timeout", "Disconnected", "ConnectionError", "ConnectorError", "IncompleteRead",
          "ProtocolError", "ClientPayloadError", "ClientOSError", "ConnectionClosed")  # fmt: skip
_Result = TypeVar("_Result")


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later.

    What does not exist, is forbidden or is a mistake of ours stays so.
    """
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError):
        return False
    status = _status(error)
    if status is not None:
        return status in _STATUSES
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _ERRNOS
    names = {kind.__name__ for kind in type(error).__mro__}
    return any(part in name for name in names for part in _NAMES)


def _status(error: BaseException) -> int | None:
    """The status of HTTP that an error carries, in any of the libraries' ways."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None)
    for name in ("status", "code", "status_code"):
        found = getattr(error, name, None) if found is None else found
    try:
        return int(found)
    except (TypeError, ValueError):
        return None


def retrying(action: Callable[[], _Result], what: str) -> _Result:
    """Returns what the action returns, tried again after errors that may pass.

    Waits about 1, 2, 4 and 8 s, each drawn from half to one and a half of that, so that many
    hosts do not ask again at once.

    Args:
      action: may be run again from its beginning after any error.
      what: named when a try failed.

    Raises its last error, and at once one that will not pass.
    """
    for number in range(1, TRIES + 1):
        try:
            return action()
        except Exception as error:
            if number == TRIES or not is_transient(error):
                raise
            wait_s = min(FIRST_WAIT_S * 2 ** (number - 1), MOST_WAIT_S) * random.uniform(0.5, 1.5)
            reason = (str(error).splitlines() or [""])[0][:200]
            print(
                f"{what}: {type(error).__name__} {reason}; again in {wait_s:.1f} s "
                f"({number} of {TRIES} tries failed)",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")
