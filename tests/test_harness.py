"""lm-evaluation-harness on our checkpoints: its tasks, with local data, against our own scorer."""

import dataclasses
import json
import subprocess
import sys
import types

import numpy as np
import pytest

lm_eval = pytest.importorskip(
    "lm_eval", reason="lm-evaluation-harness is not installed; `make harness-test` has it"
)

from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from mt0_tpu import checkpoints, harness, scoring
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.harness import Mt0Harness
from mt0_tpu.predict import predict
from mt0_tpu.text_vocabulary import EOS_ID, ByteText
from tests import tiny_run
from tests.conftest import REPOSITORY
from tests.tiny import TINY, load_params

LIMIT = 40
COPA = r"""
task: copa_local
dataset_path: json
dataset_kwargs: {data_files: {validation: FOLDER/COPA/val.jsonl}, cache_dir: CACHE}
output_type: multiple_choice
validation_split: validation
doc_to_text: '{{premise}} {{"because" if question == "cause" else "so"}}'
doc_to_choice: '{{[choice1, choice2]}}'
doc_to_target: label
metric_list: [{metric: acc}]
"""
RTE = r"""
task: rte_local
dataset_path: json
dataset_kwargs: {data_files: {validation: FOLDER/RTE/val.jsonl}, cache_dir: CACHE}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{premise}}\nQuestion: {{hypothesis}} True or False?\nAnswer:"
doc_to_choice: ['True', 'False']
doc_to_target: '{{0 if label == "entailment" else 1}}'
metric_list: [{metric: acc}]
"""


def copa(line):
    joint = "because" if line["question"] == "cause" else "so"
    return f"{line['premise']} {joint}", [line["choice1"], line["choice2"]], line["label"]


def rte(line):
    text = f"{line['premise']}\nQuestion: {line['hypothesis']} True or False?\nAnswer:"
    return text, ["True", "False"], int(line["label"] != "entailment")


@pytest.fixture(scope="module")
def data(shared):
    return shared / "data" / "superglue_fewglue32"


@pytest.fixture(scope="module")
def tasks(data, tmp_path_factory):
    """A folder of the tasks' configurations."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, text in (("copa", COPA), ("rte", RTE)):
        text = text.replace("FOLDER", str(data)).replace("CACHE", str(folder / "cache"))
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def golden_model(golden):
    """Stock T5X's tiny network, read from its Hugging Face folder."""
    return Mt0Harness(checkpoint=str(golden / "t5_tiny" / "hf"), vocabulary="byt5")


@pytest.fixture(scope="module")
def params(golden):
    return load_params(golden)


def requests(*arguments):
    return [types.SimpleNamespace(args=one) for one in arguments]


def words_as_numbers(model, monkeypatch):
    """Texts of a model are ids written out: '12 55 1'."""
    words = types.SimpleNamespace(
        encode=lambda text: [int(one) for one in text.split()],
        decode=lambda ids: " ".join(map(str, ids)),
        eos_id=EOS_ID,
    )
    monkeypatch.setattr(model, "_words", words)


@pytest.mark.parametrize("name, read", [("copa", copa), ("rte", rte)])
def test_a_task_scores_as_ours(golden_model, params, data, tasks, name, read):
    """The same accuracy and the same log-likelihoods as rank classification of our own."""
    results = lm_eval.simple_evaluate(
        model=golden_model, tasks=[f"{name}_local"], limit=LIMIT, log_samples=True,
        bootstrap_iters=0, task_manager=TaskManager(include_path=str(tasks)),
    )  # fmt: skip
    lines = (data / name.upper() / "val.jsonl").read_text(encoding="utf-8").splitlines()[:LIMIT]
    read_lines = [read(json.loads(line)) for line in lines]
    encode = ByteText().encode
    examples = [
        (encode(text)[-1023:] + [EOS_ID], [encode(choice) + [EOS_ID] for choice in choices])
        for text, choices, _ in read_lines
    ]
    scores = scoring.score_choices(params, TINY, examples)
    answers = np.array([answer for _, _, answer in read_lines])
    right = scoring.predictions(scores, answers) == answers
    assert 0 < right.sum() < LIMIT
    assert results["results"][f"{name}_local"]["acc,none"] == pytest.approx(right.mean())
    samples = sorted(results["samples"][f"{name}_local"], key=lambda one: one["doc_id"])
    found = [[score for score, _ in sample["filtered_resps"]] for sample in samples]
    np.testing.assert_allclose(found, scores, atol=1e-3)


def test_a_model_dir_and_its_latest_step(tmp_path):
    tiny_run.write_tiny_cache(tmp_path / "cache")
    tiny_run.run(tmp_path / "run", tmp_path / "cache", 3)
    model = get_model("mt0").create_from_arg_string(
        f"checkpoint={tmp_path / 'run'},vocabulary=byt5,targets_eos=False",
        {"batch_size": "7", "max_batch_size": None, "device": None},
    )
    assert model.config == dataclasses.replace(tiny_run.ONE_LAYER, dropout_rate=0.1)
    assert model.get_model_info()["model_step"] == 3
    # No multiple of the eight devices here.
    assert model.batch_size == 8
    ((score, _),) = model.loglikelihood(requests(("ab", " cd")))
    params = checkpoints.restore_params(str(tmp_path / "run"), tiny_run.ONE_LAYER)
    ids = ByteText().encode
    example = (ids("ab") + [EOS_ID], [ids("cd")])
    (wanted,) = scoring.score_choices(params, tiny_run.ONE_LAYER, [example], min_choices=1)
    assert score == pytest.approx(wanted[0], abs=1e-4)


def test_each_context_is_encoded_once(golden_model, monkeypatch):
    seen = []

    def spy(params, config, examples, **options):
        seen.extend(examples)
        return [(-np.arange(len(choices)), np.zeros(len(choices), bool)) for _, choices in examples]

    monkeypatch.setattr(scoring, "score_and_compare", spy)
    asked = requests(("a", " x"), ("b", " x"), ("a", " yz"), ("", " x"), ("a", " x"))
    found = golden_model.loglikelihood(asked, disable_tqdm=True)
    x, yz = [123, EOS_ID], [124, 125, EOS_ID]
    assert seen == [([100, 1], [x, yz, x]), ([101, 1], [x]), ([EOS_ID], [x])]
    assert [score for score, _ in found] == [0, 0, -1, 0, -2]


def test_is_greedy(golden_model, params, monkeypatch):
    """True of what greedy decoding gives and its beginnings, False of everything else."""
    words_as_numbers(golden_model, monkeypatch)
    contexts = np.random.default_rng(3).integers(2, 512, (20, 4)).tolist()
    asked = [[*context, EOS_ID] for context in contexts]
    answers = predict(params, TINY, asked, max_decode_len=16)
    # One that ends.
    ends = (pair for pair in zip(contexts, answers, strict=True) if 1 < len(pair[1].ids[0]) < 15)
    context, greedy = next(ends)
    path = [*greedy.ids[0], EOS_ID]
    other = [*path[:-2], path[-2] + 1, EOS_ID]
    monkeypatch.setattr(golden_model, "_targets_eos", [])
    choices = [path, path[:1], other, path[:-1], [path[0] + 1], [*path[:-1], 7], []]
    text = " ".join(map(str, context))
    asked = requests(*((text, " " + " ".join(map(str, choice))) for choice in choices))
    found = golden_model.loglikelihood(asked)
    assert [is_greedy for _, is_greedy in found] == [True, True, False, True, False, False, True]
    assert found[-1][0] == 0.0 and found[0][0] == pytest.approx(greedy.scores[0], abs=1e-4)
    assert all(type(score) is float and type(is_greedy) is bool for score, is_greedy in found)


def test_generate_until(golden_model, params, monkeypatch):
    words_as_numbers(golden_model, monkeypatch)
    contexts = ["30 40 50", "61 17 33 21 8"]
    inputs = [[int(one) for one in text.split()] + [EOS_ID] for text in contexts]
    wanted = [one.ids[0] for one in predict(params, TINY, inputs, max_decode_len=9)]
    texts = [" ".join(map(str, ids)) for ids in wanted]
    stop = str(wanted[1][1])
    found = golden_model.generate_until(requests(
        (contexts[0], {"until": [], "max_gen_toks": 9}),
        (contexts[1], {"until": ["nowhere", stop], "max_gen_toks": 9, "do_sample": False}),
        (contexts[0], {"until": "", "max_new_tokens": 2}),
    ))  # fmt: skip
    assert found[0] == texts[0]
    assert found[1] == texts[1][: texts[1].find(stop)] and len(found[1]) < len(texts[1])
    assert found[2] == " ".join(texts[0].split()[:2])


@pytest.mark.parametrize(
    "kwargs, decode",
    [
        ({}, DecodeConfig()),
        ({"temperature": 0.0, "do_sample": False}, DecodeConfig()),
        ({"temperature": 0.7, "do_sample": False}, DecodeConfig()),
        ({"temperature": 0.7}, DecodeConfig("sample", temperature=0.7)),
        ({"do_sample": True, "top_p": 0.9}, DecodeConfig("sample", top_p=0.9)),
        ({"do_sample": True, "top_k": 5}, DecodeConfig("sample", top_k=5)),
        ({"num_beams": 4}, DecodeConfig("beam", num_decodes=4)),
    ],
)
def test_how_to_decode(kwargs, decode):
    assert harness._generation(kwargs, 30) == (decode, 30, [])


def test_long_contexts_lose_their_beginning(golden_model, caplog):
    text = "x" * 1500 + "question"
    (ids,) = golden_model._inputs([text])
    assert len(ids) == 1024 and ids[-1] == EOS_ID
    assert ByteText().decode(ids) == text[-1023:]
    assert "1 of 1 contexts are longer than max_input_length 1024" in caplog.text


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({}, "no checkpoint; write --model_args checkpoint=PATH"),
        ({"chekpoint": "x"}, "'chekpoint', which.*Did you mean 'checkpoint'"),
        ({"checkpoint": "nowhere"}, "nowhere"),
        ({"checkpoint": "HF"}, "no vocabulary; write"),
        ({"checkpoint": "HF", "vocabulary": "byt"}, "no vocabulary 'byt'.*'byt5'"),
        ({"checkpoint": "HF", "vocabulary": "mini"}, "embedding has only 512 rows"),
        ({"checkpoint": "HF", "batch_size": "auto"}, "batch_size is 'auto'; write a whole number"),
        ({"checkpoint": "HF", "batch_size": 0}, "batch_size is 0"),
        ({"checkpoint": "HF", "max_gen_toks": 1.5}, "max_gen_toks is 1.5"),
        ({"checkpoint": "HF", "dtype": "bfloat61"}, "Did you mean 'bfloat16'"),
        ({"checkpoint": "HF", "targets_eos": "no"}, "targets_eos is 'no'; write True or False"),
    ],
)
def test_wrong_arguments(golden, monkeypatch, arguments, match):
    monkeypatch.delenv("MT0_VOCABULARY", raising=False)
    hf = str(golden / "t5_tiny" / "hf")
    given = {name: hf if value == "HF" else value for name, value in arguments.items()}
    with pytest.raises(UserError, match=match) as caught:
        Mt0Harness(**given)
    assert "\n" not in str(caught.value)


def test_what_an_encoder_decoder_cannot(golden_model):
    with pytest.raises(UserError, match="loglikelihood_rolling.*leave these tasks out"):
        golden_model.loglikelihood_rolling(requests(("text",)))
    with pytest.raises(UserError, match="no chat template"):
        golden_model.apply_chat_template([])
    for kwargs, match in (
        ({"max_gen_tok": 3}, "Did you mean 'max_gen_toks'"),
        ({"max_gen_toks": -1}, "max_gen_toks is -1"),
        ({"num_beams": 2, "do_sample": True}, "write one of them"),
        ({"temperature": -1.0, "do_sample": True}, "temperature is -1.0"),
    ):
        with pytest.raises(UserError, match=match):
            golden_model.generate_until(requests(("text", kwargs)))


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip


def test_the_command_line(golden, tasks, tmp_path):
    checkpoint = golden / "t5_tiny" / "hf"
    done = run_command(
        "-m", "mt0_tpu.harness", "--model_args", f"checkpoint={checkpoint},vocabulary=byt5",
        "--tasks", "copa_local", "--include_path", tasks, "--limit", "6",
        "--output_path", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "copa_local" in done.stdout
    (file,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(file.read_text())
    model = Mt0Harness(checkpoint=str(checkpoint), vocabulary="byt5")
    wanted = lm_eval.simple_evaluate(
        model=model, tasks=["copa_local"], limit=6, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tasks)),
    )  # fmt: skip
    for accuracy in (found, wanted):
        assert accuracy["results"]["copa_local"]["sample_len"] == 6
    assert found["results"]["copa_local"]["acc,none"] == pytest.approx(
        wanted["results"]["copa_local"]["acc,none"]
    )
    assert (found["config"]["model"], found["config"]["batch_size"]) == ("mt0", "32")
    assert found["config"]["model_num_parameters"] == 263_168


def test_mistakes_on_the_command_line(tasks):
    done = run_command(
        "-m", "mt0_tpu.harness", "--model_args", "checkpoint=nowhere", "--tasks", "copa_local",
        "--include_path", tasks,
    )  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mt0: error: no checkpoint at ") and "nowhere: it does not" in last
    assert "Traceback" not in done.stderr


def test_without_the_harness():
    code = "import sys; sys.modules['lm_eval'] = None; import mt0_tpu.harness"
    done = run_command("-c", code)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith("pip install 'mt0_tpu[harness]'")
