"""Folders that diffusers opens."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.diffusion.flow_map import FlowMap
from src.formats.base import Format, Model, largest_difference
from src.formats.bundle import bundle
from src.samplers.ancestral import DDIM
from src.samplers.pipeline import Pipeline
from src.samplers.time_grids import trailing_time_grid
from src.utils.atomic import write_json
from src.utils.errors import UserError
from src.utils.targets import GET_CLASS, instantiable_nodes

TEMPLATES = Path(__file__).parent / "templates"
PREDICTIONS = {"Eps": "epsilon", "X0": "sample", "V": "v_prediction"}
STEPS = 1000  # of a schedule that is not discrete
VERIFIED_STEPS = 10


class DiffusersFormat(Format):
    """A folder that `DiffusionPipeline.from_pretrained` opens, with `DDIMScheduler`.

    A net of diffusers on a variance-preserving schedule becomes a plain `DDIMPipeline`. Any other net is a model of its
    own, with its code in the folder, and predicts the data; its schedule is rescaled to preserve the variance.
    """

    name, extra, tags = "diffusers", "diffusers", ("diffusers",)
    libraries = ("diffusers", "safetensors")

    def check(self, model: Model) -> None:
        denoiser, guidance = model.pipeline.denoiser, type(model.pipeline.guidance).__name__
        if isinstance(denoiser, FlowMap):
            raise UserError(
                "format=diffusers: its samplers do not say where a step ends, as a flow map needs; use format=onnx or "
                "format=safetensors"
            )
        if denoiser.self_conditioning_prob:
            raise UserError("format=diffusers: its samplers keep no estimate for self-conditioning; use format=onnx")
        condition = denoiser.condition
        if not condition.num_classes and condition.null(1) is not None:
            raise UserError(
                f"format=diffusers: its pipelines know no condition {type(condition).__name__}, only classes; use "
                "format=onnx or format=safetensors"
            )
        if guidance not in ("NoGuidance", "CFG") or isinstance(getattr(model.pipeline.guidance, "scale", 1), Mapping):
            raise UserError(f"format=diffusers: it has no guidance {guidance}; use guidance=cfg or guidance=none")
        if getattr(model.pipeline.guidance, "rescale", 0):
            raise UserError("format=diffusers: its guidance is not rescaled; use guidance.rescale=0")
        if is_plain(model) and guidance == "CFG":
            raise UserError("format=diffusers: a DDIMPipeline has no guidance; use guidance=none")

    def write(self, model: Model, folder: Path) -> None:
        (write_plain if is_plain(model) else write_own)(model, folder)

    def verify(self, model: Model, folder: Path) -> Mapping[str, float]:
        import diffusers

        pipe = diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
        pipe.set_progress_bar_config(disable=True)
        ours, noise, cond = self.reference(model), model.probe()[0], model.cond()
        n, steps = len(noise), min(VERIFIED_STEPS, ours.sampler.steps)
        x_t = torch.randn(noise.shape, generator=torch.Generator().manual_seed(1))
        ours.sampler.steps = steps
        with ours.inference():
            *_, end = ours.sampler.trajectory(with_cond(ours, n, cond), scaled_prior(ours, x_t), torch.zeros_like)
        pipe.scheduler.set_timesteps(steps)
        x = x_t
        with torch.no_grad():
            for t in pipe.scheduler.timesteps:
                guided = (
                    pipe.unet(x, t).sample if is_plain(model) else pipe.predict(x, t, cond, pipe.config.guidance_scale)
                )
                x = pipe.scheduler.step(guided, t, x).prev_sample
        return {f"samples of {steps} steps": largest_difference(end.x_t, x)}

    def reference(self, model: Model) -> Pipeline:
        """The run with the sampler that diffusers has."""
        pipeline, clips = model.pipeline, not is_plain(model)
        schedule, clip = pipeline.denoiser.schedule, pipeline.sampler.clip
        return replace(pipeline, sampler=DDIM(schedule, VERIFIED_STEPS, trailing_time_grid, clip, clip_eps=clips))

    def usage(self, model: Model) -> str:
        if is_plain(model):
            call = 'pipe = DDIMPipeline.from_pretrained("FOLDER")  # this folder\nimages = pipe(batch_size=4).images'
            return f"```python\nfrom diffusers import DDIMPipeline\n\n{call}\n```\n"
        return (
            "The code of the model is in the folder; `diffusers`, `jaxtyping` and `annotated-types` are all it needs."
            "\n\n```python\nfrom diffusers import DiffusionPipeline\n\n"
            'pipe = DiffusionPipeline.from_pretrained("FOLDER", trust_remote_code=True)  # this folder\n'
            "images = pipe(batch_size=4).images\n```\n"
        )


def is_plain(model: Model) -> bool:
    """True if the net is diffusers' own, its times are counted as there, and the schedule is one of betas."""
    denoiser = model.pipeline.denoiser
    net, schedule = denoiser.net, denoiser.schedule
    return bool(
        model.config["net"]["_target_"] == "src.nets.diffusers.DiffusersNet"
        and net.first_time == 0
        and net.steps == getattr(schedule, "steps", None)
        and hasattr(schedule, "betas")
        and type(denoiser.parameterization).__name__ in PREDICTIONS
        and denoiser.variance.outputs == 1
    )


def write_plain(model: Model, folder: Path) -> None:
    """Write a DDIMPipeline of a net of diffusers."""
    import diffusers

    denoiser: Any = model.pipeline.denoiser
    prediction = PREDICTIONS[type(denoiser.parameterization).__name__]
    node, betas = model.config["schedule"], {"trained_betas": denoiser.schedule.betas.tolist()}
    if node["_target_"].endswith(".Float32Schedule"):
        betas = {"trained_betas": node["betas"]} if node.get("betas") else {
            "beta_start": node["beta_start"], "beta_end": node["beta_end"],
            "beta_schedule": "scaled_linear" if node["root"] else "linear",
        }  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        denoiser.schedule.steps, **betas, prediction_type=prediction, **clipping(model), timestep_spacing="trailing"
    )
    pipe: Any = diffusers.DDIMPipeline(denoiser.net.model, scheduler)
    pipe.save_pretrained(folder)


def clipping(model: Model) -> dict[str, Any]:
    """The clipping of the sampler as settings of a scheduler."""
    found = clip_range(model)
    if found is None:
        return {"clip_sample": False}
    if [-v for v in found[0]] != found[1] or len(set(found[1])) > 1:
        raise UserError("format=diffusers: a DDIMPipeline clips to [-b, b] alone; use clip=none or clip.bound=1")
    if model.pipeline.sampler.clip.snap:  # type: ignore[union-attr]
        raise UserError("format=diffusers: a DDIMPipeline clips without snapping; use clip.snap=0")
    return {"clip_sample": True, "clip_sample_range": found[1][0]}


def clip_range(model: Model) -> list[list[float]] | None:
    """The lowest and the highest values to which predictions are clipped; None without clipping."""
    clip: Any = model.pipeline.sampler.clip
    if getattr(clip, "bound", None) is None:
        return None
    if not hasattr(clip, "low"):
        raise UserError(f"format=diffusers: it has no {type(clip).__name__}; use clip=static")
    return [[*map(float, clip.low)], [*map(float, clip.high)]]


def write_own(model: Model, folder: Path) -> None:
    """Write a pipeline of a net of another kind, with its code."""
    import diffusers

    denoiser, kept = model.pipeline.denoiser, tables(model)
    variance = kept.pop("signal")
    code = folder / "unet"
    code.mkdir()
    targets = [str(node.get("path")) if node["_target_"] == GET_CLASS else node["_target_"]
               for _, node in instantiable_nodes(model.config["net"])]  # fmt: skip
    files, modules = bundle(targets, code)
    lines = [f"from .{file} import {name.rpartition('.')[2]}" for name, file in files.items()]
    # diffusers copies only what this file itself imports.
    lines += [f"from .{file} import __doc__ as _{file}  # noqa: F401" for file in modules if file not in files.values()]
    known = ", ".join(f'"{name}": {name.rpartition(".")[2] if name in files else name}' for name in targets)
    text = (TEMPLATES / "diffusion_lab_model.py.txt").read_text().replace("# IMPORTS", "\n".join(sorted(set(lines))))
    text = text.replace("\n\n\ndef build", f"\n\nTARGETS = {{{known}}}\n\n\ndef build", 1)
    (code / "diffusion_lab_model.py").write_text(text)
    (folder / "diffusion_lab_pipeline.py").write_text((TEMPLATES / "diffusion_lab_pipeline.py.txt").read_text())
    settings = net_settings(model)
    config = {
        "_class_name": "DiffusionLabModel",
        "_diffusers_version": diffusers.__version__,
        "net": settings,
        "sample_size": list(model.pipeline.shape[1:]),
        "in_channels": model.pipeline.shape[0],
        "num_classes": denoiser.condition.num_classes,
        **kept,
    }
    write_json(code / "config.json", config)
    from safetensors.torch import save_file

    state = {f"model.{key}": value.cpu().clone() for key, value in denoiser.net.state_dict().items()}
    save_file(state, code / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    scheduler: Any = diffusers.DDIMScheduler(
        len(variance), trained_betas=betas_of(variance), prediction_type="sample", clip_sample=False,
        timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.save_pretrained(folder / "scheduler")
    weights = getattr(denoiser.condition, "weights", None)
    index = {
        "_class_name": ["diffusion_lab_pipeline", "DiffusionLabPipeline"],
        "_diffusers_version": diffusers.__version__,
        "unet": ["diffusion_lab_model", "DiffusionLabModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "guidance_scale": float(getattr(model.pipeline.guidance, "scale", 1.0)),
        "num_inference_steps": min(model.pipeline.sampler.steps, len(variance)),
        "class_weights": None if weights is None else (weights / weights.sum()).tolist(),
        "clip": clip_range(model),
        "snap": getattr(model.pipeline.sampler.clip, "snap", 0.0),
        "images": model.pipeline.kind == "images",
    }
    write_json(folder / "model_index.json", index)


def net_settings(model: Model) -> dict[str, Any]:
    """The node of the net with the arguments that the other parts determine."""
    denoiser, node = model.pipeline.denoiser, model.config["net"]
    channels, outputs, classes = model.pipeline.shape[0], denoiser.variance.outputs, denoiser.condition.num_classes
    more: dict[str, Any] = {"num_classes": classes} if classes else {}
    return node | more | ({"out_channels": outputs * channels} if outputs > 1 else {})


def tables(model: Model) -> dict[str, list[float]]:
    """The coefficients of the denoiser at the nodes of its schedule, and the variance-preserving signal there."""
    denoiser = model.pipeline.denoiser
    steps = getattr(denoiser.schedule, "steps", STEPS)
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    alpha, sigma = (v.detach() for v in denoiser.schedule.alpha_sigma(t))
    c_in, c_skip, c_out, c_noise = (
        v.detach().tolist() for v in denoiser.parameterization.preconditioning(denoiser.schedule, t)
    )
    power = alpha**2 + sigma**2
    return {
        "scale": power.sqrt().tolist(), "c_in": c_in, "c_skip": c_skip, "c_out": c_out, "c_noise": c_noise,
        "signal": (alpha**2 / power).tolist(),
    }  # fmt: skip


def betas_of(signal: list[float]) -> list[float]:
    """The betas whose products give these squared signals."""
    return [1 - now / before for before, now in zip([1.0, *signal], signal, strict=False)]


def scaled_prior(pipeline: Pipeline, z: Tensor) -> Tensor:
    """Standard normal noise at the noise level of t = 1, as the rescaled schedule has it."""
    alpha, sigma = pipeline.denoiser.schedule.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))
    return (alpha**2 + sigma**2).sqrt().detach() * z


def with_cond(pipeline: Pipeline, n: int, cond: Any) -> Any:
    """The guided denoiser of n samples with these conditions."""
    return replace(pipeline, cond=cond).denoise(range(n))
