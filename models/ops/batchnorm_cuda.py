"""Batch norm with a GELU after it, for training on CUDA, in Triton: of channels-last maps.

PyTorch reads or writes a map thirteen times: the norm three times, the GELU twice, and their gradients eight times. Here it is
eight, three forward and five backward: a program that has pixels in its registers applies the GELU at once, and the backward
pass computes norm and slope again from the map x, which is all that is saved.

Numbers: all sums are float32, in a fixed order. The variance is of differences from the first pixel, so that a large mean
does not cancel it. The normal CDF is that of Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1.26, to
1e-7, whose exponential the slope needs anyway: CUDA's erf alone would take longer than the memory.
"""

import torch
import triton
import triton.language as tl
from torch.library import triton_op

from models.ops.kernels import alignment, launcher, pixel_rows, sum_chunks, tile_of


class Blocks:
    """Sizes of the programs, in a class so that tests/bench_kernels.py can vary them."""

    VECTOR = 16  # numbers of a thread
    SUMS_VECTOR = 8  # of a kernel that sums
    WARPS = 4
    MAX_CHANNELS = 64  # of a program
    PROGRAMS = 2048  # about this many sum; each leaves a partial sum
    CHUNKS, CHANNELS = 128, 8  # of a tile of moments_kernel


# not specialized, so that no value compiles another kernel; each kernel has some of them
INTEGERS = ["n_pixels", "n_chunks", "C", "x_row", "g_row", "n_tiles"]


@triton.jit
def normal(z):
    """Distribution function of the standard normal distribution, and exp(-z**2 / 2)."""
    bell = tl.exp(-0.5 * z * z)
    t = 1 / (1 + 0.3275911 * 0.7071067811865476 * tl.abs(z))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * series * bell
    return tl.where(z < 0, tail, 1 - tail), bell


@triton.jit
def gelu_slope(z):
    below, bell = normal(z)
    return below + z * 0.3989422804014327 * bell


@triton.jit
def parameters(Mean, Scale, Weight, Bias, c, is_channel):
    """Mean, reciprocal deviation, weight and bias of the channels c."""
    mean = tl.load(Mean + c, mask=is_channel, other=0.0)
    scale = tl.load(Scale + c, mask=is_channel, other=0.0)
    weight = tl.load(Weight + c, mask=is_channel, other=0.0)
    bias = tl.load(Bias + c, mask=is_channel, other=0.0)
    return mean, scale, weight, bias


@triton.jit
def before_gelu(grad, x, mean, scale, weight, bias):
    """The gradient of what the GELU reads, and x with mean 0 and variance 1; pixels (P, CHANNELS)."""
    unit = (x - mean[None, :]) * scale[None, :]
    return grad * gelu_slope(unit * weight[None, :] + bias[None, :]), unit


@triton.jit(do_not_specialize=INTEGERS)
def statistics_kernel(
    X,  # rows of x_row * ALIGN numbers, a pixel each
    Partial,  # (chunks, 2, C * ALIGN), float32: sums of differences from the first pixel, and of their squares
    n_pixels,
    C,
    x_row,
    n_tiles,  # of PIXELS pixels, in a chunk
    ALIGN: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    C = C * ALIGN
    chunk = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = c < C
    first = tl.load(X + c, mask=is_channel, other=0.0).to(tl.float32)
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    squares = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tile in range(chunk * n_tiles, (chunk + 1) * n_tiles):
        p = tile * PIXELS + tl.arange(0, PIXELS)
        mask = (p < n_pixels)[:, None] & is_channel[None, :]
        x = tl.load(X + p[:, None] * (x_row * ALIGN) + c[None, :], mask=mask, other=0.0).to(tl.float32)
        difference = tl.where(mask, x - first[None, :], 0.0)
        total += difference
        squares += difference * difference
    partial = Partial + chunk * 2 * C + c
    tl.store(partial, tl.sum(total, axis=0), mask=is_channel)
    tl.store(partial + C, tl.sum(squares, axis=0), mask=is_channel)


@triton.jit(do_not_specialize=INTEGERS)
def moments_kernel(
    X,
    Partial,  # (n_chunks, 2, C), of statistics_kernel
    Mean,  # (C,), float32
    Scale,  # (C,), float32: the reciprocal deviation
    RunningMean,
    RunningVar,
    n_pixels,
    n_chunks,
    C,
    EPS: tl.constexpr,
    MOMENTUM: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = c < C
    total = tl.zeros([CHUNKS, CHANNELS], tl.float32)
    squares = tl.zeros([CHUNKS, CHANNELS], tl.float32)
    for start in range(0, n_chunks, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)
        mask = (chunk < n_chunks)[:, None] & is_channel[None, :]
        partial = Partial + chunk[:, None] * 2 * C + c[None, :]
        total += tl.load(partial, mask=mask, other=0.0)
        squares += tl.load(partial + C, mask=mask, other=0.0)
    offset = tl.sum(total, axis=0) / n_pixels
    var = tl.maximum(tl.sum(squares, axis=0) / n_pixels - offset * offset, 0.0)
    mean = tl.load(X + c, mask=is_channel, other=0.0).to(tl.float32) + offset
    tl.store(Mean + c, mean, mask=is_channel)
    tl.store(Scale + c, 1 / tl.sqrt(var + EPS), mask=is_channel)
    old_mean = tl.load(RunningMean + c, mask=is_channel, other=0.0)
    old_var = tl.load(RunningVar + c, mask=is_channel, other=0.0)
    unbiased = var * (n_pixels / (n_pixels - 1.0))
    tl.store(RunningMean + c, old_mean + MOMENTUM * (mean - old_mean), mask=is_channel)
    tl.store(RunningVar + c, old_var + MOMENTUM * (unbiased - old_var), mask=is_channel)


@triton.jit(do_not_specialize=INTEGERS)
def norm_gelu_kernel(
    X,
    Mean,
    Scale,
    Weight,
    Bias,
    Y,  # rows of C * ALIGN numbers
    n_pixels,
    C,
    x_row,
    ALIGN: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    C = C * ALIGN
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = c < C
    mask = (p < n_pixels)[:, None] & is_channel[None, :]
    mean, scale, weight, bias = parameters(Mean, Scale, Weight, Bias, c, is_channel)
    x = tl.load(X + p[:, None] * (x_row * ALIGN) + c[None, :], mask=mask, other=0.0).to(tl.float32)
    z = (x - mean[None, :]) * (scale * weight)[None, :] + bias[None, :]
    below, _ = normal(z)
    tl.store(Y + p[:, None] * C + c[None, :], (z * below).to(Y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=INTEGERS)
def gradient_sums_kernel(
    X,
    Grad,  # of the output, rows of g_row * ALIGN numbers
    Mean,
    Scale,
    Weight,
    Bias,
    Partial,  # (chunks, 2, C * ALIGN), float32: gradients of weight and bias
    n_pixels,
    C,
    x_row,
    g_row,
    n_tiles,
    ALIGN: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    C = C * ALIGN
    chunk = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = c < C
    mean, scale, weight, bias = parameters(Mean, Scale, Weight, Bias, c, is_channel)
    grad_weight = tl.zeros([PIXELS, CHANNELS], tl.float32)
    grad_bias = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tile in range(chunk * n_tiles, (chunk + 1) * n_tiles):
        p = tile * PIXELS + tl.arange(0, PIXELS)
        mask = (p < n_pixels)[:, None] & is_channel[None, :]
        x = tl.load(X + p[:, None] * (x_row * ALIGN) + c[None, :], mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(Grad + p[:, None] * (g_row * ALIGN) + c[None, :], mask=mask, other=0.0).to(tl.float32)
        grad, unit = before_gelu(grad, x, mean, scale, weight, bias)
        grad_weight += grad * unit
        grad_bias += grad
    partial = Partial + chunk * 2 * C + c
    tl.store(partial, tl.sum(grad_weight, axis=0), mask=is_channel)
    tl.store(partial + C, tl.sum(grad_bias, axis=0), mask=is_channel)


@triton.jit(do_not_specialize=INTEGERS)
def map_gradient_kernel(
    X,
    Grad,
    Mean,
    Scale,
    Weight,
    Bias,
    GradWeight,  # (C * ALIGN,), float32
    GradBias,
    GradX,  # rows of C * ALIGN numbers
    n_pixels,
    C,
    x_row,
    g_row,
    ALIGN: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    C = C * ALIGN
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = c < C
    mask = (p < n_pixels)[:, None] & is_channel[None, :]
    mean, scale, weight, bias = parameters(Mean, Scale, Weight, Bias, c, is_channel)
    slope = tl.load(GradWeight + c, mask=is_channel, other=0.0) / n_pixels
    shift = tl.load(GradBias + c, mask=is_channel, other=0.0) / n_pixels
    x = tl.load(X + p[:, None] * (x_row * ALIGN) + c[None, :], mask=mask, other=0.0).to(tl.float32)
    grad = tl.load(Grad + p[:, None] * (g_row * ALIGN) + c[None, :], mask=mask, other=0.0).to(tl.float32)
    grad, unit = before_gelu(grad, x, mean, scale, weight, bias)
    out = (grad - shift[None, :] - unit * slope[None, :]) * (scale * weight)[None, :]
    tl.store(GradX + p[:, None] * C + c[None, :], out.to(GradX.dtype.element_ty), mask=mask)


def arguments(shape, vector, rows):
    """The grid of tiles, integers and constants for maps (B, C, H, W), rows of these lengths and `vector` numbers a thread."""
    N, C, H, W = shape
    align = alignment(C, *rows)
    pixels, channels = tile_of(C, Blocks.MAX_CHANNELS, vector, Blocks.WARPS)
    constants = {"ALIGN": align, "PIXELS": pixels, "CHANNELS": channels, "num_warps": Blocks.WARPS, "num_stages": 1}
    grid = triton.cdiv(N * H * W, pixels), triton.cdiv(C, channels)
    return grid, (N * H * W, C // align, *(row // align for row in rows)), constants


def launch(kernel, shape, rows, *tensors):
    """Launches a kernel, a tile per program."""
    grid, integers, constants = arguments(shape, Blocks.VECTOR, rows)
    launcher(kernel)[grid](*tensors, *integers, **constants)


def partial_sums(kernel, shape, rows, *tensors):
    """Launches a kernel that sums two values per channel over chunks of tiles: (chunks, 2, C), float32."""
    (tiles, columns), integers, constants = arguments(shape, Blocks.SUMS_VECTOR, rows)
    n_tiles = triton.cdiv(tiles, max(1, Blocks.PROGRAMS // columns))
    n_chunks = triton.cdiv(tiles, n_tiles)
    partial = torch.empty((n_chunks, 2, shape[1]), dtype=torch.float32, device=tensors[0].device)
    launcher(kernel)[(n_chunks, columns)](*tensors, partial, *integers, n_tiles, **constants)
    return partial


@triton_op("resnet_grafts::batch_statistics", mutates_args={"running_mean", "running_var"})
def batch_statistics(
    x: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor, momentum: float, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and reciprocal deviation of each channel of (B, C, H, W), both (C,), float32; the running ones move towards them.

    running_mean, running_var: (C,), float32, the unbiased variance, as nn.BatchNorm2d keeps it.
    """
    x = pixel_rows(x)
    N, C, H, W = x.shape
    mean, scale = (torch.empty((C,), dtype=torch.float32, device=x.device) for _ in range(2))
    partial = partial_sums(statistics_kernel, x.shape, [x.stride(3)], x)
    launcher(moments_kernel)[(triton.cdiv(C, Blocks.CHANNELS),)](
        x,
        partial,
        mean,
        scale,
        running_mean,
        running_var,
        N * H * W,
        len(partial),
        C,
        EPS=eps,
        MOMENTUM=momentum,
        CHUNKS=Blocks.CHUNKS,
        CHANNELS=Blocks.CHANNELS,
        num_warps=Blocks.WARPS,
    )
    return mean, scale


@triton_op("resnet_grafts::batch_norm_gelu", mutates_args={})
def batch_norm_gelu(
    x: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """gelu((x - mean) * scale * weight + bias): (B, C, H, W) -> (B, C, H, W), channels-last.

    weight, bias: (C,), float32. mean, scale: those of x by batch_statistics, which the gradient of x takes into account.
    """
    x = pixel_rows(x)
    N, C, H, W = x.shape
    y = torch.empty((N, H, W, C), dtype=x.dtype, device=x.device)
    launch(norm_gelu_kernel, x.shape, [x.stride(3)], x, mean, scale, weight, bias, y)
    return y.permute(0, 3, 1, 2)


@triton_op("resnet_grafts::batch_norm_gelu_gradient", mutates_args={})
def batch_norm_gelu_gradient(
    x: torch.Tensor,
    grad: torch.Tensor,
    mean: torch.Tensor,
    scale: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of map, weight and bias."""
    x, grad = pixel_rows(x), pixel_rows(grad)
    N, C, H, W = x.shape
    how = x.shape, [x.stride(3), grad.stride(3)], x, grad, mean, scale, weight, bias
    grad_x = torch.empty((N, H, W, C), dtype=x.dtype, device=x.device)
    grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)
    sum_chunks(partial_sums(gradient_sums_kernel, *how), grad_weight, grad_bias)
    launch(map_gradient_kernel, *how, grad_weight, grad_bias, grad_x)
    return grad_x.permute(0, 3, 1, 2), grad_weight, grad_bias


def save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def backward(ctx, grad):
    x, mean, scale, weight, bias = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = batch_norm_gelu_gradient(x, grad, mean, scale, weight, bias)
    return grad_x, None, None, grad_weight, grad_bias


batch_norm_gelu.register_autograd(backward, setup_context=save)
