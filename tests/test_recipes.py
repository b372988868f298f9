"""Every gin file that ships resolves to a run whose pieces can be made, without a device."""

import csv
import dataclasses
import re

import jax
import numpy as np
import pytest

from mt0_tpu import gin_config

GIN = gin_config.gin_folder()
SIZES = {
    "mt5": ("tiny", "mini", "small", "base", "large", "xl", "xxl"),
    "bloom": ("mini", "560m", "1b1", "1b7", "3b", "7b1", "176b"),
}
MODELS = [f"{family}/{size}" for family, sizes in SIZES.items() for size in sizes]
BLOOMZ = ["560m", "1b1", "1b7", "3b", "7b1", "7b1_mt", "7b1_p3", "176b", "176b_mt", "176b_p3"]
PUBLISHED = ["small", "base", "large", "xl", "xxl", "xxl_mt", "xxl_p3"]
RECIPES = sorted(path.name for path in (GIN / "recipes").glob("*.gin"))
TRAINING_RECIPES = [name for name in RECIPES if name not in ("mini_eval.gin", "mini_infer.gin")]
JOB_OF_RUN = {
    "pretrain": "train", "finetune": "train", "eval": "eval", "mt0_eval": "eval", "infer": "infer",
}  # fmt: skip
# One value for every macro that the run files leave to the user.
GIVEN = {
    "MODEL_DIR": "'runs/x'",
    "MIXTURE_OR_TASK_NAME": "'mini_multilingual'",
    "TASK_FEATURE_LENGTHS": "{'inputs': 64, 'targets': 32}",
    "TRAIN_STEPS": "10",
    "INITIAL_CHECKPOINT_PATH": "'runs/y'",
    "CHECKPOINT_PATH": "'runs/y'",
    "EVAL_OUTPUT_DIR": "'runs/x/eval'",
    "INFER_OUTPUT_DIR": "'runs/x/infer'",
    "INPUTS_PATH": "'questions.jsonl'",
    "VOCABULARY": "'spiece.model'",
}


def given(path):
    """Flags for the macros that a file asks for."""
    asked = re.findall(r"^(\w+) = %gin\.REQUIRED", path.read_text(), re.M)
    return [f"--gin.{name}={GIVEN[name]}" for name in asked]


def resolve(size, run, *flags):
    """A size of mT5, or 'bloom/…'."""
    model = size if "/" in size else f"mt5/{size}"
    files = [f"--gin_file=models/{model}.gin", f"--gin_file=runs/{run}.gin"]
    return gin_config.parse([*files, *given(GIN / f"runs/{run}.gin"), *flags], JOB_OF_RUN[run])


def recipe(name):
    return gin_config.parse([f"--gin_file=recipes/{name}", "--gin.MODEL_DIR='runs/x'"], "train")


def parameter_count(config):
    from mt0_tpu.models.networks import parameter_count

    return parameter_count(config)


def test_every_gin_file_is_covered():
    models = {f"{path.parent.name}/{path.stem}" for path in (GIN / "models").rglob("*.gin")}
    runs = {path.stem for path in (GIN / "runs").glob("*.gin")}
    assert (models, runs) == (set(MODELS), set(JOB_OF_RUN))
    # The last two: test_t5x_gin.py, planning/test_hardware_files.py.
    covered = {"models/mt5", "models/bloom", "runs", "recipes", "t5x", "hardware"}
    folders = {path.parent.relative_to(GIN).as_posix() for path in GIN.rglob("*.gin")}
    assert {"hardware" if f.startswith("hardware/") else f for f in folders} == covered


def test_no_code_in_the_gin_folder():
    # A gin/__init__.py would hide the gin-config package from everyone.
    assert [path for path in GIN.rglob("*.py")] == []


@pytest.mark.parametrize("run", JOB_OF_RUN)
@pytest.mark.parametrize("size", ["tiny", "xxl"])
def test_runs_resolve(run, size):
    resolved = resolve(size, run)
    assert resolved.arguments["model"].vocab_size == 250112
    assert "network.T5Config.emb_dim" in resolved.text


@pytest.mark.parametrize("size", ["small", "base", "large", "xl", "xxl"])
def test_sizes_have_the_published_number_of_parameters(size, shared):
    with open(shared / "facts/xp3/mt5_sizes.tsv", encoding="utf-8") as table:
        rows = {row["size"]: row for row in csv.DictReader(table, delimiter="\t")}
    published = int(rows[size]["params_exact(computed)"])
    assert parameter_count(resolve(size, "finetune").arguments["model"]) == published


@pytest.mark.parametrize("size", SIZES["bloom"][1:])
def test_sizes_of_bloom_have_the_published_number_of_parameters(size, shared):
    with open(shared / "facts/xp3/bloom_sizes.tsv", encoding="utf-8") as table:
        rows = {row["model"]: row for row in csv.DictReader(table, delimiter="\t")}
    published = int(rows[size]["params_exact(tied)"])
    assert parameter_count(resolve(f"bloom/{size}", "finetune").arguments["model"]) == published


@pytest.mark.parametrize("model", MODELS)
def test_the_head_of_a_model_file_gives_its_number_of_parameters(model):
    count = parameter_count(resolve(model, "finetune").arguments["model"])
    assert f"{count:,} parameters" in (GIN / f"models/{model}.gin").read_text()


@pytest.mark.parametrize("job", ["eval", "infer"])
def test_mini_recipes_score_and_ask_the_network_they_train(job):
    name = f"mini_{job}.gin"
    asked = {**GIVEN, "CHECKPOINT_PATH": "'runs/mini_mt0'", "INPUTS_PATH": "'questions.jsonl'"}
    wanted = ["CHECKPOINT_PATH"] + (["INPUTS_PATH"] if job == "infer" else [])
    flags = [f"--gin.{macro}={asked[macro]}" for macro in wanted]
    arguments = gin_config.parse([f"--gin_file=recipes/{name}", *flags], job).arguments
    trained = recipe("mini_mt0.gin").arguments["model"]
    # Dropout is the run's, not the network's.
    assert dataclasses.replace(arguments["model"], dropout_rate=0.0) == trained


@pytest.mark.parametrize("name", TRAINING_RECIPES)
def test_recipes_can_be_made(name):
    from mt0_tpu.data import batches
    from mt0_tpu.models.networks import network
    from mt0_tpu.train_state import abstract_state

    arguments = recipe(name).arguments
    size = re.search(r"include 'models/(\w+/\w+)\.gin'", (GIN / "recipes" / name).read_text())[1]
    assert arguments["model"].emb_dim == resolve(size, "finetune").arguments["model"].emb_dim
    shapes, _ = abstract_state(network(arguments["model"]), arguments["optimizer"])
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    assert count == parameter_count(arguments["model"])
    dataset = arguments["train_dataset"].for_model(arguments["model"].decoder_only)
    batch = batches.abstract_batch(dataset)
    rows = arguments["train_dataset"].batch_size
    assert {leaf.shape[0] for leaf in batch.values()} == {rows}
    mesh = arguments["mesh"]
    # Rows of a microbatch are dealt to the devices that hold different rows.
    per_microbatch = rows // (arguments["num_microbatches"] or 1)
    assert per_microbatch % (mesh.replica * mesh.fsdp) == 0
    float(arguments["learning_rate"](0))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_command_hardware_time_and_score(name):
    head = (GIN / "recipes" / name).read_text().split("\n\n")[0]
    for word in ("Command:", "Hardware:", "Time:", "Score:"):
        assert word in head
    assert f"--gin_file=recipes/{name}" in head


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_recipe(size):
    arguments = recipe(f"mt0_{size}.gin").arguments
    dataset = arguments["train_dataset"]
    assert dataset.task_feature_lengths == {"inputs": 1024, "targets": 1024}
    assert (dataset.batch_size, dataset.pack) == (512, False)
    assert arguments["loss"].loss_normalizing_factor == "AVERAGE_PER_SEQUENCE"
    assert arguments["total_steps"] == 1_030_000
    assert arguments["model"].dropout_rate == 0.1
    assert arguments["initial_checkpoint_path"].endswith("checkpoint_1000000")
    assert arguments["restore_optimizer_state"] is True
    learning_rate = arguments["learning_rate"]
    assert (learning_rate.factors, learning_rate.base_learning_rate) == ("constant", 1e-3)
    mixture = {"xxl_mt": "xp3mt", "xxl_p3": "p3"}.get(size, "xp3")
    assert dataset.mixture_or_task_name == mixture


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_packed_recipe_sees_as_many_tokens(size):
    dataset = recipe(f"packed_mt0_{size}.gin").arguments["train_dataset"]
    assert dataset.pack
    # A row holds between its inputs alone and both sides full; 184,743 a step lies between.
    lengths = dataset.task_feature_lengths
    fewest = dataset.batch_size * lengths["inputs"]
    most = dataset.batch_size * (lengths["inputs"] + lengths["targets"])
    assert fewest < 184_743 < most


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_t0_style_recipe(size):
    arguments = recipe(f"t0_style_mt0_{size}.gin").arguments
    dataset = arguments["train_dataset"]
    assert (dataset.batch_size, arguments["num_microbatches"]) == (1024, 16)
    assert dataset.pack and arguments["model"].dropout_rate == 0.0
    assert arguments["loss"].loss_normalizing_factor == 234496


@pytest.mark.parametrize("name", BLOOMZ)
def test_the_published_recipe_of_bloomz(name):
    from mt0_tpu.optimizers import AdamW

    size, _, variant = name.partition("_")
    arguments = recipe(f"bloomz_{name}.gin").arguments
    wanted = AdamW(0.9, 0.95, 1e-8, 1e-4, global_norm_clip=1.0, weight_decay_on="matrices")
    assert arguments["optimizer"] == wanted
    assert arguments["restore_optimizer_state"] is False
    rate = arguments["learning_rate"]
    assert {float(rate(step)) for step in (0, 100, 3000)} == {float(np.float32(2e-5))}
    dataset = arguments["train_dataset"].for_model(arguments["model"].decoder_only)
    assert (dataset.decoder_length, dataset.overlong, dataset.pack) == (2048, "drop", True)
    # 6,348,800 rows, 13.0B tokens.
    assert dataset.batch_size * arguments["total_steps"] == 6_348_800
    assert dataset.batch_size == (1024 if size in ("560m", "1b1") else 2048)
    loss = arguments["loss"]
    alike = name == "7b1_p3"
    factor = "NUM_REAL_TARGET_TOKENS" if alike else "AVERAGE_PER_SEQUENCE"
    assert (loss.loss_normalizing_factor, loss.z_loss) == (factor, 0.0)
    assert loss.normalize_over_rows is None
    mixture = {"": "xp3megds_bloomz", "mt": "xp3mt_bloomz", "p3": "p3"}[variant]
    assert dataset.mixture_or_task_name == mixture
    published = "bloom" if size == "176b" else f"bloom-{size}"
    assert arguments["initial_checkpoint_path"] == f"bigscience/{published}"


def test_bloomz_can_be_normalised_as_published():
    flags = ["--gin.MODEL_DIR='x'", "--gin.models.DecoderOnlyModel.normalize_over_rows=4"]
    loss = gin_config.parse(["--gin_file=recipes/bloomz_7b1.gin", *flags], "train").arguments[
        "loss"
    ]
    assert loss.normalize_over_rows == 4


def test_pretraining_starts_from_nothing():
    arguments = resolve("tiny", "pretrain").arguments
    assert arguments["from_scratch"] is True
    rate = arguments["learning_rate"]
    assert float(rate(9_999)) == pytest.approx(0.01)
    assert float(rate(1_000_000)) == pytest.approx(0.001)


@pytest.mark.parametrize("run", ["finetune", "pretrain", "eval"])
def test_data_dir_reaches_what_reads_the_data(run):
    def data_dirs(*flags):
        arguments = resolve("tiny", run, *flags).arguments
        if run == "eval":
            return [arguments["data_dir"]]
        return [arguments[name].data_dir for name in ("train_dataset", "train_eval_dataset")]

    assert set(data_dirs()) == {None}
    assert set(data_dirs("--gin.DATA_DIR='gs://bucket/family'")) == {"gs://bucket/family"}


def test_every_macro_is_explained():
    # "Every macro commented with meaning and unit": the line above its first setting.
    for path in sorted((GIN / "runs").glob("*.gin")):
        lines = path.read_text().splitlines()
        for above, line in zip(lines, lines[1:], strict=False):
            if re.match(r"[A-Z_]+ = ", line) and not line.startswith(("MODEL = ", "OPTIMIZER = ")):
                grouped = re.match(r"[A-Z_]+ = ", above)
                assert above.startswith("#") or grouped, f"{path.name}: {line}"
