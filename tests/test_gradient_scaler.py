"""float16 with a gradient scaler: a step that overflows is left out without harm, and a resumed run goes on exactly."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch.testing import assert_close

from src.callbacks.checkpoint import BestLastCheckpoint
from src.diffusion.time_samplers import LossSecondMomentTimeSampler
from src.utils.checkpoints import load_checkpoint
from src.utils.errors import UserError
from tests.helpers.tiny import fit, make_module, weights

pytestmark = pytest.mark.filterwarnings("ignore")


def half(init_scale=2.0**16, growth_interval=2000):
    """The precision of `16-mixed`, on a CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=growth_interval)
    return MixedPrecision("16-mixed", "cpu", scaler)


class Overflow(pl.Callback):
    """The gradients of these batches are infinite; notes the weights and averages after each step."""

    def __init__(self, *batches):
        self.batches, self.weights, self.averages = batches, [], []

    def on_after_backward(self, trainer, pl_module):
        if trainer.fit_loop.epoch_loop.total_batch_idx in self.batches:
            next(pl_module.denoiser.parameters()).grad.fill_(torch.inf)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights.append(weights(pl_module).clone())
        self.averages.append(torch.cat([p.flatten() for p in pl_module.ema.model.parameters()]))


def halving(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clipping", [0.0, 0.1])
def test_a_step_that_overflows_counts_but_changes_no_weights(tmp_path, fused, clipping):
    module, overflow, precision = make_module(schedule=halving, decay=0.9), Overflow(2), half()
    module.make_optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, fused=fused)
    _, trainer, _ = fit(tmp_path, module, callbacks=[overflow], plugins=[precision], gradient_clip_val=clipping)
    changes = [(a - b).abs().max() > 0 for a, b in zip(overflow.weights[1:], overflow.weights, strict=False)]
    assert changes == [True, False, True, True, True]
    assert weights(module).isfinite().all() and trainer.global_step == 6
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-2 * 0.5**6)
    assert precision.scaler.get_scale() == 2.0**15
    expected = torch.lerp(overflow.averages[1], overflow.weights[2], 1 - module.ema.decay_at(3))
    assert_close(overflow.averages[2], expected)


@pytest.mark.parametrize("fused", [False, True])
def test_clipped_gradients_are_not_scaled(tmp_path, fused):
    """The same norms, and nearly the same weights, as in float32."""
    found = []
    for plugins in ([], [half()]):
        module = make_module()
        module.make_optimizer = lambda parameters: torch.optim.Adam(parameters, lr=1e-2, fused=fused, eps=0.1)
        _, _, watch = fit(tmp_path, module, plugins=plugins, gradient_clip_val=0.1)
        found.append((torch.stack([batch["grad_norm"] for batch in watch.batches]), weights(module)))
    assert_close(*(norms for norms, _ in found), rtol=0.02, atol=0)
    assert_close(*(values for _, values in found), rtol=0, atol=1e-4)


def test_overflow_without_end_is_refused(tmp_path):
    with pytest.raises(UserError, match="the loss is not finite at step 28"):
        fit(tmp_path, callbacks=[Overflow(*range(40))], plugins=[half()], max_steps=40)


def test_an_infinite_loss_is_not_remembered():
    sampler = LossSecondMomentTimeSampler(bins=2, history_per_term=1)
    sampler.update_with_losses(torch.tensor([0.2, 0.7, 0.3]), torch.tensor([3.0, 4.0, torch.inf]))
    assert sampler.losses.tolist() == [[3.0], [4.0]] and sampler.counts.tolist() == [1, 1]


def test_exact_resume(tmp_path):
    """The scale, and the steps since it last changed, are those of the checkpoint."""
    settings = {"val_check_interval": 3, "gradient_clip_val": 1.0}

    def run(folder, steps, init_scale, ckpt_path=None):
        module, precision = make_module(dropout=0.5), half(init_scale, growth_interval=2)
        callbacks = [Overflow(1), BestLastCheckpoint(str(folder))]
        fit(tmp_path, module, None, callbacks, ckpt_path, [precision], max_steps=steps, **settings)
        return weights(module), precision.scaler.state_dict()

    straight, state = run(tmp_path / "a", 6, 2.0**10)
    run(tmp_path / "b", 3, 2.0**10)
    last = tmp_path / "b" / "last.ckpt"
    assert load_checkpoint(last)["MixedPrecision"]["scale"] == 2.0**9
    resumed, state_of_resumed = run(tmp_path / "b", 6, 2.0**16, last)
    assert torch.equal(straight, resumed)
    assert state == state_of_resumed and state["scale"] == 2.0**11
