"""The LightningModule: combines the parts, with every random draw a function of (seed, batch)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, cast

import pytorch_lightning as pl
import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from src.diffusion.denoiser import Denoiser
from src.diffusion.losses import Loss
from src.diffusion.noise_samplers import GaussianNoiseSampler
from src.diffusion.time_samplers import TimeSampler
from src.optim.combined import CombinedOptimizer
from src.optim.ema import EMA
from src.optim.lr_schedules import build_lr_schedule
from src.statistics.binned_loss import BinnedLoss
from src.utils.errors import UserError, config_errors
from src.utils.fsdp import FSDP2Strategy
from src.utils.loop_counters import epoch_batches, go_on_between_batches, total_steps
from src.utils.seeding import derive_seed, generator

MAX_FIT_SAMPLES = 20_000  # maximum number of training samples to fit a condition to; more do not improve clusters
MIN_SCALE = 2**-10  # of gradients in float16; halved at every overflow from 2^16 on, it is below after 27 in a row


class DiffusionModule(pl.LightningModule):
    """LightningModule that trains a denoiser.

    Args:
        denoiser: network, schedule, parameterization and condition.
        loss: unreduced loss of (denoiser, x_0, t, noise, cond); if it is an nn.Module, its parameters are trained too,
            by its attribute `optimizer` if it has one.
        time_sampler: draws the training times; may adapt to the losses.
        optimizer: maps parameters to their optimizer.
        lr_schedule: maps (optimizer, total_steps), or the optimizer alone, to a learning-rate schedule.
        ema: maps the denoiser to the average of its weights.
        seed: seed of all random draws.
        noise_sampler: draws the training noise, and assigns it to the samples; by default independent of them.

    Attributes:
        train_loss: training loss by noise level since it was last logged.
        val_losses: validation loss by noise level of the raw and of the averaged weights, and "on_train", that of the
            averaged weights on training samples.
        step_stats: times, losses and gradient norm of the last step.
    """

    train_loss: BinnedLoss
    trainer: Any

    def __init__(
        self,
        denoiser: Denoiser,
        loss: Loss,
        time_sampler: TimeSampler,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        lr_schedule: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler],
        ema: Callable[[nn.Module], EMA],
        seed: Annotated[int, Ge(0)] = 0,
        noise_sampler: GaussianNoiseSampler | None = None,
    ):
        super().__init__()
        loss.check(denoiser)
        for name, part in {"loss": loss, "time_sampler": time_sampler, "noise_sampler": noise_sampler}.items():
            check_trainable(name, part)
        self.denoiser = denoiser
        self.ema = ema(denoiser)
        self.loss, self.time_sampler = loss, time_sampler
        self.noise_sampler = noise_sampler or GaussianNoiseSampler()
        self.make_optimizer, self.make_lr_schedule = optimizer, lr_schedule
        self.seed = seed
        self.train_loss = BinnedLoss()
        self.val_losses = nn.ModuleDict({name: BinnedLoss() for name in ("raw", "ema", "on_train")})
        self.step_stats: dict[str, Tensor] = {}

    @property
    def models(self) -> dict[str, Denoiser]:
        """The denoiser with raw weights and with averaged weights."""
        return {"raw": self.denoiser, "ema": cast(Denoiser, self.ema.model)}

    @property
    def scaler(self) -> GradScaler | None:
        """The gradient scaler of precision=16-mixed, which leaves out a step whose gradients are not finite."""
        return getattr(getattr(self.trainer, "precision_plugin", None), "scaler", None)

    @property
    def is_sharded(self) -> bool:
        """True if each process holds only a part of the weights."""
        return isinstance(self.trainer.strategy, FSDP2Strategy)

    def setup(self, stage: str) -> None:
        """Fit the condition unless it was loaded with the weights; before Lightning synchronizes the processes."""
        condition = self.denoiser.condition
        teacher = getattr(self.loss, "teacher", None)
        if not condition.is_fitted and teacher is not None:  # whose conditions mean what it learned
            with config_errors("teacher"):
                condition.load_state_dict(teacher.denoiser.condition.state_dict())
            self.models["ema"].condition.load_state_dict(condition.state_dict())
        elif not condition.is_fitted:
            data = self.trainer.datamodule.train_set
            rows = torch.randperm(len(data), generator=generator(self.seed, "clusters"))[:MAX_FIT_SAMPLES]
            with config_errors("condition"):  # the string is part of the seed
                condition.fit(SomeBatches(data, rows), generator("first centres", self.seed))
            self.models["ema"].condition.load_state_dict(condition.state_dict())

    def configure_model(self) -> None:
        """Shard the weights and their average among the processes, both in the same way."""
        if self.is_sharded and not hasattr(next(self.denoiser.parameters()), "device_mesh"):
            for model in (self.denoiser, self.ema.model):
                self.trainer.strategy.shard(model)

    # ---- one batch ----

    def sample_times_and_noise(
        self, x_0: Tensor, n: int, time_sampler: TimeSampler, *keys: int | str
    ) -> tuple[Tensor, Tensor, torch.Generator]:
        """Draw times and noise, and make a generator for the dropout of the condition, all functions of the keys.

        They are drawn for the global batch of n samples, and each process takes its share, so that they do not depend
        on the number of processes.
        """
        rank, world_size = self.global_rank, self.trainer.world_size
        t = time_sampler(n, generator(*keys, "t"), self.denoiser.schedule)[rank::world_size]
        on_device = generator(*keys, "noise", device=x_0.device)
        noise = self.noise_sampler.draw((n, *x_0.shape[1:]), on_device, x_0.dtype)
        return t, self.noise_sampler.pair(x_0, noise[rank::world_size]), generator(*keys, "label")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x_0, condition = batch["x"], self.denoiser.condition
        cond = condition(batch)
        # Counted over the whole run, not the epoch, and restored by Lightning when a run is resumed.
        count = self.trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(derive_seed(self.seed, "dropout", count, self.global_rank))
        t, noise, more = self.sample_times_and_noise(
            x_0, len(x_0) * self.trainer.world_size, self.time_sampler, self.seed, "train", count
        )
        if cond is not None:
            rank, world_size = self.global_rank, self.trainer.world_size

            def coins() -> Tensor:
                drawn = torch.rand(len(x_0) * world_size, generator=more)[rank::world_size]
                return drawn.to(x_0.device, non_blocking=True)

            cond = condition.withhold(cond, coins)
        losses = self.loss(self.denoiser, x_0, t, noise, cond)
        importance = self.time_sampler.importance_weights(t).to(losses.device, losses.dtype, non_blocking=True)
        self.train_loss.update(losses, self.denoiser.schedule.log_snr(t), importance)
        self.step_stats |= {"t": t, "losses": losses.detach()}
        self.update_time_sampler(t, losses.detach())
        return (importance * losses).mean()

    def update_time_sampler(self, t: Tensor, losses: Tensor) -> None:
        """Update the time sampler with the losses of the global batch, equally on every process."""
        if type(self.time_sampler).update_with_losses is TimeSampler.update_with_losses:
            return
        if self.trainer.world_size > 1:
            everywhere = cast(Tensor, self.all_gather(torch.stack([t.to(losses.device), losses.to(t.dtype)])))
            t, losses = everywhere.permute(1, 2, 0).flatten(1).cpu().unbind()  # in the order of the draws
        self.time_sampler.update_with_losses(t, losses)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        for name in self.models:
            self.validate(name, name, batch, batch_idx)
        # The same on training samples: beyond what two sets of samples differ by, a lower loss is over-fitting.
        self.validate("on_train", "ema", batch["train"], batch_idx)

    def validate(self, meter: str, weights: str, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add the losses of a batch, with the given weights, to a meter."""
        model = self.models[weights]
        # Fixed noise and fixed times: the curve moves only when the model does.
        n = self.trainer.datamodule.val_batch_size(batch_idx)
        x_0, times = batch["x"], self.time_sampler.for_validation()
        t, noise, _ = self.sample_times_and_noise(x_0, n, times, "validation", batch_idx)
        was_training = model.training
        losses = self.loss(model.eval(), x_0, t, noise, self.denoiser.condition(batch))
        model.train(was_training)
        cast(BinnedLoss, self.val_losses[meter]).update(losses, self.denoiser.schedule.log_snr(t))

    def on_validation_epoch_end(self) -> None:
        for name, meter in cast(dict[str, BinnedLoss], self.val_losses).items():
            means = meter.compute()
            meter.reset()
            loss = means.pop("loss")
            if name == "on_train":
                self.log_metrics({"train/loss_ema": loss} | {f"train_ema/{key}": v for key, v in means.items()})
                continue
            # Through Lightning, for callbacks that monitor it; the loggers get it below, at the right step.
            self.log(f"val/loss_{name}", loss, logger=False, sync_dist=False)
            self.log_metrics({f"val_{name}/{key}": v for key, v in means.items()})
            self.log_metrics({f"val/loss_{name}": loss})

    # ---- one optimizer step ----

    def total_steps(self) -> int:
        """Number of optimizer steps of the whole run, or -1 if only its time is limited."""
        return total_steps(self.trainer, self.trainer.datamodule.train_batches)

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the denoiser, the loss and all other parts but the averages, each once."""
        parts = (part for name, part in self.named_children() if name != "ema")
        yield from dict.fromkeys(
            [p for part in parts for p in part.parameters()] + list(self.parameters(recurse=False))
        )

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.trained_parameters() if p.requires_grad]
        own: list[torch.optim.Optimizer] = []
        for part in (self.loss, self.time_sampler, self.noise_sampler):
            make = getattr(part, "optimizer", None)
            if isinstance(part, nn.Module) and make is not None:
                mine = set(part.parameters())
                own.append(make([p for p in trained if p in mine]))
                trained = [p for p in trained if p not in mine]
        optimizer = self.make_optimizer(iter(trained))
        if own:
            optimizer = CombinedOptimizer([optimizer, *own])
        schedule = build_lr_schedule(self.make_lr_schedule, optimizer, self.total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Lay out restored states of the optimizers in memory as the weights now are, which fused steps assume."""
        for optimizer in self.trainer.optimizers:
            for p, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.shape == p.shape and value.stride() != p.stride():
                        state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm or by value, record the norm, and refuse a step with a loss or gradient that is not finite."""
        if self.scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            # Lightning leaves the gradients of a fused optimizer scaled, but they are clipped here.
            self.scaler.unscale_(optimizer)
        parameters = [p for p in self.trained_parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if gradient_clip_val and gradient_clip_algorithm == "value":
            clip_grad_value_(parameters, gradient_clip_val)
        elif gradient_clip_val:
            clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        self.step_stats["grad_norm"] = cast(Any, norm).full_tensor() if self.is_sharded else norm
        # Reading a value from an accelerator stalls it, so there the check waits for the next logged step.
        if self.device.type == "cpu" or self.is_logging_step(self.global_step + 1):
            self.check_finite()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        step = self.global_step + 1  # Lightning counts this step only after the hook returns
        self.ema.update(self.denoiser, step)
        if self.is_logging_step(step):
            self.log_training(step)
        # The last step is always validated, whatever the interval.
        if step == self.total_steps():
            self.trainer.should_stop = True

    def is_logging_step(self, step: int) -> bool:
        """True if metrics are logged at this step."""
        return step % self.trainer.log_every_n_steps == 0

    def check_finite(self) -> None:
        """Refuse to change or save the weights if the loss or its gradient is not finite.

        A gradient scaler leaves out such a step, which changes no weights but counts as any other.

        Raises:
            UserError: naming the step, the learning rate and the times.
        """
        losses, norm, t = (self.step_stats[key] for key in ("losses", "grad_norm", "t"))
        if norm.isfinite() and losses.isfinite().all():
            return
        if self.scaler is not None and self.scaler.get_scale() >= MIN_SCALE:
            return
        bad, step = ~losses.isfinite().cpu(), self.loss.last_step.get("loss")
        times = {"t": t} if step is None else {"t": step.t, "s": step.s}
        lr = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        where = "t: all losses finite"
        if bad.any():
            where = ", ".join(f"{k} = {', '.join(f'{v:.4g}' for v in time[bad][:5])}" for k, time in times.items())
        more = "".join(f", {name} {value:.3g}" for name, value in self.loss.figures().items())
        raise UserError(
            f"the loss is not finite at step {self.global_step + 1}: learning rate {lr:.3g}, gradient norm "
            f"{norm.item():.3g}, {where}{more}. The last good checkpoint is kept; try a lower optimizer.lr, "
            "trainer.gradient_clip_val=1 or trainer.precision=32"
        )

    # ---- logging and checkpoints ----

    def log_training(self, step: int) -> None:
        """Log the means since the last logged step."""
        means = self.train_loss.compute()
        self.train_loss.reset()
        loss = means.pop("loss")
        by_noise = {f"train/{key}": value for key, value in means.items()}
        lr = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        grad_norm = self.step_stats["grad_norm"].item()
        more = {f"train/{name}": value for name, value in self.loss.figures().items()}
        self.log_metrics({"train/loss": loss, "train/lr": lr, "train/grad_norm": grad_norm, **by_noise, **more}, step)

    def log_metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Pass values to the loggers, at the given step or the number of optimizer steps."""
        for logger in self.trainer.loggers:
            logger.log_metrics({**values, "epoch": self.current_epoch}, step=self.global_step if step is None else step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "grad_norm" in self.step_stats:
            self.check_finite()
        # The checkpoint holds the unfinished logging intervals of all processes.
        states = cast(Tensor, self.all_gather(self.train_loss.sums_and_counts))
        checkpoint["train_loss"] = states.view(self.trainer.world_size, 2, -1).cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = self.trainer.datamodule
        batches = epoch_batches(self.trainer, data.train_batches)
        data.position = go_on_between_batches(checkpoint["loops"]["fit_loop"], batches, self.trainer.max_steps != -1)
        self.load_train_loss(checkpoint["train_loss"])

    def load_train_loss(self, states: Tensor) -> None:
        """Restore this process's part of the unfinished logging intervals (processes, 2, bins)."""
        if len(states) != self.trainer.world_size:  # resumed on another number of processes
            states = torch.stack([states.sum(0), *[0 * states[0]] * (self.trainer.world_size - 1)])
        self.train_loss.sums_and_counts = states[self.global_rank]


class SomeBatches:
    """Batches of chosen samples of a data set, in the order of its files, where reading is faster; may be read again.

    Args:
        data: the data set.
        rows: (n,), the chosen samples.
    """

    def __init__(self, data: Any, rows: Tensor):
        self.data, self.rows = data, rows.sort().values

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self.data[0, some] for some in self.rows.split(500))


def check_trainable(name: str, part: object) -> None:
    """Refuse a part whose parameters would not be trained.

    Raises:
        ValueError: if it is not an nn.Module but has trainable parameters.
    """
    if isinstance(part, nn.Module) or not hasattr(part, "__dict__"):
        return
    for key, value in vars(part).items():
        parameters = value.parameters() if isinstance(value, nn.Module) else [value]
        if any(isinstance(p, nn.Parameter) and p.requires_grad for p in parameters):
            kind = type(part).__name__
            raise ValueError(
                f"{name}: {kind}.{key} has trainable parameters, but {kind} is not an nn.Module, so they would "
                f"not be trained; write class {kind}(nn.Module, {type(part).__mro__[1].__name__})"
            )
