"""What the commands share: start Hydra, and turn every mistake of a user into one line."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.utils.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"


def run_command(
    task: Callable[[DictConfig], Any], config_name: str, complete: Callable[[list[str]], list[str]] = list
) -> None:
    """Run `task` with the config that Hydra composes from `conf/<config_name>.yaml` and the command line.

    Args:
        task: takes the composed config.
        config_name: the file in conf/, without its ending.
        complete: makes the words that Hydra sees of those on the command line.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises its errors to us instead of printing them
    start = hydra.main(config_path=str(CONF), config_name=config_name, version_base="1.3")
    with one_line_errors(config_name):
        sys.argv[1:] = complete(sys.argv[1:])
        # Twice, since Hydra prints the job's command line before it passes on an error of the job.
        start(one_line_errors(config_name)(task))()


@contextmanager
def one_line_errors(config_name: str) -> Iterator[None]:
    """Leave with one line for what the user can mend; let everything else show its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        fail("stopped before the run began", 130)
    except Exception as error:
        message = explain(error, config_name)
        if message is None:
            raise
        fail(message, getattr(error, "exit_code", 1))


def fail(message: str, exit_code: int) -> None:
    """Say what is wrong in one line, and leave."""
    sys.stdout.flush()
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(exit_code)


def explain(error: BaseException, config_name: str) -> str | None:
    """One line for an error that the user can mend; None for a bug of ours, which deserves its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        where = re.search(r"full_key: (\S+)", str(error))
        if isinstance(cause, UserError | ValueError | ImportError):
            return f"{where.group(1)}: {cause}" if where else str(cause)
        return None
    if isinstance(error, OSError) and error.errno == 28:
        return f"the disk is full: {error.filename or error}. Free some space and start again, or resume the run"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain_composition(error, config_name)
    if type(error).__name__ == "MisconfigurationException":
        return f"the trainer refuses this configuration: {error}"
    return None


def explain_composition(error: BaseException, config_name: str) -> str:
    """What is wrong with an override, and the nearest valid name."""
    text = str(error)
    option = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    if option:
        group, name = option.groups()
        choices = sorted(p.stem for p in (CONF / group).glob("*.yaml"))
        return f"{group}={name}: there is no such choice.{nearest(name, choices)} Choices: {', '.join(choices)}"
    key = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    group_key = re.search(r"Could not override '([^']+)'\.\s*No match in the defaults list", text)
    if group_key or key:
        name = (group_key or key).group(1)  # type: ignore[union-attr]
        groups = [p.name for p in CONF.iterdir() if p.is_dir()]
        return f"{name}: there is no such option.{nearest(name, [*config_keys(config_name), *groups])}"
    return text


def nearest(name: str, choices: list[str]) -> str:
    """A suggestion, or nothing."""
    found = get_close_matches(name, choices, n=1, cutoff=0.5)
    if not found:  # a right leaf under a wrong parent, such as max_steps for trainer.max_steps
        found = [c for c in choices if c.split(".")[-1] == name.split(".")[-1]]
    return f" Did you mean {' or '.join(found[:3])}?" if found else ""


def config_keys(config_name: str) -> list[str]:
    """Every key of the config as it is composed with those words of the command line that choose among groups."""
    words = [w for w in sys.argv[1:] if re.fullmatch(r"[a-z_/]+=[\w,-]+", w) and (CONF / w.split("=")[0]).is_dir()]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            cfg = hydra.compose(config_name, words)
        except HydraException:
            cfg = hydra.compose(config_name)
    return list(flat_keys(cfg))


def flat_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of all nodes of a config."""
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        for key in node:
            yield prefix + str(key)
            yield from flat_keys(node._get_node(key), f"{prefix}{key!s}.")


def to_plain(cfg: DictConfig | ListConfig) -> Any:
    """The config as plain containers, with every interpolation resolved."""
    return OmegaConf.to_container(cfg, resolve=True)
