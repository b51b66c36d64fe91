"""Pipelines of diffusers in a local folder."""

import inspect
from functools import cached_property
from typing import Any

from src.pretrained.base import Pretrained
from src.utils.errors import UserError
from src.utils.files import read_json
from src.utils.imports import need
from src.utils.model_folder import read_safetensors

PIPELINES = ("DDPMPipeline", "DDIMPipeline")
PREDICTIONS = {"epsilon": "Eps", "sample": "X0", "v_prediction": "V"}
VARIANCES = {
    "fixed_small": "FixedSmallVariance",
    "fixed_small_log": "FixedSmallVariance",
    "fixed_large": "FixedLargeVariance",
    "fixed_large_log": "FixedLargeVariance",
    "learned_range": "LearnedRangeVariance",
}
GRIDS = {"leading": "leading", "trailing": "trailing", "linspace": "trailing"}
ADVICE = "Name a folder that save_pretrained of a DDPMPipeline or DDIMPipeline wrote"


class DiffusersPretrained(Pretrained):
    """A DDPMPipeline or DDIMPipeline of diffusers in a local folder: its network, schedule, prediction and sampler."""

    @cached_property
    def model(self) -> dict[str, Any]:
        """The config of the network."""
        index = read_json(self.path / "model_index.json", {"_class_name": Any}, ADVICE)
        if index["_class_name"] not in PIPELINES:
            raise UserError(f"{self.path} holds a {index['_class_name']}, and not one of {', '.join(PIPELINES)}")
        if index.get("unet", [None])[0] != "diffusers":
            raise UserError(f"{self.path}: its network is {index.get('unet')}, and not a model of diffusers")
        return read_json(self.path / "unet/config.json", {"_class_name": str}, ADVICE)

    @cached_property
    def scheduler(self) -> Any:
        """Its scheduler, as diffusers makes it."""
        need("diffusers", "for init_from=diffusers:FOLDER", "diffusers")
        import diffusers

        _ = self.model  # which says what is wrong with the folder
        config = read_json(self.path / "scheduler/scheduler_config.json", {"_class_name": str}, ADVICE)
        kind = getattr(diffusers, config["_class_name"], None)
        if kind not in (diffusers.DDPMScheduler, diffusers.DDIMScheduler):
            raise UserError(f"{self.path}: its scheduler must be DDPM or DDIM, got {config['_class_name']}")
        return kind.from_config(config)

    @property
    def shape(self) -> tuple[int | None, ...]:
        side = self.model.get("sample_size")
        sides = (side, side) if isinstance(side, int | None) else tuple(side)
        return (self.model.get("in_channels"), *sides)

    def weights(self) -> dict[str, Any]:
        folder, name = self.path / "unet", "diffusion_pytorch_model"
        files = [folder / f"{name}.safetensors"]
        files = files if files[0].is_file() else sorted(folder.glob(f"{name}-*-of-*.safetensors"))
        if not files and (pickles := sorted(folder.glob("*.bin"))):
            raise UserError(f"{pickles[0]} is a pickle, which is never loaded; save the pipeline as safetensors")
        if not files:
            raise UserError(f"{folder} holds no {name}.safetensors. {ADVICE}")
        return {f"model.{key}": value for file in files for key, value in read_safetensors(file).items()}

    def parts(self) -> dict[str, Any]:
        config, steps = self.scheduler.config, self.scheduler.config.num_train_timesteps
        variance = VARIANCES.get(config.get("variance_type") or "fixed_small")
        if variance is None:
            raise UserError(f"{self.path}: variance_type={config.variance_type} is not known; use fixed_small")
        return {
            "net": self.net(steps),
            "schedule": self.schedule(),
            "parameterization": {"_target_": f"src.diffusion.parameterizations.{PREDICTIONS[config.prediction_type]}"},
            "variance": {"_target_": f"src.diffusion.variances.{variance}"},
            "clip": {
                "_target_": "src.samplers.clipping.StaticClip",
                "bound": config.clip_sample_range if config.clip_sample or config.thresholding else None,
            },
            "time_grid": self.time_grid(),
            "sampler": self.sampler(steps),
            "condition": {"_target_": "src.diffusion.conditions.NoCondition"},
            "guidance": {"_target_": "src.diffusion.guidance.NoGuidance"},
            "self_conditioning_prob": 0,
        }

    def net(self, steps: int) -> dict[str, Any]:
        """The node of the network, with the arguments that are not the defaults of its class."""
        import diffusers

        name = self.model["_class_name"]
        defaults = inspect.signature(getattr(diffusers, name).__init__).parameters
        of_data = ("sample_size", "in_channels", "out_channels")
        config = {
            key: value
            for key, value in self.model.items()
            if key in defaults and key not in of_data and value != json_value(defaults[key].default)
        }
        return {
            "_target_": "src.nets.diffusers.DiffusersNet",
            "channels": "${data.channels}",
            "size": "${data.size}",
            "model": name,
            "config": config,
            "steps": steps,
            "first_time": self.first_time,
        }

    def schedule(self) -> dict[str, Any]:
        """The node of the schedule: its formula where it is a usual one, else all betas."""
        config, node = self.scheduler.config, {"_target_": "src.diffusion.float32_schedule.Float32Schedule"}
        usual = config.beta_schedule in ("linear", "scaled_linear") and not config.get("rescale_betas_zero_snr")
        if not usual or config.trained_betas is not None:
            return node | {"betas": self.scheduler.betas.double().tolist()}
        return node | {
            "steps": config.num_train_timesteps,
            "beta_start": config.beta_start,
            "beta_end": config.beta_end,
            "root": config.beta_schedule == "scaled_linear",
        }

    def time_grid(self) -> dict[str, Any]:
        config = self.scheduler.config
        name = GRIDS[config.timestep_spacing]
        offset = {"offset": config.steps_offset} if name == "leading" else {}
        return {"_target_": f"src.samplers.time_grids.{name}_time_grid", "_partial_": True, **offset}

    def sampler(self, steps: int) -> dict[str, Any]:
        """The node of the pipeline's own sampler."""
        shared = {"_partial_": True, "time_grid": "${time_grid}", "clip": "${clip}"}
        if type(self.scheduler).__name__ == "DDPMScheduler":
            return {"_target_": "src.samplers.ancestral.DDPM", "steps": steps, "variance": "${variance}", **shared}
        most = min(50, steps)
        return {"_target_": "src.samplers.ancestral.DDIM", "steps": most, "eta": 0.0, "clip_eps": False, **shared}


def json_value(value: Any) -> Any:
    """A value as JSON gives it back."""
    return [json_value(item) for item in value] if isinstance(value, tuple) else value
