"""What the Triton kernels share: where they run, how they are launched, and the sum of partial sums.

A gradient of a parameter is a sum over all pixels. If programs added to one number as they finish, the rounding would
change from run to run. So each program sums a chunk of pixels of its own, and one more kernel adds up the
chunks in their order: two runs agree to the last bit.
"""

import functools
import os
import shutil
import sysconfig

import torch
import triton
import triton.language as tl
from torch.library import wrap_triton
from triton.runtime.jit import JITFunction

MAX_NUMEL = 2**31  # elements: kernels compute offsets in 32 bits
MAX_ALIGNMENT = 8  # elements: 16 bytes of half precision, the widest access of a thread
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Of sum_chunks: a program with many chunks in its tile waits for few loads in a row.
FEW_CHUNKS, MANY_CHUNKS = 8, 128
SUM_TILE, SUM_WARPS = 1024, 4  # chunks times numbers of a tile


@functools.cache
def can_build(device_index):
    """Whether Triton can build kernels here: compute capability 7.0, a C compiler and Python's headers (for launchers)."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")  # as Triton looks for it
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # where Triton looks for them
    headers = os.path.join(sysconfig.get_paths(scheme)["include"], "Python.h")
    return compiler is not None and os.path.exists(headers) and torch.cuda.get_device_capability(device_index) >= (7, 0)


@torch.compiler.assume_constant_result
def is_usable(device_index):
    """Whether kernels can be built for this GPU and launched: Triton uses the current one. A constant for torch.compile."""
    return can_build(device_index) and device_index == torch.cuda.current_device()


def takes(x):
    """Whether the kernels compute maps like x: on a GPU, in a precision of DTYPES, with offsets of 32 bits."""
    return x.is_cuda and x.dtype in DTYPES and x.numel() > 0 and fits(x) and is_usable(x.device.index)


def fits(x):
    """Whether 32 bits hold the offsets of x's numbers, as they lie and when copied."""
    return x.numel() < MAX_NUMEL and last_offset(x) < MAX_NUMEL


def last_offset(x):
    """The offset of x's last number in memory, which exceeds x.numel() - 1 in a slice of channels."""
    return sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))


def launcher(kernel):
    """The kernel, wrapped so that torch.compile and make_fx see its launch; as it is in Triton's interpreter."""
    return wrap_triton(kernel) if isinstance(kernel, JITFunction) else kernel


def pixel_rows(x):
    """The map (B, C, H, W) laid out as rows of pixels, each with its channels side by side; copied if it is not.

    A slice of the channels of such a map stays as it is: its rows are x.stride(3) > C elements apart.
    """
    B, C, H, W = x.shape
    B_stride, C_stride, H_stride, W_stride = x.stride()
    is_laid_out = C_stride == 1 and W_stride >= C and H_stride == W * W_stride and B_stride == H * H_stride
    if is_laid_out and fits(x):
        return x
    return x.contiguous(memory_format=torch.channels_last).as_strided((B, C, H, W), (H * W * C, 1, W * C, C))


def alignment(*counts):
    """The largest power of 2, up to MAX_ALIGNMENT, that divides all counts: what a thread can read at once."""
    n = MAX_ALIGNMENT
    while any(count % n for count in counts):
        n //= 2
    return n


def tile_of(C, most_channels, vector, warps):
    """Pixels and channels of a program whose threads hold `vector` numbers each, or all that a wide pixel needs."""
    channels = min(triton.next_power_of_2(C), most_channels)
    return max(1, warps * 32 * vector // channels), channels


@triton.jit(do_not_specialize=["n_chunks", "n_taps", "C"])
def sum_chunks_kernel(
    Partial,  # (n_chunks, n_taps + HAS_BIAS, C), float32
    Out,  # (C, n_taps)
    Bias,  # (C,), only written if HAS_BIAS
    n_chunks,
    n_taps,
    C,
    HAS_BIAS: tl.constexpr,
    CHUNKS: tl.constexpr,
    NUMBERS: tl.constexpr,
):
    k = tl.program_id(0) * NUMBERS + tl.arange(0, NUMBERS)
    n_numbers = (n_taps + HAS_BIAS) * C
    acc = tl.zeros([CHUNKS, NUMBERS], tl.float32)
    for start in range(0, n_chunks, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)
        mask = (chunk < n_chunks)[:, None] & (k < n_numbers)[None, :]
        acc += tl.load(Partial + chunk[:, None] * n_numbers + k[None, :], mask=mask, other=0.0)
    total = tl.sum(acc, axis=0)
    tap = k // C
    c = k % C
    tl.store(Out + c * n_taps + tap, total.to(Out.dtype.element_ty), mask=tap < n_taps)
    if HAS_BIAS:
        tl.store(Bias + c, total.to(Bias.dtype.element_ty), mask=tap == n_taps)


def sum_chunks(partial, out, bias):
    """Sums partial (chunks, T or T + 1, C), float32, into out (C, T) and its last row into bias (C,) unless None."""
    n_chunks, n_rows, C = partial.shape
    chunks = FEW_CHUNKS if n_chunks <= FEW_CHUNKS else MANY_CHUNKS
    grid = (triton.cdiv(n_rows * C, SUM_TILE // chunks),)
    launcher(sum_chunks_kernel)[grid](
        partial,
        out,
        partial if bias is None else bias,
        n_chunks,
        n_rows - (bias is not None),
        C,
        HAS_BIAS=bias is not None,
        CHUNKS=chunks,
        NUMBERS=SUM_TILE // chunks,
        num_warps=SUM_WARPS,
    )
