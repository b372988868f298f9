import subprocess
import sys

import pytest

from seqio_tasks import task_facts, xp3_names, xp3_tables


@pytest.mark.parametrize(
    "file, dataset, config, split, prompt, cluster",
    [
        ("facebook_flores_eng_Latn-twi_Latn_dev_in-eng_Latn-twi_Latn",
         "facebook/flores", "eng_Latn_twi_Latn", "dev", "in", "translation"),
        ("Muennighoff_flores200_eng_Latn_twi_Latn_devtest_command_x_x",
         "facebook/flores", "eng_Latn_twi_Latn", "devtest", "command", "translation"),
        ("Helsinki-NLP_tatoeba_mt_eng-cmn_Hans_test_translate-this-eng-cmn_Hans",
         "Helsinki-NLP/tatoeba_mt", "eng_cmn_Hans", "test", "translate_this", "translation"),
        ("multi_eurlex_all_languages_test_version-fr-en-source+target",
         "multi_eurlex", "all_languages", "test", "version_source_target", "translation"),
        # paws and paws-x, glue and super_glue and clue: the longest name wins.
        ("paws-x_zh_test_Concatenation",
         "paws-x", "zh", "test", "Concatenation", "paraphrase_identification"),
        ("paws_labeled_final_train_Concatenation",
         "paws", "labeled_final", "train", "Concatenation", "paraphrase_identification"),
        ("super_glue_boolq_train_yes_no_question",
         "super_glue", "boolq", "train", "yes_no_question", "multiple_choice_qa"),
        ("super_glue_wic_train_same_sense",
         "super_glue", "wic", "train", "same_sense", "word_sense_disambiguation"),
        ("wiki_qa_None_train_Is_This_True?",
         "wiki_qa", "None", "train", "Is_This_True", "closed_book_qa"),
        ("GEM_wiki_lingua_ar_en_sampled_test_tldr",
         "GEM/wiki_lingua", "ar_en", "sampled_test", "tldr", "summarization"),
        ("codeparrot_xlcost-text-to-code_C++-program-level_train_x",
         "codeparrot/xlcost-text-to-code", "Cpp_program_level", "train", "x", "program_synthesis"),
        ("mine_and_yours_train_ask", "unknown", "mine_and_yours", "train", "ask", "unknown"),
        ("glue_sst2_train_ask", "glue", "sst2", "train", "ask", "paraphrase_identification"),
        ("super_glue_new_train_ask", "super_glue", "new", "train", "ask", "unknown"),
        ("merged_sw", "unknown", "merged_sw", "unknown", "", "unknown"),
    ],
)  # fmt: skip
def test_a_file_name_taken_apart(file, dataset, config, split, prompt, cluster):
    parts = xp3_names.parse(f"xp3_{file}")
    found = (parts.dataset, parts.config, parts.split, parts.prompt, parts.cluster)
    assert found == (dataset, config, split, prompt, cluster)


def test_legal_names():
    assert xp3_names.legal("C++ (a/b) – è.1") == "Cpp_a_b_.1"
    assert xp3_names.collection_of("xp3mt_sw") == ("xp3mt", "sw")
    assert xp3_names.collection_of("xp3megds_en") == ("xp3megds", "en")
    assert xp3_names.collection_of("xp3") == ("xp3", "")
    assert xp3_names.collection_of("xp3y_sw") == ("", "")
    assert xp3_names.collection_of("p3") == ("p3", "")
    assert xp3_names.language_of("jupyter_notebook_apps", ["ju", "jupyter-notebook"]) == (
        "jupyter-notebook", "apps",
    )  # fmt: skip


def test_facts_follow_from_a_name():
    facts = task_facts.facts
    assert facts("xp3_sw") == {"collection": "xp3", "language": "sw"}
    assert facts("xp3megds_en") == {"collection": "xp3megds", "language": "en"}
    assert facts("p3_en") == {"collection": "p3", "language": "en"}
    assert facts("mini_closed_book_qa_nso") == {
        "collection": "mini", "cluster": "closed_book_qa", "language": "nso",
    }  # fmt: skip
    assert facts("mini_eval_sentence_completion_sw")["cluster"] == "sentence_completion"
    assert facts("xp3x_qqq_Latn_xnli_sw_test_can_we_infer") == {
        "collection": "xp3x", "language": "qqq_Latn", "cluster": "natural_language_inference",
        "dataset": "xnli", "config": "sw", "prompt": "can_we_infer", "source_split": "test",
    }  # fmt: skip
    assert facts("xp3_capped") == {"collection": "xp3"}
    assert facts("mine") == {}


def test_facts_that_a_user_registers(monkeypatch):
    monkeypatch.setattr(task_facts, "_registered", {})
    task_facts.register_facts("mine", language="sw", cluster="translation")
    task_facts.register_facts("mine", dataset="flores")
    assert task_facts.facts("mine") == {
        "language": "sw", "cluster": "translation", "dataset": "flores",
    }  # fmt: skip
    with pytest.raises(ValueError, match="no fact 'lang'"):
        task_facts.register_facts("mine", lang="sw")


def test_the_tables():
    assert list(xp3_tables.collections()) == ["p3", "xp3", "xp3mt", "xp3all", "xp3x", "xp3megds"]
    xp3 = xp3_tables.languages("xp3_languages")
    assert len(xp3) == 46 and sum(one.own_prompts for one in xp3.values()) == 20
    xp3x = xp3_tables.languages("xp3x_languages")
    assert len(xp3x) == 285 and sum(one.verified for one in xp3x.values()) == 236
    held_out = {one.cluster for one in xp3_tables.datasets() if one.held_out}
    assert held_out == {"coreference", "natural_language_inference", "sentence_completion"}
    assert len(xp3_tables.clusters()) == 13 + len(held_out)
    # P3's eight clusters, counted in its own terms, are all of xP3's.
    p3 = {one.cluster for one in xp3_tables.datasets() if "p3" in one.collections}
    assert len(p3) == 8 and all(
        "xp3" in one.collections for one in xp3_tables.datasets() if "p3" in one.collections
    )


def test_names_facts_and_rates_need_no_tensorflow():
    code = (
        "import sys, seqio_tasks.task_facts, seqio_tasks.xp3_rates, seqio_tasks.hub\n"
        "import mt0_tpu.tasks.fetch\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "seqio", "huggingface_hub", "fsspec"} & set(done.stdout.split())
