"""Log-likelihood of answer choices given an input: what rank classification compares.

How choices share rows is in choice_packing.py; here they meet the network.

Letters: B rows, S targets of a row, D width, V vocabulary, W batch shards of the mesh, N targets
of a shard whose logits are computed, Q targets that share those of another.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mt0_tpu import losses, partitioning
from mt0_tpu.choice_packing import Batch, Example, RowGroup, checked, layout_of, plan, row_length
from mt0_tpu.errors import UserError
from mt0_tpu.models import networks
from mt0_tpu.models.networks import NetworkConfig

# Batches handed to the device before the oldest is read: enough that it never waits for the host.
_IN_FLIGHT = 3


def score_choices(
    params,
    config: NetworkConfig,
    examples: Sequence[Example],
    *,
    batch_size: int = 32,
    max_input_length: int | None = None,
    max_choice_length: int | None = None,
    overlong: str = "trim",
    length_normalised: bool = False,
    min_choices: int = 2,
    eos_id: int | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """Scores every choice: the sum over its tokens of log p(token | input, tokens before).

    Args:
      params: of the network, lying on the mesh where there is one.
      examples: (input ids, [ids of each choice]); EOS is scored where the ids end with it.
      batch_size: about how many inputs a batch holds.
      max_input_length, max_choice_length: tokens; what is longer is cut as T5X does (a final EOS
        stays), with a warning, or is an error where overlong is 'error'.
      length_normalised: divides by the number of tokens; the published evaluation of mT0 does not.
      min_choices: fewer are an error; 1 scores (input, target) pairs.
      eos_id: what stays at the end of what is cut; None is T5's, and nothing in a decoder-only
        network.
      progress: called with the number of examples scored so far.

    Returns:
      float64 arrays, one an example with one score a choice, in the order given.
    """
    eos_id = layout_of(config).EOS_ID if eos_id is None else eos_id
    lengths = (max_input_length, max_choice_length)
    examples = checked(examples, *lengths, overlong, min_choices, eos_id)
    scores = [np.zeros(len(choices)) for _, choices in examples]

    def collect(batch: Batch, log_probs_WN, difference_Q) -> None:
        sums = batch.scores(log_probs_WN, difference_Q)
        if length_normalised:
            sums = sums / batch.length
        for owner, number, score in zip(batch.owner, batch.number, sums, strict=True):
            scores[owner][number] = score

    ways = 1 if mesh is None else partitioning.batch_ways(mesh)
    groups = plan(config, examples, batch_size, ways)
    _run(params, config, groups, examples, mesh, False, collect, progress)
    return scores


def score_and_compare(
    params,
    config: NetworkConfig,
    examples: Sequence[Example],
    *,
    batch_size: int = 32,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores every choice and says whether greedy decoding would begin with it.

    Arguments as score_choices; one choice is enough. Choices that begin alike share no logits
    here, so the head works more.

    Returns:
      (float64 scores, bool) of each example, one value a choice: whether each of its tokens is
      the most likely one after the input and the tokens before it.
    """
    examples = checked(examples, None, None, "error", min_choices=1)
    found = [(np.zeros(len(c)), np.zeros(len(c), bool)) for _, c in examples]

    def collect(batch: Batch, log_probs_WN, difference_Q, correct_WN) -> None:
        sums = batch.scores(log_probs_WN, difference_Q)
        greedy = batch.greedy(correct_WN)
        for owner, number, *values in zip(batch.owner, batch.number, sums, greedy, strict=True):
            for array, value in zip(found[owner], values, strict=True):
                array[number] = value

    ways = 1 if mesh is None else partitioning.batch_ways(mesh)
    groups = plan(config, examples, batch_size, ways, share=False)
    _run(params, config, groups, examples, mesh, True, collect, progress)
    return found


def _run(
    params, config, groups: Sequence[RowGroup], examples, mesh, compare, collect, progress
) -> None:
    """Hands collect(batch, *outputs of _step) every batch, the outputs as float64."""
    done = 0

    def take(batch: Batch, outputs) -> None:
        nonlocal done
        collect(batch, *(np.asarray(output, np.float64) for output in outputs))
        done += len(np.unique(batch.owner))
        if progress:
            progress(done)

    waiting: deque = deque()
    with ExitStack() as stack:
        if mesh is not None:
            stack.enter_context(jax.set_mesh(mesh))
            stack.enter_context(nn.logical_axis_rules(partitioning.LOGICAL_RULES))
        step = _compiled_step(config, mesh, compare)
        for batch in itertools.chain.from_iterable(group.batches(examples) for group in groups):
            waiting.append((batch, step(params, place_batch(batch.features, mesh))))
            if len(waiting) > _IN_FLIGHT:
                take(*waiting.popleft())
        while waiting:
            take(*waiting.popleft())


def predictions(scores: Sequence[np.ndarray], answers: Sequence[int]) -> np.ndarray:
    """Returns the index of the highest score of each example, the first of equals.

    Raises UserError where an answer is no index of its example's choices.
    """
    if len(scores) != len(answers):
        raise UserError(f"{len(scores)} examples have scores and {len(answers)} have answers")
    for number, (row, answer) in enumerate(zip(scores, answers, strict=True)):
        if not 0 <= answer < len(row):
            raise UserError(
                f"example {number}: the answer is {answer}, but its {len(row)} choices have the "
                f"indices 0 to {len(row) - 1}; correct the field 'answer' of the task"
            )
    return np.array([int(np.argmax(row)) for row in scores], np.int32)


def place_batch(features: dict[str, np.ndarray], mesh: Mesh | None) -> dict[str, jax.Array]:
    """Lays a batch, equal on all hosts, over the mesh."""
    if mesh is None:
        return jax.device_put(features)
    rows, whole = partitioning.batch_sharding(mesh), partitioning.replicated(mesh)

    def put(name: str, array: np.ndarray) -> jax.Array:
        where = whole if name in ("first_Q", "repeated_Q") else rows
        return jax.make_array_from_callback(array.shape, where, lambda index: array[index])

    return {name: put(name, array) for name, array in features.items()}


@functools.cache
def _compiled_step(config: NetworkConfig, mesh: Mesh | None, compare: bool):
    """Returns the jitted step; cached, so that evaluations in training compile once."""
    step = functools.partial(_step, config=config, mesh=mesh, compare=compare)
    if mesh is None:
        return jax.jit(step)
    # Whole on every device, so that each host can read all of it.
    return jax.jit(step, out_shardings=partitioning.replicated(mesh))


def _step(params, batch, *, config: NetworkConfig, mesh: Mesh | None, compare: bool):
    """Returns (log p of the target at counted_WN, its difference from first_Q to repeated_Q).

    With `compare` also whether the target at counted_WN is the most likely token.
    """
    run = functools.partial(networks.network(config).apply, {"params": params})
    hidden_BSD = layout_of(config).hidden(run, batch)
    kernel_DV = networks.head_kernel(params, config)
    targets_BS, counted_WN = batch["decoder_target_tokens"], batch["counted_WN"]
    shards, width = counted_WN.shape[0], hidden_BSD.shape[-1]
    # The head is half of the work at mT5's vocabulary, so it sees wanted positions only.
    at_WN = jnp.maximum(counted_WN, 0)
    wanted_WND = jnp.take_along_axis(
        hidden_BSD.reshape(shards, -1, width), at_WN[:, :, None], axis=1
    )
    log_probs_WN, correct_WN = losses.token_log_probs(
        wanted_WND,
        kernel_DV,
        jnp.take_along_axis(targets_BS.reshape(shards, -1), at_WN, axis=1),
        (counted_WN >= 0).astype(jnp.float32),
        mesh=mesh,
        batch_axes=partitioning.BATCH_AXES,
        embed_axes=("fsdp",),
        vocab_axes=("tensor",),
    )
    # After the same tokens the hidden vector and the normaliser are the same: log p differs by
    # the difference of two logits, two columns of the head instead of all of them.
    first_Q, targets_P = batch["first_Q"], targets_BS.reshape(-1)
    hidden_QD = hidden_BSD.reshape(-1, width)[first_Q].astype(jnp.float32)
    own_DQ = networks.head_columns(params, config, targets_P[batch["repeated_Q"]])
    first_DQ = networks.head_columns(params, config, targets_P[first_Q])
    difference_Q = jnp.sum(hidden_QD * (own_DQ - first_DQ).astype(jnp.float32).T, axis=-1)
    outputs = (log_probs_WN, difference_Q)
    return (*outputs, correct_WN) if compare else outputs


def lower_step(
    config: NetworkConfig, params, params_where, rows: int, lengths: tuple[int, int], mesh: Mesh
):
    """Traces the step of score_choices for rows that are full, ready to be compiled.

    Args:
      params: abstract, lying at `params_where`.
      lengths: tokens of the inputs and of the choices of a row.

    Returns:
      (the batch's shapes, where they lie, a function that traces).
    """
    layout, targets = layout_of(config), lengths[1]
    ways = partitioning.batch_ways(mesh)
    length = row_length(layout, *lengths)
    empty = layout.features((rows, length, targets), (), ())
    shapes = {name: array.shape for name, array in empty.items()}
    shapes["decoder_target_tokens"] = (rows, targets)
    # No choice repeats another's beginning.
    shapes |= {"counted_WN": (ways, rows // ways * targets), "first_Q": (0,), "repeated_Q": (0,)}
    over, whole = partitioning.batch_sharding(mesh), partitioning.replicated(mesh)
    where = {name: whole if len(shape) == 1 else over for name, shape in shapes.items()}
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=where[name])
        for name, shape in shapes.items()
    }

    def lower():
        placed = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            params,
            params_where,
        )
        with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.LOGICAL_RULES):
            return _compiled_step(config, mesh, False).lower(placed, batch)

    return batch, where, lower
