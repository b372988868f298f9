"""What a fault campaign found, counted."""

from __future__ import annotations

import collections
import resource

import numpy as np


class Tally:
    """What the campaign found."""

    def __init__(self):
        self.kills: collections.Counter[str] = collections.Counter()
        self.runs = 0
        self.lost_steps: list[int] = []
        self.wrong: collections.Counter[str] = collections.Counter()
        self.stop_s: list[float] = []
        self.codes: collections.Counter[int] = collections.Counter()

    def killed(self, place: str) -> None:
        self.kills[place] += 1
        print(f"kill {sum(self.kills.values())}: {place}", flush=True)

    def lines(self, seconds: float) -> list[str]:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu = sum(one.ru_utime + one.ru_stime for one in used)
        lost, stops = self.lost_steps or [0], self.stop_s or [0.0]
        wrong = ("repeated or lost examples", "corrupt checkpoints", "metrics that differ",
                 "parameters that differ", "files that differ", "processes that hung",
                 "ends without a sentence", "restarts that failed")  # fmt: skip
        return [
            f"kills {sum(self.kills.values())}, runs finished {self.runs}",
            *(f"  {place:<24} {count:>4}" for place, count in sorted(self.kills.items())),
            f"steps done again after a kill: mean {np.mean(lost):.2f}, most {max(lost)}",
            f"time until the other process ended: median {np.median(stops):.2f} s, "
            f"most {max(stops):.2f} s ({len(self.stop_s)} kills); codes {dict(self.codes)}",
            *(f"{name}: {self.wrong[name]}" for name in wrong),
            f"{seconds:.0f} s, {cpu:.0f} CPU-s",
        ]
