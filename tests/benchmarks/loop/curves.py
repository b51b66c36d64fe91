"""How a cost grows: the points, the exponents fitted to them, and their picture."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, inf, log
from statistics import linear_regression
from typing import TYPE_CHECKING

from PIL import Image

from src.plots.pictures import BLUE, GRAY, ORANGE, new_figure, to_picture
from tests.benchmarks.results import align

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = (BLUE, ORANGE, "#2f855a")
COLUMNS = 3
HEAD = ["cost of", "from, to", "time", "exponent", "of the arithmetic", "upper half", "of the arithmetic", "memory"]


@dataclass
class Curve:
    """A cost against one quantity.

    Attributes:
        panel: what it is the cost of, the same for curves that are drawn together.
        quantity: what grows, with its unit.
        name: tells it from the others of its panel.
        x, seconds, mib: the points: how much of the quantity, the time, and the peak memory.
        work: of each point, what has to be done: FLOP, or images.
    """

    panel: str
    quantity: str
    name: str = ""
    x: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)

    def add(self, x: float, seconds: float, mib: float, work: float) -> None:
        for values, value in zip((self.x, self.seconds, self.mib, self.work), (x, seconds, mib, work), strict=True):
            values.append(value)

    @property
    def expected(self) -> list[float]:
        """Seconds, if time grew from the first point as the work does."""
        return [self.seconds[0] * work / self.work[0] for work in self.work]

    def row(self) -> list[str]:
        """Of the table."""
        half = len(self.x) - max(2, ceil(len(self.x) / 2))
        exponents = [exponent(self.x[k:], y[k:]) for k in (0, half) for y in (self.seconds, self.work)]
        return [
            f"{self.panel}, {self.name}" if self.name else self.panel,
            f"{self.x[0]:,} to {self.x[-1]:,} {self.quantity}",
            f"{self.seconds[0]:.2g} to {self.seconds[-1]:.2g} s",
            *(f"{value:.2f}" for value in exponents),
            f"{self.mib[0]:,.0f} to {self.mib[-1]:,.0f} MiB",
        ]


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The k of y ~ x^k, by least squares of the logarithms."""
    return linear_regression([log(v) for v in x], [log(v) for v in y]).slope


def table_of(curves: Sequence[Curve]) -> str:
    """The Markdown table."""
    return align([HEAD, *(curve.row() for curve in curves)])


def picture_of(curves: Sequence[Curve]) -> Image.Image:
    """A panel for each cost, time above memory; dashed, time that grows as the arithmetic does."""
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    rows = ceil(len(panels) / COLUMNS)
    figure, axes = new_figure(10, 4.2 * rows, 2 * rows, COLUMNS, height_ratios=[2.2, 1] * rows)
    for axis in axes.flat:
        axis.set_visible(False)
    for i, panel in enumerate(panels):
        row, column = divmod(i, COLUMNS)
        draw_panel(axes[2 * row, column], axes[2 * row + 1, column], [c for c in curves if c.panel == panel])
    return to_picture(figure)


def tick_labels(x: Sequence[float], room: float = 0.12) -> list[str]:
    """Numbers on a logarithmic axis, of which those are left out that would touch the one to their right."""
    labels, right = [], inf
    for value in reversed(x):
        fits = log(right / value) >= room * log(x[-1] / x[0])
        labels.append(f"{value:,}" if fits else "")
        right = value if fits else right
    return labels[::-1]


def draw_panel(above: "Axes", below: "Axes", curves: Sequence[Curve]) -> None:
    """The curves of one cost."""
    from matplotlib.ticker import LogLocator

    x = curves[0].x
    for axis in (above, below):
        axis.set_visible(True)
        axis.set_xscale("log")
        axis.set_xticks(x, tick_labels(x))
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    above.tick_params(labelbottom=False)
    times = [second for curve in curves for second in (*curve.seconds, *curve.expected)]
    low, high = min(times) / 1.5, max(1.5 * max(times), 10 * min(times))  # a decade at least, so that noise stays small
    above.set(yscale="log", ylim=(low, high))
    above.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    above.yaxis.set_major_formatter("{x:g}")
    for curve, color in zip(curves, COLORS, strict=False):
        dashed = "as the arithmetic" if curve is curves[0] else None
        above.plot(curve.x, curve.expected, "--", color=GRAY, linewidth=1.2, label=dashed)
        above.plot(
            curve.x, curve.seconds, "o-", color=color, markersize=4, linewidth=1.6, label=curve.name or "measured"
        )
        below.plot(curve.x, curve.mib, "o-", color=color, markersize=3, linewidth=1.2)
    for axis in (above, below):
        axis.minorticks_off()
    above.legend(fontsize=7)
    above.set_title(curves[0].panel, fontsize=10)
    above.set_ylabel("seconds", fontsize=9)
    below.set_ylim(0, 1.25 * max(max(curve.mib) for curve in curves))
    below.set_ylabel("MiB", fontsize=9)
    below.set_xlabel(curves[0].quantity, fontsize=9)
