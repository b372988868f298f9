"""A stand-in for Google Cloud Storage: its JSON API on 127.0.0.1, as gcsfs and tensorstore use it.

Objects are bytes in memory. It can refuse the next requests of a kind, and forbid writing.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
import zlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass
class Stored:
    """One object: its bytes, and the number of the write that made it."""

    content: bytes
    generation: int


@dataclasses.dataclass
class Fault:
    """The next `left` requests whose 'METHOD path?query' holds the pattern get this status."""

    pattern: str
    left: int
    status: int = 503


class FakeGcs:
    """The server. Use as a context manager.

    Attributes:
      objects: {bucket: {name: Stored}}; a bucket that is no key does not exist.
      read_only: buckets that refuse to be written with 403.
      requests: 'METHOD path?query' of every request, in order.
      watch: called with each request's line before it is answered.
    """

    def __init__(self, *buckets: str):
        self.objects: dict[str, dict[str, Stored]] = {bucket: {} for bucket in buckets}
        self.read_only: set[str] = set()
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.watch: Callable[[str], None] = lambda line: None
        self.lock = threading.RLock()
        self.uploads: dict[str, dict[str, Any]] = {}
        self._generation = 1_000_000
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs, from its beginning, to take this for Google."""
        return {
            "STORAGE_EMULATOR_HOST": self.address,
            "TENSORSTORE_GCS_HTTP_URL": self.address,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def fail(self, pattern: str, times: int, status: int = 503) -> Fault:
        """Refuses the next so many requests whose line matches the pattern."""
        fault = Fault(pattern, times, status)
        self.faults.append(fault)
        return fault

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """The names of a bucket's objects below a prefix, in order."""
        with self.lock:
            return sorted(name for name in self.objects[bucket] if name.startswith(prefix))

    def read(self, bucket: str, name: str) -> bytes:
        """The bytes of an object; KeyError where there is none."""
        return self.objects[bucket][name].content

    def put(self, bucket: str, name: str, content: bytes) -> Stored:
        """Writes an object."""
        with self.lock:
            self._generation += 1
            self.objects[bucket][name] = Stored(content, self._generation)
            return self.objects[bucket][name]

    def remove(self, bucket: str, prefix: str) -> None:
        """Deletes all objects below a prefix."""
        with self.lock:
            for name in self.names(bucket, prefix):
                del self.objects[bucket][name]

    def __enter__(self) -> FakeGcs:
        serve = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        serve.start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Refused(Exception):
    def __init__(self, status: int):
        self.status = status


def _parts(body: bytes, content_type: str) -> list[bytes]:
    """The bodies in a multipart one, each to the byte; its lines end as its first one does."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)[1].strip("'").encode()
    pieces = body.split(b"--" + boundary)[1:-1]
    found = []
    for piece in pieces:
        end = b"\r\n" if piece.startswith(b"\r\n") else b"\n"
        found.append(piece.partition(end + end)[2].removesuffix(end))
    return found


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: FakeGcs

    def handle(self) -> None:
        # A process that was killed has not said goodbye.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *arguments) -> None:
        pass

    def _serve(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        self.query = {k: v[-1] for k, v in urllib.parse.parse_qs(parts.query, True).items()}
        body = self._body()
        line = f"{self.command} {urllib.parse.unquote(self.path)}"
        self.store.watch(line)
        try:
            with self.store.lock:
                self.store.requests.append(line)
                for fault in self.store.faults:
                    if fault.left and re.search(fault.pattern, line):
                        fault.left -= 1
                        raise _Refused(fault.status)
                self._route(parts.path, body)
        except _Refused as refused:
            self._json({"error": {"code": refused.status, "message": "refused"}}, refused.status)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            found = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _route(self, path: str, body: bytes) -> None:
        path = path.removeprefix("/download").removeprefix("/upload")
        keys = [urllib.parse.unquote(part) for part in path.split("/")]
        # '', storage, v1, b, BUCKET[, o[, NAME[, rewriteTo, b, BUCKET, o, NAME]]]
        if keys[1:4] != ["storage", "v1", "b"] or len(keys) < 5:
            raise _Refused(404)
        bucket, rest = keys[4], keys[6:]
        if bucket not in self.store.objects:
            raise _Refused(404)
        if self.command != "GET" and bucket in self.store.read_only:
            raise _Refused(403)
        if len(keys) == 5:
            self._json({"kind": "storage#bucket", "name": bucket})
        elif self.command == "GET":
            self._read(bucket, rest[0]) if rest else self._list(bucket)
        elif self.command == "DELETE":
            self._check(bucket, rest[0], must_exist=True)
            del self.store.objects[bucket][rest[0]]
            self._answer(204, b"")
        elif len(rest) > 1:
            content = self.store.objects[bucket].get(rest[0])
            if content is None:
                raise _Refused(404)
            made = self.store.put(rest[3], rest[5], content.content)
            resource = self._resource(rest[3], rest[5], made)
            self._json({"done": True, "resource": resource} if "rewrite" in rest[1] else resource)
        else:
            self._upload(bucket, body)

    def _check(self, bucket: str, name: str, must_exist: bool = False) -> Stored | None:
        """Raises what the preconditions of the request say of an object."""
        stored = self.store.objects[bucket].get(name)
        generation = stored.generation if stored else 0
        wanted = self.query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != generation:
            raise _Refused(412)
        if self.query.get("ifGenerationNotMatch") == str(generation):
            raise _Refused(304 if self.command == "GET" else 412)
        if must_exist and stored is None:
            raise _Refused(404)
        return stored

    def _read(self, bucket: str, name: str) -> None:
        stored = self._check(bucket, name, must_exist=True)
        if self.query.get("alt") != "media":
            self._json(self._resource(bucket, name, stored))
            return
        content, total = stored.content, len(stored.content)
        headers = {"x-goog-generation": str(stored.generation), "x-goog-metageneration": "1"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            self._answer(200, content, headers)
            return
        first, last = asked.groups()
        start = int(first) if first else max(0, total - int(last))
        stop = min(total, int(last) + 1) if first and last else total
        if start >= total:
            raise _Refused(416)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
        self._answer(206, content[start:stop], headers)

    def _list(self, bucket: str) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        first, end = self.query.get("startOffset", ""), self.query.get("endOffset")
        items, prefixes = [], set()
        for name in self.store.names(bucket, prefix):
            if name < first or (end is not None and name >= end):
                continue
            below = name[len(prefix) :]
            if delimiter and delimiter in below:
                prefixes.add(prefix + below[: below.index(delimiter) + 1])
            else:
                items.append(name)
        # A page at a time, of names and prefixes in one order, as the real one does.
        both = sorted([*items, *prefixes])
        start = int(self.query.get("pageToken") or 0)
        most = min(int(self.query.get("maxResults") or 1000), 1000)
        page = both[start : start + most]
        stored = self.store.objects[bucket]
        answer = {
            "kind": "storage#objects",
            "items": [self._resource(bucket, n, stored[n]) for n in page if n not in prefixes],
            "prefixes": [name for name in page if name in prefixes],
        }
        if start + most < len(both):
            answer["nextPageToken"] = str(start + most)
        self._json(answer)

    def _upload(self, bucket: str, body: bytes) -> None:
        kind = self.query.get("uploadType")
        if "upload_id" in self.query:
            self._piece(body)
        elif kind == "media":
            self._keep(bucket, self.query["name"], body)
        elif kind == "multipart":
            about, content = _parts(body, self.headers["Content-Type"])
            self._keep(bucket, json.loads(about)["name"], content)
        elif kind == "resumable":
            name = self.query.get("name") or json.loads(body)["name"]
            number = str(len(self.store.uploads))
            self.store.uploads[number] = {"query": self.query, "name": name, "content": b""}
            where = f"{self.store.address}/upload/storage/v1/b/{bucket}/o?upload_id={number}"
            self._answer(200, b"", {"Location": where})
        else:
            raise _Refused(400)

    def _piece(self, body: bytes) -> None:
        """A part of a resumable upload: 308 until the one that says how much there is."""
        upload = self.store.uploads[self.query["upload_id"]]
        upload["content"] += body
        said = self.headers.get("Content-Range", "")
        if said.endswith("/*"):
            have = {"Range": f"bytes=0-{len(upload['content']) - 1}"} if upload["content"] else {}
            self._answer(308, b"", have)
            return
        bucket = urllib.parse.urlsplit(self.path).path.split("/")[5]
        self.query = upload["query"]
        self._keep(bucket, upload["name"], upload["content"])

    def _keep(self, bucket: str, name: str, content: bytes) -> None:
        self._check(bucket, name)
        self._json(self._resource(bucket, name, self.store.put(bucket, name, content)))

    def _resource(self, bucket: str, name: str, stored: Stored) -> dict[str, Any]:
        return {
            "kind": "storage#object", "id": f"{bucket}/{name}", "name": name, "bucket": bucket,
            "size": str(len(stored.content)), "generation": str(stored.generation),
            "metageneration": "1", "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "md5Hash": base64.b64encode(hashlib.md5(stored.content).digest()).decode(),
            "etag": base64.b64encode(str(zlib.crc32(stored.content)).encode()).decode(),
        }  # fmt: skip

    def _json(self, answer: dict, status: int = 200) -> None:
        self._answer(status, b"" if status == 304 else json.dumps(answer).encode())

    def _answer(self, status: int, body: bytes, headers: dict | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(body)
