"""The Triton kernels against PyTorch in double precision: python -m tests.kernel_cases prints each case's errors as JSON.

In a process of its own with TRITON_INTERPRET=1, which Triton reads when a kernel is defined, they run without a GPU.
"""

import json
from copy import deepcopy
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from models.coatnet import CoAtNet
from models.ops import batchnorm_cuda, depthwise_cuda, kernels, layernorm_cuda, sums_cuda
from models.resnet import Place

DEPTHWISE = {  # channels, height, width, kernel, dilation
    "3x3": (16, 3, 5, (3, 3), 1),
    "7x7": (24, 9, 7, (7, 7), 1),
    "1x7": (16, 8, 8, (1, 7), 1),
    "11x1": (16, 13, 3, (11, 1), 1),
    "21x1": (80, 6, 3, (21, 1), 1),
    "1x21": (16, 5, 8, (1, 21), 1),
    "7x7, dilation 3": (16, 9, 7, (7, 7), 3),
    "1x5, dilation 2": (16, 3, 9, (1, 5), 2),
    "5x5, 3 channels": (3, 9, 7, (5, 5), 1),
    "1x1": (16, 3, 5, (1, 1), 1),
    "3x5, no bias": (16, 4, 4, (3, 5), 1),
}
NORMS = {
    "16": (16, 3, 5),
    "3": (3, 9, 7),
    "24": (24, 9, 7),
    "80": (80, 5, 3),
    "200": (200, 3, 3),
}  # channels, height, width
SLICED = "slice of channels"  # of wider maps, without a copy


def depthwise_case(name, device, dtype=torch.float32, fn=depthwise_cuda.depthwise):
    """The layer of a case: fn, which computes as Depthwise does, its reference in double precision, and their inputs."""
    C, H, W, kernel, dilation = DEPTHWISE[name]
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in [(2, C, H, W), (C, 1, *kernel), (C,)])
    inputs = [x.contiguous(memory_format=torch.channels_last), weight, None if "no bias" in name else bias]
    padding = [dilation * (k // 2) for k in kernel]

    def compute(x, weight, bias):
        return fn(x, weight, bias, dilation)

    def expect(x, weight, bias):
        return F.conv2d(x, weight, bias, 1, padding, dilation, groups=C)

    return compute, expect, [None if t is None else t.to(device, dtype) for t in inputs]


def norm_case(name, device, dtype=torch.float32, fn=layernorm_cuda.channel_norm):
    """As depthwise_case, of layer norm over channels."""
    C, H, W = NORMS[name]
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in [(2, C, H, W), (C,), (C,)])
    inputs = [(x + 3).contiguous(memory_format=torch.channels_last), weight, bias]

    def compute(x, weight, bias):
        return fn(x, weight, bias, 1e-6, x.dtype)

    def expect(x, weight, bias):
        return F.layer_norm(x.permute(0, 2, 3, 1), (C,), weight, bias, 1e-6).permute(0, 3, 1, 2)

    return compute, expect, [t.to(device, dtype) for t in inputs]


def bias_case(name, device, dtype=torch.float32):
    """As depthwise_case, of the gradient of a bias, on the maps of NORMS."""
    _, _, (x, bias, _) = norm_case(name, device, dtype)

    def compute(x, bias):
        return sums_cuda.BiasGradient.apply(x + bias.detach()[:, None, None], bias)

    return compute, lambda x, bias: x + bias[:, None, None], [x, bias]


def scale_case(name, device, dtype=torch.float32):
    """As depthwise_case, of a factor for each channel, on the maps of NORMS."""
    _, _, (x, factor, _) = norm_case(name, device, dtype)
    return sums_cuda.ChannelScale.apply, torch.mul, [x, factor[:, None, None]]


def gate_case(name, device, dtype=torch.float32):
    """As depthwise_case, of a factor for each image and channel, on the maps of NORMS."""
    _, _, (x, *factors) = norm_case(name, device, dtype)
    return sums_cuda.ChannelScale.apply, torch.mul, [x, torch.stack(factors)[:, :, None, None]]


def gelu_case(name, device, dtype=torch.float32):
    """As depthwise_case, of batch norm and GELU, on the maps of NORMS. The parameters stay in float32."""
    _, _, (x, *parameters) = norm_case(name, device, dtype)

    def compute(x, weight, bias):
        return batchnorm_cuda.batch_norm_gelu(x, *batch_statistics(x)[:2], weight, bias)

    def expect(x, weight, bias):
        return F.gelu(F.batch_norm(x, None, None, weight, bias, training=True))

    return compute, expect, [x, *(t.float() for t in parameters)]


def batch_statistics(x):
    """Mean, reciprocal deviation, and the running mean and variance after one step from 1 and 2."""
    running = [torch.full((x.shape[1],), value, device=x.device) for value in (1.0, 2.0)]
    return *batchnorm_cuda.batch_statistics(x.detach(), *running, 0.1, 1e-5), *running


def statistics_errors(name, device, dtype=torch.float32):
    """Relative errors of batch_statistics on a map of NORMS with a mean of 100 and a deviation of 1."""
    _, _, (x, *_) = norm_case(name, device, dtype)
    x = x + 97
    norm = nn.BatchNorm2d(x.shape[1], device=device, dtype=torch.float64)
    norm.running_mean.fill_(1), norm.running_var.fill_(2)
    norm(x.double())
    var, mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    expected = [mean, (var + 1e-5).rsqrt(), norm.running_mean, norm.running_var]
    return [error(value, wanted) for value, wanted in zip(batch_statistics(x), expected, strict=True)]


CHANNELWISE = {"norm": norm_case, "bias": bias_case, "scale": scale_case, "gate": gate_case, "gelu": gelu_case}


def output_and_gradients(fn, inputs, dtype):
    """The output, and the gradients of all inputs for a fixed random gradient of the output, rounded to dtype."""
    inputs = [None if t is None else t.detach().requires_grad_() for t in inputs]
    out = fn(*inputs)
    grad = torch.randn(out.permute(0, 2, 3, 1).shape, generator=torch.Generator().manual_seed(1)).permute(0, 3, 1, 2)
    out.backward(grad.to(dtype).to(out))
    return [out.detach(), *(t.grad for t in inputs if t is not None)]


def error(value, expected):
    """Norm of the difference, relative to the expected tensor's."""
    return ((value.double() - expected).norm() / expected.norm()).item()


def errors(case, twice=True):
    """Relative errors of output and gradients, and whether a second call gives the same bits, if there is one."""
    compute, expect, inputs = case
    dtype = inputs[0].dtype
    values = output_and_gradients(compute, inputs, dtype)
    again = output_and_gradients(compute, inputs, dtype) if twice else values
    expected = output_and_gradients(expect, [None if t is None else t.double() for t in inputs], dtype)
    return {
        "errors": [error(value, wanted) for value, wanted in zip(values, expected, strict=True)],
        "repeats": all(torch.equal(a, b) for a, b in zip(values, again, strict=True)),
        "channels_last": all(t.is_contiguous(memory_format=torch.channels_last) for t in values[:2]),
    }


def block_errors():
    """Errors of a CoAtNet block's output, gradients and running statistics, if the kernels take maps of a CPU."""
    torch.manual_seed(0)
    block = CoAtNet()(8, 16, 2, Place(1, 0, 8), None, lambda ch: nn.Identity(), 0.0).train()
    x = torch.randn(2, 8, 7, 5).contiguous(memory_format=torch.channels_last)

    def step(block, x):
        values = output_and_gradients(block, [x], torch.float32)
        return [*values, *(p.grad for p in block.parameters()), *(b.double() for b in block.buffers())]

    expected = step(deepcopy(block).double(), x.double())
    with mock.patch.object(kernels, "takes", lambda x: x.dtype == torch.float32):
        values = step(block, x)
    return [((v - e).norm() / (1 + e.norm())).item() for v, e in zip(values, expected, strict=True)]  # some are zero


def sliced(case):
    """The case with maps that are slices of wider ones; the reference copies them."""
    compute, expect, (x, *parameters) = case
    C = x.shape[1]
    wide = torch.cat([x, x, x], 1).contiguous(memory_format=torch.channels_last)
    return (
        lambda x, *rest: compute(x[:, C : 2 * C], *rest),
        lambda x, *rest: expect(x[:, C : 2 * C], *rest),
        [wide, *parameters],
    )


def main():
    torch.set_num_threads(1)
    depthwise_cuda.Blocks.WARPS, depthwise_cuda.Blocks.KERNEL_WARPS = (
        8,
        4,
    )  # the interpreter is quicker with few large tiles
    # so few that programs take several tiles each, and sums of their chunks several rounds
    depthwise_cuda.Blocks.KERNEL_PROGRAMS = 16
    layernorm_cuda.Blocks.GRADIENT_PROGRAMS = batchnorm_cuda.Blocks.PROGRAMS = sums_cuda.Blocks.PROGRAMS = 3
    kernels.FEW_CHUNKS, kernels.MANY_CHUNKS, batchnorm_cuda.Blocks.CHUNKS = 1, 2, 2
    report = {f"depthwise {name}": errors(depthwise_case(name, "cpu"), name == "3x3") for name in DEPTHWISE}
    for kind, case in CHANNELWISE.items():
        report |= {f"{kind} {name}": errors(case(name, "cpu"), name == "16") for name in NORMS}
    report["block"] = block_errors()
    report["statistics"] = [statistics_errors(name, "cpu") for name in NORMS]
    report |= {
        f"depthwise {SLICED}": errors(sliced(depthwise_case("5x5, 3 channels", "cpu"))),
        f"norm {SLICED}": errors(sliced(norm_case("24", "cpu"))),
        f"scale {SLICED}": errors(sliced(scale_case("24", "cpu"))),
        f"gate {SLICED}": errors(sliced(gate_case("24", "cpu"))),
        f"gelu {SLICED}": errors(sliced(gelu_case("24", "cpu"))),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
