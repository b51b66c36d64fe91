"""Settings that are right alone and not together are refused before a run begins."""

from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from src.commands.sampling_setup import check_memory
from src.commands.training_checks import check_batches, check_labels, check_net_size
from src.diffusion.conditions import Clusters, Labels, NoCondition
from src.diffusion.losses import BCE, MSE
from src.diffusion.weightings import v_weighting
from src.utils.errors import UserError
from src.utils.paths import CONF


def test_labels_are_those_of_the_data():
    data = SimpleNamespace(num_classes=10)
    for condition in (Labels(10), NoCondition(), Clusters(7, 2)):
        check_labels(condition, data)
    with pytest.raises(UserError, match=r"condition\.num_classes must be data.num_classes=10, got 7"):
        check_labels(Labels(7), data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, None),
        ({"limit_train_batches": 0.2}, None),
        ({"limit_train_batches": 0.1}, "trainer.limit_train_batches must be >= 0.2, one of 5 batches, got 0.1"),
        ({"limit_val_batches": 0.3}, "trainer.limit_val_batches must be >= 0.5, one of 2 batches, got 0.3"),
        ({"val_check_interval": 0.1}, "trainer.val_check_interval must be >= 0.2, one of 5 batches, got 0.1"),
        ({"val_check_interval": 6}, None),
        (
            {"val_check_interval": 6, "check_val_every_n_epoch": 1},
            "trainer.val_check_interval must be <= 5, the batches of an epoch, got 6",
        ),
        ({"val_check_interval": 5, "check_val_every_n_epoch": 1}, None),
    ],
)
def test_an_epoch_has_the_batches_that_are_asked_for(settings, message):
    usual = {"limit_train_batches": 1.0, "limit_val_batches": 1.0, "val_check_interval": 1.0}
    trainer = SimpleNamespace(**{**usual, "check_val_every_n_epoch": None, **settings})
    data = SimpleNamespace(train_batches=5, val_set=range(10), batch_size=8)
    if message is None:
        check_batches(trainer, data)
    else:
        with pytest.raises(UserError, match=message):
            check_batches(trainer, data)


def test_a_loss_of_bounded_data():
    MSE(v_weighting).check_data(torch.tensor([[-3.0, 2.0]]))
    BCE(v_weighting).check_data(torch.tensor([[-1.0, 1.0]]))
    with pytest.raises(ValueError, match=r"got values up to 1\.5; use loss=mse"):
        BCE(v_weighting).check_data(torch.tensor([[-1.5, 1.0]]))


def test_samples_fit_in_memory(monkeypatch):
    monkeypatch.setattr("src.commands.sampling_setup.physical_memory", lambda: 8000.0)
    check_memory(10, (1, 10, 10))
    with pytest.raises(UserError, match="draw at most 5 at a time"):
        check_memory(11, (1, 10, 10))
    monkeypatch.setattr("src.commands.sampling_setup.physical_memory", lambda: None)
    check_memory(10**12, (1, 10, 10))


def test_a_net_fits_in_memory():
    """Found without making it, whatever its size, and whatever cannot be made without."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["experiment=digits_ddpm", "net.width=100000"])
    with pytest.raises(UserError, match=r"parameters and their average take [\d,]+ GiB, but this machine has 64"):
        check_net_size(cfg, 64 * 2**30)
    check_net_size(cfg, None)
    cfg.net.width = 10**9
    with pytest.raises(UserError, match=r"more than 2\^63 bytes"):
        check_net_size(cfg, None)
    cfg.net.width = 8
    check_net_size(cfg, 1e9)
    cfg.net.channel_mults = []
    check_net_size(cfg, 1e9)
