"""From scores of choices to accuracies: per task and prompt, then per cluster and data set.

The aggregation is that of the published evaluation of mT0: the median over prompts, then the mean
over languages.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mt0_tpu import reference_scores
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
                "dataset": belonging.dataset,
                "language": belonging.language,
                "prompt_language": belonging.prompt_language,
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
    return {
        "cluster": cluster,
        "held_out_cluster": chosen[0][0]["held_out_cluster"],
        "languages": languages,
        "num_languages": len({prompts[0]["language"] for prompts in chosen}),
        "median_accuracy": _average(chosen, statistics.median, "accuracy"),
        **_spread(chosen),
    }


def _spread(chosen: Sequence[Sequence[Mapping]]) -> dict:
    return {
        "mean": _average(chosen, statistics.fmean, "accuracy"),
        "max": _average(chosen, max, "accuracy"),
        "chance": _average(chosen, statistics.fmean, "chance"),
        "majority": _average(chosen, statistics.fmean, "majority"),
    }


def _average(chosen: Sequence[Sequence[Mapping]], reduce, field: str) -> float:
    """Reduces the prompts of each task in a language, and averages over them."""
    return statistics.fmean(reduce(line[field] for line in prompts) for prompts in chosen)


def dataset_scores(lines: Iterable[Mapping]) -> list[dict]:
    """Returns each data set's scores over seen (L1), unseen (L2) and all languages.

    Prompts in English and translated ones are kept apart. Reduced as in `groups`; accuracies from
    0 to 1. `tasks` names what a score is of.
    """
    by_dataset: dict[tuple[str, str], dict[tuple, list[Mapping]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for line in lines:
        key = (line.get("dataset", line["cluster"]), line.get("prompt_language", ""))
        by_dataset[key][line["task"], line["language"]].append(line)
    result = []
    for (dataset, prompt_language), by_task in sorted(by_dataset.items()):
        for languages in ("L1", "L2", "all"):
            chosen = [
                prompts
                for prompts in by_task.values()
                if languages == "all" or prompts[0]["seen_language"] == (languages == "L1")
            ]
            if chosen:
                about = {"dataset": dataset, "prompt_language": prompt_language}
                result.append(about | _dataset_score(languages, chosen))
    return result


def _dataset_score(languages: str, chosen: Sequence[Sequence[Mapping]]) -> dict:
    return {
        "languages": languages,
        "num_languages": len({prompts[0]["language"] for prompts in chosen}),
        "tasks": sorted({prompts[0]["task"] for prompts in chosen}),
        "median": _average(chosen, statistics.median, "accuracy"),
        **_spread(chosen),
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


def dataset_table(
    scores: Sequence[Mapping],
    own: str | None = None,
    untrained: Sequence[Mapping] = (),
    models: Sequence[str] = ("mT0-300M", "mT0-1.2B", "mT0-13B", "BLOOMZ-7.1B"),
) -> str:
    """Returns the paper's data sets among scores as text, published medians beside; '' for none.

    A published number is the mean over just the tasks that were scored.

    Args:
      scores: of `dataset_scores`.
      own: the published model of this network's size (`reference_scores.model_of_size`); it comes
        first.
      untrained: `dataset_scores` of an untrained network; a column more.
      models: published models to show.
    """
    published = _published()
    known = [
        score
        for score in scores
        if score["languages"] != "all" and all(task in published for task in score["tasks"])
    ]
    if not known:
        return ""
    models = list(dict.fromkeys([*filter(None, [own]), *models]))
    drawn = {_place(score): score for score in untrained}
    names = [_title(score) for score in known]
    width = max(map(len, [*names, "data set"])) + 1
    heads = ["median", "mean", "max", "chance", "majority", *(["untrained"] if drawn else [])]
    heads += models
    lines = [" ".join([f"{'data set':{width}}", *(f"{head:>{_width(head)}}" for head in heads)])]
    for name, score in zip(names, known, strict=True):
        cells = [score[head] for head in heads[:5]]
        if drawn:
            cells.append(drawn.get(_place(score), {}).get("median"))
        cells += [_published_mean(published, score["tasks"], model) for model in models]
        texts = ["-" if cell is None else f"{100 * cell:.1f}" for cell in cells]
        row = (f"{text:>{_width(head)}}" for text, head in zip(texts, heads, strict=True))
        lines.append(" ".join([f"{name:{width}}", *row]))
    lines.append(
        "accuracy in %: median, mean and best of the prompts, then the mean over (languages), L1 "
        "seen in xP3, L2 not; of published models the median, over the same languages"
    )
    return "\n".join(lines)


def _published() -> dict[str, dict[str, float]]:
    """Published medians, from 0 to 1, by task and model."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for score in reference_scores.reference_scores(metric=reference_scores.MEDIAN):
        found[score.task][score.model] = score.value / 100
    return found


def _published_mean(published: Mapping, tasks: Sequence[str], model: str) -> float | None:
    values = [published[task].get(model) for task in tasks]
    return None if None in values else statistics.fmean(values)


def _place(score: Mapping) -> tuple:
    return score["dataset"], score["prompt_language"], score["languages"], tuple(score["tasks"])


def _title(score: Mapping) -> str:
    prompts = "" if score["prompt_language"] in ("", "EN") else f" {score['prompt_language']}"
    return f"{score['dataset']}{prompts} {score['languages']} ({score['num_languages']})"


def _width(head: str) -> int:
    return max(len(head), 6)
