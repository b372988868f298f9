"""mt0_tpu/reporting/document.py: what stands in a page is text, and whole."""

from __future__ import annotations

import pytest

from mt0_tpu.reporting.document import document, escaped, panel, plural
from tests.strict_html import StrictPage


def test_text_that_html_cannot_write_becomes_a_replacement():
    assert escaped("<a & 'b'>") == "&lt;a &amp; &#x27;b&#x27;&gt;"
    assert escaped("a\x00b\x1b[0m\ud800\ufffe\x85") == "a\ufffdb\ufffd[0m\ufffd\ufffd\ufffd"
    assert escaped("ا\u200fب\tc\nd") == "ا\u200fب\tc\nd"


def test_empty_parts_are_left_out():
    text = document("a < b", ["<p>x</p>", ""], ".more{}")
    assert "<title>a &lt; b</title>" in text and text.count("\n\n") == 0
    StrictPage(text)


def test_plural():
    assert [plural(n, "step") for n in (0, 1, 2000)] == ["0 steps", "1 step", "2,000 steps"]


@pytest.mark.parametrize(
    "broken",
    [
        "<p>x",
        "<p id='a'>x</p><p id='a'>y</p>",
        "<p><b>x</p></b>",
        "<script>1</script>",
        "<img src='x.png'>",
        "<a href='#nowhere'>x</a>",
        "<a href='https://example.org'>x</a>",
        "<p onclick='f()'>x</p>",
        panel("t", '<svg role="img" aria-label="x"><path d="M1 nan"/></svg>'),
    ],
)
def test_the_strict_check_would_see_a_fault(broken):
    with pytest.raises(AssertionError):
        StrictPage(document("t", [broken]))
