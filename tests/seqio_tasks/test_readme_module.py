"""The README's ten-line module of one's own tasks runs as it is printed."""

import json
import re
from pathlib import Path

import pytest
import seqio

import seqio_tasks

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(r"<!-- my_tasks\.py -->\s*```python\n(.*?)```", re.DOTALL)


def _module_text() -> str:
    found = BLOCK.findall(README.read_text(encoding="utf-8")) if README.is_file() else []
    assert len(found) == 1, "README.md needs one python block after <!-- my_tasks.py -->"
    return found[0]


def test_readme_module_is_ten_lines():
    assert len([line for line in _module_text().splitlines() if line.strip()]) <= 10


def test_readme_module_registers_a_task_and_a_mixture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"inputs": f"{i} + {i}", "targets": str(2 * i)} for i in range(9)]
    (tmp_path / "my_data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "my_tasks.py"
    path.write_text(_module_text(), encoding="utf-8")
    try:
        seqio_tasks.load(str(path))
        task = seqio.TaskRegistry.get("my_task")
        assert list(task.source.python_examples("train")) == rows
        dataset = task.get_dataset({"inputs": 32, "targets": 8}, "train", shuffle=False)
        first = next(dataset.as_numpy_iterator())
        assert task.output_features["targets"].vocabulary.decode(first["targets"].tolist()) == "0"
        mixture = seqio.MixtureRegistry.get("my_mixture")
        assert "my_task" in {part.name for part in mixture.tasks}
    finally:
        for registry, name in (
            (seqio.MixtureRegistry, "my_mixture"),
            (seqio.TaskRegistry, "my_task"),
        ):
            if name in registry.names():
                registry.remove(name)


def test_without_the_block_the_test_would_fail(monkeypatch, tmp_path):
    monkeypatch.setattr(f"{__name__}.README", tmp_path / "README.md")
    with pytest.raises(AssertionError, match="my_tasks.py"):
        _module_text()
