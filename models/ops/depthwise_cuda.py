"""Depthwise convolution on CUDA, in Triton: maps whose channels lie side by side (channels-last), stride 1, odd kernels.

cuDNN and PyTorch have fast kernels for small squares of some layouts only; strips (1x7 to 21x1) go through layout copies
and loops there, and the gradients of kernels through matrices. A depthwise layer multiplies each number of its input as
often as the kernel has taps, so what counts is how often a number is read: here a thread computes REUSE outputs that lie
one after the other along one axis, and a number that it reads serves all of them.

An axis "along" (A) has the reuse, the other one is "across" (B). Squares and upright strips go along H, flat strips along
W: the kernels are given strides of both axes, so that 1x21 and 21x1 are one compiled kernel.

Numbers: products and sums are float32, whatever the maps are. Weights and bias are rounded to the precision of the maps, as
autocast does, but inside the kernel. So no copy of them is made, and the gradients of float32 weights are never rounded to
half precision.
"""

import torch
import triton
import triton.language as tl
from torch.library import triton_op

from models.ops.kernels import alignment, launcher, pixel_rows, sum_chunks, tile_of


class Blocks:
    """Sizes of the programs, in a class so that tests/bench_kernels.py can vary them.

    A thread holds VECTOR * REUSE sums, VECTOR * TAPS weights and a pixel: more than 255 numbers do not fit its registers.
    """

    TAPS = 7  # along the axis at a time, at most: 21x1 is three times 7x1
    REUSE = 4  # outputs of a thread, at most
    MAX_CHANNELS = 64  # of a program
    VECTOR = 4  # channels of a thread
    WARPS = 4
    # of the gradient of the kernel: a thread holds VECTOR * TAPS sums and VECTOR * REUSE gradients
    KERNEL_REUSE = 4
    KERNEL_MAX_CHANNELS = 64
    KERNEL_VECTOR = 4
    KERNEL_WARPS = 1  # whose threads then add up without shared memory
    KERNEL_PROGRAMS = 2048  # at most; each leaves a partial sum for each of its taps


@triton.jit
def replaced(values, index: tl.constexpr, value):
    """The tuple of values with another one at the index."""
    return values[:index] + (value,) + values[index + 1 :]  # noqa: RUF005 - Triton knows no *


@triton.jit
def zeros(N: tl.constexpr, P: tl.constexpr, C: tl.constexpr):
    """A tuple of N float32 tiles (P, C)."""
    values = ()
    for _ in tl.static_range(N):
        values = values + (tl.zeros([P, C], tl.float32),)  # noqa: RUF005
    return values


@triton.jit
def positions(p, n_lines, n_starts, B, D, R: tl.constexpr):
    """Sample of thread p, its first output along the axis, its place across, and whether it has any.

    Its R outputs are D apart. So D threads, from one start each, fill R * D places, and the next ones begin after them.
    """
    start = (p // B) % n_starts
    return p // (B * n_starts), (start // D) * (R * D) + start % D, p % B, p < n_lines


# not specialized, so that no value compiles another kernel; each kernel has some of them
INTEGERS = ["n_lines", "n_starts", "A", "B", "A_step", "B_step", "C", "x_row", "g_row", "KA", "KB", "D"]
INTEGERS += ["tap_0", "A_tap", "B_tap", "n_tiles", "has_bias"]


@triton.jit(do_not_specialize=INTEGERS)
def convolve_kernel(
    X,  # rows of x_row * ALIGN numbers, a pixel each
    Weight,  # (C * ALIGN, taps): that of place i along and j across is tap_0 + i * A_tap + j * B_tap
    Bias,
    Y,  # rows of C * ALIGN numbers
    n_lines,  # threads: a start along the axis, a place across and a sample each
    n_starts,
    A,  # size of the maps along
    B,
    A_step,  # pixels from a place to the next one along
    B_step,
    C,
    x_row,
    KA,  # taps along
    KB,
    D,
    tap_0,
    A_tap,
    B_tap,
    has_bias,
    TAPS: tl.constexpr,  # along, at a time
    R: tl.constexpr,
    ALIGN: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    C = C * ALIGN
    x_row = x_row * ALIGN
    n, a, b, inside = positions(tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), n_lines, n_starts, B, D, R)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = c < C
    pixel = n * (A * B) + a * A_step + b * B_step
    groups = (KA + TAPS - 1) // TAPS
    acc = zeros(R, PIXELS, CHANNELS)
    for row in range(KB * groups):
        first = (row % groups) * TAPS
        b_offset = (row // groups - KB // 2) * D
        a_offset = (first - KA // 2) * D
        is_line = inside & (b + b_offset >= 0) & (b + b_offset < B)
        x_ptr = X + (pixel + b_offset * B_step + a_offset * A_step)[:, None] * x_row + c[None, :]
        w_ptr = Weight + c * (KA * KB) + tap_0 + first * A_tap + (row // groups) * B_tap
        taps = ()
        for s in tl.static_range(R + TAPS - 1):
            a_in = a + a_offset + s * D
            mask = (is_line & (a_in >= 0) & (a_in < A))[:, None] & is_channel[None, :]
            x = tl.load(x_ptr + s * D * A_step * x_row, mask=mask, other=0.0).to(tl.float32)
            if s < TAPS:
                tap = tl.load(w_ptr + s * A_tap, mask=is_channel & (first + s < KA), other=0.0)
                taps = taps + (tap.to(X.dtype.element_ty).to(tl.float32)[None, :],)  # noqa: RUF005
            for r in tl.static_range(R):
                if s - r >= 0 and s - r < TAPS:
                    acc = replaced(acc, r, acc[r] + x * taps[s - r])
    bias = tl.zeros([CHANNELS], tl.float32)
    if has_bias != 0:
        bias = tl.load(Bias + c, mask=is_channel, other=0.0).to(X.dtype.element_ty).to(tl.float32)
    for r in tl.static_range(R):
        mask = (inside & (a + r * D < A))[:, None] & is_channel[None, :]
        out = (acc[r] + bias[None, :]).to(Y.dtype.element_ty)
        tl.store(Y + (pixel + r * D * A_step)[:, None] * C + c[None, :], out, mask=mask)


@triton.jit(do_not_specialize=INTEGERS)
def kernel_gradient_kernel(
    X,
    Grad,  # of the output, rows of g_row * ALIGN numbers
    Partial,  # (chunks, KA * KB + HAS_BIAS, C * ALIGN), float32
    n_lines,
    n_starts,
    A,
    B,
    A_step,
    B_step,
    C,
    x_row,
    g_row,
    KA,
    KB,
    D,
    A_tap,
    B_tap,
    n_tiles,  # of PIXELS threads, in a chunk
    TAPS: tl.constexpr,  # along, of a program, which has one place across
    R: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ALIGN: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    C = C * ALIGN
    x_row = x_row * ALIGN
    g_row = g_row * ALIGN
    chunk = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = c < C
    row = tl.program_id(2)
    groups = (KA + TAPS - 1) // TAPS
    first = (row % groups) * TAPS
    b_offset = (row // groups - KB // 2) * D
    a_offset = (first - KA // 2) * D
    acc = zeros(TAPS, PIXELS, CHANNELS)
    bias = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tile in range(chunk * n_tiles, (chunk + 1) * n_tiles):
        n, a, b, inside = positions(tile * PIXELS + tl.arange(0, PIXELS), n_lines, n_starts, B, D, R)
        pixel = n * (A * B) + a * A_step + b * B_step
        is_line = inside & (b + b_offset >= 0) & (b + b_offset < B)
        x_ptr = X + (pixel + b_offset * B_step + a_offset * A_step)[:, None] * x_row + c[None, :]
        g_ptr = Grad + pixel[:, None] * g_row + c[None, :]
        grads = ()
        for s in tl.static_range(R + TAPS - 1):
            a_in = a + a_offset + s * D
            mask = (is_line & (a_in >= 0) & (a_in < A))[:, None] & is_channel[None, :]
            x = tl.load(x_ptr + s * D * A_step * x_row, mask=mask, other=0.0).to(tl.float32)
            if s < R:
                mask = (inside & (a + s * D < A))[:, None] & is_channel[None, :]
                grad = tl.load(g_ptr + s * D * A_step * g_row, mask=mask, other=0.0).to(tl.float32)
                grads = grads + (grad,)  # noqa: RUF005
                if HAS_BIAS:
                    bias += grad
            for r in tl.static_range(R):
                if s - r >= 0 and s - r < TAPS:
                    acc = replaced(acc, s - r, acc[s - r] + x * grads[r])
    out = Partial + chunk * ((KA * KB + HAS_BIAS) * C) + c
    for i in tl.static_range(TAPS):
        tap = (first + i) * A_tap + (row // groups) * B_tap
        tl.store(out + tap * C, tl.sum(acc[i], axis=0), mask=is_channel & (first + i < KA))
    if HAS_BIAS:
        tl.store(out + KA * KB * C, tl.sum(bias, axis=0), mask=is_channel & (row == 0))


def reuse(A, dilation, most):
    """How many outputs a thread computes: as many as `most`, unless more than a fifth of them would lie outside."""
    fitting = (R for R in range(most, 1, -1) if triton.cdiv(A, R * dilation) * R * dilation <= 1.25 * A)
    return next(fitting, 1)


def axes(x, weight, dilation, most_reuse):
    """A layer along and across: reuse, (n_lines ... B_step), (KA, KB), (A_tap, B_tap) and TAPS."""
    N, _, H, W = x.shape
    kh, kw = weight.shape[2:]
    A, B, KA, KB, steps, taps = (W, H, kw, kh, (1, W), (1, kw)) if kh == 1 else (H, W, kh, kw, (W, 1), (kw, 1))
    R = reuse(A, dilation, most_reuse) if KA > 1 else 1
    n_starts = triton.cdiv(A, R * dilation) * dilation
    at_a_time = triton.cdiv(KA, triton.cdiv(KA, Blocks.TAPS))
    return R, (N * B * n_starts, n_starts, A, B, *steps), (KA, KB), taps, at_a_time


def convolve(x, weight, bias, dilation, flip):
    """The convolution, or its input gradient (flip): (B, C, H, W) -> (B, C, H, W), channels-last."""
    x = pixel_rows(x)
    N, C, H, W = x.shape
    R, sizes, (KA, KB), (A_tap, B_tap), at_a_time = axes(x, weight, dilation, Blocks.REUSE)
    pixels, channels = tile_of(C, Blocks.MAX_CHANNELS, Blocks.VECTOR, Blocks.WARPS)
    tap_0, sign = (KA * KB - 1, -1) if flip else (0, 1)
    align = alignment(C, x.stride(3))
    y = torch.empty((N, H, W, C), dtype=x.dtype, device=x.device)
    launcher(convolve_kernel)[(triton.cdiv(sizes[0], pixels), triton.cdiv(C, channels))](
        x,
        weight,
        weight if bias is None else bias,
        y,
        *sizes,
        C // align,
        x.stride(3) // align,
        KA,
        KB,
        dilation,
        tap_0,
        sign * A_tap,
        sign * B_tap,
        int(bias is not None),
        TAPS=at_a_time,
        R=R,
        ALIGN=align,
        PIXELS=pixels,
        CHANNELS=channels,
        num_warps=Blocks.WARPS,
        num_stages=1,
    )
    return y.permute(0, 3, 1, 2)


def kernel_gradient(x, grad, weight, dilation, has_bias):
    """Gradients of weight (C, 1, kh, kw) and bias (C,), which is empty without has_bias."""
    x, grad = pixel_rows(x), pixel_rows(grad)
    N, C, H, W = x.shape
    R, sizes, (KA, KB), tap_strides, at_a_time = axes(x, weight, dilation, Blocks.KERNEL_REUSE)
    pixels, channels = tile_of(C, Blocks.KERNEL_MAX_CHANNELS, Blocks.KERNEL_VECTOR, Blocks.KERNEL_WARPS)
    columns, rows = triton.cdiv(C, channels), KB * triton.cdiv(KA, at_a_time)
    tiles = triton.cdiv(sizes[0], pixels)
    # enough programs to fill the GPU, but no more bytes of partial sums than a half-precision map has
    n_chunks = min(Blocks.KERNEL_PROGRAMS // (columns * rows), N * H * W // (2 * KA * KB))
    n_tiles = triton.cdiv(tiles, max(1, n_chunks))
    n_chunks = triton.cdiv(tiles, n_tiles)
    align = alignment(C, x.stride(3), grad.stride(3))
    partial = torch.empty((n_chunks, KA * KB + has_bias, C), dtype=torch.float32, device=x.device)
    launcher(kernel_gradient_kernel)[(n_chunks, columns, rows)](
        x,
        grad,
        partial,
        *sizes,
        C // align,
        x.stride(3) // align,
        grad.stride(3) // align,
        KA,
        KB,
        dilation,
        *tap_strides,
        n_tiles,
        TAPS=at_a_time,
        R=R,
        HAS_BIAS=has_bias,
        ALIGN=align,
        PIXELS=pixels,
        CHANNELS=channels,
        num_warps=Blocks.KERNEL_WARPS,
        num_stages=1,
    )
    grad_weight = torch.empty_like(weight)
    grad_bias = torch.empty((C if has_bias else 0,), dtype=weight.dtype, device=x.device)
    sum_chunks(partial, grad_weight, grad_bias if has_bias else None)
    return grad_weight, grad_bias


@triton_op("resnet_grafts::depthwise", mutates_args={})
def depthwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int) -> torch.Tensor:
    """The depthwise F.conv2d with stride 1 and padding dilation * (k // 2): (B, C, H, W) -> (B, C, H, W), channels-last.

    weight: (C, 1, kh, kw), kh and kw odd; bias: (C,) or None; both are rounded to the precision of x, the output's.
    """
    return convolve(x, weight, bias, dilation, False)


@triton_op("resnet_grafts::depthwise_map_gradient", mutates_args={})
def depthwise_map_gradient(grad: torch.Tensor, weight: torch.Tensor, dilation: int) -> torch.Tensor:
    """Gradient of the map, from that of the output: (B, C, H, W) -> (B, C, H, W), channels-last."""
    return convolve(grad, weight, None, dilation, True)


@triton_op("resnet_grafts::depthwise_kernel_gradient", mutates_args={})
def depthwise_kernel_gradient(
    x: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor, dilation: int, has_bias: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of weight and bias, in the weight's precision; that of the bias is empty if there is none."""
    return kernel_gradient(x, grad, weight, dilation, has_bias)


def save(ctx, inputs, output):
    x, weight, bias, ctx.dilation = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def backward(ctx, grad):
    x, weight = ctx.saved_tensors
    grad_x = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = depthwise_map_gradient(grad, weight, ctx.dilation)
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        grad_weight, grad_bias = depthwise_kernel_gradient(x, grad, weight, ctx.dilation, ctx.has_bias)
    return grad_x, grad_weight, grad_bias if ctx.has_bias else None, None


depthwise.register_autograd(backward, setup_context=save)
