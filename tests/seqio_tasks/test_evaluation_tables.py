"""Which tasks the paper's evaluation has, and what each says of itself."""

import collections

import pytest

from seqio_tasks import evaluation_tables, task_facts
from seqio_tasks.evaluation_tables import tasks


def test_the_papers_tasks_and_their_prompts():
    kinds = collections.Counter(
        (task.group, task.prompt_language, len(task.prompts)) for task in tasks().values()
    )
    assert kinds[("paper", "EN", 5)] == 50
    assert kinds[("paper", "MT", 5)] == 40 and kinds[("paper", "HT", 5)] == 11
    validation = [task for task in tasks().values() if task.group == "validation"]
    assert (len(validation), sum(len(task.prompts) for task in validation)) == (37, 153)


@pytest.mark.parametrize(
    "name, dataset, config, split, reported_as, language, seen, cluster",
    [
        ("eval_xcopa_sw", "xcopa", "sw", "validation", "xcopa", "sw", True, "sentence_completion"),
        ("eval_xcopa_ht", "xcopa", "ht", "validation", "xcopa", "ht", False, "sentence_completion"),
        ("eval_xwinograd_jp", "Muennighoff/xwinograd", "jp", "test", "xwinograd", "ja", False,
         "coreference"),
        ("eval_anli_r2", "anli", "dev_r2", "dev_r2", "anli", "en", True,
         "natural_language_inference"),
        ("eval_super_glue_rte", "super_glue", "rte", "validation", "super_glue/rte", "en", True,
         "natural_language_inference"),
        ("eval_winogrande_xl", "winogrande", "winogrande_xl", "validation", "winogrande", "en",
         True, "coreference"),
        ("eval_story_cloze_2016", "story_cloze", "2016", "validation", "story_cloze", "en", True,
         "sentence_completion"),
        ("eval_xstory_cloze_te_mt", "Muennighoff/xstory_cloze", "te", "validation",
         "xstory_cloze", "te", True, "sentence_completion"),
        ("eval_banking77", "banking77", None, "test", "banking77", "en", True,
         "checkpoint_choice"),
        ("eval_glue_sst2", "glue", "sst2", "validation", "glue/sst2", "en", True,
         "checkpoint_choice"),
    ],
)  # fmt: skip
def test_what_a_task_is(name, dataset, config, split, reported_as, language, seen, cluster):
    task = tasks()[name]
    assert (task.dataset, task.config, task.split) == (dataset, config, split)
    assert (task.reported_as, task.language) == (reported_as, language)
    assert (task.seen_language, task.cluster) == (seen, cluster)
    assert task.fields()["held_out_cluster"] == (cluster != "checkpoint_choice")


def test_translated_prompts_have_names_of_their_own():
    task = tasks()["eval_xnli_fr_ht"]
    assert (task.prompt_language, task.template_config) == ("HT", "fr")
    assert all(prompt.endswith("_frht") for prompt in task.prompts)
    assert all(prompt.endswith("_frmt") for prompt in tasks()["eval_xnli_fr_mt"].prompts)
    # 'ht' is also Haitian.
    assert tasks()["eval_xcopa_ht_mt"].language == "ht"


def test_mixtures():
    mixtures = evaluation_tables.mixtures()
    assert len(mixtures["mt0_eval"]) == 50 and len(mixtures["eval_xnli"]) == 15
    assert len(mixtures["mt0_eval_mt"]) == 40 and len(mixtures["mt0_validation"]) == 37
    assert mixtures["eval_anli"] == ("eval_anli_r1", "eval_anli_r2", "eval_anli_r3")
    assert set(mixtures["eval_xnli_all_ht"]) < set(mixtures["mt0_eval_ht"])
    assert not set(mixtures) & set(tasks())


def test_facts_need_no_registration():
    facts = task_facts.facts("eval_xwinograd_jp")
    assert (facts["dataset"], facts["config"]) == ("Muennighoff/xwinograd", "jp")
    assert (facts["source_split"], facts["collection"]) == ("test", "mt0_eval")
    assert task_facts.facts("eval_of_somebody_else") == {}
