"""`mt0 tasks show`: task_examples.py, cached_examples.py and task_show.py on small tasks."""

from pathlib import Path

import pytest

from mt0_tpu import cli
from mt0_tpu.errors import UserError
from mt0_tpu.tasks import task_examples
from mt0_tpu.tasks.task_examples import Part
from mt0_tpu.tasks.task_show import part_lines, print_examples, token_lines
from mt0_tpu.tasks.token_text import Token, TokenText
from tests.data.conftest import write_cache

# Tasks of the tests' own, as a user's module registers them.
MODULE = """
import seqio
from seqio_tasks import vocabularies
from seqio_tasks.sources import PythonDataSource

READ = []
ROWS = [
    {"inputs": "name\\n\\tof  a place ", "targets": "four"},
    {"inputs": "five", "targets": "six"},
    {"inputs": "seven", "targets": "eight"},
]


def rows():
    for row in ROWS:
        READ.append(row["inputs"])
        yield row


def odd_rows():
    return [{"inputs": "a", "targets": 7}]


def through_tf(dataset):
    return dataset.map(lambda example: example)


def add(name, make, before=(), features=vocabularies.output_features):
    seqio.TaskRegistry.add(
        name,
        source=PythonDataSource({"train": make}),
        preprocessors=[
            *before,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=features(vocabularies.mini()),
    )


add("shown", rows)
add("shown_tf", rows, [through_tf])
add("shown_odd", odd_rows)
add("shown_empty", list)
seqio.MixtureRegistry.add("shown_mix", [("shown", 1.0), ("shown_tf", 9.0)])
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    path = tmp_path_factory.mktemp("module") / "shown_tasks.py"
    path.write_text(MODULE)
    return str(path)


def shown(name, module=None, **more):
    lines = []
    print_examples(name, more.pop("split", "train"), module=module, say=lines.append, **more)
    return lines


def test_first_examples_with_what_was_lost(module):
    assert shown("shown", module, num_examples=2) == [
        "",
        "── shown [train]",
        "inputs (5 tokens)",
        "  name of a place</s>",
        "  lost: 1 newline, 1 run of blanks, 1 tab became a blank each; "
        "blanks at the ends are gone",
        "  was:  name⏎⇥of␣␣a place␣",
        "targets (3 tokens)",
        "  four</s>",
        "",
        "── shown [train]",
        "inputs (3 tokens)",
        "  five</s>",
        "targets (3 tokens)",
        "  six</s>",
    ]


def test_only_first_examples_are_read(module):
    import sys

    shown("shown", module, num_examples=1)
    read = sys.modules["shown_tasks"].READ
    read.clear()
    shown("shown", module, num_examples=1)
    assert read == ["name\n\tof  a place "]


def test_tf_data_gives_the_same(module):
    plain, through = (shown(name, module)[2:] for name in ("shown", "shown_tf"))
    assert through[1:] == [line.replace("shown ", "shown_tf ") for line in plain[1:]]


def test_tasks_of_a_mixture_come_in_turn(module):
    lines = [line for line in shown("shown_mix", module, num_examples=3) if line.startswith("──")]
    assert lines == ["── shown [train]", "── shown_tf [train]", "── shown [train]"]


def test_a_seed_draws_and_repeats(module):
    first = task_examples.from_source("shown_mix", "train", 3, module=module, seed=4)
    again = task_examples.from_source("shown_mix", "train", 3, module=module, seed=4)
    assert [[part.ids for part in one.parts] for one in first] == [
        [part.ids for part in one.parts] for one in again
    ]
    seeds = {
        tuple(e.parts[1].source for e in task_examples.from_source(
            "shown", "train", 3, module=module, seed=seed
        ))
        for seed in range(8)
    }  # fmt: skip
    assert len(seeds) > 1


def test_rows_trim_as_t5x_does(module):
    lines = shown("shown", module, num_examples=1, lengths={"inputs": 3, "targets": 2})
    assert lines[2:4] == ["inputs (3 tokens of 5, cut to the row)", "  name of</s>"]


def test_tokens_and_ids_stand_in_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    tokens = [Token(5, "▁日本", False), Token(12345, "a", False), Token(1, "</s>", True),
              Token(7, "▁longerpiece", False)]  # fmt: skip
    assert token_lines(tokens) == [
        "  ▁日本 a     </s>",
        "  5     12345 1",
        "  ▁longerpiece",
        "  7",
    ]


def test_ids_without_a_vocabulary_are_shown_as_they_are():
    assert part_lines(Part("inputs", [17, 4], None, TokenText(None))) == [
        "inputs (2 tokens, ids of a vocabulary that is not at hand)",
        "  17 4",
    ]


def test_the_right_choice_is_marked():
    lines = shown("mini_eval_nli_fr", split="validation", num_examples=1)
    assert lines[1].startswith(
        "── mini_eval_nli_fr [validation]  prompt nli_1, cluster nli, language fr"
    )
    marked = [line for line in lines if line.startswith("✓ choice")]
    assert len(marked) == 1
    assert sum("choice" in line for line in lines) == 2


def test_span_corruption_shows_a_draw():
    first, second = (
        task_examples.from_source("mini_pretrain", "train", 1, seed=seed)[0] for seed in (1, 1)
    )
    inputs, targets = (part.vocabulary.text(part.ids) for part in first.parts)
    assert "<extra_id_0>" in inputs and targets.startswith("<extra_id_0>")
    assert inputs.endswith("</s>") and targets.endswith("</s>")
    assert first.parts[0].ids == second.parts[0].ids


def test_a_long_text_says_that_it_was_cut():
    examples = task_examples.from_source(
        "mini_pretrain", "train", 8, lengths={"inputs": 8, "targets": 8}
    )
    cut = [example.parts[0] for example in examples if example.parts[0].cut_from]
    assert cut and all(len(part.ids) <= 8 < part.cut_from for part in cut)
    assert "cut to the row" in part_lines(cut[0])[0]


def ids_of(text):
    from seqio_tasks import vocabularies

    return vocabularies.mini().encode(text)


def test_a_packed_row_shows_its_segments(tmp_path):
    pairs = [(ids_of("one two"), ids_of("three")), (ids_of("four"), ids_of("five six"))]
    write_cache(tmp_path, {"mini_code_en": pairs}, mixture="mini_code_en")
    sizes = [len(ids) + 1 for pair in pairs for ids in pair]
    lengths = {"inputs": sizes[0] + sizes[2], "targets": sizes[1] + sizes[3]}
    lines = shown("mini_code_en", packed=True, cache_dir=str(tmp_path), lengths=lengths)
    assert lines[0].startswith(
        f"one row of {lengths['inputs']} inputs and {lengths['targets']} targets: 2 examples"
    )
    texts = [line.strip() for line in lines if line.endswith("</s>")]
    assert {tuple(texts[i : i + 2]) for i in (0, 2)} <= {
        ("one two</s>", "three</s>"), ("four</s>", "five six</s>"),
    }  # fmt: skip
    assert [line[:12] for line in lines if "segment" in line] == ["── segment 1", "── segment 2"]


def test_cached_examples_decode_to_what_was_cached(tmp_path):
    pairs = [(ids_of("one two"), ids_of("three")), (ids_of("four"), ids_of("five six"))]
    write_cache(tmp_path, {"mini_code_en": pairs}, mixture="mini_code_en")
    lines = shown("mini_code_en", cached=True, cache_dir=str(tmp_path), num_examples=2)
    texts = [line.strip() for line in lines if line.endswith("</s>")]
    assert texts == ["one two</s>", "three</s>", "four</s>", "five six</s>"]
    drawn = [
        shown("mini_code_en", cached=True, cache_dir=str(tmp_path), num_examples=2, seed=seed)
        for seed in range(6)
    ]
    assert len({tuple(lines) for lines in drawn}) > 1


def test_cached_texts_are_corrupted_as_in_training(tmp_path):
    steps = [{"name": "span_corruption", "first_sentinel": 4095}]
    texts = [([], ids_of("one two three four five six seven eight"))]
    write_cache(tmp_path, {"mini_pretrain": texts}, mixture="mini_pretrain", draw_steps=steps)
    lines = shown("mini_pretrain", cached=True, cache_dir=str(tmp_path), num_examples=1)
    assert any("<extra_id_0>" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mini_cod_en"], "Did you mean 'mini_code_en'"),
        (["mini_code_en", "--split", "trian"], "has no split 'trian'.*Did you mean 'train'"),
        (["mini_code_en", "--packed"], "--packed needs row lengths"),
        (["mini_code_en", "--num_examples", "0"], "--num_examples is 0"),
        (["mini_code_en", "--task_feature_lengths", "inputs=5"], "inputs=512,targets=128"),
        (["mini_code_en", "--task_feature_lengths", "inputs=5,targets=x"], "inputs=512,"),
        (["mini_eval_nli_fr", "--split", "validation", "--packed",
          "--task_feature_lengths", "inputs=64,targets=64"], "ranks answer choices"),
        (["mini_code_en", "--cached", "--cache_dir", "{none}"], "is not cached"),
    ],
)  # fmt: skip
def test_what_is_refused(capsys, tmp_path, arguments, said):
    import re

    arguments = [part.format(none=tmp_path / "none") for part in arguments]
    assert cli.main(["tasks", "show", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error), error


def test_a_field_that_is_no_text_is_named(module):
    with pytest.raises(UserError, match="'shown_odd'.*'targets'.*7"):
        shown("shown_odd", module)


def test_a_task_without_examples_shows_none(module):
    assert shown("shown_empty", module) == ["'shown_empty' [train] has no examples"]


def test_a_page_of_examples(module, tmp_path, capsys):
    page = tmp_path / "page.html"
    flags = ["--module", module, "--num_examples", "1", "--html", str(page)]
    assert cli.main(["tasks", "show", "shown", *flags]) == 0
    assert f"page: {page}" in capsys.readouterr().out
    text = Path(page).read_text(encoding="utf-8")
    assert "class=special>&lt;/s&gt;</span>" in text
    assert "1 newline, 1 run of blanks, 1 tab became a blank each" in text
