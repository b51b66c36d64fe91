"""Logger to Weights & Biases."""

import os
import shutil
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from src.utils.errors import UserError
from src.utils.files import read_yaml
from src.utils.hardware import is_main_process


class RunFolderWandbLogger(WandbLogger):
    """Logger to Weights & Biases: metrics, pictures, config and finally the checkpoints; all files stay in the run
    folder.

    Lightning's logger uploads only checkpoints of its ModelCheckpoint, and none offline.

    Args:
        folder: the run folder; a resumed run keeps its id.
        offline: True to write files for a later `wandb sync`, without account and network.
        artifact: True to upload best.ckpt and last.ckpt at the end.
        arguments: arguments of `wandb.init`, such as project and name; None is left out.

    Raises:
        UserError: if wandb is not installed or not logged in.
    """

    def __init__(self, folder: str, offline: bool = False, artifact: bool = True, **arguments: Any):
        check_login(offline)
        self.folder, self.offline, self.artifact = Path(folder), offline, artifact
        arguments = {key: value for key, value in arguments.items() if value is not None}
        if offline:  # Lightning's own `offline` sets a variable that reaches the next job of a sweep
            arguments["mode"] = "offline"
        super().__init__(save_dir=folder, id=previous_run_id(self.folder), **arguments)
        self._wandb_init.pop("anonymous", None)  # wandb warns of it at any value

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of wandb, started on first access.

        Raises:
            UserError: if wandb refuses it or cannot be reached.
        """
        if self._experiment is not None:
            return self._experiment
        import wandb

        self._wandb_init["config"] = read_yaml(self.folder / "config.yaml", dict, "Start a new run")
        try:
            return super().experiment
        except wandb.Error as error:
            raise UserError(
                f"logger=wandb: {error}. Set logger.wandb.offline=true or logger=tensorboard to run without it"
            ) from error

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Upload the checkpoints and end the run of wandb, so that the next job of a sweep starts its own."""
        if self._experiment is None:
            return
        if self.artifact and status == "success":
            self.log_checkpoints()
        self._experiment.finish(exit_code=0 if status == "success" else 1)
        self._experiment = None

    def log_checkpoints(self) -> None:
        """Upload best.ckpt and last.ckpt as an artifact of type `model`."""
        import wandb

        artifact = wandb.Artifact(f"model-{self.experiment.id}", type="model")
        for path in (self.folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")):
            if path.exists():
                # Uploaded from its place, since wandb would copy it to the user's home otherwise.
                artifact.add_file(str(self.copy(path) if self.offline else path), policy="immutable")
        self.experiment.log_artifact(artifact)

    def copy(self, path: Path) -> Path:
        """Copy a file beside the other files of wandb, since a resumed run may replace it before `wandb sync`."""
        copy = Path(self.experiment.dir).parent / "checkpoints" / path.name
        copy.parent.mkdir(exist_ok=True)
        return Path(shutil.copyfile(path, copy))


def check_login(offline: bool) -> None:
    """Check that wandb is installed and logged in, before the run begins.

    Raises:
        UserError: if it is not.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "logger=wandb needs a package that is not installed: pip install wandb, "
            "or pip install 'diffusion-lab[wandb]'"
        ) from error
    if offline or os.environ.get("WANDB_MODE", "online") != "online" or not is_main_process():
        return
    try:
        reason = None if wandb.login(prompt=False, verify=False) else "not logged in to Weights & Biases"
    except wandb.Error as error:
        reason = str(error)
    if reason:
        raise UserError(
            f"logger=wandb: {reason}; run `wandb login` once, or keep it offline with logger.wandb.offline=true"
        )


def previous_run_id(folder: Path) -> str | None:
    """The id of the wandb run in this folder, from the name of the folder made by wandb, or None."""
    began = sorted(folder.glob("wandb/*run-*-*"))
    return began[0].name.rpartition("-")[2] if began else None
