"""Parse overrides of the command line as Hydra does, and quote values so that Hydra parses them unchanged."""

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

# An interpolation that needs the config, not only the environment.
OF_THE_CONFIG = re.compile(r"(?<!\\)(?:\\\\)*\$\{(?!oc\.env:)")


@dataclass(frozen=True)
class Word:
    """An override, such as data.root=FOLDER, +net.width=8, ~clip or data@other=mnist.

    Attributes:
        text: the override as written.
        head: the part before the =, with +, ++ or ~ and the package.
        key: the setting or group alone.
        value: the parsed value, with environment variables resolved; None for a sweep.
        sweeps: True for a sweep over several values.
        removes: True if it deletes the setting, such as ~clip.
    """

    text: str
    head: str
    key: str
    value: Any
    sweeps: bool
    removes: bool

    @property
    def tail(self) -> str:
        """The text after the =, unparsed."""
        return self.text.strip()[len(self.head) + 1 :]


@cache
def read(text: str) -> Word:
    """Parse an override.

    Raises:
        hydra.errors.OverrideParseException: if Hydra cannot parse it.
    """
    (override,) = OverridesParser.create().parse_overrides([text])
    sweeps = override.is_sweep_override()
    value = None if sweeps else resolved(override.value())
    return Word(text, override.get_key_element(), override.key_or_group, value, sweeps, override.is_delete())


def resolved(value: Any) -> Any:
    """Resolve the environment variables in a value; leave it unchanged if it also refers to the config."""
    if isinstance(value, list):
        return [resolved(item) for item in value]
    if isinstance(value, str) and "${" in value and not OF_THE_CONFIG.search(value):
        with suppress(OmegaConfBaseException):  # such as for an unset variable, which Hydra reports later
            return OmegaConf.create({"value": value})["value"]
    return value


def override_value(key: str, words: Sequence[str]) -> Any:
    """The value of a setting in overrides, of which the last counts; None if it is not among them."""
    return next((word.value for word in map(read, reversed(words)) if word.key == key and not word.removes), None)


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into overrides and Hydra's options, such as -m and --cfg job, in any order."""
    words = get_args_parser().parse_known_intermixed_args(list(arguments))[0].overrides
    left, flags = list(words), []
    for argument in arguments:
        if left and argument == left[0]:
            del left[0]
        else:
            flags.append(argument)
    return words, flags


def assignment(head: str, value: Any) -> str:
    """Format `head=value` so that Hydra parses exactly this value."""
    return f"{head}={written(value)}"


def written(value: Any) -> str:
    """Format a value in Hydra's grammar, in quotes if it would be parsed as another value without them."""
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    bare = str(value)
    with suppress(Exception):
        if bare and not re.search(r"\\|\$\{", bare) and read(f"x={bare}").value == bare:
            return bare
    return f'"{in_quotes(without_interpolation(bare))}"'


def in_quotes(text: str) -> str:
    """Escape a text for double quotes in Hydra's grammar, where backslashes count only before a quote."""
    return re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)


def without_interpolation(text: str) -> str:
    """Escape every ${ of a text, so that OmegaConf does not interpolate it."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)


def command(module: str, *words: str) -> str:
    """Format a command of this project for a shell."""
    return shlex.join(["python", "-m", f"src.{module}", *words])
