"""The challenger: a run that goes on from the weights of the champion, on old and new data."""

import json
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.commands.cli import to_container
from src.commands.config import LAUNCH_KEYS
from src.commands.overrides import TRAINING
from src.commands.retrain.new_data import first_data
from src.runs.check_config import check_config
from src.runs.run import Run, portable, relocate_paths
from src.utils.errors import UserError
from src.utils.override_syntax import assignment

SHARE_OF_STEPS = 4  # the training takes this part of the steps of the first one


def challenger_run(cfg: DictConfig, champion: Run, data: dict[str, Any], identity: dict[str, Any], digest: str) -> Run:
    """The run folder of the challenger: a new one, or that of an earlier start of the same command.

    Args:
        cfg: the settings of the command.
        champion: the run of the champion.
        data: the config of old and new data.
        identity: what identifies them.
        digest: of the weights of the champion.

    Raises:
        UserError: for a setting of the training that its parts do not know.
    """
    trained = champion.config()
    plain: Any = to_container(trained)
    settings = training_settings(cfg, plain, data)
    check_config(settings)
    own = [cfg.name, digest, identity, {key: value for key, value in portable(settings).items() if key != "paths"}]
    key = sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:12]
    run = Run(Path(str(cfg.paths.outputs)).absolute() / "retrain" / str(cfg.name) / key)
    if not run.exists:
        settings = relocate_paths(settings, str(champion.path.absolute()), str(run.path))
        settings["init_from"] = str(champion.checkpoint("best").absolute())
        for name in ("code", "conf"):  # of the user's own parts
            if (champion.path / name).is_dir():
                shutil.copytree(champion.path / name, run.path / name, dirs_exist_ok=True)
        run.create(settings, [], latest=False, key=key, code=champion.metadata().get("code", {}))
    return run


def training_settings(cfg: DictConfig, plain: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """The config of the challenger: that of the champion, with other data and length, and what the command changes."""
    settings = {key: value for key, value in plain.items() if key not in LAUNCH_KEYS}
    again = first_data(settings["data"]) is not settings["data"]  # the champion was retrained itself
    own = OmegaConf.create(settings | {"data": data, "pretrained": None, "init_from": None})
    own.paths.outputs = str(Path(str(cfg.paths.outputs)).absolute())
    own.trainer.max_time = None
    if own.trainer.max_steps > 0 and not again:
        own.trainer.max_steps = max(1, own.trainer.max_steps // SHARE_OF_STEPS)
    for part in TRAINING:
        if cfg.get(part) is not None:
            changed: Any = OmegaConf.to_container(cfg[part], resolve=False)
            own[part] = changed if is_choice(changed) else OmegaConf.merge(own[part], changed)
    trainer = own.trainer
    if cfg.get("trainer") is not None and "max_epochs" in cfg.trainer and "max_steps" not in cfg.trainer:
        trainer.max_steps = -1
    elif trainer.max_steps > 0:
        trainer.max_epochs = -1
        if isinstance(trainer.val_check_interval, int):
            trainer.val_check_interval = min(trainer.val_check_interval, trainer.max_steps)
    return to_container(own)


def is_choice(node: dict[str, Any]) -> bool:
    """True for a part that was chosen, or for several by name; False for some of its settings."""
    parts = [node, *(value for value in node.values() if isinstance(value, dict))]
    return any("_target_" in part for part in parts)


def train_challenger(run: Run, trust: bool) -> None:
    """Train a run in a process of its own, from its last checkpoint if there is one.

    Raises:
        UserError: if the training fails.
    """
    words = [assignment("resume", str(run.path)), *(["trust=true"] if trust else [])]
    process = subprocess.Popen([sys.executable, "-m", "src.train", *words])
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # it saves a checkpoint
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.wait()
    if code:
        raise UserError(
            f"the training of the challenger in {run.path} ended with the exit code {code}; the champion is as before. "
            "The same command goes on with it"
        )
