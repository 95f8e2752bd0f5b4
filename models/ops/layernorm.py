"""Layer norm over the channels of maps, for each pixel, in the form that is fast on the device."""

import importlib.util

import torch
import torch.nn.functional as F

from models.ops.tracing import leaf

if importlib.util.find_spec("triton"):
    from models.ops import kernels, layernorm_cuda
else:
    kernels = None


@leaf
def channel_norm(x, weight, bias, eps, before_linear=False):
    """F.layer_norm over dimension 1: (B, C, H, W) -> (B, C, H, W). On channels-last maps no copy is made.

    before_linear: only convolutions and linear layers read the result, which autocast would round for them. On CUDA it is then
    written in half precision at once, the same numbers with half the memory traffic; so is its gradient. Otherwise the
    result is float32 under autocast, as PyTorch's is.
    """
    if (
        kernels is None
        or not kernels.takes(x)
        or weight.dtype not in kernels.DTYPES
        or len(weight) > layernorm_cuda.MAX_CHANNELS
    ):
        return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps).permute(0, 3, 1, 2)
    dtype = x.dtype
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda") if before_linear else torch.float32
    return layernorm_cuda.channel_norm(x, weight, bias, eps, dtype)
