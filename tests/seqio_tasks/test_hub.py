import builtins

import pytest
from huggingface_hub import errors

from seqio_tasks import hub


def made(kind, message="x"):
    """An error of huggingface_hub without the answer of a server that its maker wants."""
    error = kind.__new__(kind)
    error.args = (message,)
    return error


def refused(match, function, *arguments):
    with pytest.raises(ValueError, match=match) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)


def test_a_folder_at_a_commit(fake_hub):
    found = hub.list_folder("bigscience/xP3mt", "sw")
    assert found == hub.Folder(
        fake_hub.commit,
        {
            "sw/xp3_GEM_xlsum_swahili_train_tldr.jsonl": 4 * 33,
            "sw/xp3_xquad_xquad.sw_train_ask.jsonl": 3 * 33,
        },
        (),
    )
    assert hub.list_folder("bigscience/xP3mt").folders == ("sw", "yo")
    hub.list_folder("bigscience/xP3", revision="v1")
    assert ("info", "bigscience/xP3", "v1") in fake_hub.calls


def test_a_file_is_fetched_once(fake_hub):
    path = hub.download("bigscience/xP3", "sw/merged_sw.jsonl", fake_hub.commit)
    assert open(path, "rb").read().count(b"\n") == 100
    again = hub.download("bigscience/xP3", "sw/merged_sw.jsonl", fake_hub.commit)
    assert again == path == hub.cached("bigscience/xP3", "sw/merged_sw.jsonl")
    assert len([call for call in fake_hub.calls if call[0] == "download"]) == 1


def test_a_broken_download_goes_on(fake_hub, tmp_path):
    fake_hub.breaks_after = 2048
    arrived = []

    def fetch():
        return hub.download(
            "bigscience/xP3", "sw/merged_sw.jsonl", local_dir=str(tmp_path), report=arrived.append
        )

    refused("the line went dead; run it again, what has arrived is kept", fetch)
    assert arrived == [1024, 1024] and not (tmp_path / "sw" / "merged_sw.jsonl").exists()
    fake_hub.breaks_after = None
    arrived.clear()
    path = fetch()
    content = fake_hub.repositories["bigscience/xP3"]["sw/merged_sw.jsonl"]
    assert open(path, "rb").read() == content
    assert arrived[0] == 2048 and sum(arrived) == len(content)  # what was there counts as done


@pytest.mark.parametrize(
    "error, said",
    [
        (made(errors.GatedRepoError), "is gated; ask for access"),
        (made(errors.RepositoryNotFoundError), "no data set 'a/b' that you"),
        (made(errors.RevisionNotFoundError), "a/b has no revision 'v9'"),
        (made(errors.RemoteEntryNotFoundError), "holds no 'f.jsonl'"),
        (made(errors.LocalEntryNotFoundError, "no\nnet"), "cannot be reached .*: no"),
        (made(errors.HfHubHTTPError, "502 Bad\nGateway"), "answer was .*502 Bad;"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_sentence(fake_hub, error, said):
    fake_hub.raises = error
    refused(said, hub.download, "a/b", "f.jsonl", "v9")


def test_offline_and_not_there(fake_hub, monkeypatch):
    from huggingface_hub import constants

    hub.download("bigscience/xP3", "sw/merged_sw.jsonl")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fake_hub.raises = errors.OfflineModeIsEnabled("offline")
    assert hub.download("bigscience/xP3", "sw/merged_sw.jsonl")  # it is there
    refused(
        "xP3/yo/merged_yo.jsonl is not on this machine and .*HF_HUB_OFFLINE",
        hub.download, "bigscience/xP3", "yo/merged_yo.jsonl",
    )  # fmt: skip


def test_a_full_disk_is_no_answer_of_the_hub(fake_hub):
    fake_hub.raises = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        hub.download("bigscience/xP3", "sw/merged_sw.jsonl")


def test_without_the_package(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    refused("pip install huggingface_hub", hub.list_folder, "bigscience/xP3")
