"""Optimizers of torch by their names: the same steps as the class itself."""

import pytest
import torch

from src.optim.by_name import torch_optimizer


def descend(make):
    """Ten steps down a parabola."""
    x = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    optimizer = make([x])
    for _ in range(10):
        optimizer.zero_grad()
        (x**2).sum().backward()
        optimizer.step()
    return x.detach(), optimizer


NAMES = [
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_class(name):
    found, optimizer = descend(lambda p: torch_optimizer(p, name, 0.05))
    expected, _ = descend(lambda p: getattr(torch.optim, name)(p, lr=0.05))
    assert type(optimizer) is getattr(torch.optim, name)
    assert torch.equal(found, expected) and (found != torch.tensor([[1.0, -2.0], [0.5, 3.0]])).all()


def test_options_are_passed_on():
    found, _ = descend(lambda p: torch_optimizer(p, "SGD", 0.05, {"momentum": 0.9, "nesterov": True}))
    expected, _ = descend(lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "Adaam"}, "optimizer.name=Adaam must be one of ASGD, .*SGD"),
        ({"name": "LBFGS"}, "optimizer.name=LBFGS must be one of"),
        ({"name": "SparseAdam"}, "optimizer.name=SparseAdam must be one of"),
        ({"name": "lr_scheduler"}, "optimizer.name=lr_scheduler must be one of"),
        ({"name": "RAdam", "options": {"momentum": 0.9}}, "options.momentum is no argument of RAdam. Choices: betas"),
        ({"name": "RAdam", "options": {"lr": 0.9}}, "optimizer.options.lr is no argument"),
        ({"name": "RAdam", "lr": 0.0}, "optimizer.lr must be > 0, got 0.0"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        torch_optimizer([torch.nn.Parameter(torch.ones(1))], **arguments)
