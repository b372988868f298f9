import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt0_tpu.data.batches import Loader, open_sources
from mt0_tpu.data.dataset_config import DatasetConfig
from mt0_tpu.data.denoising import SpanCorruption, draw_step
from mt0_tpu.errors import UserError

STEP = {"name": "span_corruption", "first_sentinel": 999}


def restore(inputs, targets, first_sentinel=999, lowest=900):
    """Puts the masked spans back where their sentinels stand."""
    spans, now = {}, None
    for token in targets:
        if lowest <= token <= first_sentinel:
            now = token
            spans[now] = []
        else:
            spans[now].append(token)
    assert list(spans) == [first_sentinel - i for i in range(len(spans))]
    restored = []
    for token in inputs:
        restored += spans.pop(token) if lowest <= token <= first_sentinel else [token]
    assert not spans
    return restored


@given(st.integers(2, 400), st.integers(0, 2**63))
@settings(deadline=None)
def test_inputs_and_targets_hold_the_text_once(length, key):
    tokens = np.arange(length) % 800 + 5
    step = SpanCorruption(999)
    inputs, targets = step.apply(tokens, key)
    assert restore(inputs.tolist(), targets.tolist()) == tokens.tolist()
    assert [len(inputs)] == step.lengths([length])[0].tolist()
    assert [len(targets)] == step.lengths([length])[1].tolist()
    masked = len(targets) - (targets >= 900).sum()
    assert masked == np.clip(np.rint(length * 0.15), 1, length - 1)


def test_t5s_own_lengths():
    # T5's random_spans_helper: rows of 512 take 568 tokens and need targets of 114, EOS included
    assert SpanCorruption(999).longest(511, 113) == 568
    assert [a.tolist() for a in SpanCorruption(999).lengths([568, 1])] == [[511, 0], [113, 0]]


def test_every_place_is_masked_equally_often():
    step, tokens = SpanCorruption(999), np.arange(400) + 5
    masked = np.zeros(400)
    for key in range(2000):
        targets = step.apply(tokens, key)[1]
        masked[targets[targets < 900] - 5] += 1
    # As in T5, the first token is always kept and the last always masked.
    assert (masked[0], masked[-1]) == (0, 2000)
    middle = masked[40:360] / 2000
    assert abs(middle.mean() - 0.145) < 0.005 and middle.std() < 0.012


def test_errors_name_the_near_match():
    with pytest.raises(UserError, match="Did you mean 'span_corruption'"):
        draw_step({"name": "span_coruption"})
    with pytest.raises(UserError, match="Did you mean 'noise_density'"):
        draw_step({**STEP, "noise_densty": 0.1})
    with pytest.raises(UserError, match="between 0 and 1"):
        draw_step({**STEP, "noise_density": 15})
    with pytest.raises(UserError, match="too short for span corruption"):
        SpanCorruption(999).longest(1, 1)


def _read(root, windows=1, **changes):
    config = DatasetConfig(
        "mix", {"inputs": 32, "targets": 12}, batch_size=4, cache_dir=str(root), **changes
    )
    examples = []
    with Loader(open_sources(config), config, epochs=1) as loader:
        for batch in loader:
            for row in range(4):
                for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
                    sides = [
                        batch[tokens][row][batch[ids][row] == segment].tolist()
                        for tokens, ids in (
                            ("encoder_input_tokens", "encoder_segment_ids"),
                            ("decoder_target_tokens", "decoder_segment_ids"),
                        )
                    ]
                    assert [side.pop() for side in sides] == [1, 1]
                    examples.append(sides)
        return examples, loader.stats


def test_long_documents_are_cut_into_rows_and_every_token_is_read_once(tmp_path, cache_writer):
    documents = [np.arange(length) + 5 for length in (300, 8, 2, 1, 0, 77)]
    cache_writer(tmp_path, {"text": [([], d) for d in documents]}, draw_steps=[STEP])
    examples, stats = _read(tmp_path)
    restored = [restore(*sides) for sides in examples]
    expected = sorted(t for d in documents if len(d) > 1 for t in d.tolist())
    longest = SpanCorruption(999).longest(31, 11)
    assert max(map(len, restored)) == longest
    tails = [len(d) % longest for d in documents].count(1)
    assert sorted(t for text in restored for t in text) == expected and tails == 1
    assert (stats.dropped_empty, stats.trimmed) == (2, 0)
    again, _ = _read(tmp_path)
    assert again == examples
    assert _read(tmp_path, seed=1)[0] != examples
