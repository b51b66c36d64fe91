"""The digits of scikit-learn."""

import pytest
import torch
from sklearn.datasets import load_digits

from src.data.digits import Digits
from src.utils.errors import UserError


def test_they_are_those_of_scikit_learn():
    data = Digits()
    data.setup()
    assert (len(data.train_set), len(data.val_set)) == (1438, 359)
    assert data.source == "1,438 train / 359 validation digits of 8x8, from scikit-learn"
    x = torch.cat([data.train_set.x, data.val_set.x])
    label = torch.cat([data.train_set.label, data.val_set.label])
    assert x.shape == (1797, 1, 8, 8) and x.dtype == torch.float32 and (x.min(), x.max()) == (-1, 1)

    def rows(images, labels):
        table = torch.cat([images.flatten(1), labels[:, None].double()], 1)
        return torch.unique(table, dim=0)

    truth = load_digits()
    wanted = rows(torch.from_numpy(truth.images), torch.from_numpy(truth.target))
    torch.testing.assert_close(rows((x.double() + 1) * 8, label), wanted, rtol=0, atol=0)


def test_the_split_is_the_same_whatever_the_seed():
    first, second = Digits(seed=1), Digits(seed=2, num_classes=0)
    first.setup(), second.setup()
    assert torch.equal(first.val_set.x, second.val_set.x)
    assert second.val_set.label is None and first.val_set.label.dtype == torch.int64


def test_refuses_other_shapes_and_classes():
    with pytest.raises(UserError, match=r"must be 1 and \[8, 8\] .*, got 1 and \[28, 28\]"):
        Digits(size=[28, 28])
    with pytest.raises(UserError, match=r"data\.num_classes must be 10, .*, got 9"):
        Digits(num_classes=9).setup()
