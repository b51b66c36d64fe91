"""Retrain a model on new data: train a challenger, compare it with the champion, and promote the better one."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from src.commands.cli import to_container
from src.commands.export.model_registry import check_registration
from src.commands.options import RetrainOptions
from src.commands.python_session import hydra_session, without_hydra
from src.commands.retrain.challenger import challenger_run, train_challenger
from src.commands.retrain.contest import Contest, Verdict
from src.commands.retrain.new_data import joined_config, load_joined
from src.data.joined import Joined
from src.runs.check_config import check_config, check_options
from src.runs.loading import read_weights
from src.runs.registry import FIRST, PROMOTED, REFUSED, Registry, Version, is_champion
from src.runs.run import Run
from src.utils.atomic import write_json
from src.utils.console import key_value_table, log, start_logging
from src.utils.errors import UserError
from src.utils.override_syntax import assignment, command
from src.utils.paths import check_writable
from src.utils.state_dicts import weights_digest

RESULT = "retrain.json"


class Retraining:
    """A retraining that can begin.

    Attributes:
        cfg: the settings of the command.
        registry: of the versions of the model.
        champion, challenger: their runs.
        version: the champion in the registry.
        data: old and new data.
    """

    def __init__(
        self, cfg: DictConfig, registry: Registry, version: Version, champion: Run, challenger: Run, data: Joined
    ):
        self.cfg, self.registry, self.version, self.data = cfg, registry, version, data
        self.champion, self.challenger, self.contest = champion, challenger, Contest(data, cfg)

    @classmethod
    def prepare(cls, cfg: DictConfig) -> "Retraining":
        """Find the champion, load the data, and make the folder of the challenger.

        Raises:
            UserError: for every mistake in the settings, and new data that do not fit the run.
        """
        check_retraining(cfg)
        champion = Run.find(str(cfg.run), cfg.paths.outputs)
        registry = registry_of(cfg, champion)
        cfg.name = registry.name
        digest = digest_of(champion)
        check_champion(registry, champion, digest)
        trained = champion.config()
        node = joined_config(cfg, champion, trained)
        check_config({"data": node})
        data = load_joined(node, trained)
        challenger = challenger_run(cfg, champion, node, data.identity(), digest)
        version = registry.champion
        if version is None:
            version = Version(digest, registry.place_of(champion.path), data={"id": champion.data_id})
            registry.add(FIRST, version, None)
        return cls(cfg, registry, version, champion, challenger, data)

    def announce(self) -> None:
        """Say what is trained on what."""
        rows = [
            ("champion", f"{self.champion.path} (weights {self.version.digest})"),
            ("new data", self.data.new.source),
            ("challenger", str(self.challenger.path)),
            ("registry", str(self.registry.file)),
        ]
        log.info(f"\nRetraining {self.registry.name}\n{key_value_table(rows)}\n")

    def evaluate_champion(self) -> None:
        """Compute the metrics of the champion, before the training: then a metric that cannot be is found now.

        Raises:
            UserError: for a metric that does not apply, or does not decide.
        """
        self.contest.add(self.champion)
        log.info(f"{self.contest.metric} of the champion: {self.contest.champion}\n")

    def train(self) -> None:
        """Train the challenger; a command that was stopped goes on from its last checkpoint."""
        if not self.challenger.finished:
            train_challenger(self.challenger, self.cfg.trust)
        if not self.challenger.finished:
            raise UserError(f"{self.challenger.path} was stopped; the same command goes on with it")

    def decide(self) -> Verdict:
        """Compare both on held-out data, and write the outcome to the registry.

        Raises:
            OtherChampion: if the champion was changed in the meantime.
        """
        contest = self.contest
        contest.add(self.challenger)
        verdict, values = contest.verdict(), contest.as_dict()
        found = {"promoted": verdict.promoted, "reason": verdict.reason, "metric": contest.metric, "metrics": values}
        write_json(self.challenger.path / RESULT, found | {"champion": self.version.digest})
        identity = {"id": self.challenger.data_id, "new": str(self.cfg.new), **self.data.new.identity()}
        version = Version(
            digest_of(self.challenger), self.registry.place_of(self.challenger.path), self.version.digest, identity,
            {part: values[part]["challenger"] for part in values},
        )  # fmt: skip
        self.registry.add(PROMOTED if verdict.promoted else REFUSED, version, self.version.digest)
        rows = [
            ("promoted" if verdict.promoted else "not promoted", verdict.reason),
            ("champion", f"{self.registry.champion_folder} (run=champion)"),
            ("written", f"{self.challenger.path / RESULT}"),
        ]
        if verdict.promoted:
            rows.append(("undo", command("retrain", "rollback=true", f"name={self.registry.name}")))
        log.info(f"\n{contest.table()}\n\n{key_value_table(rows)}")
        return verdict

    def register(self) -> None:
        """Register the champion in MLflow, if the command line says so."""
        if self.cfg.mlflow is not None:
            register_champion(self.cfg, self.registry)


def check_retraining(cfg: DictConfig) -> None:
    """Refuse settings that are wrong for any run.

    Raises:
        UserError: naming the first that is wrong.
    """
    start_logging(None)
    check_options(to_container(cfg), RetrainOptions)
    if cfg.name is not None and not re.fullmatch(r"\w[\w.-]*", str(cfg.name)):
        raise UserError(f"name must be letters, digits, _, - and ., got {cfg.name}")
    check_writable("paths.outputs", str(cfg.paths.outputs))
    if cfg.mlflow is not None:
        check_registration(cfg.mlflow)
    if cfg.new is None:
        raise UserError("new=DATA must be given: a folder of pictures or an array; or rollback=true")


def registry_of(cfg: DictConfig, champion: Run) -> Registry:
    """The registry of the model: named by name=, or by run=champion:NAME, or else as the run."""
    if cfg.name is not None:
        return Registry(cfg.paths.outputs, str(cfg.name))
    if is_champion(str(cfg.run)):
        return Registry.find(cfg.paths.outputs, str(cfg.run))
    return Registry(cfg.paths.outputs, str(champion.metadata().get("name") or champion.settings()["name"]))


def register_champion(cfg: DictConfig, registry: Registry) -> None:
    """Give the champion the alias of that name in MLflow, where it is exported and registered if it is not yet."""
    from src.commands.export.command import Exporting
    from src.commands.export.model_registry import set_champion

    champion = registry.present()
    if (version := set_champion(cfg.mlflow, registry.name, champion.digest)) is not None:
        log.info(key_value_table([("champion", f"version {version} of {registry.name} in {cfg.mlflow}")]))
        return
    given = {"run": f"champion:{registry.name}", "name": registry.name, "mlflow": cfg.mlflow, "overwrite": True}
    given |= {"paths.outputs": str(cfg.paths.outputs), "trust": cfg.trust}
    words = [assignment(key, value) for key, value in given.items()]
    with hydra_session("export", words) as composed:
        exporting = Exporting.prepare(without_hydra(composed), {*given})
        exporting.write()
        exporting.register()


def digest_of(run: Run) -> str:
    """The digest of the averaged weights of best.ckpt."""
    return weights_digest(read_weights(run, "best", "ema")[0])


def check_champion(registry: Registry, run: Run, digest: str) -> None:
    """Refuse to go on from other weights than those of the champion.

    Raises:
        UserError: naming the champion.
    """
    version = registry.champion
    if version is None or version.digest == digest:
        return
    folder = registry.folder(version)
    if folder.resolve() == run.path.resolve():
        raise UserError(
            f"the weights of {folder} are no longer those of the champion {version.digest} (now {digest}): the run was "
            "trained further. Restore them, go back with rollback=true, or give the run another name=NAME"
        )
    raise UserError(
        f"the champion of {registry.name} is {folder}, not {run.path}; set run=champion, or another name=NAME"
    )


def roll_back(cfg: DictConfig) -> None:
    """Make an earlier champion the champion again.

    Raises:
        UserError: if there is none.
    """
    start_logging(None)
    check_options(to_container(cfg), RetrainOptions)
    asked = f"champion:{cfg.name}" if cfg.name is not None else str(cfg.run)
    if not is_champion(asked):
        raise UserError(f"rollback= is for a champion, got run={asked}; leave run= out, or set name=NAME")
    registry = Registry.find(cfg.paths.outputs, asked)
    before, after = registry.rollback(None if cfg.rollback is True else str(cfg.rollback))
    rows: list[tuple[str, Any]] = [
        ("champion", f"{registry.folder(after)} (weights {after.digest})"),
        ("before", f"{registry.folder(before)} (weights {before.digest})"),
    ]
    log.info(key_value_table(rows))
    if cfg.mlflow is not None:
        register_champion(cfg, registry)
    if not Path(registry.folder(after)).is_dir():
        log.warning(f"WARNING: {registry.folder(after)} was removed")
