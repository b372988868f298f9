"""Rank tasks as stock SeqIO and T5X evaluate them: one example a choice, scored, then ranked.

Importing the module (T5X: MIXTURE_OR_TASK_MODULE = 'seqio_tasks.scored') registers `<name>_scored`
for every rank task and mixture of rank tasks that is registered by then, mini-xP3's always:
`mini_eval_scored`, `mini_eval_nli_sw_scored` and so on. For others call `add_scored`.

`mt0 eval` needs none of this; it reads the choices themselves and encodes each input once.
"""

from __future__ import annotations

import seqio

from seqio_tasks import choices, load, task_facts

SUFFIX = "_scored"


def is_rank(provider: seqio.Task | seqio.Mixture) -> bool:
    """Whether a task, or every task of a mixture, ranks choices."""
    tasks = seqio.get_subtasks(provider)
    features = [task.output_features.get("choices") for task in tasks]
    return bool(features) and all(feature and feature.rank == 2 for feature in features)


def add_scored(name: str) -> str:
    """Registers the scored form of a registered rank task or mixture, unless it is there.

    Args:
      name: the rank task or mixture.

    Returns:
      The name of the scored form, whose metric is `rank_accuracy`.

    Raises:
      ValueError: the name is unknown or ranks no choices, or tokenises them in a way of its own.
    """
    provider = seqio.get_mixture_or_task(name)
    if not is_rank(provider):
        raise ValueError(
            f"'{name}' ranks no choices; name a task with an output feature 'choices' of rank 2."
        )
    scored = name + SUFFIX
    if isinstance(provider, seqio.Mixture):
        rates = [(add_scored(task.name), provider.get_rate(task)) for task in provider.tasks]
        if scored not in seqio.MixtureRegistry.names():
            seqio.MixtureRegistry.add(scored, rates)
    elif scored not in seqio.TaskRegistry.names():
        _add_task(provider, scored)
    return scored


def _add_task(task: seqio.Task, scored: str) -> None:
    steps = [step for step in task.preprocessors if not isinstance(step, choices.RightChoice)]
    if seqio.preprocessors.tokenize not in steps:
        raise ValueError(
            f"'{task.name}' has no step seqio.preprocessors.tokenize; its choices must be text "
            "until then."
        )
    steps.insert(steps.index(seqio.preprocessors.tokenize), choices.each_choice)
    choice = task.output_features["choices"]
    seqio.TaskRegistry.add(
        scored,
        source=task.source,
        preprocessors=steps,
        output_features={
            "inputs": task.output_features["inputs"],
            "targets": seqio.Feature(choice.vocabulary, add_eos=choice.add_eos),
        },
        postprocess_fn=choices.choice_facts,
        metric_fns=[choices.choice_accuracy],
    )
    task_facts.register_facts(scored, **task_facts.facts(task.name))


def add_all() -> list[str]:
    """Registers the scored form of everything that ranks; returns the names."""
    names = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    return [add_scored(name) for name in names if is_rank(seqio.get_mixture_or_task(name))]


load()
add_all()
