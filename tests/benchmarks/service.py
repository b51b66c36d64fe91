"""What src.serve promises, measured on a run: python -m tests.benchmarks.service RUN [PART]...

The parts are start, throughput, requests, memory and kills. Each starts the service as a user does, in a folder of
its own, and prints what it found.
"""

import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

STEPS, EACH, CLIENTS = 10, 4, 8
WORDS = ["sampler=ddim", f"sampler.steps={STEPS}"]
BAD = [{"n": 0}, {"n": "many"}, {"sampler": "nothing"}, {"_target_": "os.system"}, [1, 2], {"seed": -1}, {"steps": 1e9}]


class Served:
    """A service in a process of its own."""

    def __init__(self, run: str, folder: Path, *words: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.local = folder, threading.local()
        self.command = [
            sys.executable,
            "-m",
            "src.serve",
            f"run={run}",
            f"folder={folder}",
            f"port={self.port}",
            *words,
        ]
        self.log = folder.with_suffix(".log")

    def start(self) -> float:
        """Start it, and return the seconds until it is ready."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        while True:
            try:
                if self.ask("GET", "/ready")[0] == 200:
                    return time.monotonic() - began
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit(self.log.read_text()) from None
                time.sleep(0.05)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request on a connection of this thread; returns the status and the answer."""
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection = self.local.connection
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise OSError(str(error)) from error
        return answer.status, json.loads(content) if content[:1] in (b"{", b"[") else content

    def memory(self) -> float:
        """Its resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it."""
        self.process.send_signal(how)
        self.process.wait(60)


def ask_many(served: Served, bodies: list[Any], clients: int = CLIENTS) -> tuple[list[int], list[float], float]:
    """Send requests from several clients at once; returns the statuses, the latencies and the seconds in all."""

    def one(body: Any) -> tuple[int, float]:
        began = time.monotonic()
        for _ in range(100):
            status, answer = served.ask("POST", "/samples?wait=60", body)
            if status != 429:
                break
            time.sleep(0.2)
        assert status != 200 or answer["state"] == "done", answer
        return status, time.monotonic() - began

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(one, bodies))
    return [status for status, _ in found], [seconds for _, seconds in found], time.monotonic() - began


def start(run: str, folder: Path) -> None:
    """From the command to the first sample."""
    served = Served(run, folder, *WORDS)
    ready = served.start()
    began = time.monotonic()
    assert served.ask("POST", "/samples?wait=60", {"n": 4})[1]["state"] == "done"
    print(f"start: ready after {ready:.1f} s, the first 4 samples {time.monotonic() - began:.2f} s later")
    served.stop()


def throughput(run: str, folder: Path) -> None:
    """Eight clients at once, each asking for 4 samples in 10 steps, beside one batch of 32 in src.sample."""
    served = Served(run, folder, *WORDS)
    served.start()
    code = (
        "import time, sys; from src.api import load; "
        f"p = load({run!r}, 'sampler=ddim', 'sampler.steps={STEPS}'); p.sample(32)\n"
        "for line in sys.stdin: t = time.monotonic(); [p.sample(32) for _ in range(10)]; "
        "print(320 / (time.monotonic() - t), flush=True)"
    )
    pipe = subprocess.PIPE
    alone = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
    assert alone.stdin and alone.stdout
    ask_many(served, [{"n": EACH}] * 40)
    ratios, latencies = [], []
    for _ in range(10):  # in turns, since other programs may take the processor
        alone.stdin.write("again\n")
        alone.stdin.flush()
        one_batch = float(alone.stdout.readline())
        _, found, seconds = ask_many(served, [{"n": EACH}] * 10 * CLIENTS)
        latencies += found
        ratios.append((10 * CLIENTS * EACH / seconds / one_batch, one_batch))
    served.stop()
    alone.kill()
    latencies.sort()
    ratios.sort()
    (ratio, one_batch), p95 = ratios[len(ratios) // 2], latencies[int(0.95 * len(latencies))]
    print(
        f"throughput: {ratio:.2f} of one batch of 32, {one_batch:.0f} samples/s (from {ratios[0][0]:.2f} to "
        f"{ratios[-1][0]:.2f}); latency {latencies[len(latencies) // 2]:.3f} s in the middle, {p95:.3f} s at 95 %"
    )


def requests(run: str, folder: Path) -> None:
    """1,000 requests, of which a tenth are malformed."""
    served = Served(run, folder, *WORDS)
    served.start()
    bodies = [BAD[i // 10 % len(BAD)] if i % 10 == 0 else {"n": 1 + i % 4, "seed": i} for i in range(1000)]
    statuses, _, seconds = ask_many(served, bodies)
    states = Counter(row[0] for row in rows(folder, "select state from jobs"))
    served.stop()
    print(f"requests: {dict(Counter(statuses))} in {seconds:.0f} s; jobs {dict(states)}; {mentions(served)} tracebacks")


def memory(run: str, folder: Path) -> None:
    """The memory after 1,000 and after 10,000 small requests."""
    served = Served(run, folder, "sampler=ddim", "sampler.steps=1", "limits.n=4")
    served.start()
    after = {}
    for total in (1000, 10_000):
        ask_many(served, [{"n": 1, "seed": i} for i in range(total - sum(after))], 16)
        after[total] = served.memory()
    served.stop()
    first, last = after.values()
    print(f"memory: {first:.0f} MiB after 1,000 requests, {last:.0f} after 10,000 ({last / first - 1:+.1%})")


def kills(run: str, folder: Path, times: int = 10) -> None:
    """kill -9 at random moments under load: no accepted job is lost or done twice."""
    served = Served(run, folder, *WORDS, "limits.queue=400")
    draw, accepted, lock, over = random.Random(0), {}, threading.Lock(), threading.Event()

    def client(number: int) -> None:
        seed = number * 1_000_000
        while not over.is_set():
            seed += 1
            try:
                status, job = served.ask("POST", "/samples", {"n": 1 + seed % 4, "seed": seed})
            except OSError:
                time.sleep(0.1)
                continue
            if status == 202 or status == 200:
                with lock:
                    accepted[job["id"]] = seed
            time.sleep(0.02)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(CLIENTS)]
    served.start()
    for thread in threads:
        thread.start()
    for _ in range(times):
        time.sleep(draw.uniform(0.2, 2.5))
        served.stop(signal.SIGKILL)
        served.start()
    over.set()
    for thread in threads:
        thread.join()
    while rows(folder, "select count(*) from jobs where state in ('queued', 'running')")[0][0]:
        time.sleep(0.2)
    found = rows(folder, "select id, state, seed, attempts from jobs")
    done = {job: seed for job, state, seed, _ in found if state == "done"}
    lost = [job for job, seed in accepted.items() if done.get(job) != seed]
    files = {path.stem for path in (folder / "results").glob("[!.]*")}
    again = sum(attempts > 1 for *_, attempts in found)
    served.stop()
    twice = len(found) - len({job for job, *_ in found})
    print(
        f"kills: {times}; {len(accepted)} jobs accepted, {len(done)} done, {len(lost)} lost, {twice} twice; "
        f"{again} were begun again after a kill; results {'agree' if files == set(done) else 'differ'}; "
        f"{mentions(served)} tracebacks"
    )


def rows(folder: Path, query: str) -> list[Any]:
    """The rows of a query to the database."""
    with sqlite3.connect(folder / "jobs.db", timeout=30) as db:
        return db.execute(query).fetchall()


def mentions(served: Served) -> int:
    """The number of tracebacks in the log."""
    return served.log.read_text().count("Traceback")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parts = {part.__name__: part for part in (start, throughput, requests, memory, kills)}
    for name in sys.argv[2:] or parts:
        with tempfile.TemporaryDirectory() as place:
            parts[name](sys.argv[1], Path(place) / "service")
