"""A table of a log-SNR at three times, worked out by hand."""

import math

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.log_snr_table import LogSNRTable


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


FINITE, ENDLESS = LogSNRTable(tensor(4.0, 1.0, -3.0)), LogSNRTable(tensor(4.0, 1.0, -math.inf))
# k = 3 t, and the log-SNR of both.
NODES = [(1.0, 4.0), (1.5, 2.5), (2.0, 1.0), (0.5, 4 + math.log(2)), (0.25, 4 + math.log(4)), (0.0, math.inf)]
LAST = [(2.5, -1.0, 1 - math.log(2)), (2.75, -2.0, 1 - math.log(4)), (3.0, -3.0, -math.inf)]


@pytest.mark.parametrize(("k", "finite", "endless"), [*((k, v, v) for k, v in NODES), *LAST])
def test_values_and_their_times(k, finite, endless):
    """Linear between nodes; sigma^2 / alpha^2 grows evenly before the first, alpha^2 / sigma^2 falls so to the last."""
    for table, value in ((FINITE, finite), (ENDLESS, endless)):
        assert_close(table(tensor(k / 3)), tensor(value), rtol=1e-12, atol=1e-12, check_device=False)
        assert_close(table.inverse(tensor(value)), tensor(k / 3), rtol=1e-12, atol=1e-12)
    assert_close(ENDLESS(tensor(k / 3, 1 / 3)), tensor(endless, 4.0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("table", [FINITE, ENDLESS])
def test_beyond_the_ends(table):
    assert table.inverse(tensor(-1e9)) == 1 and table.inverse(tensor(1e9)) == 0


@pytest.mark.parametrize("table", [FINITE, ENDLESS])
def test_numbers_of_any_precision_are_taken_in_double(table):
    t, log_snr = torch.tensor([0.1, 0.4, 0.7, 0.9]), torch.tensor([5.1, 2.3, 0.7, -1.3])
    assert torch.equal(table(t), table(t.double())) and torch.equal(
        table.inverse(log_snr), table.inverse(log_snr.double())
    )


def test_a_time_that_misses_its_node_by_rounding_is_taken_for_it():
    many = LogSNRTable(torch.linspace(9, -9, 1000, dtype=torch.float64))
    for k in (290, 579, 998):
        near = tensor(k / 1000 - 5e-13, k / 1000, k / 1000 + 5e-13)
        assert torch.equal(many(near), many.values[k - 1].expand(3))
        assert many(tensor(k / 1000 + 1e-8)) < many.values[k - 1] < many(tensor(k / 1000 - 1e-8))


@pytest.mark.parametrize("last", [-3.0, -math.inf])
def test_gradients_are_those_of_the_pieces(last):
    """Finite at every time but the ends of the curve, and rounding to a node leaves them alone."""
    t = tensor(0.5 / 3, 1.5 / 3, 2.5 / 3).requires_grad_()
    LogSNRTable(tensor(4.0, 1.0, last))(t).sum().backward()
    assert_close(t.grad, tensor(-6.0, -9.0, -12.0 if last == -3 else -6.0))


def test_one_node():
    """Its log-SNR is the last, and before it the ratio of noise grows evenly."""
    table = LogSNRTable(tensor(2.0))
    assert_close(table(tensor(1.0, 0.5)), tensor(2.0, 2 + math.log(2)))
    assert_close(table.inverse(tensor(2.0, 2 + math.log(2), -5.0)), tensor(1.0, 0.5, 1.0))
