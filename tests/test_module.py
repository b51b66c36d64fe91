"""The LightningModule in real runs of a tiny model: what it draws, steps, logs and keeps."""

import math
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import timer

import src.module
from src.callbacks.checkpoint import BestLastCheckpoint
from src.callbacks.sample_images import SampleImages
from src.data.samples import TensorSamples
from src.diffusion.conditions import Labels
from src.diffusion.losses import MSE
from src.diffusion.time_samplers import (
    LogitNormalTimeSampler,
    LossSecondMomentTimeSampler,
    StratifiedTimeSampler,
    UniformTimeSampler,
)
from src.diffusion.weightings import v_weighting
from src.loggers.metrics_csv import read_metrics
from src.module import DiffusionModule, check_trainable
from src.optim.ema import ConstantEMA
from src.optim.lr_schedules import constant_lr, cosine_lr
from src.samplers.ancestral import DDIM
from src.utils.errors import UserError
from src.utils.fsdp import FSDP2Strategy
from src.utils.seeding import generator
from tests.helpers.faults import PoisonAt
from tests.helpers.tiny import CLASSES, SHAPE, Memory, StepClock, fit, make_kind, make_module, weights

pytestmark = pytest.mark.filterwarnings("ignore")

# ---- draws ----


def test_draws_depend_on_seed_and_batch_alone(tmp_path):
    def drawn_times(seed=0, **arguments):
        module = make_module(seed, dropout=0.3)
        torch.manual_seed(len(arguments))
        return torch.stack([b["t"] for b in fit(tmp_path, module, **arguments)[2].batches])

    first = drawn_times()
    assert first.shape == (6, 8)
    assert torch.equal(drawn_times(val_check_interval=2), first)
    assert torch.equal(drawn_times(data=Memory(seed=5)), first), "the order of the data is another matter"
    assert torch.equal(drawn_times(accumulate_grad_batches=2, max_steps=3), first[:5]), "an epoch of 5 is 3 steps"
    assert (drawn_times(seed=1) - first).abs().max() > 0.1
    assert len(set(first.flatten().tolist())) == first.numel(), "no batch repeats another, nor do epochs"


def test_the_loss_is_that_of_the_drawn_noise(tmp_path):
    """The parts are wired as they should be: x_t, target and weight written out by hand."""
    captured = {}

    class Capture(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            captured["x"] = batch["x"]
            captured["net"] = {k: v.clone() for k, v in pl_module.denoiser.net.state_dict().items()}

    module, _, watch = fit(tmp_path, callbacks=[Capture()], max_steps=1)
    x, t = captured["x"], watch.batches[0]["t"]
    module.denoiser.net.load_state_dict(captured["net"])
    _, noise, _ = module.sample_times_and_noise(x, len(x), module.time_sampler, 0, "train", 0)
    alpha, sigma = (v.float().view(-1, 1, 1) for v in module.denoiser.schedule.alpha_sigma(t))
    c_noise = module.denoiser.parameterization.preconditioning(module.denoiser.schedule, t).c_noise.float()
    output = module.denoiser.net(alpha * x + sigma * noise, c_noise)
    expected = (output - (alpha * noise - sigma * x)).square().flatten(1).mean(1)
    torch.testing.assert_close(watch.batches[0]["losses"], expected.detach(), atol=1e-5, rtol=1e-4)


def test_runs_repeat_bit_for_bit_and_seeds_differ(tmp_path):
    a, b, c = (
        weights(fit(tmp_path, make_module(seed, Labels(CLASSES, 0.3), dropout=0.3))[0]) for seed in (0, 0, 1)
    )  # fmt: skip
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_labels_are_dropped_at_the_stated_share(tmp_path, share):
    module = make_module(condition=Labels(CLASSES, share))
    seen = []
    module.denoiser.net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[2]))
    fit(tmp_path, module, Memory(n=400, batch_size=200), max_steps=20, limit_val_batches=0)
    dropped = (torch.stack(seen) == -1).double()
    n = dropped.numel()
    assert n == 4000
    assert dropped.mean().item() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / n) + 1e-9)
    kept = torch.stack(seen)[dropped == 0]
    assert not len(kept) or kept.unique().tolist() == [0, 1, 2, 3]
    if share == 0.3:  # neither the same places in each batch nor the same number
        assert dropped.mean(0).std() > 0.05 and dropped.sum(1).std() > 1


def test_labels_are_dropped_in_training_only_and_withheld_from_an_unconditional_net(tmp_path):
    for conditional in (True, False):
        module = make_module(condition=Labels(CLASSES, 1.0) if conditional else None)
        seen = []
        for model in module.models.values():
            model.net.register_forward_pre_hook(lambda net, inputs, seen=seen: seen.append(inputs[2]))
        fit(tmp_path, module, max_steps=2, val_check_interval=1)
        kinds = [None if label is None else label.unique().tolist() for label in seen]
        training, validation = ([-1], [0, 1, 2, 3]) if conditional else (None, None)
        assert kinds.count(training) >= 2 and kinds[0] == training and kinds[1] == kinds[2] == validation


# ---- times ----


class Tilted(UniformTimeSampler):
    """Times that ask for weights."""

    def importance_weights(self, t):
        return 0.5 + t


def test_importance_multiplies_the_loss(tmp_path):
    """In what is minimised and in its mean over steps, not in the losses that are told of."""
    totals = []

    class Totals(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            totals.append(outputs["loss"].item())

    module = make_kind("plain")
    module.time_sampler = Tilted()
    told = []
    module.time_sampler.update_with_losses = lambda t, losses: told.append((t, losses))
    _, _, watch = fit(tmp_path, module, callbacks=[Totals()], max_steps=4, log_every_n_steps=4)
    t, losses = (torch.stack([b[key] for b in watch.batches]) for key in ("t", "losses"))
    importance = (0.5 + t).float()
    assert totals == pytest.approx((importance * losses).mean(1).tolist(), rel=1e-5)
    (row,) = (r for r in read_metrics(tmp_path / "metrics.csv") if "train/loss" in r)
    assert row["train/loss"] == pytest.approx(((importance * losses).sum() / importance.sum()).item(), rel=1e-5)
    grown = make_kind("plain")
    grown.time_sampler = UniformTimeSampler()
    assert (weights(fit(tmp_path, grown, max_steps=4)[0]) - weights(module)).abs().max() > 1e-4


def test_times_that_follow_the_loss_do_not_change_what_is_minimised(tmp_path):
    """At weights that stay as they are, the mean of what is minimised is that over uniform times."""
    means = {}

    class Totals(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.totals.append(outputs["loss"].item())

    for kind in ("plain", "loss_second_moment"):
        counter = Totals()
        counter.totals = []
        module, data = make_kind(kind, lr=0.0), Memory(n=800, batch_size=400)
        module.denoiser.condition.dropout = 0.0
        _, _, watch = fit(tmp_path, module, data, callbacks=[counter], max_steps=21, limit_val_batches=0)
        losses = torch.stack([b["losses"] for b in watch.batches[1:]])  # the first step fills the memory
        totals = torch.tensor(counter.totals[1:])
        means[kind] = totals.mean(), totals.std() / len(totals) ** 0.5, losses.mean()
    (uniform, error_1, _), (weighted, error_2, unweighted) = means["plain"], means["loss_second_moment"]
    error = (error_1**2 + error_2**2) ** 0.5
    assert abs(weighted - uniform) < 4 * error < 0.1 * uniform
    assert unweighted - uniform > 8 * error, "the times are not uniform"


def test_times_learn_from_the_losses_of_each_step(tmp_path):
    """All that was drawn is remembered, and what comes after is drawn accordingly."""
    module, _, watch = fit(tmp_path, make_kind("loss_second_moment"), max_steps=12)
    replayed = LossSecondMomentTimeSampler(bins=4, history_per_term=3)
    for batch in watch.batches:
        replayed.update_with_losses(batch["t"], batch["losses"])
    assert torch.equal(module.time_sampler.losses, replayed.losses) and torch.equal(
        module.time_sampler.counts, replayed.counts
    )
    assert module.time_sampler.counts.sum() == 12 * 8
    root = module.time_sampler.losses.double().square().mean(1).sqrt()
    torch.testing.assert_close(module.time_sampler.probabilities(), 0.999 * root / root.sum() + 0.001 / 4)
    assert module.time_sampler.probabilities().std() > 0.02
    assert {"time_sampler.losses", "time_sampler.counts"} <= set(module.state_dict())
    evenly = LossSecondMomentTimeSampler(bins=4, history_per_term=3)
    keys = (0, "train", 11, "t")
    from_memory, from_none = (s(8, generator(*keys), module.denoiser.schedule) for s in (replayed, evenly))
    assert not torch.equal(from_memory, from_none)


def test_two_processes_tell_the_times_as_one_does():
    """In the order of the draws, whatever process they went to, to the last bit."""

    class Sent(Exception):
        """What a process sends to all others."""

    def send(part):
        raise Sent(part)

    g = torch.Generator().manual_seed(0)
    whole, *ranks = (make_kind("loss_second_moment") for _ in range(3))
    whole._trainer = type("Trainer", (), {"world_size": 1})()
    for _ in range(5):
        t, losses = torch.rand(6, generator=g, dtype=torch.float64), torch.rand(6, generator=g)
        t[2] = 0.25 - 1e-12  # which single precision would put into the next bin
        whole.update_time_sampler(t, losses)
        parts = []
        for rank, module in enumerate(ranks):
            module._trainer = type("Trainer", (), {"world_size": 2})()
            module.all_gather = send
            with pytest.raises(Sent) as sent:
                module.update_time_sampler(t[rank::2], losses[rank::2])
            parts.append(sent.value.args[0])
        everywhere = torch.stack(parts)
        for rank, module in enumerate(ranks):
            module.all_gather = lambda part, everywhere=everywhere: everywhere
            module.update_time_sampler(t[rank::2], losses[rank::2])
    for module in ranks:
        assert torch.equal(module.time_sampler.losses, whole.time_sampler.losses)
        assert torch.equal(module.time_sampler.counts, whole.time_sampler.counts)


def test_a_learned_schedule_is_trained_and_averaged(tmp_path):
    """Its parameters are the optimizer's, the average's and the checkpoint's as the network's are."""
    module, before = make_kind("learned_schedule"), make_kind("learned_schedule")
    names = [n for n, _ in module.denoiser.named_parameters() if n.startswith("schedule.")]
    average = {n: p.detach().clone().double() for n, p in before.denoiser.named_parameters()}
    _, trainer, watch = fit(tmp_path, module, callbacks=[BestLastCheckpoint(str(tmp_path))])
    stepped = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert stepped == {id(p) for p in module.denoiser.parameters()}
    everything = [n for n, _ in module.denoiser.named_parameters()]
    for step, now in enumerate(watch.weights, 1):
        d = min(0.999, (1 + step) / (10 + step))
        average = {n: d * average[n] + (1 - d) * w.double() for n, w in zip(everything, now, strict=True)}
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert len(names) == 4
    for name in names:
        start = dict(before.denoiser.named_parameters())[name]
        assert (state[f"denoiser.{name}"] - start).abs().max() > 1e-3, name
        torch.testing.assert_close(state[f"ema.model.{name}"].double(), average[name], atol=1e-6, rtol=1e-5)
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    assert not torch.equal(module.ema.model.schedule.log_snr(t), module.denoiser.schedule.log_snr(t))
    assert not module.ema.model.schedule.log_snr(t).requires_grad


def test_clusters_of_a_part_of_the_data_are_by_the_seed_alone(monkeypatch):
    monkeypatch.setattr(src.module, "MAX_FIT_SAMPLES", 10)
    data, found = Memory(n=60), []
    data.setup()
    for seed in (0, 0, 1):
        module = make_kind("clusters")
        torch.manual_seed(len(found))
        module.seed, module._trainer = seed, SimpleNamespace(datamodule=data)
        module.setup("fit")
        found.append(module.denoiser.condition.centers)
        assert torch.equal(module.ema.model.condition.centers, found[-1])
        assert module.denoiser.condition.weights.sum().item() == pytest.approx(1)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])


def test_a_loss_that_leaves_a_part_untrained_is_refused():
    denoiser = make_kind("learned_variance").denoiser
    with pytest.raises(ValueError, match="use loss=hybrid"):
        DiffusionModule(denoiser, MSE(v_weighting), UniformTimeSampler(), torch.optim.Adam, constant_lr, ConstantEMA)
    # Of a loss that is no module itself, any parameter that wants to be trained is refused.
    loss = MSE(v_weighting)
    loss.part = torch.nn.Linear(2, 2)
    loss.part.weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"MSE\.part has trainable parameters"):
        check_trainable("loss", loss)
    check_trainable("loss", MSE(v_weighting))
    loss.part.bias.requires_grad_(False)
    check_trainable("loss", loss)


# ---- validation ----


def test_validation_repeats_exactly(tmp_path):
    """The same weights have the same loss, whenever and however often it is taken."""
    _, _, watch = fit(tmp_path, make_module(lr=0.0), val_check_interval=2)
    losses = [tuple(metrics.values()) for _, metrics in watch.validations]
    assert [step for step, _ in watch.validations] == [2, 4, 6]
    assert losses[0] == losses[1] == losses[2] and losses[0][0] > 0
    other = make_module(seed=7, lr=0.0)
    _, _, watch = fit(tmp_path, other, data=Memory(seed=3), val_check_interval=3)
    assert tuple(watch.validations[0][1].values()) == losses[0], "nor does it depend on the seed of the run"


def test_validation_is_the_mean_over_all_samples(tmp_path):
    """The last batch holds 2 samples of 10, which must count no more than others."""
    module, _, watch = fit(tmp_path, val_check_interval=6)
    module.denoiser.eval()
    losses = []
    for i, x in enumerate(module.trainer.datamodule.val_set.x.split(8)):
        t, noise, _ = module.sample_times_and_noise(x, len(x), StratifiedTimeSampler(), "validation", i)
        losses.append(module.loss(module.denoiser, x, t, noise).detach())
    assert [len(part) for part in losses] == [8, 2]
    assert watch.validations[-1][1]["val/loss_raw"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


@pytest.mark.parametrize("n", [4, 10, 25])
def test_the_loss_of_training_samples_is_taken_as_that_of_validation(tmp_path, n):
    """With the same samples in both sets, and times of training that are others, there is no gap."""
    data = Memory(n, 10, batch_size=4)
    data.load()
    x, label = data.train_set.x, data.train_set.label
    rows = torch.arange(10) % n if n < 10 else torch.arange(10) * n // 10
    data.val_set, data.train_set = TensorSamples(x[rows], label[rows]), TensorSamples(x, label, flip=True)
    module = make_module(condition=Labels(CLASSES, dropout=0.5), dropout=0.3)
    module.time_sampler = LogitNormalTimeSampler()
    fit(tmp_path, module, data, val_check_interval=1)
    found = [row for row in read_metrics(tmp_path / "metrics.csv") if "train/loss_ema" in row]
    assert len(found) == 6
    assert all(row["train/loss_ema"] == pytest.approx(row["val/loss_ema"], rel=1e-5) for row in found)


def test_validation_and_pictures_do_not_change_the_training(tmp_path, monkeypatch):
    def run(**settings):
        return fit(tmp_path, make_module(condition=Labels(CLASSES, 0.2), dropout=0.3), **settings)

    plain, _, _ = run(limit_val_batches=0)
    validated, _, watch = run(val_check_interval=1)
    for name in ("pictures.sample_grid", "denoising_strip.denoising_strip"):
        monkeypatch.setattr(f"src.plots.{name}", lambda *args: Image.new("RGB", (9, 9)))
    pictures = SampleImages(str(tmp_path), lambda schedule: DDIM(schedule, 2, eta=1.0), n=4, every_n_steps=1)
    drawn, _, _ = run(val_check_interval=3, callbacks=[pictures])
    assert len(watch.validations) == 6 and len(list((tmp_path / "samples").glob("*.png"))) == 6
    assert torch.equal(weights(plain), weights(validated)) and torch.equal(weights(plain), weights(drawn))
    for a, b in zip(plain.ema.parameters(), drawn.ema.parameters(), strict=True):
        assert torch.equal(a, b)


def test_dropout_is_off_in_validation_and_on_again_in_training(tmp_path):
    modes = []
    module = make_module(dropout=0.5)
    module.denoiser.net.register_forward_pre_hook(lambda net, _: modes.append(net.training))
    fit(tmp_path, module, max_steps=2, val_check_interval=1)
    assert modes == [True, False, False, True, False, False]


# ---- the average ----


@pytest.mark.parametrize(("decay", "start", "warmup"), [(0.9, 0, False), (0.9, 2, False), (0.5, 0, True)])
def test_the_average_in_the_checkpoint_is_that_of_the_weights_after_each_step(tmp_path, decay, start, warmup):
    module = make_module(decay=decay, start=start, warmup=warmup)
    average = [p.detach().clone().double() for p in module.denoiser.parameters()]
    _, _, watch = fit(tmp_path, module, callbacks=[BestLastCheckpoint(str(tmp_path))], accumulate_grad_batches=2)
    assert len(watch.weights) == 6
    for step, now in enumerate(watch.weights, 1):
        n = step - start
        d = 0.0 if n <= 0 else min(decay, (1 + n) / (10 + n)) if warmup else decay
        average = [d * a + (1 - d) * w.double() for a, w in zip(average, now, strict=True)]
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    names = [name for name, _ in module.denoiser.named_parameters()]
    for name, a, w in zip(names, average, watch.weights[-1], strict=True):
        torch.testing.assert_close(state[f"ema.model.{name}"].double(), a, atol=1e-6, rtol=1e-5)
        assert torch.equal(state[f"denoiser.{name}"], w)
    assert any((a - w).abs().max() > 1e-3 for a, w in zip(average, watch.weights[-1], strict=True))


# ---- steps ----


@pytest.mark.parametrize(
    "settings",
    [
        {"max_steps": 7},
        {"max_steps": -1, "max_epochs": 2},
        {"max_steps": -1, "max_epochs": 3, "accumulate_grad_batches": 2},
        {"max_steps": -1, "max_epochs": 2, "accumulate_grad_batches": 4},
        {"max_steps": -1, "max_epochs": 2, "accumulate_grad_batches": 8},
        {"max_steps": -1, "max_epochs": 2, "limit_train_batches": 3},
        {"max_steps": -1, "max_epochs": 2, "limit_train_batches": 30},
        {"max_steps": -1, "max_epochs": 2, "limit_train_batches": 0.5},
        {"max_steps": -1, "max_epochs": 2, "limit_train_batches": 0.99},
        {"max_steps": -1, "max_epochs": 2, "limit_train_batches": 0.7, "accumulate_grad_batches": 2},
        {"max_steps": 4, "max_epochs": 2},
        {"max_steps": 40, "max_epochs": 2},
        {"max_steps": 5, "accumulate_grad_batches": 3},
    ],
    ids=lambda settings: " ".join(f"{k}={v}" for k, v in settings.items()),
)
def test_planned_steps_are_made(tmp_path, settings):
    """Five batches an epoch."""
    planned = []

    class Ask(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            planned.append(pl_module.total_steps())

    _, trainer, watch = fit(tmp_path, callbacks=[Ask()], **settings)
    assert planned == [trainer.global_step]
    assert watch.validations and watch.validations[-1][0] == trainer.global_step, "the last step is validated"


def test_a_run_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(timer, "time", StepClock())
    module = make_module()
    _, trainer, _ = fit(tmp_path, module, max_steps=-1, max_epochs=-1, max_time={"seconds": 9})
    assert module.total_steps() == -1 and trainer.global_step > 5
    with pytest.raises(ValueError, match="the number of steps of the run must be known"):
        fit(tmp_path, make_module(schedule=cosine_lr), max_steps=-1, max_epochs=-1, max_time={"seconds": 9})


def test_the_rate_follows_its_schedule_by_optimizer_steps(tmp_path):
    module = make_module(schedule=partial(cosine_lr, warmup_steps=2))
    fit(tmp_path, module, max_steps=6, accumulate_grad_batches=2)
    factors = [0.5, 1.0, *((1 + math.cos(math.pi * k / 4)) / 2 for k in range(4))]
    rates = [row["train/lr"] for row in read_metrics(tmp_path / "metrics.csv") if "train/lr" in row]
    assert rates == pytest.approx([1e-2 * f for f in factors])


@pytest.mark.parametrize("clip", [None, 1e-3, 1e3])
def test_the_norm_before_clipping_is_logged_and_the_gradient_clipped(tmp_path, clip):
    norms = []

    class Norm(pl.Callback):
        """The norm that the optimizer sees."""

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            grads = [p.grad for p in pl_module.denoiser.parameters() if p.grad is not None]
            if grads:
                norms.append(torch.cat([g.flatten() for g in grads]).norm().item())

    _, _, watch = fit(tmp_path, callbacks=[Norm()], gradient_clip_val=clip, max_steps=5)
    logged = [r["train/grad_norm"] for r in read_metrics(tmp_path / "metrics.csv") if "train/grad_norm" in r]
    assert logged == pytest.approx(watch.norms, rel=1e-5) and len(logged) == 5
    if clip == 1e-3:
        assert norms == pytest.approx([clip] * len(norms), rel=1e-3)
    else:
        assert norms == pytest.approx(watch.norms[: len(norms)], rel=1e-4)


def test_clipping_by_value_bounds_each_number_of_the_gradient(tmp_path):
    class Largest(pl.Callback):
        def __init__(self):
            self.found, self.share = [], []

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            grads = [p.grad for p in pl_module.denoiser.parameters() if p.grad is not None]
            if grads and trainer.global_step:
                flat = torch.cat([g.flatten() for g in grads]).abs()
                self.found.append(flat.max().item())
                self.share.append((flat == flat.max()).float().mean().item())

    largest = Largest()
    fit(tmp_path, callbacks=[largest], gradient_clip_val=1e-3, gradient_clip_algorithm="value", max_steps=5)
    assert largest.found == pytest.approx([1e-3] * len(largest.found)) and len(largest.found) >= 4
    assert min(largest.share) > 0.1, "many numbers at the bound, where the norm would have scaled all alike"


def test_the_norm_is_that_of_the_accumulated_gradient(tmp_path):
    _, _, watch = fit(tmp_path, accumulate_grad_batches=3, max_steps=3, gradient_clip_val=1.0)
    logged = [r["train/grad_norm"] for r in read_metrics(tmp_path / "metrics.csv") if "train/grad_norm" in r]
    assert logged == pytest.approx(watch.norms, rel=1e-5) and len(logged) == 3


# ---- what is logged ----


def test_the_training_loss_is_the_mean_since_the_last_row(tmp_path):
    _, _, watch = fit(tmp_path, max_steps=6, log_every_n_steps=3)
    rows = [r for r in read_metrics(tmp_path / "metrics.csv") if "train/loss" in r]
    means = [torch.stack([b["losses"] for b in watch.batches[i : i + 3]]).mean().item() for i in (0, 3)]
    assert [r["step"] for r in rows] == [3, 6]
    assert [r["train/loss"] for r in rows] == pytest.approx(means, rel=1e-5)
    for row in rows:
        by_noise = [v for k, v in row.items() if k.startswith("train/log_snr/")]
        assert len(by_noise) >= 4 and min(by_noise) <= row["train/loss"] <= max(by_noise)


def test_validation_is_logged_at_its_step(tmp_path):
    _, _, watch = fit(tmp_path, max_steps=6, val_check_interval=2)
    rows = [r for r in read_metrics(tmp_path / "metrics.csv") if "val/loss_ema" in r]
    assert [(r["step"], r["val/loss_raw"], r["val/loss_ema"]) for r in rows] == [
        (step, pytest.approx(m["val/loss_raw"]), pytest.approx(m["val/loss_ema"])) for step, m in watch.validations
    ]
    assert any(k.startswith("val_ema/log_snr/") for k in rows[0])
    assert len({r["step"] for r in read_metrics(tmp_path / "metrics.csv")}) == 6


# ---- what goes wrong ----


@pytest.mark.parametrize("log_every_n_steps", [1, 100])
def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(tmp_path, log_every_n_steps):
    """At once on a CPU, whenever it is logged."""
    callbacks = [BestLastCheckpoint(str(tmp_path / "c"), every_n_steps=1), PoisonAt(4)]
    with pytest.raises(UserError) as caught:
        settings = {"gradient_clip_val": 1.0, "log_every_n_steps": log_every_n_steps}
        fit(tmp_path, make_module(lr=0.0125), callbacks=callbacks, **settings)
    message = str(caught.value)
    assert message.startswith("the loss is not finite at step 5: learning rate 0.0125, gradient norm nan, t = 0.")
    assert "\n" not in message and "optimizer.lr" in message
    checkpoint = torch.load(tmp_path / "c/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    assert all(v.isfinite().all() for v in checkpoint["state_dict"].values())


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(tmp_path):
    class Break(pl.Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.global_step == 2:
                next(pl_module.denoiser.parameters()).grad.fill_(float("inf"))

    module = make_module()
    with pytest.raises(UserError, match=r"not finite at step 3: .*gradient norm inf, t: all losses finite"):
        fit(tmp_path, module, callbacks=[Break()])
    assert weights(module).isfinite().all()


def test_two_processes_draw_times_noise_and_labels_as_one_does():
    """Each for its share of a global batch: what both compute is what one would, in training and in validation."""

    def step(rank, world_size, hook):
        module = make_module(condition=Labels(CLASSES, dropout=0.5))
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=3))
        batch = {"x": x[rank::world_size], "label": torch.arange(len(x))[rank::world_size] % CLASSES}
        data = SimpleNamespace(val_batch_size=lambda i: len(x))
        module._trainer = SimpleNamespace(global_rank=rank, world_size=world_size, fit_loop=loop, datamodule=data)
        module.loss = lambda denoiser, *given: seen.append(given) or MSE(v_weighting)(denoiser, *given)
        seen = []
        getattr(module, hook)({**batch, "train": batch}, 0)
        return seen[0]

    x = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(0))
    for hook in ("training_step", "validation_step"):
        whole, parts = step(0, 1, hook), [step(rank, 2, hook) for rank in (0, 1)]
        for k, one in enumerate(whole):
            assert torch.equal(torch.stack([part[k] for part in parts], 1).flatten(0, 1), one)
        labels = whole[3]
        assert (labels == -1).any() == (hook == "training_step") and (labels >= 0).any()


# ---- checkpoints ----


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_meters_of_two_processes_are_shared_by_others(world_size):
    """As they are by two; added up in the first of any other number."""
    states, found = torch.arange(40.0).view(2, 2, 10), []
    for rank in range(world_size):
        module = make_module()
        module._trainer = SimpleNamespace(world_size=world_size, global_rank=rank)
        module.load_train_loss(states)
        found.append(module.train_loss.sums_and_counts)
    expected = states if world_size == 2 else torch.stack([states.sum(0), *[0 * states[0]] * (world_size - 1)])
    assert torch.equal(torch.stack(found), expected)


@pytest.mark.parametrize(("max_steps", "by_steps"), [(-1, False), (10, True)])
def test_what_a_checkpoint_restores(monkeypatch, max_steps, by_steps):
    """The place in the data, by the batches that an epoch has now, and the unfinished interval of the log."""
    module, data, seen = make_module(), SimpleNamespace(train_batches=5), []
    module._trainer = SimpleNamespace(
        world_size=1, global_rank=0, datamodule=data, max_steps=max_steps, limit_train_batches=4
    )
    monkeypatch.setattr(src.module, "go_on_between_batches", lambda *given: seen.append(given) or (2, 3))
    states = torch.arange(20.0).view(1, 2, 10)
    module.on_load_checkpoint({"loops": {"fit_loop": "its counters"}, "train_loss": states})
    assert seen == [("its counters", 4, by_steps)] and data.position == (2, 3)
    assert torch.equal(module.train_loss.sums_and_counts, states[0])


def test_what_is_kept_of_a_step_has_no_graph(tmp_path):
    """Nor has what a time sampler is given."""

    class Learns(UniformTimeSampler):
        given = ()

        def update_with_losses(self, t, losses):
            self.given = (t, losses)

    module = make_module()
    module.time_sampler = Learns()
    _, _, watch = fit(tmp_path, module, max_steps=1)
    t, losses = module.time_sampler.given
    assert not losses.requires_grad and torch.equal(losses, watch.batches[0]["losses"])
    assert torch.equal(t, watch.batches[0]["t"])
    assert not any(value.requires_grad for value in module.step_stats.values())
    assert not module.train_loss.sums.requires_grad


@pytest.mark.parametrize(
    ("losses", "norm", "said"),
    [
        ([1.0, 2.0], 3.0, None),
        ([1.0, math.nan], 3.0, "gradient norm 3, t = 0.2. The last good"),
        ([1.0, 2.0], math.inf, "gradient norm inf, t: all losses finite. The last good"),
        ([math.inf] * 7, math.nan, "gradient norm nan, t = 0.1, 0.2, 0.3, 0.4, 0.5. The last good"),
    ],
)
def test_no_checkpoint_is_written_of_what_is_not_finite(losses, norm, said):
    module = make_module()
    module._trainer = SimpleNamespace(
        world_size=1, global_step=6, optimizers=[torch.optim.SGD([torch.ones(1)], lr=0.5)]
    )
    module.optimizers = lambda: module._trainer.optimizers[0]
    module.all_gather = lambda x: x
    t = torch.arange(1, len(losses) + 1).double() / 10
    module.on_save_checkpoint({})  # before the first step nothing is known
    module.step_stats = {"t": t, "losses": torch.tensor(losses), "grad_norm": torch.tensor(norm)}
    checkpoint = {}
    message = said and f"^the loss is not finite at step 7: learning rate 0.5, {said}"
    with pytest.raises(UserError, match=message) if said else nullcontext():
        module.on_save_checkpoint(checkpoint)
    assert ("train_loss" in checkpoint) == (said is None)


@pytest.mark.parametrize("split", [False, True])
def test_the_weights_and_their_average_are_split_once_and_alike(split):
    module, seen = make_module(), []
    strategy = FSDP2Strategy.__new__(FSDP2Strategy) if split else SimpleNamespace()
    strategy.shard = seen.append
    module._trainer = SimpleNamespace(strategy=strategy)
    module.configure_model()
    assert seen == ([module.denoiser, module.ema.model] if split else [])
    next(module.denoiser.parameters()).device_mesh = object()
    seen.clear()
    module.configure_model()
    assert seen == []


@pytest.mark.parametrize(("scale", "refused"), [(2.0**16, False), (2.0**-10, False), (2.0**-11, True)])
def test_an_overflow_in_float16_is_left_out_until_the_scale_is_tiny(scale, refused):
    module = make_module()
    plugin = SimpleNamespace(scaler=SimpleNamespace(get_scale=lambda: scale))
    module._trainer = SimpleNamespace(world_size=1, global_step=6, precision_plugin=plugin)
    module.optimizers = lambda: torch.optim.SGD([torch.ones(1)], lr=0.5)
    module.step_stats = {"t": torch.ones(1), "losses": torch.tensor([math.inf]), "grad_norm": torch.tensor(math.inf)}
    with pytest.raises(UserError, match="not finite at step 7") if refused else nullcontext():
        module.check_finite()


def test_on_a_device_the_gradient_is_checked_at_the_logged_steps():
    """Reading a value there waits for the device."""
    module, checked = make_module(), []
    for step in range(10):
        weight = torch.nn.Parameter(torch.ones(2))
        weight.grad = torch.ones(2)
        on_device = SimpleNamespace(
            scaler=None, trained_parameters=lambda w=weight: [w], step_stats={}, is_sharded=False, global_step=step,
            device=torch.device("meta"), check_finite=lambda s=step: checked.append(s + 1),
            is_logging_step=lambda s: s % 5 == 0,
        )  # fmt: skip
        type(module).configure_gradient_clipping(on_device, None, None)
    assert checked == [5, 10]
