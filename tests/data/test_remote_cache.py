import itertools
import json

import fsspec
import numpy as np
import pytest

from mt0_tpu.data import cache, remote_cache, remote_files, sources
from mt0_tpu.data.batches import Loader, open_sources
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.indexed import IndexedDataset, IndexedWriter
from mt0_tpu.errors import UserError

TASKS = {"a": [([1, 2, 3], [4])] * 5, "b": [([7], [8, 9])]}
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def copies(tmp_path, monkeypatch):
    monkeypatch.setenv("MT0_LOCAL_CACHE_DIR", str(tmp_path / "copies"))
    # What one call cannot get, the next goes on with; test_retrying has the tries within a call.
    monkeypatch.setattr("mt0_tpu.retrying.TRIES", 1)
    return tmp_path / "copies"


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    """A new remote folder."""
    if request.param == "file":
        return f"file://{tmp_path}/remote"
    return f"memory://bucket-{next(_numbers)}/caches"


@pytest.fixture
def local(tmp_path, cache_writer):
    cache_writer(tmp_path / "local", TASKS)
    return tmp_path / "local"


def publish(local, url, **options):
    for task in TASKS:
        remote_cache.publish(local / task / "train", f"{url}/{task}/train", **options)
    remote_cache.publish(local / "mix.mixture.json", f"{url}/mix.mixture.json")


def remote(url):
    system, path = fsspec.core.url_to_fs(url)
    return system, path


def quiet(line):
    pass


def fetch(url, **options):
    return remote_cache.fetch(url, "mix", ["train"], say=quiet, **options)


def test_there_and_back(local, url, copies):
    publish(local, url)
    said = []
    root = remote_cache.fetch(url + "/", "mix", ["train"], say=said.append)
    assert root == remote_cache.local_root(url) and root.parent == copies
    for task in TASKS:
        for path in (local / task / "train").iterdir():
            assert (root / task / "train" / path.name).read_bytes() == path.read_bytes()
    assert sources.read_json(root / "mix.mixture.json")["name"] == "mix"
    assert said[-1].startswith("cache: 2 splits, 0.0 MiB from")
    assert not list(root.glob(".partial*"))
    # A second time nothing is copied.
    assert fetch(url) == root and len(said) == 1


def test_a_loader_reads_a_remote_folder(local, url):
    publish(local, url)
    config = DatasetConfig("mix", {"inputs": 4, "targets": 4}, batch_size=2, cache_dir=url)
    with Loader(open_sources(config), config, epochs=1) as loader:
        assert sum(int((batch["encoder_segment_ids"].max(1)).sum()) for batch in loader) == 6
    cache.ensure_cached(config, lambda line: pytest.fail(line))
    missing = DatasetConfig("mx", {"inputs": 4, "targets": 4}, cache_dir=url, use_cached=True)
    with pytest.raises(UserError, match=f"'mx' is not cached in {url}.*Did you mean 'mix'"):
        open_sources(missing)
    with pytest.raises(UserError, match=f"--cache_dir {url}` or write USE_CACHED_TASKS = False"):
        cache.ensure_cached(missing, quiet)


def test_what_is_missing_is_cached_and_published_by_the_child(local, url, monkeypatch):
    commands = []
    monkeypatch.setattr(
        cache.cache_child, "run", lambda command, progress: commands.append(command)
    )
    config = DatasetConfig("mix", {"inputs": 4, "targets": 4}, cache_dir=url)
    cache.ensure_cached(config, quiet)
    assert commands[0][commands[0].index("--cache_dir") + 1] == url


def test_rank_tasks_are_evaluated_from_a_remote_folder(url, tmp_path, monkeypatch):
    import seqio

    from mt0_tpu import rank_tasks
    from seqio_tasks import sources

    rows = [{"inputs": "a question", "choices": ["yes", "no"], "answer": 1}] * 3
    name = f"remote_rank_{next(_numbers)}"
    seqio.TaskRegistry.add(
        name,
        source=sources.PythonDataSource({"validation": lambda: rows}, fingerprint=name),
        preprocessors=[seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder()],
        output_features={
            "inputs": seqio.Feature(seqio.ByteVocabulary()),
            "choices": seqio.Feature(seqio.ByteVocabulary(), rank=2),
        },
    )
    cache.cache_mixture(name, url, num_processes=1, progress=quiet)
    monkeypatch.setenv("MT0_LOCAL_CACHE_DIR", str(tmp_path / "another_host"))
    (task,) = rank_tasks.open_rank_tasks(
        name, url, split=None, module=None, use_cached=True, num_examples=None, say=quiet,
        cache_missing=False,
    )  # fmt: skip
    assert task.name == name and list((tmp_path / "another_host").iterdir())


def test_an_unfinished_upload_is_not_taken_for_whole(local, url, monkeypatch):
    publish(local, url)
    system, path = remote(url)
    system.rm_file(f"{path}/b/train/info.json")
    with pytest.raises(UserError, match="split 'train' of task 'b' is not whole in .*--split"):
        fetch(url)
    root = fetch(url, required=False)
    assert (root / "a" / "train" / "info.json").is_file() and not (root / "b").exists()
    with pytest.raises(UserError, match="not whole"):
        fetch(url)

    # It goes on where it was: what is whole is not written again.
    written = []
    write = remote_files.RemoteFiles.open

    def noting(self, name, mode):
        if mode == "wb":
            written.append(name)
        return write(self, name, mode)

    monkeypatch.setattr(remote_files.RemoteFiles, "open", noting)
    system.rm_file(f"{path}/b/train/targets_document.bin")
    with system.open(f"{path}/b/train/inputs_document.bin", "wb") as file:
        file.write(b"\1\2\3")  # cut off
    publish(local, url)
    assert [name for name in written if name.endswith((".bin", ".idx"))] == [
        "inputs_document.bin", "targets_document.bin",
    ]  # fmt: skip
    assert written[-2:] == ["info.json", "mix.mixture.json"]
    assert (fetch(url) / "b" / "train" / "info.json").is_file()


def test_an_upload_that_breaks_leaves_no_info(local, url, monkeypatch):
    write = remote_files.RemoteFiles.open

    def breaking(self, name, mode):
        if name == "targets_document.bin":
            raise ConnectionError("cut")
        return write(self, name, mode)

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(remote_files.RemoteFiles, "open", breaking)
        publish(local, url)
    system, path = remote(url)
    assert not system.exists(f"{path}/a/train/info.json")
    assert system.exists(f"{path}/a/train/inputs_document.bin")


class Cut:
    """A remote file whose connection breaks after some bytes."""

    def __init__(self, file, after):
        self.file, self.left = file, after

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.file.close()

    def seek(self, place):
        self.file.seek(place)

    def read(self, size):
        if not self.left:
            raise ConnectionError("cut")
        block = self.file.read(min(size, self.left))
        self.left -= len(block)
        return block


def test_a_download_goes_on_where_it_was_cut_off(local, url, monkeypatch):
    publish(local, url)
    read = remote_files.RemoteFiles.open
    begun = []

    def cut(self, name, mode):
        file = read(self, name, mode)
        return Cut(file, 10) if name == "inputs_document.bin" else file

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(remote_files.RemoteFiles, "open", cut)
        fetch(url)
    root = remote_cache.local_root(url)
    (part,) = root.glob(".partial-fetched-a-train-*/inputs_document.bin.part")
    assert part.stat().st_size == 10
    assert not (root / "a").exists() and not (root / "mix.mixture.json").exists()

    class Noting:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *unused):
            self.file.close()

        def seek(self, place):
            begun.append(place)
            self.file.seek(place)

        def read(self, size):
            return self.file.read(size)

    monkeypatch.setattr(
        remote_files.RemoteFiles, "open", lambda self, *how: Noting(read(self, *how))
    )
    fetch(url)
    assert 10 in begun
    assert IndexedDataset(root / "a" / "train" / "inputs_document")[4].tolist() == [1, 2, 3]


def test_damage_on_the_way_is_noticed(local, url):
    publish(local, url)
    system, path = remote(url)
    file = f"{path}/a/train/inputs_document.bin"
    content = system.cat_file(file)
    with system.open(file, "wb") as stream:
        stream.write(b"\xff" + content[1:])
    with pytest.raises(UserError, match="inputs_document.bin arrived with another SHA-256"):
        fetch(url)
    with system.open(file, "wb") as stream:
        stream.write(content[1:])
    with pytest.raises(UserError, match="inputs_document.bin has 59 bytes, expected 60"):
        fetch(url)
    assert not (remote_cache.local_root(url) / "a").exists()
    # Without checksums (copied there by gsutil) the format's own lengths are compared.
    system.rm_file(f"{path}/a/train/checksums.json")
    with pytest.raises(UserError, match="cache in .*a/train cannot be used: .*damaged"):
        fetch(url)
    with system.open(file, "wb") as stream:
        stream.write(content)
    fetch(url)


def test_another_cache_is_not_overwritten_unless_asked(local, url, tmp_path, cache_writer):
    publish(local, url)
    root = fetch(url)
    other = tmp_path / "other"
    cache_writer(other, {**TASKS, "a": [([5], [6])]})
    with pytest.raises(UserError, match="holds another cache of task .*--overwrite"):
        publish(other, url)
    publish(other, url, overwrite=True)
    fetch(url)
    assert len(IndexedDataset(root / "a" / "train" / "inputs_document")) == 1
    (other / "b" / "train" / "info.json").unlink()
    with pytest.raises(UserError, match="info.json is missing"):
        publish(other, f"{url}-elsewhere")


def test_linked_files_are_taken_along(tmp_path, url):
    folder = tmp_path / "linked" / "t" / "train"
    folder.mkdir(parents=True)
    prefixes = {}
    for feature in ("inputs", "targets"):
        prefixes[feature] = str(tmp_path / f"xp3_{feature}_document")
        with IndexedWriter(prefixes[feature], np.int32) as writer:
            writer.add(np.array([1, 2]))
    info = {"version": 1, "task": "t", "split": "train", "kind": "pairs", "num_examples": 1,
            "files": prefixes, "originals": []}  # fmt: skip
    (folder / "info.json").write_text(json.dumps(info))
    mixture = {"tasks": [{"name": "t", "rate": 1.0, "splits": ["train"]}]}
    (tmp_path / "linked" / "t.mixture.json").write_text(json.dumps(mixture))
    remote_cache.publish(folder, f"{url}/t/train")
    remote_cache.publish(tmp_path / "linked" / "t.mixture.json", f"{url}/t.mixture.json")
    root = remote_cache.fetch(url, "t", None, say=quiet)
    assert "files" not in sources.read_info(root / "t" / "train")
    assert IndexedDataset(root / "t" / "train" / "targets_document")[0].tolist() == [1, 2]


def test_two_processes_fetch_one_after_the_other(local, url):
    from concurrent import futures

    publish(local, url)
    with futures.ThreadPoolExecutor(4) as pool:
        roots = list(pool.map(lambda _: fetch(url), range(4)))
    assert len(set(roots)) == 1
    assert len(IndexedDataset(roots[0] / "a" / "train" / "inputs_document")) == 5


def test_addresses_that_cannot_be_opened(monkeypatch):
    def missing(url):
        raise ImportError("Please install gcsfs to access Google Storage")

    with pytest.raises(UserError, match="Protocol not known: nonsense"):
        fetch("nonsense://a/b")
    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(UserError, match=r"gs://a/b needs .*`pip install mt0_tpu\[gcs\]`"):
        fetch("gs://a/b")


def test_a_store_that_refuses_is_said(url, monkeypatch):
    def refuse(self, path, **options):
        raise PermissionError("Forbidden: no storage.objects.get")

    system, _ = remote(url)
    monkeypatch.setattr(type(system), "cat_file", refuse)
    with pytest.raises(UserError, match="cannot be read .PermissionError: Forbidden.*credentials"):
        fetch(url)
