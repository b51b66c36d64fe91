"""Every setting of every command, experiment and choice with values that are mistakes: each is refused in one line."""

import math

import pytest
from hydra.core.hydra_config import HydraConfig

from tests.helpers import composing
from tests.helpers import config_walk as walk
from tests.test_configs import COMMAND, FILES, words_for

COMMANDS = [(command, ()) for command in walk.OPTIONS]
# Names that may look like numbers; what the run itself judges, its labels and the widths of its averages; and what
# another judges: the units, the library diffusers, and the jobs of a sweep.
FREE = (
    "guidance.guide_model.weights",
    "loss.teacher.weights",
    "data.units.",
    "net.config.",
    "sweep.steps.",
    "guidance.sigma_max",
    "logger.wandb.",
    "logger.mlflow.",
    "logger.lightning.",
    "logger.tensorboard.version",
    "label",
    "weights",
    "data.subfolder",
)


@pytest.fixture(autouse=True)
def hydra(monkeypatch, tmp_path):
    """Compose as a command does, with a run folder."""
    compose = walk.compose

    def as_a_command(name, words):
        cfg = compose(name, [*words, f"hydra.run.dir={tmp_path}"], return_hydra_config=True)
        cfg.hydra.runtime.output_dir = str(tmp_path)
        HydraConfig.instance().set_config(cfg)
        return composing.without_hydra(cfg)

    monkeypatch.setattr(walk, "compose", as_a_command)
    with composing.hydra():
        yield


def wrongly_accepted(configs) -> tuple[int, int, list[str]]:
    """How many trials were made, how many refused, and those that pass though no setting of the kind can be so."""
    tried = refused = 0
    wrong = []
    for trial in walk.trials(configs):
        tried += 1
        message = trial.refusal()
        if message is not None:
            refused += 1
            assert "\n" not in message and len(message) < 400, message
        elif not trial.path.startswith(FREE) and not may_pass(trial.value, trial.was):
            wrong.append(str(trial))
    return tried, refused, wrong


def may_pass(value, was) -> bool:
    """Whether a value can be right where another stood: not a name for a number, nor what is not finite."""
    if isinstance(was, bool):
        return value is None
    if isinstance(was, int | float):
        return value in (-1, 0, 1e30, None) or (value == math.inf and was == math.inf)
    if isinstance(was, str):
        return not isinstance(value, float) and value not in (0, -1)
    return not (isinstance(value, float) and math.isnan(value))


def test_every_setting_of_the_commands():
    tried, refused, wrong = wrongly_accepted(COMMANDS)
    assert not wrong and tried > 900 and refused > 0.75 * tried


@pytest.mark.slow
def test_every_setting_of_every_choice():
    files = sorted(FILES, key=lambda file: file[0] != "experiment")
    configs = [*COMMANDS, *((COMMAND.get(group, "train"), tuple(words_for(group, name))) for group, name in files)]
    tried, refused, wrong = wrongly_accepted(list(dict.fromkeys(configs)))
    assert not wrong and tried > 3000 and refused > 0.75 * tried
