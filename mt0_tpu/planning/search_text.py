"""A search in a table, and the gin lines to paste."""

from __future__ import annotations

from typing import Any

from mt0_tpu.planning import search
from mt0_tpu.planning.search import Found, Tried

GIB = 2**30


def lines(found: Found) -> list[str]:
    """Returns what `mt0 plan --search` prints."""
    shown = [
        f"{found.candidates} candidates, {len(found.predicted)} of which should fit by formula; "
        f"{len(found.tried)} compiled, fastest first:",
        "",
        f"{'step s':>8} {'formula':>8} {'GiB':>7} {'formula':>8} {'TFLOP':>7} {'moved GiB':>10}  ",
    ]
    shown += [_row(one) for one in found.tried]
    if found.pairs:
        shown += ["", f"formulas and compiled programs agree on the order of {found.agreed} of "
                  f"{found.pairs} pairs"]  # fmt: skip
    best = found.tried[0]
    if best.plan.fits is False:
        shown += ["", "none of those compiled fits; raise --compile, or take a larger slice"]
        return shown
    shown += ["", "to paste after the recipe's own lines:"]
    shown += [f"  {line}" for line in search.gin_lines(best.candidate, found.config)]
    return shown


def _row(one: Tried) -> str:
    made, guess = one.plan, one.prediction
    step = f"{made.estimate.step_s:.3f}" if made.estimate else "-"
    size = f"{made.memory.reserved / GIB:.2f}" if made.memory else "OOM"
    return (
        f"{step:>8} {guess.seconds:>8.3f} {size:>7} {guess.peak_bytes / GIB:>8.2f} "
        f"{made.flops / 1e12:>7.1f} {made.collective_bytes / GIB:>10.1f}  "
        f"{search.describe(one.candidate)}"
    )


def as_dict(found: Found) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "candidates": found.candidates,
        "should_fit": len(found.predicted),
        "agreed": found.agreed,
        "pairs": found.pairs,
        "tried": [
            {
                "gin": search.gin_lines(one.candidate, found.config),
                "rows": one.candidate.rows,
                "predicted_step_s": one.prediction.seconds,
                "predicted_peak_bytes": one.prediction.peak_bytes,
                "plan": one.plan.as_dict(),
            }
            for one in found.tried
        ],
    }
