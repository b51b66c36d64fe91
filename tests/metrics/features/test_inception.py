"""ImageNet features, as far as they go without the weights of ImageNet."""

import sys
from urllib.error import URLError

import pytest
import torch
from torch import nn

from src.metrics.features.inception import Inception
from src.utils.errors import UserError
from tests.metrics.features.test_trained import reference


class Means(nn.Module):
    """Stands for Inception: the mean of each channel, of uint8 RGB."""

    def __init__(self, *arguments):
        super().__init__()
        self.fc = nn.Linear(3, 7)

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        return x.float().mean((2, 3))


def replace(monkeypatch, network):
    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", network)


def test_gray_images_are_seen_as_rgb_and_real_ones_once(monkeypatch, tmp_path):
    replace(monkeypatch, Means)
    real = reference()
    features = Inception(real, str(tmp_path))
    x = (real.test[:]["x"] * 255).round()
    torch.testing.assert_close(features.test, x.mean((2, 3)).expand(-1, 3))
    torch.testing.assert_close(features(real.test[:4]["x"]), features.test[:4])
    expected = features.test @ features.net.fc.weight.T
    torch.testing.assert_close(features.logits(features.test), expected.detach())
    monkeypatch.setattr(Inception, "extract", None)
    assert torch.equal(Inception(reference(), str(tmp_path)).train, features.train)


def raising(error):
    def fail(*arguments):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("torch-fidelity"), "features=inception needs torch-fidelity: pip install"),
        (URLError("no network"), "are not available .*no network.*features.weights=FILE"),
        (RuntimeError("not a zip"), "are not available .*not a zip"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, tmp_path, error, said):
    replace(monkeypatch, raising(error))
    with pytest.raises(UserError, match=said):
        Inception(reference(), str(tmp_path))


def test_without_torch_fidelity(tmp_path):
    if "torch_fidelity" in sys.modules:
        pytest.skip("it is installed")
    with pytest.raises(UserError, match="features=inception needs torch-fidelity"):
        Inception(reference(), str(tmp_path))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"features.weights=nowhere.pth does not exist"):
        Inception(reference(), str(tmp_path), weights="nowhere.pth")
