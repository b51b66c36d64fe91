"""Resuming, evaluating and comparing agree on which data are the same."""

import pytest

from src.commands.compare.records import RunRecord
from src.runs.data_identity import (
    DATA_LOADING_KEYS,
    data_changes,
    data_id,
    identifying_settings,
    nearly_equal,
)
from src.runs.run import Run
from tests.data.test_identity import Own, X, identity
from tests.helpers.tiny import saved_config


def make_run(path, files=None, **settings) -> Run:
    cfg = saved_config(str(path), str(path.parent))
    run = Run(path)
    run.create(cfg | {"data": cfg["data"] | settings}, [], data_identity={"files": files} if files else {})
    return run


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ({}, {}, True),
        ({"val_size": 10}, {"val_size": 20}, False),  # other samples are trained on
        ({"val_fraction": 0.1}, {"val_fraction": 0.2}, False),
        ({"channels": 1}, {"channels": 3}, False),
        ({"root": "/a"}, {"root": "/b"}, False),
        ({"root": "/a", "files": "x"}, {"root": "/b", "files": "x"}, True),
        ({"root": "/a", "files": "x"}, {"root": "/a", "files": "y"}, False),
        ({"batch_size": 8, "num_workers": 1, "seed": 1}, {"batch_size": 9, "num_workers": 2, "seed": 2}, True),
    ],
)
def test_evaluation_and_comparison_agree(tmp_path, a, b, same):
    runs = [make_run(tmp_path / name, **settings) for name, settings in {"a": a, "b": b}.items()]
    evaluated = [run.data_id_of(settings.get("files")) for run, settings in zip(runs, (a, b), strict=True)]
    assert (runs[0].data_id == runs[1].data_id) == (evaluated[0] == evaluated[1]) == same
    assert (RunRecord(runs[0], "a").other_data(RunRecord(runs[1], "b")) == []) == same


def test_another_split_is_other_data_to_a_resumed_run_too():
    assert "val_size" not in DATA_LOADING_KEYS
    assert data_changes(identity(Own(X)), identity(Own(X, n_val=5))) is not None


def test_data_below_the_output_folder_move_with_it(tmp_path):
    a = make_run(tmp_path / "here" / "a", root=f"{tmp_path}/here/data")
    b = make_run(tmp_path / "there" / "b", root=f"{tmp_path}/there/data")
    assert a.data_id == b.data_id


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ([0.0], [9e-5], True), ([0.0], [2e-4], False), ([1000.0], [1000.9], True), ([1000.0], [1002.0], False),
        ([1.0, 2.0], [1.0], False), ([], [1.0], True), ([1.0], [], True), ([1.0, 2.0], [1.0, 3.0], False),
    ],
)  # fmt: skip
def test_means_of_samples_are_equal_up_to_rounding(a, b, equal):
    assert nearly_equal(a, b) is equal


LEAD = "the data have changed since this run was trained on them: "


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (None, {"samples": 5, "files": "a"}, None),
        ({}, {"samples": 5, "files": "a"}, None),
        ({"samples": 5, "files": "a", "values": [1.0]}, {"samples": 5, "files": "a", "values": [1.0001]}, None),
        ({"samples": 5000}, {"samples": 4000}, LEAD + "5,000 samples then, 4,000 now"),
        ({"samples": 5, "files": "a"}, {"samples": 4, "files": "b"}, LEAD + "5 samples then, 4 now; other files"),
        ({"values": [1.0]}, {"values": [1.1]}, LEAD + "other values"),
        ({"files": None}, {"files": "b"}, LEAD + "other files"),
    ],
)
def test_how_data_changed(old, new, said):
    assert data_changes(old, new) == said


@pytest.mark.parametrize(
    ("settings", "files", "own"),
    [
        ({"root": "/a", "size": [8], "seed": 3}, None, {"root": "/a", "size": [8]}),
        ({"root": "/a", "val_root": "/b", "size": [8]}, "x", {"size": [8], "files": "x"}),
        ({"root": "/a", "val_root": "/b", "size": [8], "sha256": "y"}, None, {"size": [8]}),
        ({"root": "/a", "size": [8], "sha256": None}, None, {"root": "/a", "size": [8]}),
    ],
)
def test_settings_that_identify_data(settings, files, own):
    """Where they lie only if nothing is known of their content."""
    assert identifying_settings(settings, files) == own


def test_an_id_is_of_the_settings_in_any_order():
    assert data_id({"a": 1, "b": 2}) == data_id({"b": 2, "a": 1}) != data_id({"a": 1, "b": 3})
    assert data_id({"a": 1}) == "0713fe"
