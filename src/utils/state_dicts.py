"""Weights of a model, checked before they are loaded, and the digest that identifies them."""

import hashlib
from pathlib import Path
from typing import Any

from src.utils.errors import UserError, not_finite


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


def weights_digest(weights: dict[str, Any]) -> str:
    """A hash of a state dict, 16 hexadecimal digits."""
    import torch

    found = hashlib.sha256()
    for name, value in sorted(weights.items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:16]
