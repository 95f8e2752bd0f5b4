"""Operations on the channels of each pixel, in the form that is fast on the device: 1x1 convolutions and factors.

On a CPU they are PyTorch's. On CUDA a 1x1 convolution of a channels-last map is a matrix product, whose kernels add the bias
in passing, where cuDNN's convolution leaves it to another kernel; and gradients of biases and factors are summed by Triton.
"""

import importlib.util

import torch.nn.functional as F
from torch import nn

from models.ops.tracing import leaf

if importlib.util.find_spec("triton"):
    from models.ops import kernels, sums_cuda
else:
    kernels = None


class Pointwise(nn.Conv2d):
    """A 1x1 convolution: (B, in_ch, H, W) -> (B, out_ch, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, in_ch, out_ch, stride=1, bias=True):
        super().__init__(in_ch, out_ch, 1, stride, bias=bias)

    def forward(self, x):
        return super().forward(x) if self.stride[0] > 1 else pointwise(x, self.weight, self.bias)


@leaf
def pointwise(x, weight, bias):
    """The 1x1 F.conv2d: (B, in_ch, H, W), (out_ch, in_ch, 1, 1), (out_ch,) or None -> (B, out_ch, H, W).

    Nothing may change the result in place: on a GPU it is a view.
    """
    n_out = x.numel() // x.shape[1] * len(weight)  # numbers of the output and of its gradient
    if kernels is None or not kernels.takes(x) or n_out > kernels.MAX_NUMEL:
        return F.conv2d(x, weight, bias)
    rows = x.permute(0, 2, 3, 1)  # (B, H, W, in_ch)
    weight = weight.permute(0, 2, 3, 1).flatten(1)  # (out_ch, in_ch), whose gradient comes back channels-last
    if bias is None:
        return F.linear(rows, weight).permute(0, 3, 1, 2)
    out = F.linear(rows, weight, bias.detach()).permute(0, 3, 1, 2)
    return sums_cuda.BiasGradient.apply(out, bias)


@leaf
def channel_scale(x, factor):
    """x * factor: (B, C, H, W), (C, 1, 1) or, for each image, (B, C, 1, 1) -> (B, C, H, W)."""
    # the kernel of its gradient would sum for each image into numbers that all images share
    is_shared = factor.dim() == 4 and factor.shape[0] == 1
    if kernels is None or not kernels.takes(x) or factor.dtype not in kernels.DTYPES or is_shared:
        return x * factor
    return sums_cuda.ChannelScale.apply(x, factor)
