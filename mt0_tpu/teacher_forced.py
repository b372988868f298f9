"""Teacher-forced evaluation during training: the loss and accuracy of given targets."""

from __future__ import annotations

import jax

from mt0_tpu import partitioning, progress
from mt0_tpu.data import batches
from mt0_tpu.errors import UserError
from mt0_tpu.metric_log import MetricLog


def evaluate(run_eval, params, sources, dataset, rows_where, eval_steps) -> dict[str, float]:
    """Returns teacher-forced metrics over at most eval_steps batches of one epoch."""
    loader = batches.Loader(
        sources,
        dataset,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        epochs=1,
    )
    log = MetricLog(None, 0)
    for _, batch in zip(range(eval_steps), loader, strict=False):
        log.add(0, run_eval(params, partitioning.to_devices(batch, rows_where)))
    loader.close()
    if not log.steps:
        raise UserError(
            f"{dataset.mixture_or_task_name} has no examples in split {dataset.split!r}; "
            "name another split or leave train_eval_dataset out"
        )
    return progress.summarise(log.sums, log.steps)
