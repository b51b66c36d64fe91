"""What a step is said to take, against closed forms and a step in earnest."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.singleton import Singleton
from torch.profiler import ProfilerActivity, profile

import src.runs.folders  # noqa: F401 - has the resolvers
from src.commands.config import drop_incompatible_keys
from src.commands.plan.profile import build_module, dtypes, make_step, profile_step
from src.utils.errors import UserError
from src.utils.paths import CONF

DIGITS, CPU = (1, 8, 8), torch.device("cpu")


@pytest.fixture
def settings(tmp_path):
    """`settings(*words)`: the config of the digits."""
    before = Singleton.get_state()

    def composed(*words):
        words = ["experiment=digits_ddpm", *words, "name=x", f"hydra.run.dir={tmp_path}", f"paths.run={tmp_path}"]
        cfg = compose("train", words)
        drop_incompatible_keys(cfg, words)
        return cfg

    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield composed
    Singleton.set_state(before)


def test_a_transformer_in_closed_form(settings):
    """Every product of a DiT, forward and, but for those with the data, twice backward, on each device."""
    w, depth, patch = 16, 2, 2
    words = ["net=dit", f"net.width={w}", f"net.depth={depth}", f"net.patch_size={patch}", "net.num_heads=2"]
    cfg = settings(*words, "trainer.precision=32-true")
    parameters = sum(p.numel() for p in build_module(cfg).denoiser.parameters())
    n = (8 // patch) ** 2
    stem, noise = n * patch**2 * w, w * w
    block = n * (3 + 1 + 4 + 4) * w * w + 2 * n * n * w + 3 * 2 * w * w  # dense layers, attention, gates and norms
    head = 2 * w * w + n * w * patch**2
    for on_gpu in (False, True):
        costs = profile_step(build_module(cfg, fake=True), DIGITS, 5, "32-true", on_gpu)
        assert costs.forward == 2 * (stem + 2 * noise + depth * block + head)
        assert costs.training == 3 * costs.forward - 2 * stem - 2 * noise
        assert (costs.parameters, costs.gradients) == (parameters, 4 * parameters)
        assert costs.optimizer == pytest.approx(8 * parameters, rel=0.01), "two moments of Adam, and counters"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "precision"),
    [
        (["net.width=16", "net.attention_levels=[0]"], "bf16-mixed"),
        pytest.param(["net=dit", "net.depth=2"], "32-true", marks=pytest.mark.slow),
        pytest.param(["net=cnn", "net.depth=2", "net.dilations=[1]"], "bf16-mixed", marks=pytest.mark.slow),
    ],
    ids=["unet", "dit", "cnn"],
)
def test_the_peak_of_a_step_in_earnest(settings, words, precision):
    """As the profiler sees it, to 8 %: what an operation needs for itself alone is not known, nor what it saves."""
    cfg, n = settings(*words, f"trainer.precision={precision}"), 24
    costs = profile_step(build_module(cfg, fake=True), DIGITS, n, precision, on_gpu=False)
    step = make_step(build_module(cfg), DIGITS, n, precision, CPU)
    step()  # which makes the state of the optimizer
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    now = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    assert costs.peak == pytest.approx(peak, rel=0.08)
    assert costs.activations < peak


def test_half_as_much_is_kept_in_half_precision(settings):
    kept, cfg = {}, settings("net=mlp", "net.width=64", "net.depth=2", "trainer.precision=32-true")
    for precision in ("32-true", "bf16-mixed"):
        kept[precision] = profile_step(build_module(cfg, fake=True), DIGITS, 1000, precision, False).activations
    assert 0.4 < kept["bf16-mixed"] / kept["32-true"] < 0.8


@pytest.mark.strength(1)
@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        ["net=cnn", "net.width=16", "net.depth=4"],
        pytest.param(["net=dit", "net.width=32", "net.depth=3"], marks=pytest.mark.slow),
        pytest.param(["net.width=16"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_checkpointing_exchanges_memory_for_compute(settings, words, on_gpu):
    """The blocks are evaluated once more, which is nearly an evaluation of the net; more images fit."""
    precision = "bf16-mixed"
    configs = (settings(*words, f"net.checkpoint={x}", f"trainer.precision={precision}") for x in ("false", "true"))
    plain, again = (profile_step(build_module(cfg, fake=True), DIGITS, 64, precision, on_gpu) for cfg in configs)
    assert again.activations < 0.4 * plain.activations and again.image < 0.6 * plain.image
    assert again.peak < plain.peak
    assert 0.4 * plain.forward < again.training - plain.training <= plain.forward
    assert again.forward == plain.forward and again.parameters == plain.parameters


@pytest.mark.slow
def test_self_conditioning_costs_a_share_of_an_evaluation(settings):
    cfg = settings("net=mlp", "net.depth=2", "trainer.precision=32-true", "self_conditioning_prob=0.5")
    costs = profile_step(build_module(cfg, fake=True), DIGITS, 2, "32-true", False)
    cfg.self_conditioning_prob = 0
    plain = profile_step(build_module(cfg, fake=True), DIGITS, 2, "32-true", False)
    stem = 2 * (costs.forward - plain.forward)  # reads twice the channels, and its weights have a gradient
    assert costs.training == pytest.approx(plain.training + stem + 0.5 * costs.forward)


def test_precisions():
    assert dtypes("bf16-mixed") == (torch.float32, torch.bfloat16) == dtypes("bf16")
    assert dtypes("16-mixed") == (torch.float32, torch.float16)
    assert dtypes(32) == dtypes("32-true") == (torch.float32, None)
    assert dtypes("bf16-true") == (torch.bfloat16, None)
    with pytest.raises(UserError, match="transformer-engine"):
        dtypes("transformer-engine")


@pytest.mark.parametrize("loss", ["progressive", pytest.param("consistency_training", marks=pytest.mark.slow)])
def test_evaluations_without_a_gradient_are_counted(settings, loss):
    """Those of the targets of a flow map, beside the prediction, whose backward pass is that of a denoiser."""
    targets = {"progressive": 2, "consistency_training": 1}[loss]
    words = ["net=mlp", "net.width=32", "net.depth=2", "trainer.precision=32-true", f"loss={loss}"]
    few, every = (
        profile_step(
            build_module(settings(*words, f"loss.off_diagonal={share}"), fake=True), DIGITS, 8, "32-true", False
        )
        for share in (0, 1)
    )
    assert few.validation == few.forward and every.validation == (1 + targets) * few.forward
    assert every.training == few.training + targets * few.forward
