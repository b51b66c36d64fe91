"""Folders of small images, and data modules on them."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.image_folder import ImageFolder
from src.utils.errors import UserError


def pattern(height=6, width=5, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def rgb(array):
    return torch.from_numpy(array).permute(2, 0, 1)


def tree(root, names, size=(6, 5)):
    """Write a different image under each name."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pattern(*size, seed=i)).save(root / name, **({"lossless": True} if "webp" in name else {}))
    return root


def zipped(root):
    """Pack the tree in an archive that includes the folder itself."""
    return shutil.make_archive(str(root) + "-zip", "zip", root.parent, root.name)


def images(root, **settings):
    data = ImageFolder(root=str(root), **{"size": [6, 5], "batch_size": 2} | settings)
    data.prepare_data()
    data.setup()
    return data


def refused(root, **settings):
    with pytest.raises(UserError) as caught:
        images(root, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def everything(dataset, epoch=0):
    return dataset[epoch, torch.arange(len(dataset))]


CLASSES = [f"{kind}/{i}.{ending}" for kind in ("cat", "dog", "eel") for i, ending in enumerate(("png", "bmp", "webp"))]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
