"""What Google's metadata announce, from a fake server and from fake readers."""

import http.server
import threading

import pytest

from mt0_tpu import maintenance
from mt0_tpu.maintenance import MaintenanceNews


@pytest.mark.parametrize(
    "key, quiet, alarm, name",
    [
        ("maintenance-event", "NONE", "TERMINATE_ON_HOST_MAINTENANCE", "host maintenance"),
        ("preempted", "FALSE", "TRUE", "preemption of this Spot machine"),
    ],
)
def test_an_announcement_is_told_once(key, quiet, alarm, name):
    values = {key: quiet}
    news = MaintenanceNews(values.get)
    assert news() is None
    values[key] = alarm
    assert news() == name
    assert news() is None


def test_a_live_migration_is_none():
    values = {"maintenance-event": "NONE"}
    news = MaintenanceNews(values.get)
    values["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
    assert news() is None


def test_what_was_announced_before_the_start_is_left_to_the_signal():
    values = {"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}
    news = MaintenanceNews(values.get)
    assert news() is None


def test_a_server_that_does_not_answer_announces_nothing():
    answers = iter(["NONE", "FALSE", None, None, "TERMINATE_ON_HOST_MAINTENANCE", "FALSE"])
    news = MaintenanceNews(lambda key: next(answers))
    assert news() is None
    assert news() == "host maintenance"


def test_google_s_metadata_are_read_with_their_header(monkeypatch):
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Metadata-Flavor"]))
            found = self.path.endswith("/preempted")
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(b"TRUE\n" if found else b"no such key")

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        assert maintenance.google_metadata("preempted") == "TRUE"
        assert maintenance.google_metadata("maintenance-event") is None
        server.shutdown()
    assert asked[0] == ("/computeMetadata/v1/instance/preempted", "Google")
    assert maintenance.google_metadata("preempted") is None  # nobody listens any more
