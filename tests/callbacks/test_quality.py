"""The distance of the samples while a run trains: what it is, when it comes, and that it changes nothing."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from src.callbacks.quality import Quality
from src.diffusion.conditions import Labels
from src.loggers.metrics_csv import read_metrics
from src.metrics.features.classifier import Classifier
from src.metrics.pixels import LOGGED
from src.metrics.sample_distance import EvaluationMetric, SampleDistance
from src.metrics.sliced_wasserstein import SlicedWasserstein, seeded_directions
from src.samplers.ancestral import DDIM
from src.samplers.pipeline import Pipeline
from src.statistics.frechet import Moments, frechet
from src.statistics.sliced_wasserstein import SlicedWassersteinDistance
from src.utils.errors import UserError
from src.utils.seeding import generator
from tests.helpers import tiny
from tests.helpers.tiny import CLASSES, Memory, fit, make_module, weights

pytestmark = pytest.mark.filterwarnings("ignore")


def quality(tmp_path, **arguments) -> Quality:
    features = partial(Classifier, cache=str(tmp_path / "cache"), width=4)
    sampler = lambda schedule, steps: DDIM(schedule, steps, eta=1.0)  # noqa: E731
    metric = partial(SampleDistance, features=features)
    return Quality(sampler, **{"metric": metric, "n": 30, "steps": 3, "every_n_steps": 4} | arguments)


@pytest.fixture(params=["signals", "images"])
def kind(request, monkeypatch):
    if request.param == "images":
        monkeypatch.setattr(tiny, "SHAPE", (1, 6, 6))
        monkeypatch.setattr(Memory, "kind", "images")
    return request.param


@pytest.mark.parametrize("conditional", [False, True])
def test_it_is_the_distance_of_averaged_samples_to_the_test_data(tmp_path, kind, conditional):
    callback, data = quality(tmp_path), Memory()
    module, _, _ = fit(tmp_path, make_module(conditional, Labels(CLASSES) if conditional else None), data, [callback])
    label = torch.arange(30) % data.num_classes if conditional else None
    model = module.models["ema"]
    x = Pipeline(model, DDIM(model.schedule, 3, eta=1.0), data.shape, cond=label).sample(30)
    order = torch.randperm(40, generator=generator("floor"))[:30]
    real, other = data.val_set.x, data.train_set.x[order]
    if kind == "images":
        see = callback.metric.reference.features
        expected = [frechet(Moments.of(see.test), Moments.of(see(data.to_units(part)))) for part in (x, other)]
    else:
        expected = []
        for part in (x, other):
            metric = SlicedWassersteinDistance(seeded_directions(x[0].numel()))
            metric.update(real, real=True)
            metric.update(part, real=False)
            expected.append(metric.compute().item())
    name = "quality/frechet_distance" if kind == "images" else "quality/sliced_wasserstein"
    found = {key: value for key, value in callback.results.items() if key.removeprefix("quality/") not in LOGGED}
    assert found == pytest.approx({name: expected[0], "quality/real_baseline": expected[1], "quality/nfe": 3}, rel=1e-3)
    bias = 100 * (data.to_units(x).mean() - data.to_units(real).mean()).item()
    scale = data.to_units(real).mean() if kind == "images" else real.std(correction=0)
    assert callback.results["quality/mean_bias_percent"] == pytest.approx(bias / scale.item(), rel=1e-3)
    last = read_metrics(tmp_path / "metrics.csv")[-1]
    assert last[name] == pytest.approx(expected[0], rel=1e-3) and last["step"] == 6


def test_any_metric_of_samples_can_be_logged(tmp_path):
    """One of src.evaluate, by the names that it has there."""
    made = partial(EvaluationMetric, features=lambda reference: None, metric=SlicedWasserstein(4, 2))
    callback = quality(tmp_path, metric=made)
    fit(tmp_path, callbacks=[callback])
    x = torch.randn(8, *Memory().shape)
    assert callback.metric(x).keys() == {"sliced_wasserstein"}
    assert callback.results.keys() == {"quality/sliced_wasserstein", "quality/real_baseline", "quality/nfe"}


def test_samples_of_all_processes_come_in_their_order(tmp_path):
    """Of 5 samples the first of two processes has 3."""
    x, callback = torch.randn(5, 2), quality(tmp_path, n=5)
    gathered = []
    for rank in (0, 1):
        padded = [torch.cat([part, torch.zeros(3 - len(part), 2)]) for part in (x[::2], x[1::2])]

        def all_gather(mine, padded=padded, rank=rank):
            assert torch.equal(mine, padded[rank])
            return torch.stack(padded)

        strategy = SimpleNamespace(root_device="cpu", all_gather=all_gather)
        gathered.append(callback.gathered(x[rank::2], SimpleNamespace(world_size=2, strategy=strategy)))
    assert torch.equal(gathered[0], x) and torch.equal(gathered[1], x)


@pytest.mark.parametrize(("every", "interval", "steps"), [(4, 2, [4, 6]), (100, 2, [6]), (1, 3, [3, 6])])
def test_when_it_is_measured(tmp_path, every, interval, steps):
    fit(tmp_path, callbacks=[quality(tmp_path, every_n_steps=every)], val_check_interval=interval)
    assert [
        row["step"] for row in read_metrics(tmp_path / "metrics.csv") if "quality/sliced_wasserstein" in row
    ] == steps


def test_it_does_not_change_the_training(tmp_path, kind):
    """Weights and averages with and without it are the same to the last bit, dropout and dropped labels included."""

    def run(*callbacks):
        module = make_module(condition=Labels(CLASSES, 0.2), dropout=0.3)
        return fit(tmp_path, module, callbacks=callbacks, val_check_interval=2)[0]

    plain, measured = run(), run(quality(tmp_path, every_n_steps=1))
    assert torch.equal(weights(plain), weights(measured))
    for a, b in zip(plain.ema.parameters(), measured.ema.parameters(), strict=True):
        assert torch.equal(a, b)


def test_too_few_samples_are_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "SHAPE", (1, 6, 6))
    monkeypatch.setattr(Memory, "kind", "images")
    with pytest.raises(UserError, match=r"callbacks.quality.n must be >= 5 for this metric, got 4; use 50"):
        fit(tmp_path, callbacks=[quality(tmp_path, n=4)])


@pytest.mark.parametrize("wrong", [{"n": 1}, {"steps": 0}, {"every_n_steps": 0}])
def test_impossible_settings(tmp_path, wrong):
    with pytest.raises(ValueError, match="must be >= "):
        quality(tmp_path, **wrong)
