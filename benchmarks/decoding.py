"""Decoding of mT5-small with random parameters: CPU-seconds and peak memory.

    JAX_PLATFORMS=cpu python -m benchmarks.decoding       # greedy, 4 inputs of 128, 32 tokens each
    JAX_PLATFORMS=cpu python -m benchmarks.decoding mix   # predict() on inputs of many lengths
    JAX_PLATFORMS=cpu python -m benchmarks.decoding beam  # 4 beams on the first shape
    JAX_PLATFORMS=cpu python -m benchmarks.decoding parts # the towers alone, and the head's reading
    JAX_PLATFORMS=cpu python -m benchmarks.decoding t5x   # the first shape by T5X, where installed

First case: no id counts as EOS, so that no row ends early. T5X needs 7.9 CPU-s for this (2.65 with
a gather embedding), Hugging Face 4.5, on the machine of facts/peers.md. Beside it the same without
blocks (decode_weights.py), by XLA's own products.

The mix: lengths drawn log-normally; the column of EOS in the head is scaled so that decodes end
anywhere. Beside predict() stands one batch after the other, sorted by length, each until its
slowest row has ended, as `infer.decode_all` did.

The parts: the first case with a vocabulary of 512 ids, which leaves the towers' work as it is now,
and the head of 250,112 read once a token at the speed of a plain sum: what is left if nothing but
the head's product gets faster, and as fast as that. Without XLA's scheduler for concurrency, which
costs the towers alone up to three times their work (not beside the head: greedy keeps it).
"""

from __future__ import annotations

import dataclasses
import os
import resource
import sys
import time
import types
from collections.abc import Callable, Iterable

import jax
import numpy as np

from benchmarks.mt5_small import MT5_SMALL
from mt0_tpu import decode_weights, decoding, train_state
from mt0_tpu.decode_config import DecodeConfig
from mt0_tpu.models.t5 import T5
from mt0_tpu.predict import predict

MIX_INPUTS, MIX_BATCH, MIX_LENGTH = 128, 16, 32


def timed(names: Iterable[str], work: Callable[[], np.ndarray]) -> np.ndarray:
    """Prints one line a repetition; returns what the last one gave."""
    for name in names:
        wall, own = time.perf_counter(), time.process_time()
        result = work()
        wall, own = time.perf_counter() - wall, time.process_time() - own
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name} {own:.2f} CPU-s {wall:.2f} wall-s peak {peak:.2f} GiB", flush=True)
    return result


def random_params():
    """Returns mT5-small's parameters as training would draw them."""
    params = jax.jit(lambda: train_state.init_params(T5(MT5_SMALL), 0))()
    return jax.block_until_ready(params)


def greedy() -> None:
    """The shape of facts/peers.md B."""
    params = random_params()
    tokens_BT = np.random.default_rng(0).integers(3, 250000, (4, 128)).astype(np.int32)

    def work() -> np.ndarray:
        return np.asarray(decoding.greedy_decode(params, MT5_SMALL, tokens_BT, 32, eos_id=-1))

    began = time.process_time()
    decode_weights.variables(params, MT5_SMALL, len(tokens_BT))
    print(f"blocks laid out, once for these parameters {time.process_time() - began:.2f} CPU-s")
    ids_BS = timed(["compile", *["warm"] * 5], work)
    most_cores, decode_weights.MOST_CORES = decode_weights.MOST_CORES, 0
    plain_BS = timed(["XLA's products, compile", *["XLA's products, warm"] * 5], work)
    decode_weights.MOST_CORES = most_cores
    print(f"sum of ids {ids_BS.sum()}, {np.mean(ids_BS == plain_BS):.0%} equal")


def t5x() -> None:
    """T5X's greedy decoding of the first shape, its one-hot product replaced by a gather."""
    import t5x.decoding
    from t5x import models
    from t5x.examples.t5 import network

    stock = network.layers.Embed
    network.layers.Embed = lambda *args, **kw: stock(*args, **{**kw, "one_hot": False})
    names = ("emb_dim", "num_heads", "num_encoder_layers", "num_decoder_layers", "head_dim")
    names += ("mlp_dim", "dropout_rate", "vocab_size", "dtype", "logits_via_embedding")
    sizes = {name: getattr(MT5_SMALL, name) for name in names}
    module = network.Transformer(network.T5Config(**sizes, mlp_activations=("gelu", "linear")))
    # Of a vocabulary it reads the EOS id alone.
    vocabulary = types.SimpleNamespace(eos_id=-1)
    model = models.EncoderDecoderModel(
        module, vocabulary, vocabulary, None, t5x.decoding.temperature_sample
    )
    tokens_BT = np.random.default_rng(0).integers(3, 250000, (4, 128)).astype(np.int32)
    batch = {"encoder_input_tokens": tokens_BT, "decoder_input_tokens": np.zeros((4, 32), np.int32)}

    def init():
        one_by_one = np.ones((1, 8), np.int32)
        return module.init(jax.random.key(0), *[one_by_one] * 3, enable_dropout=False)

    params = jax.block_until_ready(jax.jit(init)())["params"]
    decode = jax.jit(
        lambda params: model.predict_batch_with_aux(
            params, batch, decoder_params={"temperature": 0.0}
        )[0]
    )
    timed(["T5X, compile", *["T5X, warm"] * 5], lambda: np.asarray(decode(params)))


def parts() -> None:
    """The towers without a head, and the head read as fast as a plain sum reads it."""
    # Read when the first program is compiled.
    flag = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    towers = dataclasses.replace(MT5_SMALL, vocab_size=512)
    params = jax.block_until_ready(jax.jit(lambda: train_state.init_params(T5(towers), 0))())
    tokens_BT = np.random.default_rng(0).integers(3, 512, (4, 128)).astype(np.int32)

    def decode() -> np.ndarray:
        return np.asarray(decoding.greedy_decode(params, towers, tokens_BT, 32, eos_id=-1))

    timed(["towers, compile", *["towers, 32 tokens"] * 3], decode)
    kernel_DV = jax.random.normal(jax.random.key(0), (MT5_SMALL.emb_dim, MT5_SMALL.vocab_size))
    total = jax.jit(lambda kernel_DV: kernel_DV.sum())

    def read() -> np.ndarray:
        return np.array([jax.block_until_ready(total(kernel_DV)) for _ in range(32)])

    timed(["head, compile", *["head, read 32 times"] * 3], read)


def beam() -> None:
    """The same shape with four beams."""
    params = random_params()
    inputs = np.random.default_rng(0).integers(3, 250000, (4, 128)).tolist()
    decode = DecodeConfig("beam", num_decodes=4)

    def work() -> np.ndarray:
        found = predict(
            params, MT5_SMALL, inputs, max_decode_len=32, decode=decode, batch_size=4, eos_id=-1
        )
        return np.array([one.scores for one in found])

    print("best scores", timed(["compile", *["warm"] * 3], work)[:, 0])


def mix() -> None:
    """predict() against whole batches, on the same inputs."""
    params = random_params()
    kernel_DV = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = kernel_DV.at[:, 1].multiply(2.6)
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4.3, 0.7, MIX_INPUTS), 8, 512).astype(int)
    inputs = [rng.integers(3, 250000, length).tolist() for length in lengths]

    def batches() -> list[list[int]]:
        found: list[list[int]] = [[]] * MIX_INPUTS
        order = np.argsort(lengths, kind="stable")
        for begin in range(0, MIX_INPUTS, MIX_BATCH):
            members = order[begin : begin + MIX_BATCH]
            width = 2 ** int(np.ceil(np.log2(max(16, lengths[members].max()))))
            tokens_BT = np.zeros((MIX_BATCH, width), np.int32)
            for row, member in enumerate(members):
                tokens_BT[row, : lengths[member]] = inputs[member]
            ids_BS = decoding.greedy_decode(params, MT5_SMALL, tokens_BT, MIX_LENGTH)
            for member, ids in zip(members, np.asarray(ids_BS), strict=True):
                end = np.flatnonzero(ids == 1)
                found[member] = ids[: end[0] if len(end) else MIX_LENGTH].tolist()
        return found

    def full_batches() -> list[list[int]]:
        found = predict(params, MT5_SMALL, inputs, max_decode_len=MIX_LENGTH, batch_size=MIX_BATCH)
        return [one.ids[0] for one in found]

    print(f"{MIX_INPUTS} inputs, {lengths.sum()} tokens, longest {lengths.max()}")
    new = timed(["predict, compile", "predict, warm"], full_batches)
    old = timed(["batch by batch, compile", "batch by batch, warm"], batches)
    sizes = np.array([len(ids) for ids in new])
    alike = sum(a == b for a, b in zip(new, old, strict=True))
    quartiles = np.percentile(sizes, [25, 50, 75])
    at_limit = np.mean(sizes == MIX_LENGTH)
    print(f"decodes: {sizes.sum()} tokens, quartiles {quartiles}, {at_limit:.0%} at the limit")
    print(f"{alike} of {MIX_INPUTS} alike")


if __name__ == "__main__":
    cases = {"greedy": greedy, "beam": beam, "mix": mix, "parts": parts, "t5x": t5x}
    cases[sys.argv[1] if len(sys.argv) > 1 else "greedy"]()
