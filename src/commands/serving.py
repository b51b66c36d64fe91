"""Serve a run: make the parts of the service from the config of src.serve, and run its web server."""

import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.commands.cli import to_container
from src.commands.options import ServeOptions
from src.commands.ray_serving import check_ray, run_replicas
from src.runs.check_config import check_options
from src.runs.registry import Registry, is_champion
from src.utils.console import key_value_table, log
from src.utils.errors import UserError
from src.utils.override_syntax import assignment, read
from src.utils.paths import check_writable

# The libraries of the extra `serve`.
try:
    import uvicorn
    from fastapi import FastAPI

    from src.service.app import create_app
    from src.service.broadcast import Broadcast
    from src.service.metrics import Metrics
    from src.service.models import Models
    from src.service.results import Results, Retention
    from src.service.service import Service
    from src.service.settings import LOOPBACK, Access, Limits
    from src.service.store import Store
    from src.service.worker import Worker
except ImportError as error:
    raise UserError(
        f"the service needs {error.name}, which is not installed: pip install 'diffusion-lab[serve]', or make serve"
    ) from error
from src.commands.champions import Champions
from src.commands.served_model import ServedModel, command_line

# What src.sample does not know, and what is passed to it in any case.
OWN_KEYS = (
    "host", "port", "hosts", "token", "folder", "database", "limits", "retention", "engine", "replicas", "run",
    "batch_size", "hydra",
)  # fmt: skip
RAY = "ray"


class Serving:
    """A service that is ready to run.

    Attributes:
        cfg: the settings of the command.
        service: its parts.
        app: the ASGI application.
    """

    def __init__(self, cfg: DictConfig, service: Service, app: FastAPI):
        self.cfg, self.service, self.app = cfg, service, app

    @classmethod
    def prepare(cls, cfg: DictConfig, replica: bool = False) -> "Serving":
        """Check the settings, load the model and open the database.

        Args:
            cfg: the settings of the command.
            replica: True for one of several processes behind one address.

        Raises:
            UserError: for every mistake in the settings.
        """
        if cfg.run is None:
            raise UserError("run=RUN must be given: a run folder, or run=latest for the newest run")
        check_options(to_container(cfg), ServeOptions)
        check_writable("folder", cfg.folder)
        if not replica:
            check_port(cfg.host, cfg.port)
        check_replicas(cfg.engine, cfg.replicas)
        folder, models = Path(cfg.folder), served_models(cfg)
        results = Results(folder / "results")
        store = Store(cfg.database or f"sqlite:///{folder.absolute()}/jobs.db", shared=cfg.engine == RAY)
        broadcast, metrics = Broadcast(), Metrics(models.current.digest)
        worker = Worker(models, store, results, broadcast, metrics, Retention(**cfg.retention), cfg.batch_size)
        service = Service(models, store, results, broadcast, metrics, worker, Limits(**cfg.limits), access(cfg))
        return cls(cfg, service, create_app(service))

    def announce(self) -> None:
        """Say what is served, and where."""
        host, model = str(self.cfg.host), self.service.model
        shown = f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host
        rows = [
            ("page", f"http://{shown}:{self.cfg.port}"),
            ("API", f"http://{shown}:{self.cfg.port}/api"),
            ("run", f"{model.card['run']} ({model.card['weights']}, weights {model.digest})"),
            ("kept in", str(self.cfg.folder)),
        ]
        if host not in LOOPBACK and self.service.access.token is None:
            rows.append(("WARNING", "whoever reaches this address may use the service; set token=SECRET"))
        log.info(key_value_table(rows))

    def replica_overrides(self) -> list[str]:
        """The command line, with paths that hold wherever a replica is started."""
        cfg, run = self.cfg, str(self.cfg.run)
        paths = {"folder": cfg.folder, "paths.outputs": cfg.paths.outputs}
        paths |= {} if is_champion(run) else {"run": self.service.model.card["run"]}
        words = [assignment(key, str(Path(str(path)).absolute())) for key, path in paths.items()]
        return [*HydraConfig.get().overrides.task, *words]

    def run(self) -> None:
        """Answer requests until the process is stopped."""
        if self.cfg.engine == RAY:
            run_replicas(self.cfg, self.replica_overrides(), own_choices())
            return
        uvicorn.run(
            self.app, host=str(self.cfg.host), port=self.cfg.port, log_config=None, access_log=False,
            server_header=False, limit_concurrency=1000, timeout_graceful_shutdown=5,
        )  # fmt: skip


def check_replicas(engine: str, replicas: Any) -> None:
    """Refuse replicas that the engine does not have.

    Raises:
        UserError: saying what to set.
    """
    numbers = [replicas] if isinstance(replicas, int) else [*replicas]
    if engine == RAY:
        check_ray()
    elif numbers != [1]:
        raise UserError(f"replicas={replicas} needs engine=ray")
    if len(numbers) > 2 or sorted(numbers) != numbers:
        raise UserError(f"replicas must be a number, or [LEAST,GREATEST], got {replicas}")


def served_models(cfg: DictConfig) -> Models:
    """The model of a run, or with run=champion those of a registry.

    Raises:
        UserError: if it cannot be loaded.
    """
    words, choices = HydraConfig.get().overrides.task, own_choices()

    def make(run: str) -> ServedModel:
        return ServedModel(sampling_words(cfg, run, words), choices)

    if not is_champion(str(cfg.run)):
        return Models(make(str(cfg.run)))
    if (cfg.ckpt, cfg.weights) != ("best", "ema"):
        raise UserError(f"run={cfg.run} is served with ckpt=best weights=ema, which were compared; leave both out")
    champions = Champions(Registry.find(cfg.paths.outputs, str(cfg.run)), make)
    models = Models(champions.champion(), champions)
    for digest, version in champions.registry.versions().items():
        of_version = sampling_words(cfg, str(champions.registry.folder(version)), words)
        models.commands.setdefault(digest, partial(command_line, tuple(of_version)))
    return models


def sampling_words(cfg: DictConfig, run: str, words: Sequence[str]) -> list[str]:
    """The command line of src.sample that loads the model of a run with the settings of the service."""
    own = [word for word in words if read(word).key.split(".")[0] not in OWN_KEYS]
    return [assignment("run", run), assignment("batch_size", cfg.batch_size), *own]


def own_choices() -> str | None:
    """The folder that --config-dir names, if any."""
    sources = HydraConfig.get().runtime.config_sources
    return next((str(source.path) for source in sources if source.provider == "command-line"), None)


def access(cfg: DictConfig) -> Access:
    """Who may use the service: on the loopback address only pages of this machine, elsewhere those of `hosts`."""
    token = None if cfg.token is None else str(cfg.token)
    if str(cfg.host) not in LOOPBACK and not cfg.hosts:
        return Access(token, None)
    return Access(token, (*LOOPBACK, str(cfg.host), *map(str, cfg.hosts)))


def check_port(host: Any, port: int) -> None:
    """Refuse an address that cannot be listened on, before the model is loaded.

    Raises:
        UserError: naming the reason.
    """
    try:
        family = socket.getaddrinfo(str(host), port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((str(host), port))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"host={host} port={port} cannot be listened on ({reason}); choose another port") from error
