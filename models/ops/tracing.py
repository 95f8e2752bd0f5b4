"""What keeps networks traceable: functions that torch.fx records as one node, and checks that tracing skips."""

import functools

from torch.fx import Proxy


def leaf(function):
    """The function, which torch.fx.symbolic_trace records as one node and does not look into.

    So it may ask for a tensor's device, type or size, which a trace does not have. Its first argument must be a tensor.
    """

    @functools.wraps(function)
    def recorded(x, *args):
        if isinstance(x, Proxy):
            return x.tracer.create_proxy("call_function", recorded, (x, *args), {})
        return function(x, *args)

    return recorded


@leaf
def of_size(x, size, what):
    """The map (B, C, H, W) itself. Raises ValueError unless H = W = size; `what` begins its message."""
    if x.shape[2] != size or x.shape[3] != size:
        raise ValueError(f"{what} for maps of {size}x{size} pixels, got {x.shape[2]}x{x.shape[3]}")
    return x
