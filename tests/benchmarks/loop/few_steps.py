"""A training step of each loss of a flow map beside one of the denoising loss, with the same net on the same data."""

import statistics
from collections.abc import Callable, Iterator
from itertools import islice

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from src.commands.cli import choices
from src.commands.plan.counting import MemoryTracker
from src.diffusion.teacher import Teacher
from src.runs.loading import build_denoiser
from src.utils.paths import CONF
from tests.benchmarks.loop.loops import SKIP, noise, plain_loop, plain_steps
from tests.benchmarks.loop.page import Figure


def few_steps(compose: Callable[[str], DictConfig], rounds: int, seconds: float) -> Iterator[Figure]:
    """Time and memory of a step, by the plain loop, with untrained weights.

    Args:
        compose: gives the config with a loss.
        rounds: turns of each loss and the denoising loss.
        seconds: of each loop in a turn.
    """
    plain = compose("mse")
    batches = [noise(plain)]
    trial = statistics.median(plain_loop(plain, batches, SKIP + 3))
    steps = SKIP + max(3, min(100, round(seconds / trial)))
    plain_peak = peak(plain)
    memory = []
    for name, needs_teacher in losses().items():
        cfg = compose(name)
        if needs_teacher:
            cfg.loss.teacher = {"_target_": f"{__name__}.untrained_teacher", "config": OmegaConf.to_yaml(plain)}
        figure = Figure(f"training step, `loss={name}`", "`loss=mse`", "ms", [], [])
        for _ in range(rounds):
            figure.theirs.append(statistics.median(plain_loop(plain, batches, steps)))
            figure.ours.append(statistics.median(plain_loop(cfg, batches, steps)))
        yield figure
        memory.append(Figure(f"memory of a step, `loss={name}`", "`loss=mse`", "MiB", [peak(cfg)], [plain_peak]))
    yield from memory


def losses() -> dict[str, bool]:
    """The losses of a flow map, and whether they need a teacher."""
    classes = {name: get_class(OmegaConf.load(CONF / "loss" / f"{name}.yaml")._target_) for name in choices("loss")}
    return {name: loss.needs_teacher for name, loss in classes.items() if getattr(loss, "trains_flow_map", False)}


def untrained_teacher(config: str) -> Teacher:
    """A teacher with the net of a config, as costly as a trained one."""
    return Teacher(build_denoiser(OmegaConf.create(config)))


def peak(cfg: DictConfig) -> float:
    """MiB of the tensors that a step makes, gradients included, at most at once."""
    walk = plain_steps(cfg, [noise(cfg)])
    list(islice(walk, SKIP))
    with MemoryTracker() as tracker:
        next(walk)
    return tracker.peak / 2**20
