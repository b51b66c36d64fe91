"""Real runs of a model so small that a test can afford dozens."""

import pytorch_lightning as pl
import torch
from torch import nn

from src.callbacks.checkpoint import BestLastCheckpoint
from src.data.base import DataModule
from src.data.samples import TensorSamples
from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.conditions import Clusters, Labels
from src.diffusion.denoiser import Denoiser
from src.diffusion.flow_map import FlowMap
from src.diffusion.learned_schedule import LearnedSchedule as LearnedSchedule
from src.diffusion.losses import MSE, VLB, Hybrid
from src.diffusion.parameterizations import Flow, V
from src.diffusion.schedules import FlowSchedule
from src.diffusion.time_samplers import LossSecondMomentTimeSampler, StratifiedTimeSampler, UniformTimeSampler
from src.diffusion.variances import LearnedRangeVariance
from src.diffusion.weightings import v_weighting
from src.loggers.metrics_csv import MetricsCSV
from src.module import DiffusionModule
from src.nets.mlp import MLP
from src.optim.ema import ConstantEMA
from src.optim.lr_schedules import constant_lr
from src.utils.checkpoints import AtomicCheckpointIO

SHAPE, CLASSES = (1, 6), 4
# What makes the commands quick that use a run.
QUICK = {
    "sample": ["n=4", "sampler.steps=2"],
    "evaluate": [
        "n=20",
        "sampler.steps=2",
        "features.width=8",
        "metrics.distances.resamples=5",
        "metrics.denoising.n=8",
    ],
    "compare": ["n=70", "samplers=[ddim]", "steps=[2,3]"],
}


def saved_config(run: str, outputs: str, **changes) -> dict:
    """The least that the config.yaml of a run holds."""
    part = {"_target_": "src.samplers.clipping.NoClip"}
    return {
        "name": "x", "seed": 0, "self_conditioning_prob": 0, "paths": {"run": run, "outputs": outputs, "data": "data"},
        "data": {"_target_": "src.data.sine.Sine", "channels": 1, "size": [6], "num_classes": 0, "batch_size": 8},
        "net": {"_target_": "src.nets.mlp.MLP", "channels": 1, "size": [6], "width": 8, "depth": 1},
        "schedule": {"_target_": "src.diffusion.beta_schedules.LinearSchedule"},
        "parameterization": {"_target_": "src.diffusion.parameterizations.X0"},
        "variance": {"_target_": "src.diffusion.variances.FixedSmallVariance"},
        "time_sampler": {"_target_": "src.diffusion.time_samplers.StratifiedTimeSampler"},
        "module": {"_target_": "src.module.DiffusionModule"},
        "condition": {"_target_": "src.diffusion.conditions.NoCondition"},
        "trainer": {"_target_": "pytorch_lightning.Trainer", "max_steps": 2}, "callbacks": {},
        "sampler": part, "time_grid": part, "clip": part, "guidance": part,
    } | changes  # fmt: skip


class Memory(DataModule):
    """Labeled noise, in memory."""

    def __init__(self, n: int = 40, n_val: int = 10, batch_size: int = 8, seed: int = 0):
        super().__init__(SHAPE[0], SHAPE[1:], CLASSES, batch_size, seed=seed)
        self.n, self.n_val = n, n_val

    def load(self) -> None:
        g = torch.Generator().manual_seed(0)
        x, label = torch.rand(self.n + self.n_val, *SHAPE, generator=g) * 2 - 1, torch.arange(self.n + self.n_val) % 4
        self.train_set = TensorSamples(x[: self.n], label[: self.n])
        self.val_set = TensorSamples(x[self.n :], label[self.n :])


class Watch(pl.Callback):
    """Notes what happens: the weights after every step, the norm of the gradient, and the last batch."""

    def __init__(self):
        self.weights, self.batches, self.norms, self.validations = [], [], [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        grads = [p.grad.clone() for p in pl_module.denoiser.parameters() if p.grad is not None]
        copies = [nn.Parameter(torch.zeros_like(g)) for g in grads]
        for copy, grad in zip(copies, grads, strict=True):
            copy.grad = grad
        self.norms.append(nn.utils.clip_grad_norm_(copies, 1e9).item())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append({k: v.clone() for k, v in pl_module.step_stats.items()})
        if len(self.weights) < trainer.global_step:
            self.weights.append([p.detach().clone() for p in pl_module.denoiser.parameters()])

    def on_validation_end(self, trainer, pl_module):
        self.validations.append((trainer.global_step, {k: v.item() for k, v in trainer.callback_metrics.items()}))


class StepClock:
    """For Lightning's timer: a second passes with every step, however long it takes."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


def make_module(seed=0, condition=None, dropout=0.0, lr=1e-2, schedule=constant_lr, average=ConstantEMA, **ema):
    torch.manual_seed(1)
    net = MLP(
        *SHAPE[:1], SHAPE[1:], width=8, depth=1, dropout=dropout, num_classes=condition.num_classes if condition else 0
    )
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return DiffusionModule(
        Denoiser(net, CosineSchedule(), V(), condition=condition),
        MSE(v_weighting),
        UniformTimeSampler(),
        lambda parameters: torch.optim.Adam(parameters, lr=lr),
        schedule,
        lambda model: average(model, **ema),
        seed,
    )


KINDS = ["plain", "loss_second_moment", "self_conditioning", "learned_variance", "learned_schedule", "clusters"]


def make_kind(kind, lr=1e-2):
    """A module with dropout, dropped conditions, and a part that a plain one does not have."""
    torch.manual_seed(1)
    variance = LearnedRangeVariance() if kind == "learned_variance" else None
    share = 0.5 if kind == "self_conditioning" else 0.0
    net = MLP(
        SHAPE[0], SHAPE[1:], width=8, depth=1, dropout=0.3, num_classes=CLASSES,
        in_channels=(2 if share else 1) * SHAPE[0], out_channels=(2 if variance else 1) * SHAPE[0],
    )  # fmt: skip
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    schedule = LearnedSchedule(hidden=8) if kind == "learned_schedule" else CosineSchedule()
    loss = {"learned_variance": Hybrid(v_weighting), "learned_schedule": VLB(None)}.get(kind, MSE(v_weighting))
    times = (
        LossSecondMomentTimeSampler(bins=4, history_per_term=3)
        if kind == "loss_second_moment"
        else UniformTimeSampler()
    )

    def adam(parameters):
        return torch.optim.Adam(parameters, lr=lr)

    condition = Clusters(CLASSES, SHAPE[0], SHAPE[1:], 0.3) if kind == "clusters" else Labels(CLASSES, 0.3)
    denoiser = Denoiser(net, schedule, V(), variance, share, condition)
    return DiffusionModule(denoiser, loss, times, adam, constant_lr, ConstantEMA)


def make_flow_map(loss, lr=1e-2, dropout=0.0, dropped=0.0):
    """A module with a flow map of labeled data; `dropped` is the share of the labels that are withheld."""
    torch.manual_seed(1)
    net = MLP(SHAPE[0], SHAPE[1:], width=8, depth=1, dropout=dropout, num_classes=CLASSES, second_time=True)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    flow_map = FlowMap(net, FlowSchedule(), Flow(), condition=Labels(CLASSES, dropped))
    times = StratifiedTimeSampler()
    return DiffusionModule(
        flow_map, loss, times, lambda parameters: torch.optim.Adam(parameters, lr=lr), constant_lr, ConstantEMA
    )


def fit(tmp_path, module=None, data=None, callbacks=(), ckpt_path=None, plugins=(), **settings):
    """A run; returns (module, trainer, what was watched)."""
    module, data, watch = module or make_module(), data or Memory(), Watch()
    default = {"max_steps": 6, "max_epochs": -1, "val_check_interval": 100, "log_every_n_steps": 1}
    default |= {"check_val_every_n_epoch": None}
    settings = default | {"logger": [MetricsCSV(str(tmp_path))]} | settings
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[*callbacks, watch],
        plugins=[AtomicCheckpointIO(), *plugins], num_sanity_val_steps=0,
        enable_checkpointing=any(isinstance(c, BestLastCheckpoint) for c in callbacks),
        use_distributed_sampler=False, enable_model_summary=False,
        enable_progress_bar=any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks), **settings,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module, trainer, watch


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.denoiser.parameters()])
