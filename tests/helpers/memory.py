"""A net that runs out of memory as on a GPU: a stand-in for one that is full."""

import torch
from torch._subclasses.fake_tensor import FakeTensor

SAID = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB of which 1 GiB is free."


def limited(monkeypatch, net: type, limit: int, step: int = 0) -> None:
    """Make a class of nets fail for more than `limit` samples, from its call number `step` on; not those of a plan."""
    forward, calls = net.forward, iter(range(10**9))

    def bounded(self, x, *rest):
        real = not isinstance(x, FakeTensor) and x.device.type != "meta"
        if real and len(x) > limit and next(calls) >= step:
            raise torch.OutOfMemoryError(SAID)
        return forward(self, x, *rest)

    monkeypatch.setattr(net, "forward", bounded)
