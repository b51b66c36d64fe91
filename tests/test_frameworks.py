"""A framework is its paper's bundle of parts, on any data, and replaces what the experiment says of them."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.utils.paths import CONF
from tests.test_configs import compose_config, hydra  # noqa: F401 - a fixture

FRAMEWORKS = sorted(path.stem for path in (CONF / "framework").glob("*.yaml"))
PARTS = {"schedule", "parameterization", "variance", "weighting", "time_sampler", "loss", "sampler", "time_grid"}


def choices(framework: str) -> dict[str, str]:
    """The part that a framework chooses in each group."""
    file = OmegaConf.load(CONF / "framework" / f"{framework}.yaml")
    return {name.removeprefix("override /"): choice for entry in file.defaults for name, choice in entry.items()}


def as_chosen_one_by_one(framework: str, data: str) -> dict:
    """The parts when each is named on the command line, with the framework's own numbers."""
    file = OmegaConf.load(CONF / "framework" / f"{framework}.yaml")
    numbers = [f"{group}.{key}={file[group][key]}" for group in file if group != "defaults" for key in file[group]]
    words = [f"{group}={choice}" for group, choice in choices(framework).items()]
    cfg = compose_config("~experiment", "++name=x", f"data={data}", *words, *numbers)
    return {group: OmegaConf.to_container(cfg[group], resolve=True) for group in PARTS}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_framework_chooses_the_same_parts(framework):
    """One that left a part to the experiment would train another model with each of them."""
    assert choices(framework).keys() == PARTS


EXPERIMENTS = [
    ("sine", "sine_ddpm"),
    ("mnist", "mnist_ddpm"),
    ("mnist", "mnist_edm"),
    ("gaussian_mixture", "mixture_ncsn"),
]


@pytest.mark.parametrize(
    ("framework", "data", "experiment"),
    [
        # Each with one of them; `make test-all` has every framework with every experiment.
        pytest.param(framework, *EXPERIMENTS[j], marks=() if (i + j) % 4 == 0 else pytest.mark.slow)
        for i, framework in enumerate(FRAMEWORKS)
        for j in range(4)
    ],
)
def test_a_framework_replaces_the_parts_of_any_experiment(framework, data, experiment):
    cfg = compose_config(f"experiment={experiment}", f"framework={framework}")
    found = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in PARTS}
    clip = found["sampler"].pop("clip")
    expected = as_chosen_one_by_one(framework, data)
    assert expected["sampler"].pop("clip")["_target_"].startswith("src.samplers.clipping") and clip
    assert found == expected


def test_the_command_line_comes_before_the_framework():
    words = ["framework=edm", "sampler.steps=7", "time_sampler=uniform", "parameterization.sigma_data=0.3"]
    cfg = compose_config("experiment=mnist_edm", *words)
    assert cfg.sampler.steps == 7 and cfg.parameterization.sigma_data == 0.3
    assert cfg.time_sampler._target_.endswith(".UniformTimeSampler")


def test_a_part_on_the_command_line_takes_its_own_numbers():
    """Not those that the framework has for the part that it replaces."""
    cfg = compose_config("experiment=mnist_ddpm", "framework=ddpm", "sampler=heun")
    assert cfg.sampler.steps == OmegaConf.load(CONF / "sampler/heun.yaml").steps != 1000
    assert compose_config("framework=ddpm", "sampler=heun", "sampler.steps=9").sampler.steps == 9


@pytest.mark.parametrize("experiment", ["sine_ddpm", "mnist_ncsn", "mixture_ncsn"])
def test_settings_that_follow_others_still_do(experiment):
    cfg = compose_config(f"experiment={experiment}", "framework=ncsn", "schedule.steps=33")
    assert cfg.sampler.steps == cfg.time_sampler.steps == 33


def test_an_experiment_adds_to_its_framework_what_the_data_need():
    cfg = compose_config("experiment=mnist_edm")
    assert cfg.parameterization.sigma_data == 0.6 and cfg.time_sampler.mean == -0.4 and cfg.sampler.steps == 18


def test_ddpm_is_the_paper():
    """Ho et al. 2020, section 4 and algorithms 1 and 2: T = 1000, betas from 1e-4 to 0.02."""
    cfg = compose_config("data=mnist", "framework=ddpm")
    schedule = instantiate(cfg.schedule)
    k = torch.arange(1001, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(k / 1000)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
    torch.testing.assert_close(alpha.square(), alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma.square(), 1 - alpha_bar, rtol=1e-9, atol=1e-12)
    times = instantiate(cfg.time_sampler)(10_000, torch.Generator().manual_seed(0), schedule)
    assert (times * 1000).round().unique().numel() > 990 and torch.equal((times * 1000).round() / 1000, times)
    weight = instantiate(cfg.weighting)(schedule, times)  # of the error of x_0: 1 in that of the noise
    torch.testing.assert_close(
        weight * schedule.alpha_sigma(times)[1] ** 2 / schedule.alpha_sigma(times)[0] ** 2,
        torch.ones(10_000, dtype=torch.float64),
    )
    assert cfg.sampler.steps == 1000 and cfg.clip.bound == 1.0
    assert [cfg[part]._target_.split(".")[-1] for part in ("parameterization", "sampler", "loss")] == [
        "Eps",
        "DDPM",
        "MSE",
    ]
