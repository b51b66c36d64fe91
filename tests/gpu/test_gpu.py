"""The checks for a GPU run on a CPU, at tiny size; what is measured is for the checks themselves."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.end_to_end.running import forked
from tests.gpu import agreement, fast, good, loop, measuring, plan, right, runs, sampling, warm
from tests.gpu.bench import Bench
from tests.gpu.device import Device, plan_of
from tests.gpu.models import MODELS
from tests.gpu.results import BELOW, FAILED, PASSED, Outcome

QUICK = {
    "right": ("mixture_flow", "digits_dit", "mnist_ddpm"),
    "fast": ("dit_130m", "loop_unet"),
    "plan": (),
    "good": (),
}
SLOW = pytest.mark.slow
CASES = [
    pytest.param(section, check, marks=() if check in QUICK[section.__name__.rpartition(".")[2]] else SLOW, id=check)
    for section in (right, fast, plan, good)
    for check in section.CHECKS
    if check != "compile"  # minutes on a CPU; tests/end_to_end/test_compile.py does the same
]


def launch_forked(words, log: Path, timeout: float, environment=None) -> int:
    """The command in a copy of this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    ended = forked(*words[2:])
    log.write_text(ended.stderr)
    return ended.returncode


@pytest.fixture
def bench(tmp_path, unchecked, monkeypatch, tiny_mnist):
    """Without another implementation of convolutions in bf16, which is very slow, and without compilation."""
    monkeypatch.setattr(Device, "has_bf16", False)
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: None)
    monkeypatch.setattr(measuring, "matmul_flops", lambda device, precision: 1e12)
    digits = [f"data.root={tiny_mnist}", "data.sha256=null", "data.offline=error", "data.val_size=16"]
    monkeypatch.setattr(Bench, "digits", digits)
    monkeypatch.setattr(Bench, "clean", lambda self: None)
    return Bench(Device(), tmp_path / "scratch", tmp_path / "out", tiny=True, launch=launch_forked)


@pytest.mark.parametrize(("section", "check"), CASES)
def test_each_check_runs(bench, section, check):
    """And on a CPU, what must be right is."""
    found = Outcome()
    if section is right:
        right.prepare(bench, [check])
    section.CHECKS[check](bench, found)
    assert found.status in (PASSED, BELOW), found.message
    assert found.figures


# ---- right ----


@contextmanager
def wrong():
    """A device whose SiLU is one percent too large."""
    silu = torch.nn.functional.silu
    torch.nn.functional.silu = lambda x, inplace=False: 1.01 * silu(x)
    try:
        yield
    finally:
        torch.nn.functional.silu = silu


def test_a_device_that_computes_something_else_is_noticed(bench, monkeypatch):
    monkeypatch.setattr(bench.device, "exact", wrong)
    found = Outcome()
    right.CHECKS["mixture_flow"](bench, found)
    assert found.status == FAILED
    assert [figure.reached for figure in found.figures] == [False] * 3


def test_a_device_whose_bf16_is_coarser_is_noticed(bench, monkeypatch):
    """Than that of a CPU: here with an error of a tenth."""
    monkeypatch.setattr(Device, "has_bf16", True)
    measure = agreement.measure
    calls = []

    def coarse(module, cfg, batch, autocast=None):
        calls.append(autocast)
        found = measure(module, cfg, batch, autocast)
        return {k: 1.1 * v for k, v in found.items()} if len(calls) == 4 else found

    monkeypatch.setattr(agreement, "measure", coarse)
    found = Outcome()
    right.CHECKS["mixture_flow"](bench, found)
    assert calls == [None, None, torch.bfloat16, torch.bfloat16]
    assert [figure.reached for figure in found.figures] == [True] * 3 + [False] * 3


def test_nothing_is_compared_through_weights_that_are_zero():
    side = measuring.make("diffusion-lab", MODELS["dit_130m"], MODELS["dit_130m"].config(True), 2, Device(), True)
    assert not all(p.any() for p in side.module.denoiser.parameters())
    assert all(p.any() for p in agreement.awake(side.module).denoiser.parameters())


class Done:
    """Jobs whose results are there."""

    def __init__(self, **results):
        self.results = results

    def result(self, name):
        return self.results[name]


def test_losses_that_differ_are_noticed(bench, tmp_path, monkeypatch):
    logged = {"plain": [1.0, 2.0], "near": [1.00001, 2.0], "far": [1.0, 2.001], "short": [1.0]}
    monkeypatch.setattr(runs, "losses", logged.__getitem__)
    bench.jobs = Done(**{name: name for name in logged})
    for name, status in (("near", PASSED), ("far", FAILED)):
        found = Outcome()
        right.same_losses(bench, found, name)
        assert found.status == status
    with pytest.raises(AssertionError, match="2 losses without, 1 with it"):
        right.same_losses(bench, Outcome(), "short")


# ---- fast ----


def test_one_that_fails_does_not_stop_the_others(bench, monkeypatch):
    def measure(build, device, compiles, seconds):
        if build.args[0] == "diffusers":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return measuring.Speed(1, 2, 1.0, 1.0, 1.0, 1e12)

    monkeypatch.setattr(fast, "measure", measure)
    found = Outcome()
    with pytest.raises(RuntimeError, match="diffusers, eager: OutOfMemoryError: CUDA out of memory"):
        fast.CHECKS["dit_130m"](bench, found)
    assert [(row["library"], row["mode"]) for row in found.rows] == [
        ("diffusion-lab", "eager"),
        ("diffusion-lab", "compiled"),
    ]


def test_what_has_no_time_left_is_left_out(bench):
    bench.ends = 0.0
    found = Outcome()
    fast.CHECKS["dit_130m"](bench, found)
    assert not found.rows and "diffusers, compiled: no time left" in found.notes


@pytest.mark.parametrize(("room", "expected"), [(1, 2), (7, 4), (8, 8), (1000, 64)])
def test_the_largest_batch(bench, monkeypatch, room, expected):
    """The one that was asked for first is taken to fit."""

    def step(side, dtype):
        if side > room:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(measuring, "take_step", step)
    monkeypatch.setattr(measuring.gc, "collect", lambda: None)  # which takes half a second here
    assert measuring.largest(lambda n: n, bench.device, 2, 64) == expected


def test_images_per_second_and_share_of_peak():
    """64 images in half a second, of 1 TFLOP each 64, where the peak is 10 TFLOP/s."""
    row = measuring.Speed(1_000_000, 64, 3.0, 0.5, 2e9, 1e12).row("ours", "eager", 10e12)
    assert row["images/s"] == 128 and row["of peak, %"] == pytest.approx(20) and row["memory, GB"] == 2


def test_goals_are_judged_with_the_optimizer_of_the_peer():
    found, one = Outcome(), measuring.Speed(1, 2, 1.0, 1.0, 1.0, 1e12)
    speeds = {
        ("diffusion-lab", "eager"): one,
        ("diffusion-lab, AdamW", "eager"): fast.replace(one, step=0.5),
        ("diffusers", "eager"): fast.replace(one, step=0.9),
    }
    fast.goals(found, "dit_130m", speeds, 4e12)
    assert [figure.value for figure in found.figures] == pytest.approx([1.8, 50.0])
    assert found.status == PASSED


def test_the_step_of_a_peer_trains_it():
    """Its loss is that of its own schedule, and weights and average move."""
    side = measuring.make("diffusers", MODELS["dit_130m"], MODELS["dit_130m"].config(True), 2, Device(), True)
    before = [p.detach().clone() for p in side.parameters]
    for _ in range(3):
        measuring.take_step(side, torch.bfloat16)
    assert any(not torch.equal(a, b) for a, b in zip(before, side.parameters, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, side.ema.shadow_params, strict=True))


@pytest.mark.parametrize(
    ("name", "ours", "theirs"), [("mnist_ddpm", 1.18, 0.99), ("unet_53m", 53.2, 52.8), ("dit_130m", 130, 138)]
)
def test_models_are_of_the_size_that_is_said(name, ours, theirs):
    """Millions of parameters."""
    model, meta = MODELS[name], torch.device("meta")
    with meta:
        peer = model.peer(False)
    nets = (right.build_denoiser(model.config(False), meta).net, peer)
    assert [sum(p.numel() for p in net.parameters()) / 1e6 for net in nets] == pytest.approx([ours, theirs], rel=0.02)


@SLOW
@pytest.mark.parametrize("name", ["dit_130m", warm.COMPILED_SAMPLING])
def test_compilation_beforehand(tmp_path, unchecked, name):
    request = {"name": name, "who": "diffusers", "device": "cpu", "tiny": True, "answer": str(tmp_path / "answer")}
    (tmp_path / "request").write_text(json.dumps(request))
    warm.main([str(tmp_path / "request")])
    answer = json.loads((tmp_path / "answer").read_text())
    assert answer["seconds"] > 0 and answer["batch"] == (0 if name == warm.COMPILED_SAMPLING else 2)


def test_the_loop_is_timed_between_two_steps(bench):
    """And what was entered before a step is left before another."""
    seen = []

    class Trainer:
        global_step = 0

    between = loop.Between(2, 4, lambda: seen.append("enter") or (lambda: seen.append("leave")))
    for step in range(6):
        Trainer.global_step = step
        between.on_train_batch_start(Trainer)
        seen.append(step)
    assert seen == [0, 1, "enter", 2, 3, "leave", 4, 5]


def test_samples_are_drawn_in_one_batch(bench):
    pipeline = sampling.build(bench.device, True, None)
    assert len(pipeline.cond) == pipeline.batch_size == 2
    assert sampling.draw(pipeline, bench.device) > 0


# ---- plan and good ----


@pytest.mark.parametrize(
    ("name", "memory", "file"),
    [
        ("NVIDIA H100 80GB HBM3", 85e9, "h100"),
        ("NVIDIA H200", 150e9, "h200"),
        ("NVIDIA A100-SXM4-80GB", 85e9, "a100"),
        ("NVIDIA A100-PCIE-40GB", 42e9, "a100_40gb"),
        ("Tesla T4", 15.8e9, "t4"),
        ("NVIDIA GeForce RTX 4090", 25e9, "rtx4090"),
        ("NVIDIA L40S", 48e9, "l40s"),
        ("NVIDIA B200", 190e9, "b200"),
        ("NVIDIA GeForce RTX 3060", 12e9, None),
    ],
)
def test_the_plan_of_a_device(name, memory, file):
    assert plan_of(name, memory) == file


def test_classes_of_drawn_images_differ(tmp_path):
    folder = good.draw_images(tmp_path / "images", 8)
    assert [len(list((folder / part).iterdir())) for part in ("train", "test")] == [good.CLASSES] * 2
    assert len(list(folder.rglob("train/*/*.png"))) == 80
    pictures = {file.read_bytes() for file in folder.rglob("*.png")}
    assert len(pictures) == len(list(folder.rglob("*.png")))


def test_the_curve_of_quality(tmp_path):
    """A distance belongs to the seconds that were logged last."""
    header = "step,train/seconds,quality/frechet_distance,quality/real_baseline"
    (tmp_path / "metrics.csv").write_text(f"{header}\n20,1.5,,\n25,2.0,,\n25,,9.0,0.5\n40,3.5,,\n50,,0.9,0.5\n")
    points = good.curve(tmp_path, Outcome(), "mnist_ddpm")
    assert [(p["seconds"], p["distance"]) for p in points] == [(2.0, 9.0), (3.5, 0.9)]
    (tmp_path / "metrics.csv").write_text(f"{header}\n20,1.5,,\n")
    with pytest.raises(RuntimeError, match="measured no distance"):
        good.curve(tmp_path, Outcome(), "mnist_ddpm")
