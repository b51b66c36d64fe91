"""compile=true from the command line: the same numbers, the same names of weights, and what it needs."""

import numpy as np
import pytest
import torch

from src.loggers.metrics_csv import read_metrics
from src.utils import hardware
from src.utils.checkpoints import load_checkpoint
from src.utils.errors import UserError
from tests.end_to_end.running import started

SMALL = ["experiment=mixture_ddpm", "net.width=8", "trainer=cpu", "trainer.max_steps=6", "trainer.log_every_n_steps=1"]
ALONE = ["trainer.limit_val_batches=1", "trainer.val_check_interval=6", "callbacks.sample_images=null", "logger=csv"]


@pytest.mark.slow
def test_a_compiled_net_learns_the_same(tmp_path):
    losses, weights = [], []
    for asked in ("false", "true"):
        folder = tmp_path / asked
        done = started(*SMALL, *ALONE, f"compile={asked}", f"hydra.run.dir={folder}")
        assert done.returncode == 0, done.stderr
        losses.append([row["train/loss"] for row in read_metrics(folder / "metrics.csv") if "train/loss" in row])
        weights.append(load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"])
    assert len(losses[0]) == 6
    np.testing.assert_allclose(*np.array(losses, float), rtol=1e-5)
    assert list(weights[0]) == list(weights[1])
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)


def test_it_needs_a_compiler_on_a_cpu(monkeypatch):
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        hardware.compile_net(torch.nn.Linear(1, 1), torch.device("cpu"))
