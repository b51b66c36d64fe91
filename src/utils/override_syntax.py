"""Words of a command line: read as Hydra reads them, and written so that it reads what is meant."""

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

# An interpolation of which more must be known than the environment.
OF_THE_CONFIG = re.compile(r"(?<!\\)(?:\\\\)*\$\{(?!oc\.env:)")


@dataclass(frozen=True)
class Word:
    """An override, such as data.root=FOLDER, +net.width=8, ~clip or data@other=mnist.

    Attributes:
        text: as Hydra is given it.
        head: what stands before the =, with +, ++ or ~ and the package.
        key: the setting or group alone.
        value: what Hydra reads, with variables of the environment filled in; None where it stands for several.
        sweeps: whether it stands for several values.
        removes: whether it takes the setting out, as ~clip does.
    """

    text: str
    head: str
    key: str
    value: Any
    sweeps: bool
    removes: bool

    @property
    def tail(self) -> str:
        """What stands behind the =, unread."""
        return self.text.strip()[len(self.head) + 1 :]


@cache
def read(text: str) -> Word:
    """What a word means.

    Raises:
        hydra.errors.OverrideParseException: where Hydra cannot read it.
    """
    (override,) = OverridesParser.create().parse_overrides([text])
    sweeps = override.is_sweep_override()
    value = None if sweeps else resolved(override.value())
    return Word(text, override.get_key_element(), override.key_or_group, value, sweeps, override.is_delete())


def resolved(value: Any) -> Any:
    """A value with the variables of the environment in it filled in; as it is where the config has to be known."""
    if isinstance(value, list):
        return [resolved(item) for item in value]
    if isinstance(value, str) and "${" in value and not OF_THE_CONFIG.search(value):
        with suppress(OmegaConfBaseException):  # such as of a variable that is not set, which Hydra will complain of
            return OmegaConf.create({"value": value})["value"]
    return value


def override_value(key: str, words: Sequence[str]) -> Any:
    """What the words say of a setting, the last of them first; None where they say nothing."""
    return next((word.value for word in map(read, reversed(words)) if word.key == key and not word.removes), None)


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides of a command line, and Hydra's options, such as -m and --cfg job, wherever they stand."""
    words = get_args_parser().parse_known_intermixed_args(list(arguments))[0].overrides
    left, flags = list(words), []
    for argument in arguments:
        if left and argument == left[0]:
            del left[0]
        else:
            flags.append(argument)
    return words, flags


def assignment(head: str, value: Any) -> str:
    """`head=value`, from which Hydra reads exactly this value, whatever characters are in it."""
    return f"{head}={written(value)}"


def written(value: Any) -> str:
    """A value in the grammar of Hydra; in quotes where it would read something else."""
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    bare = str(value)
    with suppress(Exception):
        if not re.search(r"\\|\$\{", bare) and read(f"x={bare}").value == bare:
            return bare
    return f'"{in_quotes(without_interpolation(bare))}"'


def in_quotes(text: str) -> str:
    """What stands between double quotes for this text: backslashes count only before a quote."""
    return re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)


def without_interpolation(text: str) -> str:
    """What OmegaConf reads as this text, even with ${...} in it."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)


def command(module: str, *words: str) -> str:
    """A command line of ours, to be pasted into a shell."""
    return shlex.join(["python", "-m", f"src.{module}", *words])
