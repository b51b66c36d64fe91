"""The queue in the database: first in, first out, each job once, whatever is killed. SQLite, and PostgreSQL if it is
installed."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from src.service.store import CANCELLED, DONE, EXPIRED, FAILED, MAX_ATTEMPTS, QUEUED, RUNNING, QueueFull, Store, jobs
from src.utils.errors import UserError

BINARIES = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
INITDB = next((Path(name) for name in BINARIES if name), None)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """The URL of a PostgreSQL server of the tests' own; it does not run as root."""
    if INITDB is None:
        pytest.skip("PostgreSQL is not installed")
    folder = tmp_path_factory.mktemp("postgres")
    user = {}
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (folder, *folder.parents[:2]):
            path.chmod(0o755)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        user = {"user": "nobody", "group": nobody.pw_gid, "extra_groups": []}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binaries, data = INITDB.resolve().parent, folder / "data"
    run = {"check": True, "capture_output": True, "cwd": folder, **user}
    subprocess.run([binaries / "initdb", "-D", data, "-U", "lab", "-A", "trust", "--no-sync"], **run)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    started = [binaries / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start"]
    subprocess.run(started, **{**run, "capture_output": False, "stdout": subprocess.DEVNULL})
    yield f"postgresql://lab@127.0.0.1:{port}/postgres"
    subprocess.run([binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **run)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    url = request.getfixturevalue("postgres")
    jobs.metadata.drop_all(sa.create_engine(url, future=True))
    return url


@pytest.fixture
def store(url):
    return Store(url)


def accept(store, batch="a", n=2, digest="w", seconds=60.0, most=1000, data=None, **settings):
    return store.accept("samples", settings, batch, n, 7, digest, seconds, data, most)


def states(store):
    with store.reading() as db:
        return {row.id: row.state for row in db.execute(sa.select(jobs))}


def test_jobs_are_taken_in_order_and_with_those_alike(store):
    first, other, second, third = accept(store), accept(store, "b"), accept(store), accept(store, n=3)
    assert [row.id for row in store.claim("w", 4)] == [first, second], "the third would be too much"
    assert [row.id for row in store.claim("w", 4)] == [other]
    assert [row.id for row in store.claim("w", 2)] == [third], "a job alone may be larger than a batch"
    assert store.claim("w", 4) == []
    assert set(states(store).values()) == {RUNNING}


def test_a_job_keeps_what_it_was_asked(store):
    job = accept(store, steps=3, text="ü'\";--")
    row = store.find(job)
    assert json.loads(row.settings) == {"steps": 3, "text": "ü'\";--"}
    assert (row.n, row.seed, row.state, row.thumb) == (2, 7, QUEUED, 0)


def test_a_full_queue_refuses(store):
    accept(store, n=6)
    store.claim("w", 8)
    accept(store, n=4)
    with pytest.raises(QueueFull):
        accept(store, n=1, most=10)
    assert accept(store, n=1, most=11)
    assert store.waiting() == 11


def test_a_job_ends_once(store, url):
    job = accept(store, data=b"input")
    assert store.input_of(job) == b"input"
    store.claim("w", 4)
    other = Store(url)
    assert not other.finish({job: (DONE, {})}), "another process does not end it"
    assert store.finish({job: (DONE, {"result": "x.npz", "bytes": 5})}) == {job}
    assert not store.finish({job: (FAILED, {})})
    row = store.find(job)
    assert (row.state, row.result, row.lease) == (DONE, "x.npz", None)
    with pytest.raises(sa.exc.NoResultFound):
        store.input_of(job)


def test_what_a_killed_process_left_is_taken_again(url):
    killed = Store(url, lease=-1)  # a lease that has run out
    jobs_left = [accept(killed), accept(killed)]
    killed.claim("w", 4)
    store = Store(url)
    store.recover(["w"])
    assert [row.id for row in store.claim("w", 4)] == jobs_left
    assert not killed.finish({jobs_left[0]: (DONE, {})}), "it was only slow, and comes too late"
    assert store.finish({jobs_left[0]: (DONE, {})})


def test_jobs_are_given_back(store):
    job, other = accept(store), accept(store, "b")
    store.claim("w", 4)
    store.claim("w", 4)
    store.give_back([job])
    assert states(store) == {job: QUEUED, other: RUNNING}
    assert [row.id for row in store.claim("w", 4)] == [job]


def test_a_living_process_keeps_its_jobs(url):
    store, other = Store(url), Store(url)
    accept(store)
    store.claim("w", 4)
    store.renew([*states(store)])
    other.recover(["w"])
    assert other.claim("w", 4) == []
    other.recover(["w"], starting=True)
    assert bool(other.claim("w", 4)) == store.alone, "a SQLite database has one service: when it starts, none runs"


def test_a_file_may_be_shared(tmp_path):
    """By replicas, of which one starts while another works."""
    store, other = (Store(f"sqlite:///{tmp_path}/jobs.db", shared=True) for _ in range(2))
    accept(store)
    store.claim("w", 4)
    other.recover(["w"], starting=True)
    assert other.claim("w", 4) == [] and not other.alone


def test_a_job_that_kills_the_service_is_given_up(url):
    job = accept(Store(url))
    for _ in range(MAX_ATTEMPTS):
        killed = Store(url, lease=-1)
        assert killed.claim("w", 4)
        killed.recover(["w"])
    assert states(killed)[job] == FAILED
    assert "killed too often" in killed.find(job).error


def test_deadlines(store):
    late, good = accept(store, seconds=-1), accept(store)
    store.recover(["w"])
    assert states(store) == {late: EXPIRED, good: QUEUED}


def test_cancelling(store):
    waits, runs = accept(store, "b"), None
    store.cancel(waits)
    runs = accept(store)
    store.claim("w", 4)
    store.cancel(runs)
    assert states(store) == {waits: CANCELLED, runs: RUNNING}
    assert store.cancelled() == {runs}
    store.finish({runs: (DONE, {})})
    store.cancel(runs)
    assert states(store)[runs] == DONE


def test_jobs_for_other_weights(store):
    job = accept(store, digest="old")
    assert store.claim("new", 4) == [], "perhaps another service has them"
    store.recover(["new"], starting=True)
    assert states(store)[job] == (FAILED if store.alone else QUEUED)


def done(store, **settings):
    job = accept(store, **settings)
    store.claim("w", 1)
    store.finish({job: (DONE, {"result": f"{job}.npz", "bytes": 100})})
    return job


def test_search(store):
    plain, heun = done(store), done(store, sampler="heun")
    odd = done(store, text="100% _done_")
    accept(store, sampler="heun")
    store.rate(heun, 1)

    def found(**how):
        return [row.id for row in store.search(**how)]

    assert found() == [odd, heun, plain]
    assert found(text="heun") == [heun]
    assert found(text="100%") == [odd]
    assert found(text="%") == [odd], "no wildcard"
    assert found(text="samples heun") == [heun], "every word"
    assert found(text=plain) == [plain]
    assert found(thumb=1) == [heun]
    assert found(kind="denoise") == []
    assert found(limit=1) == [odd]
    assert found(before=store.find(odd).number) == [heun, plain]


def test_what_is_outdated(store):
    old, new = done(store), done(store)
    waits = accept(store)
    with store.writing() as db:
        db.execute(sa.update(jobs).where(jobs.c.id == old).values(finished=time.time() - 3 * 86400))
    assert [row.id for row in store.outdated(2, 1000)] == [old]
    assert store.outdated(4, 1000) == []
    assert [row.id for row in store.outdated(4, 100)] == [old], "the oldest goes first"
    assert [row.id for row in store.outdated(4, 99)] == [old, new]
    store.delete([old, new])
    assert set(states(store)) == {waits}


@pytest.mark.parametrize("wrong", ["nonsense", "sqlite:////nowhere/at/all.db", "postgresql://lab:secret@127.0.0.1:1/x"])
def test_a_database_that_cannot_be_used(wrong):
    with pytest.raises(UserError, match="database=") as error:
        Store(wrong)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.slow
def test_many_processes_share_a_queue(url):
    """Threads with engines of their own, as processes have: every job is taken by exactly one."""
    from concurrent.futures import ThreadPoolExecutor

    stores = [Store(url) for _ in range(4)]
    accepted = [accept(stores[0], batch=str(i % 3)) for i in range(60)]

    def work(store):
        mine = []
        while taken := store.claim("w", 6):
            mine += [row.id for row in taken if store.finish({row.id: (DONE, {})})]
        return mine

    with ThreadPoolExecutor(4) as pool:
        found = [job for part in pool.map(work, stores) for job in part]
    assert sorted(found) == sorted(accepted)
