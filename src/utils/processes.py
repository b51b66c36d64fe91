"""The processes of one run, started by torchrun or srun, before Lightning connects them."""

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from src.utils.errors import UserError

# Signals that stop a run. SIGHUP is sent when a terminal is closed, SIGUSR1 by SLURM before the time of a job ends, if
# the job asks for it with --signal=USR1@SECONDS.
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def cluster_environment() -> Any:
    """Lightning's environment of the launcher that started this process with others, or None if it runs alone.

    Raises:
        UserError: if the launcher lacks a setting that Lightning needs.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and "SLURM_PROCID" not in os.environ:
        return None  # without an import of torch
    from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    for kind in (TorchElasticEnvironment, SLURMEnvironment):
        if kind.detect():
            try:
                environment = kind()
            except RuntimeError as error:  # such as a missing number of tasks per node
                raise UserError(str(error)) from error
            return environment if environment.world_size() > 1 else None
    return None


def is_worker_rank() -> bool:
    """Return True if this process was started with others and is not rank zero."""
    environment = cluster_environment()
    return environment is not None and environment.global_rank() > 0


def decide_on_rank_zero(question: str, decide: Callable[[], Any]) -> Any:
    """Call a function on rank zero, and return its result on every process.

    Args:
        question: a name for the decision, different for each.
        decide: returns plain containers; called on rank zero only.

    Raises:
        UserError: on rank zero, what `decide` raises; the other processes exit without a message.
    """
    environment = cluster_environment()
    if environment is None:
        return decide()
    first = environment.global_rank() == 0
    store = rendezvous_store(environment.main_address, environment.main_port, first)
    key = f"diffusion-lab/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{question}"
    if not first:
        answer = json.loads(store.get(key))
        if answer is None:
            sys.exit(1)
        return answer[0]
    try:
        decision = decide()
    except UserError:
        store.set(key, "null")
        raise
    store.set(key, json.dumps([decision]))
    return decision


@cache
def rendezvous_store(address: str, port: int, first: bool) -> Any:
    """A key-value store for all processes: that of torchrun, or one of rank zero, open until it ends."""
    from torch.distributed import TCPStore

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return TCPStore(address, port, is_master=False)
    beside = port + 5000 if port + 5000 < 1 << 16 else port - 5000  # the port itself is used by the training
    return TCPStore(address, beside, is_master=first, wait_for_workers=False)
