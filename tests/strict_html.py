"""What every page of ours must keep: whole, in one piece, and without a number that is none."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

_VOID = {"meta", "br", "img", "hr"}
_SVG = {"svg", "g", "path", "rect", "circle", "text", "title", "line"}
_NO_NUMBER = re.compile(r"\b(nan|inf|NaN|Infinity|None|undefined|null)\b")


class StrictPage(HTMLParser):
    """Parses a page and asserts; `seen`, `ids` and `text` are then there to look at."""

    def __init__(self, page: str):
        super().__init__()
        self.seen, self.ids, self.links, self._open = set(), [], [], []
        self._text: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == [], self._open
        assert len(self.ids) == len(set(self.ids)), sorted(self.ids)
        # Nothing is fetched and nothing runs.
        assert not self.seen & {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert not re.search(r"@import|url\(|src=|javascript:|\son\w+=", self._markup(page))
        assert all(link.startswith("#") and link[1:] in self.ids for link in self.links)
        self.text = re.sub(r"\s+", " ", " ".join(self._text))
        self.charts = [
            ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.S)
        ]
        for chart in self.charts:
            self._check_chart(chart)

    @staticmethod
    def _markup(page: str) -> str:
        """The style sheet and the tags, without the text between them."""
        style = re.search(r"<style>(.*?)</style>", page, re.S).group(1)
        return style + " ".join(re.findall(r"<[^>]+>", page))

    @staticmethod
    def _check_chart(chart: ElementTree.Element) -> None:
        assert chart.get("role") == "img" and chart.get("aria-label")
        for element in chart.iter():
            assert element.tag in _SVG, element.tag
            for name, value in element.attrib.items():
                assert name == "aria-label" or not _NO_NUMBER.search(value), (name, value)

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        if tag not in _VOID:
            self._open.append(tag)
        named = dict(attributes)
        assert len(named) == len(attributes), attributes
        if "id" in named:
            self.ids.append(named["id"])
        if "href" in named:
            self.links.append(named["href"])

    def handle_endtag(self, tag):
        assert tag in _VOID or self._open.pop() == tag, tag

    def handle_data(self, data):
        if "style" not in self._open:
            self._text.append(data)

    def assert_no_missing_numbers(self) -> None:
        """Asserts that no text reads as a number that failed; None is fit in a gin config."""
        assert not re.search(r"\b(nan|NaN|undefined|Infinity)\b", self.text)
