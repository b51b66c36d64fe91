"""Tests in a copy of this process, so that no group of processes is ever made here.

Its store may live until the garbage is collected, on the port that stays in MASTER_PORT. A group that a later test
makes in copies of this process would find it, and connect to the addresses of the one before.
"""

import multiprocessing.util
import os
import signal
import sys
import tempfile
import traceback
from functools import wraps

import pytest
import torch

TESTS = os.getpid()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked `copied`; what it raises there fails it here."""
    if not pyfuncitem.get_closest_marker("copied"):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    with tempfile.TemporaryFile("w+") as raised:
        pid = os.fork()
        if pid == 0:
            multiprocessing.util._run_after_forkers()  # which os.fork does not do
            try:
                pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
            except BaseException:
                traceback.print_exc(file=raised)
            raised.flush()
            sys.stdout.flush()
            os._exit(raised.tell() > 0)
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except BaseException:  # such as that of pytest-timeout
            os.kill(pid, signal.SIGKILL)
            raise
        raised.seek(0)
        if code:
            pytest.fail(f"in a copy of this process, which ended with {code}:\n{raised.read()}", pytrace=False)
    return True


init_process_group = torch.distributed.init_process_group


@wraps(init_process_group)
def in_copies_alone(*args, **kwargs):
    if os.getpid() == TESTS:
        raise RuntimeError("a group of processes in the process of the tests; mark the test: pytest.mark.copied")
    return init_process_group(*args, **kwargs)


torch.distributed.init_process_group = in_copies_alone
