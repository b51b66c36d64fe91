"""Which rows the pictures of a comparison show, and what it takes to make them."""

import math

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from src.commands.compare import records
from src.commands.compare.run_comparison import RunComparison
from src.commands.compare.run_plots import losses_apart
from src.loggers.metrics_csv import read_metrics
from src.runs.run import Run
from src.utils.paths import CONF
from tests.commands.compare.conftest import evaluation

SIMPLE = {"_target_": "src.diffusion.weightings.simple_weighting"}


@pytest.fixture
def compared(tmp_path):
    """`compared(records, shown=2)` compares them, without samples."""

    def compare(runs, shown=12) -> RunComparison:
        settings = {"max_rows": shown, "n_shown": 0, "out": str(tmp_path / "out"), "paths": {"outputs": str(tmp_path)}}
        return RunComparison(OmegaConf.create(settings), runs, [])

    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield compare


@pytest.fixture
def drawn(monkeypatch):
    """Every picture that is put together, by what is drawn in it; nothing is painted, which takes most of the time."""
    figures = []
    for module in ("training_curves", "quality_against_cost", "side_by_side", "parallel"):
        monkeypatch.setattr(f"src.plots.{module}.to_picture", lambda f: figures.append(f) or Image.new("RGB", (9, 9)))
    return figures


@pytest.fixture
def rates(write_run):
    """`rates(0.5, nan, ...)`: a run for each of these losses."""

    def write(*losses, **changes):
        return [
            write_run(f"r{i}", (f"optimizer.lr={i}",), (1.0, loss), optimizer__lr=float(i), **changes)
            for i, loss in enumerate(losses)
        ]

    return write


def names(comparison):
    return [g.name for g in comparison.best]


def test_the_best_rows_are_shown(compared, rates, drawn, tmp_path):
    """By their losses; a run without one comes last, and the others are gray."""
    comparison = compared(rates(0.5, 0.2, math.nan, 0.4, 0.3), shown=3)
    assert names(comparison) == ["1", "4", "3"]
    comparison.write()
    page = (tmp_path / "out/comparison.html").read_text()
    assert "Pictures show 3 of 5 rows, the best by val loss" in page
    assert "3 of 5 rows are colored; the others are gray." in page
    legends = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legends == ["2 others", "1", "4", "3"]


def test_metrics_go_before_losses(compared, write_run, drawn):
    """Of metrics that are missing, or NaN, nothing is made."""
    values = (3.0, math.nan, 1.0, None)
    runs = [
        write_run(f"r{i}", (f"optimizer.lr={i}",), optimizer__lr=float(i), evaluations={"a": evaluation(value)})
        for i, value in enumerate(values)
    ]
    comparison = compared(runs, shown=2)
    assert names(comparison) == ["2", "0"] and comparison.ranked_by == "Fréchet distance"
    comparison.write()


def test_losses_that_cannot_be_compared_are_apart(compared, rates, write_run, drawn, tmp_path):
    """Each kind is in a plot of its own, and none is ranked or drawn by its settings."""
    others = [write_run(f"s{i}", (f"optimizer.lr={i}", "weighting=simple"), optimizer__lr=float(i), weighting=SIMPLE)
              for i in range(3)]  # fmt: skip
    comparison = compared([*rates(0.5, 0.2, 0.3), *others])
    kinds = losses_apart(comparison.groups)
    assert {what: len(rows) for what, rows in kinds.items()} == {"weighting=v": 3, "weighting=simple": 3}
    comparison.write()
    page = (tmp_path / "out/comparison.html").read_text()
    assert "Losses of different plots are not comparable." in page and "<h2>Settings" not in page
    assert sorted(len(figure.axes[0].lines) for figure in drawn) == [3, 3, 3, 3]


def test_every_run_is_read_once(compared, rates, drawn, monkeypatch):
    """However often its config and metrics are looked at: what a comparison takes grows with the number of runs."""
    reads = []
    metadata = Run.metadata
    monkeypatch.setattr(Run, "metadata", lambda run: reads.append("metadata") or metadata(run))
    monkeypatch.setattr(records, "read_metrics", lambda file: reads.append("rows") or read_metrics(file))
    comparison = compared(rates(*(1 / (i + 1) for i in range(12))), shown=4)
    reads.clear()  # those of the runs themselves, when they were written
    comparison.write()
    assert reads.count("metadata") == 0 and reads.count("rows") <= 12
