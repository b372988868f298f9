"""mt0_tpu/reporting/setup.py: what was run, and where it differs."""

from __future__ import annotations

from mt0_tpu.reporting.palette import Palette
from mt0_tpu.reporting.runs import arms_in_order, load_runs
from mt0_tpu.reporting.setup import setup
from tests import report_folders
from tests.report_folders import config_text, line, write_run
from tests.strict_html import StrictPage


def read(runs) -> str:
    from mt0_tpu.reporting.document import document

    return StrictPage(document("t", [setup(runs, Palette(arms_in_order(runs)))])).text


def test_what_differs_and_what_was_run(tmp_path):
    text = read(load_runs([str(r) for r in report_folders.write_two_runs(tmp_path)]))
    _, differ = text.split("Where the runs differ")
    differ = differ.split("The whole config")[0]
    assert "network.T5Config.emb_dim 512 1024" in differ
    assert "base_learning_rate 0.001 0.0005" in differ
    assert "BATCH_SIZE" not in differ and "MODEL_DIR" not in differ
    # parameters, last step, last loss, tokens a second, scored at
    assert "mt0_small 0 300,032,000 25,000 2.070 15,030 25,000 mt0_small" in text


def test_runs_alike_and_runs_without_a_config(tmp_path):
    for seed, name in ((0, "a"), (0, "b")):
        run = write_run(tmp_path / f"seed{seed}" / name, [line()])
        (run / "config.gin").write_text(config_text(run, 512, 0.1))
    assert "the same in everything but folder and seed" in read(load_runs([str(tmp_path)]))
    (alone,) = load_runs([str(write_run(tmp_path / "c", [line()]))])
    text = read([alone])
    assert "config" not in text and "What was run" in text
