"""The points of the mixture against their distribution, within five standard errors."""

import numpy as np
import pytest
import torch
from scipy import stats

from src.data.gaussian_mixture import GaussianMixture
from src.utils.errors import UserError

UNEQUAL = {"modes": 5, "weights": [1, 2, 3, 4, 10], "radius": 2.0, "std": 0.3, "num_classes": 5}
LAWS = pytest.mark.parametrize("law", [{}, UNEQUAL], ids=["default", "unequal"])


def load(**settings) -> GaussianMixture:
    data = GaussianMixture(**settings)
    data.setup()
    return data


def points(data: GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    x, label = (torch.cat([getattr(part, name) for part in (data.train_set, data.val_set)]) for name in ("x", "label"))
    return x.double().numpy(), label.numpy()


def bars(values: np.ndarray) -> np.ndarray:
    """Five standard errors of the mean over the first axis."""
    return 5 * values.std(0) / len(values) ** 0.5


def test_sizes_types_and_source():
    data = load()
    assert (len(data.train_set), len(data.val_set), data.shape, data.num_classes) == (18000, 2000, (2,), 8)
    assert data.source == "18,000 train / 2,000 validation points from 8 Gaussians on a circle, drawn"
    batch = next(iter(data.train_dataloader()))
    assert batch["x"].shape == (256, 2) and batch["x"].dtype == torch.float32
    assert batch["label"].shape == (256,) and batch["label"].dtype == torch.int64


def test_the_truth_that_it_states():
    data = GaussianMixture(**UNEQUAL)
    assert data.weights.tolist() == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.5], abs=1e-15)
    complex_roots = 2 * np.exp(2j * np.pi * np.arange(5) / 5)
    np.testing.assert_allclose(data.means.numpy(), np.stack([complex_roots.real, complex_roots.imag], 1), atol=1e-14)
    assert GaussianMixture().weights.tolist() == [1 / 8] * 8
    assert GaussianMixture(weights=[0.5] * 8).weights.tolist() == [1 / 8] * 8


@LAWS
def test_moments(law):
    """E x = sum w mu and E x x^T = sum w mu mu^T + s^2 I."""
    data = load(**law)
    x, _ = points(data)
    w, mu = data.weights.numpy(), data.means.numpy()
    products = x[:, :, None] * x[:, None]
    assert (abs(x.mean(0) - w @ mu) < bars(x)).all()
    assert (
        abs(products.mean(0) - np.einsum("k,ki,kj->ij", w, mu, mu) - data.std**2 * np.eye(2)) < bars(products)
    ).all()


def test_default_variance_is_about_one():
    x, _ = points(load())
    assert (
        abs(x.var(0) - 1).max() < 0.03 and GaussianMixture().to_units(torch.tensor([[1.7, -2.0]])).tolist()[0][1] == -2
    )


@LAWS
def test_shares_of_the_modes(law):
    data = load(**law)
    _, label = points(data)
    assert set(label) == set(range(data.modes))
    hits = label[:, None] == np.arange(data.modes)
    assert (abs(hits.mean(0) - data.weights.numpy()) < bars(hits)).all()


@LAWS
def test_the_points_of_a_mode_are_normal(law):
    """Kolmogorov-Smirnov test at a level of 1e-4; the two coordinates are uncorrelated."""
    data = load(**law)
    x, label = points(data)
    z = (x - data.means.numpy()[label]) / data.std
    for k in range(data.modes):
        assert all(stats.kstest(z[label == k, axis], "norm").pvalue > 1e-4 for axis in (0, 1))
    assert abs(z.prod(1).mean()) < bars(z.prod(1))


@LAWS
def test_density_is_that_of_scipy(law):
    data = GaussianMixture(**law)
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    parts = [stats.multivariate_normal(m, data.std**2).pdf(x.double().numpy()) for m in data.means.numpy()]
    found = data.log_density(x)
    assert found.shape == (200,) and found.dtype == torch.float64
    np.testing.assert_allclose(found.exp().numpy(), data.weights.numpy() @ np.stack(parts), rtol=1e-10)
    assert data.log_density(torch.tensor([[300.0, 0.0]])).isfinite().all(), "no underflow far away"


@LAWS
def test_density_is_that_of_the_points(law):
    """The density integrates to one; the mean of log p and the fraction in a square are as integrated."""
    data = load(**law)
    x, _ = points(data)
    u = torch.arange(-4, 4, 0.02, dtype=torch.float64) + 0.01
    grid = torch.cartesian_prod(u, u)
    log_p = data.log_density(grid)
    mass = log_p.exp() * 0.02**2
    assert mass.sum().item() == pytest.approx(1, abs=1e-9)
    found = data.log_density(torch.from_numpy(x)).numpy()
    assert abs(found.mean() - (mass * log_p).sum().item()) < bars(found)
    inside = ((x > 0) & (x < 1)).all(1)
    expected = mass[((grid > 0) & (grid < 1)).all(1)].sum().item()
    assert abs(inside.mean() - expected) < bars(inside)


def test_seed():
    first, again, other = (points(load(n=100, seed=seed))[0] for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_labels_can_be_left_out():
    data, labeled = load(num_classes=0), load()
    batch = data.val_set[0, torch.arange(5)]
    assert set(batch) == {"x"} and torch.equal(batch["x"], labeled.val_set[0, torch.arange(5)]["x"])


def test_one_mode_is_a_gaussian():
    data = load(modes=1, num_classes=1, radius=0.0, std=1.0)
    assert data.source == "18,000 train / 2,000 validation points from a Gaussian, drawn"
    assert data.log_density(torch.zeros(1, 2)).item() == pytest.approx(-np.log(2 * np.pi))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 3}, r"must be 2 and \[\] .*, got 3 and \[\]"),
        ({"size": [4]}, r"data\.channels and data\.size must be 2 and \[\] .*, got 2 and \[4\]"),
        ({"modes": 0, "num_classes": 0}, r"data\.modes must be >= 1, got 0"),
        ({"radius": -1.0}, r"data\.radius must be .* got -1\.0"),
        ({"radius": float("nan")}, r"data\.radius must be .* got nan"),
        ({"std": 0.0}, r"data\.std must be .* got 0\.0"),
        ({"std": float("inf")}, r"data\.std must be .* got inf"),
        ({"weights": [1, 2]}, r"data\.weights must be 8 finite numbers > 0, one per mode, got \[1, 2\]"),
        ({"weights": [0, 1, 1, 1, 1, 1, 1, 1]}, r"data\.weights"),
        ({"weights": [float("nan")] * 8}, r"data\.weights"),
        ({"num_classes": 3}, r"data\.num_classes must be 8, .* or 0 .*, got 3"),
        ({"val_fraction": 1.0}, r"data\.val_fraction must be in \(0, 1\), got 1\.0"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(UserError, match=message) as refusal:
        GaussianMixture(**settings)
    assert "\n" not in str(refusal.value)
