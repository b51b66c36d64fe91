"""One-line error messages for users, with suggestions."""

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from src.utils.errors import OF_VALUES, UserError, is_in_own_code, is_out_of_memory, place_of, printable, refusal
from src.utils.override_syntax import read, split_flags
from src.utils.paths import CONF

NO_DEVICE = re.compile("No supported gpu backend|accelerator is not available|machine only has")
# Errors of the system: a full disk, and files and folders that cannot be read or written.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNUSABLE_PATH = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EIO,
)  # fmt: skip


def overridden_keys() -> set[str]:
    """The keys on the command line of the running command."""
    return {read(override).key for override in HydraConfig.get().overrides.task}


@contextmanager
def user_errors(config_name: str) -> Iterator[None]:
    """Exit with one line for an error that the user can fix; other errors keep their traceback."""
    try:
        yield
    except KeyboardInterrupt:
        exit_with_error("stopped" if config_name != "train" else "stopped before the run began", 130)
    except Exception as error:
        message = user_message(error, config_name)
        if message is None:
            raise
        exit_with_error(message, getattr(error, "exit_code", 1), getattr(error, "everywhere", False))


def exit_with_error(message: str, exit_code: int, everywhere: bool = False) -> None:
    """Print an error in one line and exit; signals and errors of all processes are printed on rank 0 only."""
    sys.stdout.flush()
    if not (everywhere or exit_code >= 128) or os.environ.get("LOCAL_RANK", "0") == "0":
        print("error: " + printable(" ".join(message.split())), file=sys.stderr)
    sys.exit(exit_code)


def user_message(error: BaseException, config_name: str) -> str | None:
    """The message for an error that the user can fix, in one line; None for a bug, which keeps its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, InterpolationResolutionError) and isinstance(root_cause(error), UserError | OSError):
        return user_message(root_cause(error), config_name)  # raised by a resolver that makes a folder
    cause = error.__cause__
    if isinstance(error, InstantiationException) and isinstance(cause, OSError):
        return user_message(cause, config_name)
    if isinstance(error, InstantiationException):
        where = re.search(r"full_key: (\S+)", str(error))
        if cause is not None and (
            isinstance(cause, (UserError, ImportError, *OF_VALUES)) or is_misconfiguration(cause)
        ):
            part = where.group(1) if where else "config"
            hint = ". Use trainer=cpu, or trainer=auto" if part == "trainer" and NO_DEVICE.search(str(cause)) else ""
            return f"{refusal(part, cause)}{hint}{place_of(cause) if is_in_own_code(cause) else ''}"
        if cause is not None and where and is_in_own_code(cause):
            return f"{where.group(1)}: {type(cause).__name__}: {cause}{place_of(cause)}"
        return None
    if is_killed_loader(error):
        reason = str(error).partition("\n")[0].rstrip(". ") or type(error).__name__
        return (
            f"a data loader process was killed ({reason}), probably for lack of memory: use fewer data.num_workers, "
            "or data.num_workers=0"
        )
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return f"the disk is full: {error.filename or error}. Free some space and start again, or resume the run"
    if isinstance(error, OSError) and error.errno in UNUSABLE_PATH:
        return f"{error.filename} cannot be used ({error.strerror}); name another file or folder, or repair it"
    if is_out_of_memory(error):
        fix = "batch_size, or device=cpu"
        if config_name == "train":
            fix = (
                "data.batch_size with as much more trainer.accumulate_grad_batches, a smaller net, or trainer=fsdp on "
                "several GPUs"
            )
        return f"out of memory: {first_sentence(error)} Use a smaller {fix}"
    if type(error).__name__ == "TerminatedWorkerError":  # raised by joblib
        return "the process of a job was killed, probably for lack of memory; resume with sweep.resume=FOLDER"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return composition_message(error, config_name)
    if is_misconfiguration(error):
        return f"the trainer does not accept this configuration: {error}"
    return None


def first_sentence(error: BaseException) -> str:
    """The first sentence of a message and what torch tried to allocate, without its statistics of the memory."""
    line = next(iter(str(error).splitlines()), "").strip()
    tried = re.match(r".*?Tried to allocate [\d.]+ \w+", line)
    return f"{tried[0] if tried else line.partition('. ')[0].rstrip('.')}." if line else ""


def is_killed_loader(error: BaseException) -> bool:
    """True for the error that follows a killed data loader process: torch's, or that of a batch on its way from it."""
    if isinstance(error, OSError | EOFError):
        return any(Path(f.filename).name == "resource_sharer.py" for f in traceback.extract_tb(error.__traceback__))
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def root_cause(error: BaseException) -> BaseException:
    """The first error of a chain of causes and contexts."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return error


def one_line_message(error: BaseException, config_name: str = "train") -> str:
    """The message of an error in one line; a bug is named by its type."""
    message = user_message(error, config_name) or f"{type(error).__name__}: {error}"
    return " ".join(message.split())


def is_misconfiguration(error: BaseException | None) -> bool:
    """True for an error that Lightning raises for a config; found by name, so that --help need not import Lightning."""
    return type(error).__name__ == "MisconfigurationException"


def composition_message(error: BaseException, config_name: str) -> str:
    """The message for an override that Hydra refuses, with the nearest valid name."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override} cannot be parsed: write NAME=VALUE without spaces around =, and put a value with "
            "spaces, commas, brackets, quotes or = into two pairs of quotes, as in 'name=\"a, b\"'"
        )
    if several := re.search(r"Ambiguous value for argument '(.+?)=(.+)'\n", text):
        name, values = several.groups()
        return f"{name}={values} has several values: add -m to sweep over them, or write a list, {name}=[{values}]"
    if plugin := re.search(r"Could not (?:find|load) '(hydra/\w+)/(\w+)'", text):
        group, name = plugin.groups()
        return f"{group}={name}: there is no such choice. Choices: {', '.join(choices(group))}"
    if option := re.search(r"Could not (?:find|load) '([^'/]+)/([^']*)'", text):
        group, name = option.groups()
        there = choices(group)
        return f"{group}={name}: there is no such choice.{suggest(name, there)} Choices: {', '.join(there)}"
    if present := (
        re.search(r"Multiple values for (\S+)\.", text) or re.search(r"An item is already at '([^']+)'", text)
    ):
        return f"+{present.group(1)}: the key exists already; write {present.group(1)}= without the +"
    if key := re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text):
        return f"{key.group(1)}: there is no such option.{suggest_key(key.group(1), config_name)}"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {text.splitlines()[0]}"
    return text


def choices(group: str) -> list[str]:
    """The choices of a config group."""
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def suggest_key(name: str, config_name: str) -> str:
    """A suggestion among all keys and groups, or the keys beside the unknown one."""
    text = (CONF / f"{config_name}.yaml").read_text()
    groups = [p.name for p in CONF.iterdir() if p.is_dir() and re.search(rf"^  - {p.name}:", text, re.M)]
    keys = [*config_keys(config_name), *groups]
    parent, _, leaf = name.rpartition(".")
    if name in keys:
        return f" Another override removes {parent}"
    if parts := [f"{group}={name}" for group in groups if name in choices(group)]:
        return f" Did you mean {' or '.join(parts)}?"
    beside = [k.rpartition(".")[2] for k in keys if parent and k.rpartition(".")[0] == parent]
    beside = [k for k in beside if k[0] != "_"]
    if beside:
        near = get_close_matches(leaf, beside, n=1)
        return f" Did you mean {parent}.{near[0]}?" if near else f" {parent} has: {', '.join(beside)}"
    return suggest(name, keys)


def suggest(name: str, choices: list[str]) -> str:
    """A suggestion of similar names; empty if there are none."""
    leaf = name.split(".")[-1]  # its parent may be missing, such as max_steps for trainer.max_steps
    found = [c for c in choices if c.split(".")[-1] == leaf] or get_close_matches(name, choices, n=1, cutoff=0.5)
    return f" Did you mean {' or '.join(found[:3])}?" if found else ""


def config_keys(config_name: str) -> list[str]:
    """Every key of the config that the choices of groups on the command line compose."""
    overrides = [override for override in split_flags(sys.argv[1:])[0] if is_group_choice(override)]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            cfg = hydra.compose(config_name, overrides)
        except HydraException:
            cfg = hydra.compose(config_name)
    return list(flat_keys(cfg))


def is_group_choice(text: str) -> bool:
    """True if an override chooses a file of a config group."""
    with suppress(OverrideParseException):
        override = read(text)
        return override.head == override.key and (CONF / override.key).is_dir() and not override.sweeps
    return False


def flat_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of all nodes of a config."""
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        for key in node:
            yield prefix + str(key)
            yield from flat_keys(node._get_node(key), f"{prefix}{key!s}.")


def to_container(cfg: DictConfig | ListConfig) -> Any:
    """The config as plain containers, with every interpolation resolved."""
    return OmegaConf.to_container(cfg, resolve=True)
