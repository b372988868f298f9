"""Language folders, as published and mended."""

import pytest

from seqio_tasks import recipe_languages


@pytest.mark.parametrize(
    "dataset, subset, template, xp3, xp3x",
    [
        ("imdb", None, "t", "en", "eng_Latn"),
        ("facebook/flores", "eng_Latn-yor_Latn", "t", "yo", "yor_Latn"),
        ("facebook/flores", "yor_Latn-zho_Hant", "t", "zh", "zho_Hant"),
        ("GEM/wiki_lingua", "ar", "t", "ar", "arb_Arab"),
        ("GEM/wiki_lingua", "ar_en", "t", "en", "eng_Latn"),
        ("mlqa", "mlqa.ar.vi", "t", "ar", "arb_Arab"),
        ("xquad", "xquad.hi", "t", "hi", "hin_Deva"),
        ("GEM/xlsum", "kirundi", "t", "rn", "run_Latn"),
        ("GEM/xlsum", "chinese_traditional", "t", "zh", "zho_Hant"),
        ("khalidalt/tydiqa-goldp", "swahili", "t", "sw", "swh_Latn"),
        ("Helsinki-NLP/tatoeba_mt", "ara-eng", "translate-this-eng-ara", "ar", "arb_Arab"),
        ("Helsinki-NLP/tatoeba_mt", "eng-cmn_Hans", "translate-this-eng-cmn_Hans", "zh", None),
        ("allenai/wmt22_african", "eng-swh", "x-eng-swh", "sw", "swh_Latn"),
        ("multi_eurlex", "all_languages", "v1-en-fr-source+target", "fr", None),
        ("clue", "c3", "t", "zh", "zho_Hans"),
        ("great_code", None, "t", "code", "python"),
        ("codeparrot/codecomplex", "codeparrot--codecomplex", "t", "code", "java"),
        ("paws-x", "zh", "t", "zh", "zho_Hans"),
    ],
)
def test_language_folders(dataset, subset, template, xp3, xp3x):
    for faithful in (False, True):
        assert recipe_languages.folder(dataset, subset, template, faithful=faithful) == xp3
    if xp3x:
        assert recipe_languages.folder(dataset, subset, template, xp3x=True) == xp3x


def test_xp3x_takes_the_turned_pair_by_its_source():
    folder = recipe_languages.folder("allenai/wmt22_african", "afr-eng-inverted", "in-x-x", True)
    assert folder == "afr_Latn"


def test_german_counted_as_english_when_published():
    assert recipe_languages.folder("paws-x", "de", "t", faithful=True) == "en"
    assert recipe_languages.folder("paws-x", "de", "t") == "de"
    assert recipe_languages.folder("Muennighoff/xwinograd", "jp", "t") == "ja"
