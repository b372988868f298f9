"""Choosing, ordering and merging rendered examples."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt0_tpu.building.build_examples import ORDERS, ScratchExamples, json_line, merge, write_lines

PAIRS = [("bb", "1"), ("a much longer input", "2"), ("é", "3"), ("ccc", "4"), ("B", "5")]


def chosen(folder, pairs, order, most, seed="0"):
    with ScratchExamples(folder) as examples:
        for pair in pairs:
            examples.append(*pair)
        return list(examples.texts(examples.chosen(order, most, seed)))


def test_the_shortest_are_kept_by_letters_not_bytes(tmp_path):
    kept = chosen(tmp_path, PAIRS, "shortest", 3)
    assert {inputs for inputs, _ in kept} == {"é", "B", "bb"}


def test_alphabetical_is_by_code_points_and_keeps_the_first(tmp_path):
    kept = chosen(tmp_path, PAIRS, "alphabetical", 3)
    assert [inputs for inputs, _ in kept] == ["B", "a much longer input", "bb"]


def test_long_inputs_that_differ_late_are_told_apart(tmp_path):
    pairs = [("x" * 300 + end, end) for end in "cab"] + [("x" * 299, "short")]
    assert [t for _, t in chosen(tmp_path, pairs, "alphabetical", 9)] == ["short", "a", "b", "c"]


@pytest.mark.parametrize("order", ["shortest", "sample"])
def test_drawn_orders_follow_the_seed(tmp_path, order):
    pairs = [(f"{i:03}", str(i)) for i in range(200)]
    once = chosen(tmp_path, pairs, order, 50)
    assert once == chosen(tmp_path, pairs, order, 50) != chosen(tmp_path, pairs, order, 50, "1")
    assert once != sorted(once)
    # Among equally short ones nothing favours the first.
    assert sum(int(target) for _, target in once) / 50 == pytest.approx(100, abs=30)


@given(
    st.lists(st.tuples(st.text(max_size=6), st.text(max_size=3)), max_size=20),
    st.sampled_from(ORDERS),
    st.integers(0, 25),
)
def test_the_cap_keeps_what_it_says(tmp_path_factory, pairs, order, most):
    folder = tmp_path_factory.mktemp("cap")
    try:
        "".join(text for pair in pairs for text in pair).encode()
    except UnicodeEncodeError:
        return
    kept = chosen(folder, pairs, order, most)
    assert len(kept) == min(most, len(pairs))
    assert not Counter(kept) - Counter(pairs)
    left = list((Counter(pairs) - Counter(kept)).elements())
    if order == "shortest":
        assert all(len(k[0]) <= len(other[0]) for k in kept for other in left)
    elif order == "alphabetical":
        assert [k[0] for k in kept] == sorted(pair[0] for pair in pairs)[:most]


def test_a_line_is_as_the_released_ones():
    assert json_line({"inputs": 'é "x"\n', "targets": "中"}) == (
        '{"inputs":"é \\"x\\"\\n","targets":"中"}\n'.encode()
    )


def test_a_failing_writer_leaves_nothing(tmp_path):
    def lines():
        yield b"one\n"
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_lines(tmp_path / "a.jsonl", lines())
    assert list(tmp_path.iterdir()) == []


def parts(folder, *contents):
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"part{number}.jsonl")
        paths[-1].write_text(content, encoding="utf-8")
    return paths


def test_merging_leaves_out_duplicates_and_shuffles_by_seed(tmp_path):
    lines = [json_line({"inputs": str(i), "targets": "x"}).decode() for i in range(300)]
    # A line twice in one part, and in two; the last part lacks its line break.
    first, second = "".join(lines[:200] + lines[:1]), "".join(lines[100:]).rstrip("\n")
    told = merge(parts(tmp_path, first, second), tmp_path / "out" / "m.jsonl", 0, 64)
    merged = (tmp_path / "out" / "m.jsonl").read_text().splitlines(keepends=True)
    assert told == {"lines": 300, "bytes": len("".join(lines)), "duplicates": 101}
    assert sorted(merged) == sorted(lines) and merged != sorted(merged)
    assert sum(int(json.loads(line)["inputs"]) for line in merged[:100]) / 100 == pytest.approx(
        150, abs=30
    )
    merge(parts(tmp_path, second, first), tmp_path / "again.jsonl", 0, 64)
    assert (tmp_path / "again.jsonl").read_text().splitlines(keepends=True) == merged
    merge(parts(tmp_path, first, second), tmp_path / "other.jsonl", 1, 64)
    assert (tmp_path / "other.jsonl").read_text().splitlines(keepends=True) != merged


def test_merging_in_little_memory_gives_the_same_file(tmp_path):
    lines = "".join(f'{{"inputs":"{i} {"x" * 400}","targets":"y"}}\n' for i in range(6000))
    merge(parts(tmp_path, lines), tmp_path / "one.jsonl", 5, 1000)
    merge(parts(tmp_path, lines), tmp_path / "many.jsonl", 5, 1)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "many.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.jsonl", "one.jsonl",
                                                                "part0.jsonl"]  # fmt: skip
