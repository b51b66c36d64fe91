"""Formats that hold the model as a graph: ONNX, and the program of torch.export."""

import importlib.util
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from src.formats.base import Format, Model, largest_difference
from src.formats.tracing import TracedDenoiser, TracedSampler, given_cond, named_cond, normal, trace
from src.samplers.base import Sampler
from src.samplers.table import tabulate
from src.utils.atomic import write_json
from src.utils.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"
MOST_STEPS = 20  # of an unrolled sampler
KEPT_CONDITIONS = 64  # of new samples, for the loop beside the model


class GraphFormat(Format):
    """A format that holds the model as a graph with a dynamic batch: the guided, clipped denoiser with its schedule.

    The sampler is a table of numbers in sampler.json. With `unroll` the whole sampler is the graph, from standard
    normal noise, a seed and the conditions to samples in the units of the data.

    Args:
        tolerance: see `Format`.
        unroll: True for the whole sampler as one graph.
    """

    suffix = ""

    def __init__(self, tolerance: Annotated[float, Ge(0)] = 1e-3, unroll: bool = False):
        super().__init__(tolerance)
        self.unroll = unroll

    def check(self, model: Model) -> None:
        self.table(model.pipeline.sampler)
        steps = model.pipeline.sampler.steps
        if self.unroll and steps > MOST_STEPS:
            raise UserError(
                f"format.unroll=true makes one graph of all evaluations, at most {MOST_STEPS} steps of them, got "
                f"{steps}; use fewer, such as sampler=ddim sampler.steps=5"
            )
        if model.pipeline.denoiser.self_conditioning_prob and not self.unroll:
            raise UserError(f"format={self.name}: self-conditioning needs format.unroll=true, or format=safetensors")

    def table(self, sampler: Sampler) -> Any:
        """The table of a sampler.

        Raises:
            UserError: if it has none.
        """
        if not getattr(sampler, "clip_eps", True):
            raise UserError(f"format={self.name}: use sampler.clip_eps=true, since the graph has clipped predictions")
        try:
            return tabulate(sampler)
        except ValueError as error:
            raise UserError(f"format={self.name}: sampler: {error}; use sampler=ddim or dpmpp_2m") from error

    def write(self, model: Model, folder: Path) -> None:
        pipeline, rows = model.pipeline, self.table(model.pipeline.sampler)
        x_t, t, _ = model.probe()
        cond = named_cond(model.cond())
        example = (x_t, t, cond) if len(x_t) > 1 else tuple(doubled(v) for v in (x_t, t, cond))
        if self.unroll:
            seed = torch.arange(len(example[0]))
            program = trace(TracedSampler(pipeline, rows), (example[0], seed, example[2]), self.name)
            self.save(program, folder / f"sampler{self.suffix}", ["noise", "seed", *cond], "x")
            return
        more = {"s": example[1] / 2} if pipeline.sampler.needs_flow_map else {}
        program = trace(TracedDenoiser(pipeline), (*example, *more.values()), self.name)
        self.save(program, folder / f"model{self.suffix}", ["x_t", "t", *cond, *more], "x_0")
        drawn = named_cond(pipeline.conditions(range(model.n)))
        write_json(folder / "sampler.json", self.plan(model, rows, drawn))
        (folder / "sample.py").write_text((TEMPLATES / f"sample_{self.name}.py.txt").read_text("utf-8"), "utf-8")

    def plan(self, model: Model, rows: Any, cond: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the loop beside the model reads: the sampler, the shape, the units and conditions of new samples."""
        pipeline = model.pipeline
        units = pipeline.units
        assert units is not None
        bounded = units.strict and units.low is not None and units.high is not None
        return {
            "steps": [asdict(row) for row in rows],
            "shape": list(pipeline.shape),
            "scale": list(units.scale),
            "shift": list(units.shift),
            "range": [min(units.low), max(units.high)] if bounded else None,  # type: ignore[arg-type]
            "cond": {
                name: [str(value.numpy().dtype), value[:KEPT_CONDITIONS].tolist()] for name, value in cond.items()
            },
        }

    def verify(self, model: Model, folder: Path) -> Mapping[str, float]:
        pipeline, cond = model.pipeline, named_cond(model.cond())
        x_t, t, _ = model.probe()
        noise = pipeline.noise(range(len(model.verified)))
        first = noise(torch.empty(len(model.verified), *pipeline.shape))
        if self.unroll:
            run = self.open(folder / f"sampler{self.suffix}", ["noise", "seed", *cond], "x")
            seed = torch.arange(len(first))
            draws = iter(range(10**6))
            with pipeline.inference():
                *_, end = pipeline.sampler.trajectory(
                    denoiser_of(pipeline, cond), pipeline.sampler.sample_prior(lambda x: first, first),
                    lambda x: normal(seed, next(draws), x),
                )  # fmt: skip
            return {"samples": largest_difference(run(first, seed, *cond.values()), pipeline.to_units(end.x_t))}
        more = {"s": t / 2} if pipeline.sampler.needs_flow_map else {}
        run = self.open(folder / f"model{self.suffix}", ["x_t", "t", *cond, *more], "x_0")
        with pipeline.inference():
            expected = TracedDenoiser(pipeline)(x_t, t, cond, *more.values())
        spec = importlib.util.spec_from_file_location("sample", folder / "sample.py")
        assert spec is not None and spec.loader is not None
        loop: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loop)
        given = {name: value.numpy() for name, value in cond.items()}
        drawn = loop.sample(first.numpy(), given, lambda shape: noise(torch.empty(shape)).numpy())
        return {
            "predictions": largest_difference(run(x_t, t, *cond.values(), *more.values()), expected),
            "samples": largest_difference(torch.from_numpy(np.asarray(drawn)), pipeline.to_units(model.verified)),
        }

    @abstractmethod
    def save(self, program: Any, file: Path, inputs: list[str], output: str) -> None:
        """Write a traced program."""

    @abstractmethod
    def open(self, file: Path, inputs: list[str], output: str) -> Callable[..., Tensor]:
        """The function that a file holds."""


class ONNXFormat(GraphFormat):
    """ONNX, which onnxruntime and others run without torch, with a loop in numpy that draws samples."""

    name, suffix, extra, tags = "onnx", ".onnx", "onnx", ("onnx",)
    libraries = ("onnx", "onnxscript", "onnxruntime")

    def save(self, program: Any, file: Path, inputs: list[str], output: str) -> None:
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            made: Any = torch.onnx.export(program, dynamo=True, input_names=inputs, output_names=[output])
            made.save(str(file))

    def open(self, file: Path, inputs: list[str], output: str) -> Callable[..., Tensor]:
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

        def run(*values: Tensor) -> Tensor:
            given = {name: value.numpy() for name, value in zip(inputs, values, strict=True)}
            return torch.from_numpy(session.run([output], given)[0])

        return run

    def usage(self, model: Model) -> str:
        if self.unroll:
            return (
                "```python\nimport numpy as np\nimport onnxruntime\n\n"
                'sampler = onnxruntime.InferenceSession("sampler.onnx")\n'
                f"noise = np.random.default_rng(0).standard_normal((16, {', '.join(map(str, model.pipeline.shape))}))\n"
                f'inputs = {{"noise": noise.astype(np.float32), "seed": np.arange(16){cond_text(model)}}}\n'
                "(x,) = sampler.run(None, inputs)\n```\n"
            )
        return "`python sample.py 16` draws samples with numpy and onnxruntime; it is to be read as well.\n"


class TorchExportFormat(GraphFormat):
    """The program of torch.export (.pt2), which torch runs without this project."""

    name, suffix, tags = "torch_export", ".pt2", ("torch",)

    def save(self, program: Any, file: Path, inputs: list[str], output: str) -> None:
        torch.export.save(program, file)

    def open(self, file: Path, inputs: list[str], output: str) -> Callable[..., Tensor]:
        module, names = torch.export.load(file).module(), [name for name in inputs[2:] if name != "s"]

        def run(*values: Tensor) -> Tensor:
            end = 2 + len(names)
            return module(*values[:2], dict(zip(names, values[2:end], strict=True)), *values[end:])

        return run

    def usage(self, model: Model) -> str:
        if self.unroll:
            shape = ", ".join(map(str, model.pipeline.shape))
            return (
                '```python\nimport torch\n\nsampler = torch.export.load("sampler.pt2").module()\n'
                f"x = sampler(torch.randn(16, {shape}), torch.arange(16), {{{cond_text(model, torch=True)}}})\n```\n"
            )
        return "`python sample.py 16` draws samples with torch alone; it is to be read as well.\n"


def denoiser_of(pipeline: Any, cond: Mapping[str, Tensor]) -> Any:
    """The guided denoiser of samples with these conditions, for one trajectory."""
    n = len(next(iter(cond.values()))) if cond else 1
    return replace(pipeline, cond=given_cond(dict(cond))).denoise(range(n))


def doubled(value: Any) -> Any:
    """Twice the batch: torch.export takes a batch of one for a constant."""
    return torch.utils._pytree.tree_map(lambda v: torch.cat([v, v]), value)


def cond_text(model: Model, torch: bool = False) -> str:
    """How conditions are given, in the example of the model card."""
    library = "torch" if torch else "np"
    named = {name: value[0].tolist() for name, value in named_cond(model.cond()).items()}
    make = "tensor" if torch else "array"
    pairs = ", ".join(f'"{name}": {library}.{make}([{row}] * 16)' for name, row in named.items())
    return pairs if torch or not pairs else f", {pairs}"
