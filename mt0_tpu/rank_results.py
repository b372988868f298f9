"""From scores of choices to accuracies: per task and prompt, then per cluster.

The aggregation is that of the published evaluation of mT0: the median over prompts, then the mean
over languages.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mt0_tpu.rank_tasks import RankTask


def rank_lines(task: RankTask, scores: Sequence[np.ndarray], predictions, step: int) -> list[dict]:
    """Returns a line of rank.jsonl for each prompt of a task (and language, where it has several).

    chance is the accuracy of guessing evenly, majority that of always giving the most frequent
    answer index.
    """
    members = defaultdict(list)
    for number, belonging in enumerate(task.belongings):
        members[belonging].append(number)
    lines = []
    for belonging, numbers in members.items():
        answers = task.answers[numbers]
        lines.append(
            {
                "task": task.name,
                "cluster": belonging.cluster,
                "language": belonging.language,
                "prompt": belonging.prompt,
                "num_examples": len(numbers),
                "accuracy": float(np.mean(predictions[numbers] == answers)),
                "chance": float(np.mean([1 / len(scores[number]) for number in numbers])),
                "majority": max(Counter(answers.tolist()).values()) / len(numbers),
                "held_out_cluster": belonging.held_out_cluster,
                "seen_language": belonging.seen_language,
                "step": step,
            }
        )
    return lines


def groups(lines: Iterable[Mapping]) -> list[dict]:
    """Returns for each cluster its scores over seen, unseen and all languages.

    Of the prompts of a task in a language the median, mean and best are taken; each is then
    averaged over tasks and languages.
    """
    by_cluster: dict[str, dict[tuple, list[Mapping]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        by_cluster[line["cluster"]][line["task"], line["language"]].append(line)
    result = []
    for cluster, by_task in sorted(by_cluster.items(), key=_trained_first):
        for languages in ("seen", "unseen", "all"):
            chosen = [
                prompts
                for prompts in by_task.values()
                if languages == "all" or prompts[0]["seen_language"] == (languages == "seen")
            ]
            if chosen:
                result.append(_group(cluster, languages, chosen))
    return result


def _trained_first(item) -> tuple:
    cluster, by_task = item
    return next(iter(by_task.values()))[0]["held_out_cluster"], cluster


def _group(cluster: str, languages: str, chosen: Sequence[Sequence[Mapping]]) -> dict:
    def average(reduce, field: str) -> float:
        return statistics.fmean(reduce(line[field] for line in prompts) for prompts in chosen)

    return {
        "cluster": cluster,
        "held_out_cluster": chosen[0][0]["held_out_cluster"],
        "languages": languages,
        "num_languages": len({prompts[0]["language"] for prompts in chosen}),
        "median_accuracy": average(statistics.median, "accuracy"),
        "mean": average(statistics.fmean, "accuracy"),
        "max": average(max, "accuracy"),
        "chance": average(statistics.fmean, "chance"),
        "majority": average(statistics.fmean, "majority"),
    }


def table(found: Sequence[Mapping]) -> str:
    """Returns the groups as text, a cluster a line: median accuracy in percent, chance beside."""
    by_cluster: dict[str, dict[str, Mapping]] = defaultdict(dict)
    for group in found:
        by_cluster[group["cluster"]][group["languages"]] = group
    width = max([len(cluster) for cluster in by_cluster] + [7]) + 1
    lines = [f"{'cluster':{width}} {'seen':>16} {'unseen':>16} {'chance':>7} {'majority':>9}"]
    for cluster, split in by_cluster.items():
        cells = [_cell(split.get(languages)) for languages in ("seen", "unseen")]
        whole = split["all"]
        star = "*" if whole["held_out_cluster"] else ""
        lines.append(
            f"{cluster + star:{width}} {cells[0]:>16} {cells[1]:>16} "
            f"{100 * whole['chance']:>7.1f} {100 * whole['majority']:>9.1f}"
        )
    lines.append(
        "accuracy in %: median over prompts, mean over (languages). * cluster never finetuned"
    )
    return "\n".join(lines)


def _cell(group: Mapping | None) -> str:
    if group is None:
        return "-"
    return f"{100 * group['median_accuracy']:.1f} ({group['num_languages']})"
