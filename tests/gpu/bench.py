"""What a check is given: the device, folders, other processes, and how long there is."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import src.runs.folders  # noqa: F401 - registers the resolvers that conf/ uses
from src.utils.override_syntax import assignment
from tests.gpu.device import Device
from tests.gpu.jobs import Jobs, last_words, launch

LONGEST_PROCESS = 150.0  # seconds


@dataclass
class Bench:
    """What a check is given.

    Attributes:
        device: that is checked.
        scratch: folder for runs, removed at the end.
        out: folder of the results.
        tiny: True to rehearse with tiny nets.
        data: folder of MNIST; None for what needs no download.
        images: folder of class folders with images of 32×32, such as CIFAR-10; None for drawn ones.
        ends: when the section ends, on the clock of time.time(); the last check may take all that is left.
        jobs: processes beside this one.
        launch: runs Python with words, (words, log, timeout, environment) -> exit code.
    """

    device: Device
    scratch: Path
    out: Path
    tiny: bool = False
    data: Path | None = None
    images: Path | None = None
    ends: float = float("inf")
    jobs: Jobs = field(default_factory=lambda: Jobs(0))
    launch: Callable[..., int] = launch

    @property
    def left(self) -> float:
        """Seconds until the section ends."""
        return self.ends - time.time()

    @property
    def digits(self) -> list[str]:
        """Words that find MNIST without a download, or 5,000 of its digits."""
        root = assignment("data.root", self.data if self.data is not None else self.scratch / "no_mnist")
        return ["data.mirrors=[]", root]

    def train(
        self, folder: Path, words: Sequence[str], code: int = 0, environment: dict[str, str] | None = None
    ) -> Path:
        """Train by the command, in a process of its own; returns the run folder.

        Args:
            folder: of the run.
            words: of the command line, without the folder unless they resume.
            code: exit code that is expected; -9 of one that is killed.
            environment: of the process, instead of the one for exact float32.

        Raises:
            RuntimeError: with the last words of a command that ended otherwise.
        """
        place = [] if any(word.startswith("resume=") for word in words) else [assignment("hydra.run.dir", folder)]
        places = [*place, assignment("paths.outputs", self.scratch / "outputs")]
        log = folder.with_suffix(".log")
        timeout = min(LONGEST_PROCESS, max(30.0, self.left)) if self.device.kind == "cuda" else 600.0
        found = self.launch(["-m", "src.train", *words, *places], log, timeout, environment)
        if found != code:
            raise RuntimeError(f"src.train ended with {found} instead of {code}: {last_words(log)}")
        return folder

    def clean(self) -> None:
        """Leave nothing of a check on the device."""
        torch.compiler.reset()
        gc.collect()
        self.device.empty()


Check = Callable[[Bench, Any], None]
