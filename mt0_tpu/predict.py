"""Decodes a list of inputs in batches that stay full, results in the order of the inputs.

Inputs go by length, shortest first, in groups of a quarter of a batch. A group enters as soon as
that many places are free, whatever the others are at; when no input is left, the rows that still
decode move to a smaller batch. What is decoded of an input depends on none of this.

Letters: B places of a batch, G inputs of a group, T encoder length, N decodes, S decode length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from mt0_tpu import decoding, partitioning
from mt0_tpu.beam_search import NOTHING
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.errors import UserError
from mt0_tpu.models.networks import NetworkConfig
from mt0_tpu.text_vocabulary import content

_SHORTEST_BUCKET = 16
_LARGEST_INDEX = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The decodes of one input, best first.

    Attributes:
      ids: of each decode, without EOS and what follows.
      scores: of each, as the method defines them. Greedy: log p of the ids, EOS included; sample:
        the same, of the distribution drawn from; beam: divided by the penalty, -1e7 where no
        hypothesis fills the place.
    """

    ids: list[list[int]]
    scores: list[float]


def predict(
    params,
    config: NetworkConfig,
    inputs: Sequence[Sequence[int]],
    *,
    max_decode_len: int,
    decode: DecodeConfig = DecodeConfig(),
    max_input_length: int | None = None,
    batch_size: int = 32,
    eos_id: int | None = None,
    mesh: Mesh | None = None,
    first_index: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """Decodes every input.

    Memory grows with the ids given and returned and with one batch: hand over a long job in parts.

    Args:
      params: of the network, lying on the mesh where there is one.
      inputs: ids of each input, without padding; an EOS that training had must be there.
      max_decode_len: tokens of a decode, EOS included.
      max_input_length: tokens; what is longer is cut as T5X does (a final EOS stays).
      batch_size: inputs that decode together, each with all its decodes.
      eos_id: ends a decode; None is T5's, a decoder-only network has to be told.
      first_index: the number of inputs[0] in the whole job, which sampling depends on.
      progress: called with the number of inputs done so far.

    Raises:
      UserError: an input is empty or holds an id outside the vocabulary, or an argument is wrong.
    """
    engine = decoding.engine(config, decode, max_decode_len, eos_id=eos_id, mesh=mesh)
    _check_sizes(config, decode, batch_size, max_input_length, first_index, len(inputs), mesh)
    arrays = [
        _checked(ids, first_index + number, engine, max_input_length)
        for number, ids in enumerate(inputs)
    ]
    job = _Job(engine, params, arrays, first_index, decode.seed, progress)
    if arrays:
        job.do(*_batch_sizes(len(arrays), batch_size, mesh))
    return job.results


class _Job:
    """One call of predict: the places of the batch, and who sits in them."""

    def __init__(self, engine, params, arrays, first_index, seed, progress):
        self._engine, self._params, self._arrays = engine, params, arrays
        self._first_index, self._seed, self._progress = first_index, seed, progress
        self._state: decoding.State | None = None
        self._owners = np.empty(0, np.int64)  # the input in each place, -1 where it is free
        self._done = 0
        self.results: list[Prediction] = [Prediction([], [])] * len(arrays)

    def do(self, places: int, group: int) -> None:
        """Decodes everything with `places` places, inputs entering by `group`."""
        self._owners = np.full(places, -1, np.int64)
        for length, members in _length_classes([len(ids) for ids in self._arrays], places):
            if self._state is None:
                self._state = self._engine.empty(self._params, places, length)
            else:
                self._state = self._engine.widen(self._state, length)
            for entering, prefilled in self._groups(members, group, length):
                free = np.flatnonzero(self._owners < 0)
                if len(free) < len(entering):
                    self._run(len(entering))
                    free = np.flatnonzero(self._owners < 0)
                self._seat(entering, prefilled, free[: len(entering)])
        if group < places:
            self._run(places - group)
            if np.any(self._owners >= 0):
                self._move(group)
        self._run(len(self._owners))

    def _groups(self, members: np.ndarray, group: int, length: int) -> Iterator:
        """Yields (input numbers, their state); the device encodes while the host goes on."""
        for begin in range(0, len(members), group):
            entering = members[begin : begin + group]
            tokens_GT = np.zeros((group, length), np.int32)
            numbers_G, lengths_G = np.zeros((2, group), np.int32)
            for row, member in enumerate(entering):
                lengths_G[row] = len(self._arrays[member])
                tokens_GT[row, : lengths_G[row]] = self._arrays[member]
            numbers_G[: len(entering)] = self._first_index + entering
            yield (
                entering,
                self._engine.prefill(self._params, tokens_GT, numbers_G, self._seed, lengths_G),
            )

    def _seat(self, entering: np.ndarray, prefilled: decoding.State, slots: np.ndarray) -> None:
        slots_G = np.full(prefilled.ended_B.shape[0], len(self._owners), np.int32)
        slots_G[: len(slots)] = slots
        self._state = self._engine.insert(self._state, prefilled, slots_G)
        self._owners[slots] = entering

    def _run(self, free: int) -> None:
        """Decodes until that many places are free; takes what has ended out of them."""
        if np.count_nonzero(self._owners < 0) >= free:
            return
        self._state, report = self._engine.run(self._params, self._state, free)
        ended_B, ids_BNS, scores_BN = (np.asarray(one) for one in report)
        for slot in np.flatnonzero(ended_B & (self._owners >= 0)):
            pairs = zip(ids_BNS[slot], scores_BN[slot], strict=True)
            ids = [self._content(*pair) for pair in pairs]
            self.results[self._owners[slot]] = Prediction(ids, scores_BN[slot].tolist())
            self._owners[slot] = -1
            self._done += 1
        if self._progress:
            self._progress(self._done)

    def _content(self, ids_S: np.ndarray, score: float) -> list[int]:
        if score <= NOTHING:  # no hypothesis
            return []
        return content(ids_S, self._engine.eos_id, self._engine.inputs.PAD_ID)

    def _move(self, places: int) -> None:
        """Moves the inputs that still decode to a batch of fewer places."""
        live = np.flatnonzero(self._owners >= 0)
        slots_C = np.full(places, len(self._owners), np.int32)
        slots_C[: len(live)] = live
        self._state = self._engine.select(self._state, slots_C)
        self._owners = np.append(self._owners[live], np.full(places - len(live), -1))


def _length_classes(lengths: Sequence[int], places: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (encoder length, input numbers), the shortest first.

    Encoder lengths are 16, 24, 32, 48, 64 ..., so that few shapes are compiled. A class that does
    not fill a batch goes along with the next: a shape costs more to compile than it saves.
    """
    lengths_M = np.asarray(lengths)
    order = np.argsort(lengths_M, kind="stable")
    begin, bucket = 0, _SHORTEST_BUCKET
    while begin < len(order):
        stop = int(np.searchsorted(lengths_M[order], bucket, side="right"))
        if stop == len(order) or stop - begin >= places:
            yield bucket, order[begin:stop]
            begin = stop
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket * 4 // 3


def _batch_sizes(inputs: int, batch_size: int, mesh: Mesh | None) -> tuple[int, int]:
    """Returns (places of a batch, inputs of a group), each a multiple of the mesh's batch ways."""
    ways = 1 if mesh is None else partitioning.batch_ways(mesh)
    places = ways
    while places < min(inputs, batch_size):
        places *= 2
    places = min(places, batch_size)
    quarters = [part for part in (places // 4, places // 2) if part and part % ways == 0]
    return places, quarters[0] if quarters else places


def _check_sizes(config, decode, batch_size, max_input_length, first_index, inputs, mesh) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"batch_size is {batch_size!r}; write 1 or more")
    if mesh is not None:
        partitioning.check_batch_size(batch_size, mesh)
    if max_input_length is not None and max_input_length < 1:
        raise UserError(f"max_input_length is {max_input_length}; write 1 or more")
    if first_index < 0 or first_index + inputs > _LARGEST_INDEX:
        raise UserError(
            f"first_index is {first_index} with {inputs} inputs; inputs are numbered from 0 to "
            f"{_LARGEST_INDEX}"
        )
    if decode.method == "beam" and 2 * decode.num_decodes > config.vocab_size:
        raise UserError(
            f"DecodeConfig.num_decodes is {decode.num_decodes}, but a vocabulary of "
            f"{config.vocab_size} allows at most {config.vocab_size // 2} beams"
        )


def _checked(
    ids: Sequence[int], number: int, engine: decoding.Engine, limit: int | None
) -> np.ndarray:
    """Returns int32 ids, cut to the limit; UserError names the input by its number in the job."""
    ids, eos_id, vocab_size = np.asarray(ids), engine.eos_id, engine.config.vocab_size
    padding = engine.inputs.PAD_ID
    if ids.ndim != 1 or ids.size == 0 or (padding is not None and np.all(ids == padding)):
        raise UserError(f"input {number} has no tokens; leave it out, or let inputs end with EOS")
    if not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"input {number} holds {ids.dtype} and not token ids; tokenize it first")
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if outside.size:
        raise UserError(
            f"input {number} holds the id {outside[0]}, but the network's vocabulary has the ids 0 "
            f"to {vocab_size - 1}; use the vocabulary that the checkpoint was trained with"
        )
    if limit is not None and len(ids) > limit:
        ids = np.append(ids[: limit - 1], eos_id) if ids[-1] == eos_id else ids[:limit]
    return ids.astype(np.int32)
