"""Which tasks of the evaluation can be had here: local files and prompts; no TensorFlow needed."""

from __future__ import annotations

from seqio_tasks import evaluation_data, evaluation_prompts, evaluation_tables
from seqio_tasks.evaluation_tables import EvaluationTask
from seqio_tasks.prompt_library import PromptLibrary

AT_HAND = "_at_hand"  # behind a mixture's name: those of its tasks whose files are here


def with_files(mixture: str = "mt0_eval") -> list[EvaluationTask]:
    """Tasks of a mixture whose local files are there; ValueError where a place is not."""
    tasks = [evaluation_tables.tasks()[name] for name in evaluation_tables.mixtures()[mixture]]
    return [task for task in tasks if evaluation_data.find(task)]


def at_hand(mixture: str = "mt0_eval") -> list[str]:
    """Names of a mixture's tasks whose local files and prompts are there.

    Raises:
      ValueError: there is none, and what to do.
    """
    tasks = with_files(mixture)
    if not tasks:
        looked = ", ".join(evaluation_data.places()) or "no local folder"
        raise ValueError(
            f"No file of {mixture} in {looked}; name the folder of its data sets in "
            f"${evaluation_data.VARIABLE}."
        )
    library = PromptLibrary()
    found = [task.name for task in tasks if evaluation_prompts.at_hand(task, library)]
    if not found:
        evaluation_prompts.templates_of(tasks[0], library)
    return found
