"""Colors, lines, legends and axes shared by the plots of several runs."""

from collections.abc import Sequence
from math import ceil, log10
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe, Ito 2008: distinguishable with every kind of color vision; further series get other lines and markers.
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
LINES, MARKERS = ["-", "--", ":", "-."], ["o", "s", "^", "D"]
SIZE = 6.6, 5.2  # inches: small, so that text is legible on a phone


def style_of(i: int) -> dict[str, Any]:
    """The color, line and marker of the i-th series."""
    round_ = i // len(COLORS)
    return {
        "color": COLORS[i % len(COLORS)],
        "linestyle": LINES[round_ % len(LINES)],
        "marker": MARKERS[round_ % len(MARKERS)],
    }


def draw_real_baseline(axis: "Axes", real_baseline: float) -> None:
    """Draw the real-data baseline as a horizontal line."""
    axis.axhline(real_baseline, color="black", linewidth=0.9, linestyle=(0, (4, 3)), label="real data")


def legend(axis: "Axes") -> None:
    """Add a legend below the axes, in as many columns as fit; the figure grows with the number of rows."""
    handles, names = axis.get_legend_handles_labels()
    names = [shorten(name) for name in names]
    columns = max(1, min(4, len(names), 64 // (max(map(len, names)) + 6)))
    figure: Any = axis.figure
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, ceil(len(names) / columns) - 3))
    figure.legend(handles, names, fontsize=9, loc="outside lower center", ncols=columns)


def shorten(name: str, max_length: int = 56) -> str:
    """Replace the middle of a long name by an ellipsis."""
    half = (max_length - 1) // 2
    return name if len(name) <= max_length else f"{name[:half]}…{name[-half:]}"


def log_scale(axis: "Axes", which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Set a logarithmic axis with plain numbers as labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis.set_xscale("log") if which == "x" else axis.set_yscale("log")
    ruler = axis.xaxis if which == "x" else axis.yaxis
    decades = log10(max(values) / min(values)) if min(values) > 0 else 1
    # Few ticks on a long axis; a short one may contain no power of ten and is nearly linear.
    ticks = (1.0,) if decades > 3 else (1.0, 2.0, 5.0)
    ruler.set_major_locator(LogLocator(subs=ticks, numticks=12) if decades > 0.6 else MaxNLocator(8))
    if decades <= 0.6:
        ruler.set_minor_locator(NullLocator())
    ruler.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ruler.set_minor_formatter(FuncFormatter(lambda *_: ""))


def log_if_wide(axis: "Axes", which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Set a logarithmic axis for values that span more than a factor of four."""
    if min(values) > 0 and max(values) > 4 * min(values):
        log_scale(axis, which, values)
