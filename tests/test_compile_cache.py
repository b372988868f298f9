"""Where compiled programs are kept, and that a second process reads them."""

import os
import subprocess
import sys

import jax
import pytest

from mt0_tpu import compile_cache
from mt0_tpu.errors import UserError

SCRIPT = """
import jax, jax.numpy as jnp
from mt0_tpu import compile_cache
folder = compile_cache.enable()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))
print(folder, compile_cache.hits())
"""


def run(**environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMP", "MT0_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=kept | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    folder, hits = done.stdout.split()
    return folder, int(hits)


def test_a_second_process_does_not_compile_again(tmp_path):
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    folder, hits = run(**home)
    assert folder.startswith(str(tmp_path / "mt0_tpu" / "compiled")) and hits == 0
    again, hits = run(**home)
    assert again == folder and hits > 0


def test_a_setting_of_jax_s_own_is_left(tmp_path):
    own = str(tmp_path / "own")
    folder, _ = run(JAX_COMPILATION_CACHE_DIR=own, MT0_COMPILE_CACHE=str(tmp_path / "ours"))
    assert folder == own and not (tmp_path / "ours").exists()
    # The tests themselves have one.
    assert compile_cache.enable() == jax.config.jax_compilation_cache_dir


@pytest.mark.parametrize(
    "setting, shared, processes, expected",
    [
        ("off", "gs://b/run", 1, None),
        ("/tmp/here", "gs://b/run", 4, "/tmp/here"),
        ("", "gs://b/run/", 4, "gs://b/run/compiled"),  # the first process alone writes
        ("", None, 4, None),
    ],
)
def test_where(setting, shared, processes, expected):
    assert compile_cache._folder(setting, shared, processes) == expected


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="MT0_COMPILE_CACHE, or set it to off"):
        compile_cache._check_writable(str(tmp_path / "file" / "below"))


def test_what_was_read_longest_ago_goes_first(tmp_path):
    for number, name in enumerate(["old-cache", "older-cache", "new-cache"]):
        path = tmp_path / name
        path.write_bytes(b"x" * 10)
        os.utime(path, (1_000 + (number if number != 1 else -1), 0))
    (tmp_path / "other").write_bytes(b"x" * 1_000)
    compile_cache._drop_oldest(tmp_path, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new-cache", "old-cache", "other"]
