"""The ready sweeps in conf/sweep name choices that there are, of the command that they are for."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf

from src.commands.sweep.callback import make_plan
from src.utils.paths import CONF

READY = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def hydra():
    before = Singleton.get_state()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    Singleton.set_state(before)


def sweep(name: str, *words: str, command: str = "train"):
    return compose(command, [f"sweep={name}", *words], return_hydra_config=True)


@pytest.mark.parametrize("name", READY)
def test_its_choices_are_there_and_it_says_what_it_is(name):
    cfg = sweep(name)
    assert cfg.hydra.mode.name == "MULTIRUN"
    params = [f"{key}={value}" for key, value in cfg.hydra.sweeper.params.items()]
    for override in OverridesParser.create().parse_overrides(params):
        group = CONF / override.get_key_element()
        if group.is_dir():
            choices = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
            assert {f"{choice}.yaml" for choice in choices} <= {path.name for path in group.iterdir()}
        else:
            assert OmegaConf.select(cfg, override.get_key_element()) is not None
    assert (CONF / f"sweep/{name}.yaml").read_text().splitlines()[1].startswith("# ")


@pytest.mark.parametrize(("name", "words"), [("schedules", ["schedule=linear,flow"]), ("optuna", ["schedule=flow"])])
def test_the_command_line_comes_first(name, words):
    cfg = sweep(name)
    cfg.hydra.overrides.task = words
    jobs = make_plan(cfg).jobs
    assert jobs == ([] if name == "optuna" else [["schedule=linear"], ["schedule=flow"]])


def test_experiments_take_the_place_of_mnist():
    assert sweep("schedules", "experiment=digits_ddpm").hydra.runtime.choices.experiment == "digits_ddpm"
    assert sweep("schedules").hydra.runtime.choices.experiment == "mnist_ddpm"


def test_schedules_are_those_that_v_can_be_predicted_on():
    """All but those that only add noise, and the one that is learned with a loss of its own."""
    listed = set(sweep("schedules").hydra.sweeper.params.schedule.split(","))
    assert {path.stem for path in (CONF / "schedule").glob("*.yaml")} - listed == {
        "ve_sde",
        "edm",
        "additive",
        "learned",
    }


def test_samplers_are_for_runs_that_are_there():
    assert sweep("samplers", "run=nowhere", command="evaluate").hydra.sweeper.params.sampler.count(",") == 10
