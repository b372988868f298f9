"""What may pass is tried again, ever later, not for ever; the rest is raised at once."""

import errno
import itertools

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mt0_tpu import retrying
from mt0_tpu.data import remote_cache
from mt0_tpu.errors import UserError
from mt0_tpu.formats import remote
from mt0_tpu.retrying import is_transient
from tests.data.conftest import write_cache


class HttpError(Exception):
    """As gcsfs's: a code, as text or number."""

    def __init__(self, code):
        super().__init__(f"HTTP {code}")
        self.code = code


class ClientError(Exception):
    """As botocore's."""

    def __init__(self, status):
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class ServerDisconnectedError(Exception):
    """As aiohttp's."""


@pytest.mark.parametrize(
    "error",
    [
        HttpError(503), HttpError("429"), ClientError(500), ServerDisconnectedError(),
        TimeoutError(), ConnectionResetError(), OSError(errno.ETIMEDOUT, "x"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_passes(error):
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        HttpError(404), HttpError(403), ClientError(401), FileNotFoundError(), PermissionError(),
        OSError(errno.ENOSPC, "x"), ValueError("x"), UserError("x"), KeyError("x"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_stays(error):
    assert not is_transient(error)


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were waited, none of them really."""
    found = []
    monkeypatch.setattr(retrying.time, "sleep", found.append)
    return found


def test_it_waits_ever_longer_and_gives_up(waits, capsys):
    tries = []

    def fail():
        tries.append(1)
        raise HttpError(503)

    with pytest.raises(HttpError):
        retrying.retrying(fail, "gs://b/x")
    assert len(tries) == retrying.TRIES and len(waits) == retrying.TRIES - 1
    for number, wait in enumerate(waits):
        assert 0.5 * 2**number <= wait <= 1.5 * 2**number
    assert capsys.readouterr().err.count("gs://b/x: HttpError HTTP 503; again in") == 4


def test_what_will_not_pass_is_tried_once(waits):
    tries = []

    def fail():
        tries.append(1)
        raise FileNotFoundError("x")

    with pytest.raises(FileNotFoundError):
        retrying.retrying(fail, "x")
    assert len(tries) == 1 and not waits


class Flaky(MemoryFileSystem):
    """A bucket of which each call fails so many times before it succeeds."""

    protocol = "flaky"
    store, pseudo_dirs = {}, [""]
    failures = 1
    count = itertools.count()
    seen: dict = {}

    @classmethod
    def fail(cls, *call):
        cls.seen[call] = cls.seen.get(call, 0) + 1
        if cls.seen[call] <= cls.failures:
            raise HttpError(503)

    def cat_file(self, path, *rest, **more):
        self.fail("cat", path)
        return super().cat_file(path, *rest, **more)

    def ls(self, path, *rest, **more):
        self.fail("ls", path)
        return super().ls(path, *rest, **more)

    def get_file(self, path, *rest, **more):
        self.fail("get", path)
        return super().get_file(path, *rest, **more)

    def open(self, path, mode="rb", **more):
        file = super().open(path, mode, **more)
        if mode == "rb":
            self.fail("open", path)
            read, calls = file.read, self.seen

            def cut_off(size=-1):
                # The line goes dead after the first bytes, once a file.
                block = read(min(size, 16) if size > 0 else size)
                if not calls.get(("read", path)) and file.tell() > 16:
                    calls["read", path] = 1
                    raise ServerDisconnectedError("in the middle")
                return block

            file.read = cut_off
        return file


@pytest.fixture
def bucket(monkeypatch):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(Flaky, "seen", {})
    return f"flaky://bucket-{next(Flaky.count)}"


def test_a_cache_comes_whole_over_a_bad_line(bucket, waits, tmp_path, capsys):
    tasks = {"a": [([1, 2, 3], [4])] * 50, "b": [([7], [8, 9])]}
    write_cache(tmp_path / "local", tasks)
    for task in tasks:
        remote_cache.publish(tmp_path / "local" / task / "train", f"{bucket}/{task}/train")
    remote_cache.publish(tmp_path / "local" / "mix.mixture.json", f"{bucket}/mix.mixture.json")
    root = remote_cache.fetch(bucket, "mix", ["train"], tmp_path / "copy", say=lambda text: None)
    for path in (tmp_path / "local").rglob("*.bin"):
        copy = root / path.relative_to(tmp_path / "local")
        assert copy.read_bytes() == path.read_bytes()
    said = capsys.readouterr().err
    assert "ServerDisconnectedError in the middle" in said and "HttpError HTTP 503" in said
    assert len(waits) >= 4


def test_a_line_that_stays_dead_is_an_error_that_says_so(bucket, waits, monkeypatch):
    monkeypatch.setattr(Flaky, "failures", 99)
    with pytest.raises(UserError, match="cannot be read .HttpError: HTTP 503"):
        remote_cache.fetch(bucket, "mix", ["train"], say=lambda text: None)
    assert len(waits) == retrying.TRIES - 1


def test_a_checkpoint_is_fetched_over_a_bad_line(bucket, waits, tmp_path, monkeypatch):
    monkeypatch.setenv("MT0_CHECKPOINTS_DIR", str(tmp_path))
    system, path = fsspec.core.url_to_fs(f"{bucket}/run")
    system.pipe({f"{path}/{n}": n.encode() for n in ("one", "two")})
    here = remote.bring(f"{bucket}/run")
    assert (tmp_path / here / "two").read_bytes() == b"two"
    assert waits
