"""The Triton kernels of models/ops without a GPU: in Triton's interpreter, and what takes which way."""

import json
import os
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from models.ops import channels, depthwise, layernorm
from models.ops.channels import Pointwise
from models.ops.depthwise import Depthwise
from models.prenorm import ChannelNorm, LayerScale

triton = pytest.importorskip("triton")

from models.ops import depthwise_cuda, kernels, layernorm_cuda, sums_cuda  # noqa: E402 - import Triton
from tests.kernel_cases import DEPTHWISE, NORMS, SLICED  # noqa: E402 - imports Triton

CASES = [f"depthwise {name}" for name in [*DEPTHWISE, SLICED]]
CASES += [f"{kind} {name}" for kind in ("norm", "bias", "scale") for name in NORMS] + [
    f"norm {SLICED}",
    f"scale {SLICED}",
]


@pytest.fixture(scope="module")
def report():
    command = [sys.executable, "-m", "tests.kernel_cases"]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernel_agrees_with_double_precision(report, case):
    result = report[case]
    assert max(result["errors"]) < 2e-6, result["errors"]  # of output, and of the gradients of map, weight and bias
    assert result["repeats"]
    assert result["channels_last"]


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that there is one: nothing below computes, and the gradients' engine needs a real one (test_gpu_kernels)."""
    monkeypatch.setattr(kernels, "is_usable", lambda _: True)


def traced(module, dtype=torch.float32):
    """The operators of a forward pass on a GPU, and the precision of its output."""
    module = deepcopy(module)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        module = module.to("cuda", dtype)
        x = torch.empty(2, 16, 8, 8, dtype=dtype, device="cuda", memory_format=torch.channels_last)
        graph = make_fx(module)(x)
    nodes = list(graph.graph.nodes)
    (out,) = nodes[-1].args
    return {str(node.target) for node in nodes}, out.meta["tensor_meta"].dtype


DEPTHWISE_KERNEL, NORM_KERNEL = "resnet_grafts.depthwise.default", "resnet_grafts.channel_norm.default"


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, torch.float32), ({"dilation": 3}, torch.float16), ({"bias": False}, torch.bfloat16)],
)
def test_depthwise_is_the_kernel_on_a_gpu(gpu, options, dtype):
    operators, out = traced(Depthwise(16, 7, **options), dtype)
    assert DEPTHWISE_KERNEL in operators
    assert out == dtype


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({"stride": 2}, torch.float32), ({"multiplier": 2}, torch.float32), ({}, torch.float64)],
)
def test_what_no_kernel_is_for_is_conv2d(gpu, options, dtype):
    operators, _ = traced(Depthwise(16, 3, **options), dtype)
    assert "aten.convolution.default" in operators
    assert DEPTHWISE_KERNEL not in operators


def test_without_triton_all_is_pytorch(monkeypatch):
    monkeypatch.setattr(depthwise, "kernels", None)
    monkeypatch.setattr(layernorm, "kernels", None)
    monkeypatch.setattr(channels, "kernels", None)
    operators, _ = traced(nn.Sequential(Depthwise(16, 3), ChannelNorm(16), Pointwise(16, 16), LayerScale(16, 1.0)))
    assert operators.issuperset(["aten.convolution.default", "aten.native_layer_norm.default", "aten.mul.Tensor"])


def test_norm_is_the_kernel_on_a_gpu(gpu):
    for dtype in kernels.DTYPES:
        operators, out = traced(ChannelNorm(16), dtype)
        assert NORM_KERNEL in operators
        assert out == dtype


def test_norm_in_double_precision_is_pytorchs(gpu):
    operators, _ = traced(ChannelNorm(16), torch.float64)
    assert "aten.native_layer_norm.default" in operators


@pytest.mark.parametrize("bias", [False, True])
def test_pointwise_is_a_matrix_product_on_a_gpu(gpu, bias):
    module = Pointwise(16, 24, bias=bias)
    operators, _ = traced(module)
    assert not operators.intersection(["aten.convolution.default", "aten.clone.default"])
    assert ("aten.addmm.default" if bias else "aten.mm.default") in operators
    x = torch.randn(2, 16, 3, 5).contiguous(memory_format=torch.channels_last)
    plain = nn.Conv2d(16, 24, 1, bias=bias)
    plain.load_state_dict(module.state_dict())
    assert torch.equal(module(x), plain(x))  # on a CPU


def test_gradients_have_shapes_and_precisions_of_what_they_are_of():
    with FakeTensorMode():
        x, grad = (torch.empty(2, 24, 9, 7, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        weight, scale = torch.empty(24, 1, 1, 21, device="cuda"), torch.empty(24, device="cuda")
        grad_x = depthwise_cuda.depthwise_map_gradient(grad, weight, 1)
        grad_weight, grad_bias = depthwise_cuda.depthwise_kernel_gradient(x, grad, weight, 1, True)
        sums = sums_cuda.channel_sums(grad, torch.float32)
        scaled = sums_cuda.channel_scale_gradient(x, grad.float(), scale.view(24, 1, 1))
        normed = layernorm_cuda.channel_norm_gradient(x, grad, scale, 1e-6)
    pairs = [(grad_x, x), (grad_weight, weight), (grad_bias, scale), (sums, scale)]
    pairs += zip((*normed, *scaled), (x, scale, scale, x, scale.view(24, 1, 1)), strict=True)
    for ours, wanted in pairs:
        assert (ours.shape, ours.dtype) == (wanted.shape, wanted.dtype)
    assert grad_x.is_contiguous(memory_format=torch.channels_last)
    assert grad_weight.is_contiguous()


def test_rows_of_pixels_are_copied_only_where_they_must_be():
    wide = torch.randn(2, 12, 3, 5).contiguous(memory_format=torch.channels_last)
    for x in (wide, wide[:, 4:8], wide[1:]):
        assert kernels.pixel_rows(x).data_ptr() == x.data_ptr()
    for x in (wide.contiguous(), wide[:, :, :2], wide[..., 1:], wide[:, ::2], wide[:1, :1, :1].contiguous()):
        rows = kernels.pixel_rows(x)
        C, H, W = x.shape[1:]
        assert torch.equal(rows, x)
        assert rows.stride() == (H * W * C, 1, W * C, C)
