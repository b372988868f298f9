"""Any SeqIO task with metrics: the numbers and lines are those of seqio.Evaluator."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from mt0_tpu import decoding, evaluate, scoring, text_tasks
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from tests.tiny import TINY, load_params

seqio = pytest.importorskip("seqio")

ROWS = [("abc", "def"), ("one two", "x"), ("z", "yes"), ("a longer input text", "a"), ("z", "no")]
SCORED = [("q one", 0, ["yes", "no"]), ("q two", 1, ["a", "bcd", "e"])]


def matches(targets, predictions):
    hits = sum(target == one for target, one in zip(targets, predictions, strict=True))
    return {"matches": hits, "letters": sum(ord(x) for one in predictions for x in one)}


def mean_score(targets, scores):
    return {"mean_score": float(np.mean(scores)), "targets": len(targets)}


def with_aux(targets, predictions, aux_values):
    assert len(predictions) == len(targets)
    return {"aux_sum": float(np.sum(aux_values["scores"]))}


def fails(targets, predictions):
    raise ValueError("the metric wants two references")


def all_decodes(targets, predictions):
    assert all(isinstance(one, list) for one in predictions)
    return {"decodes": sum(map(len, predictions)) / len(targets)}


def shouted(text, example=None, is_target=False):
    """Shows that the postprocessor sees the example, and which side it is given."""
    assert "inputs_pretokenized" in example
    return f"{'T' if is_target else 'P'}:{text.upper()}"


def letters(split, shuffle_files, seed=None):
    import tensorflow as tf

    inputs, targets = zip(*ROWS, strict=True)
    return tf.data.Dataset.from_tensor_slices({"inputs": list(inputs), "targets": list(targets)})


def questions(split, shuffle_files, seed=None):
    import tensorflow as tf

    rows = [
        {"inputs": text, "targets": choice} for text, _, choices in SCORED for choice in choices
    ]
    return tf.data.Dataset.from_tensor_slices(
        {name: [row[name] for row in rows] for name in ("inputs", "targets")}
    )


@functools.cache
def register():
    """Tasks over bytes, whose 259 ids fit the tiny table."""
    vocabulary = seqio.ByteVocabulary()
    features = {n: seqio.Feature(vocabulary, add_eos=True) for n in ("inputs", "targets")}
    steps = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]

    def add(name, metric_fns=(), rows=letters, splits=("validation",), **more):
        source = seqio.FunctionDataSource(rows, splits=list(splits))
        seqio.TaskRegistry.add(
            name, source=source, preprocessors=steps, output_features=features,
            metric_fns=list(metric_fns), **more,
        )  # fmt: skip

    add("text_predict", [matches], postprocess_fn=shouted)
    add("text_score", [mean_score])
    add("text_both", [matches, mean_score])
    add("text_aux", [with_aux])
    add("text_questions", [mean_score], rows=questions)
    add("text_silent")
    add("text_fails", [fails])
    add("text_train_only", [matches], splits=["train"])
    add("text_code", [all_decodes])
    objects = [seqio.metrics.PassthroughLegacyMetric.from_metric_fn(matches).empty()]
    add("text_objects", metric_objs=objects)
    names = ["text_predict", "text_both", "text_silent", "text_train_only"]
    seqio.MixtureRegistry.add("text_all", [(name, 1) for name in names])
    from seqio_tasks import task_facts

    task_facts._registered["text_code"] = {
        "executes_code": True,
        "decode": {"method": "sample", "num_decodes": 2, "top_k": 5},
    }


@pytest.fixture(scope="module")
def params(golden):
    register()
    return load_params(golden)


@pytest.fixture
def job(params, tmp_path):
    def run(name, **changes):
        arguments = {
            "eval_output_dir": str(tmp_path / "eval"),
            "model": TINY,
            "mixture_or_task_name": name,
            "cache_dir": str(tmp_path / "cache"),
            "batch_size": 8,
            "step": 7,
            "params": params,
        }
        return evaluate.evaluate(**(arguments | changes))

    return run


def read(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").split("\n") if line]


def ids_of(text):
    return [*(byte + 3 for byte in text.encode()), 1]


def greedy(params, text, length):
    """The ids of one input decoded alone."""
    tokens = np.array([ids_of(text)], np.int32)
    return np.asarray(decoding.greedy_decode(params, TINY, tokens, length))[0]


def expected(params, name, tmp_path, lengths=None):
    """What seqio.Evaluator makes of the same model's outputs, each example run alone."""
    length = (lengths or {}).get("targets", 1 + max(len(target) for _, target in ROWS))
    (tmp_path / "seqio").mkdir()
    evaluator = seqio.Evaluator(
        name,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        eval_split="validation",
        sequence_length=lengths,
        logger_cls=[seqio.JSONLogger],
        log_dir=str(tmp_path / "seqio"),
    )

    def predict(dataset, *_):
        return [(i, greedy(params, text, length)) for i, (text, _) in enumerate(ROWS)]

    def score(dataset, *_):
        return [
            (i, float(scoring.score_choices(
                params, TINY, [(ids_of(text), [ids_of(target)])], min_choices=1)[0][0]))
            for i, (text, target) in enumerate(ROWS)
        ]  # fmt: skip

    metrics, _ = evaluator.evaluate(
        compute_metrics=True, step=7, predict_fn=predict, score_fn=score
    )
    return metrics.result()[name]


def test_predictions_and_scores_are_seqios(job, params, tmp_path, capsys):
    summary = job("text_both")
    want = expected(params, "text_both", tmp_path)
    found = summary["tasks"]["text_both"]
    assert found.keys() == want.keys() == {"matches", "letters", "mean_score", "targets"}
    assert found == pytest.approx(want, abs=1e-4)
    folder, theirs = tmp_path / "eval" / "inference_eval", tmp_path / "seqio"
    (line,), (wanted_line,) = (read(f / "text_both-metrics.jsonl") for f in (folder, theirs))
    assert line == pytest.approx(wanted_line, abs=1e-4) and line["step"] == 7
    lines = read(folder / "text_both-000007.jsonl")
    wanted = read(theirs / "text_both-000007.jsonl")
    for one, other in zip(lines, wanted, strict=True):
        assert one["inputs"] == other["input"]["inputs_pretokenized"]
        assert (one["target"], one["prediction"]) == (other["target"], other["prediction"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert list((folder / "text_both").glob("events.out.tfevents.*"))
    assert "mean_score" in capsys.readouterr().out


def test_postprocessor_and_metric_objects(job, params, tmp_path):
    job("text_predict")
    line, *_ = read(tmp_path / "eval" / "inference_eval" / "text_predict-000007.jsonl")
    words = seqio.ByteVocabulary()
    said = words.decode(greedy(params, "abc", 4).tolist())
    assert (line["target"], line["output"]) == ("T:DEF", said)
    assert line["prediction"] == f"P:{said.upper()}"
    summary = job("text_objects", step=8)
    assert summary["tasks"]["text_objects"].keys() == {"matches", "letters"}


def test_auxiliary_scores(job, monkeypatch):
    monkeypatch.setattr(evaluate.Evaluator, "_predict", _predicted)
    assert job("text_aux")["tasks"]["text_aux"] == {"aux_sum": -10.0}


def _predicted(self, params, task):
    return task.predictions_array([[[5]]] * 5), np.full(5, -2.0)


def test_an_input_with_several_targets_is_encoded_once(job, params, monkeypatch):
    asked = []
    original = scoring.score_choices

    def noted(params, model, examples, **more):
        asked.append(len(examples))
        return original(params, model, examples, **more)

    monkeypatch.setattr(scoring, "score_choices", noted)
    found = job("text_questions")["tasks"]["text_questions"]
    assert asked == [2] and found["targets"] == 5
    alone = [
        original(params, TINY, [(ids_of(text), [ids_of(c) for c in choices])])[0]
        for text, _, choices in SCORED
    ]
    assert found["mean_score"] == pytest.approx(float(np.mean(np.concatenate(alone))), abs=1e-4)


def test_what_has_no_metric_or_split_is_left_out_aloud(job, capsys):
    summary = job("text_all")
    said = capsys.readouterr().err
    # Without a split each task has its own: 'validation', else 'train'.
    assert "no metric_fns or metric_objs: 'text_silent'" in said
    assert summary["tasks"].keys() == {"text_predict", "text_both", "text_train_only"}
    assert job("text_all", step=8, split="validation")["tasks"].keys() == {
        "text_predict", "text_both",
    }  # fmt: skip
    assert "no split 'validation': 'text_train_only'" in capsys.readouterr().err


def test_lengths_cut_as_seqio_cuts_and_are_counted(job, params, tmp_path, capsys):
    lengths = {"inputs": 8, "targets": 3}
    found = job("text_both", task_feature_lengths=lengths)["tasks"]["text_both"]
    said = capsys.readouterr().err
    assert "of 5 examples of 'text_both' 1 inputs and 2 targets were longer than" in said
    cut = b"a longer input text"[:7]
    tokens = np.array([[*(byte + 3 for byte in cut), 1]], np.int32)
    line = read(tmp_path / "eval" / "inference_eval" / "text_both-000007.jsonl")[3]
    ids = np.asarray(decoding.greedy_decode(params, TINY, tokens, 3))[0]
    assert line["prediction"] == seqio.ByteVocabulary().decode(ids.tolist())
    assert found["targets"] == 5
    with pytest.raises(UserError, match="example 0 of task 'text_both': its targets have 4 tokens"):
        job("text_both", task_feature_lengths=lengths, overlong="error", step=9)


def test_predicted_code_is_not_run_unasked(job, capsys, tmp_path):
    summary = job("text_code", num_examples=2, decode=DecodeConfig(method="beam", num_decodes=1))
    assert summary["tasks"]["text_code"] == {}
    assert "no metric of 'text_code': its metric runs predicted code" in capsys.readouterr().err
    lines = read(tmp_path / "eval" / "inference_eval" / "text_code-000007.jsonl")
    assert [line["target"] for line in lines] == ["def", "x"]
    assert not (tmp_path / "eval" / "inference_eval" / "text_code-metrics.jsonl").exists()


def test_facts_say_how_to_decode_and_samples_are_all_seen(job, params):
    task = seqio.TaskRegistry.get("text_code")
    read_task = text_tasks.read_text_task(task, "validation", execute_code=True)
    assert read_task.decode == DecodeConfig(method="sample", num_decodes=2, top_k=5)
    assert read_task.all_decodes and read_task.why_no_metric is None
    ids = read_task.predictions_array([[[70], [70, 71]]] * 5)
    assert ids.shape == (5, 2, 3) and ids[0].tolist() == [[70, 1, 0], [70, 71, 1]]
    metrics, lines = read_task.results({text_tasks.PREDICTION: ids})
    assert metrics == {"decodes": 2.0} and lines[0]["prediction"] == ["C", "CD"]
    chosen = DecodeConfig(method="beam", num_decodes=3)
    read_task = text_tasks.read_text_task(task, "validation", decode=chosen)
    assert read_task.decode == chosen and not read_task.all_decodes


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("text_silent", {}, "nothing of 'text_silent' can be evaluated.*metric_fns"),
        ("text_both", {"split": "validaton"}, "no split 'validaton'.*Did you mean 'validation'"),
        ("text_boht", {}, "no SeqIO mixture or task is named 'text_boht'.*'text_both'"),
        ("text_fails", {}, "a metric of task 'text_fails' failed: the metric wants two references"),
        ("text_both", {"overlong": "eror"}, "overlong is 'eror'.*Did you mean 'error'"),
        ("text_both", {"task_feature_lengths": {"input": 3}}, "at least 2 tokens"),
        ("text_both", {"use_cached": True}, "is not cached in"),
    ],
)
def test_refusals(job, name, changes, message):
    with pytest.raises(UserError, match=message):
        job(name, **changes)


def test_a_file_of_another_job_is_in_the_way(job, tmp_path):
    path = tmp_path / "eval" / "inference_eval" / "text_both-000007.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match="in the way.*another job wrote it.*overwrite = True"):
        job("text_both")
    assert path.read_text() == "mine"
    job("text_both", overwrite=True)
    assert len(read(path)) == len(ROWS)
    with pytest.raises(UserError, match="holds the results of step 7 already"):
        job("text_both")
    job("text_predict")  # another mixture, the same step: they stay beside each other
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert summary["tasks"].keys() == {"text_both", "text_predict"}


def test_humaneval_runs_where_it_is_allowed(shared, params):
    from seqio_tasks import humaneval

    file = shared / "data" / "humaneval" / "HumanEval.jsonl.gz"
    if "text_humaneval" not in seqio.TaskRegistry.names():
        humaneval.add_humaneval_task("text_humaneval", str(file), seqio.ByteVocabulary(), ks=[1])
    task = seqio.TaskRegistry.get("text_humaneval")
    quiet = text_tasks.read_text_task(task, "test", num_examples=2)
    assert quiet.why_no_metric and quiet.decode.num_decodes == 20 and quiet.all_decodes
    allowed = text_tasks.read_text_task(task, "test", num_examples=2, execute_code=True)
    solutions = [ids[:-1] for ids in allowed.ids("targets")]
    wrong = [byte + 3 for byte in b"    return None"]
    for decodes, share in (([[one] for one in solutions], 1.0), ([[wrong]] * 2, 0.0)):
        metrics, lines = allowed.results({1: allowed.predictions_array(decodes)})
        assert metrics == {"pass@1": share}
    assert lines[0]["prediction"] == ["    return None"]
    both = allowed.predictions_array([[one, wrong] for one in solutions])
    assert allowed.results({1: both})[0] == {"pass@1": 0.5}
