import functools
import json
import subprocess
import sys

import pytest
import seqio

from seqio_tasks import task_facts, xp3_layouts, xp3_plan, xp3_tasks
from tests.seqio_tasks.conftest import XP3_CODES, write_lines


def examples(name, split="train"):
    return list(seqio.TaskRegistry.get(name).source.python_examples(split))


def names_of(mixture):
    return [task.name for task in seqio.MixtureRegistry.get(mixture).tasks]


def refused(match, function, *arguments, **options):
    with pytest.raises(ValueError, match=match) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)


# xP3


def test_xp3_has_a_task_a_language_and_code_without_any_file(family):
    xp3_tasks.ensure("xp3_sw")
    assert names_of("xp3") == sorted(f"xp3_{code}" for code in XP3_CODES)
    assert len(XP3_CODES) == 46
    task = seqio.TaskRegistry.get("xp3_sw")
    assert set(task.splits) == {"train", "validation"}
    assert [step.__name__ for step in (task.preprocessors[0], task.preprocessors[2])] == [
        "tokenize", "append_eos_after_trim",
    ]  # fmt: skip
    assert type(task.preprocessors[1]) is seqio.CacheDatasetPlaceholder
    assert task.output_features["inputs"].add_eos and task.output_features["targets"].add_eos
    for kind in ("capped", "temperature", "equal", "bloomz"):
        assert f"xp3_{kind}" in seqio.MixtureRegistry.names()


def test_xp3_reads_the_merged_file_and_never_both(xp3_folder):
    xp3_tasks.ensure("xp3_yo")
    write_lines(xp3_folder / "yo" / "xp3_xquad_xquad.en_train_ask.jsonl", 9)
    assert examples("xp3_yo") == [
        {"inputs": f"yo question {i}", "targets": f"answer {i}"} for i in range(3)
    ]
    (xp3_folder / "yo" / "merged_yo.jsonl").unlink()
    xp3_tasks.ensure("xp3_code")
    (xp3_folder / "code" / "merged_code.jsonl").rename(
        xp3_folder / "code" / "xp3_codeparrot_apps_all_train_solve.jsonl"
    )
    assert len(examples("xp3_code")) == 4


def test_a_language_that_the_release_does_not_have(xp3_folder):
    write_lines(xp3_folder / "et" / "merged_et.jsonl", 2)
    xp3_tasks.ensure("xp3_et")
    assert len(examples("xp3_et")) == 2
    assert "xp3_et" not in names_of("xp3")
    assert len(xp3_tasks.add_mixture("mine", "xp3", languages="at_hand").tasks) == 4


def test_a_line_is_on_one_side_only(family):
    write_lines(family / "xp3" / "sw" / "merged_sw.jsonl", 20_000)
    xp3_tasks.ensure("xp3_sw")
    train, validation = examples("xp3_sw"), examples("xp3_sw", "validation")
    assert len(train) + len(validation) == 20_000
    assert 2 <= len(validation) <= 30  # one in 2,000
    texts = {example["inputs"] for example in validation}
    assert not texts & {example["inputs"] for example in train}


def test_a_missing_language_folder_says_how_to_get_it(xp3_folder):
    xp3_tasks.ensure("xp3")
    refused("xP3/zu.*merged_zu.jsonl.*mt0 tasks fetch xp3_zu", examples, "xp3_zu")
    (xp3_folder / "zu").mkdir()
    (xp3_folder / "zu" / "merged_zu.parquet").write_bytes(b"PAR1")
    refused("holds no merged_zu.jsonl, but 1 files of kind parquet", examples, "xp3_zu")


def test_a_near_miss_of_a_language_is_named(family):
    refused("no language of it begins so. Did you mean 'sw'", xp3_tasks.ensure, "xp3_swa")
    refused("'translation'.*all clusters mixed", xp3_tasks.ensure, "xp3_cluster_translation")


def test_no_data_at_hand_is_one_sentence(family):
    refused(
        f"no folder 'xp3mt' in {family}.*MT0_DATA_DIR.*mt0 tasks fetch xp3mt",
        xp3_tasks.ensure, "xp3mt",
    )  # fmt: skip
    refused("mt0 tasks fetch p3", xp3_tasks.ensure, "p3")
    xp3_tasks.ensure("someone_elses")  # no name of the family: nothing to do


def test_two_folders_of_one_collection(xp3_folder, family):
    (family / "xp3").mkdir()
    xp3_tasks.ensure("xp3_sw")
    refused("2 folders of one collection: xP3, xp3", examples, "xp3_sw")


# a file a prompt

FLORES = "xp3mt_sw_facebook_flores_pairs"


def test_a_language_of_files(xp3mt_folder):
    xp3_tasks.ensure("xp3mt_sw")
    assert names_of("xp3mt_sw") == [
        "xp3mt_sw_GEM_xlsum_swahili_train_tldr_swmt",
        "xp3mt_sw_GEM_xlsum_swahili_validation_tldr_swmt",
        f"{FLORES}_dev_in",
        f"{FLORES}_devtest_in",
    ]
    assert len(examples(f"{FLORES}_dev_in")) == 4  # two pairs of two
    assert "xp3mt" not in seqio.MixtureRegistry.names()  # nothing but what was asked for
    train, validation = names_of("xp3mt_sw")[:2]
    assert tuple(seqio.TaskRegistry.get(train).splits) == ("train",)  # too small to share
    # A data set's own validation split is not trained on.
    assert tuple(seqio.TaskRegistry.get(validation).splits) == ("validation",)


def test_how_much_of_a_file_is_held_out(xp3mt_folder):
    one_in = xp3_plan.held_out_one_in
    mean = 1203.6  # bytes an example
    found = [one_in(int(mean * n)) for n in (999, 1001, 2_000, 10_000, 100_001, 10_000_000)]
    assert found == [None, 20, 40, 200, 2000, 2000]
    long = [(f"question {i} " + "x" * 400, "y") for i in range(6_000)]
    write_lines(xp3mt_folder / "yo" / "xp3_xquad_xquad.yo_train_ask.jsonl", long)
    xp3_tasks.ensure("xp3mt_yo")
    held = examples("xp3mt_yo_xquad_xquad.yo_train_ask", "validation")
    assert 50 <= len(held) <= 200


def test_a_task_name_alone_suffices(xp3mt_folder):
    xp3_tasks.ensure("xp3mt_yo_GEM_xlsum_yoruba_train_tldr_yomt")
    assert len(examples("xp3mt_yo_GEM_xlsum_yoruba_train_tldr_yomt")) == 3
    assert not [n for n in seqio.TaskRegistry.names() if n.startswith("xp3mt_sw")]
    one = "xp3mt_sw_facebook_flores_eng_Latn_swh_Latn_dev_in_eng_Latn_swh_Latn"
    xp3_tasks.ensure(one)  # a single file of a folded task
    assert len(examples(one)) == 2
    refused(
        "is called 'xp3mt_yo_GEM_xlsum_yoruba_train_tldr'.*Did you mean '.*_tldr_yomt'",
        xp3_tasks.ensure, "xp3mt_yo_GEM_xlsum_yoruba_train_tldr",
    )  # fmt: skip


def test_the_whole_collection_and_its_clusters(xp3mt_folder):
    xp3_tasks.ensure("xp3mt")
    assert len(names_of("xp3mt")) == 45 + 4 + 1
    assert names_of("xp3mt_cluster_summarization") == [
        "xp3mt_sw_GEM_xlsum_swahili_train_tldr_swmt",
        "xp3mt_sw_GEM_xlsum_swahili_validation_tldr_swmt",
        "xp3mt_yo_GEM_xlsum_yoruba_train_tldr_yomt",
    ]
    assert names_of("xp3mt_cluster_translation") == [f"{FLORES}_dev_in", f"{FLORES}_devtest_in"]
    assert len(names_of("xp3mt_cluster_extractive_qa")) == 45
    assert names_of("xp3mt_zu") == ["xp3mt_zu_xquad_xquad.en_train_ask"]
    xp3_tasks.ensure("xp3mt")  # twice is once
    refused("no cluster 'translatio'.*Did you mean 'translation'", xp3_tasks.ensure,
            "xp3mt_cluster_translatio")  # fmt: skip


def test_a_collection_that_lacks_languages_is_not_taken_for_whole(xp3mt_folder):
    for code in ("zu", "yo"):
        for file in (xp3mt_folder / code).iterdir():
            file.unlink()
        (xp3mt_folder / code).rmdir()
    refused(r"lacks the folders of 2 of its 46 languages \(yo, zu\)", xp3_tasks.ensure, "xp3mt")
    refused("no folder of language 'zu'.*fetch xp3mt_zu", xp3_tasks.ensure, "xp3mt_zu")
    xp3_tasks.ensure("xp3mt_sw")
    mixture = xp3_tasks.add_mixture("some", "xp3mt", languages="at_hand")
    assert len(mixture.tasks) == 43 + 4


def test_what_a_task_is_about(xp3mt_folder):
    xp3_tasks.ensure("xp3mt_sw")
    assert task_facts.facts("xp3mt_sw_GEM_xlsum_swahili_train_tldr_swmt") == {
        "collection": "xp3mt", "language": "sw", "cluster": "summarization",
        "dataset": "GEM/xlsum", "config": "swahili", "prompt": "tldr_swmt", "source_split": "train",
    }  # fmt: skip
    assert task_facts.facts(f"{FLORES}_devtest_in")["source_split"] == "devtest"


def test_unknown_data_sets_doubles_and_empty_files(xp3mt_folder, caplog):
    folder = xp3mt_folder / "ak"
    write_lines(folder / "xp3_mine_own_train_p q.jsonl", 1)
    write_lines(folder / "xp3_mine_own_train_p-q.jsonl", 2)
    (folder / "xp3_xquad_xquad.ar_train_ask.jsonl").touch()
    xp3_tasks.ensure("xp3mt_ak")
    assert "2 files are of data sets that tables/datasets.tsv does not have" in caplog.text
    assert "1 empty files are left out" in caplog.text
    found = names_of("xp3mt_ak")
    # Two names that SeqIO would write alike stay apart.
    assert len(found) == 3 and len({len(examples(n)) for n in found[:2]}) == 2
    write_lines(folder / "xp3_mine_own_train_p-q.jsonl.gz", 2)
    with pytest.raises(ValueError, match="count every example twice"):
        xp3_tasks.xp3_plan.language_plans(
            xp3_tasks._collection("xp3mt")[0], xp3_tasks.xp3_files.Store(str(xp3mt_folder)), "ak"
        )


def test_a_folder_of_something_else(xp3mt_folder):
    (xp3mt_folder / "ak" / "xp3_xquad_xquad.en_train_ask.jsonl").rename(
        xp3mt_folder / "ak" / "train.parquet"
    )
    refused("mt/ak holds no .*1 files of kind parquet", xp3_tasks.ensure, "xp3mt_ak")
    refused("mt/ak holds no .*1 files of kind parquet", xp3_tasks.ensure, "xp3mt")


def test_xp3x(xp3x_folder):
    xp3_tasks.ensure("xp3x_yor_Latn")
    name = "xp3x_yor_Latn_facebook_flores_pairs_devtest_command"
    assert names_of("xp3x_yor_Latn") == [name]
    assert examples(name) == [{"inputs": f"i{n}", "targets": f"t{n}"} for n in range(3)]
    xp3_tasks.ensure("xp3x")
    assert "xp3x_jupyter_notebook" in seqio.MixtureRegistry.names()
    assert "xp3x_bloomz" not in seqio.MixtureRegistry.names()
    refused("Did you mean 'yor_Latn'", xp3_tasks.ensure, "xp3x_yo_Latn")


def test_p3_is_read_inside_its_archive_or_unpacked(p3_folder):
    xp3_tasks.ensure("p3")
    assert names_of("p3") == ["p3_en"]
    assert examples("p3_en") == [{"inputs": "Is it?", "targets": "Yes"}] * 3
    assert len(examples("p3_en", "validation")) == 2
    write_lines(p3_folder / "p31t0_train.jsonl", 5)
    source = seqio.TaskRegistry.get("p3_en").source
    assert source.files("train")[0].url.startswith("zip://")  # a run keeps what it began with
    assert xp3_layouts.p3_files(xp3_tasks.xp3_files.Store(str(p3_folder)), "train") == [
        "p31t0_train.jsonl"
    ]


def test_xp3megds_is_read_as_it_lies(xp3megds_folder):
    xp3_tasks.ensure("xp3megds")
    found = [
        {name: ids.tolist() for name, ids in example.items()} for example in examples("xp3megds_en")
    ]
    assert found == [{"inputs": [5, 6], "targets": [8, 2]}, {"inputs": [7], "targets": [9, 2]}]
    task = seqio.TaskRegistry.get("xp3megds_en")
    assert task.output_features["inputs"].vocabulary.vocab_size == 250_680
    (xp3megds_folder / "xp3_ak_inputs_document.bin").touch()
    refused("lacks xp3_ak_inputs_document.idx", xp3_tasks.ensure, "xp3megds_ak")


# users' own


def test_a_collection_of_ones_own(family, tmp_path):
    write_lines(tmp_path / "mine" / "sw" / "xp3_xquad_xquad.sw_train_ask.jsonl", 2)
    xp3_tasks.add_collection("mine", str(tmp_path / "mine"))
    assert names_of("mine") == names_of("mine_sw") == ["mine_sw_xquad_xquad.sw_train_ask"]
    refused("collection 'mine' already", xp3_tasks.add_collection, "mine", str(tmp_path))
    refused("collection 'xp3' already", xp3_tasks.add_collection, "xp3", str(tmp_path))
    refused("begins with 'xp3_'", xp3_tasks.add_collection, "xp3_mine", str(tmp_path))
    refused("layout is 'promts'.*Did you mean 'prompts'", functools.partial(
        xp3_tasks.add_collection, "other", str(tmp_path), layout="promts"))  # fmt: skip
    write_lines(tmp_path / "whole" / "sw" / "merged_sw.jsonl", 4)
    xp3_tasks.add_collection("whole", str(tmp_path / "whole"), layout="merged")
    assert len(examples("whole_sw")) == 4


def test_mixtures_of_ones_own(xp3mt_folder):
    add = functools.partial(xp3_tasks.add_mixture, collection="xp3mt")
    add("a", languages=["sw", "yo"], clusters="summarization")
    assert len(names_of("a")) == 3
    add("b", datasets=["facebook/flores"])
    assert names_of("b") == [f"{FLORES}_dev_in", f"{FLORES}_devtest_in"]
    refused("task or mixture 'a' already", add, "a")
    refused("no language 'swa'. Did you mean 'sw'", add, "c", languages=["swa"])
    refused("no chosen task of xp3mt has cluster 'sentiment'", add, "c", clusters="sentiment")
    refused("no collection 'xp3tm'.*Did you mean 'xp3mt'", xp3_tasks.add_mixture, "c", "xp3tm")
    refused("its files mix them all", xp3_tasks.add_mixture, "c", "xp3", clusters="translation")
    assert len(xp3_tasks.add_mixture("d", "xp3", languages=["sw", "yo"]).tasks) == 2


def test_a_name_that_another_module_took(xp3mt_folder):
    taken = "xp3mt_yo_GEM_xlsum_yoruba_train_tldr_yomt"
    seqio.TaskRegistry.add(
        taken, source=seqio.FunctionDataSource(lambda split, shuffle_files: None, ["train"]),
        preprocessors=[], output_features={},
    )  # fmt: skip
    refused(f"'{taken}' is registered already, by another module", xp3_tasks.ensure, "xp3mt_yo")


def test_registering_reads_no_vocabulary_and_eos_is_a_choice(family, monkeypatch):
    monkeypatch.setenv("MT0_VOCABULARY", "/no/such/model")
    monkeypatch.setenv("MT0_INPUTS_EOS", "0")
    xp3_tasks.ensure("xp3_sw")
    features = seqio.TaskRegistry.get("xp3_sw").output_features
    assert not features["inputs"].add_eos and features["targets"].add_eos


def test_plain_seqio_reads_a_mixture(xp3_folder):
    xp3_tasks.add_mixture("two", "xp3", languages=["sw", "yo"])
    dataset = seqio.get_mixture_or_task("two").get_dataset(
        {"inputs": 64, "targets": 16}, split="train", shuffle=False, num_epochs=1
    )
    vocabulary = seqio.TaskRegistry.get("xp3_sw").output_features["inputs"].vocabulary
    examples = list(dataset.as_numpy_iterator())
    assert examples
    for example in examples:
        assert example["inputs"][-1] == example["targets"][-1] == vocabulary.eos_id


def test_importing_the_plain_module_registers_what_is_at_hand(xp3mt_folder, xp3x_folder, family):
    code = (
        "import json, seqio, seqio_tasks.xp3\n"
        "print(json.dumps([seqio.MixtureRegistry.names(), len(seqio.TaskRegistry.names())],"
        " default=list))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    mixtures, tasks = json.loads(done.stdout.splitlines()[-1])
    assert {"xp3", "xp3mt", "xp3mt_sw", "xp3x", "xp3x_yor_Latn"} <= set(mixtures)
    assert not {"p3", "xp3all", "xp3megds"} & set(mixtures)
    assert tasks == 46 + 50 + 2


def test_load_registers_by_name(xp3_folder):
    import seqio_tasks

    seqio_tasks.load(names=["xp3_sw", "mini_eval", "no_name_of_ours"])
    assert "xp3_sw" in seqio.TaskRegistry.names()


def test_every_recipe_names_a_mixture_there_is(xp3mt_folder, p3_folder, xp3megds_folder):
    import re
    from pathlib import Path

    import seqio_tasks

    recipes = sorted(Path(seqio_tasks.__file__).parents[1].glob("gin/recipes/*.gin"))
    named = {
        found
        for recipe in recipes
        for found in re.findall(r"^MIXTURE_OR_TASK_NAME = '(.+)'", recipe.read_text(), re.M)
    }
    assert {"xp3", "xp3mt", "p3"} <= named
    seqio_tasks.load(names=named)
    known = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()}
    assert named <= known
