"""What no file of ours does (docs/security.md), read off the syntax trees."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("mt0_tpu", "seqio_tasks", "benchmarks", "launch")
# Modules that turn bytes into objects by running what the bytes say.
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
# Calls by their last names, whatever they are called on.
NEVER = {
    "full_load": "YAML that makes objects", "unsafe_load": "YAML that makes objects",
    "full_load_all": "YAML that makes objects", "unsafe_load_all": "YAML that makes objects",
    "extractall": "an archive that may write anywhere", "mktemp": "a name others can take first",
    "_create_unverified_context": "an address that is not checked",
    "getoutput": "a shell", "getstatusoutput": "a shell", "popen": "a shell",
}  # fmt: skip
DOTTED = {
    "os.system": "a shell", "torch.load": "a pickle", "pd.read_pickle": "a pickle",
    "np.lib.format.read_array": "an array that may be a pickle",
}  # fmt: skip
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Each with what makes it safe; a test of its own holds that.
ALLOWED = {
    # An Unpickler that knows tensors and refuses every other name (tests/formats/test_bad_input).
    ("mt0_tpu/formats/torch_pickle.py", "import pickle"),
    # Runs in a process behind seccomp, Landlock and limits (test_code_execution.py).
    ("seqio_tasks/code_isolation.py", "exec"),
    ("seqio_tasks/code_isolation.py", "compile"),
}


def name_of(node: ast.AST) -> str:
    """'os.path.join' of the function of a call; '….join' of what has no name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return "…"


def keyword(call: ast.Call, name: str):
    """The node of a keyword argument, or None."""
    return next((one.value for one in call.keywords if one.arg == name), None)


def is_false(node) -> bool:
    return isinstance(node, ast.Constant) and node.value in (False, None)


def offences(source: str) -> list[str]:
    """What a file does that it must not, in words that ALLOWED can name."""
    tree = ast.parse(source)
    safe_loaders = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any("SafeLoader" in ast.unparse(base) for base in node.bases)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                whole = [f"{node.module}.{name}" for name in names]
                found += [f"import {w}" for w in whole if w in ("jinja2.Environment",
                          "jinja2.Template", "jinja2.environment.Environment")]  # fmt: skip
                names = [node.module or ""]
            found += [f"import {name}" for name in names if name.split(".")[0] in PICKLES]
        if not isinstance(node, ast.Call):
            continue
        called = name_of(node.func)
        last = called.rpartition(".")[2]
        if called in BUILTINS:
            found.append(called)
        if called in DOTTED or last in NEVER:
            found.append(called)
        if last in ("load", "load_all") and called.startswith("yaml."):
            loader = keyword(node, "Loader")
            chosen = name_of(loader) if loader is not None else ""
            if chosen not in safe_loaders and not chosen.endswith("SafeLoader"):
                found.append(called)
        if called in ("jinja2.Environment", "jinja2.Template", "jinja2.environment.Environment"):
            found.append(called)
        for name in ("allow_pickle", "shell", "trust_remote_code"):
            value = keyword(node, name)
            if value is not None and not is_false(value):
                found.append(f"{called} {name}")
        verify = keyword(node, "verify")
        if isinstance(verify, ast.Constant) and verify.value is False:
            found.append(f"{called} verify")
    return found


SOURCES = [
    path.relative_to(REPOSITORY).as_posix()
    for folder in FOLDERS
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", SOURCES)
def test_no_file_runs_what_others_wrote(path):
    found = offences((REPOSITORY / path).read_text(encoding="utf-8"))
    assert [one for one in found if (path, one) not in ALLOWED] == []


def test_every_exception_is_still_needed():
    found = {
        (path, one)
        for path in {path for path, _ in ALLOWED}
        for one in offences((REPOSITORY / path).read_text(encoding="utf-8"))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "source, offence",
    [
        ("import pickle", "import pickle"),
        ("from joblib import load", "import joblib"),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", "np.load allow_pickle"),
        ("np.load(f, allow_pickle=flag)", "np.load allow_pickle"),
        ("torch.load(f)", "torch.load"),
        ("yaml.load(text)", "yaml.load"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("class L(yaml.FullLoader): pass\nyaml.load(text, Loader=L)", "yaml.load"),
        ("yaml.unsafe_load(text)", "yaml.unsafe_load"),
        ("jinja2.Template(text).render()", "jinja2.Template"),
        ("from jinja2 import Environment", "import jinja2.Environment"),
        ("eval(text)", "eval"),
        ("subprocess.run(text, shell=True)", "subprocess.run shell"),
        ("os.system(text)", "os.system"),
        ("archive.extractall(folder)", "archive.extractall"),
        ("load_dataset(name, trust_remote_code=True)", "load_dataset trust_remote_code"),
        ("requests.get(url, verify=False)", "requests.get verify"),
    ],
)
def test_the_scan_sees_each_kind(source, offence):
    assert offences(source) == [offence]


@pytest.mark.parametrize(
    "source",
    [
        "np.load(f)", "np.load(f, allow_pickle=False)", "yaml.safe_load(text)",
        "class L(yaml.SafeLoader): pass\nyaml.load(text, Loader=L)", "ast.literal_eval(text)",
        "yaml.load(text, Loader=yaml.CSafeLoader)", "re.compile(text)", "jsonload(text)",
        "subprocess.run([a, b])",
    ],
)  # fmt: skip
def test_the_scan_lets_the_safe_ways_pass(source):
    assert offences(source) == []
