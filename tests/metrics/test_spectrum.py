"""Power spectra of samples with a known one."""

import pytest
import torch

from src.data.gaussian_field import GaussianField
from src.metrics.spectrum import Spectrum
from src.statistics.power_spectrum import along_axes, mean_power, variance


def test_power_is_that_of_the_lines_along_an_axis(randn):
    """The mean periodogram of the lines, since the other axes are orthogonal transforms."""
    x = randn(5, 2, 4, 6, 7)
    for axis, found in enumerate(along_axes(mean_power(x.split(2)))):
        lines = x.movedim(2 + axis, -1).flatten(0, -2)
        expected = torch.fft.rfft(lines, norm="ortho").abs().square().mean(0)
        torch.testing.assert_close(found, expected)
    assert variance(mean_power([x])) == pytest.approx(x.flatten(2).var(2, unbiased=False).mean().item())


@pytest.mark.parametrize(("size", "length"), [((8, 12, 10), (3.0, 1.0, 2.0)), ((16, 24), (4.0, 1.0))])
def test_samples_of_another_length(context, undrawn, size, length):
    """White noise of the same variance has another spectrum; what is drawn like the data has the known one."""
    data = GaussianField(n=600, n_test=400, size=size, length=length)
    data.setup()
    x, train, test = data._draw(300, "more"), data.train_set.x, data.test_set.x
    if data.kind == "fields":  # the data of the context are images by their axes, scaled to [-1, 1]
        train, test = (train + 1) / 2, (test + 1) / 2
    section = Spectrum()(context(x, train, test, power=data.power, kind=data.kind))
    names = "HW" if len(size) == 2 else "DHW"
    for name in names:
        value = section.values[f"spectrum_{name}_db"]
        assert value.value < 0.5 and value.real_baseline < 0.5
    assert section.values["variance_ratio"].value == pytest.approx(1, abs=0.08)
    assert section.tables[f"spectrum of known along {names[0]}"] == along_axes(data.power)[0].tolist()
    unknown = Spectrum()(context(torch.randn(300, 1, *size), train, test, kind=data.kind))
    assert all(unknown.values[f"spectrum_{name}_db"].value > 2 for name in names)
    assert "test data" in unknown.notes[0]
