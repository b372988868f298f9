"""One step: batch in, state and metric sums out. Pure; everything it needs is an argument.

Letters: B rows of the batch, S decoder length, D width, V vocabulary.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mt0_tpu import losses, partitioning
from mt0_tpu.models import networks
from mt0_tpu.train_state import TrainState


def batch_sums(
    params, batch, weights_BS, dropout_keys_B, *, model, loss: losses.LossConfig, mesh: Mesh | None
) -> losses.LossSums:
    """Returns the loss sums (not yet normalised) of one batch or microbatch."""
    hidden_BSD = model.apply({"params": params}, batch, dropout_keys_B)
    return losses.blocked_cross_entropy(
        hidden_BSD,
        networks.head_kernel(params, model.config),
        batch["decoder_target_tokens"],
        weights_BS,
        z_loss=loss.z_loss,
        label_smoothing=loss.label_smoothing,
        logits_block_mib=loss.logits_block_mib,
        mesh=mesh,
        batch_axes=partitioning.BATCH_AXES,
        embed_axes=("fsdp",),
        vocab_axes=("tensor",),
    )


def metric_sums(batch, sums: losses.LossSums, normalizer) -> dict[str, jax.Array]:
    """Returns the sums that metrics are made of; adding them over steps averages correctly."""
    return {
        "loss": sums.loss / normalizer,
        "cross_ent_loss": sums.cross_ent / normalizer,
        "z_loss": sums.z_loss / normalizer,
        "weighted_loss": sums.loss,
        "weighted_correct": sums.correct,
        "weight": sums.weight,
    } | _token_counts(batch)


def _token_counts(batch) -> dict[str, jax.Array]:
    """Real tokens and the room for them; a decoder-only batch has one room for both.

    There the inputs and targets are told apart by their weights, and padding by its segment id:
    BLOOM's token 0 is no padding.
    """
    count = lambda x: jnp.sum(x, dtype=jnp.float32)  # noqa: E731
    target = batch["decoder_target_tokens"]
    if "encoder_input_tokens" not in batch:
        targets = count(batch["decoder_loss_weights"] > 0)
        return {
            "encoder_tokens": count(batch["decoder_segment_ids"] > 0) - targets,
            "decoder_tokens": targets,
            "encoder_positions": jnp.float32(0.0),
            "decoder_positions": jnp.float32(target.size),
        }
    encoder = batch["encoder_input_tokens"]
    return {
        "encoder_tokens": count(encoder > 0),
        "decoder_tokens": count(target > 0),
        "encoder_positions": jnp.float32(encoder.size),
        "decoder_positions": jnp.float32(target.size),
    }


def row_keys(seed: int, step, num_rows: int) -> jax.Array:
    """Returns one dropout key a row: dropout depends on (seed, step, row) and nothing else."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(num_rows))


def _split_rows(tree, num_microbatches: int, mesh: Mesh | None):
    """[B, ...] -> [microbatches, B / microbatches, ...] without moving a row between devices.

    Strided, not contiguous: row r goes to microbatch r % n, so each device cuts its own rows.
    """

    def split(x):
        x = x.reshape(x.shape[0] // num_microbatches, num_microbatches, *x.shape[1:])
        x = jnp.swapaxes(x, 0, 1)
        if mesh is None:
            return x
        where = NamedSharding(mesh, PartitionSpec(None, partitioning.BATCH_AXES))
        return jax.lax.with_sharding_constraint(x, where)

    return jax.tree.map(split, tree)


def gradients(params, batch, dropout_keys_B, *, model, loss, num_microbatches, mesh, where=None):
    """Returns (gradients, LossSums, normalizer) of one batch, whatever the microbatches.

    The weights and the normaliser come from the whole batch before it is cut, so n
    microbatches give the gradient of one.
    """
    weights_BS, normalizer = losses.normalized_weights(
        batch, loss.loss_normalizing_factor, loss.normalize_over_rows
    )

    def normalised(params, batch, weights_BS, keys_B):
        sums = batch_sums(params, batch, weights_BS, keys_B, model=model, loss=loss, mesh=mesh)
        return sums.loss / normalizer, sums

    differentiate = jax.grad(normalised, has_aux=True)
    if num_microbatches == 1:
        grads, sums = differentiate(params, batch, weights_BS, dropout_keys_B)
        return grads, sums, normalizer

    pieces = _split_rows((batch, weights_BS), num_microbatches, mesh)
    keys = None if dropout_keys_B is None else _split_rows(dropout_keys_B, num_microbatches, mesh)

    def placed(tree):
        # Without an annotation the accumulators would be whole on every device.
        return tree if where is None else jax.lax.with_sharding_constraint(tree, where)

    def accumulate(carry, piece):
        (batch, weights_BS), keys_B = piece
        grads, sums = differentiate(params, batch, weights_BS, keys_B)
        return jax.tree.map(jnp.add, carry, (placed(grads), sums)), None

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    start = (placed(zeros), losses.LossSums(*(jnp.float32(0),) * len(losses.LossSums._fields)))
    (grads, sums), _ = jax.lax.scan(accumulate, start, (pieces, keys))
    return grads, sums, normalizer


def make_train_step(
    model: nn.Module,
    loss: losses.LossConfig,
    optimizer,
    learning_rate,
    axes,
    *,
    seed: int,
    num_microbatches: int = 1,
    mesh: Mesh | None = None,
    skip_nonfinite: bool = False,
):
    """Returns step(state, batch) -> (state, metric sums), to be jitted with donated state.

    Args:
      axes: logical axes of the parameters (train_state.parameter_axes).
      learning_rate: function of the absolute step.
      seed: of dropout; a rate of 0 draws no keys.
      skip_nonfinite: where loss or gradient norm is not finite, parameters and optimizer state
        stay as they were, to the bit; the step is counted all the same.
    """
    dropout = model.config.dropout_rate > 0

    def step(state: TrainState, batch) -> tuple[TrainState, dict[str, jax.Array]]:
        rows = batch["decoder_target_tokens"].shape[0]
        keys_B = row_keys(seed, state.step, rows) if dropout else None
        where = None if mesh is None else partitioning.shardings(axes, state.params, mesh)
        grads, sums, normalizer = gradients(
            state.params,
            batch,
            keys_B,
            model=model,
            loss=loss,
            num_microbatches=num_microbatches,
            mesh=mesh,
            where=where,
        )
        rate = learning_rate(state.step)
        params, opt_state = optimizer.apply(
            state.params, grads, state.opt_state, axes, step=state.step, learning_rate=rate
        )
        metrics = metric_sums(batch, sums, normalizer)
        squares = [jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)]
        metrics["grad_norm"] = jnp.sqrt(jnp.sum(jnp.stack(squares)))
        metrics["learning_rate"] = jnp.asarray(rate, jnp.float32)
        if skip_nonfinite:
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            # The update reads the old values anyway, so that choosing costs no memory traffic.
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                (params, opt_state),
                (state.params, state.opt_state),
            )
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def make_eval_step(model: nn.Module, loss: losses.LossConfig, *, mesh: Mesh | None = None):
    """Returns step(params, batch) -> metric sums, teacher-forced and without dropout."""

    def step(params, batch):
        weights_BS, normalizer = losses.normalized_weights(
            batch, loss.loss_normalizing_factor, loss.normalize_over_rows
        )
        sums = batch_sums(params, batch, weights_BS, None, model=model, loss=loss, mesh=mesh)
        return metric_sums(batch, sums, normalizer)

    return step


def lower_train_step(step, state_where, abstract_state, abstract_batch, mesh: Mesh):
    """Traces a step for the mesh, ready to be compiled; the state is donated."""
    rows = partitioning.batch_sharding(mesh)
    whole = partitioning.replicated(mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.LOGICAL_RULES):
        jitted = jax.jit(
            step,
            in_shardings=(state_where, rows),
            out_shardings=(state_where, whole),
            donate_argnums=0,
        )
        return jitted.lower(abstract_state, abstract_batch)


def compile_train_step(step, state_where, abstract_state, abstract_batch, mesh: Mesh):
    """Compiles ahead of time for the mesh, touching no data; the state is donated."""
    return lower_train_step(step, state_where, abstract_state, abstract_batch, mesh).compile()


def lower_eval_step(step, params_where, abstract_params, abstract_batch, mesh: Mesh):
    """Traces an eval step for the mesh, ready to be compiled."""
    rows = partitioning.batch_sharding(mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.LOGICAL_RULES):
        jitted = jax.jit(
            step, in_shardings=(params_where, rows), out_shardings=partitioning.replicated(mesh)
        )
        return jitted.lower(abstract_params, abstract_batch)


def compile_eval_step(step, params_where, abstract_params, abstract_batch, mesh: Mesh):
    """Compiles an eval step ahead of time for the mesh."""
    return lower_eval_step(step, params_where, abstract_params, abstract_batch, mesh).compile()
