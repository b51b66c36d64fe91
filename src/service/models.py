"""The weights of a service: those of new requests, and earlier ones until their jobs are done."""

import threading
import time
from collections.abc import Callable, Collection
from typing import Protocol

from src.service.model import ServiceModel, Settings

GRACE = 60.0  # seconds for which earlier weights stay in any case, for requests that were being accepted


class Source(Protocol):
    """Where other weights come from."""

    def newer(self, digest: str) -> ServiceModel | None:
        """The model that replaces the one with this digest; None while it is to stay."""

    def earlier(self, digest: str) -> ServiceModel | None:
        """The model with this digest; None if it is unknown or was changed."""


class Models:
    """The models of a service.

    Args:
        current: that of new requests.
        source: of other weights; None for a service of one run.

    Attributes:
        loaded: by digest, the earliest first.
        commands: what makes the command lines of the answers by digest, also of weights that are no longer loaded.
    """

    def __init__(self, current: ServiceModel, source: Source | None = None):
        self.current, self.source = current, source
        self.loaded = {current.digest: current}
        self.commands: dict[str, Callable[[str, Settings], str]] = {current.digest: current.command}
        self.replaced: dict[str, float] = {}  # when, by digest
        self.lock = threading.Lock()

    def update(self) -> ServiceModel | None:
        """Look for weights that replace the current ones, and take them; returns them if there are any."""
        found = None if self.source is None else self.source.newer(self.current.digest)
        if found is not None:
            with self.lock:
                self.replaced[self.current.digest] = time.monotonic()
                self.replaced.pop(found.digest, None)
                self.loaded.pop(found.digest, None)
                self.add(found)
                self.current = found
        return found

    def load(self, digests: Collection[str]) -> None:
        """Load earlier weights that jobs wait for, as far as they can be found."""
        for digest in digests:
            if digest not in self.loaded and self.source is not None:
                found = self.source.earlier(digest)
                if found is not None:
                    with self.lock:
                        self.replaced[digest] = time.monotonic()
                        self.loaded = {digest: found} | self.loaded
                        self.commands[digest] = found.command

    def add(self, model: ServiceModel) -> None:
        """Keep a model."""
        self.loaded = self.loaded | {model.digest: model}
        self.commands[model.digest] = model.command

    def drop(self, waited_for: Collection[str]) -> None:
        """Drop earlier weights that no job waits for."""
        now = time.monotonic()
        with self.lock:
            gone = {
                digest for digest, since in self.replaced.items() if digest not in waited_for and now > since + GRACE
            }
            self.loaded = {digest: model for digest, model in self.loaded.items() if digest not in gone}
            self.replaced = {digest: since for digest, since in self.replaced.items() if digest not in gone}

    def command(self, digest: str, kind: str, settings: Settings) -> str:
        """The command line of src.sample that gives the samples of a job of these weights."""
        return self.commands.get(digest, self.current.command)(kind, settings)
