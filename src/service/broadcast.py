"""News of jobs for those who watch them, from the thread of the device to the event loop."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import Any

News = dict[str, Any]
MOST = 64  # news that wait for a slow reader; older ones are dropped


class Broadcast:
    """Passes news of jobs on to their watchers in this process."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None  # set when the service starts
        self.watchers: defaultdict[str, set[asyncio.Queue[News]]] = defaultdict(set)

    def watch(self, job: str) -> "asyncio.Queue[News]":
        """A queue that gets the news of a job, until `leave`."""
        queue: asyncio.Queue[News] = asyncio.Queue(MOST)
        self.watchers[job].add(queue)
        return queue

    def leave(self, job: str, queue: "asyncio.Queue[News]") -> None:
        """End a watch."""
        self.watchers[job].discard(queue)
        if not self.watchers[job]:
            del self.watchers[job]

    def is_watched(self, job: str) -> bool:
        """True if somebody watches; pictures of the steps are made only then."""
        return job in self.watchers

    def tell(self, job: str, news: News) -> None:
        """Pass news on, from any thread."""
        if self.loop is not None and self.is_watched(job):
            with suppress(RuntimeError):  # the loop was closed
                self.loop.call_soon_threadsafe(self._put, job, news)

    def tell_end(self, job: str, state: str) -> None:
        """Pass on that a job ended, also to those who wait for nothing else."""
        for name in (job, of_the_end(job)):
            self.tell(name, {"state": state})

    def _put(self, job: str, news: News) -> None:
        for queue in self.watchers.get(job, ()):
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(news)


def of_the_end(job: str) -> str:
    """The name under which the end of a job alone is watched."""
    return f"{job}/end"
