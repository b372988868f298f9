"""A build's options check themselves, and faithful ones fill in the published rules."""

import pytest

from mt0_tpu.building.build_config import BuildConfig
from mt0_tpu.errors import UserError


@pytest.mark.parametrize(
    "options, error",
    [
        ({"raw_dir": None}, "no raw data: name a folder"),
        ({"cap_order": "shortes"}, "Did you mean 'shortest'"),
        ({"layout": "zip"}, "Write one of prompts, merged"),
        ({"max_examples": 10, "max_rows": 5}, "beyond max_rows 5"),
        ({"max_variable_chars": -1}, "max_variable_chars is -1; write 0"),
        ({"num_processes": 0}, "write 1 or more"),
        ({"collection": "a/b"}, "collection is 'a/b'"),
    ],
)
def test_what_cannot_be_is_refused(options, error):
    with pytest.raises(UserError, match=error):
        BuildConfig(**{"raw_dir": "x", **options})


def test_there_must_be_a_local_place(monkeypatch):
    monkeypatch.delenv("MT0_DATA_DIR", raising=False)
    with pytest.raises(UserError, match="write --output_dir or"):
        BuildConfig(raw_dir="x").resolved()
    with pytest.raises(UserError, match="build in a local folder"):
        BuildConfig(raw_dir="x", output_dir="gs://bucket").resolved()
    monkeypatch.setenv("MT0_DATA_DIR", "there")
    assert BuildConfig(raw_dir="x").resolved().output_dir == "there"


def resolved(**options):
    return BuildConfig(raw_dir="x", output_dir="y", **options).resolved()


def test_rules_are_ours_by_default_and_the_published_ones_when_asked():
    ours, theirs = resolved(), resolved(faithful=True)
    assert (ours.splits, ours.cap_order, ours.held_out) == ("train", "shortest", False)
    assert (theirs.splits, theirs.cap_order, theirs.held_out) == ("published", "alphabetical", True)
    # What is said stands over either.
    mixed = resolved(faithful=True, cap_order="sample", held_out=False)
    assert (mixed.splits, mixed.cap_order, mixed.held_out) == ("published", "sample", False)


@pytest.mark.parametrize(
    "collection, layout, prompts",
    [("xp3", "merged", "english"), ("xp3mt", "prompts", "native"), ("mine", "prompts", "english")],
)
def test_a_collection_has_its_layout_and_prompts(collection, layout, prompts):
    config = resolved(collection=collection)
    assert (config.layout, config.prompts) == (layout, prompts)
