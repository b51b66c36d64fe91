"""Assemble a denoiser from a config: the parts determine arguments of each other, which the config need not state."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from src.utils.errors import UserError, config_errors
from src.utils.signatures import parameters
from src.utils.targets import GIVEN, get_object

DENOISER, FLOW_MAP = "src.diffusion.denoiser.Denoiser", "src.diffusion.flow_map.FlowMap"


def assemble_denoiser(
    cfg: Mapping[str, Any], instantiate: Callable[..., Any], context: AbstractContextManager | None = None
) -> Any:
    """Assemble the denoiser of a config, or its flow map: network, schedule, parameterization, variance and condition.

    Args:
        cfg: the config of a run, or of an exported model.
        instantiate: makes an object of a node of the config, as Hydra does.
        context: the context in which the network is built.
    """
    parts = {}
    for part in ("schedule", "parameterization", "variance", "condition"):
        with config_errors(part):
            parts[part] = instantiate(cfg[part])
    share, flow_map = cfg["self_conditioning_prob"], cfg.get("flow_map", False)
    # These arguments follow from the other parts, so that users need not set them.
    channels, outputs = cfg["data"]["channels"], parts["variance"].outputs
    needed = {}
    if share:
        needed["in_channels"] = 2 * channels, "self_conditioning_prob", "self_conditioning_prob=0"
    if outputs > 1:
        needed["out_channels"] = outputs * channels, "this variance", "variance=fixed_small"
    if flow_map:
        needed["second_time"] = True, "this loss", "loss=mse"
    condition = parts["condition"]
    if num_classes := condition.num_classes:
        needed["num_classes"] = num_classes, "this condition", "condition=none"
    if "num_classes" in cfg["net"]:
        raise UserError(
            "net.num_classes follows from the condition; leave it out, and set condition=labels or condition=none"
        )
    accepted = parameters(get_object(cfg["net"]["_target_"]))
    for key, (_, reason, without) in needed.items():
        if key not in accepted and cfg["net"]["_target_"] != GIVEN:
            net = cfg["net"]["_target_"]
            raise UserError(f"net: {net} has no argument `{key}`, which {reason} needs; use net=unet or {without}")
    with context or nullcontext():
        settings = {key: value for key, (value, *_) in needed.items()}
        net = build_net(cfg["net"], settings, condition.encoders if "encoders" in accepted else {}, instantiate)
    with config_errors("denoiser"):
        return get_object(FLOW_MAP if flow_map else DENOISER)(net, **parts, self_conditioning_prob=share)


def build_net(node: Any, settings: dict[str, Any], encoders: dict[str, Any], instantiate: Callable[..., Any]) -> Any:
    """Build the net of a config.

    Args:
        node: its node.
        settings: further arguments.
        encoders: makers of the encoders of its conditions; none if the net takes the conditions in by itself.
        instantiate: see `assemble_denoiser`.
    """
    if not encoders:
        return instantiate(node, **settings)
    make = instantiate(node, **settings, _partial_=True)  # Hydra would copy the encoders
    with config_errors("net"):
        return make(encoders=encoders)
