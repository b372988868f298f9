"""Who may import whom (DESIGN, section 2), read off the syntax trees and off sys.modules."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS_MAY = {"jax", "jaxlib", "flax", "numpy", "mt0_tpu.models"}
# SeqIO, and TensorFlow with it, only where tasks are run.
SEQIO_MAY = {
    "mt0_tpu/building/build.py",
    "mt0_tpu/building/build_job.py",
    "mt0_tpu/building/build_plan.py",
    "mt0_tpu/building/build_table.py",
    "mt0_tpu/building/prompt_commands.py",
    "mt0_tpu/data/providers.py",
    "mt0_tpu/data/task_definition.py",
    "mt0_tpu/data/tokenizing.py",
    "mt0_tpu/eval_tasks.py",
    "mt0_tpu/formats/mesh_tf.py",
    # Names and tables alone.
    "mt0_tpu/formats/run_record.py",
    "mt0_tpu/tasks/fetch.py",
    "mt0_tpu/tasks/evaluation_names.py",
    "mt0_tpu/text_vocabulary.py",
    "mt0_tpu/rank_tasks.py",
    "mt0_tpu/tasks/task_check.py",
    "mt0_tpu/tasks/task_examples.py",
    "mt0_tpu/tasks/task_listing.py",
    "mt0_tpu/tasks/task_texts.py",
    "mt0_tpu/text_tasks.py",
}
GIN_MAY = {"mt0_tpu/gin_config.py", "mt0_tpu/cli.py"}
HEAVY = {"seqio", "tensorflow", "tensorflow_datasets", "tensorflow_text", "t5"}


def sources(folder):
    return sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / folder).rglob("*.py"))


def imports(path, top_level_only=False):
    """Dotted names a file imports, `from a import b` giving both a and a.b."""
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
    if top_level_only:
        # A function's body runs later; everything else of a module runs at import.
        nodes, waiting = [], [tree]
        while waiting:
            node = waiting.pop()
            nodes.append(node)
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                waiting += list(ast.iter_child_nodes(node))
    else:
        nodes = list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def tops(names):
    return {name.split(".")[0] for name in names}


def under(name, packages):
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("path", sources("seqio_tasks"), ids=str)
def test_tasks_know_nothing_of_the_trainer(path):
    assert "mt0_tpu" not in tops(imports(path))


@pytest.mark.parametrize("path", sources("mt0_tpu/models"), ids=str)
def test_models_import_jax_flax_and_themselves(path):
    foreign = {
        name
        for name in imports(path)
        if not under(name, MODELS_MAY) and name.split(".")[0] not in sys.stdlib_module_names
    }
    # `from mt0_tpu import models` names the package on the way.
    assert foreign - {"mt0_tpu"} == set()


@pytest.mark.parametrize("name", ["losses", "optimizers", "schedules", "partitioning"])
def test_numerics_know_no_data(name):
    found = imports(f"mt0_tpu/{name}.py")
    assert not any(under(n, {"mt0_tpu.data", "seqio_tasks"}) for n in found)


@pytest.mark.parametrize("path", sources("mt0_tpu"), ids=str)
def test_gin_and_seqio_stay_in_their_rooms(path):
    found = tops(imports(path))
    if path.as_posix() not in GIN_MAY:
        assert "gin" not in found
    if path.as_posix() not in SEQIO_MAY:
        assert not found & (HEAVY | {"seqio_tasks"})


@pytest.mark.parametrize("path", sources("mt0_tpu"), ids=str)
def test_seqio_is_imported_inside_functions(path):
    assert not tops(imports(path, top_level_only=True)) & (HEAVY | {"seqio_tasks"})


def modules_after(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sorted(sys.modules))"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_the_training_loop_needs_no_tensorflow():
    loaded = modules_after("import mt0_tpu.train, mt0_tpu.data.batches, mt0_tpu.checkpoints")
    assert "jax" in loaded
    assert not loaded & (HEAVY | {"gin", "seqio_tasks"})


def test_formats_and_the_config_need_no_tensorflow():
    modules = [
        ".".join(path.with_suffix("").parts)
        for path in sources("mt0_tpu")
        if path.parts[1] == "formats" or path.name in ("plan.py", "gin_config.py", "report.py")
    ]
    modules = [name.removesuffix(".__init__") for name in modules]
    assert not modules_after(f"import {', '.join(modules)}") & HEAVY


def test_importing_the_task_package_registers_nothing():
    assert not modules_after("import seqio_tasks") & HEAVY


def test_launching_needs_no_libraries():
    # A laptop's Python runs it, and launch/'s scripts ask it for the facts of a TPU type.
    loaded = modules_after("import mt0_tpu.launch, mt0_tpu.tpu_types")
    assert not loaded & (HEAVY | {"jax", "numpy", "gin", "yaml"})
