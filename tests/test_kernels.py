"""The Triton kernels of models/ops without a GPU: in Triton's interpreter, and what takes which way."""

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from multiprocessing import get_context

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from models.ops import batchnorm, channels, depthwise, layernorm
from models.ops.batchnorm import NormGELU
from models.ops.channels import Pointwise
from models.ops.depthwise import Depthwise
from models.prenorm import ChannelNorm, LayerScale

triton = pytest.importorskip("triton")

from models.ops import batchnorm_cuda, depthwise_cuda, kernels, layernorm_cuda, sums_cuda  # noqa: E402 - import Triton
from tests.kernel_cases import CHANNELWISE, DEPTHWISE, NORMS, SLICED  # noqa: E402 - imports Triton

CASES = [f"depthwise {name}" for name in [*DEPTHWISE, SLICED]]
CASES += [f"{kind} {name}" for kind in CHANNELWISE for name in NORMS]
CASES += [f"{kind} {SLICED}" for kind in ("norm", "scale", "gate", "gelu")]


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


def test_statistics_of_a_batch_survive_a_large_mean(report):
    for errors in report["statistics"]:
        assert max(errors) < 2e-6, errors


def test_block_of_all_kernels_agrees_with_pytorch_in_double_precision(report):
    assert max(report["block"]) < 1e-5, report["block"]


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that there is a GPU: nothing below computes, as autograd needs a real one (test_gpu_kernels)."""
    monkeypatch.setattr(kernels, "is_usable", lambda _: True)


def test_without_headers_compiler_or_capability_no_kernel_is_built(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setenv("CC", "cc")
    (tmp_path / "Python.h").touch()
    for folder, can_build in ((tmp_path, True), (tmp_path / "missing", False)):
        monkeypatch.setattr(kernels.sysconfig, "get_paths", lambda _, folder=folder: {"include": str(folder)})
        assert kernels.can_build.__wrapped__(0) == can_build
    monkeypatch.setattr(kernels.sysconfig, "get_paths", lambda _: {"include": str(tmp_path)})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    assert not kernels.can_build.__wrapped__(0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    assert kernels.can_build.__wrapped__(0)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not kernels.can_build.__wrapped__(0)
    monkeypatch.setattr(kernels, "can_build", lambda _: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert kernels.is_usable(0) and not kernels.is_usable(1)


def forked(function, *args):
    """Its result, from a process of its own: once PyTorch has seen a fake GPU, autograd starts a thread that no fork survives."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(function, *args).result()


def traced(module, dtype=torch.float32):
    """The operators of a forward pass on a GPU, and the precision of its output."""
    return forked(trace, module, dtype)


def trace(module, dtype):
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
def test_conv2d_where_no_kernel_fits(gpu, options, dtype):
    operators, _ = traced(Depthwise(16, 3, **options), dtype)
    assert "aten.convolution.default" in operators
    assert DEPTHWISE_KERNEL not in operators


def test_without_triton_all_is_pytorch(monkeypatch):
    monkeypatch.setattr(depthwise, "kernels", None)
    monkeypatch.setattr(layernorm, "kernels", None)
    monkeypatch.setattr(channels, "kernels", None)
    monkeypatch.setattr(batchnorm, "kernels", None)
    layers = [Depthwise(16, 3), ChannelNorm(16), Pointwise(16, 16), LayerScale(16, 1.0), NormGELU(nn.BatchNorm2d(16))]
    operators, _ = traced(nn.Sequential(*layers))
    names = [
        "convolution.default",
        "native_layer_norm.default",
        "mul.Tensor",
        "cudnn_batch_norm.default",
        "gelu.default",
    ]
    assert operators.issuperset(f"aten.{name}" for name in names)


def test_norm_is_the_kernel_on_a_gpu(gpu):
    for dtype in kernels.DTYPES:
        operators, out = traced(ChannelNorm(16), dtype)
        assert NORM_KERNEL in operators
        assert out == dtype


def test_norm_of_doubles_or_of_many_channels_is_pytorchs(gpu, monkeypatch):
    operators, _ = traced(ChannelNorm(16), torch.float64)
    assert "aten.native_layer_norm.default" in operators
    monkeypatch.setattr(layernorm_cuda, "MAX_CHANNELS", 15)
    operators, _ = traced(ChannelNorm(16))
    assert "aten.native_layer_norm.default" in operators


def test_norm_is_rounded_under_autocast_only_for_linear_layers(gpu, monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: True)  # without a GPU torch.autocast does nothing
    assert traced(ChannelNorm(16, before_linear=True))[1] == torch.float16
    assert traced(ChannelNorm(16))[1] == torch.float32


NORM_GELU_KERNELS = {"resnet_grafts.batch_statistics.default", "resnet_grafts.batch_norm_gelu.default"}


@pytest.mark.parametrize("dtype", kernels.DTYPES)
def test_batch_norm_and_gelu_are_kernels_in_training_on_a_gpu(gpu, dtype):
    module = NormGELU(nn.BatchNorm2d(16))
    operators, out = traced(module, dtype)
    assert (operators >= NORM_GELU_KERNELS) == (dtype == torch.float32), operators  # of the parameters
    assert out == dtype
    operators, _ = traced(module.eval(), dtype)
    assert not operators & NORM_GELU_KERNELS


def test_norm_gelu_is_a_norm_and_a_gelu():
    norm, module = nn.BatchNorm2d(16), NormGELU(nn.BatchNorm2d(16))
    x = torch.randn(2, 16, 3, 5)
    for _ in range(2):
        assert torch.equal(module(x), nn.functional.gelu(norm(x)))
    assert int(module.norm.num_batches_tracked) == 2
    assert all(torch.equal(a, b) for a, b in zip(module.norm.buffers(), norm.buffers(), strict=True))
    assert torch.equal(module.eval()(x), nn.functional.gelu(norm.eval()(x)))
    # as torch.optim.swa_utils.update_bn sets it
    cumulative, expected = (nn.BatchNorm2d(16, momentum=None) for _ in range(2))
    for imgs in (x, 3 * x):
        assert torch.equal(NormGELU(cumulative)(imgs), nn.functional.gelu(expected(imgs)))
    assert torch.equal(cumulative.running_var, expected.running_var)
    layer_norm = ChannelNorm(16)
    assert torch.equal(NormGELU(layer_norm)(x), nn.functional.gelu(layer_norm(x)))
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(module.train())
    assert isinstance(synchronized.norm, nn.SyncBatchNorm)
    with pytest.raises(ValueError, match="1 value per channel"):
        NormGELU(nn.BatchNorm2d(16))(x[:1, :, :1, :1])


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
    forked(check_gradients)


def check_gradients():
    with FakeTensorMode():
        x, grad = (torch.empty(2, 24, 9, 7, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        weight, scale = torch.empty(24, 1, 1, 21, device="cuda"), torch.empty(24, device="cuda")
        gate = torch.empty(2, 24, 1, 1, dtype=torch.bfloat16, device="cuda")
        grad_x = depthwise_cuda.depthwise_map_gradient(grad, weight, 1)
        grad_weight, grad_bias = depthwise_cuda.depthwise_kernel_gradient(x, grad, weight, 1, True)
        sums = sums_cuda.channel_sums(grad, torch.float32)
        scaled = sums_cuda.channel_scale_gradient(x, grad.float(), scale.view(24, 1, 1))
        gated = sums_cuda.channel_scale_gradient(x, grad, gate)
        normed = layernorm_cuda.channel_norm_gradient(x, grad, scale, 1e-6)
        gelu = batchnorm_cuda.batch_norm_gelu_gradient(x, grad, scale, scale, scale, scale)
    pairs = [(grad_x, x), (grad_weight, weight), (grad_bias, scale), (sums, scale)]
    pairs += zip((*normed, *scaled), (x, scale, scale, x, scale.view(24, 1, 1)), strict=True)
    pairs += zip((*gated, *gelu), (x, gate, x, scale, scale), strict=True)
    for ours, wanted in pairs:
        assert (ours.shape, ours.dtype) == (wanted.shape, wanted.dtype)
    assert grad_x.is_contiguous(memory_format=torch.channels_last)
    assert grad_weight.is_contiguous()


def test_offsets_beyond_32_bits_are_left_to_pytorch(gpu, monkeypatch):
    """Those of a slice's memory, and those of a wider output."""
    wide = torch.empty(2, 12, 3, 5).contiguous(memory_format=torch.channels_last)
    assert [kernels.last_offset(x) for x in (wide, wide[:, :4])] == [359, 351]
    monkeypatch.setattr(kernels, "MAX_NUMEL", 2 * 16 * 64 + 1)  # just enough for trace()'s map
    for out_ch, by_pytorch in ((16, False), (24, True)):
        operators, _ = traced(Pointwise(16, out_ch))
        assert ("aten.convolution.default" in operators) == by_pytorch


def test_rows_of_pixels_are_copied_only_where_they_must_be():
    wide = torch.randn(2, 12, 3, 5).contiguous(memory_format=torch.channels_last)
    for x in (wide, wide[:, 4:8], wide[1:]):
        assert kernels.pixel_rows(x).data_ptr() == x.data_ptr()
    for x in (wide.contiguous(), wide[:, :, :2], wide[..., 1:], wide[:, ::2], wide[:1, :1, :1].contiguous()):
        rows = kernels.pixel_rows(x)
        C, H, W = x.shape[1:]
        assert torch.equal(rows, x)
        assert rows.stride() == (H * W * C, 1, W * C, C)
