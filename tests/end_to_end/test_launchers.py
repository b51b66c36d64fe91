"""The same sweep of two jobs by every launcher."""

import json
import os
from pathlib import Path

import joblib
import pytest
import yaml
from hydra import compose
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext

from tests.end_to_end.running import started
from tests.helpers.composing import hydra

# Each starts three processes or more that load torch: 30 s of CPU time, minutes where other programs run.
pytestmark = pytest.mark.timeout(1800)

JOBS = ["-m", "experiment=digits_ddpm", "debug=two_steps", "trainer=cpu", "net.width=8", "logger=csv", "seed=1,2"]
JOBS += ["callbacks.sample_images=null"]
# Programs as SLURM has them, for an array of two jobs: sbatch starts them when it has ended, srun runs its words.
SBATCH = """#!/bin/bash
cp "$1" {0}/given
echo "Submitted batch job 7"
export SLURM_ARRAY_JOB_ID=7 SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1
export SLURM_JOB_NAME=train
(sleep 1; for i in 0 1; do SLURM_JOB_ID=$((7 + i)) SLURM_ARRAY_TASK_ID=$i bash {0}/given; done) > {0}/log 2>&1 &
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do [[ $1 == --output || $1 == --error ]] && shift; shift; done
"$@"
"""


def jobs_of(sweep: Path) -> list[dict]:
    """What the two jobs left, which both ran to their ends."""
    seeds = [yaml.safe_load((sweep / job / "config.yaml").read_text())["seed"] for job in "01"]
    records = [json.loads((sweep / job / "run.json").read_text()) for job in "01"]
    assert seeds == [1, 2] and [record["results"]["steps"] for record in records] == [2, 2]
    return [json.loads((sweep / f"jobs/{job}.json").read_text()) for job in "01"]


@pytest.fixture
def free_threads(monkeypatch):
    """Without what a test run says of threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
def test_jobs_in_parallel_share_the_cores(tmp_path, free_threads):
    """In processes with half of the threads each; jobs that train nothing, for the sake of time."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")

    def job(cfg):
        import torch

        return cfg.seed, os.getpid(), torch.get_num_threads()

    with hydra():
        words = ["hydra/launcher=parallel", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path}"]
        config = compose("train", words, return_hydra_config=True)
        context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks(config))
        launcher = Plugins.instance().instantiate_launcher(context, job, config)
        found = [job.return_value for job in launcher.launch([["seed=1"], ["seed=2"]], initial_job_idx=0)]
    threads = max(1, joblib.cpu_count() // 2)
    assert [(seed, n) for seed, _, n in found] == [(1, threads), (2, threads)]
    assert os.getpid() not in [pid for _, pid, _ in found]


@pytest.mark.slow
def test_jobs_in_parallel_train_at_the_same_time(tmp_path, free_threads):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = started(*JOBS, f"hydra.sweep.dir={tmp_path}", "hydra/launcher=parallel", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    first, second = jobs_of(tmp_path)
    assert first["began"] < second["ended"] and second["began"] < first["ended"]
    for job in "01":
        threads = max(1, joblib.cpu_count() // 2)
        assert f"1 x cpu, {threads} threads" in (tmp_path / job / "train.log").read_text()


@pytest.mark.slow
def test_jobs_as_processes(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = started(*JOBS, f"hydra.sweep.dir={tmp_path}", "hydra/launcher=slurm_here")
    assert done.returncode == 0, done.stderr
    jobs_of(tmp_path)


@pytest.mark.slow
def test_jobs_of_slurm(tmp_path, monkeypatch):
    """An array that a stand-in for SLURM runs; what it is given is what a dry run says."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    for name, text in (("sbatch", SBATCH.format(tmp_path)), ("srun", SRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    words = [*JOBS, f"hydra.sweep.dir={tmp_path / 'sweep'}", "hydra/launcher=slurm", "hydra.launcher.timeout_min=30"]
    said = started(*words, "sweep.dry_run=true")
    assert said.returncode == 0 and not (tmp_path / "given").exists(), said.stderr
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    done = started(*words)
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
    jobs_of(tmp_path / "sweep")
    given = (tmp_path / "given").read_text()
    for ours, theirs in (("timeout_min: 30", "--time=30"), ("cpus_per_task: 8", "--cpus-per-task=8")):
        assert ours in said.stdout and theirs in given


@pytest.mark.slow
def test_jobs_as_tasks_of_ray(tmp_path):
    pytest.importorskip("ray")
    words = ["hydra/launcher=ray_tasks", "hydra.launcher.ray.init.num_cpus=2", "hydra.launcher.ray.remote.num_cpus=1"]
    done = started(*JOBS, f"hydra.sweep.dir={tmp_path}", *words)
    assert done.returncode == 0, done.stderr
    jobs_of(tmp_path)
    assert "1 x cpu, 1 threads" in (tmp_path / "0/train.log").read_text()


def test_slurm_where_there_is_none_is_refused(command, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = command("train", *JOBS, f"hydra.sweep.dir={tmp_path}", "hydra/launcher=slurm")
    assert done.code == 1 and "srun is not found" in done.error and "sweep.dry_run=true" in done.error
