"""Evaluation contexts made of tensors, without a trained run."""

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from src import __version__
from src.data.base import DataModule
from src.data.samples import TensorSamples
from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.conditions import Labels, NoCondition
from src.metrics.base import EvalContext
from src.metrics.features.base import Features, ReferenceData
from src.runs.run import Run
from src.samplers.ancestral import DDIM
from src.samplers.pipeline import Pipeline
from tests.diffusion.reference import Oracle
from tests.helpers.tiny import saved_config


class Memory(DataModule):
    """Data in memory, given in their own units, with labels or without."""

    def __init__(self, train: tuple[Tensor, Tensor | None], test: tuple[Tensor, Tensor | None]):
        x, label = train
        super().__init__(x.shape[1], x.shape[2:], 0 if label is None else int(label.max()) + 1)
        unit = 2.0 if x.ndim == 4 else 1.0
        self.train_set, self.val_set = (
            TensorSamples((unit * x - (unit - 1)).float(), label) for x, label in (train, test)
        )


class Images(Memory):
    """The same of images."""

    kind = "images"


class Pixels(Features):
    """The images themselves, as vectors."""

    name = "pixels"

    def __init__(self, reference: ReferenceData):
        self.train, self.test = (self(real[:]["x"]) for real in (reference.train, reference.test))
        self.width = self.test.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@pytest.fixture
def context(tmp_path):
    """`context(x, train, test)`: an EvalContext of samples and data (N, C, *S) in the units of the data.

    Args:
        train, test: data, or (data, labels).
        label: (N,) of the samples.
        predict: x_0 of (x_t, t, cond) in the units of the model, (B, C, *S); by default the mean of the training data.
        schedule: of the denoiser; by default cosine.
        features: made of the reference; by default the pixels.
        time_sampler: of the run, as its config has them.
        attributes: what else the data module says, such as `distributions`.
    """

    def make(
        x,
        train,
        test,
        *,
        label=None,
        predict=None,
        schedule=None,
        features=Pixels,
        time_sampler=None,
        seed=0,
        **attributes,
    ) -> EvalContext:
        train, test = (part if isinstance(part, tuple) else (part, None) for part in (train, test))
        data = (Images if train[0].ndim == 4 else Memory)(train, test)
        vars(data).update(attributes)
        mean = data.train_set.x.mean(0)
        denoiser = Oracle(
            predict or (lambda x_t, t, cond: mean.to(x_t).expand_as(x_t)), schedule or CosineSchedule()
        ).eval()
        denoiser.condition = Labels(data.num_classes) if data.num_classes else NoCondition()
        pipeline = Pipeline(denoiser, DDIM(denoiser.schedule, steps=4), data.shape, cond=label, seed=seed)
        config = saved_config(
            str(tmp_path),
            "outputs",
            time_sampler={"_target_": "src.diffusion.time_samplers.StratifiedTimeSampler", **(time_sampler or {})},
        )
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"version": __version__} | config))
        return EvalContext(x.float(), label, ReferenceData(data, features), pipeline, Run(tmp_path), seed=seed)

    return make


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures are put together, but not drawn, which takes most of the time."""
    for module in ("denoising_strip", "metrics", "pictures"):
        monkeypatch.setattr(f"src.plots.{module}.to_picture", lambda figure: Image.new("RGB", (1, 1)))


@pytest.fixture
def rand():
    """`rand(*shape)`: float32 numbers uniform in [0, 1], each call other ones, each test the same."""
    g = torch.Generator().manual_seed(1)
    return lambda *shape: torch.rand(*shape, generator=g)
