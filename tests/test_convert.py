"""Checkpoints through `mt0 convert` and into a run, to the bit."""

import dataclasses
import re
import shutil

import numpy as np
import pytest

from mt0_tpu import checkpoints, cli
from mt0_tpu.checkpoints import CheckpointConfig
from mt0_tpu.convert import convert
from mt0_tpu.errors import UserError
from mt0_tpu.formats import detect
from mt0_tpu.losses import LossConfig
from mt0_tpu.models.names import unstack
from mt0_tpu.optimizers import AdamW
from mt0_tpu.schedules import LearningRate
from mt0_tpu.train import train
from tests import tiny_run
from tests.formats.t5x_plain import assert_same, read_legacy, read_orbax
from tests.tiny import TINY
from tests.tiny_bloom import TINY_BLOOM

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


@pytest.mark.parametrize("layout, read", [(None, read_legacy), ("orbax", read_orbax)])
@pytest.mark.parametrize("source, expect", [(LEGACY, read_legacy), (SOURCES[1], read_orbax)])
def test_both_layouts_of_t5x_by_other_readers(golden, tmp_path, layout, read, source, expect):
    there = tmp_path / "checkpoint_1000003"
    convert(
        str(golden / source), str(there), "t5x", t5x_layout=layout, with_state=True,
        say=lambda text: None,
    )  # fmt: skip
    assert_same(read(there), expect(golden / source))


def test_a_run_of_ours_in_t5xs_orbax_form(golden, tmp_path):
    convert(str(golden / LEGACY), str(tmp_path / "run"), "orbax", say=lambda text: None)
    arguments = ["--to=t5x", "--t5x_layout=orbax"]
    assert cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "t5x"), *arguments]) == 0
    expected = read_legacy(golden / LEGACY)
    kept = {n: x for n, x in expected.items() if n.startswith("target.") or n == "state.step"}
    assert_same(read_orbax(tmp_path / "t5x"), kept)


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


def started(golden, tmp_path, source, steps, model=TINY, total_steps=0, **changes):
    cache = tmp_path / "cache"
    if not cache.exists():
        tiny_run.write_tiny_cache(cache)
    return train(
        model_dir=str(tmp_path / "run"),
        model=dataclasses.replace(model, dropout_rate=0.0),
        train_dataset=tiny_run.dataset(str(cache)),
        total_steps=total_steps,
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
        assert "(Hugging Face, which names no step: counted as 0)" in said
        assert "optimizer state afresh, since it holds none" in said
    else:
        assert "Adafactor's statistics" in said
        # At step 1,000,003 a step moves the average by 1.6e-5 of the way.
        before = contents(golden / source)["encoder.encoder_norm.scale.v"]
        np.testing.assert_allclose(second, before, rtol=0.05)


@pytest.mark.parametrize("through_a_run", [False, True])
def test_a_bloom_starts_a_run(golden, tmp_path, capsys, through_a_run):
    source = "bloom_tiny/heads4"
    begin = contents(golden / source, state=False)
    if through_a_run:
        convert(str(golden / source), str(tmp_path / "there"), "orbax", say=lambda text: None)
        golden, source = tmp_path, "there"
    with pytest.raises(UserError, match="num_heads 4, and the model 8: the tensors fit, and would"):
        started(golden, tmp_path, source, 1, model=dataclasses.replace(TINY_BLOOM, num_heads=8))
    assert not (tmp_path / "run").exists()
    summary = started(golden, tmp_path, source, 1, model=TINY_BLOOM, optimizer=AdamW())
    assert summary.step == 1
    assert "optimizer state afresh, since it holds none" in capsys.readouterr().err
    end = contents(tmp_path / "run", state=False)
    assert begin.keys() == end.keys()
    for name, array in end.items():
        np.testing.assert_allclose(array, begin[name], rtol=0, atol=1e-6, err_msg=name)


def test_a_converted_run_starts_another_but_goes_not_on(golden, tmp_path, capsys):
    there = tmp_path / "there"
    convert(str(golden / LEGACY), str(there), "orbax", say=lambda text: None)
    assert started(there, tmp_path, ".", 1).step == 1000004
    assert "optimizer state afresh, since it holds none" in capsys.readouterr().err
    (tmp_path / "run").rename(tmp_path / "first")
    there.rename(tmp_path / "run")
    with pytest.raises(UserError, match="holds parameters only.*INITIAL_CHECKPOINT_PATH"):
        started(tmp_path, tmp_path, ".", 1)


def test_t5xs_count_of_steps_is_refused_where_the_start_names_none(golden, tmp_path):
    with pytest.raises(UserError, match="1,007,000, and .*hf names no step.*RELATIVE = 7000 for"):
        started(golden, tmp_path, "t5_tiny/hf", None, total_steps=1_007_000)
    assert not (tmp_path / "run").exists()


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
        (["--to=t5x", "--t5x_layout=orbx"], "--t5x_layout is 'orbx'.*Did you mean 'orbax'"),
        (["--to=hf", "--t5x_layout=orbax"], "--t5x_layout is for --to t5x, not --to hf"),
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


def test_an_address_is_no_destination(golden, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="gs://b/x is no local folder; convert into one"):
        convert(str(golden / LEGACY), "gs://b/x", "t5x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", [".", "checkpoints", "checkpoints/1000003"])
def test_what_is_read_is_not_replaced(golden, tmp_path, part):
    there = tmp_path / "run"
    convert(str(golden / LEGACY), str(there), "orbax", with_state=True, say=lambda text: None)
    with pytest.raises(UserError, match="holds the checkpoint that is read"):
        convert(str(there), str(there / part), "orbax", overwrite=True)
    same(contents(there), contents(golden / LEGACY))
    convert(str(there), str(there / "hf"), "hf", say=lambda text: None)
    same(contents(there / "hf"), contents(golden / LEGACY, state=False))


def test_the_vocabulary_of_the_environment_is_the_tokenizers(golden, tmp_path, shared, monkeypatch):
    monkeypatch.setenv("MT0_VOCABULARY", str(shared / "vocab" / "mt5" / "spiece.model"))
    convert(str(golden / LEGACY), str(tmp_path / "there"), "t5x", say=lambda text: None)
    with pytest.raises(UserError, match="250,100 ids and the embedding 512 rows"):
        convert(str(golden / LEGACY), str(tmp_path / "hf"), "hf", say=lambda text: None)


def test_neither_a_run_nor_an_evaluation_starts_from_nan(golden, tmp_path):
    shutil.copytree(golden / "t5_tiny/hf", tmp_path / "hf", copy_function=shutil.copyfile)
    for path in (tmp_path / "hf", tmp_path / "hf/model.safetensors"):
        path.chmod(0o755)
    file = tmp_path / "hf/model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(UserError, match="1 of .* values of .* are NaN or infinite"):
        started(tmp_path, tmp_path, "hf", 1)
    with pytest.raises(UserError, match="1 of .* values of .* are NaN or infinite"):
        checkpoints.restore_params(str(tmp_path / "hf"), TINY)


@pytest.mark.parametrize("lost", ["_METADATA", "manifest.ocdbt"])
def test_a_run_that_is_not_whole_starts_none(golden, tmp_path, lost):
    there = tmp_path / "there"
    convert(str(golden / LEGACY), str(there), "orbax", say=lambda text: None)
    (there / "checkpoints/1000003/state" / lost).unlink()
    with pytest.raises(UserError, match=f"is not whole: it has no state/{lost}"):
        started(there, tmp_path, ".", 1)
    with pytest.raises(UserError, match=f"is not whole: it has no state/{lost}"):
        checkpoints.restore_params(str(there), TINY)
