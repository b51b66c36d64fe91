"""The one way to draw samples: a denoiser with a sampler, guidance, conditions and seeds."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from src.diffusion.conditions import Cond, count_cond, map_cond, rows_of
from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.flow_map import FlowMap
from src.diffusion.guidance import DenoiseFn, Guidance, NoGuidance
from src.samplers.base import Sampler, SeededNoise, State
from src.samplers.self_conditioning import SelfConditioned
from src.utils.building import assemble_denoiser
from src.utils.errors import UserError, config_errors
from src.utils.model_folder import ModelFolder
from src.utils.seeding import generator
from src.utils.state_dicts import load_weights
from src.utils.targets import instantiate
from src.utils.units import Kind, Units, kind_of, units_of


class Cost:
    """The cost of what ran within `Pipeline.count_nfe`.

    Attributes:
        evaluations: samples that networks evaluated, a sample at one noise level counting once.
        seconds: wall-clock time, set at the end.
    """

    def __init__(self) -> None:
        self.evaluations, self.seconds = 0, 0.0

    def add(self, net: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Count a batch, as a forward hook."""
        self.evaluations += len(args[0])


@dataclass
class Pipeline:
    """A denoiser with all that it takes to sample from it: ``Pipeline(denoiser, sampler, shape).sample(4)``.

    Sample i is a function of (seed, i), whatever the number of samples and the batch size.

    Args:
        denoiser: predicts the data; used as it is, on its own device.
        sampler: integrates from noise to data.
        shape: (C, *S) of one sample.
        guidance: wraps the denoiser.
        cond: (N, ...) the conditions of samples 0 to N - 1, null values included, of several a dict by name, in which
            those that are left out are withheld; None for no conditions, except that those of new samples are drawn by
            `denoiser.condition`.
        seed: of the noise.
        batch_size: samples drawn at a time.
        class_names, vector_names: names of the labels, and of the numbers of a vector, if they are known.
        kind: kind of the data; by default images if the shape has three entries, otherwise by the number of axes.
        units: units of the data; by default those of their kind.
        on_step: called after every step with the size of its batch, for progress bars.
        dtype: of autocast in `denoise`; None for the precision of the weights.

    Raises:
        ValueError: if the batch size is less than 1.
        UserError: for a sampler of flow maps with another denoiser.
    """

    denoiser: Denoiser
    sampler: Sampler
    shape: tuple[int, ...]
    guidance: Guidance = field(default_factory=NoGuidance)
    cond: Cond | None = None
    seed: int = 0
    batch_size: int = 256
    class_names: list[str] = field(default_factory=list)
    vector_names: list[str] = field(default_factory=list, kw_only=True)
    kind: Kind | None = None
    units: Units | None = None
    on_step: Callable[[int], None] | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")
        if self.sampler.needs_flow_map and not isinstance(self.denoiser, FlowMap):
            raise UserError("sampler=flow_map needs a flow map; train one with a loss such as loss=mean_flow")
        self.kind = self.kind or ("images" if len(self.shape) == 3 else kind_of(len(self.shape) - 1))
        self.units = self.units or units_of(self.kind)

    @classmethod
    def load(cls, folder: str, device: torch.device | str = "cpu", trust: bool = False) -> "Pipeline":
        """Load an exported model, without Lightning and Hydra: ``Pipeline.load(FOLDER).sample(4)``.

        Args:
            folder: what ``python -m src.export run=RUN format=safetensors`` wrote.
            device: where the model is to run.
            trust: True to run code that the folder names outside this project, from its own folder `code`.

        Raises:
            UserError: if the folder cannot be loaded.
        """
        saved = ModelFolder.read(folder, trust)
        config = saved.config
        with config_errors(f"{saved.path}"):
            denoiser = assemble_denoiser(config, instantiate)
            load_weights(denoiser, saved.weights(), saved.path)
            denoiser = denoiser.to(device).eval().requires_grad_(False)
            sampler = instantiate(config["sampler"])(schedule=denoiser.schedule)
            settings = config["pipeline"]
            settings |= {"shape": tuple(settings["shape"]), "units": Units.read(settings["units"])}
            return cls(denoiser, sampler, guidance=instantiate(config["guidance"]), **settings)

    @property
    def device(self) -> torch.device:
        """The device of the denoiser."""
        return next(self.denoiser.parameters()).device

    def to_units(self, x: Tensor) -> Tensor:
        """Convert samples from the units of the model to those of the data: images to [0, 1], clipped."""
        assert self.units is not None
        return self.units.to_units(x)

    def std_to_model(self, std: float) -> float:
        """Convert a standard deviation from the units of the data to those of the model; see `Units`."""
        assert self.units is not None
        return self.units.std_to_model(std)

    def std_to_units(self, std: float) -> float:
        """Convert a standard deviation from the units of the model to those of the data; see `Units`."""
        assert self.units is not None
        return self.units.std_to_units(std)

    # ---- new samples ----

    def sample(self, n: int | range, cond: Cond | None = None) -> Tensor:
        """Draw new samples.

        Args:
            n: their number, or their indices.
            cond: (N, ...) conditions to use instead of the pipeline's, that of sample i at i.

        Returns:
            (n, C, *S) in the units of the model, on the CPU.

        Raises:
            ValueError: if n is less than 1, or the number of conditions is another than n.
        """
        return self.sample_with_trajectory(n, 0, cond)[0]

    def sample_with_trajectory(
        self, n: int | range, keep: int, cond: Cond | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Draw new samples, and keep every state of the first ones.

        Args:
            n, cond: see `sample`.
            keep: number k of samples whose states are kept.

        Returns:
            The samples (n, C, *S) and the states (steps + 1, k, C, *S), None if k = 0.
        """
        indices = range(n) if isinstance(n, int) else n
        pipeline = replace(self, cond=self.conditions(indices, cond))
        batches: list[Tensor] = []
        paths: list[Tensor] = []
        with self.inference():
            for part in pipeline.batches(indices):
                path: list[Tensor] = []
                kept = keep - sum(map(len, batches))
                for state in pipeline.trajectory(part):
                    if kept > 0:
                        path.append(state.x_t[:kept].cpu())
                batches.append(state.x_t.cpu())
                paths += [torch.stack(path)] if path else []
        return torch.cat(batches), torch.cat(paths, 1) if paths else None

    def warm_up(self, n: int) -> None:
        """Evaluate the networks as for n samples: compilation takes one evaluation of each size, CUDA graphs two."""
        pipeline = replace(self, cond=self.conditions(range(n)))
        parts = list(pipeline.batches(n))
        with self.inference():
            for indices in {len(part): part for part in parts}.values():
                x = torch.zeros(len(indices), *self.shape, device=self.device)
                for t in (1.0, 0.5, 0.5, 0.5):
                    pipeline.denoise(indices)(x, torch.tensor(t, dtype=torch.float64))

    def conditions(self, indices: range, cond: Cond | None = None) -> Cond | None:
        """The conditions (N, ...) for new samples of these indices, drawn if none are given."""
        if len(indices) < 1:
            raise ValueError(f"n must be >= 1, got {indices.stop}")
        cond = self.cond if cond is None else cond
        if cond is None:
            return self.denoiser.condition.sample(indices.stop, generator("cluster of each sample", self.seed))
        if count_cond(cond) != indices.stop:
            raise ValueError(
                f"the number of conditions must be that of samples, {indices.stop}, got {count_cond(cond)}"
            )
        return self.denoiser.condition.complete(cond, indices.stop, torch.device("cpu"))

    # ---- the parts that tasks put together ----

    def batches(self, n: int | range) -> Iterator[range]:
        """The indices of n samples, a batch at a time."""
        indices = range(n) if isinstance(n, int) else n
        for first in range(0, len(indices), self.batch_size):
            yield indices[first : first + self.batch_size]

    def noise(self, indices: range, purpose: str = "") -> SeededNoise:
        """The noise of these samples, independent for every purpose."""
        return SeededNoise([f"{self.seed}{purpose}/{i}" for i in indices], self.device)

    def denoise(self, indices: range, guidance: Guidance | None = None) -> Callable[..., Prediction]:
        """Make a function of (x_t, t), of a flow map also of s, that predicts these samples, for one trajectory.

        Args:
            indices: of the samples; they say which conditions are used.
            guidance: applied after the pipeline's own.
        """
        rows = rows_of(self.cond, slice(indices.start, indices.stop, indices.step))
        cond = map_cond(lambda value: value.to(self.device), rows)

        def guided(denoise: DenoiseFn) -> DenoiseFn:
            own = self.guidance(denoise, self.sampler.schedule)
            return own if guidance is None else guidance(own, self.sampler.schedule)

        def denoise(x_t: Tensor, t: Tensor, s: Tensor | None = None) -> Prediction:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                return (at_t if s is None else guided(partial(self.denoiser, s=s)))(x_t, t, cond)

        at_t = guided(SelfConditioned(self.denoiser))
        return denoise

    def trajectory(
        self, indices: range, x_t: Tensor | None = None, start: float = 1.0, guidance: Guidance | None = None
    ) -> Iterator[State]:
        """Yield the states of one batch, from x_t at time `start`, by default from pure noise, to data.

        Args:
            indices: of the samples in the batch; they say which noise and which conditions are used.
            x_t: (len(indices), C, *S), on the pipeline's device.
            start: time of x_t.
            guidance: applied after the pipeline's own.
        """
        noise = self.noise(indices)
        if x_t is None:
            x_t = self.sampler.sample_prior(noise, torch.empty(len(indices), *self.shape, device=self.device))
        for state in self.sampler.trajectory(self.denoise(indices, guidance), x_t, noise, start):
            if self.on_step is not None and state.x_0 is not None:
                self.on_step(len(indices))
            yield state

    def sample_batch(
        self, indices: range, x_t: Tensor | None = None, start: float = 1.0, guidance: Guidance | None = None
    ) -> Tensor:
        """The end of `trajectory`: (len(indices), C, *S), on the pipeline's device."""
        (end,) = deque(self.trajectory(indices, x_t, start, guidance), maxlen=1)
        return end.x_t

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode without gradients."""
        was_training = self.denoiser.training
        self.denoiser.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.denoiser.train(was_training)

    @contextmanager
    def count_nfe(self) -> Iterator[Cost]:
        """Evaluation mode without gradients, in which the evaluations of the networks are counted."""
        nets = {d.net for d in (self.denoiser, *guide_denoisers(self.guidance))}  # a guide may be the denoiser itself
        cost, began = Cost(), time.perf_counter()
        hooks = [net.register_forward_hook(cost.add) for net in nets]
        try:
            with self.inference():
                yield cost
        finally:
            for hook in hooks:
                hook.remove()
            cost.seconds = time.perf_counter() - began


def guide_denoisers(guidance: object) -> list[Denoiser]:
    """The denoisers that a guidance, or one inside it, evaluates beside the pipeline's."""
    found: dict[int, object] = {}
    todo: list[Any] = [guidance]
    while todo:
        part = todo.pop()
        # A classifier of the user's may hold anything, itself included.
        if id(part) not in found:
            found[id(part)] = part
            todo += [] if isinstance(part, nn.Module) else getattr(part, "__dict__", {}).values()
    return [part for part in found.values() if isinstance(part, Denoiser)]
