"""A plan in words and figures, for a terminal of a hundred columns."""

from __future__ import annotations

import textwrap

from mt0_tpu.plan import Plan

GIB = 2**30
_COLUMNS = 100


def lines(plan: Plan) -> list[str]:
    """Returns what `mt0 plan` prints."""
    axes = " x ".join(f"{axis} {ways}" for axis, ways in plan.mesh.items() if ways > 1)
    shown = [
        f"{plan.job} on {plan.topology}",
        f"  mesh {axes or 'of one device'}; {plan.rows} rows of {plan.input_length} + "
        f"{plan.target_length} tokens{_training_words(plan)}",
        "",
        _fit_line(plan),
    ]
    if plan.memory:
        shown += _memory_lines(plan)
        shown += ["", *_work_lines(plan)]
    if plan.estimate:
        shown += ["", *_estimate_lines(plan)]
    shown += [
        "",
        f"compiled in {plan.compile_seconds:.0f} s here ({plan.compile_cpu_seconds:.0f} CPU-s)",
    ]
    return shown


def _training_words(plan: Plan) -> str:
    if plan.job != "train":
        return ""
    pieces = plan.num_microbatches
    words = f"{pieces} microbatches" if pieces > 1 else "in one piece"
    return f", {words}, remat '{plan.remat_policy}'"


def _fit_line(plan: Plan) -> str:
    if plan.out_of_memory:
        refused = plan.out_of_memory
        return (
            f"DOES NOT FIT by {plan.short_bytes / GIB:.2f} GiB: temporaries alone take "
            f"{refused.needed / GIB:.2f} of {refused.available / GIB:.2f} GiB on each device"
        )
    total = plan.memory.reserved / GIB
    if plan.limit_bytes is None:
        return f"takes {total:.2f} GiB on each device"
    limit = plan.limit_bytes / GIB
    if not plan.fits:
        return f"DOES NOT FIT by {plan.short_bytes / GIB:.2f} GiB: {total:.2f} of {limit:.2f} GiB"
    return f"FITS: {total:.2f} of {limit:.2f} GiB on each device, {limit - total:.2f} to spare"


def _memory_lines(plan: Plan) -> list[str]:
    memory = plan.memory
    rows = [
        ("parameters", memory.parameters), ("optimizer state", memory.optimizer),
        ("cache", memory.cache), ("batch", memory.batch),
        ("activations and temporaries", memory.temporaries), ("program", memory.program),
    ]  # fmt: skip
    shown = [f"  {name:<30}{size / GIB:>9.3f} GiB" for name, size in rows if size]
    if memory.peak:
        shown.append(f"  {'(alive at once, at most':<30}{memory.peak / GIB:>9.3f} GiB)")
    if memory.host:
        shown.append(f"  {'on the host, for this device':<30}{memory.host / GIB:>9.3f} GiB")
    return shown


def _work_lines(plan: Plan) -> list[str]:
    share = plan.model_flops / plan.topology.devices
    kinds = sorted(plan.collectives.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{kind} {size / GIB:.2f}" for kind, size in kinds if size > GIB / 200)
    shown = [
        "each step, on each device, counted in the compiled program with its loops:",
        f"  {'matrix products':<30}{plan.flops / 1e12:>9.2f} TFLOP"
        f" ({plan.flops / share:.2f} x the model's own {share / 1e12:.2f})",
        *_with_list(
            f"  {'results of collectives':<30}{plan.collective_bytes / GIB:>9.2f} GiB", listed
        ),
    ]
    if plan.dcn_bytes:
        shown.append(f"  {'sent to other slices':<30}{plan.dcn_bytes / GIB:>9.2f} GiB")
    if plan.host_bytes:
        shown.append(f"  {'to and from the host':<30}{plan.host_bytes / GIB:>9.2f} GiB")
    shown.append(f"  {'HBM traffic (estimate)':<30}{plan.hbm_bytes / GIB:>9.1f} GiB")
    return shown


def _with_list(line: str, listed: str) -> list[str]:
    """A list in brackets behind its line, or below where there is no room."""
    if not listed:
        return [line]
    together = f"{line} ({listed})"
    if len(together) <= _COLUMNS:
        return [together]
    indents = {"initial_indent": " " * 4, "subsequent_indent": " " * 5}
    return [line, *textwrap.wrap(f"({listed})", _COLUMNS, **indents)]


def _estimate_lines(plan: Plan) -> list[str]:
    guess = plan.estimate
    parts = [("products", guess.compute_s), ("HBM", guess.hbm_s), ("interconnect", guess.ici_s)]
    parts += [("other slices", guess.dcn_s)] if guess.dcn_s else []
    parts += [("host", guess.host_s)] if guess.host_s else []
    listed = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in parts)
    shown = [
        "estimate (a roofline of peak rates, mt0_tpu/planning/chips.py; not measured):",
        f"  at peak: {listed}",
        f"  step {guess.step_s:.3f} s ({guess.overlapped_s:.3f} were all of it overlapped), "
        f"MFU {guess.mfu:.1%}, {plan.tokens_per_s:,.0f} tokens/s",
    ]
    if plan.hours is not None:
        shown.append(
            f"  {plan.steps:,} steps: {duration(plan.hours)}, "
            f"{plan.hours * plan.topology.chips:,.0f} chip-hours"
        )
    return shown


def duration(hours: float) -> str:
    """Returns 2.3 days, 5.1 hours or 12 min."""
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} min"
