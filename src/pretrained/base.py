"""The base class of pretrained models of other libraries."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

from src.utils.errors import UserError


class Pretrained(ABC):
    """A model of another library, from which a run starts. A new one implements `parts` and `weights`.

    Args:
        path: the file or folder.
        first_time: the model's time of the least noise.
    """

    def __init__(self, path: str, first_time: Literal[0, 1] = 0):
        self.path, self.first_time = Path(path), first_time
        if not self.path.exists():
            raise UserError(f"init_from: there is no {path}")

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """The parts of a run that it determines, as nodes of its config: net, schedule, parameterization and so on."""

    @abstractmethod
    def weights(self) -> dict[str, Any]:
        """The state dict of the network, as it is in the net of `parts`."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int | None, ...]:
        """(C, *S) of the data, None for what it does not determine."""

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse data of another shape.

        Raises:
            UserError: naming both shapes.
        """
        known = self.shape
        if len(known) != len(shape) or any(a not in (None, b) for a, b in zip(known, shape, strict=True)):
            wanted = " x ".join("?" if side is None else str(side) for side in known)
            raise UserError(
                f"init_from: {self.path} is a model of data of shape {wanted}, but data= has "
                f"{' x '.join(map(str, shape))}; choose data of that shape, such as by data.size="
            )


def weights_only(file: Path) -> Any:
    """The content of a file of torch.save, tensors and plain containers alone; no other pickle is loaded."""
    from src.utils.files import read_tensors

    return read_tensors(file, dict, "Only files of tensors and plain containers are loaded")
