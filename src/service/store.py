"""The database: what was asked, by which weights it was answered, and where the answer is.

SQLAlchemy's Core as versions 1.4 and 2 share it; SQLite and PostgreSQL.
"""

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from src.utils.errors import UserError

QUEUED, RUNNING, DONE, FAILED, CANCELLED, EXPIRED = "queued", "running", "done", "failed", "cancelled", "expired"
ENDED = (DONE, FAILED, CANCELLED, EXPIRED)
MAX_ATTEMPTS = 10  # of a job during which the service was killed; perhaps it kills it

metadata = sa.MetaData()
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),  # the order of the queue
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("settings", sa.Text, nullable=False),  # JSON
    sa.Column("batch", sa.String(64), nullable=False),  # jobs of one value may be computed together
    sa.Column("n", sa.Integer, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),  # of the weights
    sa.Column("state", sa.String(10), nullable=False, index=True),
    sa.Column("created", sa.Float(53), nullable=False, index=True),  # seconds since 1970, as all times
    sa.Column("deadline", sa.Float(53), nullable=False),
    sa.Column("started", sa.Float(53)),
    sa.Column("finished", sa.Float(53)),
    sa.Column("owner", sa.String(32)),  # the process that runs it
    sa.Column("lease", sa.Float(53)),  # until when that process is believed to live
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("cancel", sa.Boolean, nullable=False, default=False),
    sa.Column("error", sa.Text),
    sa.Column("result", sa.String(64)),  # the name of the file in the results folder
    sa.Column("bytes", sa.Integer, nullable=False, default=0),
    sa.Column("info", sa.Text),  # JSON
    sa.Column("thumb", sa.Integer, nullable=False, default=0),  # 1, -1 or 0
)
inputs = sa.Table(
    "inputs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)


class QueueFull(Exception):
    """More samples wait than the service accepts."""


class Store:
    """The jobs of one or several services.

    Args:
        url: of the database, as SQLAlchemy writes it; a SQLite file belongs to one service unless it is shared.
        shared: True if several processes of this machine use a SQLite file.
        lease: seconds for which a running job is left to its process without a sign of life.

    Raises:
        UserError: if the database cannot be reached.
    """

    def __init__(self, url: str, lease: float = 15.0, shared: bool = False):
        self.lease, self.owner = lease, uuid4().hex
        try:
            parsed = sa.engine.make_url(url)
            sqlite = parsed.get_backend_name() == "sqlite"
            self.alone = sqlite and not shared
            options: dict[str, Any] = {"poolclass": sa.pool.QueuePool, "pool_pre_ping": not sqlite}
            if sqlite:
                options["connect_args"] = {"timeout": 30, "check_same_thread": False}
            self.engine = sa.create_engine(url, future=True, **options)
            self._one_writer = threading.Lock() if sqlite else nullcontext()
            if sqlite:
                sa.event.listen(self.engine, "connect", _set_up_sqlite)
                sa.event.listen(self.engine, "begin", _begin_sqlite)
            with self._one_writer:
                metadata.create_all(self.engine)
        except (sa.exc.SQLAlchemyError, ImportError, ValueError) as error:
            shown = url if "@" not in url else f"{url.partition('://')[0]}://...@{url.rpartition('@')[2]}"
            raise UserError(f"database={shown} cannot be used: {str(error).splitlines()[0]}") from error

    # ---- transactions ----

    @contextmanager
    def writing(self) -> Iterator[sa.engine.Connection]:
        """A transaction that writes."""
        with self._one_writer, self.engine.connect().execution_options(writes=True) as db, db.begin():
            yield db

    def reading(self) -> Any:
        """A connection that only reads."""
        return self.engine.connect()

    # ---- a job from its acceptance to its end ----

    def accept(
        self, kind: str, settings: dict[str, Any], batch: str, n: int, seed: int, digest: str,
        seconds: float, data: bytes | None, most: int,
    ) -> str:  # fmt: skip
        """Keep a new job, and return its id.

        Args:
            kind: samples, or the name of a task.
            settings: of the request.
            batch: jobs of one value may be computed together.
            n: its number of samples.
            seed: of its noise.
            digest: of the weights that it is for.
            seconds: from now to its deadline.
            data: the input of a task.
            most: samples that may wait.

        Raises:
            QueueFull: if more would wait.
        """
        now, job = time.time(), uuid4().hex
        with self.writing() as db:
            if self._waiting(db) + n > most:
                raise QueueFull
            row = {"id": job, "kind": kind, "settings": json.dumps(settings), "batch": batch, "n": n, "seed": seed,
                   "digest": digest, "state": QUEUED, "created": now, "deadline": now + seconds}  # fmt: skip
            db.execute(sa.insert(jobs), [row])
            if data is not None:
                db.execute(sa.insert(inputs), [{"id": job, "data": data}])
        return job

    def claim(self, digest: str, most: int) -> list[Any]:
        """Take the first job that waits, and others that may be computed with it, up to `most` samples in all."""
        now = time.time()
        first = (
            sa.select(jobs)
            .where(jobs.c.state == QUEUED, jobs.c.digest == digest)
            .order_by(jobs.c.number)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self.writing() as db:
            head = db.execute(first).first()
            if head is None:
                return []
            alike = (
                sa.select(jobs)
                .where(jobs.c.state == QUEUED, jobs.c.digest == digest, jobs.c.batch == head.batch)
                .where(jobs.c.number > head.number)
                .order_by(jobs.c.number)
                .limit(most)
                .with_for_update(skip_locked=True)
            )
            taken, n = [head], head.n
            for row in db.execute(alike):
                if n + row.n > most:
                    break
                taken.append(row)
                n += row.n
            running = {"state": RUNNING, "owner": self.owner, "lease": now + self.lease, "started": now}
            attempts = {"attempts": jobs.c.attempts + 1}
            db.execute(sa.update(jobs).where(jobs.c.id.in_([row.id for row in taken])).values(**running, **attempts))
        return taken

    def finish(self, ends: Mapping[str, tuple[str, dict[str, Any]]]) -> set[str]:
        """Record the ends of jobs that this process runs.

        Args:
            ends: the state and further values of each job, by its id.

        Returns:
            The jobs whose end it is; the others are no longer this process's.
        """
        now, done = time.time(), set()
        with self.writing() as db:
            for job, (state, values) in ends.items():
                mine = (jobs.c.id == job, jobs.c.state == RUNNING, jobs.c.owner == self.owner)
                ended = {"state": state, "finished": now, "lease": None, **values}
                if db.execute(sa.update(jobs).where(*mine).values(**ended)).rowcount == 1:
                    done.add(job)
            db.execute(sa.delete(inputs).where(inputs.c.id.in_(done)))
        return done

    def give_back(self, ids: Sequence[str]) -> None:
        """Put jobs that this process runs back into the queue."""
        mine = (jobs.c.id.in_(ids), jobs.c.state == RUNNING, jobs.c.owner == self.owner)
        with self.writing() as db:
            db.execute(sa.update(jobs).where(*mine).values(state=QUEUED, owner=None, lease=None, started=None))

    def renew(self, ids: Sequence[str]) -> None:
        """Say that this process still runs jobs."""
        mine = (jobs.c.id.in_(ids), jobs.c.state == RUNNING, jobs.c.owner == self.owner)
        with self.writing() as db:
            db.execute(sa.update(jobs).where(*mine).values(lease=time.time() + self.lease))

    def cancelled(self) -> set[str]:
        """The jobs of this process that were asked to stop."""
        asked = (jobs.c.state == RUNNING, jobs.c.owner == self.owner, jobs.c.cancel.is_(True))
        with self.reading() as db:
            return {row.id for row in db.execute(sa.select(jobs.c.id).where(*asked))}

    def cancel(self, job: str) -> None:
        """End a job that waits, and ask a running one to stop."""
        with self.writing() as db:
            this, now = jobs.c.id == job, time.time()
            waits = sa.update(jobs).where(this, jobs.c.state == QUEUED).values(state=CANCELLED, finished=now)
            if db.execute(waits).rowcount == 0:
                db.execute(sa.update(jobs).where(this, jobs.c.state == RUNNING).values(cancel=True))
            else:
                db.execute(sa.delete(inputs).where(inputs.c.id == job))

    def recover(self, digests: Iterable[str], starting: bool = False) -> None:
        """Put the jobs of killed processes back into the queue, and end those whose deadline has passed.

        Args:
            digests: of the weights of this service.
            starting: True when the service starts: a SQLite database is then its own, and every job that runs was
                left behind; those for other weights are ended.
        """
        now = time.time()
        left = [jobs.c.state == RUNNING]
        if not (starting and self.alone):
            left.append(jobs.c.lease < now)
        ends = {"state": FAILED, "finished": now, "lease": None}
        with self.writing() as db:
            killed = "the service was killed too often while it did this"
            hopeless = jobs.c.attempts >= MAX_ATTEMPTS
            db.execute(sa.update(jobs).where(*left, hopeless).values(error=killed, **ends))
            db.execute(sa.update(jobs).where(*left).values(state=QUEUED, owner=None, lease=None, started=None))
            late = "the deadline passed before this could be done"
            waits = (jobs.c.state == QUEUED, jobs.c.deadline < now)
            db.execute(sa.update(jobs).where(*waits).values(error=late, **ends | {"state": EXPIRED}))
            if starting and self.alone:
                other = "the service was started again with other weights; send the request again"
                foreign = (jobs.c.state == QUEUED, jobs.c.digest.not_in([*digests]))
                db.execute(sa.update(jobs).where(*foreign).values(error=other, **ends))

    # ---- what is asked of it ----

    def find(self, job: str) -> Any:
        """The row of a job; None if there is none."""
        with self.reading() as db:
            return db.execute(sa.select(jobs).where(jobs.c.id == job)).first()

    def input_of(self, job: str) -> bytes:
        """The input of a job that was not ended."""
        with self.reading() as db:
            return db.execute(sa.select(inputs.c.data).where(inputs.c.id == job)).scalar_one()

    def waited_for(self) -> set[str]:
        """The digests of the weights of all jobs that have not ended."""
        with self.reading() as db:
            left = jobs.c.state.in_((QUEUED, RUNNING))
            return {row.digest for row in db.execute(sa.select(jobs.c.digest).where(left).distinct())}

    def waiting(self) -> int:
        """The number of samples that wait or are being drawn."""
        with self.reading() as db:
            return self._waiting(db)

    def _waiting(self, db: sa.engine.Connection) -> int:
        total = sa.select(sa.func.coalesce(sa.func.sum(jobs.c.n), 0)).where(jobs.c.state.in_((QUEUED, RUNNING)))
        return int(db.execute(total).scalar_one())

    def search(
        self, text: str = "", kind: str | None = None, thumb: int | None = None, before: int | None = None,
        limit: int = 24, after: int | None = None, digest: str | None = None, oldest: bool = False,
    ) -> list[Any]:  # fmt: skip
        """Jobs that are done, the newest first, or the oldest.

        Args:
            text: words that the settings, the kind or the id must contain.
            kind: samples, or the name of a task.
            thumb: 1, -1 or 0.
            before: the number of a job; only older ones are returned.
            limit: the most rows.
            after: the number of a job; only newer ones are returned.
            digest: of the weights that did them.
            oldest: True for the oldest first.
        """
        order = jobs.c.number if oldest else jobs.c.number.desc()
        wanted = sa.select(jobs).where(jobs.c.state == DONE).order_by(order).limit(limit)
        text_of = jobs.c.kind + " " + jobs.c.settings + " " + jobs.c.id
        for word in text.split():
            wanted = wanted.where(text_of.contains(word, autoescape=True))
        if kind is not None:
            wanted = wanted.where(jobs.c.kind == kind)
        if thumb is not None:
            wanted = wanted.where(jobs.c.thumb == thumb)
        if before is not None:
            wanted = wanted.where(jobs.c.number < before)
        if after is not None:
            wanted = wanted.where(jobs.c.number > after)
        if digest is not None:
            wanted = wanted.where(jobs.c.digest == digest)
        with self.reading() as db:
            return list(db.execute(wanted))

    def rate(self, job: str, thumb: int) -> None:
        """Keep a user's thumb."""
        with self.writing() as db:
            db.execute(sa.update(jobs).where(jobs.c.id == job).values(thumb=thumb))

    def outdated(self, days: float, most_bytes: int) -> list[Any]:
        """The (id, result) of ended jobs beyond the limits of age and of the size of all results, the oldest first."""
        ended = sa.select(jobs.c.id, jobs.c.result, jobs.c.bytes, jobs.c.finished).where(jobs.c.state.in_(ENDED))
        with self.reading() as db:
            rows = list(db.execute(ended.order_by(jobs.c.number)))
        total, oldest, gone = sum(row.bytes for row in rows), time.time() - 86400 * days, []
        for row in rows:
            if row.finished >= oldest and total <= most_bytes:
                continue
            gone.append(row)
            total -= row.bytes
        return gone

    def delete(self, ids: Sequence[str]) -> None:
        """Forget jobs."""
        with self.writing() as db:
            db.execute(sa.delete(inputs).where(inputs.c.id.in_(ids)))
            db.execute(sa.delete(jobs).where(jobs.c.id.in_(ids)))

    def results(self) -> set[str]:
        """The names of all result files."""
        with self.reading() as db:
            return {row.result for row in db.execute(sa.select(jobs.c.result).where(jobs.c.result.is_not(None)))}


def _set_up_sqlite(connection: Any, record: Any) -> None:
    """Leave transactions to `_begin_sqlite`; readers do not wait for the writer, and a commit is on the disk."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(db: sa.engine.Connection) -> None:
    """Lock the database before a writer reads, so that what it read still holds when it writes."""
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("writes") else "BEGIN")
