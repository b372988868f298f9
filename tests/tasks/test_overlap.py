import random

import pytest

from mt0_tpu.tasks import overlap
from mt0_tpu.tasks.overlap import EvaluationIndex, Texts

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "nrlsmt"]
_random = random.Random(0)


def sentence(words=7):
    return " ".join(_random.choice(WORDS) for _ in range(words)).capitalize() + "."


def index(tasks, prompt="p"):
    made = EvaluationIndex()
    for name, texts in tasks.items():
        made.add(name, [Texts((text,), prompt) for text in texts])
    made.close()
    return made


def match(made, *texts, task="train"):
    made.match(task, [Texts((text,)) for text in texts])
    return made


STORIES = [" ".join(sentence() for _ in range(4)) for _ in range(40)]
QUESTION = "Which of these two endings do you think that the author of the story chose in the end?"


def test_planted_examples_are_found_and_others_are_not():
    made = index(
        {"stories": [f"{story}\n{QUESTION}" for story in STORIES], "other": [sentence(20)]}
    )
    others = [" ".join(sentence() for _ in range(4)) for _ in range(500)]
    match(made, *others, task="clean")
    assert made.touched("stories") == (0, 0, 0) and not made.pairs
    match(made, f"Read this. {STORIES[3]} Done.", f"{sentence()} {STORIES[7]}")
    assert made.touched("stories") == (2, 2, 0)
    (names,) = made.pairs
    pair = made.pairs[names]
    assert names == ("train", "stories") and pair.evaluation_examples == {3, 7}
    assert pair.training_examples == 2
    assert pair.samples[0].training.startswith(("Read this.", pair.samples[0].training[:5]))
    assert STORIES[3].split(".")[0].lower() in " ".join(s.passage for s in pair.samples)


def test_what_a_prompt_says_everywhere_is_no_overlap():
    made = index({"stories": [f"{QUESTION}\n{story}" for story in STORIES]})
    match(made, f"{QUESTION}\n{sentence(20)}", QUESTION, *[f"{QUESTION} {s}" for s in WORDS])
    assert made.touched("stories") == (0, 0, 0)


def test_what_one_example_in_ten_has_is_no_overlap():
    """Too rare for a template, too common to be anybody's own."""
    hint = sentence(15)
    stories = [f"{sentence(30)} {hint}" for _ in range(15)] + [sentence(30) for _ in range(85)]
    made = index({"stories": stories})
    match(made, f"{sentence()} {hint}")
    assert made.touched("stories") == (0, 0, 0) and made.ignored["stories"] == 3
    rare = index({"stories": stories[11:]})
    match(rare, f"{sentence()} {hint}")
    assert rare.touched("stories") == (4, 4, 0)


def test_prompts_are_told_apart():
    """A prompt of few examples among many: its words are template all the same."""
    made = EvaluationIndex()
    many = [Texts((f"{story} And then?",), "a") for story in STORIES]
    few = [Texts((f"{QUESTION} {story}",), "b") for story in STORIES[:4]]
    made.add("stories", many + few)
    made.close()
    match(made, f"{QUESTION} {sentence(20)}")
    assert made.touched("stories") == (0, 0, 0)
    # The item is in one example of each prompt, and found in both.
    match(made, STORIES[0])
    assert made.touched("stories")[0] == 2


def test_passages_that_several_questions_share_still_count():
    passages = [" ".join(sentence() for _ in range(5)) for _ in range(30)]
    made = index({"reading": [f"{p} Question: {sentence(5)}" for p in passages for _ in range(5)]})
    match(made, passages[4])
    assert made.touched("reading")[0] == 5


def test_a_common_short_sentence_of_a_long_example_is_weak():
    common = "She was very happy today."
    made = index({"stories": [f"{story} {common}" for story in STORIES[:5]] + STORIES[5:]})
    match(made, f"{common} {sentence()}")
    assert made.touched("stories") == (0, 0, 5)
    match(made, f"{STORIES[1].split('. ')[0]}. {STORIES[1].split('. ')[1]}.")
    assert made.touched("stories")[0] == 1


def test_the_same_short_text_is_found_as_a_whole():
    pairs = [f"Is {word} the same as {other}?" for word in WORDS[:20] for other in WORDS[20:25]]
    made = index({"pairs": pairs})
    match(made, pairs[17], f"Is {WORDS[0]} the same as {WORDS[99]}?")
    assert made.touched("pairs") == (1, 0, 0)


def test_examples_too_short_to_look_for_are_counted():
    made = index({"tiny": ["yes", "no", sentence(20)]})
    assert made.unkeyed == {"tiny": 2} and made.sizes == {"tiny": 3}


def test_batches_do_not_change_what_is_found(monkeypatch):
    def run():
        made = index({"a": STORIES[:20], "b": STORIES[15:]})
        match(made, *STORIES[10:30], *[sentence(20) for _ in range(30)])
        return {k: (p.training_examples, p.evaluation_examples) for k, p in made.pairs.items()}

    one = run()
    assert one[("train", "a")] == (10, set(range(10, 20)))
    monkeypatch.setattr(overlap, "_BATCH", 7)
    assert run() == one


def test_the_strongest_samples_are_kept():
    made = index({"stories": STORIES})
    for story in STORIES[:6]:
        match(made, story[: len(story) // 2])
    match(made, STORIES[9] * 2)
    samples = made.pairs["train", "stories"].samples
    assert len(samples) == 3 and samples[0].evaluation == STORIES[9]


@pytest.mark.parametrize("tasks", [{}, {"empty": []}, {"tiny": ["no"]}])
def test_an_index_without_keys_matches_nothing(tasks):
    made = match(index(tasks), *STORIES)
    assert made.num_keys == 0 and not made.pairs
