"""models/ops/depthwise.py against nn.Conv2d in float32."""

from unittest import mock

import pytest
import torch
from torch import nn

from models.ops import depthwise as ops
from models.ops.depthwise import WIDE, Depthwise, put_together, take_apart

CHANNELS_LAST = torch.channels_last


def outputs_and_gradients(forward, module, x, amp=False):
    """(output, gradients of x, weight and bias) for a fixed gradient of the output."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        out = forward(module, x)
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).sin().to(out.dtype))
    return [t.float() for t in (out.detach(), x.grad, module.weight.grad, module.bias.grad)]


KERNELS = [1, 3, 5, 7, (1, 7), (7, 1), (1, WIDE), (1, 21), (21, 1), (3, 5), 17]


@pytest.mark.parametrize("ch", [3, 8, 24, 32])
@pytest.mark.parametrize("kernel_size", KERNELS)
def test_agrees_with_conv2d(kernel_size, ch):
    torch.manual_seed(0)
    module = Depthwise(ch, kernel_size)
    for x in (torch.randn(3, ch, 9, 12), torch.randn(3, ch, 8, 8).to(memory_format=CHANNELS_LAST)):
        expected = outputs_and_gradients(nn.Conv2d.forward, module, x)
        for value, wanted in zip(outputs_and_gradients(Depthwise.forward, module, x), expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-4)


DILATED = [(3, {"dilation": 2}), (7, {"dilation": 3}), (5, {"dilation": 4}), ((1, 5), {"dilation": 2})]
STRIDED = [(kernel_size, {"stride": 2}) for kernel_size in (3, 7, (1, 21))]


@pytest.mark.parametrize(("kernel_size", "options"), [*DILATED, *STRIDED])
def test_dilated_and_strided_agree_with_conv2d(kernel_size, options):
    torch.manual_seed(0)
    module = Depthwise(16, kernel_size, **options)
    for size in (7, 8, 12):
        x = torch.randn(2, 16, size, size + 1).to(memory_format=CHANNELS_LAST)
        expected = outputs_and_gradients(nn.Conv2d.forward, module, x)
        for value, wanted in zip(outputs_and_gradients(Depthwise.forward, module, x), expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-4)
        assert module(x).is_contiguous(memory_format=CHANNELS_LAST)


LARGER = [
    (7, (6, 6), True),
    (7, (2, 3), True),
    (5, (1, 4), False),
    (7, (3, 7), False),
    ((3, 11), (2, 4), True),
    ((9, 1), (4, 4), False),
    (17, (9, 9), False),  # more than MOST_PIXELS
]


@pytest.mark.parametrize(("kernel_size", "size", "is_larger"), LARGER)
@pytest.mark.parametrize("stride", [1, 2])
def test_kernels_larger_than_the_map_agree_with_conv2d(kernel_size, size, is_larger, stride, monkeypatch):
    pairs = mock.Mock(wraps=ops.gradient_from_pairs)
    monkeypatch.setattr(ops, "gradient_from_pairs", pairs)
    torch.manual_seed(0)
    module = Depthwise(8, kernel_size, stride=stride)
    x = torch.randn(3, 8, *size).to(memory_format=CHANNELS_LAST)
    expected = outputs_and_gradients(nn.Conv2d.forward, module, x)
    for value, wanted in zip(outputs_and_gradients(Depthwise.forward, module, x), expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-4)
    assert pairs.called == is_larger


@pytest.mark.parametrize("size", [3, 12])
def test_an_empty_batch_has_gradients_of_0(size):
    module = Depthwise(8, 5)
    x = torch.randn(0, 8, size, size)
    out, *gradients = outputs_and_gradients(Depthwise.forward, module, x)
    assert out.shape == x.shape and not any(gradient.any() for gradient in gradients)


def test_a_backward_pass_under_autocast_is_that_without():
    torch.manual_seed(0)
    module, x = Depthwise(8, 3), torch.randn(2, 8, 6, 6, requires_grad=True)
    expected = torch.autograd.grad(module(x).square().sum(), (x, module.weight))
    loss = module(x).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        gradients = torch.autograd.grad(loss, (x, module.weight))
    assert all(map(torch.equal, gradients, expected))


def test_taps_that_see_padding_only_are_left_out():
    weight = torch.arange(35.0).view(1, 1, 5, 7)
    assert torch.equal(ops.reached(weight, 2, 9), weight[:, :, 1:4])
    assert torch.equal(ops.reached(weight, 9, 1), weight[:, :, :, 3:4])
    assert torch.equal(ops.reached(weight, 3, 4), weight)


@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 1), (7, 1), (7, 3), (3, 2), (21, 1), ((1, 21), 1)])
def test_bfloat16_is_float32_rounded(kernel_size, dilation):
    """oneDNN's own gradients of dilated kernels are far off here, and its 1x21 never returns."""
    torch.manual_seed(0)
    module = Depthwise(16, kernel_size, dilation=dilation).to(memory_format=CHANNELS_LAST)
    x = torch.randn(16, 16, 32, 32).to(memory_format=CHANNELS_LAST)
    expected = outputs_and_gradients(nn.Conv2d.forward, module, x)
    for value, wanted in zip(outputs_and_gradients(Depthwise.forward, module, x, amp=True), expected, strict=True):
        # where bfloat16 is emulated, partial sums are rounded, too: up to 2.2 % of the largest; wrong kernels are off by all
        assert (value - wanted).abs().max() < 0.04 * wanted.abs().max()


@pytest.mark.parametrize("options", [{"stride": 2}, {"multiplier": 3}, {"stride": 2, "bias": False}])
def test_shapes_and_weights_are_those_of_conv2d(options):
    module = Depthwise(8, 5, **options)
    bias, multiplier = options.get("bias", True), options.get("multiplier", 1)
    plain = nn.Conv2d(8, 8 * multiplier, 5, options.get("stride", 1), 2, groups=8, bias=bias)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(2, 8, 9, 9)
    torch.testing.assert_close(module(x), plain(x))


def test_maps_are_put_together_again():
    x = torch.randn(2, 3, 7, 10)
    parts = take_apart(x, 3)
    assert parts.shape == (18, 3, 3, 4)
    assert torch.equal(parts[2 * 5][:, :2, :3], x[0, :, 1::3, 2::3])  # the first sample, from row 1 and column 2
    assert torch.equal(put_together(parts, 3, 7, 10), x)


def test_double_precision_stays_double():
    """In wide kernels, too, which compute in float32 what is narrower."""
    net = Depthwise(4, 17).double()
    x = torch.randn(2, 4, 19, 20, dtype=torch.float64)
    for amp in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            torch.testing.assert_close(net(x), nn.Conv2d.forward(net, x), rtol=0, atol=1e-12)
