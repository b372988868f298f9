"""The tiny network, its golden parameters and the few jitted functions these tests share."""

import functools

import jax
import pytest

from mt0_tpu.models.t5 import T5
from tests.tiny import TINY, load_params


class Network:
    """T5's methods as jitted functions of (params, ...): each shape is compiled once a session."""

    def __init__(self, config):
        self.config = config
        for name in ("__call__", "encode", "decode", "logits", "decode_step"):
            setattr(self, name.strip("_"), jax.jit(self._method(name)))
        self.init_cache = jax.jit(self._method("init_cache"), static_argnums=(3, 4))

    def _method(self, name):
        def run(params, *args):
            return T5(self.config).apply({"params": params}, *args, method=name)

        return run

    @functools.cached_property
    def golden_logits(self):
        """logits(call(batch)) in one program."""
        return jax.jit(
            lambda params, batch: self.logits(params, self.call(params, batch)),
        )


@pytest.fixture(scope="session")
def network():
    return Network(TINY)


@pytest.fixture(scope="session")
def params(golden):
    return load_params(golden)
