"""Lists of raw data."""

import pytest

from seqio_tasks import raw_lists


def test_a_list_of_data_fills_in_subsets(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", "files")
    (tmp_path / "list.toml").write_text("""
[[data]]
dataset = "pairs"
subset = ["eng-fra", "eng-swh"]
split = "train"
files = { source = "$PLACE/{subset}.{0}", target = "$PLACE/{subset}.{1}" }
constants = { code = "{1}" }
language = "{1}"
""")
    found = raw_lists.read_list(tmp_path / "list.toml")
    assert [split.language for split in found] == ["fra", "swh"]
    assert found[1].files["target"] == str(tmp_path / "files/eng-swh.swh")
    assert found[1].constants == {"code": "swh"}


@pytest.mark.parametrize(
    "text, error",
    [
        ("[[data]]\ndataset='d'\nsplit='s'\nfile='x'", "there is no 'file'. Did you mean 'files'"),
        ("[[data]]\ndataset='d'\nsplit='s'", "files is None"),
        ("[[data]]\ndataset='d'\nfiles='x'", "data]] 1: .*split"),
        ("[[data]]\ndataset='d'\nsplit='s'\nfiles='$NOT_SET_HERE/x'", r"\$NOT_SET_HERE, which is"),
        ("[[data]]\ndataset='d'\nsubset='a'\nsplit='s'\nfiles='{1}'", "'a' lacks"),
        ("x = 1", "no \\[\\[data"),
        ("[[data", "no TOML"),
    ],
)
def test_mistakes_in_a_list_are_told(tmp_path, text, error):
    (tmp_path / "list.toml").write_text(text)
    with pytest.raises(ValueError, match=error):
        raw_lists.read_list(tmp_path / "list.toml")
