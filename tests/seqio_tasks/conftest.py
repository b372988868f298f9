"""Tiny folders in the six released layouts, and a registry that forgets them again."""

import json
import zipfile
from pathlib import Path

import pytest

XP3_CODES = (
    "ak ar as bm bn ca code en es eu fon fr gu hi id ig ki kn lg ln ml mr ne nso ny or pa pt rn rw "
    "sn st sw ta te tn ts tum tw ur vi wo xh yo zh zu"
).split()


def write_lines(path: Path, pairs) -> Path:
    """One {"inputs", "targets"} a line; pairs is a list, or how many to make up."""
    if isinstance(pairs, int):
        pairs = [(f"{path.parent.name} question {i}", f"answer {i}") for i in range(pairs)]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"inputs": a, "targets": b}, ensure_ascii=False) for a, b in pairs]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def family(tmp_path, monkeypatch):
    """An empty MT0_DATA_DIR; whatever a test registers is forgotten after it."""
    import seqio

    # mini is imported here so that its tasks are in the registry that comes back.
    from seqio_tasks import mini, task_facts, vocabularies, xp3_rates, xp3_tasks  # noqa: F401

    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("MT0_DATA_DIR", str(folder))
    monkeypatch.setenv("MT0_LISTINGS_DIR", str(tmp_path / "listings"))
    monkeypatch.setenv("MT0_VOCABULARY", str(vocabularies.MINI_PATH))
    for name in ("MT0_INPUTS_EOS", "MT0_HUB_REVISIONS", "MT0_REFRESH_LISTINGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(xp3_tasks, "_own", {})
    monkeypatch.setattr(xp3_tasks, "_added", {})
    monkeypatch.setattr(xp3_rates, "_estimates", {})
    monkeypatch.setattr(task_facts, "_registered", {})
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
        kept = {n: p for n, p in registry._REGISTRY.items() if not n.startswith(("xp3", "p3"))}
        monkeypatch.setattr(registry, "_REGISTRY", kept)
    return folder


@pytest.fixture
def xp3_folder(family):
    """xP3 with three of its languages, a file a language."""
    for code, count in (("sw", 6), ("yo", 3), ("code", 4)):
        write_lines(family / "xP3" / code / f"merged_{code}.jsonl", count)
    return family / "xP3"


@pytest.fixture
def xp3mt_folder(family):
    """xP3mt with all its language folders, of which Swahili and Yoruba have several prompts."""
    root = family / "xp3mt"
    for code in XP3_CODES:
        write_lines(root / code / "xp3_xquad_xquad.en_train_ask.jsonl", 1)
    sw = root / "sw"
    (sw / "xp3_xquad_xquad.en_train_ask.jsonl").unlink()
    write_lines(sw / "xp3_GEM_xlsum_swahili_train_tldr_swmt.jsonl", 5)
    write_lines(sw / "xp3_GEM_xlsum_swahili_validation_tldr_swmt.jsonl", 2)
    for pair in ("eng_Latn-swh_Latn", "yor_Latn-swh_Latn"):
        for split in ("dev", "devtest"):
            write_lines(sw / f"xp3_facebook_flores_{pair}_{split}_in-{pair}.jsonl", 2)
    write_lines(root / "yo" / "xp3_GEM_xlsum_yoruba_train_tldr_yomt.jsonl", 3)
    return root


@pytest.fixture
def xp3x_folder(family):
    """xP3x: seven fields, language and script, '-' written as '_'."""
    root = family / "xP3x" / "data"
    lines = [
        {
            "inputs": f"i{n}", "targets": f"t{n}", "language": "yor_Latn", "split": "devtest",
            "template": "command-x-x", "dataset": "Muennighoff/flores200", "config": "eng-yor",
        }
        for n in range(3)
    ]  # fmt: skip
    for language in ("yor_Latn", "jupyter-notebook"):
        folder = root / language
        folder.mkdir(parents=True)
        name = "xp3_Muennighoff_flores200_eng_Latn_yor_Latn_devtest_command_x_x.jsonl"
        if language != "yor_Latn":
            name = "xp3_codeparrot_apps_all_train_qsolve.jsonl"
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (family / "xP3x" / "paths.json").write_text("{}")
    return root


@pytest.fixture
def p3_folder(family):
    """P3: an archive to train on, a file to validate on."""
    root = family / "P3"
    line = json.dumps({"inputs": "Is it?", "targets": "Yes"}) + "\n"
    root.mkdir()
    with zipfile.ZipFile(root / "p31t0_train.zip", "w") as archive:
        archive.writestr("p31t0/p31t0_train.jsonl", line * 3)
        archive.writestr("p31t0/README.md", "nothing to train on")
    (root / "p31t0_validation.jsonl").write_text(line * 2)
    return root


@pytest.fixture
def xp3megds_folder(family):
    """xP3megds: the .bin/.idx pairs of one language, at the root."""
    import numpy as np

    root = family / "xp3megds"
    root.mkdir()
    for side, rows in (("inputs", [[5, 6], [7]]), ("targets", [[8, 2], [9, 2]])):
        flat = np.asarray([token for row in rows for token in row], "<i4")
        (root / f"xp3_en_{side}_document.bin").write_bytes(flat.tobytes())
        sizes = np.asarray([len(row) for row in rows], "<i4")
        pointers = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype("<i8") * 4
        head = b"MMIDIDX\x00\x00" + np.asarray([1], "<u8").tobytes() + b"\x04"
        counts = np.asarray([len(rows), len(rows) + 1], "<u8").tobytes()
        documents = np.arange(len(rows) + 1, dtype="<i8").tobytes()
        (root / f"xp3_en_{side}_document.idx").write_bytes(
            head + counts + sizes.tobytes() + pointers.tobytes() + documents
        )
    return root


class FakeHub:
    """huggingface_hub as far as seqio_tasks.hub uses it, over a dict of files; counts calls.

    Attributes:
      repositories: repository -> {path: bytes}.
      calls: what was asked of the network.
      raises: an exception that every call over the network raises.
      breaks_after: a download breaks off after this many bytes.
    """

    commit = "c0ffee" + 34 * "0"

    def __init__(self, cache: Path):
        self.cache = cache
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.calls: list[tuple] = []
        self.raises: Exception | None = None
        self.breaks_after: int | None = None

    def HfApi(self):
        return self

    def dataset_info(self, repository, revision=None):
        self._network("info", repository, revision)
        return type("Info", (), {"sha": self.commit})

    def list_repo_tree(self, repository, path_in_repo=None, revision=None, repo_type=None):
        assert repo_type == "dataset" and revision == self.commit
        self._network("tree", repository, path_in_repo)
        start = f"{path_in_repo}/" if path_in_repo else ""
        folders = set()
        for path, content in self.repositories[repository].items():
            inside = path.removeprefix(start)
            if path.startswith(start) and "/" not in inside:
                yield type("RepoFile", (), {"path": path, "size": len(content)})
            elif path.startswith(start):
                folders.add(start + inside.partition("/")[0])
        yield from (type("RepoFolder", (), {"path": folder}) for folder in sorted(folders))

    def try_to_load_from_cache(self, repository, path, revision=None, repo_type=None):
        found = self.cache / repository / path
        return str(found) if found.is_file() else None

    def hf_hub_download(self, repository, path, *, repo_type, revision, local_dir, tqdm_class):
        assert repo_type == "dataset"
        self._network("download", path, revision)
        content = self.repositories[repository][path]
        target = Path(local_dir or self.cache / repository) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        half = target.with_name(target.name + ".incomplete")
        have = half.stat().st_size if half.exists() else 0
        with (
            tqdm_class(total=len(content), initial=have, desc=path) as bar,
            half.open("ab") as file,
        ):
            for at in range(have, len(content), 1024):
                if self.breaks_after is not None and at >= self.breaks_after:
                    raise ConnectionError("the line went dead")
                file.write(content[at : at + 1024])
                bar.update(len(content[at : at + 1024]))
        half.rename(target)
        return str(target)

    def _network(self, *call):
        if self.raises:
            raise self.raises
        self.calls.append(call)


@pytest.fixture
def fake_hub(tmp_path, monkeypatch, family):
    """The Hub, with a little xP3, xP3mt and P3 in it, and no network behind it."""
    from seqio_tasks import hub

    def lines(number):
        return b"".join(b'{"inputs": "q%d", "targets": "a"}\n' % n for n in range(number))

    fake = FakeHub(tmp_path / "hf")
    fake.repositories = {
        "bigscience/xP3": {
            "README.md": b"card", "xP3.py": b"raise SystemExit('a loader script was run')",
            **{f"{code}/merged_{code}.jsonl": lines(100) for code in XP3_CODES},
        },
        "bigscience/xP3mt": {
            "sw/xp3_xquad_xquad.sw_train_ask.jsonl": lines(3),
            "sw/xp3_GEM_xlsum_swahili_train_tldr.jsonl": lines(4),
            "yo/xp3_GEM_xlsum_yoruba_train_tldr.jsonl": lines(5),
        },
        "Muennighoff/P3": {"p31t0_train.zip": b"PK", "p31t0_validation.jsonl": lines(2)},
    }  # fmt: skip
    monkeypatch.setattr(hub, "_huggingface_hub", lambda: fake)
    return fake
