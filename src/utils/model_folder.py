"""Folders of exported models: a config, weights, and a record of what they were made from.

Reading one needs torch and safetensors, but neither Lightning nor Hydra.
"""

import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.files import Damaged, read_json, reading
from src.utils.imports import need
from src.utils.targets import untrusted_targets

CONFIG, WEIGHTS, RECORD, CARD, CODE = "config.json", "model.safetensors", "export.json", "README.md", "code"
ADVICE = "Export the run again, or download the folder again"
PART = {"_target_": str}
SETTINGS = {
    "version": str, "data": {"channels": int, "size": [int]}, "self_conditioning_prob": (float, bool),
    "flow_map?": bool,
    "net": PART, "condition": PART, "schedule": PART, "parameterization": PART, "variance": PART,
    "sampler": PART, "guidance": dict, "pipeline": dict,
}  # fmt: skip
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")


@dataclass
class ModelFolder:
    """What `format=safetensors` writes.

    Attributes:
        path: the folder.
        config: the nodes of the parts, and the settings of the pipeline.
    """

    path: Path
    config: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path, trust: bool = False) -> "ModelFolder":
        """Read the config of a folder, and check what its targets are.

        Args:
            folder: the folder.
            trust: True to run code that the config names outside this project, from the folder `code` beside it.

        Raises:
            UserError: if it is no such folder, damaged, or names targets outside this project.
        """
        path = Path(folder)
        if not (path / CONFIG).is_file():
            what = "holds no" if path.is_dir() else "does not exist, and so has no"
            raise UserError(f"{path} {what} {CONFIG}; name a folder that python -m src.export format=safetensors wrote")
        try:
            config = read_json(path / CONFIG, SETTINGS, ADVICE)
        except Damaged as error:
            raise Damaged(f"{error}; it must be one that python -m src.export format=safetensors wrote") from error
        for place, name in [] if trust else untrusted_targets(config):
            raise UserError(
                f"{path / CONFIG}: {place}._target_={name} is neither a part of this project nor a class of torch that "
                "it may name. If you trust who made the folder, pass trust=True: that code runs"
            )
        if trust and (path / CODE).is_dir() and str((path / CODE).absolute()) not in sys.path:
            sys.path.insert(0, str((path / CODE).absolute()))
        return cls(path, config)

    def weights(self) -> dict[str, Any]:
        """The tensors of the weights by name, on the CPU.

        Raises:
            UserError: if they are missing or damaged; a pickle in their place is never loaded.
        """
        file = self.path / WEIGHTS
        need("safetensors", "to read the weights")
        if not file.is_file():
            for pickle in (found for pattern in PICKLES for found in self.path.glob(pattern)):
                raise UserError(f"{self.path} holds {pickle.name}, a pickle, which is never loaded, and no {WEIGHTS}")
        return read_safetensors(file)


def read_safetensors(file: Path) -> dict[str, Any]:
    """The tensors of a .safetensors file by name, on the CPU.

    Raises:
        Damaged: if it is missing, truncated or of another kind, such as a pickle.
    """
    need("safetensors", "to read the weights")
    from safetensors.torch import load_file

    with reading(file, ADVICE):
        return load_file(file)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file; of a folder, of the names and digests of its files."""
    if file.is_dir():
        names = sorted(path for path in file.rglob("*") if path.is_file())
        text = "".join(f"{path.relative_to(file).as_posix()} {sha256_of(path)}\n" for path in names)
        return sha256(text.encode()).hexdigest()
    with file.open("rb") as opened:
        hashed = sha256()
        while part := opened.read(1 << 20):
            hashed.update(part)
    return hashed.hexdigest()
