"""Which mesh, microbatches, rematerialisation and rows make a training step fastest where it fits.

All candidates are predicted by formula; the most promising are compiled, and their order is that
of the compiled programs.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mt0_tpu import train_state
from mt0_tpu.errors import UserError
from mt0_tpu.models import networks
from mt0_tpu.optimizers import Adafactor
from mt0_tpu.partitioning import MeshConfig
from mt0_tpu.plan import Plan, plan
from mt0_tpu.planning import analytic_model, topologies
from mt0_tpu.planning.analytic_model import Candidate, Prediction
from mt0_tpu.planning.topologies import Topology, of_same_generation

# What a compiled program reserves was 0.9 to 1.4 times what the formulas say is alive: a candidate
# that is predicted to fill more than this is not compiled.
_FILLED = 0.8
_MOST_MICROBATCHES = 64
# 'minimal_offload' is left out: the formulas know nothing of the host.
_POLICIES = ("none", "minimal", "full")


@dataclasses.dataclass(frozen=True)
class Tried:
    """A candidate that was compiled, as predicted and as found."""

    candidate: Candidate
    prediction: Prediction
    plan: Plan


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search saw.

    Attributes:
      config: the recipe's network.
      candidates: how many there are; predicted: those that should fit, fastest first.
      tried: compiled, those that fit and are fastest first.
      agreed, pairs: of the pairs of compiled candidates that fit, how many the formulas had in
        the compiled order.
    """

    config: Any
    candidates: int
    predicted: list[tuple[Candidate, Prediction]]
    tried: list[Tried]
    agreed: int
    pairs: int


def search(
    arguments: Mapping[str, Any],
    topology: Topology,
    *,
    compile_most: int = 4,
    row_lengths: Sequence[tuple[int, int]] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Found:
    """Tries ways to run the training step of resolved arguments.

    Args:
      compile_most: how many are compiled.
      row_lengths: (inputs, targets) beside the recipe's own; the rows change so that a step keeps
        its number of positions.

    Raises:
      UserError: nothing is predicted to fit, with what would be least; or none of those compiled
        did.
    """
    everything = list(candidates(arguments, topology, row_lengths))
    if not everything:
        config, dataset = arguments["model"], arguments["train_dataset"]
        raise UserError(
            f"no mesh of {topology.devices} devices divides BATCH_SIZE {dataset.batch_size} and "
            f"{config.num_heads} heads; change BATCH_SIZE to a multiple of a power of two"
        )
    predicted = predictions(arguments, everything, topology)
    limit = (topology.usable_hbm_gib or float("inf")) * 2**30
    fitting = [pair for pair in predicted if pair[1].peak_bytes <= limit * _FILLED]
    if not fitting:
        least = min(prediction.peak_bytes for _, prediction in predicted)
        larger = smallest_that_fits(arguments, topology)
        advice = f"the smallest slice that should do is {larger}" if larger else "none would do"
        raise UserError(
            f"nothing fits {topology.name}: by formula a device needs {least / 2**30:.1f} GiB at "
            f"least, and of its {limit / 2**30:.2f} GiB formulas may fill {_FILLED:.0%}; {advice}"
        )
    fitting.sort(key=lambda pair: (pair[1].seconds, pair[1].peak_bytes))
    tried = []
    for candidate, prediction in _varied(fitting, compile_most):
        say(f"compiling {describe(candidate)} ...")
        made = plan("train", with_candidate(arguments, candidate), topology)
        tried.append(Tried(candidate, prediction, made))
    agreed, pairs = agreement(tried)
    tried.sort(key=_speed)
    return Found(arguments["model"], len(everything), fitting, tried, agreed, pairs)


def candidates(
    arguments: Mapping[str, Any],
    topology: Topology,
    row_lengths: Sequence[tuple[int, int]] = (),
) -> Iterator[Candidate]:
    """Every combination that divides: axes are powers of two, slices the replica axis."""
    config = arguments["model"]
    dataset = arguments["train_dataset"].for_model(config.decoder_only)
    own = dataset.row_lengths
    positions = dataset.batch_size * sum(own)
    share = topology.devices_per_slice
    for tensor, lengths in itertools.product(_powers(share), dict.fromkeys([own, *row_lengths])):
        if config.num_heads % tensor:
            continue
        rows = dataset.batch_size if lengths == own else round(positions / sum(lengths))
        for fsdp in _powers(share // tensor):
            data = share // tensor // fsdp
            ways = topology.slices * data * fsdp
            for microbatches in _powers(_MOST_MICROBATCHES):
                if rows % (ways * microbatches):
                    continue
                cuttable = hasattr(config, "sequence_parallel") and tensor > 1
                cuts = (False, True) if cuttable and not _odd(lengths, tensor) else (False,)
                for policy, sequence in itertools.product(_POLICIES, cuts):
                    yield Candidate(
                        topology.slices, data, fsdp, tensor, microbatches, policy, sequence,
                        rows, *lengths,
                    )  # fmt: skip


def _powers(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length()) if most % 2**power == 0]


def _odd(lengths: tuple[int, int], ways: int) -> bool:
    return any(length % ways for length in lengths)


def predictions(
    arguments: Mapping[str, Any], everything: Sequence[Candidate], topology: Topology
) -> list[tuple[Candidate, Prediction]]:
    """Returns every candidate with what the formulas say of it."""
    config, optimizer = arguments["model"], arguments.get("optimizer", Adafactor())
    shapes, axes = _abstract_state(config, optimizer)
    state: dict[tuple, tuple[float, float]] = {}
    found = []
    for one in everything:
        key = tuple(one.mesh_shape.values())
        if key not in state:
            state[key] = analytic_model.state_bytes(shapes, axes, one)
        found.append((one, analytic_model.predict(config, state[key], one, topology)))
    return found


@functools.lru_cache(maxsize=8)
def _abstract_state(config: Any, optimizer: Any):
    return train_state.abstract_state(networks.network(config), optimizer)


def some_fit(arguments: Mapping[str, Any], topology: Topology) -> bool:
    """Whether any candidate should fit, by formula."""
    limit = topology.usable_hbm_gib * 2**30 * _FILLED
    found = predictions(arguments, list(candidates(arguments, topology)), topology)
    return any(prediction.peak_bytes <= limit for _, prediction in found)


def smallest_that_fits(arguments: Mapping[str, Any], topology: Topology) -> str | None:
    """Returns the smallest slice of the same generation that should do, by formula."""
    for name in of_same_generation(topology.name):
        larger = topologies.topology(name, topology.slices)
        if larger.chips <= topology.chips:
            continue
        if some_fit(arguments, larger):
            return name
    return None


def _varied(fitting, most: int):
    """The fastest of each (tensor, policy, cut, row length), so that one mistake of the formulas
    does not choose all."""
    seen, chosen = set(), []
    for candidate, prediction in fitting:
        kind = (
            candidate.tensor, candidate.remat_policy, candidate.sequence_parallel,
            candidate.inputs,
        )  # fmt: skip
        if kind not in seen:
            seen.add(kind)
            chosen.append((candidate, prediction))
    return chosen[:most]


def with_candidate(arguments: Mapping[str, Any], one: Candidate) -> dict[str, Any]:
    """Returns the run's arguments with the candidate's settings."""
    changes: dict[str, Any] = {"batch_size": one.rows}
    if arguments["train_dataset"].for_model(arguments["model"].decoder_only).row_lengths != (
        one.inputs, one.targets,
    ):  # fmt: skip
        changes["task_feature_lengths"] = {"inputs": one.inputs, "targets": one.targets}
    dataset = dataclasses.replace(arguments["train_dataset"], **changes)
    cut = {}
    if hasattr(arguments["model"], "sequence_parallel"):
        cut["sequence_parallel"] = one.sequence_parallel
    model = dataclasses.replace(arguments["model"], remat_policy=one.remat_policy, **cut)
    return dict(arguments) | {
        "model": model,
        "train_dataset": dataset,
        "num_microbatches": one.num_microbatches,
        "mesh": MeshConfig(one.replica, one.data, one.fsdp, one.tensor),
    }


def _speed(tried: Tried) -> tuple:
    """Those that fit first, the fastest first; on cpu-N by what the formulas say."""
    made = tried.plan
    seconds = made.estimate.step_s if made.estimate else tried.prediction.seconds
    return made.fits is False, seconds, tried.prediction.peak_bytes


def agreement(tried: Sequence[Tried]) -> tuple[int, int]:
    """Returns (pairs whose order the formulas had right, pairs), of those with an estimate."""
    fitting = [one for one in tried if one.plan.estimate and one.plan.fits]
    pairs = list(itertools.combinations(fitting, 2))
    right = sum(
        (a.prediction.seconds < b.prediction.seconds)
        == (a.plan.estimate.step_s < b.plan.estimate.step_s)
        for a, b in pairs
    )
    return right, len(pairs)


def describe(one: Candidate) -> str:
    """As data 1 x fsdp 16 x tensor 4, 2 microbatches, remat full, sequence cut, 128 x 1024/256."""
    axes = [(name, ways) for name, ways in one.mesh_shape.items() if ways > 1]
    mesh = " x ".join(f"{name} {ways}" for name, ways in axes) or "one device"
    cut = ", sequence cut" if one.sequence_parallel else ""
    return (
        f"{mesh}, {one.num_microbatches} microbatch{'es' if one.num_microbatches > 1 else ''}, "
        f"remat {one.remat_policy}{cut}, {one.rows} x {one.inputs}/{one.targets}"
    )


def gin_lines(one: Candidate, config: Any) -> list[str]:
    """What to paste into a gin file after the recipe, whose network `config` is."""
    family = "network.BloomConfig" if config.decoder_only else "network.T5Config"
    lines = [
        f"partitioning.PjitPartitioner.data = {one.data}",
        f"partitioning.PjitPartitioner.fsdp = {one.fsdp}",
        f"partitioning.PjitPartitioner.num_partitions = {one.tensor}",
        f"train.num_microbatches = {one.num_microbatches}",
        f"{family}.remat_policy = '{one.remat_policy}'",
    ]
    if one.sequence_parallel:
        lines.append(f"{family}.sequence_parallel = True")
    if one.replica > 1:
        lines.insert(0, f"partitioning.PjitPartitioner.replica = {one.replica}")
    return lines
