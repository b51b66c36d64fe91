"""Checkpoints of denoising-diffusion-pytorch."""

import re
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from src.pretrained.base import Pretrained, weights_only
from src.utils.errors import UserError
from src.utils.targets import get_object

SCHEDULES = ("LinearSchedule", "CosineSchedule", "SigmoidSchedule")
SCALAR = 1e-5  # relative difference of float32 numbers that are the same


class LucidrainsPretrained(Pretrained):
    """A checkpoint model-N.pt of denoising-diffusion-pytorch: its average, schedule and objective."""

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The state dict of the averaged GaussianDiffusion."""
        content = weights_only(self.path)
        average, raw = content.get("ema"), content.get("model")
        if isinstance(average, dict) and any(key.startswith("ema_model.") for key in average):
            return {key[10:]: value for key, value in average.items() if key.startswith("ema_model.")}
        if isinstance(raw, dict):
            return raw
        raise UserError(f"{self.path} is no model-N.pt of denoising-diffusion-pytorch: it has neither ema nor model")

    def tensor(self, name: str) -> Tensor:
        """A tensor of the state.

        Raises:
            UserError: if there is none, as in a file of something else.
        """
        if name not in self.state:
            raise UserError(f"{self.path} is no GaussianDiffusion of denoising-diffusion-pytorch: it lacks {name}")
        return self.state[name]

    def weights(self) -> dict[str, Any]:
        return {key: value for key, value in self.state.items() if key.startswith("model.")}

    @property
    def shape(self) -> tuple[int | None, ...]:
        channels = self.tensor("model.final_conv.weight")
        return (len(channels), *[None] * (channels.ndim - 2))

    def parts(self) -> dict[str, Any]:
        shares = self.tensor("model.init_conv.weight").shape[1] == 2 * len(self.tensor("model.final_conv.weight"))
        shared = {"_partial_": True, "time_grid": "${time_grid}", "clip": "${clip}"}
        return {
            "net": self.net(),
            "schedule": self.schedule(),
            "parameterization": {"_target_": f"src.diffusion.parameterizations.{self.objective()}"},
            "variance": {"_target_": "src.diffusion.variances.FixedSmallVariance"},
            "clip": {"_target_": "src.samplers.clipping.StaticClip", "bound": 1.0},
            "time_grid": {"_target_": "src.samplers.time_grids.trailing_time_grid", "_partial_": True},
            "sampler": {"_target_": "src.samplers.ancestral.DDIM", "steps": 50, "eta": 0.0, "clip_eps": True, **shared},
            "condition": {"_target_": "src.diffusion.conditions.NoCondition"},
            "guidance": {"_target_": "src.diffusion.guidance.NoGuidance"},
            "self_conditioning_prob": 0.5 if shares else 0,
        }

    def net(self) -> dict[str, Any]:
        """The node of the network, whose arguments follow from the shapes of its weights."""
        dim, node = len(self.tensor("model.init_conv.weight")), {"_target_": "src.nets.lucidrains.LucidrainsNet"}
        levels = sorted({int(found[1]) for key in self.state if (found := re.match(r"model\.downs\.(\d+)\.", key))})
        ends = [next(w for key, w in self.state.items() if re.match(rf"model\.downs\.{i}\.3\..*weight", key))
                for i in levels]  # fmt: skip
        full = [f"model.downs.{i}.2.mem_kv" in self.state and self.state[f"model.downs.{i}.2.mem_kv"].ndim == 4
                and f"model.downs.{i}.2.to_out.weight" in self.state for i in levels]  # fmt: skip
        memory = self.state.get("model.mid_attn.mem_kv")
        heads = {} if memory is None else {"attn_heads": memory.shape[1], "attn_dim_head": memory.shape[3]}
        plain = full == [*[False] * (len(levels) - 1), True]
        return node | {
            "channels": "${data.channels}",
            "size": "${data.size}",
            "dim": dim,
            "dim_mults": [len(end) // dim for end in ends],
            **heads,
            **({} if plain or self.tensor("model.init_conv.weight").ndim == 3 else {"full_attn": full}),
            "steps": len(self.tensor("betas")),
            "first_time": self.first_time,
        }

    def schedule(self) -> dict[str, Any]:
        """The node of the schedule: that of this project with the same betas, or else all of these."""
        betas = self.tensor("betas").double()
        for name in SCHEDULES:
            target = f"src.diffusion.beta_schedules.{name}"
            try:
                same = torch.allclose(get_object(target)(steps=len(betas)).betas, betas, rtol=SCALAR, atol=0)
            except ValueError:
                continue
            if same:
                return {"_target_": target, "steps": len(betas)}
        return {"_target_": "src.diffusion.float32_schedule.Float32Schedule", "betas": betas.tolist()}

    def objective(self) -> str:
        """What the network predicts, which is recorded only as the weights of its loss.

        Raises:
            UserError: if they are those of no objective.
        """
        kept = self.tensor("alphas_cumprod").double()
        snr, weight = kept / (1 - kept), self.tensor("loss_weight").double()
        for clipped in (snr, snr.clamp(max=5)):
            for name, expected in {"V": clipped / (snr + 1), "X0": clipped, "Eps": clipped / snr}.items():
                if torch.allclose(weight, expected, rtol=1e-2, atol=1e-6):
                    return name
        raise UserError(f"{self.path}: its loss weights are those of no objective; name it, such as parameterization=v")
