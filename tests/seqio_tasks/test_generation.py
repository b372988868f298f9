"""Translation and summarisation tasks: published ones by name, and those of one's own files."""

import json

import numpy as np
import pytest
import seqio

import seqio_tasks
from seqio_tasks import generation, task_facts, vocabularies
from seqio_tasks.generation import add_summarization_task, add_translation_task
from seqio_tasks.prompts import Template

WMT_NAMES = [
    "version-hi-en-target",
    "a_good_translation-hi-en-target",
    "a_good_translation-hi-en-source+target",
    "xglm-hi-en-target",
    "gpt-3-hi-en-target",
]


@pytest.fixture
def registered():
    before = set(seqio.TaskRegistry.names())
    yield
    for name in set(seqio.TaskRegistry.names()) - before:
        seqio.TaskRegistry.remove(name)


def write_templates(folder, key, templates):
    """templates: name -> Jinja, of our own words."""
    lines = ["dataset: any", "templates:"]
    for number, (name, jinja) in enumerate(templates.items()):
        lines += [
            f"  id{number}: !Template",
            f"    answer_choices: null\n    id: id{number}\n    jinja: {json.dumps(jinja)}",
            f"    metadata: !TemplateMetadata {{}}\n    name: {name}\n    reference: ''",
        ]
    path = folder / key / "templates.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    folder = tmp_path / "prompts"
    hindi = '{{translation["hi"]}} (%d) in English: ||| {{translation["en"]}}'
    write_templates(
        folder, "wmt14/hi-en", {name: hindi % n for n, name in enumerate(WMT_NAMES)} | {"x": "y"}
    )
    write_templates(folder, "wmt14/fr-en", {"version-fr-en-target": "{{translation}} ||| a"})
    spanish = "{{text}} Resumen: ||| {{target}}"
    names = ("layman_summ_es", "language_specific_prompt", "summarise_this_in_es_few_sentences")
    write_templates(folder, "GEM/mlsum/es", dict.fromkeys(names, spanish))
    monkeypatch.setenv("MT0_PROMPTS_DIR", str(folder))
    return folder


@pytest.fixture
def rows(tmp_path, monkeypatch):
    data = {
        "wmt14/hi-en/test.jsonl": [
            {"translation": {"hi": f"वाक्य {n}", "en": f"sentence {n}"}} for n in range(4)
        ],
        "mlsum/es/test.jsonl": [{"text": "Un artículo largo.", "target": "Un resumen."}],
    }
    for name, lines in data.items():
        path = tmp_path / "evaluation" / name
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setenv("MT0_EVAL_DIR", str(tmp_path / "evaluation"))
    monkeypatch.setattr(generation, "LIMIT", 3)


def examples(task, split="test"):
    return list(task.get_dataset(None, split, shuffle=False).as_numpy_iterator())


def results(task, given, predictions):
    """What SeqIO's metrics say of texts as predictions."""
    vocabulary = task.output_features["targets"].vocabulary
    encoded = [vocabulary.encode(text) for text in predictions]
    ids = np.zeros((len(encoded), max(map(len, encoded)) + 1), np.int32)
    for row, tokens in zip(ids, encoded, strict=True):
        row[: len(tokens)] = tokens
    found = {}
    for metric in task.metric_objs:
        instance = metric.from_model_output(given, ids, task.output_features, "targets")
        found |= instance.actual_compute(given, task.output_features)[0]
    return found


def test_a_published_task(prompts, rows, registered):
    assert generation.ensure("eval_wmt14_hi_en", vocabularies.byt5())
    assert generation.ensure("eval_wmt14_hi_en")  # a second time registers nothing
    task = seqio.TaskRegistry.get("eval_wmt14_hi_en")
    given = examples(task)
    assert len(given) == 3 * 5
    assert [one["inputs_pretokenized"].decode() for one in given[:2]] == [
        "वाक्य 0 (0) in English:", "वाक्य 1 (0) in English:",
    ]  # fmt: skip
    assert given[-1]["prompt"].decode() == "gpt3-hi-en-target"  # as the published results say
    assert given[0]["language"].decode() == "en"
    assert 1 not in given[0]["inputs"] and given[0]["targets"][-1] == 1
    facts = task_facts.facts("eval_wmt14_hi_en")
    assert (facts["cluster"], facts["dataset"], facts["config"]) == (
        "translation", "wmt/wmt14", "hi-en",
    )  # fmt: skip
    texts = [one["targets_pretokenized"].decode() for one in given]
    # Right under three prompts of five.
    found = results(task, given, texts[:9] + ["never"] * 6)
    assert found["chrF2"] == 100 and found["chrF2/gpt3-hi-en-target"] < 20
    assert found["chrF2/a_good_translation-hi-en-source_target"] == 100
    assert found["BLEU_signature"].textdata.startswith("nrefs:1|")


def test_mlsum(prompts, rows, registered):
    assert generation.ensure("eval_mlsum_es", vocabularies.byt5())
    task = seqio.TaskRegistry.get("eval_mlsum_es")
    given = examples(task)
    assert [one["prompt"].decode() for one in given] == [
        "layman_summ_es", "palm_prompt", "summarise_this_in_es_few_sentences",
    ]  # fmt: skip
    found = results(task, given, ["Un resumen largo."] * 3)
    assert found["rougeL"] == pytest.approx(80) == found["rougeL/palm_prompt"]
    assert {"BLEU", "chrF2", "rouge1", "rouge2", "rougeLsum"} <= found.keys()


def test_what_is_no_task_of_ours():
    assert not generation.ensure("eval_xcopa_sw")
    assert generation.NAMES == (
        "eval_wmt14_fr_en", "eval_wmt14_en_fr", "eval_wmt14_hi_en", "eval_wmt14_en_hi",
        "eval_mlsum_es",
    )  # fmt: skip


def test_it_is_registered_by_its_name(prompts, rows, registered, monkeypatch):
    monkeypatch.setenv("MT0_VOCABULARY", str(vocabularies.MINI_PATH))
    seqio_tasks.load(names=["eval_mlsum_es", "eval_humaneval"])
    assert {"eval_mlsum_es", "eval_humaneval"} <= set(seqio.TaskRegistry.names())
    assert task_facts.facts("eval_humaneval")["executes_code"] is True
    with pytest.raises(ValueError, match="no evaluation task or mixture 'eval_mlsum_de'"):
        seqio_tasks.load(names=["eval_mlsum_de"])


def test_prompts_that_a_copy_lacks(prompts, registered):
    with pytest.raises(ValueError, match="eval_wmt14_fr_en: .* lack a_good_translation-fr-en-tar"):
        generation.ensure("eval_wmt14_fr_en", vocabularies.byt5())
    (prompts / "wmt14/fr-en/templates.yaml").unlink()
    with pytest.raises(ValueError, match="no templates for 'wmt14/fr-en'.*branch eval-hackathon"):
        generation.ensure("eval_wmt14_en_fr", vocabularies.byt5())


def test_two_aligned_files_and_more_references(tmp_path, registered):
    texts = {"sw": "Habari\nAsante", "en": "Hello\nThanks", "en2": "Hi there\nThank you"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text + "\n")
    files = [str(tmp_path / name) for name in texts]
    task = add_translation_task("own_sw_en", files, "sw", "en", vocabularies.byt5())
    given = examples(task)
    assert given[0]["inputs_pretokenized"].decode() == ("Translate from Swahili to English: Habari")
    found = results(task, given, ["Hello", "Thank you"])
    assert found["chrF2"] == 100
    assert task_facts.facts("own_sw_en")["cluster"] == "translation"


def test_one_file_templates_and_a_limit(tmp_path, registered):
    path = tmp_path / "pairs.jsonl"
    pairs = [{"source": f"s{n}", "target": f"t{n}", "also": [f"u{n}", f"v{n}"]} for n in range(5)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    templates = [Template("a", "{{source}} A ||| {{target}}"), Template("b", "{{source}} B ||| {{target}}")]  # fmt: skip # noqa: E501
    task = add_translation_task(
        "own_pairs", str(path), "fr", "zh", vocabularies.byt5(),
        templates=templates, references=["also"], limit=2, split="validation",
    )  # fmt: skip
    given = examples(task, "validation")
    assert [one["inputs_pretokenized"].decode() for one in given] == [
        "s0 A",
        "s1 A",
        "s0 B",
        "s1 B",
    ]
    found = results(task, given, ["u0", "t1", "no", "no"])
    assert found["chrF2/a"] == 100 and found["chrF2"] == pytest.approx(50, abs=10)
    assert "tok:zh" in found["BLEU_signature"].textdata


def test_summaries(tmp_path, registered):
    path = tmp_path / "news.tsv"
    path.write_text("document\tsummary\nMaandishi marefu.\tMuhtasari mfupi.\n")
    task = add_summarization_task("own_news", str(path), "sw", vocabularies.byt5())
    given = examples(task)
    assert given[0]["inputs_pretokenized"].decode() == "Summarize in Swahili: Maandishi marefu."
    assert results(task, given, ["Muhtasari mfupi"])["rougeLsum"] == 100


def test_bad_input(tmp_path, registered):
    add = add_translation_task
    vocabulary = vocabularies.byt5()
    with pytest.raises(ValueError, match="there is no file"):
        add("bad", str(tmp_path / "none.jsonl"), "fr", "en", vocabulary)
    with pytest.raises(ValueError, match="write two line-aligned files"):
        add("bad", ["one"], "fr", "en", vocabulary)
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(ValueError, match="limit is 0; write 1 or more"):
        add("bad", [str(tmp_path / "a.txt")] * 2, "fr", "en", vocabulary, limit=0)
    add("good", [str(tmp_path / "a.txt")] * 2, "fr", "en", vocabulary)
    with pytest.raises(ValueError, match="There is a task 'good' already"):
        add("good", [str(tmp_path / "a.txt")] * 2, "fr", "en", vocabulary)
    (tmp_path / "b.txt").write_text("a\nb\n")
    task = add("uneven", [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], "fr", "en", vocabulary)
    with pytest.raises(ValueError, match="differ in length: one ends before line 2"):
        list(task.source.python_examples("test"))


def test_tatoeba(shared, registered):
    folder = shared / "data/tatoeba"
    files = [str(folder / f"tatoeba.cmn-eng.{language}") for language in ("eng", "cmn")]
    task = add_translation_task("tatoeba_en_zh", files, "en", "zh", vocabularies.byt5(), limit=50)
    given = examples(task)
    texts = [one["targets_pretokenized"].decode() for one in given]
    assert len(texts) == 50
    assert results(task, given, texts)["BLEU"] == pytest.approx(100)
    halves = results(task, given, [text[: len(text) // 2 + 1] for text in texts])
    assert 5 < halves["BLEU"] < 60 and 5 < halves["chrF2"] < 70
