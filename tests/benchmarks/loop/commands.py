"""The project's commands as a user starts them, each a process of its own, and what they take."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from src.commands.config import drop_incompatible_keys
from src.utils.hardware import default_precision
from src.utils.paths import CONF

OUTPUTS = Path(os.environ.get("DIFFUSION_LAB_OUTPUTS", "outputs")).absolute()
# No pictures, and one batch of validation, at the end.
NO_OTHER_WORK = ["callbacks.sample_images=null", "trainer.limit_val_batches=1", "trainer.val_check_interval=1000000000"]
DIGITS = ["data.mirrors=[]"]  # nothing is downloaded in a bench: where there is no MNIST, 5,000 of its digits do


class Usage(NamedTuple):
    """What a process took, seconds and its peak memory, and what it said."""

    seconds: float
    mib: float
    said: str


class Trained(NamedTuple):
    """What a run took.

    began: seconds to the end of the first optimizer step.
    step: those of a step, the median.
    mib: peak memory, of all processes together.
    """

    began: float
    step: float
    mib: float


def run(words: Sequence[Any], threads: int | None = None, python: str | Path = sys.executable) -> Usage:
    """Run Python, of this environment or another, with these words.

    Raises:
        SystemExit: where it fails, with the end of what it said.
    """
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    command = [str(python), *map(str, words)]
    launcher = [sys.executable, "-S", str(Path(__file__).with_name("peak.py"))]
    done = subprocess.run([*launcher, *command], capture_output=True, text=True, check=True, env=environment)
    took = json.loads(done.stdout)
    if took.pop("code"):
        raise SystemExit(f"error: {' '.join(command)}\n{took['said'][-2000:]}")
    return Usage(**took)


def train(folder: Path, words: Sequence[str], steps: int, threads: int | None = None) -> Trained:
    """Train into a folder; what its processes saw."""
    folder.mkdir(parents=True)
    watch = ["+callbacks.watch._target_=tests.benchmarks.loop.watch.Watch", f"+callbacks.watch.file={folder}/watch"]
    places = [f"hydra.run.dir={folder}", f"paths.outputs={folder.parent}", f"paths.data={OUTPUTS}/data"]
    began = time.time()
    run(["-m", "src.train", *words, *NO_OTHER_WORK, f"trainer.max_steps={steps}", *watch, *places], threads)
    seen = [json.loads(file.read_text()) for file in sorted(folder.glob("watch.*"))]
    step = statistics.median(seen[0]["times"])
    return Trained(seen[0]["first_step"] - began, step, sum(one["mib"] for one in seen))


def sample(folder: Path, *words: str) -> Usage:
    """Sample from a run that was watched; its config names the callback that did, which is not of the project."""
    return run(["-m", "src.sample", f"run={folder}", "trust=true", *words])


def composed(words: Sequence[str], folder: Path) -> DictConfig:
    """The config of a training command, resolved, with the precision that it comes to."""
    own = ["name=bench", f"paths.run={folder}", f"paths.data={OUTPUTS}/data"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*words, *NO_OTHER_WORK, *own])
        drop_incompatible_keys(cfg, list(words))
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = default_precision("cpu")
    OmegaConf.resolve(cfg)
    return cfg
