"""Load the model of a run: its denoiser, with the weights of a checkpoint."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, get_args

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from src.runs.given import GIVEN
from src.runs.own_code import same_code_after
from src.runs.run import Run
from src.utils.errors import UserError, config_errors, not_finite
from src.utils.ranges import PositiveFloat
from src.utils.signatures import parameters
from src.utils.units import Kind, Units, kind_of, units_of


def build_denoiser(cfg: DictConfig | dict[str, Any], context: AbstractContextManager | None = None) -> Any:
    """Build the denoiser of a config: network, schedule, parameterization, variance and condition.

    Args:
        cfg: the config of a run.
        context: the context in which the network is built.
    """
    from src.diffusion.denoiser import Denoiser

    parts = {}
    for part in ("schedule", "parameterization", "variance", "condition"):
        with config_errors(part):
            parts[part] = instantiate(cfg[part])
    share = cfg["self_conditioning_prob"]
    # These arguments follow from the other parts, so that users need not set them.
    channels, outputs = cfg["data"]["channels"], parts["variance"].outputs
    needed = {}
    if share:
        needed["in_channels"] = 2 * channels, "self_conditioning_prob", "self_conditioning_prob=0"
    if outputs > 1:
        needed["out_channels"] = outputs * channels, "this variance", "variance=fixed_small"
    if num_classes := parts["condition"].num_classes:
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
        net = instantiate(cfg["net"], **{key: value for key, (value, *_) in needed.items()})
    with config_errors("denoiser"):
        return Denoiser(net, **parts, self_conditioning_prob=share)


def kind_and_units(run: Run, shape: Sequence[int]) -> tuple[Kind, Units]:
    """The kind and the units of the data of a run, of which samples have this shape (C, *S)."""
    facts = run.metadata()
    kind: Kind | None = facts.get("kind")
    if kind is None or kind not in get_args(Kind):
        kind = "images" if len(shape) == 3 else kind_of(len(shape) - 1)
    with config_errors(f"{run.path}: units"):
        return kind, Units.read(facts["units"]) if "units" in facts else units_of(kind)


def load_denoiser(run: str | None, ckpt: str = "best", weights: str | PositiveFloat = "ema") -> Any:
    """Load the denoiser of a run with the weights of a checkpoint.

    Raises:
        UserError: if there is no such run or checkpoint.
    """
    if not run:
        raise UserError("guidance.guide_model.run=RUN must be given: the run with the weaker model for autoguidance")
    found = Run.find(run)
    with same_code_after():
        denoiser = build_denoiser(found.config())
    load_weights(denoiser, *read_weights(found, ckpt, weights))
    return denoiser.eval()


def read_weights(run: Run, ckpt: str, weights: str | float) -> tuple[dict[str, Any], Path]:
    """Read the weights that `weights=` names; return their state dict and its file or folder.

    Args:
        run: the run.
        ckpt: the name of a checkpoint; unused for a width.
        weights: `ema`, `raw`, or the relative width of an average to reconstruct from the run's snapshots.

    Raises:
        UserError: if the run does not hold them.
    """
    from src.optim.ema import reconstruct
    from src.utils.checkpoints import load_checkpoint
    from src.utils.files import read_tensors

    prefixes = {"ema": "ema.model.", "raw": "denoiser."}
    if weights in prefixes:
        path = run.checkpoint(ckpt)
        return strip_prefix(load_checkpoint(path)["state_dict"], prefixes[weights]), path
    if isinstance(weights, bool | str):
        raise UserError(f"weights must be ema, raw or a relative width such as 0.07, got {weights}")
    instead = "Delete it; the other snapshots may suffice"
    wanted = {"step": int, "sigma_rel": [float], "weights": [dict], "buffers": dict}
    snapshots = [read_tensors(path, wanted, instead, mmap=True) for path in run.snapshots()]
    with config_errors(f"weights={weights}"):
        return reconstruct(snapshots, weights), run.path / "snapshots"


def load_weights(model: Any, weights: dict[str, Any], source: Path) -> None:
    """Load a state dict into a model.

    Raises:
        UserError: if the state dict does not fit the model, or holds numbers that are not finite.
    """
    expected = model.state_dict()
    if odd := [k for k, value in weights.items() if not hasattr(value, "isfinite")]:
        raise UserError(f"{source} is damaged: {odd[0]} is not a tensor. Use another checkpoint")
    missing = [k for k in expected if k not in weights]
    foreign = [k for k in weights if k not in expected]
    shapes = [k for k in expected if k in weights and expected[k].shape != weights[k].shape]
    if missing or foreign or shapes:
        key = (shapes or missing or foreign)[0]
        found = f"has shape {tuple(weights[key].shape)}" if key in weights else "is missing"
        wanted = f"must have shape {tuple(expected[key].shape)}" if key in expected else "is not in the model"
        raise UserError(
            f"{source} is of another architecture ({len(shapes)} shapes differ, {len(missing)} tensors are missing, "
            f"{len(foreign)} are unknown; for example {key} {found}, but {wanted}). "
            "Use the net and data settings of its training"
        )
    bad = [k for k, value in weights.items() if expected[k].isfinite().all() and not value.isfinite().all()]
    if bad:
        raise not_finite(source, bad[0])
    model.load_state_dict(weights)


def strip_prefix(state_dict: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The entries of a state dict below a prefix, without the prefix."""
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
