"""`--html` of `mt0 tasks`: pages that hold all they need, and nothing but well-formed text."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mt0_tpu import cli
from mt0_tpu.tasks.task_page import histogram
from mt0_tpu.tasks.task_stats import Lengths
from tests.data.conftest import write_cache
from tests.tasks.test_task_stats import write_rank_task

_VOID = {"meta", "br", "img", "line", "rect"}


class Page(HTMLParser):
    """Keeps the tags that are open, the text, and what is fetched from elsewhere."""

    def __init__(self, path):
        super().__init__()
        self.open, self.said, self.fetched = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        self.fetched += [v for k, v in attributes if k in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.said))


def page_of(tmp_path, *arguments):
    path = tmp_path / "page.html"
    assert cli.main(["tasks", *arguments, "--html", str(path)]) == 0
    page = Page(path)
    assert page.open == []
    assert page.fetched == []
    return page


def ids_of(text):
    from seqio_tasks import vocabularies

    return vocabularies.mini().encode(text)


def test_stats_page(tmp_path, capsys):
    tasks = {
        "mini_code_en": [(ids_of("one <two> & three"), ids_of("four"))] * 3,
        "mini_translation_fr": [(ids_of("English"), ids_of("name"))],
    }
    write_cache(tmp_path, tasks)
    page = page_of(tmp_path, "stats", "mix", "--cache_dir", str(tmp_path), "--model", "tiny")
    for said in ("Lengths", "By language", "By cluster", "Row lengths", "Examples", "By task"):
        assert f" {said} " in page.text
    assert "TASK_FEATURE_LENGTHS = {'inputs': " in page.text
    assert "<0x3C>" in page.text  # escaped in the page, whole to a reader
    assert "page: " in capsys.readouterr().out


def test_stats_page_without_the_tasks(tmp_path, capsys):
    """A cache whose tasks are not registered here still has a page, without examples."""
    write_cache(tmp_path, {"elsewhere_en": [([5, 6], [7])]})
    page = page_of(tmp_path, "stats", "mix", "--cache_dir", str(tmp_path), "--model", "tiny")
    assert " Examples " not in page.text
    assert "page: without examples (no SeqIO mixture or task" in capsys.readouterr().out


def test_stats_page_of_rank_tasks_and_of_nothing(tmp_path):
    write_rank_task(tmp_path, "ranked")
    flags = ("--split", "validation", "--cache_dir", str(tmp_path))
    page = page_of(tmp_path, "stats", "ranked", *flags)
    assert "Row lengths" not in page.text
    write_cache(tmp_path, {"void": []}, mixture="nothing")
    page = page_of(tmp_path, "stats", "nothing", "--cache_dir", str(tmp_path))
    assert "0 examples" in page.text


def test_list_page(tmp_path):
    page = page_of(tmp_path, "list", "fr", "--cache_dir", str(tmp_path))
    assert "whose name holds fr" in page.text
    assert "mini_eval_nli_fr" in page.text


def test_histogram_as_svg():
    drawn = histogram(Lengths(np.array([0, 1, 0, 3])), "#000")
    assert drawn.count("<rect") == 3
    assert "<title>up to 3: 75.0%</title>" in drawn
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" fill', drawn)]
    assert heights == pytest.approx([heights[2] / 3, 0, heights[2]], abs=0.1)
