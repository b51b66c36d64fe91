"""Export a run: write its model in a format of others, verify it against the run, record what it was made from."""

from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from src import __version__
from src.commands.cli import to_container
from src.commands.export.hub import check_push, push
from src.commands.export.model_card import write_card
from src.commands.export.model_registry import check_registration, register
from src.commands.export.target import Target
from src.commands.options import ExportOptions
from src.commands.sampling import Sampling
from src.formats.base import Format, Model
from src.runs.check_config import check_options
from src.runs.registry import is_champion
from src.runs.run import CONFIG, SAMPLING_GROUPS, Run
from src.utils.atomic import write_json
from src.utils.checkpoints import load_checkpoint
from src.utils.console import key_value_table, log
from src.utils.errors import UserError, config_errors
from src.utils.model_folder import RECORD, sha256_of
from src.utils.state_dicts import weights_digest


class Exporting:
    """A run to be exported.

    Attributes:
        cfg: the settings of the command.
        model: the model of the run.
        format: the format to write it in.
        target: the folder to write it to.
        champion: True if the run was named as the champion of a registry.
    """

    def __init__(self, cfg: DictConfig, model: Model, form: Format, target: Target, champion: bool = False):
        self.cfg, self.model, self.format, self.target, self.champion = cfg, model, form, target, champion

    @classmethod
    def prepare(cls, cfg: DictConfig, named: set[str]) -> "Exporting":
        """Check the settings and the folder, and load the model.

        Args:
            cfg: the settings of the command.
            named: the keys on the command line; of the others the run's own settings are used, if it has them.

        Raises:
            UserError: for every mistake in the settings, and for a model that the format cannot hold.
        """
        with open_dict(cfg):
            cfg.gif = False
        check_options(to_container(cfg), ExportOptions)
        with config_errors("format"):
            form: Format = instantiate(cfg.format)
        form.check_libraries()
        if cfg.run is None:
            raise UserError("run=RUN must be given: a run folder, or run=latest for the newest run")
        run = Run.find(str(cfg.run), cfg.paths.outputs)
        name = HydraConfig.get().runtime.choices["format"]
        target = Target(Path(str(cfg.out)) if cfg.out is not None else run.path / "exports" / name, cfg.overwrite)
        target.check()
        if cfg.push is not None:
            check_push(cfg.push)
        if cfg.mlflow is not None:
            check_registration(cfg.mlflow, name)
        champion = is_champion(str(cfg.run))
        sampling = Sampling.prepare(cfg, named)
        config = to_container(sampling.run.config()) | {part: to_container(cfg)[part] for part in SAMPLING_GROUPS}
        model = Model(sampling.pipeline, sampling.run, config, made_from(sampling), cfg.n)
        form.check(model)
        return cls(cfg, model, form, target, champion)

    def write(self) -> None:
        """Write the folder, verify it against the run, and then put it in its place.

        Raises:
            UserError: if what was written differs from the run by more than the tolerance of the format.
        """
        model, form = self.model, self.format
        with self.target.replaced() as folder:
            form.write(model, folder)
            differences = form.verify(model, folder)
            for name, difference in differences.items():
                if not difference <= form.tolerance:
                    raise UserError(
                        f"format={form.name}: the {name} differ from the run's by {difference:.2g}, more than "
                        f"format.tolerance={form.tolerance:g}; nothing is kept"
                    )
            write_card(model, form, folder)
            self.write_record(folder, differences)
        files = sorted(path for path in self.target.folder.iterdir() if path.name[0] != ".")
        listed = ", ".join(f"{path.name}{'/' if path.is_dir() else ''}" for path in files)
        compared = ", ".join(f"{difference:.2g} in {name}" for name, difference in differences.items())
        rows = [
            ("exported", f"{model.run.path} ({model.made_from['checkpoint']}) as {form.name}"),
            ("largest difference", f"{compared}; accepted is {form.tolerance:g}"),
            ("written", f"{self.target.folder}: {listed}"),
        ]
        log.info(key_value_table(rows))

    def write_record(self, folder: Path, differences: Any) -> None:
        """Write what the folder was made from and what it holds, by digest."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        record = {
            "format": self.format.name,
            "version": __version__,
            "torch": torch.__version__,
            "made_from": self.model.made_from,
            "largest_difference": differences,
            "tolerance": self.format.tolerance,
            "files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
        }
        write_json(folder / RECORD, record)

    def push(self) -> None:
        """Upload the folder, if the command line says so."""
        if self.cfg.push is not None:
            log.info(key_value_table([("uploaded", push(self.target.folder, self.cfg.push, self.cfg.private))]))

    def register(self) -> None:
        """Register the folder in MLflow, if the command line says so."""
        if (uri := self.cfg.mlflow) is not None:
            run, digest = self.model.run, weights_digest(self.model.pipeline.denoiser.state_dict())
            name = str(self.cfg.name or run.metadata().get("name") or run.path.name)
            tags = {"digest": digest, "run": run.path, "data": run.data_id}
            version = register(uri, name, self.target.folder, tags, self.champion)
            log.info(key_value_table([("registered", f"version {version} of {name} in {uri}")]))


def made_from(sampling: Sampling) -> dict[str, Any]:
    """The files that a model is read from and their digests."""
    run, file, metadata = sampling.run, sampling.file, sampling.run.metadata()
    assert file is not None
    steps = load_checkpoint(file, mmap=True)["global_step"] if file.is_file() else None
    return {
        "run": run.path.resolve().name,
        "name": metadata.get("name"),
        "checkpoint": file.name,
        "ckpt": str(sampling.cfg.ckpt),
        "weights": str(sampling.cfg.weights),
        "step": steps,
        "checkpoint_sha256": sha256_of(file),
        "config_sha256": sha256_of(run.path / CONFIG),
        "data": run.data_id,
        "commit": metadata.get("commit"),
    }
