"""gin/t5x, the files for stock T5X: read by gin's own parser, and by T5X where it is installed."""

import dataclasses
import importlib.util
import subprocess
import sys

import gin.config_parser
import pytest

from mt0_tpu import gin_config
from mt0_tpu.errors import UserError

FOLDER = gin_config.gin_folder() / "t5x"
SIZES = ["small", "base", "large", "xl", "xxl", "xxl_mt", "xxl_p3"]
FILES = {f"mt0_{size}.gin" for size in SIZES} | {
    "eval.gin", "infer.gin", "mini_mt0.gin", "mini_eval.gin", "mini_infer.gin",
}  # fmt: skip
MODEL = "t5x/examples/t5/mt5/{}.gin"
RUN = "t5x/configs/runs/{}.gin"
# T5X's own names as of April 2026: macros of its files, and parameters that ours bind.
MODEL_MACROS = {
    "Z_LOSS", "LABEL_SMOOTHING", "LOSS_NORMALIZING_FACTOR", "DROPOUT_RATE", "VOCABULARY",
    "OPTIMIZER", "MODEL",
}  # fmt: skip
RUN_MACROS = {
    "finetune": {
        "MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "MIXTURE_OR_TASK_MODULE",
        "TRAIN_STEPS", "INITIAL_CHECKPOINT_PATH", "DROPOUT_RATE", "USE_CACHED_TASKS", "BATCH_SIZE",
        "EVAL_STEPS", "EVAL_PERIOD", "EVALUATOR_USE_MEMORY_CACHE", "EVALUATOR_NUM_EXAMPLES",
        "JSON_WRITE_N_RESULTS", "USE_HARDWARE_RNG", "RANDOM_SEED", "TRAIN_STEPS_RELATIVE",
    },
    "eval": {
        "MIXTURE_OR_TASK_NAME", "CHECKPOINT_PATH", "EVAL_OUTPUT_DIR", "TASK_FEATURE_LENGTHS",
        "MIXTURE_OR_TASK_MODULE",
    },
    "infer": {
        "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "CHECKPOINT_PATH", "INFER_OUTPUT_DIR",
        "MIXTURE_OR_TASK_MODULE",
    },
}  # fmt: skip
PARAMETERS = {
    "network.T5Config": {
        "vocab_size", "dtype", "emb_dim", "num_heads", "num_encoder_layers", "num_decoder_layers",
        "head_dim", "mlp_dim",
    },
    "partitioning.PjitPartitioner": {"num_partitions"},
    "partitioning.standard_logical_axis_rules": {
        "activation_partitioning_dims", "parameter_partitioning_dims",
    },
    "utils.DatasetConfig": {"pack", "split", "mixture_or_task_name"},
    "utils.SaveCheckpointConfig": {"period"},
    "utils.CheckpointConfig": {"restore"},
    "utils.RestoreCheckpointConfig": {"dtype"},
    "utils.create_learning_rate_scheduler": {"factors", "base_learning_rate", "warmup_steps"},
    "train_script.train": {"infer_eval_dataset_cfg", "train_eval_dataset_cfg"},
    "infer_script.infer": {"checkpoint_ds_iter"},
}  # fmt: skip
# One value for each macro that T5X's files leave to the user, and the job of each run file.
GIVEN = {
    "MODEL_DIR": "'runs/x'",
    "CHECKPOINT_PATH": "'runs/y/checkpoint_1'",
    "EVAL_OUTPUT_DIR": "'runs/x'",
    "INFER_OUTPUT_DIR": "'runs/x'",
    "MIXTURE_OR_TASK_NAME": "'mini_english'",
}


@dataclasses.dataclass
class Parsed:
    """What a gin file says, unresolved."""

    imports: dict[str, str]
    includes: list[str]
    macros: dict[str, object]
    bindings: dict[str, object]


class _Delegate(gin.config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name, evaluate):
        return f"@{scoped_configurable_name}" + ("()" if evaluate else "")

    def macro(self, macro_name):
        return f"%{macro_name}"


def read(name):
    """Parses a file of gin/t5x as gin does, importing and including nothing."""
    parsed = Parsed({}, [], {}, {})
    text = (FOLDER / name).read_text(encoding="utf-8")
    for statement in gin.config_parser.ConfigParser(text, _Delegate()):
        kind = type(statement).__name__
        if kind == "ImportStatement":
            known_as = statement.alias or statement.module.rsplit(".", 1)[-1]
            parsed.imports[known_as] = statement.module
        elif kind == "IncludeStatement":
            parsed.includes.append(statement.filename)
        elif statement.arg_name:
            scope = f"{statement.scope}/" if statement.scope else ""
            parsed.bindings[f"{scope}{statement.selector}.{statement.arg_name}"] = statement.value
        else:
            assert statement.selector not in parsed.macros, "bound twice"
            parsed.macros[statement.selector] = statement.value
    return parsed


def job(name):
    return next(word for word in ("eval", "infer", "finetune") if word in f"{name} finetune")


def recipe(name):
    flags = [f"--gin_file=recipes/{name}", "--gin.MODEL_DIR='runs/x'"]
    return gin_config.parse(flags, "train").arguments


def test_there_are_all_of_them():
    assert {path.name for path in FOLDER.iterdir()} == FILES


@pytest.mark.parametrize("name", sorted(FILES))
def test_names_are_t5xs(name):
    parsed = read(name)
    models = [f for f in parsed.includes if "/examples/" in f]
    known = [MODEL.format(size) for size in ("small", "base", "large", "xl", "xxl")]
    assert set(models) <= set(known) and parsed.includes[-1] == RUN.format(job(name))
    assert parsed.includes[:-1] == models
    assert set(parsed.macros) <= MODEL_MACROS | RUN_MACROS[job(name)]
    assert parsed.imports.pop("dynamic_registration") == "__gin__.dynamic_registration"
    used = set()
    for binding in parsed.bindings:
        selector, parameter = binding.rsplit("/", 1)[-1].rsplit(".", 1)
        assert parameter in PARAMETERS[selector], binding
        used.add(selector.split(".")[0])
    used.add(parsed.macros["VOCABULARY"][1:].split(".")[0])
    assert set(parsed.imports) == used
    scripts = {f"{job(name)}_script".replace("finetune", "train"): "__main__"}
    places = {
        "vocabularies": "seqio_tasks.vocabularies",
        "network": "t5x.examples.t5.network",
        "partitioning": "t5x.partitioning",
        "utils": "t5x.utils",
        **scripts,
    }
    assert all(places[known_as] == module for known_as, module in parsed.imports.items())


@pytest.mark.parametrize("name", sorted(FILES))
def test_vocabulary_and_module_exist(name):
    from seqio_tasks import vocabularies

    macros = read(name).macros
    assert importlib.util.find_spec(macros["MIXTURE_OR_TASK_MODULE"])
    function = macros["VOCABULARY"].removeprefix("@vocabularies.").removesuffix("()")
    assert function == ("mini" if name.startswith("mini") else "mt5")
    assert callable(getattr(vocabularies, function))


@pytest.mark.parametrize("size", SIZES)
def test_numbers_are_the_recipes(size):
    parsed, ours = read(f"mt0_{size}.gin"), recipe(f"mt0_{size}.gin")
    macros, data = parsed.macros, ours["train_dataset"]
    assert parsed.includes[0] == MODEL.format(size.split("_")[0])
    assert {
        "MIXTURE_OR_TASK_NAME": data.mixture_or_task_name,
        "INITIAL_CHECKPOINT_PATH": ours["initial_checkpoint_path"],
        "TRAIN_STEPS": ours["total_steps"],
        "TASK_FEATURE_LENGTHS": data.task_feature_lengths,
        "BATCH_SIZE": data.batch_size,
        "LOSS_NORMALIZING_FACTOR": ours["loss"].loss_normalizing_factor,
    }.items() <= macros.items()
    bindings = parsed.bindings
    assert bindings["train/utils.DatasetConfig.pack"] is data.pack is False
    assert bindings["train_eval/utils.DatasetConfig.pack"] is ours["train_eval_dataset"].pack
    assert bindings["utils.SaveCheckpointConfig.period"] == ours["checkpoint"].save_every_steps
    # Not bound here, since T5X's finetune.gin says the same.
    assert ours["model"].dropout_rate == 0.1 and ours["eval_period"] == 1000
    assert float(ours["learning_rate"](0)) == pytest.approx(0.001)
    cut = bindings.get("partitioning.PjitPartitioner.num_partitions")
    assert cut == ours["mesh"].num_partitions
    assert "UNVERIFIED" in (FOLDER / f"mt0_{size}.gin").read_text()


def test_mini_is_the_mini_recipe():
    parsed, ours = read("mini_mt0.gin"), recipe("mini_mt0.gin")
    data = ours["train_dataset"]
    assert {
        "MIXTURE_OR_TASK_NAME": data.mixture_or_task_name,
        "TASK_FEATURE_LENGTHS": data.task_feature_lengths,
        "BATCH_SIZE": data.batch_size,
        "LOSS_NORMALIZING_FACTOR": ours["loss"].loss_normalizing_factor,
        "DROPOUT_RATE": ours["model"].dropout_rate,
        "EVAL_PERIOD": ours["eval_period"],
        "EVAL_STEPS": ours["eval_steps"],
        "TRAIN_STEPS": ours["total_steps"],
    }.items() <= parsed.macros.items()
    for name in ("mini_mt0.gin", "mini_eval.gin", "mini_infer.gin"):
        bindings = read(name).bindings
        for field in PARAMETERS["network.T5Config"]:
            assert bindings[f"network.T5Config.{field}"] == getattr(ours["model"], field)
    rate = [float(ours["learning_rate"](step)) for step in (0, 1600)]
    schedule = "utils.create_learning_rate_scheduler."
    base, warmup = (parsed.bindings[schedule + f] for f in ("base_learning_rate", "warmup_steps"))
    assert parsed.bindings[schedule + "factors"] == "constant * rsqrt_decay"
    assert rate == pytest.approx([base / warmup**0.5, base / 1600**0.5])


def test_mt0_says_that_they_are_not_for_it():
    with pytest.raises(
        UserError, match="line 15: this is a file for stock T5X .* recipes/ or runs"
    ):
        gin_config.parse(["--gin_file=t5x/mt0_small.gin", "--gin.MODEL_DIR='x'"], "train")


def test_each_has_a_namesake_for_mt0():
    ours = {p.name for folder in ("recipes", "runs") for p in (FOLDER.parent / folder).iterdir()}
    assert ours >= FILES


_PARSE = """
import os, sys
from t5x import {script} as script, gin_utils
from t5x.{script} import {function}
import gin
root = os.path.dirname(os.path.dirname(os.path.abspath(script.__file__)))
gin_utils.parse_gin_flags([{folder!r}, root], {files!r}, {bindings!r})
print(gin.query_parameter('%TASK_FEATURE_LENGTHS'))
"""


@pytest.mark.parametrize("name", sorted(FILES))
def test_t5x_itself_takes_them(name):
    if importlib.util.find_spec("t5x") is None:
        pytest.skip("T5X is not installed: pip install mt0_tpu[t5x], see docs/t5x.md")
    parsed = read(name)
    script = {"finetune": "train"}.get(job(name), job(name))
    files = [name]
    if not any("/examples/" in file for file in parsed.includes):
        files.insert(0, MODEL.format("small"))
    wanted = {"train": ["MODEL_DIR"], "eval": ["CHECKPOINT_PATH", "EVAL_OUTPUT_DIR"]}
    wanted["infer"] = ["CHECKPOINT_PATH", "INFER_OUTPUT_DIR"]
    asked = wanted[script] + ["MIXTURE_OR_TASK_NAME"] * (files[0] != name)
    code = _PARSE.format(
        script=script,
        function={"eval": "evaluate"}.get(script, script),
        folder=str(FOLDER),
        files=files,
        bindings=[f"{macro} = {GIVEN[macro]}" for macro in asked],
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lengths = parsed.macros.get("TASK_FEATURE_LENGTHS")  # T5X's own files come first, ours last
    assert done.stdout.strip().splitlines()[-1] == str(lengths)
