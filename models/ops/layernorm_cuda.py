"""Layer norm over the channels of each pixel on CUDA, in Triton: for few channels, of channels-last maps.

PyTorch's kernels give each pixel a block of threads, most of which have nothing to do for 16 to 64 channels. Here a program
takes many pixels, each of which stays in the registers of a few threads. The backward pass computes mean and deviation
again from the map, which it has to read anyway, so that the map is all that is saved.

Numbers: all sums are float32; the variance is the mean of squared differences from the mean.
"""

import torch
import triton
import triton.language as tl
from torch.library import triton_op

from models.ops.kernels import alignment, launcher, pixel_rows, sum_chunks, tile_of

MAX_CHANNELS = 1024  # a pixel has to fit into the registers of a program


class Blocks:
    """Sizes of the programs, in a class so that tests/bench_kernels.py can vary them."""

    VECTOR = 8  # channels of a thread
    WARPS = 4
    # of the gradient
    GRADIENT_VECTOR = 8
    GRADIENT_WARPS = 4
    GRADIENT_PROGRAMS = 512  # at most; each leaves a partial sum of both parameters' gradients


# not specialized, so that no value compiles another kernel; each kernel has some of them
INTEGERS = ["n_pixels", "C", "x_row", "g_row", "n_tiles"]


@triton.jit
def normalized(x, is_channel, C, EPS: tl.constexpr):
    """Pixels (P, CHANNELS), 0 after the last channel, with mean 0 and variance 1; and the reciprocal deviation (P, 1)."""
    mean = tl.sum(x, axis=1) / C
    centred = tl.where(is_channel[None, :], x - mean[:, None], 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, axis=1) / C + EPS)
    return centred * scale[:, None], scale[:, None]


@triton.jit(do_not_specialize=INTEGERS)
def norm_kernel(
    X,  # rows of x_row * ALIGN numbers, a pixel each
    Weight,
    Bias,
    Y,  # rows of C * ALIGN numbers
    n_pixels,
    C,
    x_row,
    EPS: tl.constexpr,
    ALIGN: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    C = C * ALIGN
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.arange(0, CHANNELS)
    is_channel = c < C
    mask = (p < n_pixels)[:, None] & is_channel[None, :]
    x = tl.load(X + p[:, None] * (x_row * ALIGN) + c[None, :], mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(Weight + c, mask=is_channel, other=0.0).to(tl.float32)
    bias = tl.load(Bias + c, mask=is_channel, other=0.0).to(tl.float32)
    unit, _ = normalized(x, is_channel, C, EPS)
    out = unit * weight[None, :] + bias[None, :]
    tl.store(Y + p[:, None] * C + c[None, :], out.to(Y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=INTEGERS)
def norm_gradient_kernel(
    X,
    Grad,  # of the output, rows of g_row * ALIGN numbers
    Weight,
    GradX,  # rows of C * ALIGN numbers
    Partial,  # (chunks, 2, C * ALIGN), float32: gradients of weight and bias
    n_pixels,
    C,
    x_row,
    g_row,
    n_tiles,  # of PIXELS pixels, in a chunk
    EPS: tl.constexpr,
    ALIGN: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    C = C * ALIGN
    chunk = tl.program_id(0)
    c = tl.arange(0, CHANNELS)
    is_channel = c < C
    weight = tl.load(Weight + c, mask=is_channel, other=0.0).to(tl.float32)
    grad_weight = tl.zeros([PIXELS, CHANNELS], tl.float32)
    grad_bias = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tile in range(chunk * n_tiles, (chunk + 1) * n_tiles):
        p = tile * PIXELS + tl.arange(0, PIXELS)
        mask = (p < n_pixels)[:, None] & is_channel[None, :]
        x = tl.load(X + p[:, None] * (x_row * ALIGN) + c[None, :], mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(Grad + p[:, None] * (g_row * ALIGN) + c[None, :], mask=mask, other=0.0).to(tl.float32)
        unit, scale = normalized(x, is_channel, C, EPS)
        grad_weight += grad * unit
        grad_bias += grad
        weighted = grad * weight[None, :]
        mean = tl.sum(weighted, axis=1) / C
        slope = tl.sum(weighted * unit, axis=1) / C
        out = (weighted - mean[:, None] - unit * slope[:, None]) * scale
        tl.store(GradX + p[:, None] * C + c[None, :], out.to(GradX.dtype.element_ty), mask=mask)
    partial = Partial + chunk * 2 * C + c
    tl.store(partial, tl.sum(grad_weight, axis=0), mask=is_channel)
    tl.store(partial + C, tl.sum(grad_bias, axis=0), mask=is_channel)


@triton_op("resnet_grafts::channel_norm", mutates_args={})
def channel_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    """Layer norm over channels: (B, C, H, W) -> (B, C, H, W), channels-last, in the precision dtype.

    weight, bias: (C,), in any precision; C up to MAX_CHANNELS.
    """
    x = pixel_rows(x)
    N, C, H, W = x.shape
    pixels, channels = tile_of(C, MAX_CHANNELS, Blocks.VECTOR, Blocks.WARPS)
    align = alignment(C, x.stride(3))
    y = torch.empty((N, H, W, C), dtype=dtype, device=x.device)
    launcher(norm_kernel)[(triton.cdiv(N * H * W, pixels),)](
        x,
        weight,
        bias,
        y,
        N * H * W,
        C // align,
        x.stride(3) // align,
        EPS=eps,
        ALIGN=align,
        PIXELS=pixels,
        CHANNELS=channels,
        num_warps=Blocks.WARPS,
        num_stages=1,
    )
    return y.permute(0, 3, 1, 2)


@triton_op("resnet_grafts::channel_norm_gradient", mutates_args={})
def channel_norm_gradient(
    x: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of map, weight and bias, in the precision of map and weight."""
    x, grad = pixel_rows(x), pixel_rows(grad)
    N, C, H, W = x.shape
    pixels, channels = tile_of(C, MAX_CHANNELS, Blocks.GRADIENT_VECTOR, Blocks.GRADIENT_WARPS)
    tiles = triton.cdiv(N * H * W, pixels)
    n_tiles = triton.cdiv(tiles, Blocks.GRADIENT_PROGRAMS)
    n_chunks = triton.cdiv(tiles, n_tiles)
    align = alignment(C, x.stride(3), grad.stride(3))
    grad_x = torch.empty((N, H, W, C), dtype=x.dtype, device=x.device)
    partial = torch.empty((n_chunks, 2, C), dtype=torch.float32, device=x.device)
    launcher(norm_gradient_kernel)[(n_chunks,)](
        x,
        grad,
        weight,
        grad_x,
        partial,
        N * H * W,
        C // align,
        x.stride(3) // align,
        grad.stride(3) // align,
        n_tiles,
        EPS=eps,
        ALIGN=align,
        PIXELS=pixels,
        CHANNELS=channels,
        num_warps=Blocks.GRADIENT_WARPS,
        num_stages=1,
    )
    grad_weight = torch.empty((C,), dtype=weight.dtype, device=x.device)
    grad_bias = torch.empty((C,), dtype=weight.dtype, device=x.device)
    sum_chunks(partial, grad_weight, grad_bias)
    return grad_x.permute(0, 3, 1, 2), grad_weight, grad_bias


def save(ctx, inputs, output):
    x, weight, _, ctx.eps, _ = inputs
    ctx.save_for_backward(x, weight)


def backward(ctx, grad):
    x, weight = ctx.saved_tensors
    return *channel_norm_gradient(x, grad, weight, ctx.eps), None, None


channel_norm.register_autograd(backward, setup_context=save)
