"""The versions of a registry as models of a service: run=champion."""

from collections.abc import Callable

from src.commands.served_model import ServedModel
from src.runs.registry import Registry, Version
from src.utils.console import log
from src.utils.errors import UserError


class Champions:
    """Loads the champion of a registry, and earlier versions that jobs wait for.

    Args:
        registry: of the model.
        make: makes the model of a run folder.
    """

    def __init__(self, registry: Registry, make: Callable[[str], ServedModel]):
        self.registry, self.make = registry, make
        self.refused: set[str] = set()  # digests of versions that cannot be served, which is said once

    def champion(self) -> ServedModel:
        """The model of the champion.

        Raises:
            UserError: if it cannot be loaded, or its weights were changed.
        """
        return self.load(self.registry.present())

    def newer(self, digest: str) -> ServedModel | None:
        """The champion, if it is not the model with this digest."""
        version = self.registry.present()
        return None if version.digest == digest else self.try_to_load(version)

    def earlier(self, digest: str) -> ServedModel | None:
        """The version with this digest, if it is in the registry and as it was."""
        version = self.registry.versions().get(digest)
        return None if version is None else self.try_to_load(version)

    def try_to_load(self, version: Version) -> ServedModel | None:
        """The model of a version; None if it cannot be served."""
        if version.digest in self.refused:
            return None
        try:
            return self.load(version)
        except UserError as error:
            self.refused.add(version.digest)
            log.warning(f"WARNING: the weights {version.digest} cannot be served: {error}")
            return None

    def load(self, version: Version) -> ServedModel:
        """The model of a version.

        Raises:
            UserError: if its weights are not those that were compared.
        """
        folder = self.registry.folder(version)
        model = self.make(str(folder))
        if model.digest != version.digest:
            raise UserError(
                f"the weights of {folder} are no longer those of the champion {version.digest} (now {model.digest}); "
                "restore them, or go back with python -m src.retrain rollback=true"
            )
        return model
