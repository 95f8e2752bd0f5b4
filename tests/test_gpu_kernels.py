"""The Triton kernels on a GPU, against PyTorch in double precision: python -m pytest -m gpu."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from models.coatnet import SqueezeExcite
from models.ops.batchnorm import NormGELU
from models.ops.channels import Pointwise
from models.ops.depthwise import Depthwise
from models.prenorm import ChannelNorm, LayerScale
from tests.checks import can_build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="of a GPU: python -m pytest -m gpu"),
]
pytest.importorskip("triton")
pytestmark.append(
    pytest.mark.skipif(not can_build(), reason="Triton can build no kernels here: see models/ops/kernels.py")
)

from tests.kernel_cases import (  # noqa: E402 - imports Triton
    CHANNELWISE,
    DEPTHWISE,
    NORMS,
    depthwise_case,
    errors,
    sliced,
    statistics_errors,
)

GPU = torch.device("cuda")
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}  # half an ulp and the sums
LARGE = [  # channels, size, kernel, dilation: many chunks of pixels, blocks of channels that are not full
    (16, 32, 7, 1),
    (24, 32, 7, 1),
    (120, 8, 7, 1),
    (64, 32, 3, 1),
    (64, 8, (1, 21), 1),
    (16, 32, (21, 1), 1),
    (32, 16, 7, 3),
    (30, 16, 5, 1),
]


def check(result, dtype):
    assert max(result["errors"]) < TOLERANCES[dtype], result["errors"]
    assert result["repeats"]
    assert result["channels_last"]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_agrees_with_double_precision(name, dtype):
    check(errors(depthwise_case(name, GPU, dtype)), dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", CHANNELWISE)
@pytest.mark.parametrize("name", NORMS)
def test_channelwise_agrees_with_double_precision(name, kind, dtype):
    check(errors(CHANNELWISE[kind](name, GPU, dtype)), dtype)


@pytest.mark.parametrize("name", NORMS)
def test_statistics_of_a_batch_survive_a_large_mean(name):
    assert max(statistics_errors(name, GPU)) < 2e-6


def test_slices_of_channels_are_read_in_place():
    check(errors(sliced(depthwise_case("7x7", GPU))), torch.float32)
    for kind in ("norm", "scale", "gate", "gelu"):
        check(errors(sliced(CHANNELWISE[kind]("24", GPU))), torch.float32)


def step_of(module, x, amp=None):
    """Output and gradients of map and parameters, of a fixed loss."""
    x = x.detach().requires_grad_()
    with torch.autocast("cuda", amp, enabled=amp is not None):
        out = module(x)
    loss = (out.double() * torch.linspace(-1, 1, out.numel(), device=GPU).view(out.shape)).sum()
    return [out.detach(), *torch.autograd.grad(loss, [x, *module.parameters()])]


def assert_close(values, expected, tolerance):
    for value, wanted in zip(values, expected, strict=True):
        assert (value.double() - wanted.double()).norm() <= tolerance * wanted.double().norm()


@pytest.mark.parametrize(("ch", "size", "kernel", "dilation"), LARGE)
def test_large_layer_agrees_with_double_precision(ch, size, kernel, dilation):
    torch.manual_seed(0)
    module = Depthwise(ch, kernel, dilation=dilation).to(GPU, memory_format=torch.channels_last)
    x = torch.randn(128, ch, size, size, device=GPU).contiguous(memory_format=torch.channels_last)
    for ours in (step_of(module, x), step_of(module, x.contiguous())):
        assert_close(ours, step_of(module.double(), x.double()), 2e-6)
        module.float()


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
def test_autocast_rounds_as_for_a_convolution(amp):
    torch.manual_seed(0)
    layers = [Depthwise(16, 7), ChannelNorm(16, before_linear=True), Pointwise(16, 24)]
    module = nn.Sequential(*layers).to(GPU, memory_format=torch.channels_last)
    x = torch.randn(8, 16, 32, 32, device=GPU).contiguous(memory_format=torch.channels_last)
    out, *gradients = step_of(module, x, amp)
    assert out.dtype == amp
    assert all(grad.dtype == torch.float32 for grad in gradients)
    assert_close([out, *gradients], step_of(module.double(), x.double()), 0.02)


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
def test_batch_norm_and_squeeze_excite_under_autocast(amp):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(24)
    module = nn.Sequential(Pointwise(16, 24, bias=False), NormGELU(norm), SqueezeExcite(24, 6))
    module.to(GPU, memory_format=torch.channels_last)
    x = torch.randn(8, 16, 32, 32, device=GPU).contiguous(memory_format=torch.channels_last)
    out, *gradients = step_of(module, x, amp)
    running = norm.running_var.clone()
    assert out.dtype == amp
    assert all(grad.dtype == torch.float32 for grad in gradients)
    norm.reset_running_stats()
    assert_close([out, *gradients], step_of(module.double(), x.double()), 0.03 if amp == torch.float16 else 0.05)
    assert_close([running], [norm.running_var], 0.01)


CONVOLUTIONS = [
    Depthwise(24, (1, 21)),
    ChannelNorm(24, before_linear=True),
    Pointwise(24, 24),
    Depthwise(24, 7, dilation=3),
    LayerScale(24, 0.5),
]
GATED = [
    NormGELU(nn.BatchNorm2d(24)),
    SqueezeExcite(24, 6),
]  # whose gate Inductor does not round, and cuDNN convolves in TF32


@pytest.mark.parametrize(
    ("layers", "amp", "compiled", "captured"),
    [
        (CONVOLUTIONS, None, 1e-5, 1e-6),
        (CONVOLUTIONS, torch.bfloat16, 0.01, 1e-3),
        (GATED, None, 1e-3, 1e-3),
        (GATED, torch.bfloat16, 0.03, 1e-3),
    ],
)
def test_compiled_and_captured_is_the_same(layers, amp, compiled, captured):
    """Up to these relative differences."""
    torch.manual_seed(0)
    module = deepcopy(nn.Sequential(*layers)).to(GPU, memory_format=torch.channels_last)
    x = torch.randn(8, 24, 9, 7, device=GPU).contiguous(memory_format=torch.channels_last)
    expected = step_of(module, x, amp)
    assert_close(step_of(torch.compile(module, fullgraph=True), x, amp), expected, compiled)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step_of(module, x, amp)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        values = step_of(module, x, amp)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert_close(values, step_of(module, x, amp), captured)
