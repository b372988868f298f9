"""mt0_tpu/tasks/text_table.py: columns as literal lines."""

import pytest

from mt0_tpu.tasks.text_table import bar, cells, counted, listed, padded, percent, plural, table


def test_columns_line_up_by_what_a_terminal_shows():
    rows = [["a", "1", "x"], ["日本", "1,000", "longer"]]
    assert table(["name", "n", "text"], rows, texts=(0, 2)) == [
        "name      n  text",
        "a         1  x",
        "日本  1,000  longer",
    ]


def test_wide_letters_and_marks():
    assert cells("日本") == 4
    assert cells("e\u0301") == 1
    assert padded("日", 4, right=True) == "  日"


def test_bars_are_drawn_to_an_eighth():
    assert bar(1.0, 3) == "███"
    assert bar(0.5, 3) == "█▌"
    assert bar(0.0, 3) == ""


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (9_999, "9,999"), (12_345, "12.3k"), (4_560_000, "4.6M"), (94.9e9, "94.9B")],
)
def test_counts_in_few_digits(number, said):
    assert counted(number) == said


@pytest.mark.parametrize(
    ("share", "said"),
    [(0, "0%"), (1, "100%"), (0.123, "12.3%"), (0.0123, "1.23%"), (0.00001, "<0.01%")],
)
def test_percentages_keep_their_smallest_digit(share, said):
    assert percent(share) == said


def test_lists_say_how_many_more():
    assert listed(["ar", "en", "fr"], 2) == "ar en +1"
    assert listed(["ar"], 2) == "ar"
    assert (plural(1, "task"), plural(1200, "task")) == ("1 task", "1,200 tasks")
