"""What there is to learn: SeqIO Tasks and Mixtures. Importing the package registers nothing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

# Rooms whose `ensure(name)` registers what a name asks for. The last refuses an unknown 'eval_…'.
_BY_NAME = ("xp3_tasks", "generation", "humaneval", "evaluation")


def load(module: str | None = None, names: Iterable[str] = ()) -> ModuleType:
    """Registers the embedded mini-xP3 tasks, those of the user's module, and what names ask for.

    Args:
      module: a dotted module name, or the path of a `.py` file.
      names: tasks or mixtures; those of the xP3 family and of the paper's evaluation are
        registered by name, as each is worth a look at its files or prompts.

    Returns:
      The user's module, else `seqio_tasks.mini`. A second call registers nothing twice.

    Raises:
      ValueError: the module cannot be found, or a name of such a family stands for nothing.
    """
    import_tensorflow()
    mini = importlib.import_module("seqio_tasks.mini")
    loaded = _load_module(module) if module else mini
    names = list(names)
    if names:
        rooms = [importlib.import_module(f"seqio_tasks.{room}") for room in _BY_NAME]
        for name in names:
            for room in rooms:
                room.ensure(name)
    return loaded


def import_tensorflow() -> None:
    """Imports TensorFlow without its greeting, which heeds no log level; errors keep their words.

    Its C++ writes to file descriptor 2 itself, so that is where it is held back.
    """
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _load_module(module: str) -> ModuleType:
    if not module.endswith(".py"):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.split(".")[0] and error.name != module:
                raise
            raise ValueError(
                f"There is no module '{module}'; write a dotted name that Python can import "
                "from here, or the path of a .py file."
            ) from None
    path = Path(module).resolve()
    if not path.is_file():
        raise ValueError(f"There is no file {module}; write the path of the module.")
    # Named by its stem, as if its folder were on the path: a class must unpickle in a child.
    if path.stem in sys.modules:
        loaded = sys.modules[path.stem]
        if getattr(loaded, "__file__", None) == str(path):
            return loaded
        raise ValueError(f"A module named '{path.stem}' is loaded already; rename {module}.")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = loaded
    specification.loader.exec_module(loaded)
    return loaded
