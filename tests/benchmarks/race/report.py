"""The table of a race."""

from statistics import median
from typing import Any

from tests.benchmarks.loop.page import caption
from tests.benchmarks.results import align

# What a contender says of itself: title, how it is written, the key, and by what it is multiplied.
COSTS = [
    ("parameters, million", "{:.2f}", "parameters", 1e-6),
    ("seconds to the first step, imports included", "{:.1f}", "first_step_s", 1),
    ("images seen", "{:,.0f}", "images", 1),
    ("images/s, validation and start included", "{:.0f}", "images_per_s", 1),
    ("peak memory of training, MiB", "{:,.0f}", "peak_mib", 1),
    ("samples/s, 50 evaluations", "{:.1f}", "samples_per_s", 1),
]
# What was measured of its samples, and of as many real images.
MEASURES = [
    ("Fréchet distance [95 %]", "{:.2f} [{:.2f}, {:.2f}]", "frechet", 1),
    ("the same in features of random weights", "{:.2f}", "frechet_random", 1),
    ("recall", "{:.2f}", "recall", 1),
    ("coverage", "{:.2f}", "coverage", 1),
    ("precision", "{:.2f}", "precision", 1),
    ("samples with 90 % confidence, %", "{:.1f}", "confident", 100),
    ("brightness, difference from the test data, %", "{:+.1f}", "mean_bias_percent", 1),
    ("contrast, difference from the test data, %", "{:+.1f}", "contrast_bias_percent", 1),
    ("pixels black, %", "{:.0f}", "low_percent", 1),
]
SIGNED = ("mean_bias_percent", "contrast_bias_percent", "low_percent")  # their ratios say nothing
PRECISIONS = {"bf16": "bf16", "32": "float32"}


def report(found: dict[str, Any], ours: str, pictures: str = "race") -> str:
    """In Markdown: the contenders side by side, in brackets what each is to ours, and the two pictures."""
    contenders = found["contenders"]
    mine = contenders[ours]
    table = [["", *contenders, "real"]]
    for title, form, key, scale in COSTS + MEASURES:
        table.append([title])
        for name, one in contenders.items():
            text = form.format(one[key] * scale, *one.get(f"{key}_interval", ()))
            compared = name != ours and mine[key] and key not in SIGNED
            table[-1].append(f"{text} ({times(one[key] / mine[key])})" if compared else text)
        real = found["real_baseline"].get(key)
        table[-1].append("" if real is None else form.partition(" ")[0].format(real * scale))
    for precision, rates in found["speeds"].items():
        table.append([f"images/s at 4 million parameters, {PRECISIONS[precision]}"])
        speeds = {name: median(each) for name, each in rates.items()}
        table[-1] += [f"{v:.0f}" + (f" ({times(v / speeds[ours])})" if n != ours else "") for n, v in speeds.items()]
        table[-1].append("")
    return "\n\n".join([caption(found["about"]), align(table), in_words(found, ours), PICTURES.format(pictures)])


def times(ratio: float) -> str:
    """Two digits of a ratio, and all before the point."""
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"


def in_words(found: dict[str, Any], ours: str) -> str:
    mine = found["contenders"][ours]
    best = min(one["frechet"] for name, one in found["contenders"].items() if name != ours)
    reached = [m["seconds"] for m in mine["kept"].values() if m["frechet"] <= best]
    when = f"within {min(reached):.0f} s" if reached else "at none of the measured moments"
    n, grid = found["samples"], mine["grid"]
    return (
        f"{found['minutes']:g} minutes of training each in {PRECISIONS[found['precision']]}, {n} samples; in brackets "
        f"the ratio to {ours}, in the last column {n} real images. {ours} reaches the better baseline's final distance "
        f"{when}. 64 samples in 10 evaluations from a checkpoint take {mine['grid_s']:.1f} s, imports included; {n} "
        f"sampled this way have a distance of {grid['frechet']:.2f}, and {100 * grid['confident']:.1f} % are "
        "classified with 90 % confidence. A classifier can also be confident about noise: see the pictures."
    )


PICTURES = "![Distance against time]({0}.png)\n\n![64 samples of each, not selected]({0}_samples.png)"
