"""Checkpoints through `mt0 convert` and into a run, to the bit."""

import dataclasses
import re

import numpy as np
import pytest

from mt0_tpu import checkpoints, cli
from mt0_tpu.checkpoints import CheckpointConfig
from mt0_tpu.convert import convert
from mt0_tpu.errors import UserError
from mt0_tpu.formats import detect
from mt0_tpu.losses import LossConfig
from mt0_tpu.models.names import unstack
from mt0_tpu.schedules import LearningRate
from mt0_tpu.train import train
from tests import tiny_run
from tests.tiny import TINY

LEGACY = "t5_tiny/ckpt_legacy_float32/checkpoint_1000003"
SOURCES = [LEGACY, "t5_tiny/ckpt_orbax/checkpoint_1000003", "t5_tiny/hf"]


def contents(path, state=True):
    """{name: array} of everything a checkpoint holds; placeholders of the state left out."""
    weights = detect.open_any(path)
    found = {name: weights.read(name) for name in weights.tensors()}
    if state:
        infos = weights.state_tensors()
        found |= {n: weights.read_state(n) for n, info in infos.items() if info.shape != (1,)}
    return found


def same(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("to", ["orbax", "t5x", "hf"])
def test_every_kind_into_every_other(golden, tmp_path, source, to):
    convert(str(golden / source), str(tmp_path / "there"), to, say=lambda text: None)
    same(contents(tmp_path / "there", state=False), contents(golden / source, state=False))


@pytest.mark.parametrize("to", ["orbax", "t5x"])
@pytest.mark.parametrize("source", [LEGACY, "t5_factored/checkpoint_2"])
def test_the_optimizer_goes_along(golden, tmp_path, source, to):
    there = tmp_path / "there"
    convert(str(golden / source), str(there), to, with_state=True, say=lambda text: None)
    same(contents(there), contents(golden / source))
    assert detect.open_any(there).step == detect.open_any(golden / source).step


@pytest.mark.parametrize("source", SOURCES)
def test_evaluation_reads_them_all(golden, source):
    params = unstack(checkpoints.restore_params(str(golden / source), TINY))
    same({n: np.asarray(a) for n, a in params.items()}, contents(golden / source, state=False))


def started(golden, tmp_path, source, steps, model=TINY, **changes):
    cache = tmp_path / "cache"
    if not cache.exists():
        tiny_run.write_tiny_cache(cache)
    return train(
        model_dir=str(tmp_path / "run"),
        model=dataclasses.replace(model, dropout_rate=0.0),
        train_dataset=tiny_run.dataset(str(cache)),
        total_steps=0,
        relative_steps=steps,
        initial_checkpoint_path=str(golden / source),
        loss=LossConfig(loss_normalizing_factor="AVERAGE_PER_SEQUENCE"),
        learning_rate=LearningRate(base_learning_rate=0.0),
        checkpoint=CheckpointConfig(save_every_steps=1000),
        **changes,
    )


@pytest.mark.parametrize("source", SOURCES)
def test_a_run_starts_from_them_all(golden, tmp_path, source, capsys):
    summary = started(golden, tmp_path, source, 1)
    begun = detect.open_any(golden / source).step or 0
    assert summary.step == begun + 1
    said = capsys.readouterr().err
    # The least learning rate there is, 1e-8: the parameters are still the checkpoint's.
    begin, end = contents(golden / source, state=False), contents(tmp_path / "run", state=False)
    assert begin.keys() == end.keys()
    for name, array in end.items():
        np.testing.assert_allclose(array, begin[name], rtol=0, atol=1e-7, err_msg=name)
    second = contents(tmp_path / "run")["encoder.encoder_norm.scale.v"]
    if source.endswith("hf"):
        assert "optimizer state afresh, since it holds none" in said
    else:
        assert "Adafactor's statistics" in said
        # At step 1,000,003 a step moves the average by 1.6e-5 of the way.
        before = contents(golden / source)["encoder.encoder_norm.scale.v"]
        np.testing.assert_allclose(second, before, rtol=0.05)


def test_a_converted_run_starts_another_but_goes_not_on(golden, tmp_path, capsys):
    there = tmp_path / "there"
    convert(str(golden / LEGACY), str(there), "orbax", say=lambda text: None)
    assert started(there, tmp_path, ".", 1).step == 1000004
    assert "optimizer state afresh, since it holds none" in capsys.readouterr().err
    (tmp_path / "run").rename(tmp_path / "first")
    there.rename(tmp_path / "run")
    with pytest.raises(UserError, match="holds parameters only.*INITIAL_CHECKPOINT_PATH"):
        started(tmp_path, tmp_path, ".", 1)


def test_another_size_is_refused_with_its_tensors(golden, tmp_path):
    wider = dataclasses.replace(TINY, mlp_dim=256)
    with pytest.raises(UserError, match=r"does not fit the model: .*mlp.*expected \(64, 256\)"):
        started(golden, tmp_path, "t5_tiny/hf", 1, model=wider)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--to=t5"], "--to is 't5'.*Did you mean 't5x'"),
        (["--to=hf", "--with_state"], "holds no optimizer state; leave --with_state out"),
        (["--to=orbax", "--with_state"], "holds no optimizer state"),
        (["--to=orbax", "--dtype=float16"], "--dtype is 'float16'; write one of float32"),
    ],
)
def test_what_is_refused(golden, tmp_path, capsys, arguments, said):
    command = ["convert", str(golden / "t5_tiny/hf"), str(tmp_path / "there"), *arguments]
    assert cli.main(command) == 2

    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "there").exists()


def test_nothing_is_overwritten(golden, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there exists; name another folder, or write --overwrite"):
        convert(str(golden / "t5_tiny/hf"), str(tmp_path / "there"), "t5x")
