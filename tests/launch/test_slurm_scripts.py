"""SLURM's scripts, with an sbatch and an srun that run here what the real ones run on nodes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
WORDS = ["train", "--gin.TASK_FEATURE_LENGTHS={'inputs': 1024}", "it's $HOME\n", ""]
# sbatch runs its script at once, as on the first node, with what SLURM sets there.
SBATCH = f"""#!{sys.executable}
import json, os, sys
flags = [word for word in sys.argv[1:] if word.startswith("--")]
script = next(i for i, word in enumerate(sys.argv[1:], 1) if not word.startswith("--"))
given = dict(flag[2:].partition("=")[::2] for flag in sys.argv[1:script])
json.dump(given, open(os.environ["SLURM_FAKE"] + "/sbatch.json", "w"))
nodes, tasks = int(given["nodes"]), int(given["ntasks-per-node"])
os.environ.update(SLURM_JOB_ID="77", SLURM_NTASKS=str(nodes * tasks), SLURM_NNODES=str(nodes),
                  SLURM_GPUS_ON_NODE=given["gpus-per-node"], SLURM_TASKS=str(tasks))
os.execvp("bash", ["bash", *sys.argv[script:]])
"""
# srun starts the tasks, all of them here, with what SLURM sets for each.
SRUN = f"""#!{sys.executable}
import os, subprocess, sys
command = [word for i, word in enumerate(sys.argv[1:]) if i or not word.startswith("--")]
nodes, tasks = int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_TASKS"])
running = []
for rank in range(nodes * tasks):
    task = dict(SLURM_STEP_ID="0", SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank % tasks),
                SLURM_NODEID=str(rank // tasks), SLURM_STEP_NUM_TASKS=str(nodes * tasks),
                SLURM_STEP_NODELIST="localhost" if nodes == 1 else f"node[1-{{nodes}}]",
                SLURM_STEP_TASKS_PER_NODE=f"{{tasks}}(x{{nodes}})")
    running.append(subprocess.Popen(command, env=os.environ | task))
sys.exit(max(process.wait() for process in running))
"""
SCONTROL = '#!/bin/sh\necho "$@" >>"$SLURM_FAKE/scontrol.log"\n'
# mt0 that says what it was given and which process it takes itself for.
MT0 = f"""#!{sys.executable}
import json, os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from mt0_tpu.process_settings import settings
found = settings(os.environ)
name = os.environ["SLURM_FAKE"] + f"/task{{found.index}}.json"
json.dump([sys.argv[1:], found.count, found.coordinator_address, found.local_device_ids,
           found.source], open(name, "w"))
sys.exit(int(os.environ.get("FAKE_CODE", "0")))
"""


@pytest.fixture
def slurm(tmp_path):
    programs = {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL, "mt0": MT0}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(script, *words, **variables):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_FAKE": str(tmp_path)}
        return subprocess.run(
            ["bash", str(REPOSITORY / "launch" / script), *words],
            env=environment | {"NAME": "mt0"} | variables, capture_output=True, text=True,
            check=False, cwd=tmp_path,
        )  # fmt: skip

    return run


def tasks(folder):
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("task*.json"))]
    return found


def test_a_process_a_gpu_finds_its_place(slurm, tmp_path):
    done = slurm("slurm_submit.sh", *WORDS, NODES="2", GPUS="2")
    assert done.returncode == 0, done.stderr
    found = tasks(tmp_path)
    assert [task[0] for task in found] == [WORDS] * 4
    assert {(task[1], task[4]) for task in found} == {(4, "SLURM")}
    assert len({task[2] for task in found}) == 1 and found[0][2].startswith("node1:")
    assert [task[3] for task in found] == [[0], [1], [0], [1]]  # each its own GPU of its node


def test_a_process_a_node_takes_all_its_gpus(slurm, tmp_path):
    done = slurm("slurm_submit.sh", *WORDS, NODES="2", GPUS="8", PER="node")
    assert done.returncode == 0, done.stderr
    assert [task[1] for task in tasks(tmp_path)] == [2, 2]
    assert [task[3] for task in tasks(tmp_path)] == [None, None]


def test_what_sbatch_is_told(slurm, tmp_path):
    slurm("slurm_submit.sh", "train", GPUS="4", TIME="1:00:00", CPUS="16", SAVE_SECONDS="120")
    told = json.loads((tmp_path / "sbatch.json").read_text())
    assert told == {
        "job-name": "mt0", "nodes": "1", "gpus-per-node": "4", "ntasks-per-node": "4",
        "cpus-per-task": "16", "time": "1:00:00", "signal": "TERM@120", "requeue": "",
        "open-mode": "append", "output": "mt0-%j.log",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "turns_before", "ends_with", "requeued"),
    [
        (0, "0", 0, False),  # done
        (42, "0", 0, True),  # told to end before it was done: into the queue again
        (42, "98", 0, True),
        (42, "99", 42, False),  # the hundredth turn
        (2, "0", 2, False),  # a mistake: not again
        (1, "0", 1, False),
        (137, "0", 137, False),
    ],
)
def test_which_ends_are_tried_again(slurm, tmp_path, code, turns_before, ends_with, requeued):
    done = slurm(
        "slurm_submit.sh", "train", GPUS="1", FAKE_CODE=str(code), SLURM_RESTART_COUNT=turns_before
    )
    assert done.returncode == ends_with
    log = tmp_path / "scontrol.log"
    assert (log.read_text() if log.exists() else "") == ("requeue 77\n" if requeued else "")


@pytest.mark.parametrize(
    ("variables", "words", "said"),
    [
        ({"NAME": ""}, ["train"], "NAME is not set"),
        ({"NAME": "a b"}, ["train"], "NAME is 'a b'"),
        ({}, [], "there is nothing to run"),
        ({"GPUS": "0"}, ["train"], "GPUS is '0'"),
        ({"PER": "core"}, ["train"], "PER is 'core'; it must be gpu or node"),
        ({"PATH": "/usr/bin:/bin"}, ["train"], "sbatch is not installed"),
    ],
)
def test_what_is_refused(slurm, variables, words, said):
    done = slurm("slurm_submit.sh", *words, **variables)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_two_real_processes_meet(slurm, tmp_path):
    """mt0's own initialize() in two tasks of one node: JAX counts two processes in each."""
    program = tmp_path / "two"
    program.write_text(
        f"#!{sys.executable}\nimport sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from mt0_tpu import distributed\nfound = distributed.initialize()\nimport jax\n"
        "print('counted', jax.process_count(), jax.process_index(), found.source, flush=True)\n"
        "distributed.barrier('end')\n"
    )
    program.chmod(0o755)
    done = slurm(
        "slurm_submit.sh", "x", GPUS="2", MT0=str(program), JAX_PLATFORMS="cpu",
        HOME=str(tmp_path), SLURM_JOB_ID_SALT=str(os.getpid()),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = sorted(line for line in done.stdout.splitlines() if line.startswith("counted"))
    assert said == ["counted 2 0 SLURM", "counted 2 1 SLURM"]
