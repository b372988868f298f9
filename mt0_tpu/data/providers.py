"""SeqIO tasks and mixtures by name, registered when they are asked for."""

from __future__ import annotations

import importlib
from typing import Any

from mt0_tpu.errors import UserError, did_you_mean


def find_provider(name: str, module: str | None) -> Any:
    """Returns the registered seqio.Mixture or seqio.Task; UserError with a near match."""
    importlib.import_module("seqio_tasks").import_tensorflow()
    import seqio

    def registered():
        for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
            if name in registry.names():
                return registry.get(name)
        return None

    if registered() is None:
        try:
            importlib.import_module("seqio_tasks").load(module, names=[name])
        except ValueError as error:
            raise UserError(str(error)) from error
    provider = registered()
    if provider is None:
        near = did_you_mean(name, [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()])
        where = "" if module else "; name the module that registers it (MIXTURE_OR_TASK_MODULE)"
        raise UserError(f"no SeqIO mixture or task is named '{name}'{where}.{near}")
    return provider


def tasks_of(provider: Any) -> list[Any]:
    """Returns a mixture's tasks, or the task itself."""
    return list(getattr(provider, "tasks", None) or [provider])


def never_drawn(provider: Any, task: Any) -> bool:
    """Whether a mixture gives a task no rate but the number 0; rates by function are not asked.

    They may count the examples of a source, which caching spares.
    """
    if provider is task:
        return False
    rates = getattr(provider, "rate_per_task_name", {})
    own = rates.get(task.name)
    if own is not None and (callable(own) or float(own) != 0):
        return False
    for sub in getattr(provider, "_sub_mixtures", ()):
        if task in sub.tasks and float(rates[sub.name]) != 0 and not never_drawn(sub, task):
            return False
    return True


def facts_of(task: str) -> dict[str, Any]:
    """Returns what is known of a task by its name: language, cluster, collection, …

    Needs neither SeqIO nor TensorFlow, nor that the task is registered.
    """
    return importlib.import_module("seqio_tasks.task_facts").facts(task)
