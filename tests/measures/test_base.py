"""What measures are given, and the example of how to write one."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from src.features.base import Real


def test_the_example_in_the_docs(subject, rand):
    page = Path("docs/evaluation.md").read_text()
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S).group(1), names)
    (node,) = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.S).group(1)).values()
    measure = names[node["_target_"].removeprefix("my_parts.")]()
    x, real = rand(20, 1, 4, 4), rand(20, 1, 4, 4)
    value = measure(subject(x, rand(9, 1, 4, 4), real)).values["brightness"]
    assert value.value == pytest.approx(x.mean().item())
    assert value.floor == pytest.approx(real.mean().item(), rel=1e-5)
    assert "it is for images" in measure.refusal(subject(rand(4, 2), rand(4, 2), rand(4, 2)))


@pytest.mark.parametrize("most", [None, 7, 100])
def test_real_data_a_part_at_a_time(subject, rand, most):
    """All of them once, in order; of too many always the same choice."""
    x = rand(30, 1, 4, 4)
    data = subject(x, x, x).data
    real = Real(data.train_set, data.to_units, most)
    whole = real[:]["x"]
    assert len(real) == len(whole) == min(most or 30, 30)
    torch.testing.assert_close(torch.cat([part["x"] for part in real.batches(4)]), whole)
    torch.testing.assert_close(Real(data.train_set, data.to_units, most)[:]["x"], whole)
    assert all(any(torch.allclose(one, other, atol=1e-6) for other in x) for one in whole)
    some = real.some(5, "a")["x"]
    assert (
        len(some) == 5 and torch.equal(some, real.some(5, "a")["x"]) and not torch.equal(some, real.some(5, "b")["x"])
    )
