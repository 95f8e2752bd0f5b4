"""The Triton kernels are compiled for a GPU of compute capability 9.0, which needs none: what the interpreter lets pass fails here."""

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402 - as above
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from models.ops import batchnorm_cuda, depthwise_cuda, kernels, layernorm_cuda, sums_cuda  # noqa: E402

MODULES = (batchnorm_cuda, depthwise_cuda, kernels, layernorm_cuda, sums_cuda)
KERNELS = {name for module in MODULES for name, value in vars(module).items() if isinstance(value, JITFunction)}
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}


def compiled(kernel, values, options):
    """The machine code of a kernel for arguments like values and options like those of its launch."""
    constants = {name: value for name, value in options.items() if name in kernel.arg_names}
    signature = dict.fromkeys(kernel.arg_names, "constexpr")
    for name, value in zip(kernel.arg_names, values, strict=False):
        signature[name] = POINTERS[value.dtype] if isinstance(value, torch.Tensor) else "i32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    options = {name: value for name, value in options.items() if name not in constants}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]


@pytest.mark.parametrize("dtype", POINTERS)
def test_every_kernel_compiles(monkeypatch, dtype):
    codes = {}

    class Compiler:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def launch(*values, **options):
                codes[self.kernel.__name__] = compiled(self.kernel, values, options)

            return launch

    for module in MODULES:
        monkeypatch.setattr(module, "launcher", Compiler)
    x = torch.zeros(2, 16, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    factor, kernel, gate = torch.zeros(16), torch.zeros(16, 1, 7, 7), torch.zeros(2, 16, 1, 1, dtype=dtype)
    mean, scale = batchnorm_cuda.batch_statistics(x, factor, factor.clone(), 0.1, 1e-5)
    batchnorm_cuda.batch_norm_gelu(x, mean, scale, factor, factor)
    batchnorm_cuda.batch_norm_gelu_gradient(x, x, mean, scale, factor, factor)
    depthwise_cuda.depthwise(x, kernel, factor, 1)
    depthwise_cuda.depthwise_map_gradient(x, kernel, 1)
    depthwise_cuda.depthwise_kernel_gradient(x, x, kernel, 1, True)
    layernorm_cuda.channel_norm(x, factor, factor, 1e-6, dtype)
    layernorm_cuda.channel_norm_gradient(x, x, factor, 1e-6)
    sums_cuda.channel_sums(x, torch.float32)
    sums_cuda.channel_scale_gradient(x, x, gate)
    assert all(codes.values())
    assert codes.keys() == {name for name in KERNELS if name.endswith("_kernel")}
