"""Settings of decoding: every wrong one is named."""

import pytest

from mt0_tpu.decode_config import DecodeConfig, from_fields
from mt0_tpu.errors import UserError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "gready"}, "method is 'gready'.*Did you mean 'greedy'"),
        ({"method": None}, "method is None"),
        ({"num_decodes": 0}, "num_decodes is 0"),
        ({"num_decodes": 2.0}, "num_decodes is 2.0"),
        ({"num_decodes": True}, "num_decodes is True"),
        ({"num_decodes": 4}, "num_decodes is 4, but method 'greedy' does not read it"),
        ({"method": "beam", "alpha": -0.1}, "alpha is -0.1"),
        ({"method": "beam", "alpha": "0.6"}, "alpha is '0.6'"),
        ({"method": "beam", "seed": 3}, "seed is 3, but method 'beam' does not read it"),
        ({"method": "sample", "temperature": -1.0}, "temperature is -1.0"),
        ({"method": "sample", "temperature": float("nan")}, "temperature is nan"),
        ({"method": "sample", "temperature": float("inf")}, "temperature is inf"),
        ({"method": "sample", "top_k": -1}, "top_k is -1"),
        ({"method": "sample", "top_p": 1.1}, "top_p is 1.1"),
        ({"method": "sample", "top_p": 0.9, "top_k": 5}, "top_k is 5 and top_p 0.9"),
        ({"method": "sample", "seed": -1}, "seed is -1"),
        ({"method": "sample", "seed": 2**32}, "seed is 4294967296"),
        ({"method": "sample", "rescale_log_probs": 1}, "rescale_log_probs is 1"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(UserError, match=message):
        DecodeConfig(**fields)


def test_what_is_right_passes():
    assert DecodeConfig() == DecodeConfig("greedy")
    assert DecodeConfig("sample", num_decodes=20, temperature=0, top_p=1.0).top_k == 0
    assert DecodeConfig("beam", num_decodes=4, alpha=0.0).alpha == 0.0


def test_fields_of_a_task():
    fields = {"method": "sample", "num_decodes": 3}
    assert from_fields(fields, "task x") == DecodeConfig("sample", num_decodes=3)
    with pytest.raises(UserError, match="task x sets 'topk'.*Did you mean 'top_k'"):
        from_fields({"topk": 3}, "task x")
