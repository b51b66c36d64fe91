"""engine=ray: replicas of the service in processes of their own, by Ray Serve."""

import logging
import os
import signal
import threading
from collections.abc import MutableMapping, Sequence
from typing import Any

from omegaconf import DictConfig

from src.commands.python_session import hydra_session, without_hydra
from src.utils.console import key_value_table, log
from src.utils.errors import UserError
from src.utils.imports import need
from src.utils.paths import PACKAGE

WAITING = 100  # requests that a replica holds at once; most wait for a result
BUSY = 4.0  # of them on average, above which replicas are added


class Replica:
    """The ASGI application of the service, made where it first runs: models and databases are not sent.

    Args:
        words: the command line of src.serve.
        conf: a folder of the user's own choices, as --config-dir names.
    """

    def __init__(self, words: Sequence[str], conf: str | None):
        self.words, self.conf = [*words], conf
        self.app: Any = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if self.app is None:  # at the start of its lifespan, before any request
            from src.commands.serving import Serving

            with hydra_session("serve", self.words, self.conf) as cfg:
                self.app = Serving.prepare(without_hydra(cfg), replica=True).app
        await self.app(scope, receive, send)


def check_ray() -> None:
    """Refuse engine=ray without its library.

    Raises:
        UserError: saying what to install.
    """
    need("ray", "for engine=ray", "ray-serve")


def run_replicas(cfg: DictConfig, words: Sequence[str], conf: str | None) -> None:
    """Start the replicas, and keep them until the process is stopped.

    Joins the cluster that RAY_ADDRESS names, or else starts one on this machine.

    Args:
        cfg: the settings of the service.
        words: its command line.
        conf: a folder of the user's own choices.

    Raises:
        UserError: if they cannot be started.
    """
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "30")  # 5 s are short on a busy machine
    import ray
    import torch
    from ray import serve

    on_gpu = str(cfg.device) in ("auto", "cuda") and torch.cuda.is_available()
    own: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
    ray.init(
        logging_level=logging.WARNING, runtime_env={"env_vars": {"PYTHONPATH": str(PACKAGE.parent)}},
        ignore_reinit_error=True, **own,
    )  # fmt: skip
    deployment = serve.deployment(
        name="diffusion-lab", max_ongoing_requests=WAITING, graceful_shutdown_timeout_s=40,
        ray_actor_options={"num_cpus": 1, "num_gpus": int(on_gpu)}, **scaling(cfg.replicas),
    )  # fmt: skip
    try:
        try:
            serve.start(http_options={"host": str(cfg.host), "port": cfg.port})
            made = deployment(serve.ingress(Replica(words, conf))(type("Service", (), {})))
            serve.run(made.bind(), logging_config={"enable_access_log": False})
        except Exception as error:
            reason = " ".join(str(error).split())[-300:]
            raise UserError(f"engine=ray: the replicas could not be started ({reason}); see the lines above") from error
        log.info(key_value_table([("ready", f"{cfg.replicas} replicas")]))
        until_stopped()
    finally:
        serve.shutdown()
        ray.shutdown()


def scaling(replicas: Any) -> dict[str, Any]:
    """The arguments of a deployment for a number of replicas, or for a least and a greatest number."""
    if isinstance(replicas, int):
        return {"num_replicas": replicas}
    least, most = replicas
    numbers = {"min_replicas": least, "initial_replicas": least, "max_replicas": most}
    return {"autoscaling_config": numbers | {"target_ongoing_requests": BUSY}}


def until_stopped() -> None:
    """Wait for SIGTERM or SIGINT."""
    stopped = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopped.set())
    while not stopped.wait(1.0):
        pass
