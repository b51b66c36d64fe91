"""Count the FLOP, saved bytes and peak bytes of tensor code."""

import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

# The fused attention of the CPU, which torch does not count: two products forward, and two for each of them backward.
# Recomputation to save memory does not count.
FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
COUNT_FUSED = {
    FUSED: lambda q, k, v, *args, **kwargs: sdpa_flop_count(q, k, v),
    FUSED_BACKWARD: lambda grad, q, k, v, *args, **kwargs: 2 * sdpa_flop_count(q, k, v),
}


def count_flops() -> FlopCounterMode:
    """Counts multiplications and additions, each as one, of matrix products, convolutions and attention."""
    counter = FlopCounterMode(display=False, custom_mapping=COUNT_FUSED)
    counter.mod_tracker = WholeModel()  # type: ignore[assignment]
    return counter


class WholeModel(nullcontext[None]):
    """Replaces torch's counts by module, whose hooks keep recomputed activations alive to the end of the step."""

    parents = ("Global",)


class GPUKernels:
    """Run fake CPU tensors through the operations of a GPU: fused attention, and norms in float32 under autocast.

    Functions are replaced, since a TorchFunctionMode is off in the backward pass, where checkpointed blocks run again.

    Source: the lists of operations in the documentation of torch.amp.
    """

    def __enter__(self) -> None:
        self.before = {name: getattr(F, name) for name in ("scaled_dot_product_attention", "group_norm", "layer_norm")}
        for name, func in self.before.items():
            setattr(F, name, partial(self.attention if name == "scaled_dot_product_attention" else self.norm, func))

    def __exit__(self, *error: object) -> None:
        for name, func in self.before.items():
            setattr(F, name, func)

    @staticmethod
    def attention(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return func(*args, **kwargs)

    @staticmethod
    def norm(func: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return func(x, *args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(x.float(), *args, **kwargs)


class SavedTensors:
    """Tensors saved for the backward pass, without those that exist anyway; shared memory counts once."""

    def __init__(self, known: Iterable[Tensor]):
        self.known = {storage_id(tensor) for tensor in known}
        self.tensors: dict[int, Tensor] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """A hook of `saved_tensors_hooks`."""
        if storage_id(tensor) not in self.known:
            self.tensors[storage_id(tensor)] = tensor
        return tensor

    def forget(self) -> int:
        """Return the bytes saved so far, and drop the references to them."""
        total = size_of(self.tensors.values())
        self.tensors.clear()
        return total


class MemoryTracker(TorchDispatchMode):
    """Count operations and the peak memory of their results while active.

    Attributes:
        operations: number of operations, without views.
        peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.now, self.peak, self.operations = set[int](), 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {storage_id(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        self.operations += func.namespace == "aten" and not func.is_view
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and storage_id(tensor) not in known | self.alive:
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        self.alive.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.free, storage._cdata, storage.nbytes()).atexit = False

    def free(self, which: int, n: int) -> None:
        self.alive.discard(which)
        self.now -= n


def storage_id(tensor: Tensor) -> int:
    """Identity of the memory of a live tensor."""
    return tensor.untyped_storage()._cdata


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes; shared memory counts once."""
    return sum({storage_id(t): t.untyped_storage().nbytes() for t in tensors}.values())
