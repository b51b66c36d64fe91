"""Every YAML file in conf/ composes, passes the check, and makes what it describes."""

import copy
import os
import re
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

import src.runs.folders  # noqa: F401 - registers the resolvers that conf/ uses
from src.callbacks.checkpoint import BestLastCheckpoint
from src.callbacks.ema_snapshots import EMASnapshots
from src.callbacks.graceful_stop import GracefulStop
from src.callbacks.progress import Progress
from src.callbacks.sample_images import SampleImages
from src.commands.cli import to_container
from src.commands.config import drop_incompatible_keys
from src.commands.plan.device import Plan
from src.data.base import DataModule
from src.data.digits import Digits
from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.conditions import Condition
from src.diffusion.denoiser import Prediction
from src.diffusion.losses import Loss
from src.diffusion.noise_samplers import GaussianNoiseSampler
from src.diffusion.operators import Mask
from src.diffusion.parameterizations import Parameterization
from src.diffusion.schedules import Schedule
from src.diffusion.time_samplers import TimeSampler
from src.diffusion.variances import Variance
from src.formats.base import Format
from src.metrics.base import Metric
from src.metrics.features.base import ReferenceData
from src.module import DiffusionModule
from src.optim.ema import EMA
from src.runs.check_config import check_config
from src.runs.loading import build_denoiser
from src.samplers.ancestral import DDIM
from src.samplers.base import Sampler
from src.samplers.pipeline import Pipeline
from src.tasks.base import Task
from src.utils.errors import UserError
from src.utils.paths import resolve_strings
from src.utils.signatures import parameters as parameters_of
from src.utils.units import Kind
from tests.diffusion.reference import Oracle
from tests.helpers import composing, text_encoder

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = {
    folder.name: sorted(p.stem for p in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name != "hydra"  # launchers and sweepers: tests/commands/sweep, tests/end_to_end
}
FILES = [(group, name) for group in sorted(GROUPS) for name in GROUPS[group]]
# Made together, one choice of each group at a time, as a command line may: words before them, and the groups.
TOGETHER = {
    "train": [
        ("experiment=sine_ddpm", ["callbacks", "debug", "framework", "logger", "net", "plan", "trainer"]),
        (
            "experiment=mnist_ddpm",
            [
                "clip",
                "condition",
                "ema",
                "guidance",
                "loss",
                "lr_schedule",
                "net",
                "noise_sampler",
                "optimizer",
                "parameterization",
                "sampler",
                "schedule",
                "time_grid",
                "time_sampler",
                "variance",
                "weighting",
            ],
        ),
    ],
    "sample": [("n=8", ["clip", "guidance", "inverse_solver", "sampler", "task", "time_grid", "variance"])],
    "evaluate": [("n=99", ["features"])],
    "export": [("n=1", ["format"])],
}
# What a choice makes no sense without.
NEEDS = {
    ("condition", "combined"): ["+condition@condition.parts.labels=labels"],
    ("condition", "gray"): ["condition.channels=3"],
    ("condition", "image"): ["condition.shape=[1,14,14]", "net=unet"],
    ("condition", "pretrained_text"): ["condition.length=8", "condition.encoder.folder=nowhere", "net=unet"],
    ("condition", "text"): ["condition.length=8", "net=unet"],
    ("condition", "known_part"): ["net=unet"],
    ("condition", "vector"): ["condition.size=2"],
    ("data", "array"): [
        "experiment=array_ddpm",
        "data.root=nowhere",
        "data.channels=2",
        "data.size=[8]",
        "data.units={scale:[1],shift:[0]}",
    ],
    ("data", "digits"): ["experiment=digits_ddpm"],
    ("experiment", "mnist_distill"): ["teacher=null"],
    ("data", "fashion_mnist"): ["experiment=mnist_ddpm", "data=fashion_mnist"],
    ("data", "gaussian_field"): ["experiment=volume_ddpm"],
    ("data", "gaussian_mixture"): ["experiment=mixture_ddpm"],
    ("data", "huggingface"): [
        "experiment=digits_ddpm",
        "data=huggingface",
        "data.path=nowhere",
        "data.channels=1",
        "data.size=[8,8]",
        "data.num_classes=0",
        "data.units={scale:[1],shift:[0]}",
    ],
    ("data", "image_folder"): ["experiment=folder_ddpm", "data.root=nowhere"],
    ("data", "image_shards"): ["experiment=folder_ddpm", "data=image_shards", "data.root=nowhere"],
    ("data", "mnist"): ["experiment=mnist_ddpm"],
    ("data", "mnist_angle"): ["experiment=mnist_ddpm", "data=mnist_angle"],
    ("data", "mnist_captions"): ["experiment=mnist_ddpm", "data=mnist_captions"],
    ("data", "sine"): ["experiment=sine_ddpm"],
    ("experiment", "array_ddpm"): [
        "data.root=nowhere",
        "data.channels=2",
        "data.size=[8]",
        "data.units={scale:[1],shift:[0]}",
    ],
    ("experiment", "folder_ddpm"): ["data.root=nowhere"],
    ("guidance", "autoguidance"): ["guidance.guide_model.run=nowhere", "guidance.guide_model.ckpt=step_1"],
    ("guidance", "classifier"): ["+guidance.log_prob._target_=torch.sum"],
    ("net", "diffusers"): [
        "net.model=UNet1DModel",
        "net.config.block_out_channels=[32,64]",
        "net.config.down_block_types=[DownBlock1DNoSkip,AttnDownBlock1D]",
        "net.config.up_block_types=[AttnUpBlock1D,UpBlock1DNoSkip]",
        "+net.config.extra_in_channels=64",
    ],
    ("pretrained", "diffusers"): ["pretrained.path=nowhere"],
    ("pretrained", "lucidrains"): ["pretrained.path=nowhere"],
    ("logger", "lightning"): ["logger.lightning.name=CSVLogger", "logger.lightning.options={save_dir:nowhere}"],
    ("logger", "wandb"): ["logger.wandb.offline=true"],
}
# Nets that do not go with all conditions of these data.
UNFIT = {
    ("experiment=mnist_ddpm", "rnn"),
    ("experiment=mnist_ddpm", "diffusers"),
    ("experiment=mnist_ddpm", "lucidrains"),
}
# Libraries that are not among those of the tests; without one, another choice of the group takes the place.
LIBRARY = {("net", "lucidrains"): ("denoising_diffusion_pytorch", "unet")}
# The groups that belong to another command than `src.train`.
COMMAND = {
    "format": "export",
    "task": "sample",
    "inverse_solver": "sample",
    "metrics": "evaluate",
    "features": "evaluate",
}
FOLDER = f"{os.environ['DIFFUSION_LAB_OUTPUTS']}/run"


@pytest.fixture(autouse=True, scope="module")
def hydra():
    with composing.hydra(), pytest.MonkeyPatch.context() as monkeypatch:
        text_encoder.put_in_place(monkeypatch)
        yield


def compose_config(*words: str, name: str = "train") -> DictConfig:
    """The config as a command has it; composed once, and copied for each who asks."""
    return OmegaConf.create(copy.deepcopy(composed(words, name)))


@cache
def composed(words: tuple[str, ...], name: str) -> dict[str, Any]:
    """As Hydra does it for a command, but for the folder, which it makes only then; and checked as there."""
    cfg = compose(name, [*words, f"hydra.run.dir={FOLDER}"], return_hydra_config=True)
    cfg.hydra.runtime.output_dir = FOLDER
    HydraConfig.instance().set_config(cfg)
    if name == "train":
        drop_incompatible_keys(cfg, list(words))
    own = composing.without_hydra(cfg)
    resolve_strings(own)
    plain = to_container(own)
    if name == "train" and plain["trainer"]["precision"] == "auto":
        plain["trainer"]["precision"] = "32-true"  # the command knows what the machine does well
    check_config(plain)
    return plain


def words_of_row(command: str, part: int, row: int) -> list[str]:
    """A choice of each group that is made together with others; of those with few choices again the first."""
    first, groups = TOGETHER[command][part]
    fitting = {group: [name for name in GROUPS[group] if (first, name) not in UNFIT] for group in groups}
    chosen = [(group, installed(group, fitting[group][row % len(fitting[group])])) for group in groups]
    return [first, *(f"{group}={name}" for group, name in chosen), *(w for c in chosen for w in NEEDS.get(c, []))]


def installed(group: str, name: str) -> str:
    """The choice, or another where its library is missing."""
    library, other = LIBRARY.get((group, name), (None, name))
    return name if library is None or find_spec(library) else other


def words_for(group: str, name: str) -> list[str]:
    if group == "metrics":
        return ["n=99", f"metrics=[{','.join(GROUPS['metrics'])}]"]
    if group == "data":
        return NEEDS[group, name]
    command = COMMAND.get(group, "train")
    for part, (_, groups) in enumerate(TOGETHER[command]):
        if group in groups:
            return words_of_row(command, part, GROUPS[group].index(name))
    first = [] if group == "experiment" else ["experiment=sine_ddpm"]
    return [*first, f"{group}={name}", *NEEDS.get((group, name), [])]


def check_net(cfg, denoiser=None):
    shape = (cfg.data.channels, *cfg.data.size)
    denoiser = denoiser or build_denoiser(cfg)
    c_noise = torch.zeros(2, 2) if cfg.flow_map else torch.zeros(2)
    output = denoiser.net(torch.zeros(2, *shape), c_noise, denoiser.condition.null(2))
    assert output.shape == (2, denoiser.variance.outputs * cfg.data.channels, *cfg.data.size)


def check_condition(cfg):
    denoiser = build_denoiser(cfg)
    assert isinstance(denoiser.condition, Condition)
    assert getattr(denoiser.net, "num_classes", 0) == denoiser.condition.num_classes


def parameters():
    return [torch.nn.Parameter(torch.zeros(2))]


def check_optimizer(cfg):
    optimizer = instantiate(cfg.optimizer)(parameters())
    assert isinstance(optimizer, torch.optim.Optimizer) and optimizer.param_groups[0]["lr"] == cfg.optimizer.lr


def check_lr_schedule(cfg):
    schedule = instantiate(cfg.lr_schedule)(torch.optim.SGD(parameters(), lr=1.0), 10)
    assert 0 < schedule.get_last_lr()[0] <= 1


HALF = torch.tensor([0.5], dtype=torch.float64)


def check_weighting(cfg):
    weight = instantiate(cfg.weighting)(instantiate(cfg.schedule), HALF)
    assert weight.shape == (1,) and weight > 0


def check_guidance(cfg):
    """Any guidance of a denoiser that says the same whatever the label."""
    if "log_prob" in cfg.guidance:
        cfg.guidance.log_prob = {"_target_": "tests.test_configs.says_nothing", "_partial_": True}
    more = {}
    if "guide_model" in cfg.guidance:
        del cfg.guidance.guide_model
        more = {"guide_model": build_denoiser(cfg), "scale": 1.0}
    guidance, schedule = instantiate(cfg.guidance, **more), instantiate(cfg.schedule)

    def denoise(x_t, t, cond=None):
        return Prediction(x_t)

    x = torch.arange(6.0).view(2, 1, 3)
    said = guidance(denoise, schedule)(x, HALF[0], torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(said.x_0, x)


def says_nothing(x_t, t, label):
    return x_t.flatten(1).sum(1) * 0


def check_grid(cfg):
    times = instantiate(cfg.time_grid)(instantiate(cfg.schedule), 7, 1.0)
    assert len(times) == 8 and times[-1] == 0 and (times.diff() < 0).all()
    assert times[0] == 1 or ("leading" in str(cfg.time_grid._target_) and times[0] > 0.8)


def check_clip(cfg):
    x = torch.linspace(-0.5, 0.5, 6).view(2, 3)
    assert torch.equal(instantiate(cfg.clip)(x), x)


def check_trainer(cfg):
    if cfg.trainer.accelerator in ("cpu", "auto") and not OmegaConf.is_config(cfg.trainer.strategy):
        assert instantiate(cfg.trainer, precision="32-true").max_steps == cfg.trainer.max_steps


def check_callbacks(cfg):
    made = [instantiate(callback) for callback in cfg.callbacks.values()]
    for kind in (GracefulStop, Progress, SampleImages, BestLastCheckpoint, EMASnapshots):
        assert sum(isinstance(callback, kind) for callback in made) == 1


def check_logger(cfg):
    """Made; or, for want of its package, it says what to install."""
    for logger in cfg.logger.values():
        try:
            assert isinstance(instantiate(logger), pl.loggers.Logger)
        except InstantiationException as error:
            assert "pip install mlflow" in str(error)


def check_whole(cfg):
    denoiser = build_denoiser(cfg)
    assert isinstance(instantiate(cfg.module)(denoiser=denoiser), DiffusionModule)
    check_net(cfg, denoiser)
    for check in (check_optimizer, check_lr_schedule, check_callbacks):
        check(cfg)


def check_is(group, kind, cfg, **arguments):
    made = instantiate(cfg[group], **arguments)
    assert isinstance(made, kind)


def check_inverse_solver(cfg):
    """Finds ones where they are known to be, in normal data."""
    schedule = CosineSchedule()

    def denoise(x_t, t, cond=None):
        alpha, sigma = schedule.alpha_sigma(t)
        return alpha * x_t / (alpha**2 + 4 * sigma**2)

    model = Pipeline(Oracle(denoise, schedule), DDIM(schedule, 50), (1, 8))
    known = torch.tensor([1.0] * 4 + [0.0] * 4).view(1, 1, 8)
    x = instantiate(cfg.inverse_solver)(model, range(64), Mask(known), known.expand(64, 1, 8), 0.0)
    assert x.shape == (64, 1, 8) and (x[:, :, :4] - 1).square().mean() < 0.7


def check_metric(name, cfg):
    metric = instantiate(cfg.metrics[name])
    assert isinstance(metric, Metric) and set(metric.kinds) <= set(get_args(Kind))


def check_features(cfg):
    """Made of digits, in a hurry; those of ImageNet, for want of them, say what to install."""
    data = Digits(num_classes=10)
    data.setup()
    make = instantiate(cfg.features, epochs=1, lr=1e-3) if "epochs" in cfg.features else instantiate(cfg.features)
    try:
        assert make(ReferenceData(data, make)).test.shape[0] == len(data.test_set)
    except UserError as error:
        assert "torch-fidelity" in str(error)


def check_sampler(cfg):
    sampler = instantiate(cfg.sampler)(schedule=instantiate(cfg.schedule))
    assert isinstance(sampler, Sampler) and sampler.steps == cfg.sampler.steps


def check_sweep(cfg):
    """A whole run as a job has it; tests/commands/sweep/test_ready.py looks at what is swept."""
    assert isinstance(instantiate(cfg.module)(denoiser=build_denoiser(cfg)), DiffusionModule)


def check_plan(cfg):
    assert isinstance(instantiate(cfg.plan), Plan)


def check_ema(cfg):
    ema, net = instantiate(cfg.ema), torch.nn.Linear(2, 2)
    assert isinstance(ema(net), EMA)
    assert all(0 <= ema(net).decay_at(step) < 1 for step in (1, 2, 1000))


def check_time_embedding(cfg):
    """Made by its width; and the net that is built has it."""
    c, kind = torch.tensor([1.0, 500.0]), get_object(cfg.time_embedding._target_)
    assert instantiate(cfg.time_embedding)(6)(c).shape == (2, 6)
    assert sum(isinstance(part, kind) for part in instantiate(cfg.net).modules()) == 1


def check_pretrained(cfg):
    """Its file is missed; tests/end_to_end/test_pretrained.py has one."""
    with pytest.raises(InstantiationException, match="there is no nowhere"):
        instantiate(cfg.pretrained)


CHECKS = {
    "pretrained": check_pretrained,
    "format": partial(check_is, "format", Format),
    "callbacks": check_callbacks,
    "clip": check_clip,
    "condition": check_condition,
    "data": partial(check_is, "data", DataModule),
    "debug": check_whole,
    "ema": check_ema,
    "time_embedding": check_time_embedding,
    "features": check_features,
    "experiment": check_whole,
    "framework": check_whole,
    "time_grid": check_grid,
    "guidance": check_guidance,
    "logger": check_logger,
    "loss": partial(check_is, "loss", Loss),
    "lr_schedule": check_lr_schedule,
    "inverse_solver": check_inverse_solver,
    "net": check_net,
    "noise_sampler": partial(check_is, "noise_sampler", GaussianNoiseSampler),
    "optimizer": check_optimizer,
    "parameterization": partial(check_is, "parameterization", Parameterization),
    "plan": check_plan,
    "sampler": check_sampler,
    "schedule": partial(check_is, "schedule", Schedule),
    "sweep": check_sweep,
    "task": partial(check_is, "task", Task),
    "time_sampler": partial(check_is, "time_sampler", TimeSampler),
    "trainer": check_trainer,
    "variance": partial(check_is, "variance", Variance),
    "weighting": check_weighting,
}


def choice(group: str, name: str):
    return pytest.param(group, name, id=f"{group}={name}")


@pytest.mark.parametrize(("group", "name"), [choice(*file) for file in FILES])
def test_every_file(group, name):
    """With other groups' choices, in an experiment that it fits; what needs a GPU is composed and checked only."""
    if installed(group, name) != name:
        pytest.skip(f"{LIBRARY[group, name][0]} is not installed")
    cfg = compose_config(*words_for(group, name), name=COMMAND.get(group, "train"))
    if target := OmegaConf.load(CONF / group / f"{name}.yaml").get("_target_"):
        assert cfg[group]._target_ == target, "this one was chosen"
    if group == "metrics":
        check_metric(name, cfg)
    elif group in CHECKS:
        CHECKS[group](cfg)
    else:
        pytest.fail(f"conf/{group} is new: say above what its files make")


@pytest.mark.parametrize(
    ("command", "part", "row"),
    [
        (command, part, row)
        for command, parts in TOGETHER.items()
        for part, (_, groups) in enumerate(parts)
        for row in range(max(len(GROUPS[group]) for group in groups))
    ],
)
def test_parts_are_exchangeable(command, part, row):
    """What a sweep over an experiment needs: any choice of these fits, whatever the experiment has set."""
    composed(tuple(words_of_row(command, part, row)), command)


def test_another_net_takes_its_own_numbers():
    """And what the experiment says of labels and rates; what the command line says comes first."""
    cfg = compose_config("experiment=mnist_conditional", "net=dit", "net.depth=2", "optimizer=adam")
    own, experiment = (OmegaConf.load(CONF / file) for file in ("net/dit.yaml", "experiment/mnist_ddpm.yaml"))
    assert (cfg.net.width, cfg.net.patch_size, cfg.net.depth) == (own.width, own.patch_size, 2)
    assert cfg.condition.num_classes == 10 and cfg.net.size == [28, 28] and cfg.optimizer.lr == experiment.optimizer.lr
    assert cfg.net.time_embedding._target_.endswith("SinusoidalEmbedding")
    same = compose_config("experiment=folder_ddpm", "data.root=nowhere", "net=unet")
    assert same.net.channel_mults == [1, 2, 2], "the experiment's own net keeps its numbers, though named"


@pytest.mark.parametrize("command", sorted({path.stem for path in CONF.glob("*.yaml")} - {"common"}))
def test_every_command(command):
    composed((), command)


def test_one_fact_is_stated_once():
    """Nets take shape and labels from the data; the length of a run and the seed reach all that need them."""
    cfg = compose_config("experiment=mnist_conditional", "data.size=[16,24]", "data.channels=2", "seed=7")
    assert (cfg.net.channels, list(cfg.net.size), cfg.condition.num_classes) == (2, [16, 24], 10)
    assert cfg.data.seed == cfg.module.seed == 7
    assert cfg.module.loss == cfg.loss and cfg.callbacks.sample_images.sampler == cfg.sampler
    assert cfg.callbacks.checkpoint.dirpath == f"{FOLDER}/checkpoints"


@pytest.mark.parametrize("experiment", GROUPS["experiment"])
def test_experiments_say_what_they_are(experiment):
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    assert text.startswith("# @package _global_\n# "), "the second line says what it is"


# What other parts, not users, decide.
FROM_CODE = {
    "encoders",
    "model",
    "measurement",
    "reference",
    "y",
    "dim",
    "schedule",
    "t",
    "steps",
    "start",
    "optimizer",
    "total_steps",
    "in_channels",
    "out_channels",
    "num_classes",
    "second_time",
}
# Those of data are in tests/data.
NOT_ALL_FOR_USERS = (
    "experiment",
    "framework",
    "debug",
    "sweep",
    "plan",
    "callbacks",
    "logger",
    "trainer",
    "optimizer",
    "data",
)
PARTS = [(group, name) for group, name in FILES if group not in NOT_ALL_FOR_USERS]


@pytest.mark.parametrize(("group", "name"), PARTS, ids=[f"{group}={name}" for group, name in PARTS])
def test_keys_that_people_override_are_spelled_out(group, name):
    """No `+` is needed: every argument of a part stands in its file."""
    cfg = OmegaConf.load(CONF / group / f"{name}.yaml")
    cfg = cfg[name] if group == "metrics" else cfg
    found = parameters_of(get_object(cfg._target_)).items()
    arguments = {n for n, p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    left = arguments - set(cfg) - FROM_CODE
    assert not left, f"{left} cannot be set without +"


def test_no_setting_is_empty():
    """Commands refuse an empty setting, which an unset variable of the shell makes, but for parts of Lightning."""
    texts = {str(file): file.read_text() for file in CONF.rglob("*.yaml")}
    empty = {name for name, text in texts.items() if re.search(r"""^[^#]*: *(""|'') *(#|$)""", text, re.M)}
    assert {name for name in empty if "_target_: pytorch_lightning" not in texts[name]} == set()
