"""Samples as the page shows them: PNG for images, numbers for everything else."""

from base64 import b64encode
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

MOST_NUMBERS = 20_000  # in one message to the page


def png(x: np.ndarray) -> bytes:
    """Encode images (N, C, H, W) in [0, 1] as one PNG, side by side."""
    pixels = (np.nan_to_num(x).clip(0, 1) * 255).round().astype(np.uint8)
    row = np.concatenate(pixels.transpose(0, 2, 3, 1), 1)
    row = row[..., 0] if row.shape[-1] == 1 else row[..., :3] if row.shape[-1] >= 3 else row.mean(-1).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(row).save(file, "PNG")
    return file.getvalue()


def shown(x: np.ndarray, kind: str) -> dict[str, Any]:
    """What the page draws of samples (N, C, *S): a picture, or the numbers with their shape."""
    if kind == "images":
        return {"picture": "data:image/png;base64," + b64encode(png(x)).decode()}
    if kind == "volumes":
        x = x[:, :, x.shape[2] // 2]  # the middle slice
    most = max(1, MOST_NUMBERS // max(1, x[0].size))
    part = np.nan_to_num(x[:most], posinf=0, neginf=0)
    return {"numbers": [float(f"{value:.4g}") for value in part.ravel()], "shape": list(part.shape)}
