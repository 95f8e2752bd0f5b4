"""Sums over all pixels of channels-last maps, on CUDA, in Triton: gradients of biases and of factors.

PyTorch's reduction of a map to a few channels leaves most of the GPU idle. Sums are float32, in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch.library import triton_op

from models.ops.kernels import alignment, launcher, pixel_rows, sum_chunks, tile_of


class Blocks:
    """Sizes of the programs, in a class so that tests/bench_kernels.py can vary them."""

    VECTOR = 8  # channels of a thread
    WARPS = 4
    MAX_CHANNELS = 64  # of a program
    PROGRAMS = 1024  # roughly; each leaves a partial sum


@triton.jit(do_not_specialize=["n_pixels", "C", "g_row", "x_row", "n_tiles"])
def channel_sums_kernel(
    Grad,  # rows of g_row * ALIGN numbers, a pixel each
    X,  # rows of x_row * ALIGN numbers; like Factor and GradX used only if HAS_FACTOR
    Factor,  # (groups, C * ALIGN)
    GradX,  # rows of C * ALIGN numbers
    Partial,  # (chunks, groups, C * ALIGN), float32
    n_pixels,  # of a group
    C,
    g_row,
    x_row,
    n_tiles,  # of PIXELS pixels, in a chunk
    HAS_FACTOR: tl.constexpr,
    ALIGN: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    C = C * ALIGN
    group = tl.program_id(0)
    n_groups = tl.num_programs(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    chunk = tl.program_id(2)
    is_channel = c < C
    acc = tl.zeros([PIXELS, CHANNELS], tl.float32)
    if HAS_FACTOR:
        factor = tl.load(Factor + group * C + c, mask=is_channel, other=0.0).to(tl.float32)
    for tile in range(chunk * n_tiles, (chunk + 1) * n_tiles):
        p = tile * PIXELS + tl.arange(0, PIXELS)
        mask = (p < n_pixels)[:, None] & is_channel[None, :]
        p += group * n_pixels
        grad = tl.load(Grad + p[:, None] * (g_row * ALIGN) + c[None, :], mask=mask, other=0.0).to(tl.float32)
        if HAS_FACTOR:
            x = tl.load(X + p[:, None] * (x_row * ALIGN) + c[None, :], mask=mask, other=0.0).to(tl.float32)
            acc += grad * x
            out = (grad * factor[None, :]).to(GradX.dtype.element_ty)
            tl.store(GradX + p[:, None] * C + c[None, :], out, mask=mask)
        else:
            acc += grad
    tl.store(Partial + (chunk * n_groups + group) * C + c, tl.sum(acc, axis=0), mask=is_channel)


def launch(grad, x, factor, grad_x, out, n_groups=1):
    """Sums grad into out (n_groups, C); or, with a factor, sums grad * x and fills grad_x with grad * factor.

    Each group of images has its own sums and its own factors (n_groups, C).
    """
    N, C, H, W = grad.shape
    n_pixels = N // n_groups * H * W
    pixels, channels = tile_of(C, Blocks.MAX_CHANNELS, Blocks.VECTOR, Blocks.WARPS)
    columns, tiles = triton.cdiv(C, channels), triton.cdiv(n_pixels, pixels)
    n_tiles = triton.cdiv(tiles, max(1, Blocks.PROGRAMS // (columns * n_groups)))
    n_chunks = triton.cdiv(tiles, n_tiles)
    align = alignment(C, grad.stride(3), x.stride(3))
    partial = torch.empty((n_chunks, n_groups, C), dtype=torch.float32, device=grad.device)
    launcher(channel_sums_kernel)[(n_groups, columns, n_chunks)](
        grad,
        x,
        x if factor is None else factor,
        partial if grad_x is None else grad_x,
        partial,
        n_pixels,
        C // align,
        grad.stride(3) // align,
        x.stride(3) // align,
        n_tiles,
        HAS_FACTOR=factor is not None,
        ALIGN=align,
        PIXELS=pixels,
        CHANNELS=channels,
        num_warps=Blocks.WARPS,
        num_stages=1,
    )
    sum_chunks(partial.view(n_chunks, 1, n_groups * C), out, None)


@triton_op("resnet_grafts::channel_sums", mutates_args={})
def channel_sums(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x.sum((0, 2, 3)): (B, C, H, W) -> (C,), in the precision dtype."""
    x = pixel_rows(x)
    sums = torch.empty((x.shape[1],), dtype=dtype, device=x.device)
    launch(x, x, None, None, sums)
    return sums


@triton_op("resnet_grafts::channel_scale_gradient", mutates_args={})
def channel_scale_gradient(
    x: torch.Tensor, grad: torch.Tensor, factor: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x * factor: of x (B, C, H, W), channels-last, and of factor (C, 1, 1) or (B, C, 1, 1)."""
    x, grad = pixel_rows(x), pixel_rows(grad)
    N, C, H, W = x.shape
    n_groups = N if factor.dim() == 4 else 1
    grad_x = torch.empty((N, H, W, C), dtype=x.dtype, device=x.device)
    grad_factor = torch.empty(factor.shape, dtype=factor.dtype, device=x.device)
    launch(grad, x, factor.contiguous(), grad_x, grad_factor, n_groups)
    return grad_x.permute(0, 3, 1, 2), grad_factor


class BiasGradient(torch.autograd.Function):
    """Returns a map (B, C, H, W) to which a detached bias (C,) was added, and gives the bias its gradient."""

    @staticmethod
    def forward(ctx, x, bias):
        ctx.dtype = bias.dtype
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad, channel_sums(grad, ctx.dtype) if ctx.needs_input_grad[1] else None


class ChannelScale(torch.autograd.Function):
    """x * factor: (B, C, H, W), (C, 1, 1) or (B, C, 1, 1) -> (B, C, H, W)."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x, factor)
        return x * factor

    @staticmethod
    def backward(ctx, grad):
        x, factor = ctx.saved_tensors
        return channel_scale_gradient(x, grad, factor)
