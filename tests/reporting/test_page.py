"""mt0_tpu/reporting/page.py as a browser lays it out; skipped where there is no Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest

from mt0_tpu.report import write_report
from mt0_tpu.reporting.document import document
from tests import browser, report_folders

needs_browser = pytest.mark.skipif(
    browser.find() is None,
    reason="no Chromium on PATH or in $MT0_CHROMIUM; `make chromium` installs one on Debian",
)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """A page with every part, of two runs and a study."""
    root = tmp_path_factory.mktemp("pages")
    runs = report_folders.write_two_runs(root / "runs")
    runs.append(report_folders.write_study(root / "study"))
    return Path(write_report([str(run) for run in runs], str(root / "report")))


@needs_browser
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_everything_fits_at_any_width(index, width):
    found = browser.measure(index, width)
    assert found["width"] == width
    assert found["errors"] == found["requests"] == []
    assert found["overflow"] == found["cut"] == []
    assert found["charts"] > 30 and found["empty"] == 0


@needs_browser
def test_dark_where_the_reader_asks_for_it(index):
    light, dark = (browser.measure(index, 1280, dark) for dark in (False, True))
    assert light["paper"] == "rgb(255, 255, 255)"
    brightness = [sum(map(int, c[4:-1].split(","))) for c in (dark["paper"], dark["ink"])]
    assert brightness[0] < 150 < 500 < brightness[1]


@needs_browser
def test_the_browser_would_see_a_fault(tmp_path):
    chart = '<svg viewBox="0 0 9 9" style="width:200px"><text x="-90">far</text></svg>'
    page = tmp_path / "page.html"
    page.write_text(document("t", ['<div style="width:5000px">wide</div>', chart]))
    found = browser.measure(page, 600)
    assert len(found["overflow"]) == 1 and found["cut"] == ["far"]
