"""Which copy of a small file is the newer one, and what is sent."""

import pytest

from mt0_tpu import cli
from mt0_tpu.bucket_mirror import BucketMirror, bring_files, mirror_folder
from mt0_tpu.errors import UserError


@pytest.fixture
def name(bucket):
    return bucket.removeprefix("gs://")


@pytest.fixture
def mirror(bucket, tmp_path):
    """Opens the copy on a machine, a new process each time."""
    return lambda machine="one": BucketMirror(f"{bucket}/run", tmp_path / machine)


def write(mirror, name, text):
    path = mirror.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(mirror, name):
    return (mirror.folder / name).read_text()


def test_whole_files_go_up_once_and_come_down_elsewhere(mirror, gcs, name):
    here = mirror()
    write(here, "metrics.jsonl", "1\n")
    write(here, "train/events", "x")
    write(here, "config.gin.tmp-77", "half")
    assert here.send() == 2 and here.send() == 0
    write(here, "metrics.jsonl", "1\n2\n")
    assert here.send() == 1
    assert gcs.names(name) == ["run/metrics.jsonl", "run/train/events"]
    gcs.put(name, "run/checkpoints/3/state/large", b"not small")
    elsewhere = mirror("two")
    elsewhere.bring()
    assert read(elsewhere, "metrics.jsonl") == "1\n2\n" and read(elsewhere, "train/events") == "x"
    assert not (elsewhere.folder / "checkpoints").exists()
    assert elsewhere.send() == 0


def test_what_was_not_sent_is_newer_here(mirror, gcs, name):
    write(here := mirror(), "metrics.jsonl", "1\n")
    here.send()
    write(here, "metrics.jsonl", "1\n2\n")
    write(here, "summary.json", "{}")
    again = mirror()
    again.bring()
    assert read(again, "metrics.jsonl") == "1\n2\n"
    assert again.send() == 2


def test_what_another_machine_has_sent_is_newer_there(mirror, gcs, name):
    write(here := mirror(), "metrics.jsonl", "1\n")
    write(here, "gone.json", "{}")
    here.send()
    write(here, "metrics.jsonl", "1\n2\n")
    gcs.put(name, "run/metrics.jsonl", b"1\n3\n")
    gcs.remove(name, "run/gone.json")
    again = mirror()
    again.bring()
    assert read(again, "metrics.jsonl") == "1\n3\n"
    assert not (again.folder / "gone.json").exists()


def test_a_run_deleted_from_the_bucket_begins_anew(mirror, gcs, name):
    write(here := mirror(), "metrics.jsonl", "1\n")
    here.send()
    write(here, "never-sent.json", "{}")
    gcs.remove(name, "run/")
    again = mirror()
    again.bring()
    assert not list(again.folder.glob("[!.]*"))


def test_a_name_that_leads_out_is_refused(mirror, gcs, name):
    gcs.put(name, "run/../../etc/passwd", b"x")
    with pytest.raises(UserError, match="would be copied to another folder; delete it there"):
        mirror().bring()


def test_each_run_and_use_has_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("MT0_RUNS_DIR", str(tmp_path))
    same = mirror_folder("gs://b/team/run")
    assert same == mirror_folder("gs://b/team/run/") and same.name.startswith("run-")
    others = [mirror_folder("gs://c/team/run"), mirror_folder("gs://b/team/run", "read")]
    assert len({same, *others}) == 3 and {one.parent for one in others} == {tmp_path}


def test_a_report_reads_a_run_in_a_bucket(gcs, bucket, name, tmp_path, capsys):
    line = '{"step": 2, "split": "train", "metrics": {"loss": 1.0}}\n'
    gcs.put(name, "run/metrics.jsonl", line.encode())
    gcs.put(name, "run/checkpoints/2/state/large", b"not small")
    assert bring_files(str(tmp_path)) == str(tmp_path)
    assert cli.main(["report", f"{bucket}/run", f"--output={tmp_path}/page.html"]) == 0
    assert "run" in (tmp_path / "page.html").read_text()
    assert cli.main(["report", f"{bucket}/run"]) == 2
    assert "is in a bucket, and a report is written to local disk" in capsys.readouterr().err
    with pytest.raises(UserError, match="/other holds no files of a run"):
        bring_files(f"{bucket}/other")


@pytest.mark.parametrize("placeholder", ["run/", "run/train/"])
def test_an_empty_object_that_stands_for_a_folder_is_passed_over(mirror, gcs, name, placeholder):
    gcs.put(name, placeholder, b"")
    gcs.put(name, "run/metrics.jsonl", b"1\n")
    here = mirror()
    before = len(gcs.requests)
    here.bring()
    assert read(here, "metrics.jsonl") == "1\n" and len(gcs.requests) < before + 10


def test_what_went_up_before_another_file_was_refused_is_remembered(mirror, gcs, name):
    write(here := mirror(), "a.json", "1")
    here.send()
    write(here, "a.json", "11")
    write(here, "b.json", "2")

    def watch(line):
        if "uploadType" in line and gcs.read(name, "run/a.json") == b"11":
            gcs.fail("uploadType", 1000, 403)
            gcs.watch = lambda line: None

    gcs.watch = watch
    with pytest.raises(OSError, match="Forbidden"):
        here.send()
    assert gcs.read(name, "run/a.json") == b"11"
    write(here, "a.json", "111")  # and killed before it is sent
    again = mirror()
    again.bring()
    assert read(again, "a.json") == "111"


def test_every_spelling_of_an_address_is_one_folder(bucket, gcs, name, tmp_path):
    write(here := BucketMirror(f"{bucket}/team//./run/", tmp_path / "m"), "run.json", "{}")
    here.send()
    assert gcs.names(name) == ["team/run/run.json"]
    assert mirror_folder(f"{bucket}/team//run") == mirror_folder(f"{bucket}/team/run")
