"""Old and new data in one: their shares, their classes, and what is held out."""

import pytest
import torch

from src.data.base import DataModule
from src.data.joined import Joined
from src.data.samples import TensorSamples
from src.utils.errors import UserError

UNITS = {"scale": [1.0], "shift": [0.0]}


class Numbers(DataModule):
    """Samples that are their own number, from `first` on."""

    def __init__(self, first, n, n_val, names=(), test=None, **fields):
        super().__init__(1, (1,), len(names), batch_size=4)
        self.class_names = [*names]
        x = torch.arange(first, first + n + n_val).float().view(-1, 1, 1)
        label = torch.arange(n + n_val) % len(names) if names else None
        made = [TensorSamples(x[i], None if label is None else label[i], fields={k: v[i] for k, v in fields.items()})
                for i in (slice(n), slice(n, None))]  # fmt: skip
        self.train_set, self.val_set, self.source = *made, f"from {first}"
        self.test = test

    @property
    def test_set(self):
        return self.val_set if self.test is None else TensorSamples(self.test)


def joined(old, new, **settings):
    data = Joined(old, new, "signals", UNITS, 1, [1], **settings)
    data.setup()
    return data


def numbers(part) -> list[int]:
    return part[0, torch.arange(len(part))]["x"].flatten().int().tolist()


@pytest.mark.parametrize(
    ("n", "m", "share", "counts"),
    [(60, 20, 0.5, (60, 60)), (20, 60, 0.5, (60, 60)), (60, 20, 0.25, (60, 20)), (60, 20, 0.75, (60, 180))],
)
def test_the_smaller_part_is_repeated_to_its_share(n, m, share, counts):
    """Every sample comes, and any two of a part equally often up to one."""
    data = joined(Numbers(0, n, 4), Numbers(1000, m, 4), share=share)
    found = torch.tensor(numbers(data.train_set))
    assert (int((found < 1000).sum()), int((found >= 1000).sum())) == counts
    for part, size in ((found[found < 1000], n), (found[found >= 1000] - 1000, m)):
        times = part.bincount(minlength=size)
        assert times.min() >= 1 and times.max() - times.min() <= 1


def test_in_validation_both_count_the_same():
    found = torch.tensor(numbers(joined(Numbers(0, 6, 5), Numbers(1000, 6, 4), share=0.9).val_set))
    assert int((found < 1000).sum()) == int((found >= 1000).sum()) == 5


def test_a_batch_is_in_the_order_that_is_asked_for():
    data = joined(Numbers(0, 6, 2), Numbers(1000, 6, 2))
    assert data.train_set[0, torch.tensor([7, 0, 11, 5, 6])]["x"].flatten().tolist() == [1001, 0, 1005, 5, 1000]
    assert data.train_set[0, torch.tensor([3])]["x"].item() == 3


def test_what_is_tested_on_was_not_validated_on():
    """Unless the new data have test samples of their own; the two are the new validation samples."""
    new = joined(Numbers(0, 6, 2), Numbers(1000, 6, 5)).new
    val, test = numbers(new.val_set), numbers(new.test_set)
    assert sorted(val + test) == list(range(1006, 1011)) and len(val) == 3
    own = torch.full((2, 1, 1), 7.0)
    assert numbers(joined(Numbers(0, 6, 2), Numbers(1000, 6, 5, test=own)).new.test_set) == [7, 7]
    both = joined(Numbers(0, 6, 2, test=own), Numbers(1000, 6, 5, test=own)).test_set
    assert numbers(both) == [7, 7, 7, 7]


def test_classes_are_matched_by_name():
    data = joined(Numbers(0, 4, 2, "abc"), Numbers(1000, 4, 4, "cb"), num_classes=3)
    rows = data.train_set[0, torch.arange(len(data.train_set))]
    of = dict(zip(rows["x"].flatten().int().tolist(), rows["label"].tolist(), strict=True))
    assert [of[i] for i in range(4)] == [0, 1, 2, 0] and [of[i] for i in range(1000, 1004)] == [2, 1, 2, 1]
    assert data.new.test_set[0, torch.arange(2)]["label"].tolist() == [1, 1]
    assert data.class_names == ["a", "b", "c"]
    with pytest.raises(UserError, match="class d, which the run does not know; its classes are a, b, c"):
        joined(Numbers(0, 4, 2, "abc"), Numbers(1000, 4, 2, "ad"), num_classes=3)


def test_fields_are_those_that_both_have():
    vector = torch.arange(6.0)[:, None]
    data = joined(Numbers(0, 4, 2, "ab", vector=vector), Numbers(1000, 4, 2, vector=vector, other=vector))
    assert set(data.train_set[0, torch.arange(5)]) == {"x", "vector"}
    assert data.train_set[0, torch.arange(8)]["vector"].flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_identity_is_that_of_both():
    a, b = (joined(Numbers(0, 6, 2), Numbers(first, 6, 2)).identity() for first in (1000, 1001))
    assert a == joined(Numbers(0, 6, 2), Numbers(1000, 6, 2)).identity() != b
