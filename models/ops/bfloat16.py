"""bfloat16 on a CPU that has no instructions for it.

There PyTorch's own convolutions and matrix products in bfloat16 are loops: a training step of the ResNet takes fifteen
times as long as in float32, or nearly twice where oneDNN emulates the instructions with those of AVX-512. The product of
two bfloat16 numbers is exact in float32, and processors with bfloat16 instructions add these up in float32. So the same
numbers, but for the order of the sums, come from float32 products of rounded operands, whose result is rounded again. A run
in bfloat16 can thus be repeated, up to rounding, on any processor; over epochs rounding alone may move the final score by
half a point or more.
"""

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

PRODUCTS = {  # of what autocast computes in bfloat16; the rest (einsum, nn.MultiheadAttention) stays right, and slow
    torch.conv1d,
    torch.conv2d,
    F.linear,
    torch.bmm,
    torch.matmul,
    torch.Tensor.matmul,
    F.scaled_dot_product_attention,
}


@torch.compiler.assume_constant_result
def is_native():
    """Whether this CPU has bfloat16's instructions and PyTorch uses them."""
    emulated = torch.cpu._is_avx512_supported() and not torch.cpu._is_avx512_bf16_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported() and not emulated


def rounded(value):
    """A float tensor as float32 with bfloat16's values; anything else as it is."""
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.bfloat16().float() if is_float else value


class AutocastInFloat32(TorchFunctionMode):
    """torch.autocast("cpu", torch.bfloat16) with PRODUCTS in float32; those of tensors that are bfloat16 already, too.

    The casts are differentiable, so that gradients are rounded as well, whether or not the backward pass is inside.
    """

    def __init__(self):
        super().__init__()
        self.autocast = torch.autocast("cpu", torch.bfloat16)

    def __enter__(self):
        self.autocast.__enter__()
        return super().__enter__()

    def __exit__(self, *problem):
        super().__exit__(*problem)
        self.autocast.__exit__(*problem)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in PRODUCTS:
            return func(*args, **kwargs)
        dtype = next((v.dtype for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)), None)
        if dtype != torch.bfloat16 and not (dtype == torch.float32 and torch.is_autocast_enabled("cpu")):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(rounded, args), **{name: rounded(value) for name, value in kwargs.items()}).bfloat16()
