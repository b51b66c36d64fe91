"""The denoiser of diffusion-lab as a model of diffusers: predicts the data from (sample, timestep)."""

from functools import partial

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput

# IMPORTS


def build(node):
    """Make what a node describes: `_target_` called with its arguments, inner nodes first."""
    if isinstance(node, list):
        return [build(item) for item in node]
    if not isinstance(node, dict):
        return node
    arguments = {key: build(value) for key, value in node.items() if not key.startswith("_")}
    if "_target_" not in node:
        return arguments
    if node["_target_"] == "hydra.utils.get_class":
        return TARGETS[node["path"]]
    target = TARGETS[node["_target_"]]
    return partial(target, **arguments) if node.get("_partial_") else target(**arguments)


class DiffusionLabModel(ModelMixin, ConfigMixin):
    """x_0 = c_skip x_t + c_out net(c_in x_t, c_noise), with x_t = scale * sample.

    Args:
        net: the node of the network.
        sample_size, in_channels: of the data.
        num_classes: number of classes; -1 stands for none of them.
        scale, c_in, c_skip, c_out, c_noise: their values at the timesteps 0, 1, ...
    """

    @register_to_config
    def __init__(self, net, sample_size, in_channels, num_classes, scale, c_in, c_skip, c_out, c_noise):
        super().__init__()
        self.model = build(net)  # not net, which diffusers takes for the setting
        self.table = torch.tensor([scale, c_in, c_skip, c_out, c_noise], dtype=torch.float64)

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        n = sample.shape[0]
        t = torch.as_tensor(timestep, dtype=torch.float64, device="cpu").expand(n)
        low = t.floor().long().clamp(0, self.table.shape[1] - 1)
        high = (low + 1).clamp(max=self.table.shape[1] - 1)
        values = torch.lerp(self.table[:, low], self.table[:, high], t - low)
        shape = (n, *[1] * (sample.ndim - 1))
        scale, c_in, c_skip, c_out = (v.to(sample).view(shape) for v in values[:4])
        cond = None
        if self.config.num_classes:
            cond = torch.full((n,), -1, device=sample.device) if class_labels is None else class_labels
        x_t = scale * sample
        output = self.model(c_in * x_t, values[4].to(sample.device, torch.float32), cond)
        x_0 = c_skip * x_t + c_out * output.chunk(output.shape[1] // sample.shape[1], 1)[0]
        return UNet2DOutput(sample=x_0) if return_dict else (x_0,)
