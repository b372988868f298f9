"""Which templates a task of the evaluation takes from a copy of promptsource."""

import logging

import pytest

from seqio_tasks import evaluation_prompts, evaluation_tables
from seqio_tasks.prompt_library import PromptLibrary
from tests.seqio_tasks.evaluation_folders import COPA, RTE, write_copa_prompts, write_prompts


def names(task, root):
    library = PromptLibrary([root])
    found = evaluation_prompts.templates_of(evaluation_tables.tasks()[task], library)
    assert evaluation_prompts.at_hand(evaluation_tables.tasks()[task], library)
    return [template.name for template in found]


def test_the_papers_own_key_comes_first(tmp_path, caplog):
    write_copa_prompts(tmp_path)
    evaluation_prompts._say_once.cache_clear()
    with caplog.at_level(logging.INFO):
        assert set(names("eval_xcopa_sw", tmp_path)) == set(COPA)
    assert "no templates 'xcopa/en' at hand: 'super_glue/copa' has the same five" in caplog.text
    caplog.clear()
    write_copa_prompts(tmp_path, "xcopa/en", [*COPA, "another"])
    library = PromptLibrary([tmp_path])
    (one, *_) = evaluation_prompts.templates_of(evaluation_tables.tasks()["eval_xcopa_sw"], library)
    assert one in library.templates("xcopa/en").values()
    # COPA itself is no copy of another.
    assert len(names("eval_super_glue_copa", tmp_path)) == 5
    assert not caplog.text


def test_anlis_rounds_share_a_key(tmp_path):
    prompts = evaluation_tables.tasks()["eval_anli_r1"].prompts
    write_prompts(tmp_path, "anli", prompts, "{{ premise }}|||Yes", "Yes|||No")
    assert names("eval_anli_r3", tmp_path) == list(prompts)


def test_translated_prompts_with_a_name_cut_in_the_table(tmp_path):
    write_copa_prompts(tmp_path, "xcopa/sw", [f"{name}_swmt" for name in COPA])
    found = names("eval_xcopa_sw_mt", tmp_path)
    assert "C1 or C2? premise, so/because…_swmt" in found and len(set(found)) == 5


@pytest.mark.parametrize(
    "task, said",
    [
        ("eval_xcopa_sw_mt", "no templates 'xcopa/sw' in .*branch xp3mt.*MT0_PROMPTS_DIR"),
        ("eval_xnli_fr", "there are no templates 'xnli/en'"),
        ("eval_super_glue_rte",
         "has no template 'guaranteed true'; take .*branch xp3mt.*Did you mean 'guaranteed tru'"),
    ],
)  # fmt: skip
def test_missing_prompts_say_where_they_are(tmp_path, task, said):
    write_copa_prompts(tmp_path)
    write_prompts(tmp_path, "super_glue/rte", [*RTE[:-1], "guaranteed tru"], "a|||Yes", "Yes|||No")
    library = PromptLibrary([tmp_path])
    assert not evaluation_prompts.at_hand(evaluation_tables.tasks()[task], library)
    with pytest.raises(ValueError, match=f"^{task}: .*{said}") as caught:
        evaluation_prompts.templates_of(evaluation_tables.tasks()[task], library)
    assert "\n" not in str(caught.value)
