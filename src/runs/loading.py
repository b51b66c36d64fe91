"""Load the model of a run: its denoiser, with the weights of a checkpoint."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

from hydra.utils import instantiate
from omegaconf import DictConfig

from src.diffusion.guidance import CFG
from src.diffusion.teacher import Teacher
from src.runs.own_code import same_code_after
from src.runs.run import Run
from src.utils.building import assemble_denoiser
from src.utils.errors import UserError, config_errors
from src.utils.ranges import PositiveFloat
from src.utils.state_dicts import load_weights
from src.utils.units import Kind, Units, kind_of, units_of


def build_denoiser(cfg: DictConfig | dict[str, Any], context: AbstractContextManager | None = None) -> Any:
    """Build the denoiser of a config: network, schedule, parameterization, variance and condition.

    Args:
        cfg: the config of a run.
        context: the context in which the network is built.
    """
    return assemble_denoiser(cfg, instantiate, context)


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


def load_teacher(
    run: str | None, ckpt: str = "best", weights: str | PositiveFloat = "ema", guidance_scale: float | None = None
) -> Teacher | None:
    """Load the run that a loss distills, with its guidance; None without a run.

    Args:
        run: a run folder.
        ckpt, weights: its checkpoint and weights.
        guidance_scale: scale of classifier-free guidance, 1 for none; None for the guidance that the run samples with.

    Raises:
        UserError: if there is no such run or checkpoint.
    """
    if run is None:
        return None
    guidance = instantiate(Run.find(run).config().guidance) if guidance_scale is None else CFG(guidance_scale)
    return Teacher(load_denoiser(run, ckpt, weights), guidance)


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


def strip_prefix(state_dict: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The entries of a state dict below a prefix, without the prefix."""
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
