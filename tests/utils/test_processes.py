"""Processes that were started together agree."""

import os
import socket

import pytest

from src.utils import processes
from src.utils.errors import UserError
from src.utils.processes import cluster_environment, decide_on_rank_zero, is_worker_rank


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def tasks(monkeypatch):
    """`tasks(rank)` gives this process the variables of one of two tasks of SLURM."""
    port = free_port()
    start = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "x", "SLURM_NTASKS": "2", "SLURM_NODELIST": "127.0.0.1"}
    start |= {"SLURM_NTASKS_PER_NODE": "2"}
    start |= {"MASTER_PORT": str(port - 5000 if port > 6000 else port), "MASTER_ADDR": "127.0.0.1"}

    def become(rank: int) -> None:
        for name, value in {**start, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}.items():
            monkeypatch.setenv(name, value)

    processes.rendezvous_store.cache_clear()
    yield become
    processes.rendezvous_store.cache_clear()


def test_alone(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert cluster_environment() is None and not is_worker_rank() and decide_on_rank_zero("x", lambda: [1]) == [1]


def test_a_job_of_one_task_is_alone(tasks, monkeypatch):
    tasks(0)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert cluster_environment() is None


def test_tasks_that_are_not_given_per_node(tasks, monkeypatch):
    tasks(0)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(UserError, match="ntasks-per-node=2"):
        cluster_environment()


def in_another(rank: int, tasks, work) -> int:
    """Do the work in a copy of this process that has another rank; its process id."""
    pid = os.fork()
    if pid == 0:
        code = 77
        try:
            tasks(rank)
            code = work()
        except SystemExit as exit:
            code = int(exit.code or 0)
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_first_decides(tasks):
    def ask() -> int:
        assert is_worker_rank()
        return decide_on_rank_zero("a", lambda: 1) + decide_on_rank_zero("b", lambda: 1)

    other = in_another(1, tasks, ask)
    tasks(0)
    assert not is_worker_rank() and decide_on_rank_zero("a", lambda: 2) == 2
    assert decide_on_rank_zero("b", lambda: 3) == 3
    assert exit_code(other) == 5


def test_where_the_first_fails_the_others_leave_quietly(tasks):
    other = in_another(1, tasks, lambda: decide_on_rank_zero("a", lambda: 1))
    tasks(0)

    def refuse():
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        decide_on_rank_zero("a", refuse)
    assert exit_code(other) == 1
