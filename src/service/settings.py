"""The settings of a service that come from its config."""

from dataclasses import dataclass


@dataclass
class Limits:
    """What a request may ask for.

    Args:
        n: samples.
        steps: of the sampler.
        pixels: of an uploaded picture.
        body: bytes of a request.
        queue: samples that wait.
        seconds: from a request to its result.
        receive: seconds in which a request must arrive.
    """

    n: int = 64
    steps: int = 1000
    pixels: int = 1_000_000
    body: int = 2_000_000
    queue: int = 1024
    seconds: float = 600.0
    receive: float = 30.0


LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


@dataclass
class Access:
    """Who may use a service.

    Args:
        token: that requests must bear; None for no check.
        hosts: names under which browsers may reach it, None for any: a page of another name that points here could
            otherwise use it.
    """

    token: str | None = None
    hosts: tuple[str, ...] | None = LOOPBACK
