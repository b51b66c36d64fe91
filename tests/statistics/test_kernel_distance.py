"""The kernel distance of Gaussians, whose moments are known: no bias, and an error that says how much it varies."""

import pytest
import torch

from src.statistics import kernel_distance as of
from src.statistics.kernel_distance import kernel_distance, kernel_pairs

pytestmark = pytest.mark.strength(1)

D = 8


def draw(n, shift, g):
    return shift + torch.randn(n, D, generator=g, dtype=torch.float64)


def expected_kernel(a, b):
    """E (x y / D + 1)^3 of independent x ~ N(a, I) and y ~ N(b, I), from the moments of the product of two elements."""
    first, second, third = a * b, (a**2 + 1) * (b**2 + 1), (a**3 + 3 * a) * (b**3 + 3 * b)
    variance = (second - first**2) / D
    skewness = (third - 3 * first * second + 2 * first**3) / D**2
    return (1 + first) ** 3 + 3 * (1 + first) * variance + skewness


def truth(shift):
    return expected_kernel(0.0, 0.0) + expected_kernel(shift, shift) - 2 * expected_kernel(0.0, shift)


@pytest.mark.most(1)
@pytest.mark.parametrize(("m", "n"), [(120, 120), (300, 100)])
@pytest.mark.parametrize(("shift", "covers"), [(0.0, 0.95), (0.03, 0.95), (0.1, 0.85), (0.3, 0.9), (1.0, 0.9)])
def test_no_bias_and_an_error_of_the_right_size(shift, covers, m, n):
    """Over 200 pairs of sets. Between near laws the intervals err on the wide side, by up to a quarter."""
    g, repeats = torch.Generator().manual_seed(0), 200
    found = torch.tensor([kernel_distance(draw(m, 0.0, g), draw(n, shift, g)) for _ in range(repeats)])
    distance, error = found.double().unbind(1)
    assert (distance.mean() - truth(shift)).abs() < 4 * distance.std() / repeats**0.5
    assert 0.85 < (error.square().mean().sqrt() / distance.std()).item() < 1.3
    assert ((distance - truth(shift)).abs() < 1.96 * error).double().mean() > covers


def test_the_error_of_equal_laws_falls_as_the_number_and_of_far_ones_as_its_root():
    g = torch.Generator().manual_seed(1)
    for shift, power in ((0.0, 1.0), (1.0, 0.5)):
        few, many = (kernel_distance(draw(n, 0.0, g), draw(n, shift, g))[1] for n in (200, 1600))
        assert few / many == pytest.approx(8**power, rel=0.4)


def test_pairs_by_hand(monkeypatch):
    """In parts of any length: with the whole matrix in sight, and of a kernel that is a sum nothing varies by pairs."""
    g = torch.Generator().manual_seed(2)
    x, y = draw(7, 0.1, g), draw(5, 0.0, g)
    k, own = (x @ y.T / D + 1) ** 3, ((x @ x.T / D + 1) ** 3).fill_diagonal_(0)
    for chunk in (2, 100):
        monkeypatch.setattr(of, "CHUNK", chunk)
        found, itself = kernel_pairs(x, y), kernel_pairs(x)
        torch.testing.assert_close(found.rows, k.mean(1))
        torch.testing.assert_close(found.columns, k.mean(0))
        torch.testing.assert_close(itself.rows, own.sum(1) / 6)
        assert found.mean == pytest.approx(k.mean().item())
        assert itself.mean == pytest.approx(own.sum().item() / 42)
    alike = torch.ones(50, D, dtype=torch.float64)
    assert kernel_pairs(alike, draw(40, 0.0, g)).interaction == pytest.approx(0, abs=1e-9)


def interaction(k, itself):
    """The variance of what the means of rows and columns leave, by least squares over the pairs."""
    m, n = k.shape
    pairs = [(i, j) for i in range(m) for j in range(n) if not itself or i < j]
    design = torch.zeros(len(pairs), m if itself else m + n, dtype=torch.float64)
    for row, (i, j) in zip(design, pairs, strict=True):
        row[i], row[j if itself else m + j] = 1, 1
    values = torch.stack([k[i, j] for i, j in pairs])[:, None]
    residual = values - design @ torch.linalg.pinv(design) @ values
    return residual.square().sum() / (len(pairs) - (m if itself else m + n - 1))


def test_the_error_by_hand():
    """By the formula of the docstring, from matrices of few numbers, of laws that differ much."""
    g = torch.Generator().manual_seed(5)
    x, y = draw(6, 0.0, g), draw(8, 1.5, g)
    m, n = len(x), len(y)
    xx, yy, xy = (((a @ b.T) / D + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    v_xx, v_yy, v_xy = interaction(xx, True), interaction(yy, True), interaction(xy, False)
    rows = [(k.sum(1) - k.diagonal()) / (len(k) - 1) for k in (xx, yy)]
    zeta_x = (rows[0] - xy.mean(1)).var() - v_xx / (m - 1) - v_xy / n
    zeta_y = (rows[1] - xy.mean(0)).var() - v_yy / (n - 1) - v_xy / m
    of_pairs = 2 * v_xx / (m * (m - 1)) + 2 * v_yy / (n * (n - 1)) + 4 * v_xy / (m * n)
    assert zeta_x + zeta_y > 0
    expected = (4 * zeta_x / m + 4 * zeta_y / n + of_pairs).sqrt()
    assert kernel_distance(x, y)[1] == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.slow
def test_what_varies_by_pairs():
    """Of the kernel of elements +1 and -1, whose moments are counted: on average, from few features as from many."""
    g = torch.Generator().manual_seed(4)

    def signs(n):
        return torch.randint(0, 2, (n, 1), generator=g).double() * 2 - 1

    # (1 + 1)^3 = 8 where the signs are equal, 0 where not: 4 + 4 s t.
    found = torch.tensor(
        [[kernel_pairs(signs(6)).interaction, kernel_pairs(signs(5), signs(9)).interaction] for _ in range(2000)]
    )
    assert found.mean(0).tolist() == pytest.approx([16, 16], rel=0.05)


def test_of_one_law_in_single_precision():
    g = torch.Generator().manual_seed(3)
    x, y = 3 * draw(400, 0.5, g), 3 * draw(300, 0.5, g)
    exact, low = kernel_distance(x, y), kernel_distance(x.float(), y.float())
    assert low[0] == pytest.approx(exact[0], abs=0.02 * exact[1]) and low[1] == pytest.approx(exact[1], rel=1e-3)


def test_the_error_is_at_least_that_of_pairs():
    """Where the estimate of what varies by samples is negative, as it is for half of the sets of one law."""
    less = 0
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        x, y = draw(20, 0.0, g), draw(30, 0.0, g)
        xx, yy, xy = kernel_pairs(x), kernel_pairs(y), kernel_pairs(x, y)
        pairs = 2 * xx.interaction / 380 + 2 * yy.interaction / 870 + 4 * xy.interaction / 600
        zeta_x = (xx.rows - xy.rows).var().item() - xx.interaction / 19 - xy.interaction / 30
        zeta_y = (yy.rows - xy.columns).var().item() - yy.interaction / 29 - xy.interaction / 20
        samples = 4 * zeta_x / 20 + 4 * zeta_y / 30
        assert kernel_distance(x, y)[1] == pytest.approx((pairs + max(samples, 0)) ** 0.5)
        less += samples < 0
    assert 0 < less < 12


def test_pairs_of_single_precision_are_added_in_double(monkeypatch):
    monkeypatch.setattr(of, "CHUNK", 4)
    x = draw(9, 3.0, torch.Generator().manual_seed(2)).float()
    values = ((x[:4] @ x.T / D + 1) ** 3).double()
    values.diagonal().zero_()
    assert torch.equal(kernel_pairs(x).rows[:4], values.sum(1) / 8)
