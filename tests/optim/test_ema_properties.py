"""What every average of weights promises, whatever its settings."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.optim.ema import ConstantEMA, HalfLifeEMA, PowerFunctionEMA
from tests.helpers.properties import examples

averages = st.one_of(
    st.builds(
        lambda decay, start, warmup: lambda net: ConstantEMA(net, decay, start, warmup),
        st.floats(0, 0.9999), st.integers(0, 9), st.booleans(),
    ),
    st.builds(
        lambda h, b, r: lambda net: HalfLifeEMA(net, h, b, rampup_ratio=r),
        st.floats(1, 1e6), st.integers(1, 64), st.none() | st.floats(0.01, 1),
    ),
    st.builds(lambda w: lambda net: PowerFunctionEMA(net, [w]), st.floats(0.01, 0.28)),
)  # fmt: skip


@given(make=averages, values=st.lists(st.floats(-10, 10), min_size=1, max_size=20), start=st.floats(-10, 10))
@examples(2)
def test_averages_of_weights(make, values, start):
    """The weights of an average are positive and sum to one: it lies among the values, and is linear in them."""
    net = torch.nn.Linear(3, 1, bias=False, dtype=torch.float64)

    def average(values):
        with torch.no_grad():
            net.weight.fill_(values[0])
            ema = make(net)
            for step, value in enumerate(values[1:], 1):
                net.weight.fill_(value)
                ema.update(net, step)
        return float(ema.model.weight[0, 0])

    values = [start, *values]
    assert all(0 <= make(net).decay_at(step) < 1 for step in range(1, 30))
    found = average(values)
    assert min(values) - 1e-9 <= found <= max(values) + 1e-9
    assert average([2 * v + 1 for v in values]) == pytest.approx(2 * found + 1, abs=1e-9)
    units = [average([float(i == k) for i in range(len(values))]) for k in range(len(values))]
    assert math.fsum(units) == pytest.approx(1, abs=1e-12) and all(unit >= 0 for unit in units)
    assert math.fsum(u * v for u, v in zip(units, values, strict=True)) == pytest.approx(found, abs=1e-9)
