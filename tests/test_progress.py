"""Metrics from sums, the record that a crash leaves, and times in words."""

import json

import pytest

from mt0_tpu import progress


def test_metrics_are_ratios_of_sums_over_steps():
    sums = {
        "loss": 6.0, "learning_rate": 0.02, "weighted_loss": 30.0, "weighted_correct": 5.0,
        "weight": 10.0, "encoder_tokens": 60.0, "encoder_positions": 80.0,
        "decoder_tokens": 12.0, "decoder_positions": 20.0,
    }  # fmt: skip
    assert progress.summarise(sums, 2) == pytest.approx(
        {
            "loss": 3.0,
            "learning_rate": 0.01,
            "accuracy": 0.5,
            "loss_per_nonpadding_target_token": 3.0,
            "loss_per_all_target_tokens": 1.5,
            "non_padding_fraction/encoder": 0.75,
            "non_padding_fraction/decoder": 0.6,
            "non_padding_fraction/overall": 0.72,
        }
    )


def test_a_batch_of_padding_divides_by_nothing():
    names = ("weighted_loss", "weighted_correct", "weight")
    sides = ("encoder_tokens", "encoder_positions", "decoder_tokens", "decoder_positions")
    assert set(progress.summarise(dict.fromkeys(names + sides, 0.0), 1).values()) == {0.0}


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0s"), (59, "59s"), (65.2, "1m05s"), (3600, "1h00m"), (7384, "2h03m")]
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


def test_the_record_is_cut_back_to_the_step_that_a_run_goes_on_from(tmp_path):
    lines = [json.dumps({"step": step, "split": "train", "metrics": {}}) for step in (2, 4, 6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 8, "spl']))
    writer = progress.MetricWriter(str(tmp_path), resume_step=4)
    writer.write(6, "train", {"loss": 1.0}, "train")
    writer.close()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written] == [2, 4, 6]
    assert written[2]["metrics"] == {"loss": 1.0}
