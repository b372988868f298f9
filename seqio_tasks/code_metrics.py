"""pass@k: how often one of k programs written for a problem passes its test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from seqio_tasks import code_execution
from seqio_tasks.code_execution import LIMITS, Limits, Outcome, Program

KS = (1, 10, 100)


def estimate(num_samples: int, num_passed: int, k: int) -> float:
    """The unbiased estimate of pass@k of one problem, 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1.

    Raises:
      ValueError: fewer samples than k, or more passed than there are.
    """
    if not 1 <= k <= num_samples or not 0 <= num_passed <= num_samples:
        raise ValueError(
            f"pass@{k} of {num_samples} samples of which {num_passed} passed has no estimate; "
            "write 1 <= k <= samples and 0 <= passed <= samples."
        )
    return 1 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


def pass_at_k(
    targets: Sequence[Mapping[str, str]],
    predictions: Sequence[str | Sequence[str]],
    *,
    ks: Sequence[int] = KS,
    limits: Limits = LIMITS,
    workers: int | None = None,
) -> dict[str, float]:
    """Runs the predictions and returns {'pass@1': share, …} over all problems (0 to 1).

    A k for which some problem has too few samples is left out.

    Args:
      targets: the problems: 'task_id', 'prompt', 'test' (it defines `check`), 'entry_point' (the
        function that is checked). A problem that comes several times has the samples of all.
      predictions: a completion of each prompt, or a list of them.

    Raises:
      ValueError: running code was not allowed, nothing to run, or every k is too large.
    """
    outcomes = judged(targets, predictions, limits=limits, workers=workers)
    counts = [(len(each), sum(one.passed for one in each)) for each in outcomes.values()]
    fewest = min(num_samples for num_samples, _ in counts)
    found = {
        f"pass@{k}": sum(estimate(*count, k) for count in counts) / len(counts)
        for k in ks
        if k <= fewest
    }
    if not found:
        raise ValueError(
            f"pass@{min(ks)} needs {min(ks)} samples of each problem, and one has {fewest}; raise "
            "DecodeConfig.num_decodes with method 'sample', or ask for a smaller k."
        )
    return found


def judged(
    targets: Sequence[Mapping[str, str]],
    predictions: Sequence[str | Sequence[str]],
    *,
    limits: Limits = LIMITS,
    workers: int | None = None,
) -> dict[str, list[Outcome]]:
    """Runs the predictions and returns their outcomes by task_id; arguments as of `pass_at_k`."""
    code_execution.require()
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} results; give one each.")
    if not len(targets):
        raise ValueError("There is nothing to run; give at least one problem and completion.")
    names, programs = [], []
    for problem, samples in zip(targets, predictions, strict=True):
        listed = [samples] if isinstance(samples, str) else list(samples)
        if not listed:
            raise ValueError(f"{problem['task_id']} has no completion; give it one or more.")
        for sample in listed:
            names.append(problem["task_id"])
            test = f"{problem['test']}\ncheck({problem['entry_point']})\n"
            programs.append(Program(problem["prompt"] + sample, test))
    outcomes: dict[str, list[Outcome]] = {}
    for name, outcome in zip(
        names, code_execution.run_programs(programs, limits, workers), strict=True
    ):
        outcomes.setdefault(name, []).append(outcome)
    return outcomes
