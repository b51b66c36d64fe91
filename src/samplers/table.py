"""A sampler as a table of numbers: what it evaluates and returns, as sums of earlier predictions and of noise.

Most samplers are linear in the predictions of the data and in the noise. Then a loop over the table, in any language,
draws what the sampler draws.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from src.samplers.base import Sampler

Terms = list[tuple[int, float]]
SMALL = 1e-13  # of the largest number of a row: rounding errors of what vanishes


@dataclass
class Row:
    r"""A state, :math:`x \leftarrow a\, x + \sum_j b_j \hat x_0^{(j)} + \sum_k c_k z_k`.

    Attributes:
        t: the time at which the data are predicted from it; None for the last, which is the sample.
        s: the time to which a flow map is to go from there; None for a denoiser.
        x: a, of the state before; at first of the initial noise.
        x_0: the numbers j of earlier predictions, with :math:`b_j`.
        noise: the numbers k of standard normal draws, with :math:`c_k`.
    """

    t: float | None
    s: float | None
    x: float
    x_0: Terms
    noise: Terms


def tabulate(sampler: Sampler) -> list[Row]:
    """The table of a sampler.

    Raises:
        ValueError: if it is not linear in predictions and noise.
    """
    sampler, nothing = replace(sampler, clip=None), torch.zeros(1, 1, dtype=torch.float64)
    n, draws, _ = walk_trajectory(sampler, nothing, lambda x, *_: 0 * x, torch.zeros_like)
    basis = torch.eye(1 + len(n) + draws, dtype=torch.float64)[:, None]
    counts = [0, 0]

    def denoise(x: Tensor, *_: Tensor) -> Tensor:
        counts[0] += 1
        return basis[counts[0]]

    def noise(x: Tensor) -> Tensor:
        counts[1] += 1
        return basis[len(n) + counts[1]]

    states, _, end = walk_trajectory(sampler, prior(sampler) * basis[0], denoise, noise)
    rows, before = [], basis[0, 0]
    for t, s, state in [*states, (None, None, end)]:
        now = state[0]
        a = (now[0] / before[0]).item() if before[0] else 0.0
        rest = torch.where((now - a * before).abs() > SMALL * now.abs().max(), now - a * before, 0.0)[1:].tolist()
        terms = [(i, value) for i, value in enumerate(rest) if value]
        x_0, z = [v for v in terms if v[0] < len(n)], [(i - len(n), v) for i, v in terms if i >= len(n)]
        rows.append(Row(t, s, a, x_0, z))
        before = now
    check_table(sampler, rows)
    return rows


def prior(sampler: Sampler) -> float:
    """The standard deviation of the noise at t = 1."""
    return sampler.sample_prior(torch.ones_like, torch.ones(1, 1, dtype=torch.float64)).item()


def walk_trajectory(
    sampler: Sampler, x_t: Tensor, denoise: Any, noise: Any
) -> tuple[list[tuple[float, float | None, Tensor]], int, Tensor]:
    """The evaluated times t and s and states, the number of draws, and the end of a trajectory."""
    seen: list[tuple[float, float | None, Tensor]] = []
    draws = [0]

    def predict(x: Tensor, t: Tensor, *s: Tensor) -> Tensor:
        seen.append((t.item(), s[0].item() if s else None, x))
        return denoise(x, t, *s)

    def draw(x: Tensor) -> Tensor:
        draws[0] += 1
        return noise(x)

    try:
        *_, end = sampler.trajectory(predict, x_t, draw)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{type(sampler).__name__} needs more than predictions of the data and noise") from error
    return seen, draws[0], end.x_t


def follow(rows: list[Row], x: Tensor, denoise: Any, noise: Any) -> Tensor:
    """Draw by a table, from standard normal x."""
    x_0s: list[Tensor] = []
    zs: list[Tensor] = []
    for row in rows:
        while row.noise and len(zs) <= row.noise[-1][0]:
            zs.append(noise(x))
        x = row.x * x + sum(b * x_0s[j] for j, b in row.x_0) + sum(c * zs[k] for k, c in row.noise)
        if row.t is not None:
            x_0s.append(denoise(x, row.t, *([] if row.s is None else [row.s])))
    return x


def check_table(sampler: Sampler, rows: list[Row]) -> None:
    """Compare the table with the sampler, for data that are predicted by a function that is not linear."""
    z = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def draws() -> Any:
        generator = torch.Generator().manual_seed(1)
        return lambda x: torch.randn(x.shape, generator=generator, dtype=torch.float64)

    *_, expected = walk_trajectory(sampler, prior(sampler) * z, lambda x, *times: torch.tanh(x + sum(times)), draws())
    found = follow(rows, z, lambda x, *times: torch.tanh(x + sum(times)), draws())
    if not torch.allclose(found, expected, rtol=1e-6, atol=1e-6):
        raise ValueError(f"{type(sampler).__name__} is not linear in the predicted data and the noise")
