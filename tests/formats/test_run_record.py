"""The model card and configuration of an exported run: what its own files say, and no more."""

import json

import pytest
import yaml

from mt0_tpu import gin_config
from mt0_tpu.convert import convert
from mt0_tpu.errors import UserError
from mt0_tpu.formats import run_record

STEP = 1000003
LEGACY = f"t5_tiny/ckpt_legacy_float32/checkpoint_{STEP}"
BINDINGS = [
    "MODEL_DIR = '/home/somebody/runs/mine'",
    "INITIAL_CHECKPOINT_PATH = 'gs://t5-data/pretrained_models/t5x/mt5_small/checkpoint_1000000'",
    "MIXTURE_OR_TASK_NAME = 'xp3_sw'",
    "DROPOUT_RATE = 0.05",
    "TRAIN_STEPS_RELATIVE = 3",
]


def rank_line(**changes):
    line = {
        "task": "xnli", "cluster": "nli", "language": "sw", "prompt": "p", "num_examples": 4,
        "accuracy": 0.75, "chance": 1 / 3, "majority": 0.5, "held_out_cluster": True,
        "seen_language": True, "step": STEP,
    }  # fmt: skip
    return line | changes


def write_lines(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 10', "utf-8")


@pytest.fixture
def run(golden, tmp_path):
    """A MODEL_DIR with all that training and `mt0 eval` leave in it."""
    folder = tmp_path / "mine"
    convert(str(golden / LEGACY), str(folder), "orbax", say=lambda text: None)
    resolved = gin_config.resolve("train", ["recipes/mt0_small.gin"], BINDINGS)
    (folder / "config.gin").write_text(resolved.text, encoding="utf-8")
    metrics = [
        {"step": STEP - 1, "split": "train", "metrics": {"accuracy": 0.1, "grad_norm": 9.0}},
        {"step": STEP, "split": "train", "metrics": {"accuracy": 0.25}},
        {"step": STEP, "split": "eval", "metrics": {"loss_per_nonpadding_target_token": 1.5}},
        {"step": STEP + 1, "split": "train", "metrics": {"accuracy": 0.99}},
    ]
    write_lines(folder / "metrics.jsonl", metrics)
    ranks = [rank_line(), rank_line(prompt="q", accuracy=0.25), rank_line(accuracy=0.9, step=5)]
    write_lines(folder / "eval" / "rank.jsonl", ranks)
    return folder


def exported(run, tmp_path):
    """(front matter, text, config.json) of the run's export."""
    convert(str(run), str(tmp_path / "out"), "hf", say=lambda text: None)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    return yaml.safe_load(text.split("---\n")[1]), text, config


def test_the_card_of_a_run(run, tmp_path):
    front, text, config = exported(run, tmp_path)
    assert front["base_model"] == "google/mt5-small" and front["language"] == ["sw"]
    for row in (
        "Trained from `google/mt5-small` on the mixture `xp3_sw` with mt0_tpu",
        f"| Training step | {STEP} |",
        "| Steps on top of the start | 3 |",
        "| Rows a step | 512 |",
        "| Tokens a row | {'inputs': 1024, 'targets': 1024} |",
        "| Packed | False |",
        "| Optimizer | adafactor.Adafactor |",
        "| Learning rate | 0.001 |",
        "| Loss divided by | AVERAGE_PER_SEQUENCE |",
        "| Dropout | 0.05 |",
        f"| train/accuracy, step {STEP} | 0.25 |",
        f"| eval/loss_per_nonpadding_target_token, step {STEP} | 1.5 |",
        # The median over prompts; the other step's line is of another checkpoint.
        "| nli, seen languages: accuracy (chance 0.333) | 0.5 |",
        "utils.SaveCheckpointConfig.keep_every_steps = 5000",
        "MODEL_DIR = 'mine'",
    ):
        assert row in text, row
    for nothing in ("0.99", "grad_norm", "somebody", "Steps in all", "line 20"):
        assert nothing not in text, nothing
    assert config["dropout_rate"] == 0.05 and config["feed_forward_proj"] == "gated-gelu"


def test_a_run_that_was_neither_evaluated_nor_configured(run, tmp_path):
    (run / "config.gin").write_text("")
    (run / "eval" / "rank.jsonl").unlink()
    front, text, config = exported(run, tmp_path)
    assert front == {"library_name": "transformers", "tags": ["mt5", "mt0_tpu"]}
    assert "0.25" in text and "## Training" not in text and "## Recipe" not in text
    assert config["dropout_rate"] == 0.1


@pytest.mark.parametrize(
    "source, kind", [(LEGACY, f"T5X, checkpoint_{STEP}"), ("t5_tiny/hf", "Hugging Face, hf")]
)
def test_a_foreign_checkpoint_has_a_card_of_what_is_known(golden, tmp_path, source, kind):
    front, text, _ = exported(golden / source, tmp_path)
    assert front == {"library_name": "transformers", "tags": ["mt5", "mt0_tpu"]}
    assert "# out\n" in text and "Converted with mt0_tpu" in text
    assert f"| Converted from | {kind} |" in text and "2 + 2 layers, width 64" in text
    for unknown in ("## Training", "## Evaluation", "## Recipe", "None"):
        assert unknown not in text
    assert (f"| Training step | {STEP} |" in text) == (source == LEGACY)


def test_files_that_cannot_be_understood(run, tmp_path):
    write_lines(run / "eval" / "rank.jsonl", [{"step": STEP}])
    with pytest.raises(UserError, match="rank.jsonl of the run lacks fields"):
        exported(run, tmp_path)
    (run / "config.gin").write_text("network.T5Config.dropout_rate = 'much'")
    with pytest.raises(UserError, match="config.gin describes no network"):
        exported(run, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "mixture, languages",
    [
        ("xp3_sw", ("sw",)),
        ("xp3x_yor_Latn", ("yor",)),
        ("xp3_code", ()),
        ("xp3_sw_xquad", ("sw",)),
        ("xp3_nosuch", ()),
        ("mini_xp3", ()),
        ("mine", ()),
    ],
)
def test_languages_by_the_mixtures_name(mixture, languages):
    assert run_record.languages_of(mixture) == languages


def test_languages_of_a_whole_collection():
    found = run_record.languages_of("xp3mt")
    assert {"en", "sw", "zh"} < set(found) and "code" not in found and len(found) == 45
