"""Images that belong to those of a data set: partners of the same name in another folder."""

import torch

from src.data.image_files import Subset
from src.utils.errors import UserError, printable


def stems(part: Subset, prefix: str = "") -> list[str]:
    """The path of each image, below a folder that contains all, without its ending."""
    return [part.files.name(i).removeprefix(prefix).rpartition(".")[0] for i in part.indices.tolist()]


def around(part: Subset) -> str:
    """The folders that contain all images of the files."""
    return Subset.of(part.files).unwrapped().prefix


def partners(part: Subset, others: Subset, setting: str) -> Subset:
    """The partner of each image of a part, in its order: the one of the same path among others, whatever its ending.

    Folders that contain all images need not have the same names.

    Args:
        part: the images.
        others: those among which their partners are.
        setting: the config key and its value, for messages.

    Raises:
        UserError: naming images without a partner, and with two.
    """
    wanted, names = stems(part), stems(others)
    if not set(wanted) & set(names):
        wanted, names = stems(part, around(part)), stems(others, around(others))
    place = {stem: i for i, stem in enumerate(names)}
    if alone := sorted(stem for stem in wanted if stem not in place):
        some = ", ".join(map(printable, alone[:3])) + (", ..." if alone[3:] else "")
        raise UserError(
            f"{setting}: {len(alone):,} of {len(wanted):,} images of {part.files.root} have no partner of the same "
            f"name, such as {some}; add them, or remove the images"
        )
    if len(place) < len(names):
        twice = next(stem for i, stem in enumerate(names) if place[stem] != i)
        raise UserError(f"{setting} holds several images named {printable(twice)}; remove all but one")
    return others.only(torch.tensor([place[stem] for stem in wanted], dtype=torch.int64))
