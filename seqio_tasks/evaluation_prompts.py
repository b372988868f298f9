"""The evaluation's templates, from the user's copy of promptsource; neither SeqIO nor TensorFlow.

The paper's evaluation took them from a branch of the fork that made xP3. Release 0.2.3 has the
English ones too, under the data set that each was first written for (`SAME_PROMPTS`).
"""

from __future__ import annotations

import functools
import logging

from seqio_tasks.evaluation_tables import ENGLISH, EvaluationTask
from seqio_tasks.near_names import did_you_mean
from seqio_tasks.prompt_library import PromptLibrary
from seqio_tasks.prompts import Template

# Keys whose five evaluated templates are the same texts (compared in branch tr13).
SAME_PROMPTS = {
    "xcopa/en": "super_glue/copa",
    "Muennighoff/xwinograd/en": "winogrande/winogrande_xl",
    "Muennighoff/xstory_cloze/en": "story_cloze/2016",
}
_FORK = "a checkout of github.com/Muennighoff/promptsource, branch xp3mt"

log = logging.getLogger(__name__)


def templates_of(task: EvaluationTask, library: PromptLibrary) -> list[Template]:
    """A task's templates in the order of the table.

    Raises:
      ValueError: the copy lacks some of them, with the branch that has them.
    """
    key = _key(task, library)
    if key is None:
        raise ValueError(
            f"{task.name}: there are no templates '{_keys(task)[0]}' in "
            f"{', '.join(library.places)}; {_advice()}."
        )
    known = library.templates(key)
    found = {wanted: _named(wanted, known) for wanted in task.prompts}
    missing = [wanted for wanted, template in found.items() if template is None]
    if missing:
        near = did_you_mean(missing[0], known) if task.prompt_language == ENGLISH else ""
        raise ValueError(
            f"{task.name}: '{key}' in {', '.join(library.places)} has no template "
            f"{', '.join(repr(name) for name in missing)}; {_advice()}.{near}"
        )
    return list(found.values())


def at_hand(task: EvaluationTask, library: PromptLibrary) -> bool:
    """Whether a task's templates are all there."""
    key = _key(task, library)
    return key is not None and all(_named(n, library.templates(key)) for n in task.prompts)


def _advice() -> str:
    return f"take {_FORK}, and name it in --prompts_dir or $MT0_PROMPTS_DIR"


def _keys(task: EvaluationTask) -> list[str]:
    """Keys that a task's templates may have, the paper's own first."""
    if task.template_config:
        keys = [f"{task.dataset}/{task.template_config}"]
    else:
        keys = [f"{task.dataset}/{task.hub_config}"] if task.hub_config else []
        # ANLI's three rounds have one set of templates.
        keys += [task.dataset]
    return keys + [SAME_PROMPTS[key] for key in keys if key in SAME_PROMPTS]


def _key(task: EvaluationTask, library: PromptLibrary) -> str | None:
    keys = _keys(task)
    found = next((key for key in keys if key in library.keys), None)
    if found in SAME_PROMPTS.values() and found != keys[0]:
        _say_once(f"no templates '{keys[0]}' at hand: '{found}' has the same five, and they serve")
    return found


@functools.cache
def _say_once(text: str) -> None:
    log.warning(text)


def _named(wanted: str, known: dict[str, Template]) -> Template | None:
    """The template of a name; that of COPA with a comma in it stands cut there in the table."""
    if wanted in known:
        return known[wanted]
    stem, _, suffix = wanted.rpartition("_")
    for name, template in known.items():
        before, comma, after = name.partition(",")
        if comma and before == stem and after.endswith(f"_{suffix}"):
            return template
    return None
