"""Shards by Apache Beam: the same bytes as without, here and through a remote folder."""

import json
import sys

import pytest

from mt0_tpu.data import beam_cache, cache_shards
from mt0_tpu.data.cache import cache_mixture
from mt0_tpu.errors import UserError
from seqio_tasks import line_files

MODULE = """
import functools
from pathlib import Path
import seqio
from seqio_tasks import line_files
from seqio_tasks.sources import JsonlDataSource, PythonDataSource

line_files.RANGE_BYTES = 2_000
FILE = Path(__file__).with_name("lines.jsonl")

def rows(count):
    for i in range(count):
        yield {"inputs": f"row {i}", "targets": f"{i}"}

SOURCES = {
    "lines": JsonlDataSource({"train": str(FILE)}, ("inputs", "targets")),
    "rows": PythonDataSource({"train": functools.partial(rows, 300)}),
}
for key, source in SOURCES.items():
    seqio.TaskRegistry.add(
        f"MIXTURE_{key}",
        source=source,
        preprocessors=[seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder(),
                       seqio.preprocessors.append_eos_after_trim],
        output_features={n: seqio.Feature(seqio.ByteVocabulary()) for n in ("inputs", "targets")},
    )
seqio.MixtureRegistry.add("MIXTURE", [(f"MIXTURE_{key}", 1.0) for key in SOURCES])
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(line_files, "RANGE_BYTES", 2_000)
    for name in ("_SMALL_BYTES", "_GROUP_BYTES"):
        monkeypatch.setattr(cache_shards, name, 1_000)


def write_module(tmp_path, name):
    lines = [json.dumps({"inputs": f"line {i}", "targets": f"{i}"}) for i in range(400)]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    (tmp_path / f"{name}_tasks.py").write_text(MODULE.replace("MIXTURE", name))
    return str(tmp_path / f"{name}_tasks.py")


def content(root, name):
    files = sorted(root.glob(f"{name}_*/*/*"))
    # What `publish` adds is not the cache's.
    return {str(p.relative_to(root)): p.read_bytes() for p in files if p.name != "checksums.json"}


def run(name, folder, module, options=None, processes=1, **more):
    beam = None if options is None else {"runner": "DirectRunner", "options": options}
    said = []
    cache_mixture(name, folder, module=module, num_processes=processes, beam=beam,
                  progress=said.append, **more)  # fmt: skip
    return said


def test_beam_writes_the_same_bytes(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="Beam has an environment of its own: make beam-test")
    module = write_module(tmp_path, "beam_same")
    run("beam_same", tmp_path / "plain", module)
    written = []
    real = cache_shards.write_shard
    monkeypatch.setattr(
        cache_shards, "write_shard", lambda folder, *a: written.append(folder) or real(folder, *a)
    )
    in_memory = ["--direct_running_mode=in_memory"]
    run("beam_same", tmp_path / "beam", module, in_memory, processes=2)
    plain = content(tmp_path / "plain", "beam_same")
    assert len(plain) == 2 * 5 and content(tmp_path / "beam", "beam_same") == plain
    assert len(written) > 5 + 2

    # Through a folder that is not here: what workers upload, fetched, merged and published.
    monkeypatch.setenv("MT0_LOCAL_CACHE_DIR", str(tmp_path / "local"))
    remote = tmp_path / "remote"
    run("beam_same", f"file://{remote}", module, in_memory)
    assert content(remote, "beam_same") == plain
    assert not list(remote.glob(".partial-*")) and not list(tmp_path.glob("local/*/.partial-*"))


@pytest.mark.slow
def test_beam_in_processes(tmp_path):
    pytest.importorskip("apache_beam", reason="Beam has an environment of its own: make beam-test")
    module = write_module(tmp_path, "beam_processes")
    run("beam_processes", tmp_path / "plain", module)
    run("beam_processes", tmp_path / "beam", module, ["--direct_num_workers=2"], processes=2)
    assert content(tmp_path / "beam", "beam_processes") == content(
        tmp_path / "plain", "beam_processes"
    )


def test_shards_that_are_there_are_not_written_again(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="Beam has an environment of its own: make beam-test")
    module = write_module(tmp_path, "beam_again")
    monkeypatch.setenv("MT0_LOCAL_CACHE_DIR", str(tmp_path / "local"))
    url = f"file://{tmp_path / 'remote'}"

    def interrupt(self, part):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(beam_cache._Place, "fetch", interrupt)
        run("beam_again", url, module, [])
    assert len(list((tmp_path / "remote").glob(".partial-*/shard-*/shard.json"))) > 5
    monkeypatch.setattr(beam_cache, "write_group", lambda *a, **k: pytest.fail("written again"))
    said = run("beam_again", url, module, [])
    assert ["total", "700"] in [line.split()[:2] for line in said]


def test_mistakes_of_users_come_back_in_their_own_words(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="Beam has an environment of its own: make beam-test")
    module = write_module(tmp_path, "beam_wrong")
    with (tmp_path / "lines.jsonl").open("a") as file:
        file.write("\nno json\n")
    with pytest.raises(UserError, match=r"^task 'beam_wrong_lines': .*lines\.jsonl, line 401: not"):
        run("beam_wrong", tmp_path / "cache", module, [])
    with pytest.raises(UserError, match="a file of this machine, and workers of DataflowRunner"):
        cache_mixture("beam_wrong", tmp_path / "cache", module=module, progress=print,
                      beam={"runner": "DataflowRunner", "options": []})  # fmt: skip


def test_without_beam_the_extra_is_named(tmp_path, monkeypatch):
    module = write_module(tmp_path, "beam_none")
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"needs Apache Beam .*pip install mt0_tpu\[beam\]"):
        run("beam_none", tmp_path / "cache", module, [])
