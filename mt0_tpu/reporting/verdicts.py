"""The study's questions, answered from the scores: yes, no, or within noise."""

from __future__ import annotations

import dataclasses
import math
import statistics

from mt0_tpu.reporting.runs import ARM_TITLES, arm_title, short_title
from mt0_tpu.reporting.tables import Column, Scores

_MOST_RIVALS = 8


@dataclasses.dataclass(frozen=True)
class Verdict:
    """An answer to one question of the study, computed from the scores."""

    answer: str  # yes, no, within noise
    sentence: str
    noise: str  # what the answer's certainty rests on
    short: str
    decisive: bool  # one of the four comparisons that make up the paper's finding


def judge(pairs: list[tuple[float, float, float]]) -> tuple[str, float, float]:
    """Judges paired scores: (answer, mean difference, half width of its 95 % interval).

    Several seeds: Student's t over the seeds' differences. One seed: the sampling error of the
    test questions, which knows nothing of the spread between seeds.
    """
    differences = [mine - other for mine, other, _ in pairs]
    mean = statistics.fmean(differences)
    if len(pairs) > 1:
        from scipy.special import stdtrit

        error = statistics.stdev(differences) / math.sqrt(len(pairs))
        half = float(stdtrit(len(pairs) - 1, 0.975)) * error
    else:
        half = 1.96 * math.sqrt(pairs[0][2])
    # Equal scores differ by rounding of the sums; that is no difference.
    if abs(mean) <= half or abs(mean) < 1e-9:
        return "within noise", mean, half
    return ("yes" if mean > 0 else "no"), mean, half


def verdicts(scores: Scores) -> tuple[list[Verdict], list[str]]:
    """Answers the study's questions; returns the answers, and arms needed for the others."""
    held_out, trained = scores.held_out, scores.trained
    unseen = Column(held_out, "unseen", "unseen languages, held-out clusters")
    trained_unseen = Column(trained, "unseen", "unseen languages, trained clusters")
    # An evaluation of the user's own may hold nothing out.
    everything = (
        Column(held_out, "all", "all languages, held-out clusters")
        if held_out
        else Column(trained, "all", "all languages, trained clusters")
    )
    questions = [
        ("multilingual", "english", unseen, True),
        ("multilingual", "pretrain", everything, True),
        ("english", "pretrain", everything, True),
        ("multilingual", "english", trained_unseen, False),
        ("multilingual", "scratch", everything, False),
    ]
    own = [arm for arm in scores.cells if arm not in ("pretrain", "untrained")]
    questions += [(best, other, everything, False) for best, other in _rivals(scores, everything)]
    # No arm of finetuning yet: say at least where pretraining alone stands.
    bases = reversed(own or list(scores.cells))
    # Differences below chance mean little: the finding needs a model above it.
    questions += [(arm, "baseline", everything, arm == "multilingual") for arm in bases]
    answers, missing = [], set()
    for better, worse, column, decisive in questions:
        missing |= {arm for arm in (better, worse) if arm not in {*scores.cells, "baseline"}}
        if pairs := scores.compare(better, worse, column):
            answers.append(_verdict(better, worse, column, decisive, pairs))
    return answers, sorted(missing)


def _rivals(scores: Scores, column: Column) -> list[tuple[str, str]]:
    """Pairs the best run that is no arm of the study with each of the other such runs."""
    means = {
        arm: found.mean
        for arm in scores.cells
        if arm not in ARM_TITLES and (found := scores.over_seeds(arm, column))
    }
    ranked = sorted(means, key=lambda arm: -means[arm])
    return [(ranked[0], other) for other in ranked[1:_MOST_RIVALS]]


def conclusion(answers: list[Verdict]) -> str:
    """Says in a sentence whether the paper's finding shows; '' where a part was not measured."""
    decisive = [verdict.answer for verdict in answers if verdict.decisive]
    if len(decisive) < 4:
        return ""
    extent = {4: "shows here in full", 0: "does not show here"}.get(
        decisive.count("yes"),
        f"shows here in part ({decisive.count('yes')} of 4 comparisons)",
    )
    return (
        "The paper's finding, that multitask finetuning carries to tasks never finetuned on and "
        f"doing it in many languages carries to unseen ones, {extent}."
    )


def _capital(arm: str) -> str:
    """Begins a sentence with an arm; the name of a run of the user's own stays as it is."""
    title = arm_title(arm)
    return title[0].upper() + title[1:] if arm in ARM_TITLES else title


def _verdict(better: str, worse: str, column: Column, decisive: bool, pairs: list) -> Verdict:
    answer, mean, half = judge(pairs)
    mine, other = (statistics.fmean(pair[i] for pair in pairs) for i in (0, 1))
    relation = {
        "yes": "beats",
        "no": "falls behind",
        "within noise": "cannot be told from",
    }[answer]
    baseline = "the better of chance and majority"
    rival = baseline if worse == "baseline" else arm_title(worse)
    short_rival = "chance and majority" if worse == "baseline" else short_title(worse)
    if len(pairs) > 1:
        each = ", ".join(f"{100 * (a - b):+.1f}" for a, b, _ in pairs)
        deviation = statistics.stdev(a - b for a, b, _ in pairs)
        noise = (
            f"{len(pairs)} seeds: {each}; standard deviation {100 * deviation:.1f}; 95% "
            f"interval {100 * (mean - half):+.1f} to {100 * (mean + half):+.1f}."
        )
    else:
        noise = (
            f"One seed: 95% interval {100 * (mean - half):+.1f} to {100 * (mean + half):+.1f} by "
            "the number of test questions alone; the spread between seeds is not known."
        )
    return Verdict(
        answer,
        f"{_capital(better)} {relation} {rival} ({column.title}): {100 * mine:.1f}% against "
        f"{100 * other:.1f}%, {100 * mean:+.1f} points.",
        noise,
        f"{short_title(better)} {relation} {short_rival} ({column.title}): "
        f"{100 * mean:+.1f} ± {100 * half:.1f}",
        decisive,
    )
