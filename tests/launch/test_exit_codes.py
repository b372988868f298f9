"""The exit codes that the scripts know are those that mt0 ends with."""

import re
from pathlib import Path

from mt0_tpu import exit_codes

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


def test_slurm_queues_again_what_asks_for_it():
    (code,) = re.findall(r"^requeue_code=(\d+)", (LAUNCH / "slurm_job.sh").read_text(), re.M)
    assert int(code) == exit_codes.REQUEUE


def test_what_another_try_would_not_change_is_final():
    jobset = re.search(r"^FINAL_CODES = \[(.+)\]", (LAUNCH / "gke_jobset.py").read_text(), re.M)[1]
    babysitter = re.search(r"^ +exit1 \|.+\)$", (LAUNCH / "tpu_babysit.sh").read_text(), re.M)[0]
    final = set(map(int, re.findall(r"\d+", jobset))) | set(
        map(int, re.findall(r"\d+", babysitter))
    )
    assert {exit_codes.USER_ERROR, exit_codes.INTERRUPTED} <= final
    assert exit_codes.REQUEUE not in final
