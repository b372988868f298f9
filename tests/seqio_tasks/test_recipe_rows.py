"""What is done to rows of some data sets before prompts see them."""

import pytest

from seqio_tasks import recipe_languages
from seqio_tasks.recipe_rows import change


def test_most_data_sets_are_left_alone():
    row = {"text": "x"}
    assert change("xp3", "imdb", None)(row, 0) is row


def test_wiki_lingua_gets_language_names_and_one_direction():
    row = {"source_language": "ar", "target_language": "zh", "source": "s"}
    named = row | {"source_language_name": "Arabic", "target_language_name": "Chinese"}
    assert change("xp3", "GEM/wiki_lingua", "ar_zh")(row, 0) == named
    assert change("xp3", "GEM/wiki_lingua", "zh_ar")(row, 0) == "other_direction"
    same = {"source_language": "en", "target_language": "en"}
    assert change("xp3", "GEM/wiki_lingua", "en")(same, 0)["target_language_name"] == "English"
    assert change("xp3", "GEM/wiki_lingua", "en")({"x": 1}, 0) == "bad_fields"


def test_apps_gets_one_solution_by_seed():
    made = change("xp3", "codeparrot/apps", "all", seed=3)
    row = {"solutions": '["a", "b", "c"]'}
    drawn = [made(row, number)["solution"] for number in range(40)]
    assert set(drawn) == {"a", "b", "c"}
    assert drawn == [change("xp3", "codeparrot/apps", "all", 3)(row, n)["solution"]
                     for n in range(40)]  # fmt: skip
    for empty in ('""', "[]", "", []):
        assert made({"solutions": empty}, 0) == "no_solution"
    assert made({"solutions": "[broken"}, 0) == "bad_fields"


def test_xlcost_words_become_code():
    code = "def f ( ) : NEW_LINE INDENT a = 1 NEW_LINE if a : NEW_LINE INDENT print ( a ) NEW_LINE DEDENT return ' STRNEWLINE ' NEW_LINE DEDENT f ( )"  # noqa: E501
    assert change("xp3", "codeparrot/xlcost-text-to-code", "Python-program-level")(
        {"code": code}, 0
    )["code_clean"] == (
        "def f ( ) :\n\ta = 1\n\tif a :\n\t\tprint ( a )\n\treturn ' \n '\nf ( )"
    )  # fmt: skip


def test_xp3x_names_and_turns_pairs():
    row = {"sentence_eng_Latn": "hi", "sentence_yor_Latn": "bawo", "id": 1}
    made = change("xp3x", "facebook/flores", "eng_Latn-yor_Latn")(row, 0)
    assert made == {"id": 1, "source": "hi", "target": "bawo", "source_language_name": "English",
                    "target_language_name": "Yoruba"}  # fmt: skip
    assert change("xp3", "facebook/flores", "eng_Latn-yor_Latn")(row, 0) == row
    row = {"sourceLang": "ara", "targetlang": "eng", "sourceString": "s", "targetString": "t"}
    made = change("xp3x", "Helsinki-NLP/tatoeba_mt", "ara-eng-inverted")(row, 0)
    assert (made["sourceString"], made["source_language_name"]) == ("t", "English")
    assert made["target_language_name"] == "Arabic"
    named = change("xp3x", "Helsinki-NLP/tatoeba_mt", "eng-fra")({"sourceString": "s"}, 0)
    assert named["target_language_name"] == "French"
    row = {"translation": {"eng": "hi", "swh": "habari"}, "laser_score": 1.1}
    made = change("xp3x", "allenai/wmt22_african", "eng-swh")(row, 0)
    assert (made["source"], made["target"]) == ("hi", "habari")
    turned = change("xp3x", "allenai/wmt22_african", "eng-swh-inverted")(row, 0)
    assert (turned["source"], turned["target_language_name"]) == ("habari", "English")


def test_an_unknown_language_has_no_name():
    with pytest.raises(ValueError, match="no name for the language 'xx'"):
        recipe_languages.language_name("xx")
