"""Rows over seeds, numbers that are known, marks that the noise allows."""

import csv
from io import StringIO

import pytest

from src.commands.compare import evaluations as quality
from src.commands.compare import table
from src.commands.compare.settings import differences
from src.commands.compare.table import MARK, Column
from src.statistics.significance import Estimate
from tests.commands.compare.conftest import evaluation


@pytest.fixture
def sweep(write_run):
    """Two rates, three seeds each."""
    losses = {"0.001": (0.50, 0.52, 0.51), "0.002": (0.40, 0.41, 0.42)}
    return [
        write_run(
            f"{lr}_{seed}", typed=(f"optimizer.lr={lr}",), losses=(1.0, value), seed=seed, optimizer__lr=float(lr)
        )
        for lr, values in losses.items()
        for seed, value in enumerate(values)
    ]


def compare(records, nfe=None):
    shown, following = differences([r.config for r in records], [r.overrides() for r in records])
    groups = table.group_runs(records, shown, following)
    evaluations, apart = quality.comparable(records)
    return groups, table.result_columns(groups, evaluations, apart is None, nfe or [None] * len(records)), apart


def column(columns, title):
    return next(c for c in columns if c.title == title)


def test_mean_and_deviation_over_seeds(sweep):
    groups, columns, _ = compare(sweep)
    assert [g.head for g in groups] == [
        {"run": "0.001_0, 0.001_1, 0.001_2", "optimizer.lr": "0.001", "seeds": "0, 1, 2"},
        {"run": "0.002_0, 0.002_1, 0.002_2", "optimizer.lr": "0.002", "seeds": "0, 1, 2"},
    ]
    loss = column(columns, "val loss")
    assert [e.mean for e in loss.estimates] == pytest.approx([0.51, 0.41])
    assert [e.std for e in loss.estimates] == pytest.approx([0.01, 0.01])
    assert loss.cells == ["0.510 ± 0.010", f"0.410 ± 0.010 {MARK}"]
    assert column(columns, "samples seen").constant and column(columns, "samples seen").cells == ["6,400", "6,400"]


def test_the_validation_loss_is_that_of_the_best_checkpoint(write_run):
    """Which is not of the lowest loss where that ranks none; of a run that goes on it is the lowest so far."""
    done, on = (write_run(name, losses=(0.1, 0.4, 0.3), finished=name == "done") for name in ("done", "on"))
    done.results["best_step"] = 150
    assert (table.val_loss(done), table.val_loss(on)) == (0.3, 0.1)


def test_the_csv_has_all_numbers(sweep):
    groups, columns, _ = compare(sweep)
    rows = list(csv.DictReader(StringIO(table.as_csv([g.head for g in groups], columns))))
    assert [float(row["val loss"]) for row in rows] == pytest.approx([0.51, 0.41])
    assert [float(row["val loss std"]) for row in rows] == pytest.approx([0.01, 0.01])
    assert rows[0]["optimizer.lr"] == "0.001" and float(rows[1]["parameters"]) == 1234


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"schedule__steps": 500}, ["schedule"]),
        ({"weighting": {"_target_": "src.diffusion.weightings.custom"}}, ["loss", "weighting"]),
        ({"data__n": 10}, ["data"]),
        ({"net__width": 8}, []),
    ],
    ids=str,
)
def test_losses_of_another_definition_get_no_mark(write_run, changes, what):
    records = [write_run(f"a{s}", losses=(0.5 + s / 100,), seed=s) for s in range(3)]
    records += [write_run(f"b{s}", losses=(0.1 + s / 100,), seed=s, **changes) for s in range(3)]
    assert table.loss_differs(records) == what
    _, columns, _ = compare(records)
    assert any(MARK in cell for cell in column(columns, "val loss").cells) == (not what)


def test_a_repeated_run_is_not_a_seed(write_run):
    """The same seed twice gives the same weights twice, which says nothing of the noise."""
    groups, _, _ = compare([write_run("a", seed=1), write_run("b", seed=1), write_run("c", seed=2)])
    assert [[r.name for r in g.records] for g in groups] == [["a", "c"], ["b"]]
    assert [g.name for g in groups] == ["a, c", "b"]


def test_metrics_with_intervals(write_run):
    a = write_run("a", net__width=8, evaluations={"x": evaluation(2.0, 1.8, 2.2)})
    b = write_run("b", evaluations={"x": evaluation(3.0, 2.8, 3.2)})
    c = write_run("c", net__width=9)
    _, columns, apart = compare([a, b, c], nfe=[10, 10, 7])
    assert apart is None
    assert column(columns, "Fréchet distance").cells == [f"2.00 [1.80, 2.20] {MARK}", "3.00 [2.80, 3.20]", "–"]
    assert column(columns, "nfe").cells == ["50", "50", "7"], "of the evaluation, where there is one"
    assert column(columns, "s per 1,000").cells == ["5", "5", "–"]


def test_the_newest_evaluation_of_common_settings(write_run):
    both = {"new": evaluation(1.0, n=5000), "old": evaluation(2.0)}
    a, b = write_run("a", evaluations=both), write_run("b", net__width=8, evaluations={"x": evaluation(3.0)})
    chosen, apart = quality.comparable([a, b])
    assert apart is None and [e["metrics"]["frechet_distance"]["value"] for e in chosen] == [2.0, 3.0]


@pytest.mark.parametrize(("changes", "what"), [({"n": 10}, "numbers of samples"), ({"data": "x"}, "real data")])
def test_evaluations_that_cannot_be_compared_get_no_mark(write_run, changes, what):
    a = write_run("a", evaluations={"x": evaluation(1.0, 0.9, 1.1)})
    b = write_run("b", net__width=8, evaluations={"x": evaluation(3.0, 2.9, 3.1, **changes)})
    _, columns, apart = compare([a, b])
    assert apart == f"different {what}"
    assert not any(MARK in cell for cell in column(columns, "Fréchet distance").cells)


def test_as_text():
    columns = [Column("loss", [Estimate((1.0,), 0.9, 1.1), Estimate((2.0,), 1.9, 2.1), None], "lower")]
    cells = table.lines([{"run": name} for name in ("a", "long|name", "c")], columns)
    assert cells == [
        ["run", "loss"],
        ["a", f"1.00 [0.90, 1.10] {MARK}"],
        ["long|name", "2.00 [1.90, 2.10]"],
        ["c", "–"],
    ]
    assert table.markdown(cells).splitlines() == [
        "| run        | loss                  |",
        "|------------|-----------------------|",
        "| a          | **1.00 [0.90, 1.10]** |",
        "| long\\|name | 2.00 [1.90, 2.10]     |",
        "| c          | –                     |",
    ]
    assert table.aligned(cells).splitlines()[1] == f"  a          1.00 [0.90, 1.10] {MARK}"


def test_the_first_table_shows_few_metrics(write_run):
    """The rest has a table of its own; costs are columns anyway."""
    names = {
        k: {"name": k, "value": 1.0, "better": b} for k, b in (("gap", "lower"), ("recall", "higher"), ("nfe", None))
    }
    record = write_run("a", evaluations={"x": evaluation(1.0) | {"metrics": evaluation(1.0)["metrics"] | names}})
    assert list(quality.main_names(record.evaluations)) == ["frechet_distance", "recall"]
    assert list(quality.metric_names(record.evaluations)) == ["frechet_distance", "gap", "recall"]
    assert list(quality.main_names([{"metrics": {"gap": names["gap"]}}])) == ["gap"]
