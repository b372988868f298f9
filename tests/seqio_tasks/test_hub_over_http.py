"""huggingface_hub itself, against a Hub of a few lines on this machine."""

import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

COMMIT = "ab" * 20
REPOSITORY = "bigscience/xP3mt"
LINE = b'{"inputs": "a", "targets": "b"}\n'
FILES = {
    "README.md": b"card",
    "sw/xp3_xquad_xquad.sw_train_ask.jsonl": LINE * 400_000,
    "yo/xp3_xquad_xquad.yo_train_ask.jsonl": LINE * 2,
}


class Hub(http.server.BaseHTTPRequestHandler):
    """What listing and downloading ask of huggingface.co; the first big download breaks off."""

    protocol_version = "HTTP/1.1"
    asked: list[str] = []
    breaks = True

    def do_GET(self):
        self._answer(body=True)

    def do_HEAD(self):
        self._answer(body=False)

    def log_message(self, *arguments):
        pass

    def _answer(self, body):
        Hub.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        path = self.path.partition("?")[0]
        api = f"/api/datasets/{REPOSITORY}"
        if path.startswith((f"{api}/revision", api)) and "/tree/" not in path:
            return self._send(json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode(), body)
        if path.startswith(f"{api}/tree/{COMMIT}"):
            return self._send(self._tree(path.partition(COMMIT)[2].strip("/")), body)
        start = f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"
        content = FILES.get(path.removeprefix(start)) if path.startswith(start) else None
        if content is None:
            return self._send(b"{}", body, 404, {"X-Error-Code": "EntryNotFound"})
        first = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        heads = {"X-Repo-Commit": COMMIT, "ETag": f'"{len(content)}"', "Accept-Ranges": "bytes"}
        if first:
            heads["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self._send(content[first:], body, 206 if first else 200, heads)

    def _tree(self, folder):
        start, entries = f"{folder}/" if folder else "", {}
        for path, content in FILES.items():
            inside = path.removeprefix(start)
            if path.startswith(start):
                name = start + inside.partition("/")[0]
                kind = "directory" if "/" in inside else "file"
                entries[name] = {"type": kind, "path": name, "oid": "0" * 40, "size": len(content)}
        return json.dumps(list(entries.values())).encode()

    def _send(self, content, body, status=200, heads=None):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **(heads or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if not body:
            return
        if Hub.breaks and len(content) > 1_000_000:
            Hub.breaks = False
            self.wfile.write(content[:11_000_000])
            self.close_connection = True
            return
        self.wfile.write(content)


@pytest.fixture
def server():
    Hub.asked, Hub.breaks = [], True
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def mt0(server, folder, *words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "mt0_tpu", *words],
        env={
            **os.environ,
            "HF_ENDPOINT": server,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "MT0_LISTINGS_DIR": str(folder / "listings"),
            "MT0_DATA_DIR": str(folder / "data"),
            **environment,
        },
        capture_output=True,
        text=True,
    )


def test_fetch_lists_downloads_and_goes_on(server, tmp_path):
    done = mt0(server, tmp_path, "tasks", "fetch", "xp3mt_sw")
    assert done.returncode == 0, done.stderr
    path = "sw/xp3_xquad_xquad.sw_train_ask.jsonl"
    assert (tmp_path / "data" / "xp3mt" / path).read_bytes() == FILES[path]
    assert "fetch: 1 files, 12 MiB; 1 files, 12 MiB are not yet" in done.stdout
    assert "fetch 12/12 MiB (100 %)" in done.stderr
    # The line broke: only what comes after the last whole 10 MiB was asked for again.
    ranges = [asked.partition("bytes=")[2] for asked in Hub.asked if "bytes=" in asked]
    assert ranges == [f"{10 << 20}-"]
    assert not any("README" in asked or ".py" in asked for asked in Hub.asked)

    Hub.asked.clear()
    assert mt0(server, tmp_path, "tasks", "fetch", "xp3mt_sw").returncode == 0
    assert not Hub.asked  # listed before, and all there


def test_a_hub_that_is_away_or_switched_off(tmp_path):
    done = mt0("http://127.0.0.1:1", tmp_path, "tasks", "fetch", "xp3mt_sw")
    assert done.returncode == 2 and done.stderr.startswith("mt0: error: bigscience/xP3mt")
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    done = mt0("http://127.0.0.1:1", tmp_path, "tasks", "fetch", "xp3mt_sw", HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "HF_HUB_OFFLINE" in done.stderr


def test_what_the_hub_does_not_have(server, tmp_path):
    done = mt0(server, tmp_path, "tasks", "fetch", "xp3mt_zu")
    assert done.returncode == 2
    assert "no folder of language 'zu'" in done.stderr
    done = mt0(server, tmp_path, "tasks", "fetch", "xp3_sw")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
