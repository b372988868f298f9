"""How processes find each other, as a pure function: each kind of cluster as a literal dict."""

import argparse
import os

import pytest
from jax._src import clusters
from jax._src.clusters import cloud_tpu_cluster

from mt0_tpu import process_flags, process_settings
from mt0_tpu.errors import UserError
from mt0_tpu.process_flags import ProcessFlags
from mt0_tpu.process_settings import ProcessSettings, settings

MT0 = {"MT0_COORDINATOR": "h:1", "MT0_NUM_PROCESSES": "2", "MT0_PROCESS_ID": "1"}
# Three nodes, one process each.
SLURM = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[01-02,07]",
    "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
    "SLURM_PROCID": "2", "SLURM_NODEID": "2", "SLURM_LOCALID": "0",
}  # fmt: skip
# Two nodes, four processes each.
SLURM_8 = SLURM | {
    "SLURM_STEP_NODELIST": "gpu[01-02]", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_PROCID": "6", "SLURM_NODEID": "1",
    "SLURM_LOCALID": "2",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}  # fmt: skip
GKE = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "job-0-0.svc,job-0-1.svc"}
SLICES = {
    "MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "job-slice-0-0.job:8080",
}  # fmt: skip
XPK_GPU = {
    "KUBERNETES_SERVICE_HOST": "10.0.0.1", "NNODES": "4", "NODE_RANK": "2",
    "JAX_COORDINATOR_ADDRESS": "job-main-0-0.job", "JAX_COORDINATOR_PORT": "6002",
}  # fmt: skip
VM = {
    "agent-worker-number": "3",
    "worker-network-endpoints": "0:a:10.0.0.2,1:b:10.0.0.3,2:c:10.0.0.4,3:d:10.0.0.5",
    "tpu-env": "ACCELERATOR_TYPE: 'v4-32'\nNODE_ID: 'run'",
}
VM_SLICES = VM | {
    "tpu-env": "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.2'\nMEGASCALE_NUM_SLICES: '2'\n"
    "MEGASCALE_SLICE_ID: '1'\n"
}


def found(environment, flags=None, metadata=None):
    """(count, index, coordinator, source)."""
    s = settings(environment, flags, None if metadata is None else metadata.get)
    return s.count, s.index, s.coordinator_address, s.source


@pytest.mark.parametrize(
    ("environment", "metadata", "expected"),
    [
        (MT0,                          None,      (2, 1, "h:1", "MT0_NUM_PROCESSES")),
        (MT0 | SLURM,                  None,      (2, 1, "h:1", "MT0_NUM_PROCESSES")),
        (SLURM,                        None,      (3, 2, "gpu01:62055", "SLURM")),
        (SLURM | {"SLURM_STEP_ID": "1"}, None,    (3, 2, "gpu01:62186", "SLURM")),
        (SLURM_8,                      None,      (8, 6, "gpu01:62055", "SLURM")),
        (OPEN_MPI | SLURM,             None,      (4, 3, "10.96.0.1:62624", "Open MPI")),
        (GKE,                          None,      (2, 1, "job-0-0.svc:8482",
                                                   "TPU pods in Kubernetes")),
        (GKE | SLICES,                 None,      (6, 3, "job-slice-0-0.job:8482",
                                                   "TPU pods in Kubernetes, 3 slices")),
        (XPK_GPU,                      None,      (4, 2, "job-main-0-0.job:6002",
                                                   "NNODES and NODE_RANK")),
        ({},                           VM,        (4, 3, "10.0.0.2:8482",
                                                   "the TPU VM's metadata")),
        ({},                           VM_SLICES, (8, 7, "10.0.0.2:8482",
                                                   "the TPU VM's metadata, 2 slices")),
    ],
)  # fmt: skip
def test_every_cluster_says_who_is_who(environment, metadata, expected):
    assert found(environment, metadata=metadata) == expected


@pytest.mark.parametrize(
    ("environment", "metadata"),
    [
        ({},                                                    None),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"},            None),
        ({"TPU_WORKER_HOSTNAMES": "localhost"},                 None),
        (GKE | {"TPU_WORKER_HOSTNAMES": "a", "TPU_WORKER_ID": "0"}, None),
        ({"JOB_COMPLETION_INDEX": "3"},                         None),  # an array of single jobs
        ({},                                                    {}),  # no TPU's metadata
        ({"TPU_SKIP_MDS_QUERY": "1"},                           VM),
        ({}, {"agent-worker-number": "0", "worker-network-endpoints": "10.0.0.2"}),
        (SLURM | {"MT0_ALONE": "1"},                            None),
        (MT0 | {"MT0_NUM_PROCESSES": "1", "MT0_PROCESS_ID": "0"}, None),
    ],
)  # fmt: skip
def test_one_process_joins_nobody(environment, metadata):
    assert found(environment, metadata=metadata)[:3] == (1, 0, None)


def test_a_batch_script_without_srun_is_told_so():
    alone = settings({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "gpu[01-08]"})
    assert alone.alone
    assert "srun mt0" in alone.line()


# What JAX finds by itself in the same surroundings: ours must not disagree with it.


@pytest.mark.parametrize(
    ("environment", "metadata"),
    [
        (SLURM, None), (OPEN_MPI, None), (GKE, None), (GKE | SLICES, None), ({}, VM),
        ({}, VM_SLICES),
    ],
    ids=["SLURM", "Open MPI", "GKE", "GKE slices", "TPU VM", "TPU VM slices"],
)  # fmt: skip
def test_jax_itself_finds_the_same(environment, metadata, monkeypatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "OMPI_", "TPU_", "MEGASCALE_"))]:
        monkeypatch.delenv(name)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    tpu = metadata is not None or "TPU_WORKER_ID" in environment
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", tpu)
    there = {"tpu-env": "", **(metadata or {})}
    monkeypatch.setattr(
        cloud_tpu_cluster,
        "get_metadata",
        lambda key: (there.get(key, ""), 200 if there.get(key) else 404),
    )
    monkeypatch.setattr(
        cloud_tpu_cluster.BaseTpuCluster, "wait_for_coordinator", lambda *arguments: None
    )
    theirs = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, 1
    )
    ours = settings(environment, None, None if metadata is None else metadata.get)
    assert (ours.coordinator_address, ours.count, ours.index) == theirs[:3]


# Flags.


def flags(**given):
    return ProcessFlags(**given)


ALL = {"coordinator_address": "x:7", "process_count": 8, "process_index": 3}


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({},      ALL, (8, 3, "x:7", "flags")),
        ({},      {"process_count": 1}, (1, 0, None, "flags")),
        (SLURM,   {"multiprocess_gpu": True}, (3, 2, "gpu01:62055", "SLURM")),
        (SLURM,   {"coordinator_address": "ib01:9"}, (3, 2, "ib01:9", "SLURM")),
        (SLURM,   {"process_count": 3}, (3, 2, "gpu01:62055", "flags and SLURM")),
        # By hand, inside a job step of one task.
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0",
                  "SLURM_STEP_TASKS_PER_NODE": "1"}, ALL, (8, 3, "x:7", "flags")),
        ({"JAX_COORDINATOR_ADDRESS": "j:5"}, {"process_count": 2, "process_index": 1},
         (2, 1, "j:5", "flags")),
        (SLURM | {"JAX_COORDINATOR_PORT": "5"}, {}, (3, 2, "gpu01:5", "SLURM")),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "j:5"}, {}, (3, 2, "j:5", "SLURM")),
    ],
)  # fmt: skip
def test_flags_complete_the_environment(environment, given, expected):
    assert found(environment, flags(**given)) == expected


def test_the_command_line_s_spellings():
    parser = argparse.ArgumentParser()
    process_flags.add_flags(parser)
    try:
        for spelling, meant in (("--multiprocess_gpu", True), ("--multiprocess_gpu=false", False)):
            taken = process_flags.take_flags(
                parser.parse_args(
                    [
                        spelling,
                        "--process_count=8",
                        "--process_index",
                        "3",
                        "--coordinator_address=x:7",
                        "--initialization_timeout=20",
                    ]
                )  # fmt: skip
            )
            assert taken == ProcessFlags(meant, "x:7", 8, 3, 20) == process_flags.taken_flags()
        assert settings({}, taken).initialization_timeout_s == 20
    finally:
        assert process_flags.take_flags(argparse.Namespace()) == ProcessFlags()


def test_the_line_in_the_log():
    assert settings(SLURM).line() == "3 processes, this is 2, coordinator gpu01:62055, by SLURM"
    assert settings({}).line() == "one process, by plain machine"
    assert settings(SLURM_8).line().endswith("GPUs 2 of those visible, by SLURM")


# Contradictions.


@pytest.mark.parametrize(
    ("environment", "given", "sentence"),
    [
        ({"MT0_COORDINATOR": "h:1"}, {}, "MT0_NUM_PROCESSES and MT0_PROCESS_ID is missing"),
        (MT0 | {"MT0_NUM_PROCESSES": "two"}, {}, "MT0_NUM_PROCESSES is 'two'; it must be a number"),
        (MT0 | {"MT0_COORDINATOR": "h"}, {}, "MT0_COORDINATOR is 'h'; write HOST:PORT"),
        (MT0 | {"MT0_COORDINATOR": "::1:7"}, {}, "write HOST:PORT"),
        (MT0 | {"MT0_PROCESS_ID": "2"}, {}, "process 2 by MT0_NUM_PROCESSES, but of 2 .* is 1"),
        (MT0 | {"MT0_PROCESS_ID": "-1"}, {}, "process -1"),
        (MT0 | {"MT0_NUM_PROCESSES": "0"}, {}, "number of processes is 0"),
        (MT0, {"process_count": 3}, "--process_count is 3, but MT0_NUM_PROCESSES says 2"),
        (MT0, {"coordinator_address": "x:7"}, "--coordinator_address is x:7, but MT0_COORDINATOR"),
        (SLURM, ALL, "--process_count is 8, but SLURM says 3"),
        (SLURM, {"process_index": 1}, "--process_index is 1, but SLURM says 2"),
        (SLURM | {"SLURM_PROCID": "3"}, {}, "process 3 by SLURM, but of 3 processes the last is 2"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, {}, r"6 tasks, but there are 3"),
        (SLURM | {"SLURM_NODEID": "3"}, {}, "SLURM_NODEID is 3, but the step has 3 nodes"),
        ({"SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "2"}, {}, "SLURM_PROCID is missing"),
        ({"SLURM_STEP_NODELIST": "a"}, {}, "SLURM_NTASKS is missing"),
        (SLURM_8 | {"CUDA_VISIBLE_DEVICES": "0,1,2"}, {}, "4 SLURM tasks share 3 GPUs"),
        (OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": ""}, {}, "Open MPI says there are 4 .* not where"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, {}, "lists 2 hosts, but TPU_WORKER_ID is missing"),
        (GKE | {"TPU_WORKER_ID": "2"}, {}, "worker 2 by TPU pods in Kubernetes, but .* 2 workers"),
        (GKE | SLICES | {"MEGASCALE_SLICE_ID": "3"}, {}, "MEGASCALE_SLICE_ID is 3 of 3 slices"),
        (GKE | {"MEGASCALE_NUM_SLICES": "3"}, {}, "MEGASCALE_COORDINATOR_ADDRESS is missing"),
        ({k: v for k, v in XPK_GPU.items() if k != "NODE_RANK"}, {}, "JOB_COMPLETION_INDEX is mis"),
        (XPK_GPU | {"JAX_COORDINATOR_PORT": "none"}, {}, "write HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "j:5"}, {}, "JAX_COORDINATOR_ADDRESS came without --process_"),
        ({}, {"coordinator_address": "x:7"}, "came without --process_count and --process_index"),
        ({}, {"process_count": 8}, "--process_count came without --process_index"),
        ({}, {"process_count": 8, "process_index": 1}, "not where process 0 is; add --coordinator"),
        ({}, {"multiprocess_gpu": True}, "--multiprocess_gpu asks for other processes"),
        ({}, ALL | {"process_index": 8}, "process 8 by flags, but of 8 processes the last is 7"),
    ],
)  # fmt: skip
def test_contradictions_are_one_sentence(environment, given, sentence):
    with pytest.raises(UserError, match=sentence):
        settings(environment, flags(**given))


@pytest.mark.parametrize(
    ("name", "value"),
    [("process_count", 0), ("process_index", -1), ("initialization_timeout", 0),
     ("coordinator_address", "x"), ("coordinator_address", "x:70000")],
)  # fmt: skip
def test_flags_out_of_range(name, value):
    with pytest.raises(UserError, match=f"--{name} is '?{value}"):
        ProcessFlags(**{name: value})


def test_a_job_of_one_process_refuses_several(monkeypatch):
    for name, text in MT0.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match="`mt0 cache` runs as one process, but .* started 2; once"):
        process_settings.refuse_several("`mt0 cache`", "once")
    monkeypatch.setenv("MT0_ALONE", "1")  # as in what a joined process starts
    process_settings.refuse_several("`mt0 cache`", "once")


def test_hosts_are_named_where_they_are_known():
    assert settings(SLURM).name_of(2) == "2 (gpu07)"
    assert settings(SLURM_8).name_of(2) == "2"
    assert settings({}, None, VM.get).name_of(1) == "1 (10.0.0.3)"
    assert ProcessSettings().name_of(0) == "0"
