"""Forward-mode derivatives of layers, without the products that are zero."""

from typing import Any

from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LAYERS = frozenset({F.linear, F.conv1d, F.conv2d, F.conv3d})


class FixedWeights(TorchFunctionMode):
    """Take the derivative of a layer as the layer of the derivative.

    torch adds the product of the input with the derivative of the weights, zeros in full size: three products in place
    of two, with the same result to the last bit.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LAYERS and len(args) > 1:
            x, weight, *rest = args
            bias, *rest = rest or [kwargs.pop("bias", None)]
            (value, rate), *weights = (forward_ad.unpack_dual(v) for v in (x, weight, bias) if v is not None)
            if rate is not None and all(v.tangent is None for v in weights):
                whole = func(value, weight, bias, *rest, **kwargs)
                return forward_ad.make_dual(whole, func(rate, weight, None, *rest, **kwargs))
            return func(x, weight, bias, *rest, **kwargs)
        return func(*args, **kwargs)
