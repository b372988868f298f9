"""From gin to a run: what is accepted, what is refused, and in which words."""

import textwrap

import pytest

from mt0_tpu import gin_config
from mt0_tpu.errors import UserError

BASE = ["--gin_file=models/mt5/tiny.gin", "--gin_file=runs/finetune.gin"]
FILLED = [
    "--gin.MODEL_DIR='runs/x'",
    "--gin.MIXTURE_OR_TASK_NAME='mini_multilingual'",
    "--gin.INITIAL_CHECKPOINT_PATH='runs/y'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 32}",
    "--gin.TRAIN_STEPS=10",
]


def train(*more):
    """The arguments of a train job, resolved from the stock files and `more` flags."""
    return gin_config.parse([*BASE, *FILLED, *more], "train").arguments


def refusal(*flags, job="train"):
    with pytest.raises(UserError) as raised:
        gin_config.parse(flags, job)
    return str(raised.value)


@pytest.fixture
def gin_file(tmp_path):
    """Writes a gin file and returns the flags that read it after the stock files."""

    def write(text, name="mine.gin"):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return [f"--gin_search_paths={tmp_path}", *BASE, f"--gin_file={name}"]

    return write


# What is accepted.


def test_flags_reach_the_dataclasses():
    arguments = train("--gin.BATCH_SIZE=16", "--gin.LOSS_NORMALIZING_FACTOR='AVERAGE_PER_SEQUENCE'")
    assert arguments["model_dir"] == "runs/x"
    assert arguments["train_dataset"].batch_size == 16
    assert arguments["train_eval_dataset"].split == "validation"
    assert arguments["loss"].loss_normalizing_factor == "AVERAGE_PER_SEQUENCE"
    assert arguments["total_steps"] == 10


def test_scopes_keep_the_two_data_sets_apart():
    arguments = train("--gin.train/utils.DatasetConfig.pack=False")
    assert arguments["train_dataset"].pack is False
    assert arguments["train_eval_dataset"].pack is True


@pytest.mark.parametrize(
    ("binding", "value"),
    [
        ("trainer.Trainer.num_microbatches=4", lambda a: a["num_microbatches"]),
        ("partitioning.PjitPartitioner.num_partitions=4", lambda a: a["mesh"].num_partitions),
        ("utils.SaveCheckpointConfig.period=4", lambda a: a["checkpoint"].save_every_steps),
        ("utils.SaveCheckpointConfig.keep=4", lambda a: a["checkpoint"].keep_last),
        ("train.stats_period=4", lambda a: a["log_every_steps"]),
        ("train_script.train.eval_steps=4", lambda a: a["eval_steps"]),
        ("models.EncoderDecoderModel.loss_fn.z_loss=4", lambda a: a["loss"].z_loss),
        ("DatasetConfig.window_examples=4", lambda a: a["train_dataset"].window_examples),
    ],
)
def test_t5x_spellings(binding, value):
    assert value(train(f"--gin.{binding}")) == 4


def test_restore_path_is_the_initial_checkpoint():
    without = [flag for flag in FILLED if "INITIAL" not in flag]
    flag = "--gin.utils.RestoreCheckpointConfig.path='z'"
    arguments = gin_config.parse([*BASE, *without, flag], "train").arguments
    assert arguments["initial_checkpoint_path"] == "z"


def test_an_optimizer_of_choice():
    from mt0_tpu.optimizers import AdamW

    arguments = train("--gin.OPTIMIZER=@optimizers.AdamW()", "--gin.optimizers.AdamW.b2=0.95")
    assert arguments["optimizer"] == AdamW(b2=0.95)


def test_a_list_becomes_a_tuple_and_an_int_a_float():
    submesh = "--gin.partitioning.PjitPartitioner.model_parallel_submesh=[2, 1, 1, 1]"
    arguments = train(submesh, "--gin.Z_LOSS=0")
    assert arguments["mesh"].model_parallel_submesh == (2, 1, 1, 1)
    assert arguments["loss"].z_loss == 0.0 and type(arguments["loss"].z_loss) is float


def test_later_files_and_flags_win(gin_file):
    flags = gin_file("BATCH_SIZE = 7\nEVAL_STEPS = 3\n")
    arguments = gin_config.parse([*flags, *FILLED, "--gin.BATCH_SIZE=8"], "train").arguments
    assert (arguments["train_dataset"].batch_size, arguments["eval_steps"]) == (8, 3)


def test_blocks_includes_and_t5x_imports(gin_file, tmp_path):
    (tmp_path / "inner.gin").write_text("BATCH_SIZE = 24\n")
    flags = gin_file(
        """
        from __gin__ import dynamic_registration
        import __main__ as train_script
        from t5x import utils
        include 'inner.gin'
        include 't5x/examples/t5/mt5/tiny.gin'
        train/utils.DatasetConfig:
          window_examples = 99
          shuffle = False
        """
    )
    dataset = gin_config.parse([*flags, *FILLED], "train").arguments["train_dataset"]
    assert (dataset.batch_size, dataset.window_examples, dataset.shuffle) == (24, 99, False)


def test_the_resolved_text_is_the_same_run_again(tmp_path):
    first = gin_config.parse([*BASE, *FILLED, "--gin.train/DatasetConfig.pack=False"], "train")
    (tmp_path / "config.gin").write_text(first.text)
    second = gin_config.parse([f"--gin_file={tmp_path}/config.gin"], "train")
    assert second.arguments == first.arguments
    changed = gin_config.parse([f"--gin_file={tmp_path}/config.gin", "--gin.BATCH_SIZE=2"], "train")
    assert changed.arguments["train_dataset"].batch_size == 2


def test_a_default_that_can_be_configured_is(gin_file, tmp_path):
    # No line mentions the loss, yet binding one of its parameters counts.
    (tmp_path / "short.gin").write_text(
        "include 'models/mt5/tiny.gin'\n"
        "train.model_dir = 'x'\ntrain.total_steps = 1\n"
        "train.model = @network.T5Config()\ntrain.train_dataset = @utils.DatasetConfig()\n"
        "utils.DatasetConfig.mixture_or_task_name = 'm'\n"
        "utils.DatasetConfig.task_feature_lengths = {'inputs': 8, 'targets': 8}\n"
        "models.EncoderDecoderModel.z_loss = 0.5\n"
    )
    resolved = gin_config.parse([f"--gin_file={tmp_path}/short.gin"], "train")
    assert resolved.arguments["loss"].z_loss == 0.5
    assert "train.loss = @models.EncoderDecoderModel()" in resolved.text


def test_run_hands_over_the_arguments_and_the_text(monkeypatch):
    from mt0_tpu import gin_names

    resolved = gin_config.parse([*BASE, *FILLED], "train")
    called = {}

    def stand_in(config_text="", **arguments):
        called.update(arguments, config_text=config_text)

    # cached_property keeps its value in the instance's dict.
    monkeypatch.setitem(gin_names.JOBS["train"].__dict__, "function", stand_in)
    resolved.run()
    assert called.pop("config_text") == resolved.text
    assert called == resolved.arguments


EVAL = [
    "--gin_file=models/mt5/tiny.gin", "--gin_file=runs/eval.gin", "--gin.CHECKPOINT_PATH='runs/y'",
    "--gin.MIXTURE_OR_TASK_NAME='mini_eval'", "--gin.EVAL_OUTPUT_DIR='runs/e'",
]  # fmt: skip


@pytest.mark.parametrize(
    ("binding", "value", "name"),
    [
        ("CHECKPOINTS='follow'", "follow", "checkpoints"),
        ("utils.RestoreCheckpointConfig.mode='all'", "all", "checkpoints"),
        ("seqio.Evaluator.num_examples=5", 5, "num_examples"),
        ("EVALUATOR_NUM_EXAMPLES=5", 5, "num_examples"),
        ("seqio.JSONLogger.write_n_results=5", 5, "write_n_results"),
        ("JSON_WRITE_N_RESULTS=0", 0, "write_n_results"),
        (
            "models.EncoderDecoderModel.predict_batch_with_aux.return_all_decodes=True",
            True,
            "return_all_decodes",
        ),
    ],
)
def test_t5x_spellings_of_evaluation(binding, value, name):
    assert gin_config.parse([*EVAL, f"--gin.{binding}"], "eval").arguments[name] == value


@pytest.mark.parametrize("prefix", ["DecodeConfig", "decoding.temperature_sample"])
def test_decoding_is_configured(prefix):
    from mt0_tpu.decode_config import DecodeConfig

    k = "topk" if prefix.startswith("decoding") else "top_k"
    flags = ["--gin.DecodeConfig.method='sample'", f"--gin.{prefix}.{k}=3"]
    flags.append("--gin.models.EncoderDecoderModel.predict_batch_with_aux.num_decodes=2")
    resolved = gin_config.parse([*EVAL, *flags], "eval")
    assert resolved.arguments["decode"] == DecodeConfig("sample", num_decodes=2, top_k=3)
    with pytest.raises(UserError, match="DecodeConfig: DecodeConfig.method is 'bean'.*'beam'"):
        gin_config.parse([*EVAL, "--gin.DecodeConfig.method='bean'"], "eval")


def test_evaluation_during_training():
    assert train()["infer_eval_dataset"] is None
    arguments = train(
        "--gin.train.infer_eval_dataset_cfg=@infer_eval/utils.DatasetConfig()",
        "--gin.infer_eval/utils.DatasetConfig.mixture_or_task_name='mini_eval'",
        "--gin.EVALUATOR_NUM_EXAMPLES=7",
    )
    dataset = arguments["infer_eval_dataset"]
    assert (dataset.mixture_or_task_name, dataset.split) == ("mini_eval", "validation")
    assert dataset.task_feature_lengths is None and arguments["infer_eval_num_examples"] == 7


# What is refused: gin's own errors, in a sentence.


def test_unknown_configurable_names_the_nearest():
    said = refusal(*BASE, *FILLED, "--gin.utils.DatasetConfg.batch_size=1")
    assert said.startswith("the command line: nothing called 'utils.DatasetConfg'")
    assert "Did you mean 'utils.DatasetConfig'?" in said


def test_unknown_parameter_names_the_nearest():
    said = refusal(*BASE, *FILLED, "--gin.train.totl_steps=1")
    assert said.endswith("train has no parameter 'totl_steps'. Did you mean 'total_steps'?")


def test_unknown_parameter_without_a_near_one_lists_them():
    said = refusal(*BASE, *FILLED, "--gin.models.EncoderDecoderModel.xyz=1")
    assert "It has: label_smoothing, logits_block_mib" in said


def test_unset_macros_are_named_together_with_how_to_pass_them():
    said = refusal(*BASE, *FILLED[2:])
    assert said == (
        "MODEL_DIR, MIXTURE_OR_TASK_NAME are required and not set; "
        "add --gin.MODEL_DIR=\"'…'\" --gin.MIXTURE_OR_TASK_NAME=\"'…'\""
    )


def test_unset_lengths_show_their_form():
    without_lengths = [flag for flag in FILLED if "LENGTHS" not in flag]
    said = refusal(*BASE, *without_lengths)
    assert "--gin.TASK_FEATURE_LENGTHS=\"{'inputs': N, 'targets': N}\"" in said


def test_a_missing_network_is_named_too():
    said = refusal("--gin_file=runs/finetune.gin", *FILLED)
    assert said == (
        "%MODEL is read but never set. Give a network before it, such as "
        "--gin_file=models/mt5/small.gin."
    )
    said = refusal("--gin_file=runs/finetune.gin", *FILLED, "--gin.MODEL=@network.T5Config()")
    assert said.startswith("network.T5Config.vocab_size, network.T5Config.emb_dim")


def test_missing_file_names_the_nearest():
    said = refusal("--gin_file=models/mt5/smal.gin")
    assert "no gin file 'models/mt5/smal.gin'" in said
    assert "Did you mean 'models/mt5/small.gin'?" in said


def test_a_macro_read_but_never_set(gin_file):
    said = refusal(*gin_file("train.eval_steps = %EVAL_STEPZ\n"), *FILLED)
    assert said == "%EVAL_STEPZ is read but never set. Did you mean 'EVAL_STEPS'?"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--gin.MODEL_DIR=gs://x", "--gin.MODEL_DIR=\"'gs://x'\""),
        ("--gin.MODEL_DIR=runs", "--gin.MODEL_DIR=\"'runs'\""),
        ("--gin.MODEL_DIR=/tmp/x", "--gin.MODEL_DIR=\"'/tmp/x'\""),
        ("--gin.USE_CACHED_TASKS=true", "gin writes True"),
        ("--gin.MODEL_DIR=", "MODEL_DIR has no value"),
        ("--gin.MODEL_DIR='x", "is a quote, bracket or comma missing?"),
        ("--gin.TASK_FEATURE_LENGTHS={'inputs' 3}", "is a quote, bracket or comma missing?"),
        ("--gin_bindings=import os", "belong"),
    ],
)
def test_what_gin_cannot_read(flag, said):
    assert said in refusal(*BASE, *FILLED, flag)


def test_unquoted_text_in_a_file_names_the_line(gin_file):
    said = refusal(*gin_file("EVAL_STEPS = 2\nMODEL_DIR = gs://x\n"), *FILLED)
    assert said == "mine.gin line 2: text needs quotes: MODEL_DIR = 'gs://x'"


# What gin lets pass, and we do not.


def test_a_macro_nobody_reads():
    said = refusal(*BASE, *FILLED, "--gin.TRAIN_STEPZ=5")
    assert "nothing reads the macro TRAIN_STEPZ" in said
    assert said.endswith("Did you mean 'TRAIN_STEPS'?")


def test_a_macro_nobody_reads_in_a_file_names_the_line(gin_file):
    said = refusal(*gin_file("\nBATCHSIZE = 5\n"), *FILLED)
    assert said.startswith("mine.gin line 2: nothing reads the macro BATCHSIZE")


def test_a_macro_set_twice_in_one_file_names_both_lines(gin_file):
    said = refusal(*gin_file("BATCH_SIZE = 5\nEVAL_STEPS = 1\nBATCH_SIZE = 6\n"), *FILLED)
    assert said.startswith("mine.gin: BATCH_SIZE is set twice, on lines 1 and 3")


def test_a_binding_set_twice_in_one_file(gin_file):
    said = refusal(*gin_file("train.eval_steps = 5\ntrain.eval_steps = 6\n"), *FILLED)
    assert "train.eval_steps is set twice, on lines 1 and 2" in said


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("TRAIN_STEPS='three'", "which train.total_steps reads, is 'three', but wants int."),
        ("TRAIN_STEPS=1e3", "is 1000.0, but wants int."),
        ("BATCH_SIZE=True", "is True, but wants int."),
        ("MODEL_DIR=3", "is 3, but wants str."),
        ("SHUFFLE_TRAIN_EXAMPLES=1", "is 1, but wants bool."),
        ("USE_CACHED_TASKS='yes'", "is 'yes', but wants bool or None."),
        ("TASK_FEATURE_LENGTHS={'inputs': '64', 'targets': 32}", "wants dict of str to int"),
        ("MODEL=@adafactor.Adafactor()", "wants T5Config or BloomConfig."),
        ("OPTIMIZER='adam'", "wants Adafactor or AdamW."),
        ("train.eval_steps='x'", "the command line: train.eval_steps is 'x', but wants int."),
        ("LOSS_NORMALIZING_FACTOR=[1]", "wants float or str or None."),
    ],
)
def test_a_value_of_the_wrong_type(flag, said):
    assert said in refusal(*BASE, *FILLED, f"--gin.{flag}")


def test_a_value_a_dataclass_refuses_keeps_its_words():
    said = refusal(*BASE, *FILLED, "--gin.DROPOUT_RATE=1.5")
    assert said.startswith("network.T5Config: ") and "dropout_rate is 1.5" in said


def test_a_flag_that_changes_nothing(gin_file):
    said = refusal(*gin_file("utils.DatasetConfig.batch_size = 4\n"), *FILLED, "--gin.BATCH_SIZE=8")
    assert "BATCH_SIZE is set, but in this run" in said
    said = refusal(*BASE, *FILLED, "--gin.trian/utils.DatasetConfig.batch_size=8")
    assert "trian/utils.DatasetConfig.batch_size changes nothing" in said
    assert "Did you mean 'train'?" in said
    said = refusal(*BASE, *FILLED, "--gin.optimizers.AdamW.b1=0.8")
    assert "does not use optimizers.AdamW" in said


def test_an_import_says_what_to_write_instead(gin_file):
    said = refusal(*gin_file("import my_tasks\n"), *FILLED)
    assert "MIXTURE_OR_TASK_MODULE = 'my_tasks'" in said


def test_a_file_that_includes_itself(gin_file):
    assert "includes itself" in refusal(*gin_file("include 'mine.gin'\n"), *FILLED)


def test_a_macro_set_to_itself(gin_file):
    assert "set to itself" in refusal(*gin_file("BATCH_SIZE = %BATCH_SIZE\n"), *FILLED)


def test_a_reference_without_parentheses():
    assert "@network.T5Config()" in refusal(*BASE, *FILLED, "--gin.MODEL=@network.T5Config")


# The task module: found, but never imported.


def test_task_module_must_exist():
    said = refusal(*BASE, *FILLED, "--gin.MIXTURE_OR_TASK_MODULE='no_such_tasks'")
    assert "MIXTURE_OR_TASK_MODULE is 'no_such_tasks'" in said


@pytest.mark.parametrize("dotted", ["probe_tasks", "probe_package.inner"])
def test_task_module_is_not_imported(tmp_path, monkeypatch, dotted):
    (tmp_path / "probe_package").mkdir()
    for name in ("probe_tasks.py", "probe_package/__init__.py", "probe_package/inner.py"):
        (tmp_path / name).write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = train(f"--gin.MIXTURE_OR_TASK_MODULE='{dotted}'")
    assert arguments["train_dataset"].module == dotted
    assert f"{dotted}x" in refusal(*BASE, *FILLED, f"--gin.MIXTURE_OR_TASK_MODULE='{dotted}x'")


def test_task_module_as_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("")
    assert train(f"--gin.MIXTURE_OR_TASK_MODULE='{path}'")["train_dataset"].module == str(path)
    assert "no such module" in refusal(*BASE, *FILLED, "--gin.MIXTURE_OR_TASK_MODULE='other.py'")
