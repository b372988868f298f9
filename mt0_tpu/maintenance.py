"""Notices of Google's machines that they are about to stop, which come before SIGTERM.

https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice: the metadata
`instance/maintenance-event` turns from NONE to TERMINATE_ON_HOST_MAINTENANCE, and that of a
Spot machine `instance/preempted` from FALSE to TRUE.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable

Read = Callable[[str], str | None]
"""Reads a key of the machine's metadata, under `instance/`; None where there is none."""

_KEYS = {
    # A live migration only pauses the machine.
    "maintenance-event": ("TERMINATE_ON_HOST_MAINTENANCE", "host maintenance"),
    "preempted": ("TRUE", "preemption of this Spot machine"),
}
_READ_TIMEOUT_S = 5.0


class MaintenanceNews:
    """Says once what was announced since it was made.

    What stood there before is left to SIGTERM: a job that is started again on the same machine
    hours ahead of its maintenance would otherwise stop again at once.
    """

    def __init__(self, read: Read):
        self._read = read
        self._before = {key: read(key) for key in _KEYS}

    def __call__(self) -> str | None:
        """Returns 'host maintenance' or the like; None where nothing is announced."""
        for key, (alarm, name) in _KEYS.items():
            value = self._read(key)
            if value is None:
                continue
            before, self._before[key] = self._before[key], value
            if value == alarm and before != alarm:
                return name
        return None


def google_metadata(key: str) -> str | None:
    """Reads a key of this machine's metadata server; None where it does not answer."""
    host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{host}/computeMetadata/v1/instance/{key}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=_READ_TIMEOUT_S) as answer:
            return answer.read(4096).decode("utf-8", "replace").strip()
    except (OSError, urllib.error.URLError, ValueError):
        return None
