"""metrics.csv keeps every number exactly, in one row a step, through kills and resumed runs."""

import math
import os
import random
import struct

import pytest

from src.loggers.metrics_csv import MetricsCSV, read_metrics, write_metrics
from src.utils.errors import UserError
from tests.helpers.faults import die_before


@pytest.fixture
def logger(tmp_path):
    return MetricsCSV(str(tmp_path))


def lines(logger) -> list[str]:
    return logger.path.read_text().splitlines()


def test_rows_and_columns(logger):
    logger.log_metrics({"loss": 1.5, "epoch": 0}, step=1)
    logger.log_metrics({"loss": 0.25, "epoch": 0}, step=2)
    logger.save()
    assert lines(logger) == ["step,loss,epoch", "1,1.5,0", "2,0.25,0"]
    assert read_metrics(logger.path) == [
        {"step": 1, "loss": 1.5, "epoch": 0},
        {"step": 2, "loss": 0.25, "epoch": 0},
    ]


def test_a_row_waits_for_the_next_step(logger):
    logger.log_metrics({"loss": 1.0}, step=1)
    assert not logger.path.exists()
    logger.log_metrics({"loss": 2.0}, step=2)
    assert read_metrics(logger.path) == [{"step": 1, "loss": 1.0}]


def test_values_of_one_step_share_a_row(logger):
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_metrics({"val": 2.0}, step=1)
    logger.log_metrics({"loss": 3.0}, step=1)
    logger.finalize("success")
    assert read_metrics(logger.path) == [{"step": 1, "loss": 3.0, "val": 2.0}]


@pytest.mark.parametrize("key", ["loss", "val", "more"])
def test_values_of_one_step_share_a_row_that_was_saved(logger, key):
    logger.log_metrics({"loss": 0.5}, step=1)
    logger.log_metrics({"loss": 1.0}, step=2)
    logger.save()
    logger.log_metrics({key: 12345678.0}, step=2)  # longer and shorter rows than the one they replace
    logger.save()
    logger.log_metrics({key: 2.0}, step=2)
    logger.save()
    logger.save()
    assert read_metrics(logger.path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0} | {key: 2.0}]


def test_a_new_column_keeps_the_old_rows(logger):
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_metrics({"loss": 2.0}, step=2)
    logger.save()
    logger.log_metrics({"val": 3.0}, step=3)
    logger.log_metrics({"other": 4.0, "loss": 5.0}, step=4)
    logger.save()
    assert lines(logger) == ["step,loss,val,other", "1,1.0,,", "2,2.0,,", "3,,3.0,", "4,5.0,,4.0"]


def test_the_file_is_appended_to(logger):
    """Only new columns rewrite it: what stands in it is not read and written again at every step."""
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.save()
    inode = logger.path.stat().st_ino
    for step in range(2, 20):
        logger.log_metrics({"loss": 1.0}, step=step)
    logger.save()
    assert logger.path.stat().st_ino == inode
    assert len(read_metrics(logger.path)) == 19


def test_every_number_survives_exactly(logger):
    draw = random.Random(0)
    values = [struct.unpack("d", struct.pack("Q", draw.getrandbits(64)))[0] for _ in range(300)]
    values = [v for v in values if math.isfinite(v)] + [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2**53 + 1.0]
    for step, value in enumerate(values):
        logger.log_metrics({"x": value}, step=step)
    logger.log_metrics({"y": 1.0}, step=len(values))  # and through the rewriting
    logger.save()
    rows = read_metrics(logger.path)
    assert [row["x"].hex() for row in rows[:-1]] == [v.hex() for v in values]


def test_what_is_not_finite_survives(logger):
    logger.log_metrics({"a": math.inf, "b": -math.inf, "c": math.nan}, step=1)
    logger.save()
    (row,) = read_metrics(logger.path)
    assert row["a"] == math.inf and row["b"] == -math.inf and math.isnan(row["c"])


def test_names_with_commas_and_quotes(logger):
    logger.log_metrics({'a,"b"': 1.0}, step=1)
    logger.save()
    assert read_metrics(logger.path) == [{"step": 1, 'a,"b"': 1.0}]


def test_step_0(logger):
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.log_metrics({"val": 2.0}, step=0)
    logger.save()
    assert read_metrics(logger.path) == [{"step": 0, "loss": 1.0, "val": 2.0}]


def test_an_existing_file_is_continued(logger, tmp_path):
    logger.log_metrics({"loss": 1.0, "val": 2.0}, step=1)
    logger.finalize("success")
    again = MetricsCSV(str(tmp_path))
    again.log_metrics({"val": 3.0, "loss": 4.0}, step=2)
    again.log_metrics({"new": 5.0}, step=3)
    again.finalize("success")
    assert lines(again) == ["step,loss,val,new", "1,1.0,2.0,", "2,4.0,3.0,", "3,,,5.0"]


@pytest.mark.parametrize(("step", "kept"), [(0, []), (2, [1, 2]), (3, [1, 2]), (4, [1, 2, 4]), (9, [1, 2, 4])])
def test_rewind(logger, tmp_path, step, kept):
    for s in (1, 2, 4):
        logger.log_metrics({"loss": s / 7}, step=s)
    logger.save()
    again = MetricsCSV(str(tmp_path))
    again.rewind(step)
    assert read_metrics(again.path) == [{"step": s, "loss": s / 7} for s in kept]
    again.log_metrics({"loss": 0.5}, step=10)
    again.save()
    assert [row["step"] for row in read_metrics(again.path)] == [*kept, 10]


def test_rewind_without_a_file(logger):
    logger.rewind(3)
    assert not logger.path.exists()


@pytest.mark.parametrize("cut", range(1, 11))
def test_a_line_cut_off_by_a_kill_is_left_out(logger, tmp_path, cut):
    """Wherever it is cut: a number of which half is there must not pass for another number."""
    logger.log_metrics({"loss": 1.25, "val": 2.5}, step=1)
    logger.log_metrics({"loss": 3.25, "val": 14.75}, step=2)
    logger.save()
    whole = logger.path.read_text()
    assert whole.endswith("2,3.25,14.75\n")
    logger.path.write_text(whole[:-cut])
    expected = [{"step": 1, "loss": 1.25, "val": 2.5}]
    if cut == 1:  # all but the end of the line: whether that is whole cannot be known, so either is right
        assert read_metrics(logger.path) in (expected, [*expected, {"step": 2, "loss": 3.25, "val": 14.75}])
    else:
        assert read_metrics(logger.path) == expected
    again = MetricsCSV(str(tmp_path))
    again.rewind(1)
    again.log_metrics({"loss": 5.0}, step=2)
    again.save()
    assert read_metrics(again.path) == [*expected, {"step": 2, "loss": 5.0}]


def test_write_metrics_leaves_nothing_beside_the_file(tmp_path):
    path = tmp_path / "metrics.csv"
    write_metrics(path, [{"step": 1, "a": 2.0}], ["step", "a"])
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_an_empty_file(tmp_path):
    (tmp_path / "metrics.csv").touch()
    assert read_metrics(tmp_path / "metrics.csv") == []


@pytest.mark.parametrize(
    "more", [{"loss": 2.0}, {"loss": 0.1}, {"val": 3.0}], ids=["as long", "longer", "a new column"]
)
def test_a_kill_while_a_row_is_written_again_loses_nothing(tmp_path, more):
    """Before every change of files, and between what is written and what is cut off."""
    for number in range(10):
        logger = MetricsCSV(str(tmp_path / str(number)))
        logger.path.parent.mkdir()
        logger.log_metrics({"loss": 0.125}, step=1)
        logger.log_metrics({"loss": 1.25}, step=2)
        logger.save()
        child = os.fork()
        if child == 0:
            die_before(logger.path.parent, number)()
            logger.log_metrics(more, step=2)
            logger.save()
            os._exit(0)
        ended = os.waitpid(child, 0)[1]
        rows = read_metrics(logger.path)
        new = {"step": 2, "loss": 1.25} | more
        assert rows == [{"step": 1, "loss": 0.125}, new if ended == 0 else rows[-1]]
        assert rows[-1] in ({"step": 2, "loss": 1.25}, new)
        if ended == 0:
            break
    assert 0 < number < 9


def test_what_a_kill_leaves_of_a_longer_row_is_no_row(logger):
    """Between what is written over it and what is cut off."""
    logger.log_metrics({"loss": 1.2345678, "rate": 0.1234567}, step=1)
    logger.save()
    old = logger.path.read_bytes()
    logger.log_metrics({"loss": 1.0, "rate": 2.0}, step=1)
    logger.save()
    new = logger.path.read_bytes()
    assert len(new) < len(old)
    logger.path.write_bytes(new + old[len(new) :])
    assert read_metrics(logger.path) == [{"step": 1, "loss": 1.0, "rate": 2.0}]


def test_a_resumed_run_adds_to_the_row_that_it_goes_on_from(logger):
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_metrics({"loss": 2.0}, step=2)
    logger.log_metrics({"loss": 3.0}, step=3)
    logger.save()
    again = MetricsCSV(str(logger.path.parent))
    again.rewind(2)
    again.log_metrics({"val": 5.0}, step=2)
    again.log_metrics({"loss": 4.0}, step=3)
    again.save()
    assert read_metrics(logger.path) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0, "val": 5.0},
        {"step": 3, "loss": 4.0},
    ]


def test_a_file_that_is_gone_is_not_begun_anew(logger):
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.save()
    logger.path.unlink()
    with pytest.raises(UserError, match="was removed or renamed during the run"):
        logger.log_metrics({"loss": 2.0}, step=2)
    assert not logger.path.exists()
