"""Changed data are distinguished from moved data."""

import json
import shutil
from functools import partial

import pytest
import torch

from src.commands.training_checks import check_data_unchanged
from src.data.base import DataModule
from src.data.digits import Digits
from src.data.gaussian_mixture import GaussianMixture
from src.data.identity import digest, some_samples
from src.data.samples import TensorSamples
from src.data.sine import Sine
from src.runs.data_identity import data_changes
from src.runs.run import Run
from src.utils.errors import UserError
from tests.data.image_trees import CLASSES, images, tree, zipped

LEAD = "the data have changed since this run was trained on them: "


def identity(data):
    data.setup()
    return json.loads(json.dumps(data.identity()))  # as run.json keeps it


class Own(DataModule):
    """A user's data module, which does not override `identity`."""

    def __init__(self, x, n_val=4):
        super().__init__(x.shape[1], x.shape[2:], batch_size=2)
        self.x, self.n_val = x, n_val

    def load(self):
        self.train_set, self.val_set = TensorSamples(self.x[self.n_val :]), TensorSamples(self.x[: self.n_val])


X = torch.rand(40, 2, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [lambda: Own(X), Digits, lambda: Sine(n=50), lambda: GaussianMixture(n=60)])
def test_the_same_data_are_the_same(make):
    first = identity(make())
    assert data_changes(first, identity(make())) is None and data_changes(None, first) is None
    assert len(first["values in them"]) >= 20


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (Own(X[:30]), "36 training samples then, 26 now; other values in them"),
        (Own(X, n_val=5), "36 training samples then, 35 now; 4 validation samples then, 5 now; other values in them"),
        (Own(X + 0.01), "other values in them"),
        (Own(X.flip(0)), "other values in them"),
        (Own(X * (1 + 1e-6)), None),  # as on another machine
    ],
)
def test_what_changed_is_said(now, words):
    assert data_changes(identity(Own(X)), identity(now)) == (words and LEAD + words)


def test_drawn_by_another_seed_or_law_they_are_others():
    first = identity(Sine(n=50))
    for now in (Sine(n=50, seed=1), Sine(n=50, frequency=(1, 2))):
        assert data_changes(first, identity(now)) == LEAD + "other values in them"


def test_samples_that_differ_each_time_are_told_apart_by_their_number_only():
    class Noisy(TensorSamples):
        def __getitem__(self, where):
            return {"x": torch.rand(len(where[1]), 2, 3)}

    class Augmented(Own):
        def load(self):
            super().load()
            self.train_set = Noisy(self.train_set.x)

    state = torch.get_rng_state()
    first = identity(Augmented(X))
    assert torch.equal(torch.get_rng_state(), state)
    assert data_changes(first, identity(Augmented(X))) is None
    assert "36 training samples then, 26 now" in data_changes(first, identity(Augmented(X[:30])))


@pytest.mark.parametrize(("n", "rows"), [(31, range(0, 31, 2)), (3, range(3)), (1, range(1))])
def test_the_values_are_the_means_of_evenly_spaced_samples(n, rows):
    """Those of the labels first; 16 at most, to six decimals."""
    x = torch.arange(float(n))[:, None, None] + torch.tensor([0.0, 0.5, 1.5])
    means = [row + 2 / 3 for row in rows]
    assert some_samples(TensorSamples(x, torch.arange(n))) == [*rows, *[round(mean, 6) for mean in means]]


def test_a_digest_is_of_values_and_their_order():
    x = torch.arange(6).view(2, 3)
    assert digest(x, ["a"]) == digest(x.clone(), ["a"]) and len(digest(x)) == 16
    assert digest(x.T) == digest(x.T.contiguous()) != digest(x)
    different = [digest(x, ["a"]), digest(["a"], x), digest(x, "a"), digest(x, ["b"]), digest(x + 1, ["a"]), digest(x)]
    assert len(set(different)) == len(different)


# ---- files ----


def rewrite(root, i):
    (root / CLASSES[i]).write_bytes((root / CLASSES[i]).read_bytes() + b"0")


CHANGED = {
    "gone": (lambda root: (root / CLASSES[4]).unlink(), "8 training samples then, 7 now; other files"),
    "renamed": (lambda root: (root / CLASSES[4]).rename(root / "dog/9.bmp"), "other files"),
    "first rewritten": (partial(rewrite, i=0), "other files"),
    "rewritten": (partial(rewrite, i=4), "other files"),
    "last but one rewritten": (partial(rewrite, i=-2), "other files"),
    "last rewritten": (partial(rewrite, i=-1), "other files"),
}


@pytest.mark.parametrize("cache_gb", [2.0, 0.0])
@pytest.mark.parametrize("name", CHANGED)
def test_files_that_changed(tmp_path, name, cache_gb):
    change, words = CHANGED[name]
    first = identity(images(tree(tmp_path / "a", CLASSES), cache_gb=cache_gb))
    change(tmp_path / "a")
    assert data_changes(first, identity(images(tmp_path / "a", cache_gb=cache_gb))) == LEAD + words


@pytest.mark.parametrize("packed", [False, True])
def test_files_that_moved_or_are_read_otherwise(tmp_path, packed):
    root = tree(tmp_path / "a", CLASSES)
    if packed:
        root = zipped(root)
    first = identity(images(root))
    moved = shutil.move(root, tmp_path / ("elsewhere.zip" if packed else "elsewhere"))
    for settings in ({}, {"cache_gb": 0}, {"num_classes": 3, "flip": False, "num_workers": 1}):
        assert data_changes(first, identity(images(moved, **settings))) is None


# ---- when a run goes on ----


def test_a_run_goes_on_with_other_data_only_where_that_is_asked_for(tmp_path):
    run, now = Run(tmp_path), Own(X[:30])
    now.setup()
    check_data_unchanged(run, now, allowed=False)  # of a run that kept nothing, nothing is known
    run.update_metadata(data_identity=identity(Own(X)))
    with pytest.raises(UserError, match=r"36 training samples then, 26 now.*resume_changed_data=true"):
        check_data_unchanged(run, now, allowed=False)
    assert now.warning is None
    now.warning = "Few"
    check_data_unchanged(run, now, allowed=True)
    assert now.warning == LEAD + "36 training samples then, 26 now; other values in them. Few"
