import math

import pytest
import torch
from scipy.ndimage import rotate as scipy_rotate
from torch.nn import functional as F
from torch.testing import assert_close

from src.data.mnist_angle import MNISTAngle, rotate
from src.statistics.handwriting import slant
from src.utils.errors import UserError
from tests.data.test_mnist import mnist, write

ROWS = torch.arange(50)


def smooth(n=3, height=28, width=28):
    """Smooth pictures (n, 1, height, width) that are 0 outside of a disk."""
    x = F.interpolate(
        torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)), (height, width), mode="bicubic"
    )
    v, u = torch.meshgrid(*(torch.linspace(-1, 1, s) for s in (height, width)), indexing="ij")
    return x * torch.sigmoid(20 * (0.7 - (u**2 + v**2).sqrt()))


class TestRotate:
    @pytest.mark.parametrize("turns", [1, 2, 3])
    def test_quarter_turns_are_exact(self, turns):
        x = smooth()
        assert_close(rotate(x, torch.full((3,), 90.0 * turns)), x.rot90(turns, (2, 3)), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("angle", [-70.0, 20.0, 45.0])
    def test_agrees_with_scipy(self, angle):
        x = smooth()
        expected = scipy_rotate(x.numpy(), angle, axes=(3, 2), reshape=False, order=1)
        assert_close(rotate(x, torch.full((3,), angle)), torch.from_numpy(expected), rtol=0, atol=2e-3)

    def test_pixels_stay_square(self):
        """A disk stays one in a picture that is wider than high."""
        v, u = torch.meshgrid(torch.arange(20.0) - 9.5, torch.arange(40.0) - 19.5, indexing="ij")
        disk = torch.sigmoid(7 - (u**2 + v**2).sqrt())[None, None]
        assert_close(rotate(disk, torch.tensor([33.0])), disk, rtol=0, atol=0.03)

    def test_each_picture_has_its_own_angle(self):
        x, angles = smooth(), torch.tensor([0.0, 90.0, 30.0])
        alone = torch.cat([rotate(x[i : i + 1], angles[i : i + 1]) for i in range(3)])
        assert torch.equal(rotate(x, angles), alone) and torch.allclose(alone[0], x[0], atol=1e-5)

    def test_removes_a_slant(self):
        x = smooth()
        by = slant(x)
        assert by.abs().max() > 1
        assert_close(slant(rotate(x, torch.zeros(3), by)), torch.zeros(3), rtol=0, atol=0.3)

    def test_the_slant_comes_first(self):
        x, angle, by = smooth(), torch.full((3,), 25.0), torch.full((3,), 15.0)
        assert_close(rotate(rotate(x, 0 * angle, by), angle), rotate(x, angle, by), rtol=0, atol=0.07)


def angles(tmp_path, **settings):
    data = mnist(write(tmp_path), kind=MNISTAngle, **settings)
    data.setup()
    return data


def test_samples_are_rotated_by_their_vector(tmp_path):
    data = angles(tmp_path, upright=False)
    for part in (data.train_set, data.val_set, data.test_set):
        rows = torch.arange(len(part))
        batch, before = part[2, rows], part.samples[2, rows]
        assert batch["vector"].shape == (len(part), 1) and batch["vector"].dtype == torch.float32
        assert_close(batch["x"] + 1, rotate(before["x"] + 1, batch["vector"][:, 0]))
        assert torch.equal(batch["label"], before["label"]) and batch["x"].min() >= -1
    upright = angles(tmp_path).train_set
    assert_close(upright.slants, slant(data.to_units(upright.samples[0, ROWS]["x"])))


def test_angles_are_uniform_in_their_range(tmp_path):
    data = angles(tmp_path, angle=[-20, 100])
    found = torch.cat([data.train_set[epoch, ROWS]["vector"] for epoch in range(40)])
    assert found.min() >= -20 and found.max() < 100
    assert found.mean().item() == pytest.approx(40, abs=4 * 120 / math.sqrt(12 * len(found)))
    assert found.std().item() == pytest.approx(120 / math.sqrt(12), rel=0.05)


def test_angles_depend_on_seed_epoch_and_index_alone(tmp_path):
    first = angles(tmp_path).train_set[3, ROWS]
    again = angles(tmp_path).train_set
    assert torch.equal(torch.cat([again[3, rows]["x"] for rows in ROWS.split(7)]), first["x"])
    for other in (again[4, ROWS], angles(tmp_path, seed=1).train_set[3, ROWS]):
        assert (other["vector"] != first["vector"]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"angle": [60, -60]}, r"data\.angle must be the lowest and the highest angle in degrees, .* got \[60, -60\]"),
        ({"angle": [-200, 200]}, r"data\.angle must be"),
        ({"vector_size": 2}, r"data\.vector_size must be 1, as the vector is the angle, got 2"),
    ],
)
def test_what_is_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        angles(tmp_path, **settings)
