"""Damage of every kind through `mt0 convert`: one sentence, exit code 2, and nothing written.

What each reader notices in detail is in the reader's own test.
"""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorstore

from mt0_tpu import cli
from mt0_tpu.formats import t5x_msgpack, t5x_writer
from tests.conftest import REPOSITORY
from tests.formats.hf_folders import (
    save_archive,
    save_torch,
    t5x_arrays,
    tensors,
    torch_arrays,
    write_config,
)  # fmt: skip
from tests.formats.made import Made

LEGACY = "t5_tiny/ckpt_legacy_float32/checkpoint_1000003"
ORBAX = "t5_tiny/ckpt_orbax/checkpoint_1000003"
HF = "t5_tiny/hf"
KERNEL = "target.encoder.layers_1.mlp.wo.kernel"


def cut(path: Path, most: int = 100):
    path.write_bytes(path.read_bytes()[: -min(most, path.stat().st_size // 2)])


def too_deep(folder):
    (folder / "config.json").write_text("[" * 200_000)


def cut_safetensors(folder):
    cut(folder / "model.safetensors")


def cut_chunk(folder):
    cut(folder / KERNEL / "0.0")


def lose_header(folder):
    (folder / KERNEL / ".zarray").unlink()


def lose_chunk(folder):
    (folder / KERNEL / "0.0").unlink()


def cut_msgpack(folder):
    cut(folder / "checkpoint")


def cut_store(folder):
    for file in (folder / "state").rglob("d/*"):
        cut(file, 10**6)


def nan(folder):
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{folder / KERNEL}/"}}
    tensorstore.open(spec).result()[3, 5].write(np.nan).result()


def nan_in_hf(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + np.float32(np.nan).tobytes())


def absent_shard(folder):
    os.rename(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"shared.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def git_lfs_pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


def config(**changes):
    def change(folder):
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(known | changes))

    return change


def renamed(name):
    """The folder as a save left it that was cut off."""

    def change(folder):
        folder.rename(folder.with_name(name))

    return change


def version_2(folder):
    tree = t5x_msgpack.pack({"version": 2, "optimizer": {"target": {}, "state": {}}})
    (folder / "checkpoint").write_bytes(tree)


@pytest.mark.parametrize(
    "source, damage, says",
    [
        (HF, cut_safetensors, "model.safetensors is cut short: found .* expected"),
        (HF, too_deep, "is damaged: a file of it is nested too deep"),
        (HF, absent_shard, "model-00002-of-00002.safetensors is missing"),
        (HF, git_lfs_pointer, "pointer of Git LFS, fetch the file itself"),
        (HF, nan_in_hf, "1 of .* values of .* are NaN or infinite"),
        (HF, config(vocab_size=500), "has 512 rows, expected 500 by config.json's vocab_size"),
        (HF, config(model_type="bert"), "model_type 'bert': only mT5's network is read"),
        (HF, config(model_type="llama"), "model_type 'llama': only mT5's network is read"),
        (LEGACY, cut_chunk, f"{KERNEL} is damaged"),
        (LEGACY, lose_chunk, f"{KERNEL} lacks 1 of 1 chunks, such as 0.0"),
        (LEGACY, lose_header, f"{KERNEL} has no file .zarray"),
        (LEGACY, cut_msgpack, "checkpoint cannot be read as T5X's msgpack file"),
        (LEGACY, nan, r"1 of 8192 values of encoder.layers_1.mlp.wo.kernel .* first at \(3, 5\)"),
        (LEGACY, version_2, "T5X checkpoint of version 2"),
        (LEGACY, renamed("checkpoint_7.tmp-1600000000"), "was never finished"),
        (ORBAX, renamed("checkpoint_7.orbax-checkpoint-tmp-3"), "was never finished"),
        (ORBAX, cut_store, "is damaged"),
    ],
)  # fmt: skip
def test_damage_is_one_sentence(golden, tmp_path, capsys, source, damage, says):
    there = tmp_path / "in" / Path(source).name
    shutil.copytree(golden / source, there)
    for path in tmp_path.rglob("*"):
        path.chmod(0o755)
    damage(there)
    [source] = (tmp_path / "in").iterdir()
    refused(source, tmp_path, capsys, says)


def refused(source, tmp_path, capsys, says, *options):
    before = sorted(os.listdir(tmp_path))
    arguments = options or ("--to=orbax",)
    assert cli.main(["convert", str(source), str(tmp_path / "out"), *arguments]) == 2
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("mt0: error: ") and re.search(says, said), said
    assert sorted(os.listdir(tmp_path)) == before


def test_a_vocabulary_of_another_network(golden, shared, tmp_path, capsys):
    spiece = shared / "vocab" / "mt5" / "spiece.model"
    says = "has 250,100 ids and the embedding 512 rows: they do not belong together"
    options = ["--to=hf", f"--vocabulary={spiece}"]
    refused(golden / LEGACY, tmp_path, capsys, says, *options)


@pytest.mark.parametrize("damage", ["cut", "hostile"])
def test_a_torch_file(tmp_path, capsys, monkeypatch, damage):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    folder = tmp_path / "hf"
    write_config(folder)
    if damage == "cut":
        save_torch(folder / "pytorch_model.bin", tensors(torch_arrays(t5x_arrays())))
        cut(folder / "pytorch_model.bin")
        refused(folder, tmp_path, capsys, "pytorch_model.bin is cut short")
        return
    hostile = b"cos\nsystem\n(S'touch x'\ntR."
    assert pickle.loads(hostile) is None and ran == ["touch x"]
    save_archive(folder / "pytorch_model.bin", hostile, {})
    refused(folder, tmp_path, capsys, "asks for 'os.system' .* nothing of it was run")
    assert ran == ["touch x"]


def test_t5xs_tree_of_something_else(tmp_path, capsys):
    other = {"transformer.wte.embedding": np.ones((8, 4), ml_dtypes.bfloat16)}
    t5x_writer.write(Made(other), tmp_path / "checkpoint_5")
    says = "an architecture that mt0_tpu does not have: there is no token_embedder.embedding, only"
    refused(tmp_path / "checkpoint_5", tmp_path, capsys, says)


def test_half_a_save_of_ours(golden, tmp_path, capsys):
    source = tmp_path / "run"
    assert cli.main(["convert", str(golden / LEGACY), str(source), "--to=orbax"]) == 0
    capsys.readouterr()
    step = source / "checkpoints" / "1000003"
    step.rename(step.with_name("1000003.orbax-checkpoint-tmp-1"))
    refused(source, tmp_path, capsys, "is half-written: its save was cut off")


def test_mesh_tensorflow_without_tensorflow(tmp_path):
    """In a process that has none; the file's end and one name are what make it known."""
    end = bytes.fromhex("57fb808b247547db")
    (tmp_path / "model.ckpt-7.index").write_bytes(b"shared/embedding" + end)
    (tmp_path / "model.ckpt-7.data-00000-of-00001").write_bytes(b"")
    code = (
        "import sys; sys.modules['tensorflow'] = None; from mt0_tpu import cli; "
        f"sys.exit(cli.main(['convert', {str(tmp_path)!r}, 'out', '--to=t5x']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 2
    [said] = done.stderr.splitlines()
    assert re.search("model.ckpt-7 is a Mesh TensorFlow checkpoint .* needs TensorFlow", said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a**", "b[1", "no such thing"])
def test_any_name_may_be_absent(tmp_path, capsys, name):
    refused(tmp_path / name, tmp_path, capsys, "it does not exist; give a MODEL_DIR")


def test_no_permission(tmp_path, capsys, monkeypatch):
    """Raised by hand: nothing is forbidden to root."""

    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path / "state"))

    monkeypatch.setattr("mt0_tpu.formats.own_run.find", forbidden)
    refused(tmp_path, tmp_path, capsys, "cannot be read .Permission denied: .*state.; look at its")
