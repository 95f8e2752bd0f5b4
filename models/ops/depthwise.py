"""Depthwise convolution in the forms that a device computes fast.

The numbers are those of nn.Conv2d, up to rounding. On a GPU the kernels are those of models/ops/depthwise_cuda.py, where
Triton is installed. On a CPU oneDNN 3.13 has weak spots; times are of 128 maps of 16 channels and 32x32 pixels, bfloat16,
channels-last, on one core:

- the gradient of a 7x7 kernel takes 74 ms, that of a dense convolution of 16 channels 9 ms: so channels are taken in
  groups of 16, and only the diagonal of the dense gradient is kept. With AVX2 groups of 8 make whole steps of SegNeXt,
  MSCAN and ConvNeXt 3 to 13 % shorter than groups of 16;
- the gradient of the map takes 7.3 ms, the forward pass 2.1 ms: so it is computed as a forward pass with the flipped kernel;
  with a stride (265 ms for 3x3 and 128 channels), over the gradient spread out with zeros;
- with dilation 3 the forward pass of 7x7 takes 68 ms, and the gradient of a dilated kernel is wrong (often nan): so the
  d*d interleaved maps that such a kernel sees are taken apart;
- 1x21 hangs: so wide strips are computed upright, and other kernels of 15 or more in float32;
- kernels larger than the map, as dilated ones often are once it is taken apart, are slow: 7x7 over 1152 maps of 64
  channels and 3x3 pixels takes 16 ms on two cores without bfloat16, the gradient of the kernel 37 ms. So the taps that see
  padding only are left out (0.4 ms), and in float32 the gradient of a small map's kernel comes from the products of all
  pairs of pixels (4 ms).
"""

import importlib.util
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from models.ops import bfloat16
from models.ops.layout import channels_last_gradient, spread
from models.ops.tracing import leaf

if importlib.util.find_spec("triton"):
    from models.ops import depthwise_cuda, kernels
else:
    kernels = None

WIDE = 15  # taps; from this on oneDNN has no kernel of its own
MOST_PIXELS = 64  # of a map all of whose pairs are multiplied; their number grows with its square
# channels of a dense group: those that a register holds in float32
GROUP = 8 if torch.backends.cpu.get_cpu_capability() == "AVX2" else 16


def reached(weight, H, W):
    """The taps (C, 1, kh, kw) that see a pixel of a map of H x W, a view: the others see its padding only."""
    for dim, size in ((2, H), (3, W)):
        k = weight.shape[dim]
        n = min(k // 2, size - 1)  # taps on either side of the middle one
        weight = weight.narrow(dim, k // 2 - n, 2 * n + 1)
    return weight


def taps_of_pairs(H, W, kh, kw, stride):
    """1 where a tap leads from a pixel of the map to one of the output, else 0: (H W, kh kw, pixels of the output)."""
    return F.unfold(torch.eye(H * W).view(H * W, 1, H, W), (kh, kw), padding=(kh // 2, kw // 2), stride=stride)


def gradient_from_pairs(grad, x, kh, kw, stride):
    """The gradient of a kernel, (C, 1, kh, kw), from the products of all pixels of the output's grad and of x (B, C, H, W)."""
    C, H, W = x.shape[1:]
    products = grad.permute(1, 2, 3, 0).flatten(1, 2) @ x.permute(1, 0, 2, 3).flatten(2)
    return torch.einsum("coi,ito->ct", products, taps_of_pairs(H, W, kh, kw, stride)).view(C, 1, kh, kw)


class FastGradients(torch.autograd.Function):
    """A depthwise F.conv2d with padding k // 2: (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)), k odd."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")  # so that backward() runs without autocast, as forward() does
    def forward(ctx, x, weight, bias, stride):
        ctx.save_for_backward(x, weight)
        ctx.has_bias, ctx.stride = bias is not None, stride
        weight = reached(weight, *x.shape[2:])
        ctx.padding = [k // 2 for k in weight.shape[2:]]
        return F.conv2d(x, weight, bias, stride, ctx.padding, groups=len(weight))

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx, grad):
        x, whole = ctx.saved_tensors
        H, W = x.shape[2:]
        weight = reached(whole, H, W)
        C, _, kh, kw = weight.shape
        grad_x, s = None, ctx.stride
        if ctx.needs_input_grad[0]:
            spread_grad = spread(grad, x.shape, s) if s > 1 else grad
            grad_x = F.conv2d(spread_grad, weight.flip(2, 3), None, 1, ctx.padding, groups=C)
        grad_weight = torch.zeros_like(whole)  # in its strides, which DistributedDataParallel's buckets have, too
        if kh > H and kw > W and H * W <= MOST_PIXELS and x.dtype == torch.float32:
            reached(grad_weight, H, W).copy_(gradient_from_pairs(grad, x, kh, kw, s))
            return grad_x, grad_weight, grad.sum((0, 2, 3)) if ctx.has_bias else None, None
        n = math.gcd(C, GROUP) if max(kh, kw) > 3 and kw < WIDE else 1
        dense = weight.new_empty(C, n, kh, kw)  # only its shape is read
        _, grad_dense, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, dense, [C], (s, s), ctx.padding, (1, 1), False, (0, 0), C // n, (False, True, ctx.has_bias)
        )
        diagonal = grad_dense.view(C // n, n, n, kh, kw).diagonal(dim1=1, dim2=2)  # (C / n, kh, kw, n)
        reached(grad_weight, H, W).copy_(diagonal.permute(0, 3, 1, 2).reshape(weight.shape))
        return grad_x, grad_weight, grad_bias, None


def take_apart(x, d):
    """The d*d maps of every d-th pixel, as samples: (B, C, H, W) -> (d*d B, C, ceil(H / d), ceil(W / d)), padded with zeros."""
    x = F.pad(x, (0, -x.shape[3] % d, 0, -x.shape[2] % d)).permute(0, 2, 3, 1)
    x = x.unflatten(2, (-1, d)).unflatten(1, (-1, d))  # (B, H', d, W', d, C)
    return x.permute(2, 4, 0, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def put_together(x, d, H, W):
    """The inverse of take_apart: (d*d B, C, H', W') -> (B, C, H, W)."""
    x = x.permute(0, 2, 3, 1).unflatten(0, (d, d, -1))  # (d, d, B, H', W', C)
    x = x.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)  # (B, d H', d W', C)
    return x[:, :H, :W].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def upright(x):
    """Rows as columns, channels-last: (B, C, H, W) -> (B, C, W, H)."""
    return channels_last_gradient(x).transpose(2, 3).contiguous(memory_format=torch.channels_last)


class Depthwise(nn.Conv2d):
    """Convolves each channel on its own: (B, C, H, W) -> (B, multiplier C, ceil(H / stride), ceil(W / stride)).

    kernel_size: odd, or a pair of odd numbers. The fast forms are for multiplier 1, and dilations for stride 1.
    """

    def __init__(self, ch, kernel_size, stride=1, dilation=1, multiplier=1, bias=True):
        sizes = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        padding = [dilation * (k // 2) for k in sizes]
        super().__init__(ch, multiplier * ch, sizes, stride, padding, dilation, groups=ch, bias=bias)

    def forward(self, x):
        if self.out_channels > self.in_channels:
            return super().forward(x)
        return depthwise(x, self.weight, self.bias, self.stride[0], self.dilation[0])


@leaf
def depthwise(x, weight, bias, stride, dilation):
    """The F.conv2d of kernels (C, 1, kh, kw), padded to keep the size: (B, C, H, W) -> (B, C, ceil(H / stride), ...)."""
    if x.device.type == "cpu" and (stride == 1 or dilation == 1):
        return on_cpu(x, weight, bias, stride, dilation)
    if stride == 1 and kernels is not None and kernels.takes(x):
        is_cast = torch.is_autocast_enabled("cuda")
        if is_cast or x.dtype == weight.dtype:
            x = x.to(torch.get_autocast_dtype("cuda")) if is_cast else x
            return depthwise_cuda.depthwise(x, weight, bias, dilation)
    padding = [dilation * (k // 2) for k in weight.shape[2:]]
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups=len(weight))


def on_cpu(x, weight, bias, stride, dilation):
    """depthwise() in autocast's precision; computed in float32 and rounded where bfloat16 is slow or hangs."""
    is_cast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64  # which autocast leaves alone
    dtype = torch.get_autocast_dtype("cpu") if is_cast else x.dtype
    kernel_size = weight.shape[2:]
    wide = min(kernel_size) > 1 and max(kernel_size) >= WIDE
    slow = dtype == torch.bfloat16 and not bfloat16.is_native()
    computed = torch.promote_types(dtype, torch.float32) if wide or slow else dtype
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.to(dtype).to(computed)
        return fast_form(x.to(dtype).to(computed), weight.to(dtype).to(computed), bias, stride, dilation).to(dtype)


def fast_form(x, weight, bias, stride, dilation):
    """depthwise() of maps taken apart where the kernel is dilated, and turned upright where it is a wide strip."""
    kh, kw = weight.shape[2:]
    if dilation > 1:
        apart = FastGradients.apply(take_apart(x, dilation), weight, bias, stride)
        return put_together(apart, dilation, *x.shape[2:])
    if kh == 1 and kw >= WIDE:
        return upright(FastGradients.apply(upright(x), weight.transpose(2, 3), bias, stride))
    return FastGradients.apply(x, weight, bias, stride)
