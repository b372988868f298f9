"""The training job: from a configuration to a run folder, read downwards.

The loop's order matters. A step is dispatched, then the metrics of the step before are read,
so that the host never waits for the device it has just fed. Before a save everything pending
is read, so that parameters, the loader's position and the metric sums saved together belong
to the same step: killed anywhere, the run continues bit for bit.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time

import jax

from mt0_tpu import (
    checkpoints,
    compile_cache,
    distributed,
    losses,
    partitioning,
    progress,
    remote_run,
    replica_check,
    run_files,
    run_folder,
    start_rule,
    stop_signals,
    teacher_forced,
    train_state,
)
from mt0_tpu import train_step as steps
from mt0_tpu.checkpoints import CheckpointConfig, Checkpointer
from mt0_tpu.data import batches
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.infer_eval import InferEval, write_run_file
from mt0_tpu.metric_log import MetricLog, log_line
from mt0_tpu.models import networks
from mt0_tpu.optimizers import Adafactor, AdamW
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.place import is_bucket
from mt0_tpu.schedules import LearningRate
from mt0_tpu.start_state import start_state
from mt0_tpu.step_health import HealthConfig, StepHealth
from mt0_tpu.stop_notice import PointReached, StopNotice
from mt0_tpu.stop_signals import Stopped


@dataclasses.dataclass(frozen=True)
class TrainSummary:
    """How a run ended: the absolute step, the last metrics logged, seconds this process took."""

    model_dir: str
    step: int
    metrics: dict[str, float]
    seconds: float


# Called as a function, it gives the signals back to whoever had them before.
@stop_signals.installed()
def train(
    model_dir: str,
    model: networks.NetworkConfig,
    train_dataset: DatasetConfig,
    total_steps: int,
    train_eval_dataset: DatasetConfig | None = None,
    relative_steps: int | None = None,
    initial_checkpoint_path: str | None = None,
    restore_optimizer_state: bool = True,
    from_scratch: bool = False,
    loss: losses.LossConfig = losses.LossConfig(),
    optimizer: Adafactor | AdamW = Adafactor(),
    learning_rate: LearningRate = LearningRate(),
    mesh: MeshConfig = MeshConfig(),
    num_microbatches: int | None = None,
    checkpoint: CheckpointConfig = CheckpointConfig(),
    eval_period: int = 1000,
    eval_steps: int = 20,
    infer_eval_dataset: DatasetConfig | None = None,
    infer_eval_period: int | None = None,
    infer_eval_num_examples: int | None = None,
    infer_eval_decode: DecodeConfig = DecodeConfig(),
    log_every_steps: int = 100,
    on_nonfinite: str = "stop",
    max_consecutive_skips: int = 10,
    spike_threshold: float | None = 8.0,
    check_replicas_every_steps: int | None = None,
    random_seed: int = 0,
    config_text: str = "",
) -> TrainSummary:
    """Trains until the step asked for; run again, it continues where it was.

    Args:
      model_dir: the run folder; its latest checkpoint wins over initial_checkpoint_path.
      total_steps: absolute, pretraining steps included (T5X's TRAIN_STEPS).
      relative_steps: steps on top of the starting checkpoint's; wins over total_steps.
      restore_optimizer_state: of initial_checkpoint_path; False starts it afresh.
      from_scratch: allows drawing parameters where there is nothing to start from.
      num_microbatches: pieces a batch is cut into; None, 0 and 1 mean one.
      eval_period, eval_steps: teacher-forced evaluation: every so many steps, batches each.
      infer_eval_dataset: evaluated as `mt0 eval` does (ranking, predictions), every
        infer_eval_period steps (None: eval_period), at most infer_eval_num_examples of each task.
      log_every_steps: steps that one line of metrics.jsonl covers.
      on_nonfinite: 'stop' at a loss or gradient norm that is NaN or infinite, or 'skip' the step:
        parameters and optimizer state stay, step and data go on. Its batch is kept in
        MODEL_DIR/sick (docs/faults.md).
      max_consecutive_skips: so many in a row are skipped; one more stops the run.
      spike_threshold: a loss so many deviations above the usual is told; None tells none.
      check_replicas_every_steps: every so many steps, and before each save, devices that hold
        copies of the same numbers are compared; None never does.
      config_text: what config.gin shall say.

    Raises:
      UserError: for what can be told before a step is run, and for a loss that is not finite.
      Stopped: a signal or the platform asked the job to stop; the step it was at is saved.
    """
    began = time.monotonic()
    distributed.initialize()
    kept = compile_cache.enable(None if is_bucket(model_dir) else model_dir)
    leader = jax.process_index() == 0
    line = progress.ProgressLine(stream=sys.stderr if leader else open(os.devnull, "w"))
    say = line.say

    # Configuration, start and folder: all that can be refused is refused here.
    train_dataset = train_dataset.for_model(model.decoder_only)
    if train_eval_dataset:
        train_eval_dataset = train_eval_dataset.for_model(model.decoder_only)
    microbatches = num_microbatches or 1
    health_config = HealthConfig(on_nonfinite, max_consecutive_skips, spike_threshold)
    replica_check.check_period(check_replicas_every_steps)
    device_mesh = partitioning.make_mesh(mesh)
    partitioning.check_batch_size(train_dataset.batch_size, device_mesh, microbatches)
    for dataset in filter(None, (train_dataset, train_eval_dataset)):
        loss.check_batch_size(dataset.batch_size)
    run_folder.check_bucket(model_dir)
    if leader:
        run_folder.set_aside_damaged(model_dir, say)
    distributed.barrier("checkpoints looked over")
    # Last of the checks: a checkpoint in a bucket is fetched here.
    start = start_rule.find_start(model_dir, initial_checkpoint_path, from_scratch)
    start_rule.check_total_steps(start, total_steps, relative_steps)
    start_rule.check_network(start, model)
    network = networks.network(model)
    shapes, axes = train_state.abstract_state(network, optimizer)
    partitioning.check_dimensions(axes.params, shapes.params, device_mesh, model.num_heads)
    run_folder.check_model_dir(model_dir, checkpoints.state_bytes(shapes))

    # Data: cached by a child process where it is missing, so that TensorFlow stays out of here.
    if leader:
        _ensure_cached(train_dataset, train_eval_dataset, say)
    distributed.barrier("cached")
    sources = batches.open_sources(train_dataset)
    eval_sources = batches.open_sources(train_eval_dataset) if train_eval_dataset else None
    for opened in (sources, eval_sources):
        if opened is not None:
            batches.check_vocabulary(opened, model.vocab_size)

    run = remote_run.open_run(model_dir, say)
    infer_eval = None
    if infer_eval_dataset:
        infer_eval = InferEval(
            model_dir, run.folder, infer_eval_dataset, model, device_mesh,
            infer_eval_period or eval_period, infer_eval_num_examples, infer_eval_decode, say,
        )  # fmt: skip

    # State: the start rule has decided; what happens to the optimizer state is said aloud.
    where = partitioning.shardings(axes, shapes, device_mesh)
    placed = jax.tree.map(_placed, shapes, where)
    checkpointer = Checkpointer(model_dir, checkpoint, say=say)
    state, position = start_state(
        start, checkpointer, placed, network, optimizer, device_mesh, random_seed,
        restore_optimizer_state, model_dir, say,
    )  # fmt: skip
    base_step = position.get("base_step", start.step)
    final_step = base_step + relative_steps if relative_steps is not None else total_steps
    if final_step != total_steps:
        say(
            f"TRAIN_STEPS_RELATIVE counts: {relative_steps} steps on top of {base_step}, not "
            f"TRAIN_STEPS = {total_steps} (TRAIN_STEPS_RELATIVE=None lets that count)"
        )
    step = first_step = int(state.step)
    if step > final_step:
        raise UserError(
            f"the run is at step {step} and TRAIN_STEPS is {final_step}; TRAIN_STEPS counts from "
            "0, pretraining included: write a larger one, or TRAIN_STEPS_RELATIVE"
        )
    owed = _owed(position, int(state.step), train_eval_dataset, infer_eval)
    if step == final_step and start.kind == "resume" and not owed:
        say(f"nothing to do: {model_dir} is at step {step} already")
        checkpointer.close()
        run.close()
        return TrainSummary(model_dir, step, {}, time.monotonic() - began)
    if leader:
        run_files.write(run.folder, config_text, shapes, axes, where, step)
        write_run_file(run.folder, step, final_step)

    # Compilation: ahead of time, then all hosts meet before the first collective.
    compile_began, read_before = time.monotonic(), compile_cache.hits()
    say(f"compiling for {device_mesh.size} device(s) {dict(device_mesh.shape)} ...")
    run_step = steps.compile_train_step(
        steps.make_train_step(
            network, loss, optimizer, learning_rate, axes.params,
            seed=random_seed, num_microbatches=microbatches, mesh=device_mesh,
            skip_nonfinite=health_config.skips,
        ),
        where, shapes, batches.abstract_batch(train_dataset), device_mesh,
    )  # fmt: skip
    run_eval = None
    if train_eval_dataset:
        run_eval = steps.compile_eval_step(
            steps.make_eval_step(network, loss, mesh=device_mesh),
            where.params, shapes.params, batches.abstract_batch(train_eval_dataset), device_mesh,
        )  # fmt: skip
    compare_replicas = replica_check.make(
        check_replicas_every_steps, where, shapes, device_mesh, say
    )
    compile_seconds = progress.duration(time.monotonic() - compile_began)
    from_disk = compile_cache.hits() - read_before
    where_from = f": {from_disk} read from" if from_disk else "; kept in"
    say(f"compiled in {compile_seconds}" + (f"{where_from} {kept}" if kept else ""))
    distributed.barrier("compiled")
    notice = StopNotice(
        distributed.watch(), leader, checkpoint.grace_seconds,
        lambda: run_folder.last_saved(model_dir), distributed.platform_news(),
    ).open()  # fmt: skip

    loader = batches.Loader(
        sources,
        train_dataset,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        state=batches.LoaderState(**position["loader"]) if "loader" in position else None,
    )
    writer = progress.MetricWriter(run.folder, step, say) if leader else None
    log = MetricLog(position.get("metric_sums"), position.get("metric_steps", 0))
    health = StepHealth(
        health_config, model_dir, sources, train_dataset, random_seed, config_text,
        position.get("health"), step, say, run.folder,
    )  # fmt: skip
    rows_where = partitioning.batch_sharding(device_mesh)
    eval_metrics: dict[str, float] | None = None
    last_metrics: dict[str, float] = {}
    # Sums that came with the checkpoint were paid for by the run before: no part of this speed.
    window_began, window_step, inherited = time.monotonic(), step, dict(log.sums)
    loop_began = time.monotonic()
    pending = None
    say(f"training from step {step} to {final_step}: {model_dir}")

    def evaluate_teacher_forced() -> dict[str, float]:
        metrics = teacher_forced.evaluate(run_eval, state.params, eval_sources, train_eval_dataset,
                            rows_where, eval_steps)  # fmt: skip
        if writer:
            name = train_eval_dataset.mixture_or_task_name[:113]
            writer.write(step, "eval", metrics, f"training_eval/{name}")
            say(f"  eval {step}: loss {metrics['loss_per_nonpadding_target_token']:.4f}"
                f"  accuracy {metrics['accuracy']:.3f}")  # fmt: skip
        return metrics

    def save(owed: list[str]) -> None:
        position = {
            "loader": dataclasses.asdict(loader.state),
            "metric_sums": log.sums,
            "metric_steps": log.steps,
            "base_step": base_step,
            "health": health.state,
            "owed": owed,
        }
        last = stops_now or step == final_step
        run.flush()
        checkpointer.save(state, position, eval_metrics, last=last)

    stops_now = False
    try:
        if "eval" in owed:
            eval_metrics = evaluate_teacher_forced()
        if "scores" in owed:
            infer_eval.run(state.params, step, notice.check)
    except PointReached:
        stops_now, final_step = True, step

    while step < final_step:
        place, rows = loader.state, next(loader)
        state, sums = run_step(state, partitioning.to_devices(rows, rows_where))
        step += 1
        eval_metrics = None  # a checkpoint is judged by an evaluation of its own step, or by none
        health.fed(step, place, rows)
        checkpointer.poll()
        if pending is not None:
            log.add(*pending, health)
        pending = (step, sums)

        logs_now = step % log_every_steps == 0 or step == final_step
        # Every process passes here once a step: all of them stop after the same one.
        stops_now = notice.reached()
        saves_now = step % checkpoint.save_every_steps == 0 or step == final_step or stops_now
        evals_now = run_eval is not None and (step % eval_period == 0 or step == final_step)
        scores_now = infer_eval is not None and infer_eval.is_due(step, final_step)
        if logs_now or saves_now or evals_now or scores_now:
            log.add(*pending, health)
            pending = None

        if leader:
            rate = (time.monotonic() - loop_began) / (step - first_step)
            line.show(
                f"step {step}/{final_step}  loss {log.last_loss}  "
                f"{1 / rate:.2f} steps/s  eta {progress.duration((final_step - step) * rate)}"
            )
        if logs_now:
            seconds = max(time.monotonic() - window_began, 1e-9)
            fresh = {name: value - inherited.get(name, 0.0) for name, value in log.sums.items()}
            targets, inputs = fresh["decoder_tokens"], fresh["encoder_tokens"]
            metrics = progress.summarise(log.sums, log.steps)
            metrics |= {
                "timing/seconds": seconds,
                "timing/steps_per_second": (step - window_step) / seconds,
                "timing/seqs_per_second": (step - window_step) * train_dataset.batch_size / seconds,
                "timing/target_tokens_per_second": targets / seconds,
                "timing/real_tokens_per_second": (targets + inputs) / seconds,
                "timing/uptime": time.monotonic() - began,
            }
            last_metrics = metrics
            log.reset()
            window_began, window_step, inherited = time.monotonic(), step, {}
            if writer:
                writer.write(step, "train", metrics, "train")
                say(log_line(step, final_step, metrics, (final_step - step) * rate))
        if logs_now:
            run.send()
        compare_replicas(state, step, saves_now)
        owed = ["scores"] if scores_now else []
        if evals_now and stops_now:
            owed.append("eval")
        elif evals_now:
            eval_metrics = evaluate_teacher_forced()
        if saves_now:
            save(owed)
        if stops_now:
            break
        if scores_now:  # after the save: a mistake in a metric costs no step
            try:
                infer_eval.run(state.params, step, notice.check)
            except PointReached:
                stops_now = True
                if not saves_now:
                    save(owed)
                break

    checkpointer.close()
    loader.close()
    if infer_eval:
        infer_eval.close()
    if writer:
        writer.close()
    run.close()
    notice.close()
    if stops_now:
        raise Stopped(
            f"stopped by {notice.why}, saved after step {step}: the same command goes on from "
            f"there; {model_dir}", notice.code,
        )  # fmt: skip
    line.say(f"done: step {step} in {progress.duration(time.monotonic() - began)}; {model_dir}")
    return TrainSummary(model_dir, step, last_metrics, time.monotonic() - began)


def _placed(shape: jax.ShapeDtypeStruct, where) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)


def _owed(position: dict, step: int, eval_dataset, infer_eval: InferEval | None) -> list[str]:
    """Returns which evaluations of the step resumed from the run before did not come to make."""
    due = position.get("owed", [])
    made = {
        "eval": eval_dataset is None,
        "scores": infer_eval is None or infer_eval.is_done(step),
    }
    return [name for name in due if not made[name]]


def _ensure_cached(dataset: DatasetConfig, eval_dataset: DatasetConfig | None, say) -> None:
    from mt0_tpu.data import cache

    if eval_dataset is None:
        cache.ensure_cached(dataset, say)
        return
    same = ("mixture_or_task_name", "module", "cache_path")
    if all(getattr(dataset, name) == getattr(eval_dataset, name) for name in same):
        cache.ensure_cached(dataset, say, [eval_dataset.split])
    else:
        cache.ensure_cached(dataset, say)
        cache.ensure_cached(eval_dataset, say)
