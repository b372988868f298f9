"""The rules that made xP3, published and mended."""

import csv

import pytest

from seqio_tasks import recipe_languages, xp3_recipe


@pytest.mark.parametrize(
    "collection, published, mended",
    # Mended: 90 flores pairs with Modern Standard Arabic and four pairs of mlqa.
    [("p3", 38, 38), ("xp3", 2353, 2447), ("xp3mt", 2353, 2447), ("xp3all", 2377, 2471)],
)
def test_how_many_data_sets_a_collection_has(collection, published, mended):
    assert len(xp3_recipe.members(collection, faithful=True)) == published
    assert len(xp3_recipe.members(collection)) == mended


def test_the_slips_of_the_published_lists():
    added = set(xp3_recipe.members("xp3")) - set(xp3_recipe.members("xp3", faithful=True))
    mlqa = {subset for dataset, subset in added if dataset == "mlqa"}
    assert mlqa == {"mlqa.en.vi", "mlqa.en.zh", "mlqa.en.es", "mlqa.en.hi"}
    flores = {subset for dataset, subset in added if dataset == "facebook/flores"}
    assert len(flores) == 90 and all("arb_Arab" in subset for subset in flores)


def test_an_unknown_collection_has_no_recipe():
    with pytest.raises(ValueError, match="no recipe for 'xp4'"):
        xp3_recipe.members("xp4")


@pytest.mark.parametrize(
    "collection, dataset, subset, belongs",
    [
        ("xp3", "paws-x", "es", True),
        ("xp3", "paws-x", "de", False),
        ("xp3x", "paws-x", "de", True),
        ("xp3", "xcopa", "sw", False),
        ("xp3all", "xcopa", "sw", True),
        ("xp3all", "xcopa", "et", False),
        ("xp3x", "GEM/wiki_lingua", "multilingual", False),
        ("p3", "imdb", None, True),
        ("p3", "race", "high", False),
        ("xp3", "reviews_of_mine", None, True),
        ("mine", "xcopa", "sw", True),
    ],
)
def test_who_belongs_to_a_collection(collection, dataset, subset, belongs):
    assert xp3_recipe.belongs(collection, dataset, subset) is belongs


def test_held_out_clusters():
    assert xp3_recipe.held_out("xcopa", "sw") == "sentence_completion"
    assert xp3_recipe.held_out("super_glue", "rte") == "natural_language_inference"
    assert xp3_recipe.held_out("super_glue", "boolq") == ""
    assert xp3_recipe.held_out("imdb", None) == ""
    assert xp3_recipe.held_out("mine", None) == ""


@pytest.mark.parametrize(
    "collection, dataset, subset, english, keys",
    [
        ("xp3", "paws-x", "es", None, ("paws-x/en",)),
        ("xp3", "imdb", None, None, ("imdb",)),
        ("xp3", "glue", "mrpc", None, ("glue/mrpc",)),
        ("xp3", "mlqa", "mlqa.ar.vi", None, ("mlqa/mlqa.en.en",)),
        ("xp3", "GEM/wiki_lingua", "ar_en", None, ("GEM/wiki_lingua/en_en",)),
        ("xp3", "facebook/flores", "a-b", None, ("facebook/flores/a-b",)),
        ("xp3x", "facebook/flores", "a-b", None, ("facebook/flores/x_x",)),
        ("xp3mt", "paws-x", "es", None, ("paws-x/es", "paws-x/en")),
        ("xp3", "paws-x", "es", False, ("paws-x/es", "paws-x/en")),
        ("xp3mt", "paws-x", "es", True, ("paws-x/en",)),
        ("xp3all", "xcopa", "sw", None, ("xcopa/en", "super_glue/copa")),
    ],
)
def test_where_prompts_are_looked_for(collection, dataset, subset, english, keys):
    assert xp3_recipe.prompt_keys(collection, dataset, subset, english) == keys


def reasons(dataset, subset, splits, rule, collection="xp3"):
    return xp3_recipe.kept_splits(collection, dataset, subset, splits, rule)


def test_splits_kept_for_training_and_as_published():
    splits = ["train", "validation", "test"]
    kept = {"train": "", "validation": "evaluation split", "test": "evaluation split"}
    assert reasons("imdb", None, splits, "train") == kept
    assert reasons("imdb", None, splits, "published") == dict.fromkeys(splits, "")
    anli = ["train_r1", "dev_r1", "test_r1", "devtest"]
    assert [s for s, why in reasons("anli", None, anli, "train").items() if not why] == ["train_r1"]
    # Words that only look like one.
    assert reasons("x", None, ["testimony", "top_level"], "train") == {"testimony": "",
                                                                      "top_level": ""}  # fmt: skip


@pytest.mark.parametrize("rule", ["train", "published"])
def test_splits_that_were_never_used(rule):
    never = "split never used for xP3"
    assert reasons("GEM/wiki_lingua", "ar", ["sampled_test"], rule) == {"sampled_test": never}
    found = reasons("pasinit/xlwic", "xlwic_en_zh", ["train"], rule)
    assert found == {"train": never}
    assert reasons("pasinit/xlwic", "xlwic_fr_fr", ["train"], rule) == {"train": ""}
    assert reasons("pasinit/xlwic", "xlwic_en_ko", ["train"], rule) == {"train": ""}
    assert reasons("pasinit/xlwic", "xlwic_en_ko", ["train"], rule, "xp3x") == {"train": never}
    found = reasons("teven/code_docstring_corpus", "top_level", ["top_level", "class_level"], rule)
    assert found == {"top_level": "", "class_level": never}


@pytest.mark.parametrize(
    "collection, key, split, template, skipped",
    [
        ("xp3", "piqa", "test", "any", True),
        ("xp3", "piqa", "train", "any", False),
        ("xp3", "imdb", "unsupervised", "any", True),
        ("xp3", "cosmos_qa", "test", "no_prompt_id", True),
        ("xp3", "cosmos_qa", "test", "context_answer_to_question", True),
        ("xp3", "cosmos_qa", "test", "description_context_question_answer_id x", False),
        ("xp3", "super_glue/record", "test", "any", False),
        ("xp3x", "super_glue/record", "test", "any", True),
        ("xp3", "hellaswag", "test", "Appropriate continuation - Yes or No", True),
    ],
)
def test_prompts_left_out_for_hidden_labels(collection, key, split, template, skipped):
    assert xp3_recipe.skipped(collection, key, split, template) is skipped


def test_caps():
    cap = xp3_recipe.cap
    assert cap("imdb", 100_000, 500_000) == xp3_recipe.Cap(500_000, 100_000)
    assert cap("imdb", 0, 0).kept > 10**15
    african = cap("allenai/wmt22_african", 100_000, 500_000)
    assert african == xp3_recipe.Cap(50_000, 50_000, "laser_score")
    assert cap("allenai/wmt22_african", 10, 50).kept == 5
    assert cap("allenai/wmt22_african", 10, 50, faithful=True).best_by is None


def test_file_names():
    name = xp3_recipe.file_name
    assert name("xp3", "GEM/xlsum", "hindi", "train", "a b/c-d") == (
        "xp3_GEM_xlsum_hindi_train_a_b_c-d.jsonl"
    )
    assert name("xp3x", "paws-x", "en", "test", "a-b") == "xp3_paws_x_en_test_a_b.jsonl"
    assert name("xp3", "imdb", None, "train", "t") == "xp3_imdb_None_train_t.jsonl"
    assert len(name("xp3", "imdb", None, "train", "भ" * 300).encode()) <= 250


@pytest.mark.parametrize(
    "collection, folder, published, mended",
    [("xp3", "code", True, True), ("xp3", "en", False, False), ("xp3x", "python", False, True)],
)
def test_code_keeps_its_line_break(collection, folder, published, mended):
    assert xp3_recipe.keeps_line_break(collection, folder, faithful=True) is published
    assert xp3_recipe.keeps_line_break(collection, folder) is mended


def test_every_row_of_the_facts_has_its_key_and_folder(shared):
    with (shared / "facts/xp3/datasets.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 2403
    for row in rows:
        dataset, subset = row["dataset"], row["subset"] or None
        keys = xp3_recipe.prompt_keys("xp3", dataset, subset)
        assert keys[0] == row["promptsource_key_when_english_prompts"]
        if not row["xp3_lang_dir"].startswith("by-"):
            folder = recipe_languages.folder(dataset, subset, "", faithful=True)
            assert folder == row["xp3_lang_dir"], (dataset, subset)
        for collection, variant in (("p3", "P3"), ("xp3", "xP3"), ("xp3all", "xP3all")):
            belongs = xp3_recipe.belongs(collection, dataset, subset, faithful=True)
            assert belongs == (variant in row["variants"].split(",")), (dataset, subset)
