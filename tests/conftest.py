"""How all tests are run: with shapes checked, far from the user's folders. What they share is in tests/fixtures.py."""

import gc
import os
import tempfile
from functools import partial
from importlib import import_module

import jaxtyping
import pytest

from tests.helpers.covering import pytest_addoption, pytest_generate_tests  # noqa: F401

# What is imported and collected stays until the end: nothing to look for among it.
gc.disable()
# What the tests run must not move a user's outputs/latest.
os.environ["DIFFUSION_LAB_OUTPUTS"] = tempfile.mkdtemp()
# Nor is it kept through a power cut: a run of two steps waits ten times for the disk, a fifth of its time.
os.fsync = lambda fd: None
# An int passes where a float is asked for, as it does in Python and in YAML.
TYPECHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook(["src.diffusion", "src.samplers", "src.nets"], TYPECHECKER)


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """Load what the tests share: torch, Lightning and more, which the process that hands out tests (-n) never needs."""
    if not getattr(config.option, "numprocesses", None):
        config.pluginmanager.import_plugin("tests.fixtures")
        # Properties have more examples where the slow tests run too.
        import_module("tests.helpers.properties").load_profile(every_test=not config.option.markexpr)


def pytest_collection_finish():
    """From here on look for garbage, but now and then, and not among what there is already: a tenth of the time."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


def pytest_sessionstart(session):
    """Of a test that passes, a worker (-n) sends the result alone, not its start, set-up and end: 5 s in all."""
    for plugin in session.config.pluginmanager.get_plugins():
        if type(plugin).__name__ == "WorkerInteractor" and not session.config.option.durations:
            plugin.sendevent = partial(send_what_counts, plugin.sendevent)


def send_what_counts(send, event, **content):
    report = content.get("data", {})
    passed = event == "testreport" and report["outcome"] == "passed" and report["when"] != "call"
    if event not in ("logstart", "logfinish") and not passed:
        send(event, **content)
