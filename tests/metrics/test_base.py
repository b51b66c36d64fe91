"""What measures are given, and the example of how to write one."""

import math
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from src.commands.metric_checks import check_counts, unusable
from src.metrics.base import MetricValue, ReportSection
from src.metrics.distances import Distances
from src.metrics.diversity import Diversity
from src.metrics.features.base import RealData
from src.metrics.memorization import Memorization
from src.metrics.report import report_page
from src.metrics.samples import Samples
from src.metrics.sliced_wasserstein import SlicedWasserstein
from src.utils.errors import UserError


def test_the_example_in_the_docs(context, rand):
    page = Path("docs/evaluation.md").read_text()
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S).group(1), names)
    (node,) = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.S).group(1)).values()
    measure = names[node["_target_"].removeprefix("my_parts.")]()
    x, real = rand(20, 1, 4, 4), rand(20, 1, 4, 4)
    value = measure(context(x, rand(9, 1, 4, 4), real)).values["brightness"]
    assert value.value == pytest.approx(x.mean().item())
    assert value.real_baseline == pytest.approx(real.mean().item(), rel=1e-5)
    assert "it is for images" in measure.why_not_applicable(context(rand(4, 2), rand(4, 2), rand(4, 2)))


@pytest.mark.parametrize("most", [None, 7, 100])
def test_real_data_a_part_at_a_time(context, rand, most):
    """All of them once, in order; of too many always the same choice."""
    x = rand(30, 1, 4, 4)
    data = context(x, x, x).data
    real = RealData(data.train_set, data.to_units, most)
    whole = real[:]["x"]
    assert len(real) == len(whole) == min(most or 30, 30)
    torch.testing.assert_close(torch.cat([part["x"] for part in real.batches(4)]), whole)
    torch.testing.assert_close(RealData(data.train_set, data.to_units, most)[:]["x"], whole)
    assert all(any(torch.allclose(one, other, atol=1e-6) for other in x) for one in whole)
    some = real.some(5, "a")["x"]
    assert (
        len(some) == 5 and torch.equal(some, real.some(5, "a")["x"]) and not torch.equal(some, real.some(5, "b")["x"])
    )


def never(reference, width=64):
    raise AssertionError("features take minutes to learn")


@pytest.mark.parametrize(
    ("n", "names", "message"),
    [
        (64, ["distances", "samples"], r"distances needs n >= 65, got n=64; use n=65 or more, or metrics=\[samples\]$"),
        (1, ["distances", "diversity"], "distances needs n >= 65 and metrics=diversity needs n >= 2, got n=1; use n="),
        (1, ["sliced_wasserstein", "samples"], None),
        (65, ["distances", "diversity", "memorization", "samples"], None),
    ],
)  # fmt: skip
def test_too_few_samples_are_refused_before_features_are_made(context, rand, n, names, message):
    measures = {name: m for name, m in ALL.items() if name in names}
    of = context(rand(n, 1, 4, 4), rand(9, 1, 4, 4), rand(9, 1, 4, 4), features=partial(never, width=64))
    with pytest.raises(UserError, match=message) if message else nullcontext():
        check_counts(measures, of)


ALL = {
    "distances": Distances(),
    "diversity": Diversity(),
    "memorization": Memorization(),
    "sliced_wasserstein": SlicedWasserstein(),
    "samples": Samples(),
}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_there(bad):
    """It is said to be missing, and nothing is concluded from it."""
    value = MetricValue("distance", bad, bad, 2.0, 1.0)
    assert value.text == "not available, real data 1"
    plain = value.to_dict()
    assert plain.pop("real_baseline") == 1
    assert plain == {"name": "distance", "value": None, "low": None, "high": 2.0, "better": None, "digits": 3}
    good = MetricValue("share", 0.5, 0.4, 0.6)
    record = {"name": "run", "weights": "ema", "ckpt": "best", "n": 1, "nfe": None, "seed": 0, "samples_path": "x"}
    record |= {"run": "run", "features": None}

    def page(values):
        return report_page(record, [ReportSection("Title", values, interpretation="They are equal.")])

    assert "They are equal." in page({"b": good})
    both = page({"a": value, "b": good})
    assert "They are equal" not in both and "No conclusion: distance: not available" in both
    unknown = ReportSection("Title", {"b": MetricValue("share", 0.5, bad, bad)}, interpretation="They are equal.")
    assert "equal" not in unknown.conclusion and unknown.values["b"].text == "0.5"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_samples_that_are_not_finite(rand, bad):
    x = rand(20, 1, 4, 4)
    assert unusable(x) is None
    x[3, 0, 1, 1] = x[7] = bad
    assert "not available: 2 of 20 samples" in unusable(x)
