"""The evaluation job: from a checkpoint, all of a run's, or a run still going, to scores."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping

import jax

from mt0_tpu import compile_cache, distributed, eval_follow, partitioning, rank_results
from mt0_tpu.checkpoints import restore_params
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError, did_you_mean
from mt0_tpu.eval_follow import Patience
from mt0_tpu.eval_outputs import EvalOutputs, metrics_table
from mt0_tpu.eval_tasks import EvalData
from mt0_tpu.evaluator import Evaluator
from mt0_tpu.models.networks import NetworkConfig, network
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.place import absolute, is_address, is_bucket, place
from mt0_tpu.reference_scores import model_of_size
from mt0_tpu.run_folder import FOLDER, steps_of
from mt0_tpu.start_rule import checkpoint_step

# T5X's RestoreCheckpointConfig.mode calls the first 'specific'.
CHECKPOINTS = ("latest", "specific", "all", "follow")


def evaluate(
    eval_output_dir: str,
    model: NetworkConfig,
    checkpoint_path: str | None = None,
    mixture_or_task_name: str = "mini_eval",
    module: str | None = None,
    cache_dir: str | None = None,
    use_cached: bool | None = None,
    split: str | None = None,
    task_feature_lengths: Mapping[str, int] | None = None,
    batch_size: int = 32,
    step: int | None = None,
    num_examples: int | None = None,
    length_normalised: bool = False,
    inputs_eos: bool | None = None,
    vocabulary: str | None = None,
    overwrite: bool = False,
    untrained: bool = False,
    random_seed: int = 0,
    mesh: MeshConfig = MeshConfig(),
    params=None,
    data_dir: str | None = None,
    checkpoints: str = "latest",
    follow_poll_seconds: float = 10.0,
    follow_timeout_minutes: float = 60.0,
    decode: DecodeConfig = DecodeConfig(),
    return_all_decodes: bool | None = None,
    execute_code: bool = False,
    overlong: str = "trim",
    write_n_results: int | None = None,
    config_text: str = "",
) -> dict:
    """Evaluates checkpoints on rank tasks and on tasks with metrics; writes and prints scores.

    A rank task's choices are scored; of any other SeqIO task the metric_fns and metric_objs
    decide whether its inputs are answered, its targets scored, or both. Files as eval_outputs.py
    lists them.

    Args:
      model: the network the checkpoint holds.
      checkpoint_path: a MODEL_DIR (its latest, or `step`) or one of its checkpoints.
      module: the Python module that registers the mixture, where it is not one of ours.
      use_cached: True fails where a rank task is not cached; else it is cached first.
      split: None takes each task's 'test', else its 'validation'.
      task_feature_lengths: tokens of 'inputs' and 'targets' (a choice, a prediction); None cuts
        nothing, and predictions end at the length of the longest target.
      batch_size: about how many inputs a batch holds.
      num_examples: at most this many of each task.
      length_normalised: divides rank scores by tokens; the published evaluation does not.
      inputs_eos: whether inputs of rank tasks end in EOS; None leaves it to each task.
      vocabulary: for readable lines of rank tasks; None finds the mini and byte
        vocabularies, and $MT0_VOCABULARY where the tasks were cached with it.
      overwrite: replaces results of the same step, which is an error otherwise.
      untrained: evaluates a freshly drawn network of random_seed instead, as step 0.
      params: already in memory, evaluated instead of a checkpoint as `step`.
      data_dir: where released files lie; None is $MT0_DATA_DIR.
      checkpoints: 'latest' (T5X's 'specific'): one; 'all' of a folder; 'follow': each as it
        appears, until the run has reached its last step. Steps done before are not done again.
      follow_poll_seconds, follow_timeout_minutes: how often it looks, and how long without
        a new checkpoint until it stops.
      decode: how predictions are made; the default leaves it to the task's facts, else greedy.
      return_all_decodes: whether metrics see all decodes; None: all samples, of beams the best.
      execute_code: whether metrics that run predicted code are run.
      overlong: 'trim', or 'error' for an example longer than task_feature_lengths.
      write_n_results: at most this many lines of each task and step; None writes all.

    Returns:
      The summary of the last checkpoint evaluated; empty where all were done before.
    """
    _check_sources(checkpoint_path, params, untrained, step, checkpoints)
    data = EvalData(
        mixture_or_task_name, split, task_feature_lengths, num_examples, overlong, decode,
        return_all_decodes, execute_code, length_normalised, inputs_eos, module, cache_dir,
        use_cached, data_dir,
    )  # fmt: skip
    patience = Patience(follow_poll_seconds, follow_timeout_minutes)
    distributed.initialize()
    compile_cache.enable(eval_output_dir)
    leader = jax.process_index() == 0
    say = functools.partial(print, file=sys.stderr, flush=True) if leader else lambda text: None
    origin = absolute(checkpoint_path) if checkpoint_path else "untrained"
    settings = {"checkpoints_of": _run_of(origin), **data.settings()}
    if untrained:
        settings["drawn"] = {"random_seed": random_seed, **dataclasses.asdict(model)}
    outputs = EvalOutputs(
        eval_output_dir, mixture_or_task_name, settings, overwrite, write_n_results
    )
    device_mesh = partitioning.make_mesh(mesh)
    restore = functools.partial(restore_params, model_config=model, mesh=device_mesh)
    several = checkpoints in ("all", "follow")
    left = []
    if several:
        if checkpoints == "all":
            left = _not_done(eval_follow.all_of(checkpoint_path), outputs, say)
            if not left:
                return {}
    else:
        its_step, path = _which(checkpoint_path, params, untrained, step)
        # What is given in memory may be anything; the same checkpoint gives the same again.
        if params is None and outputs.is_done(its_step):
            say(
                f"nothing to do: {eval_output_dir} holds the results of step {its_step} with these "
                "settings; evaluate.overwrite = True evaluates again"
            )
            return {}
        outputs.check(its_step)
    evaluator = Evaluator(data, model, device_mesh, batch_size, vocabulary, say)
    if several:
        found = left or eval_follow.follow(checkpoint_path, outputs.is_done, patience, say, leader)
        todo = _read(found, restore, outputs, evaluator.task_names, patience, say)
    else:
        outputs.check(its_step, evaluator.task_names)
        if untrained:
            params = drawn_parameters(model, random_seed, device_mesh)
        todo = [(its_step, path, restore(path) if params is None else params)]

    summary: dict = {}
    own = published_model(model)
    for its_step, path, its_params in todo:
        summary = evaluator.run(its_params, its_step, path or "untrained", outputs, config_text)
        its_params = None
        if leader:
            print(table(summary, own))
    outputs.close()
    return summary


def _read(found, restore, outputs: EvalOutputs, tasks, patience: Patience, say) -> Iterator:
    """Gives (step, checkpoint, parameters) of those that can still be read."""
    for step, path in found:
        outputs.check(step, tasks)
        say(f"eval: step {step}: {path}")
        params = eval_follow.read_or_gone(path, functools.partial(restore, path), patience, say)
        if params is not None:
            yield step, path, params
        params = None  # two checkpoints at a time may not fit the device


def table(summary: Mapping, published: str | None = None) -> str:
    """Returns a summary as text: rank tasks by cluster and data set, then metrics.

    Args:
      published: the published model that stands first beside the paper's data sets.
    """
    parts = []
    if summary["groups"]:
        parts.append(rank_results.table(summary["groups"]))
    parts.append(rank_results.dataset_table(summary["datasets"], own=published))
    if any(summary["tasks"].values()):
        parts.append(metrics_table(summary["tasks"]))
    return "\n\n".join(part for part in parts if part)


def published_model(model: NetworkConfig) -> str | None:
    """Returns the published model of a network's family and size; None where there is none."""
    if model.decoder_only:
        return model_of_size(model.emb_dim, model.num_layers, decoder_only=True)
    return model_of_size(model.emb_dim, model.num_encoder_layers)


def _check_sources(checkpoint_path, params, untrained: bool, step, checkpoints: str) -> None:
    given = [checkpoint_path is not None, untrained]
    if params is None and sum(given) != 1:
        raise UserError(
            f"CHECKPOINT_PATH is {checkpoint_path!r} and untrained is {untrained}; give a "
            "checkpoint, or untrained=True for a freshly drawn network"
        )
    if checkpoints not in CHECKPOINTS:
        near = did_you_mean(str(checkpoints), CHECKPOINTS)
        raise UserError(
            f"checkpoints is {checkpoints!r}; write 'latest' (one), 'all' or 'follow'.{near}"
        )
    if checkpoints in ("all", "follow") and (checkpoint_path is None or params is not None):
        raise UserError(f"checkpoints is {checkpoints!r}, which wants a MODEL_DIR as its path")
    if (
        checkpoints in ("all", "follow")
        and is_address(checkpoint_path)
        and not is_bucket(checkpoint_path)
    ):
        raise UserError(
            f"checkpoints is {checkpoints!r} and {checkpoint_path} is remote; name a run folder, "
            "local or gs://…, or one checkpoint with checkpoints = 'latest'"
        )
    if checkpoints in ("all", "follow") and step is not None:
        raise UserError(
            f"checkpoints is {checkpoints!r} and step is {step}; leave the step out, or write "
            "checkpoints = 'latest'"
        )


def _run_of(checkpoint: str) -> str:
    """Returns the run's folder for one of its checkpoints; other paths as they are."""
    path = place(checkpoint)
    if path.name.isdigit() and path.parent.name == FOLDER:
        return str(path.parent.parent)
    return str(path.parent) if path.name == FOLDER else checkpoint


def _which(checkpoint_path, params, untrained: bool, step: int | None) -> tuple[int, str | None]:
    """Returns (its step, what is evaluated)."""
    if params is not None or untrained:
        return step or 0, checkpoint_path
    if step is not None:
        there = steps_of(checkpoint_path)
        if there:
            if step not in there:
                raise UserError(
                    f"{checkpoint_path} has no checkpoint of step {step}; it has {there}"
                )
            return step, str(place(checkpoint_path) / FOLDER / str(step))
    found = checkpoint_step(checkpoint_path)
    if step not in (None, found):
        raise UserError(f"{checkpoint_path} is step {found}, and step is {step}; leave one out")
    return found, checkpoint_path


def _not_done(found, outputs: EvalOutputs, say) -> list[tuple[int, str]]:
    done = [step for step, _ in found if outputs.is_done(step)]
    if done:
        say(f"eval: done already: steps {', '.join(map(str, done))}")
    return [(step, path) for step, path in found if step not in done]


def drawn_parameters(model: NetworkConfig, seed: int, mesh):
    """Returns freshly drawn parameters, lying on the mesh."""
    from mt0_tpu import train_state

    drawn = network(model)
    shapes = jax.eval_shape(lambda: train_state.init_params(drawn, 0))
    axes = train_state.parameter_axes(drawn)
    partitioning.check_dimensions(axes, shapes, mesh, model.num_heads)
    where = partitioning.shardings(axes, shapes, mesh)
    return jax.jit(lambda: train_state.init_params(drawn, seed), out_shardings=where)()
