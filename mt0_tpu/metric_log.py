"""Metric sums between two lines of metrics.jsonl, and the line that the terminal shows of them."""

from __future__ import annotations

import math

import jax

from mt0_tpu import progress
from mt0_tpu.errors import UserError
from mt0_tpu.step_health import StepHealth


class MetricLog:
    """Metric sums since the last line of metrics.jsonl, added in the order of the steps."""

    def __init__(self, sums: dict[str, float] | None, num_steps: int):
        self.sums = dict(sums or {})
        self.steps = num_steps
        self.last_loss = "-"  # until the first step's sums have come back

    def add(self, step: int, sums: dict[str, jax.Array], health: StepHealth | None = None) -> None:
        """Adds one step's sums, or counts it as skipped; waits for the device.

        Without a judge of the step's health, a loss that is not finite is refused.
        """
        host = {name: float(value) for name, value in jax.device_get(sums).items()}
        self.last_loss = f"{host['weighted_loss'] / max(host['weight'], 1e-9):.4f}"
        admitted = True
        if health is not None:
            admitted = health.admits(step, host)
            if health.skips:
                host["skipped_steps"] = 0.0 if admitted else 1.0
        elif not math.isfinite(host["loss"]):
            raise UserError(
                f"the loss of an evaluation is {host['loss']}: lower the learning rate or check "
                "the data, and run again from the last checkpoint"
            )
        if not admitted:
            host = {name: v if name == "skipped_steps" else 0.0 for name, v in host.items()}
        for name, value in host.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += admitted

    def reset(self) -> None:
        self.sums, self.steps = {}, 0


def log_line(step: int, final_step: int, metrics: dict[str, float], eta_seconds: float) -> str:
    """Returns what is said of the metrics of the steps since the last line."""
    skipped = f"  skipped {n:.0f}" if (n := metrics.get("skipped_steps")) else ""
    if "accuracy" not in metrics:
        return f"step {step}/{final_step}  every step since the last line was skipped"
    return (
        f"step {step}/{final_step}  loss {metrics['loss_per_nonpadding_target_token']:.4f}  "
        f"acc {metrics['accuracy']:.3f}  lr {metrics['learning_rate']:.2e}  "
        f"{metrics['timing/steps_per_second']:.2f} steps/s  "
        f"{metrics['timing/real_tokens_per_second']:,.0f} real tokens/s  "
        f"filled {metrics['non_padding_fraction/overall']:.1%}{skipped}  "
        f"eta {progress.duration(eta_seconds)}"
    )
