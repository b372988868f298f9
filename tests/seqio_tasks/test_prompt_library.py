"""Finding templates in folders, checkouts and archives."""

import io
import os
import tarfile

import pytest

from seqio_tasks.prompt_library import PromptLibrary

TEMPLATE = """
templates:
  a: !Template {name: %s, jinja: 'x {{ a }} ||| y', metadata: !TemplateMetadata {metrics: []}}
"""


def write(folder, key, name="one"):
    path = folder / key / "templates.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(TEMPLATE % name)


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    write(root / "promptsource" / "templates", "pets")
    write(root / "promptsource" / "templates", "zoo/lions", "roar")
    return root


def test_a_checkout_and_the_folder_in_it_are_the_same_copy(checkout):
    for place in (checkout, checkout / "promptsource", checkout / "promptsource" / "templates"):
        library = PromptLibrary(place.as_posix())
        assert library.keys == ("pets", "zoo/lions")
        assert list(library.templates("zoo/lions")) == ["roar"]
        assert library.count("zoo/lions") == 1


def test_an_archive_is_read_without_unpacking_it(checkout, tmp_path):
    archive = tmp_path / "p-1.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(checkout, arcname="p-1")
        evil = tarfile.TarInfo("p-1/promptsource/templates/../../../../evil/templates.yaml")
        evil.size = 1
        file.addfile(evil, io.BytesIO(b"x"))
    before = sorted(tmp_path.rglob("*"))
    library = PromptLibrary(str(archive))
    assert {"pets", "zoo/lions"} <= set(library.keys)
    assert list(library.templates("pets")) == ["one"]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_first_of_several_copies_counts(checkout, tmp_path, monkeypatch):
    write(tmp_path / "own", "pets", "mine")
    places = f"{tmp_path / 'own'}{os.pathsep}{checkout}"
    assert list(PromptLibrary(places).templates("pets")) == ["mine"]
    assert list(PromptLibrary(places).templates("zoo/lions")) == ["roar"]
    monkeypatch.setenv("MT0_PROMPTS_DIR", places)
    assert list(PromptLibrary().templates("pets")) == ["mine"]


def test_a_misspelt_key_is_told_the_nearest(checkout):
    with pytest.raises(ValueError, match=r"'zoo/lion' in .*Did you mean 'zoo/lions'\?"):
        PromptLibrary(str(checkout)).templates("zoo/lion")


@pytest.mark.parametrize(
    "key, branch",
    [("mlqa/mlqa.en.en", "tr13, xp3mt or xp3x"), ("GEM/xlsum/english", "tr13, xp3mt or xp3x"),
     ("facebook/flores/a-b", "tr13 or xp3mt"), ("Muennighoff/multi_eurlex/x_x", "xp3x")],
)  # fmt: skip
def test_what_the_release_never_had_is_told_its_branch(checkout, key, branch):
    with pytest.raises(ValueError, match=f"Muennighoff/promptsource, branch {branch}"):
        PromptLibrary(str(checkout)).templates(key)


def test_no_prompts_at_hand_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.delenv("MT0_PROMPTS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="mt0 tasks prompts --get"):
        PromptLibrary()
    with pytest.raises(ValueError, match="no prompts at .*nowhere"):
        PromptLibrary(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"has no templates.yaml"):
        PromptLibrary(str(tmp_path))
    (tmp_path / "file.tar.gz").write_text("x")
    with pytest.raises(ValueError, match="no tar archive"):
        PromptLibrary(str(tmp_path / "file.tar.gz"))
