"""mt0_tpu/reporting/language_maps.py: tints and the order of languages."""

from __future__ import annotations

import re

import pytest

from mt0_tpu.reporting.language_maps import language_maps, shade_of
from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.references import References
from mt0_tpu.reporting.runs import load_runs
from mt0_tpu.reporting.tables import Scores
from tests.report_folders import line, write_run


@pytest.mark.parametrize(
    ("value", "shade"),
    [(50.0, ""), (100.0, "u9"), (0.0, "d9"), (50.5, ""), (60.0, "u3"), (40.0, "d3"), (None, "")],
)
def test_shades_by_the_way_from_chance(value, shade):
    assert shade_of(value, 50.0) == shade


def test_seen_languages_first_and_english_before_them(tmp_path):
    lines = [line(language=language, accuracy=0.75) for language in ("xh", "fr", "bg", "en")]
    lines.append(line("one_language"))
    runs = load_runs([str(write_run(tmp_path / "a", lines))])
    page = language_maps(Scores(runs, "dataset"), References(runs[0].rank), Palette(["a"]))
    codes = re.search(r"</tr><tr><th></th>(.*?)</tr></thead>", page).group(1)
    assert re.findall(r">(\w+)</th>", codes) == ["en", "fr", "bg", "xh"]
    assert codes.count('class="gap"') == 1 and '<th class="gap">bg' in codes
    assert page.count(">75<") == 4 and "one language" not in page
