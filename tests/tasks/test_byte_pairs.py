import json

import pytest

from mt0_tpu.errors import UserError
from mt0_tpu.tasks.byte_pairs import BytePairs

# "é" is the bytes C3 A9, written as the letters of those numbers; a blank is written Ġ.
PIECES = {"<pad>": 0, "</s>": 2, "caf": 5, "Ã": 6, "©": 7, "Ġnoir": 8, "Ċ": 9}


@pytest.fixture
def path(tmp_path):
    content = {"model": {"vocab": PIECES}, "added_tokens": [{"id": 0}, {"id": 2}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    return str(tmp_path / "tokenizer.json")


def test_ids_become_the_text_of_their_bytes(path):
    assert BytePairs(path).decode([5, 6, 7, 8, 9, 2, 0, 99]) == "café noir\n"
    assert BytePairs(path).decode([6]) == "�"


def test_another_file_is_refused(path, tmp_path):
    (tmp_path / "other.json").write_text('{"model": {"vocab": []}}')
    for wrong in (str(tmp_path / "other.json"), str(tmp_path / "nowhere.json")):
        with pytest.raises(UserError, match="is no tokenizer.json of byte-level BPE"):
            BytePairs(wrong)
