"""A sick step is run again from what was kept of it."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from mt0_tpu import gin_config, losses, reproduce
from mt0_tpu.data.batches import LoaderState
from mt0_tpu.errors import UserError
from mt0_tpu.reproduce import Reproduction
from mt0_tpu.sick_step import SickStep
from tests import sick_loss, tiny_run

STEPS = 12


def run_by_gin(model_dir, cache_dir, **macros):
    """A run of the tiny model from gin files, as `mt0 train` makes one."""
    bindings = {
        "MODEL_DIR": str(model_dir),
        "MIXTURE_OR_TASK_NAME": "mix",
        "TASK_FEATURE_LENGTHS": {"inputs": 24, "targets": 12},
        "TRAIN_STEPS": STEPS,
        "INITIAL_CHECKPOINT_PATH": None,
        "BATCH_SIZE": 8,
        "LOSS_NORMALIZING_FACTOR": "AVERAGE_PER_SEQUENCE",
        "utils.DatasetConfig.cache_dir": str(cache_dir),
        "utils.DatasetConfig.window_examples": 40,
        "train.train_eval_dataset": None,
        "train.from_scratch": True,
        "train.log_every_steps": 2,
        "utils.SaveCheckpointConfig.period": 3,
    } | macros
    model = {name: getattr(tiny_run.ONE_LAYER, name) for name in (
        "vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim", "num_encoder_layers",
        "num_decoder_layers", "dtype")}  # fmt: skip
    bindings |= {f"network.T5Config.{name}": value for name, value in model.items()}
    texts = [f"{name} = {value!r}" for name, value in bindings.items()]
    return gin_config.resolve("train", ["models/mt5/small.gin", "runs/finetune.gin"], texts).run()


@pytest.fixture(scope="module")
def sick_run(tmp_path_factory):
    """A run that skipped its sick steps; the patch stays, for the steps to be sick again."""
    cache_dir = tmp_path_factory.mktemp("cache")
    sick_loss.write_marked_cache(cache_dir)
    model_dir = tmp_path_factory.mktemp("sick") / "run"
    with pytest.MonkeyPatch.context() as patch:
        sick_loss.sicken(patch)
        run_by_gin(model_dir, cache_dir, **{
            "train.on_nonfinite": "skip", "utils.SaveCheckpointConfig.keep": None,
        })  # fmt: skip
        yield model_dir


def folders(model_dir):
    return sorted((model_dir / "sick").iterdir(), key=lambda one: int(one.name.split("-")[1]))


def test_a_sick_step_is_sick_again_and_says_where(sick_run, monkeypatch):
    healthy = losses.token_log_probs

    def token_log_probs(hidden_BSD, kernel_DV, targets_BS, *rest, **more):
        log_probs_BS, right_BS = healthy(hidden_BSD, kernel_DV, targets_BS, *rest, **more)
        marked_BS = targets_BS == sick_loss.MARKS["loss"]
        return jnp.where(marked_BS, jnp.nan, log_probs_BS), right_BS

    monkeypatch.setattr(losses, "token_log_probs", token_log_probs)
    seen = {}
    for folder in folders(sick_run)[:2]:
        kept = json.loads((folder / "step.json").read_text())
        found = reproduce.reproduce(folder, say=lambda text: None)
        assert found.is_sick and found.same_batch and not found.parameters
        # The very numbers of the run: the path to the step was the same.
        assert (repr(found.loss), repr(found.grad_norm)) == (kept["loss"], kept["grad_norm"])
        seen["loss" if np.isnan(found.loss) else "gradient"] = found
    # The root's slope runs through one number alone; the loss, through every one.
    assert seen["gradient"].gradients == {"decoder/decoder_norm/scale": 1}
    assert "encoder/layers/mlp/wo/kernel of layer 0" in seen["loss"].gradients
    assert not seen["gradient"].examples
    assert [(one.task, one.index) for one in seen["loss"].examples] == [("two", 7)]
    said = "\n".join(seen["gradient"].lines())
    assert "the cache gives the batch that was fed" in said
    assert "parameters before the step: all finite" in said
    assert "decoder/decoder_norm/scale: 1" in said and "gradient norm nan" in said


@pytest.mark.parametrize("loss, code", [(math.nan, 0), (2.5, 1)])
def test_the_code_says_whether_it_is_sick_again(sick_run, monkeypatch, capsys, loss, code):
    found = Reproduction(3, "step 2 of run", True, {}, loss, 1.0, (), {})
    monkeypatch.setattr(reproduce, "reproduce", lambda folder, arguments: found)
    assert reproduce.main([str(folders(sick_run)[0])]) == code
    assert ("finite this time" in capsys.readouterr().out) == (code == 1)


def test_what_cannot_be_reproduced_is_said(sick_run, tmp_path, capsys):
    with pytest.raises(UserError, match="step.json cannot be read"):
        reproduce.reproduce(tmp_path, {})
    assert reproduce.main([]) == 2
    assert "0 folders are named" in capsys.readouterr().err
    # Another seed draws other examples: this is not the run's data.
    folder = str(folders(sick_run)[0])
    assert reproduce.main([folder, "--gin.train/utils.DatasetConfig.seed=7"]) == 2
    assert "not those of the run" in capsys.readouterr().err


def test_rows_of_several_processes_are_one_batch_and_a_part_is_none(tmp_path):
    rows = np.arange(8, dtype=np.int32).reshape(4, 2)
    for process in range(2):
        np.savez(tmp_path / f"batch-{process}.npz", x=rows[2 * process : 2 * process + 2])
    sick = SickStep(3, math.nan, 1.0, LoaderState(), 2, 4, 0, "run")
    np.testing.assert_array_equal(reproduce._kept_batch(tmp_path, sick)["x"], rows)
    (tmp_path / "batch-1.npz").unlink()
    assert reproduce._kept_batch(tmp_path, sick) is None
