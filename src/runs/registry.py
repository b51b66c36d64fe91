"""The registry of a model: its versions, and which of them is the champion."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from src.utils.atomic import write_text
from src.utils.errors import UserError
from src.utils.files import Damaged, Misfit, check, read_text

CHAMPION, REGISTRY = "champion", "registry"
FIRST, PROMOTED, REFUSED, ROLLBACK = "first", "promoted", "refused", "rollback"
LOCK_TIMEOUT = 10.0  # seconds; a change takes milliseconds
TEXT = (str, type(None))
ENTRY = {"event": str, "time": str, "champion": str, "digest": str, "run": str, "parent": TEXT, "data": dict,
         "metrics": dict}  # fmt: skip


class OtherChampion(UserError):
    """Another process has changed the champion."""


@dataclass(frozen=True)
class Version:
    """A version of a model.

    Attributes:
        digest: of its averaged weights in best.ckpt.
        run: its run folder, relative to the outputs folder if it lies there.
        parent: digest of the champion from whose weights it went on; None for the first.
        data: what identifies the data that it was trained on.
        metrics: what the decision was made on.
    """

    digest: str
    run: str
    parent: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


class Registry:
    """The versions of a model, as lines of JSON that are only ever added to.

    A change is made under a lock and replaces the file as a whole: several processes may change it at once, and after
    a kill it is as before or as after.

    Args:
        outputs: the outputs folder, in which it is `registry/NAME.jsonl`.
        name: of the model.
    """

    def __init__(self, outputs: str | Path, name: str):
        self.outputs, self.name = Path(outputs), name
        self.file = self.outputs / REGISTRY / f"{name}.jsonl"

    @classmethod
    def find(cls, outputs: str | Path, name: str) -> "Registry":
        """The registry that run=champion means, or run=champion:NAME.

        Raises:
            UserError: if there is none, or there are several.
        """
        there = sorted(file.stem for file in (Path(outputs) / REGISTRY).glob("*.jsonl"))
        asked = name.partition(":")[2]
        if asked and asked not in there:
            raise UserError(f"run={name}: {outputs}/{REGISTRY} has no model of that name; it has {list_of(there)}")
        if not there:
            raise UserError(
                f"run={name}: {outputs}/{REGISTRY} is empty; python -m src.retrain run=RUN makes the first champion"
            )
        if not asked and len(there) > 1:
            raise UserError(f"run={name}: there are {list_of(there)}; name one, such as run={CHAMPION}:{there[0]}")
        return cls(outputs, asked or there[0])

    # ---- what is in it ----

    def entries(self) -> list[dict[str, Any]]:
        """All events, the oldest first.

        Raises:
            UserError: if the file is damaged.
        """
        if not self.file.exists():
            return []
        found = []
        for number, line in enumerate(read_text(self.file, "Restore it").splitlines(), 1):
            try:
                entry = json.loads(line)
                check(entry, ENTRY)
            except (ValueError, Misfit) as error:
                raise Damaged(f"{self.file} is damaged in line {number} ({error}); remove that line") from error
            found.append(entry)
        return found

    def versions(self) -> dict[str, Version]:
        """All versions by digest, those that were refused included."""
        return versions_of(self.entries())

    @property
    def champion(self) -> Version | None:
        """The present champion; None before the first."""
        entries = self.entries()
        return versions_of(entries)[entries[-1]["champion"]] if entries else None

    def present(self) -> Version:
        """The champion.

        Raises:
            UserError: if there is none.
        """
        champion = self.champion
        if champion is None:
            raise UserError(f"{self.file} has no champion; python -m src.retrain run=RUN makes the first one")
        return champion

    @property
    def champion_folder(self) -> Path:
        """The run folder of the champion."""
        return self.folder(self.present())

    def folder(self, version: Version) -> Path:
        """The run folder of a version."""
        return self.outputs / version.run

    def place_of(self, run: Path) -> str:
        """The name of a run folder in the registry."""
        run, outputs = run.resolve(), self.outputs.resolve()
        return str(run.relative_to(outputs)) if run.is_relative_to(outputs) else str(run)

    # ---- changes ----

    def add(self, event: str, version: Version, before: str | None) -> None:
        """Record a version, as the new champion unless it was refused.

        Args:
            event: first, promoted or refused.
            version: the version.
            before: digest of the champion that the decision was made on; None for the first.

        Raises:
            OtherChampion: if the champion is another by now.
        """
        with self._changing(before) as entries:
            champion = entries[-1]["champion"] if event == REFUSED else version.digest
            entries.append({"event": event, "time": now(), "champion": champion, **asdict(version)})

    def rollback(self, to: str | None = None) -> tuple[Version, Version]:
        """Make an earlier champion the champion again; returns the one before and the one now.

        Args:
            to: the beginning of its digest; None for the parent of the champion.

        Raises:
            UserError: if there is no such champion.
        """
        entries, champion = self.entries(), self.champion
        if champion is None:
            raise UserError(f"{self.file} has no champion to roll back")
        versions, kept = versions_of(entries), {entry["champion"] for entry in entries}
        if to is None and champion.parent is None:
            raise UserError(f"the champion {champion.digest} is the first; there is none before it")
        wanted = [d for d in versions if d in kept and d.startswith(champion.parent if to is None else to)]  # type: ignore[arg-type]
        if len(wanted) != 1 or wanted[0] == champion.digest:
            others = [digest for digest in versions if digest in kept and digest != champion.digest]
            raise UserError(f"rollback={to} must be the digest of an earlier champion: {list_of(others)}")
        other = versions[wanted[0]]
        with self._changing(champion.digest) as entries:
            entries.append({"event": ROLLBACK, "time": now(), "champion": other.digest, **asdict(other)})
        return champion, other

    @contextmanager
    def _changing(self, before: str | None) -> Iterator[list[dict[str, Any]]]:
        """The events under the lock, which are written when the block ends."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.file.with_name(f".{self.name}.lock"), timeout=LOCK_TIMEOUT)
        try:
            with lock:
                entries = self.entries()
                champion = entries[-1]["champion"] if entries else None
                if champion != before:
                    raise OtherChampion(
                        f"the champion of {self.name} is {champion} by now, not {before}; start the command again"
                    )
                yield entries
                write_text(self.file, "".join(json.dumps(entry, default=str) + "\n" for entry in entries))
        except Timeout:
            raise UserError(f"{self.file} is locked by another process; try again") from None


def versions_of(entries: list[dict[str, Any]]) -> dict[str, Version]:
    """The versions of some events, by digest."""
    keys = Version.__dataclass_fields__
    return {e["digest"]: Version(**{key: e[key] for key in keys}) for e in entries if e["event"] != ROLLBACK}


def is_champion(run: str) -> bool:
    """True if run= names the champion of a registry."""
    return run.partition(":")[0] == CHAMPION


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def list_of(names: Any) -> str:
    """Names in one line."""
    return ", ".join(names) or "none"
