"""Features that are learned from real digits, and what is kept of them."""

import pytest
import torch

from src.data.digits import Digits
from src.metrics.features.auto import auto
from src.metrics.features.autoencoder import Autoencoder
from src.metrics.features.base import ReferenceData
from src.metrics.features.classifier import Classifier
from src.metrics.features.trained import Trunk
from src.statistics.frechet import Moments, frechet
from src.utils.errors import UserError

pytestmark = pytest.mark.strength(1)


def reference(num_classes: int = 10, seed: int = 0) -> ReferenceData:
    """Of the 8 x 8 digits, without a run."""
    data = Digits(num_classes=num_classes, seed=seed)
    data.setup()
    return ReferenceData(data, None)


@pytest.fixture(scope="module", autouse=True)
def patience():
    """As many steps as a user waits for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.metrics.features.trained.MIN_STEPS", 300)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=[Classifier, Autoencoder])
def features(request, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.metrics.features.trained.MIN_STEPS", 100)  # slow tests look at their quality
        return request.param(reference(10 if request.param is Classifier else 0), str(cache))


@pytest.mark.slow
def test_it_knows_the_digits(cache):
    features = Classifier(reference(), str(cache))
    test = reference().test[:]
    right = features.logits(features.test).argmax(1) == test["label"]
    assert features.accuracy == pytest.approx(right.float().mean().item())
    assert features.accuracy > 0.95
    assert f"{features.accuracy:.1%} accuracy on test data" in features.name


@pytest.mark.slow
def test_an_autoencoder_keeps_most_of_an_image(tmp_path):
    features = Autoencoder(reference(0), str(tmp_path))
    lost = float(features.name.split("features, ")[1].split("%")[0])
    assert lost < 15 and features.accuracy is None and features.logits(features.test) is None


def test_those_of_real_data_are_what_it_gives(features):
    real = reference()
    for found, kept in ((real.test[:]["x"], features.test), (real.train[:50]["x"], features.train[:50])):
        torch.testing.assert_close(features((found * 255).round() / 255), kept, atol=1e-4, rtol=1e-4)
    assert features.test.double().var(0).sum().item() == pytest.approx(100, rel=1e-3)


def test_noise_is_farther_than_data(features):
    real = reference().train[:300]["x"]
    far, near = (
        frechet(Moments.of(features.test), Moments.of(features(x)))
        for x in ((real + 0.3 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1), real)
    )
    assert far > 2 * near


def test_they_are_learned_once(features, cache, monkeypatch):
    monkeypatch.setattr(type(features), "train_network", None)
    again = type(features)(reference(features.classes), str(cache))
    assert torch.equal(again.train, features.train) and again.name == features.name


@pytest.mark.parametrize("change", [{"width": 32}, {"epochs": 2}, {"lr": 1e-3}])
def test_other_settings_or_data_are_learned_anew(features, cache, monkeypatch, change):
    learned = []
    monkeypatch.setattr(type(features), "train_network", lambda self, *data: learned.append(data) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        type(features)(reference(features.classes), str(cache), **change)
    other = reference(features.classes)
    other.data.train_set.x = other.data.train_set.x.flip(-1)
    with pytest.raises(ZeroDivisionError):
        type(features)(other, str(cache))
    assert len(learned) == 2


def test_learning_leaves_the_randomness_of_a_run_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Classifier, "fit", lambda self, x, y: torch.randn(5))
    torch.manual_seed(7)
    Classifier(reference(), str(tmp_path))
    drawn = torch.randn(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.randn(3))


def test_the_default_goes_by_the_labels(features, cache):
    assert type(auto(reference(features.classes), str(cache))) is type(features)


def test_samples_of_another_shape_are_refused(features):
    with pytest.raises(UserError, match="samples must have shape 1 x 8 x 8, like the data of this run, got 1 x 9 x 9"):
        features(torch.zeros(2, 1, 9, 9))


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (28, 28), (25, 31), (64, 48), (256, 256)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_size(size, channels):
    """The autoencoder gives back what the trunk sees, which is at most 64 pixels wide."""
    net = object.__new__(Autoencoder)
    net.channels, net.size, net.width = channels, size, 5
    net = net.build()
    x = torch.rand(2, channels, *size)
    assert net.trunk(x).shape == (2, 5)
    assert net.head(net.trunk(x)).shape == (2, channels, *(min(s, 64) for s in size))
    assert max(Trunk(channels, size, 5, 0.0).inner[1:]) <= 8
