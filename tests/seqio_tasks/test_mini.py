"""mini-xP3: registration, determinism, what must never be in a finetuning row, evaluation."""

import collections
import re
import subprocess
import sys

import pytest
import seqio

import seqio_tasks
from seqio_tasks import mini, mini_facts, mini_pretraining, mini_prompts, mini_rows

PAIRS = [(c, lang) for lang in mini_facts.SEEN_LANGUAGES for c in mini.clusters_of(lang)]
HASH = """
import hashlib
from seqio_tasks import mini_pretraining, mini_rows
digest = hashlib.sha256()
for cluster in mini_rows.CLUSTERS:
    for language in ("en", "sw", "zh", "tn"):
        digest.update(repr(mini_rows.rows(cluster, language)[:60]).encode())
for cluster in mini_rows.EVALUATIONS:
    for language in ("te", "fr"):
        digest.update(repr(mini_rows.evaluation_rows(cluster, language)).encode())
digest.update(repr(mini_pretraining.lines("ig")).encode())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def every_row():
    return [(c, lang, row) for c, lang in PAIRS for row in mini_rows.rows(c, lang)]


def test_two_processes_make_the_same_rows():
    made = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", HASH],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(p for p in sys.path if p)},
        )
        made.append(done.stdout)
    assert made[0] == made[1] and len(made[0]) == 65


def test_importing_makes_no_rows():
    program = (
        "import seqio_tasks; import sys; assert 'seqio' not in sys.modules\n"
        "from seqio_tasks import mini, mini_facts, mini_rows, mini_pretraining\n"
        "assert not mini_rows.rows.cache_info().currsize\n"
        "assert not mini_pretraining.lines.cache_info().currsize\n"
        "assert not mini_facts.locale.cache_info().currsize, 'registering read a locale'\n"
        "assert not any(name.startswith('mt0_tpu') for name in sys.modules)\n"
    )
    path = ":".join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": path})


def test_no_held_out_concept_in_any_finetuning_row(every_row):
    for _, _, row in every_row:
        assert not any(mini_facts.held_out(concept) for concept in row.concepts), row


# What may stand beside a name in a row; Chinese and Arabic join words to names.
_BESIDE = ' ,.;:"?!=/()[]|،、“”«»？：؟和的'


# Kinds with words of a third language, where a held-out name may be spelt like part of a seen one
# ("Kenya" in the Swahili for the Kenyan shilling).
_MANY_LANGUAGES = ("same_meaning", "same_language", "translate")


@pytest.mark.parametrize("many", [False, True])
def test_no_held_out_name_in_the_text_of_any_finetuning_row(every_row, many):
    """Independent of the rows' own bookkeeping: the words themselves are searched."""
    templates = _words(p.template for prompts in mini_prompts.PROMPTS.values() for p in prompts)
    texts = collections.defaultdict(list)
    for _, language, row in every_row:
        if (row.kind in _MANY_LANGUAGES) == many:
            texts[language].append(f" {row.inputs} {row.targets} ")
    everywhere = _seen_words(mini_facts.LANGUAGES) if many else set()
    beside = "[" + re.escape(_BESIDE) + "]"
    for language, of_language in texts.items():
        # "Guinea" is inside "Equatorial Guinea" too, "May" inside a prompt.
        known = everywhere | templates | _seen_words({"en", language})
        held = {
            name
            for code in {"en", language}
            for concept, name in mini_facts.names(code).items()
            if mini_facts.held_out(concept) and name.casefold() not in known
        }
        pattern = re.compile(beside + "(" + "|".join(map(re.escape, sorted(held))) + ")" + beside)
        found = [(m.group(1), text) for text in of_language if (m := pattern.search(text))]
        assert len(held) > 50 and not found, (language, len(held), len(found), found[:5])


def _seen_words(languages):
    return _words(
        name
        for code in languages
        for concept, name in mini_facts.names(code).items()
        if not mini_facts.held_out(concept)
    )


def _words(texts):
    """Every run of up to six neighbouring words of the texts, in lower case."""
    runs = set()
    for text in texts:
        parts = text.casefold().replace("(", " ").replace(")", " ").replace(",", " ").split()
        for start in range(len(parts)):
            for end in range(start + 1, min(start + 6, len(parts)) + 1):
                runs.add(" ".join(parts[start:end]))
    return runs


def test_no_held_out_language_or_cluster_is_finetuned(every_row):
    assert {language for _, language, _ in every_row} == set(mini_facts.SEEN_LANGUAGES)
    assert not {row.kind for _, _, row in every_row} & set(mini_prompts.HELD_OUT_KINDS)
    for language in mini_facts.HELD_OUT_LANGUAGES:
        assert mini.clusters_of(language) == []
        with pytest.raises(ValueError, match="held out of finetuning"):
            mini_rows.rows("code", language)
    for mixture in ("mini_multilingual", "mini_english"):
        for task in seqio.MixtureRegistry.get(mixture).tasks:
            assert task.name.rsplit("_", 1)[1] in mini_facts.SEEN_LANGUAGES
    scripts = re.compile("[\u0c00-\u0c7f]")  # Telugu: of the held-out scripts the only one alone
    assert not any(scripts.search(row.inputs + row.targets) for _, _, row in every_row)


def test_held_out_prompts_are_in_no_finetuning_row(every_row):
    openings = [
        text.split("{")[0].strip()
        for kind in mini_prompts.HELD_OUT_KINDS
        for text in mini_prompts._HELD_OUT[kind]
    ]
    openings = [text for text in openings if len(text) > 8]
    assert openings
    assert not any(row.inputs.startswith(tuple(openings)) for _, _, row in every_row)


def test_rows_render_without_leftovers(every_row):
    for _, _, row in every_row:
        text = row.inputs + row.targets
        assert row.inputs and row.targets
        assert "{a}" not in text and "{b}" not in text and "None" not in text
        assert "{0}" not in text and "length-" not in text and "\n" not in text
        assert row.inputs == " ".join(row.inputs.split())


def test_counts(every_row):
    assert 150_000 <= len(every_row) <= 250_000
    for cluster, language in PAIRS:
        rows = mini_rows.rows(cluster, language)
        assert len(rows) >= 100, (cluster, language)
        assert len({row.inputs for row in rows}) == len(rows)
    for language in mini_facts.SEEN_LANGUAGES:
        for cluster in set(mini_rows.CLUSTERS) - set(mini.clusters_of(language)):
            assert len(mini_rows.rows(cluster, language)) < 100, (cluster, language)
    lines = sum(len(mini_pretraining.lines(code)) for code in mini_facts.LANGUAGES)
    assert 60_000 <= lines <= 100_000


def test_yes_and_no_are_even(every_row):
    counts = collections.defaultdict(collections.Counter)
    for cluster, _, row in every_row:
        if cluster == "paraphrase_identification":
            counts[row.prompt][row.targets] += 1
    assert len(counts) == 12
    for prompt, answers in counts.items():
        assert len(answers) == 2 and 0.4 < min(answers.values()) / answers.total(), prompt


def test_validation_and_train_do_not_meet():
    train = {e["inputs"] for e in mini_rows.finetuning_examples("translation", "sw", "train")}
    held = {e["inputs"] for e in mini_rows.finetuning_examples("translation", "sw", "validation")}
    assert train and held and not train & held


def test_native_prompts_are_of_seen_languages():
    for prompts in mini_prompts.PROMPTS.values():
        assert 3 <= sum(p.language == "en" for p in prompts) <= 5
        assert {p.language for p in prompts} <= set(mini_facts.SEEN_LANGUAGES)


@pytest.mark.parametrize("group", mini.eval_groups(), ids=lambda group: group["task"])
def test_evaluation_is_balanced(group):
    rows = mini_rows.evaluation_rows(group["cluster"], group["language"])
    by_prompt = collections.defaultdict(list)
    for row in rows:
        by_prompt[row["prompt"]].append(row)
        assert len(set(row["choices"])) == len(row["choices"])
        assert 0 <= row["answer"] < len(row["choices"]) and "{" not in row["inputs"]
    assert 3 <= len(by_prompt) <= 5
    for same in by_prompt.values():
        assert len(same) >= 12
        answers = collections.Counter(row["answer"] for row in same)
        assert len(answers) == len(same[0]["choices"]) and len(set(answers.values())) == 1


def test_evaluations_left_out_have_too_few_rows():
    for language in mini_facts.LANGUAGES:
        for cluster in set(mini_rows.EVALUATIONS) - set(mini.evaluations_of(language)):
            rows = mini_rows.evaluation_rows(cluster, language)
            assert len({row["inputs"] for row in rows}) < 50, (cluster, language)


def test_eval_groups_name_the_registered_tasks():
    groups = mini.eval_groups()
    assert {g["task"] for g in groups} == {
        task.name for task in seqio.MixtureRegistry.get("mini_eval").tasks
    }
    assert {g["cluster"] for g in groups if g["held_out_cluster"]} == {"nli", "completion"}
    unseen = {g["language"] for g in groups if not g["seen_language"]}
    assert unseen == set(mini_facts.HELD_OUT_LANGUAGES)


def test_finetuning_task_through_seqio():
    task = seqio.TaskRegistry.get("mini_paraphrase_identification_sw")
    dataset = task.get_dataset({"inputs": 64, "targets": 16}, "validation", shuffle=False)
    first = next(dataset.as_numpy_iterator())
    assert first["inputs"][-1] == 1 and first["targets"][-1] == 1
    vocabulary = task.output_features["inputs"].vocabulary
    example = next(task.source.python_examples("validation"))
    assert vocabulary.decode(first["inputs"].tolist()) == example["inputs"]


def test_rank_task_through_seqio():
    task = seqio.TaskRegistry.get("mini_eval_nli_te")
    assert task.output_features["choices"].rank == 2 and "answer" not in task.output_features
    dataset = task.get_dataset({"inputs": 64}, "validation", shuffle=False)
    first = next(iter(dataset))
    choices = first["choices"].to_list()
    vocabulary = task.output_features["choices"].vocabulary
    assert [vocabulary.decode(choice) for choice in choices] == ["yes", "no"]
    assert all(choice[-1] == 1 for choice in choices) and int(first["answer"]) in (0, 1)


def test_pretraining_declares_its_draw_step():
    task = seqio.TaskRegistry.get("mini_pretrain")
    steps = [step for step in task.preprocessors if hasattr(step, "draw_step")]
    assert [step.draw_step["name"] for step in steps] == ["span_corruption"]
    # The step itself: test_span_corruption.py.
    first = next(task.source.python_examples("train"))
    assert first["inputs"] == "" and first["targets"]


def test_pretraining_has_every_language_and_held_out_concepts():
    for language in mini_facts.LANGUAGES:
        assert len(mini_pretraining.lines(language)) >= 200, language
    text = "\n".join(mini_pretraining.lines("pt"))
    held = [c for c in mini_facts.own_names("pt") if mini_facts.held_out(c)]
    told = [c for c in held if mini_facts.own_names("pt")[c] in text]
    assert len(told) > 0.9 * len(held)


def test_source_fingerprints_differ_by_task():
    source = seqio.TaskRegistry.get("mini_code_en").source
    assert source.fingerprint() == source.fingerprint()
    assert source.fingerprint() != seqio.TaskRegistry.get("mini_code_fr").source.fingerprint()


def test_load_takes_a_module_or_a_file(tmp_path):
    assert seqio_tasks.load() is mini
    path = tmp_path / "my_little_tasks.py"
    path.write_text("LOADED = 1\n")
    module = seqio_tasks.load(str(path))
    assert module.LOADED == 1 and seqio_tasks.load(str(path)) is module
    with pytest.raises(ValueError, match="no file"):
        seqio_tasks.load(str(tmp_path / "none.py"))
    with pytest.raises(ValueError, match="no module 'no_such_tasks'"):
        seqio_tasks.load("no_such_tasks")
