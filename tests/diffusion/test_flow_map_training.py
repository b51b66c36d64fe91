"""The losses of flow maps in training: exact resumption, autocast, the average of the weights, several processes."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from src.callbacks.spikes import SpikeReport
from src.diffusion.consistency import ConsistencyDistillation, ConsistencyTraining, ContinuousConsistency
from src.diffusion.flow_map import FlowMap
from src.diffusion.flow_map_losses import Eulerian, MeanFlow
from src.diffusion.lagrangian import Lagrangian
from src.diffusion.semigroup import Progressive, ProgressiveDistillation, Shortcut
from src.diffusion.teacher import Teacher
from src.diffusion.weightings import flow_weighting
from src.utils.errors import UserError
from tests.helpers.resuming import assert_goes_on, run
from tests.helpers.tiny import Memory, fit, make_flow_map, weights

pytestmark = pytest.mark.filterwarnings("ignore")


LOSSES = {
    "mean_flow": (MeanFlow, {"off_diagonal": 0.5, "guidance_scale": 1.5}),
    "consistency_training": (ConsistencyTraining, {"off_diagonal": 0.5, "stage_steps": 2}),
    "eulerian": (Eulerian, {}),
    "lagrangian": (Lagrangian, {}),
    "progressive": (Progressive, {}),
    "shortcut": (Shortcut, {"steps": 8}),
    "continuous_consistency": (ContinuousConsistency, {"off_diagonal": 0.5, "warmup_steps": 5}),
    "consistency_distillation": (ConsistencyDistillation, {"off_diagonal": 0.5}),
    "progressive_distillation": (ProgressiveDistillation, {"off_diagonal": 0.5}),
}
QUICK = ["mean_flow", "consistency_training"]
EVERY = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LOSSES if name not in QUICK)]


def build(name, **changes):
    make_loss, settings = LOSSES[name]
    if make_loss.needs_teacher:
        changes["teacher"] = Teacher(make_flow_map(Progressive(flow_weighting)).denoiser)
    return make_loss(flow_weighting, **settings | changes)


def make(name, **settings):
    return make_flow_map(build(name), **settings)


@pytest.mark.parametrize("name", EVERY)
def test_a_run_goes_on_exactly(tmp_path, name):
    """Its times s, its stage and what was watched included."""
    settings = {"max_steps": 6, "val_check_interval": 4}

    def go(folder, begin=None):
        new = partial(make, name, dropout=0.3, dropped=0.3)
        return run(tmp_path / folder, new, Memory(n=27, n_val=5), 1, begin, [SpikeReport()], **settings)

    whole = go("whole")
    assert_goes_on(whole, go("part", whole.places[3]), 3, True)


@pytest.mark.parametrize("name", EVERY)
def test_under_autocast_it_learns_about_the_same(tmp_path, name):
    """In bf16, whose rounding of 1 in 256 the derivatives must not blow up."""
    ways = {}
    for precision in ("32-true", "bf16-mixed"):
        module, _, watch = fit(tmp_path / precision, make(name, lr=1e-3), precision=precision, logger=[], max_steps=3)
        ways[precision] = torch.stack([batch["losses"] for batch in watch.batches]), weights(module)
    (exact, after), (rounded, also) = ways.values()
    assert exact.isfinite().all() and rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.1 * exact.norm()
    before = weights(make(name))
    assert (also - after).norm() < 0.5 * (after - before).norm()


@pytest.mark.parametrize("name", EVERY)
def test_the_average_is_a_flow_map(tmp_path, name):
    """Of the weights of all steps, the first included; its validation is that of the loss with its own weights."""
    module, _, watch = fit(tmp_path, make(name), logger=[], max_steps=4, val_check_interval=4)
    average = list(make(name).denoiser.parameters())
    for step, after in enumerate(watch.weights, 1):
        decay = module.ema.decay_at(step)
        average = [decay * a + (1 - decay) * b for a, b in zip(average, after, strict=True)]
    torch.testing.assert_close(list(module.ema.model.parameters()), average, check_dtype=False, atol=1e-6, rtol=1e-5)
    flow_map = module.models["ema"]
    assert isinstance(flow_map, FlowMap) and not flow_map.training
    x, t = torch.ones(2, 1, 6), torch.tensor([0.9, 0.5])
    assert not torch.equal(flow_map.map(x, t, 0 * t), flow_map.map(x, t, t / 2))
    assert torch.equal(flow_map.map(x, t, t), x)
    (_, logged) = watch.validations[-1]
    assert logged["val/loss_ema"] != logged["val/loss_raw"]


@pytest.mark.parametrize("name", EVERY)
def test_two_processes_train_as_one(tmp_path, name):
    """To the order of sums; with s = t / 2, since the times of steps are drawn in each process for itself."""
    more = {"midpoint": True} if name == "progressive" else {}
    done = {}
    for processes in (1, 2):
        loss = build(name, off_diagonal=1.0, **more)
        loss.times = lambda schedule, t, draws: (t, t / 2)
        module = make_flow_map(loss, lr=1e-3)
        start = weights(module)
        trainer = pl.Trainer(
            accelerator="cpu", devices=processes, max_steps=5, limit_val_batches=0, enable_checkpointing=False,
            strategy=DDPStrategy(start_method="fork", process_group_backend="gloo") if processes > 1 else "auto",
            logger=False, use_distributed_sampler=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, Memory())
        done[processes] = weights(module) - start
    assert (done[1] - done[2]).norm() < 1e-3 * done[1].norm()


@pytest.mark.parametrize(("name", "derivative"), [("progressive", False), ("mean_flow", True)])
def test_a_loss_that_is_not_finite_stops_with_its_times(tmp_path, name, derivative):
    """Before a weight is changed."""
    module = make(name)
    with torch.no_grad():
        module.denoiser.net.heads[0].weight.fill_(torch.inf)
    with pytest.raises(UserError, match=r"at step 1: .*, t = 0\.\d+, .*, s = 0\.\d+, ") as stopped:
        fit(tmp_path, module, logger=[])
    assert ("largest_tangent inf" in str(stopped.value) or "largest_tangent nan" in str(stopped.value)) == derivative
