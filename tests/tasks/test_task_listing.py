"""`mt0 tasks list`: what is registered, in lines that a person can read."""

import json

import pytest
import seqio

from mt0_tpu import cli
from mt0_tpu.errors import UserError
from mt0_tpu.tasks import task_listing
from mt0_tpu.tasks.task_listing import Entry, entry_table, find_entries, group_table, groups_of
from tests.data.conftest import write_cache


def listed(*patterns, **more):
    lines = []
    task_listing.print_list(patterns, say=lines.append, **more)
    return lines


def entry(name, **changed):
    return Entry(
        **{
            "name": name, "kind": "pairs", "tasks": (name,), "splits": ("train", "validation"),
            "collection": "c", "cluster": "qa", "languages": ("en",), "cached": (0, 2),
            "examples": 0, "tokens": 0,
        } | changed
    )  # fmt: skip


def test_a_line_an_entry():
    entries = [
        entry("c_qa_en"),
        entry("c_qa_fr", languages=("fr",), cached=(1, 2), examples=1200, tokens=34_567),
    ]
    assert entry_table("task", entries) == [
        "task     kind   language  cluster  splits            cached  examples  tokens",
        "c_qa_en  pairs  en        qa       train validation      no         –       –",
        "c_qa_fr  pairs  fr        qa       train validation     1/2     1,200   34.6k",
    ]


def test_groups_are_collection_cluster_and_kind():
    tasks = [
        entry("c_qa_en"), entry("c_qa_fr", languages=("fr",), cached=(2, 2), examples=5, tokens=9),
        entry("c_eval_qa", kind="rank", splits=("validation",), cached=(0, 1)),
    ]  # fmt: skip
    assert group_table(groups_of(tasks)) == [
        "tasks      number  kind   languages  cluster  splits            cached  examples  tokens",
        "c_qa_*          2  pairs  en fr      qa       train validation     2/4         5       9",
        "c_eval_qa       1  rank   en         qa       validation            no         –       –",
    ]


def test_mixtures_of_a_language_fold_into_one_line():
    mixtures = [
        entry("c", kind="mixture", tasks=("c_a", "c_b"), languages=("en", "fr")),
        entry("c_en", kind="mixture", tasks=("c_a",)),
        entry("c_fr", kind="mixture", tasks=("c_b",), languages=("fr",)),
        entry("c_capped_x", kind="mixture", tasks=("c_b",), languages=("fr",)),
    ]
    found = [(one.name, one.tasks, one.languages) for one in task_listing.folded(mixtures)]
    assert found == [
        ("c", ("c_a", "c_b"), ("en", "fr")),
        ("c_capped_x", ("c_b",), ("fr",)),
        ("c_* (2, a language each)", ("c_a", "c_b"), ("en", "fr")),
    ]


def test_tasks_without_facts_are_grouped_by_their_names():
    bare = {"collection": "", "cluster": "", "languages": ()}
    tasks = [entry("own_a", **bare), entry("own_b", **bare), entry("other_a", **bare)]
    assert [group.pattern for group in groups_of(tasks)] == ["other_a", "own_*"]


@pytest.fixture(autouse=True)
def without_scored_forms(monkeypatch):
    """Other tests of the same process may have registered `seqio_tasks.scored`'s."""
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
        kept = {n: p for n, p in registry._REGISTRY.items() if not n.endswith("_scored")}
        monkeypatch.setattr(registry, "_REGISTRY", kept)


def test_everything_is_readable_and_complete():
    lines = listed("mini_", cache_dir="/none/such")
    assert len(lines) < 40
    assert max(map(len, lines)) < 170
    assert lines[0].split()[:3] == ["mixture", "tasks", "languages"]
    assert any(line.startswith("mini_translation_*") for line in lines)
    assert lines[-1] == "501 tasks in groups; a part of a name, or --all, lists them one by one"
    whole = listed("mini_", cache_dir="/none/such", everything=True)
    assert sum(line.startswith("mini_") for line in whole) == 501 + 3


def test_collections_that_are_read_when_named_are_told():
    told, last = listed(cache_dir="/none/such")[-2:]
    assert told.startswith("listed when named, as in `mt0 tasks list p3`: p3, xp3, xp3mt")
    assert last.startswith("the published evaluation, by whole names too: mt0_eval, eval_wmt14_")
    assert last.endswith(", eval_humaneval")


def test_a_pattern_keeps_the_names_that_hold_it():
    lines = listed("nli_fr", "mini_english", cache_dir="/none/such")
    names = [line.split()[0] for line in lines if line]
    assert names == ["mixture", "mini_english", "task", "mini_eval_nli_fr"]
    assert lines[-1].split()[1:4] == ["rank", "fr", "nli"]


def test_what_is_cached_is_counted(tmp_path):
    write_cache(tmp_path, {"mini_code_fr": [([5, 6], [7])] * 3}, mixture="mini_code_fr")
    path = tmp_path / "mini_code_fr" / "train" / "info.json"
    info = json.loads(path.read_text())
    for feature, tokens in (("inputs", 6), ("targets", 3)):
        info["features"][feature]["tokens"] = tokens
    path.write_text(json.dumps(info))
    found = {one.name: one for one in find_entries(["code_fr", "mini_multi"], None, str(tmp_path))}
    assert found["mini_code_fr"].cached == (1, 2)
    assert (found["mini_code_fr"].examples, found["mini_code_fr"].tokens) == (3, 9)
    assert found["mini_multilingual"].cached == (1, 520)
    assert found["mini_multilingual"].examples == 3


def test_a_damaged_cache_is_not_cached(tmp_path):
    write_cache(tmp_path, {"mini_code_fr": [([5, 6], [7])]}, mixture="mini_code_fr")
    (tmp_path / "mini_code_fr" / "train" / "info.json").write_text("{")
    assert find_entries(["mini_code_fr"], None, str(tmp_path))[0].cached == (0, 2)


def test_near_match():
    with pytest.raises(UserError, match="no task or mixture matches mini_tranlation_fr. Did you"):
        listed("mini_tranlation_fr")


def test_no_such_module(capsys):
    assert cli.main(["tasks", "list", "--module", "no_such_module"]) == 2
    assert "There is no module 'no_such_module'" in capsys.readouterr().err
