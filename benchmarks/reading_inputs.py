"""What a file of inputs costs `mt0 infer` before a token is computed: CPU-seconds and memory.

    python -m benchmarks.reading_inputs [LINES]

Checks every line (JSON, fields, ids told apart), then reads all of them in pieces of 512.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from mt0_tpu.input_lines import open_inputs

_PIECE = 512


def main(num_lines: int) -> None:
    """Prints one line of JSON."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.jsonl"
        with path.open("w") as file:
            for number in range(num_lines):
                text = "a question of some length " * 8 + str(number)
                file.write(json.dumps({"id": number, "inputs": text}) + "\n")
        before, began = _peak_mib(), time.process_time()
        lines = open_inputs(str(path))
        opened = time.process_time() - began
        for first in range(0, num_lines, _PIECE):
            lines.read(first, min(first + _PIECE, num_lines))
        found = {
            "lines": num_lines,
            "file_mib": round(path.stat().st_size / 2**20, 1),
            "peak_mib_more": round(_peak_mib() - before, 1),
            "check_cpu_s": round(opened, 2),
            "read_cpu_s": round(time.process_time() - began - opened, 2),
        }
    print(json.dumps(found))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
