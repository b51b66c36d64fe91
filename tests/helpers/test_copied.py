"""Tests in a copy of the process fail as others do, and leave nothing behind."""

from types import SimpleNamespace

import pytest
import torch

from tests.helpers.copied import pytest_pyfunc_call

SEEN = []


def call(body, marked=True, **given):
    info = SimpleNamespace(argnames=tuple(given))
    return pytest_pyfunc_call(
        SimpleNamespace(obj=body, funcargs=given, _fixtureinfo=info, get_closest_marker=lambda name: marked)
    )


def test_what_is_done_there_is_not_seen_here(tmp_path):
    def body(x):
        SEEN.append(x)
        (tmp_path / "file").write_text(str(SEEN))

    assert call(body, x=3) is True
    assert (tmp_path / "file").read_text() == "[3]" and not SEEN
    assert call(body, marked=False, x=3) is None, "pytest itself calls the others"


def test_what_fails_there_fails_here():
    with pytest.raises(pytest.fail.Exception, match=r"ended with 1:\n(.*\n)+.*ValueError: of x = 3"):
        call(lambda x: (_ for _ in ()).throw(ValueError(f"of x = {x}")), x=3)


def test_no_group_of_processes_here():
    with pytest.raises(RuntimeError, match=r"mark the test: pytest\.mark\.copied"):
        torch.distributed.init_process_group("gloo", rank=0, world_size=1)
