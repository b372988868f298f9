"""The loss and its gradients at mT5's vocabulary: blocked, all logits at once, bare products.

    python -m benchmarks.loss [--tokens 256 --width 512 --vocabulary 250112 --block_mib 256]

Each variant runs in a child process of its own and prints one line: CPU-seconds (user + system,
the median of the runs after the first), wall seconds, XLA's temporaries and the peak memory of
the process. 'products' is the three matrix products alone, the least any exact loss can take.
The wall time means something on an idle machine only.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

VARIANTS = ("blocked", "naive", "products")


def cpu_seconds() -> float:
    """Returns user + system seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def computation(variant: str, block_mib: int):
    """Returns the function of (hidden, kernel, targets, weights) to be measured."""
    import jax
    import jax.numpy as jnp

    from mt0_tpu.losses import blocked_cross_entropy

    # Loss and accuracy, as a training step wants them: an unused accuracy would be compiled away.
    def blocked(hidden, kernel, targets, weights):
        sums = blocked_cross_entropy(
            hidden, kernel, targets, weights,
            z_loss=1e-4, label_smoothing=0.0, logits_block_mib=block_mib,
        )  # fmt: skip
        return sums.loss, sums.correct

    def naive(hidden, kernel, targets, weights):
        logits = hidden @ kernel
        lse = jax.nn.logsumexp(logits, axis=-1)
        label = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        loss = jnp.sum(weights * (lse - label + 1e-4 * lse * lse))
        return loss, jnp.sum(weights * (jnp.argmax(logits, axis=-1) == targets))

    def products(hidden, kernel, targets, weights):
        # The contractions of the loss itself, with nothing between them.
        hidden = hidden.reshape(-1, hidden.shape[-1])
        logits = jnp.einsum("nd,dv->nv", hidden, kernel)
        dhidden = jnp.einsum("nv,dv->nd", logits, kernel)
        return dhidden, jnp.einsum("nd,nv->dv", hidden, logits)

    if variant == "products":
        return products
    loss = {"blocked": blocked, "naive": naive}[variant]
    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


def measure(args: argparse.Namespace) -> None:
    """Runs one variant here and prints its line of JSON."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    rows = (4, args.tokens // 4)
    hidden = jnp.asarray(rng.standard_normal((*rows, args.width), dtype=np.float32))
    kernel = rng.standard_normal((args.width, args.vocabulary), dtype=np.float32)
    kernel *= 0.02
    kernel = jnp.asarray(kernel)
    targets = jnp.asarray(rng.integers(1, args.vocabulary, rows, dtype=np.int32))
    inputs = (hidden, kernel, targets, jnp.ones(rows, jnp.float32))
    run = jax.jit(computation(args.variant, args.block_mib)).lower(*inputs).compile()
    cpu, wall = [], []
    for _ in range(args.runs + 1):
        cpu_began, wall_began = cpu_seconds(), time.monotonic()
        results = jax.block_until_ready(run(*inputs))
        cpu.append(cpu_seconds() - cpu_began)
        wall.append(time.monotonic() - wall_began)
        loss = float(results[0][0]) if args.variant != "products" else None
        del results
    line = {
        "variant": args.variant,
        "cpu_seconds": round(float(np.median(cpu[1:])), 2),
        "wall_seconds": round(float(np.median(wall[1:])), 2),
        "temp_mib": run.memory_analysis().temp_size_in_bytes >> 20,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "loss": loss,
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    """Prints a line for each variant, or for the one asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=250112)
    parser.add_argument("--block_mib", type=int, default=256)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--variant", choices=VARIANTS, help="measure it in this process")
    args = parser.parse_args()
    if args.variant:
        measure(args)
        return
    environment = {"JAX_PLATFORMS": "cpu", **os.environ}
    for variant in VARIANTS:
        command = [sys.executable, "-m", "benchmarks.loss", *sys.argv[1:], "--variant", variant]
        subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
