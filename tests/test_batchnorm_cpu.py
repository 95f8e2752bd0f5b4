"""models/ops/batchnorm_cpu.py against F.batch_norm in float64."""

import copy
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import engine
from models import build
from models.ops.batchnorm_cpu import FastBatchNorm, FoldedBatchNorm

CHANNELS_LAST = torch.channels_last


@pytest.fixture
def folded(monkeypatch):
    """Counts the batch norms that are folded."""
    counted = mock.Mock(wraps=FoldedBatchNorm.apply)
    monkeypatch.setattr(FoldedBatchNorm, "apply", counted)
    return counted


def drawn(ch, dtype=torch.float32, n=3):
    """A batch norm that has seen something, and maps for it, far from 0."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(ch, eps=0.01, momentum=0.3)
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(values, 0.5, 1.5)
    return norm, (2 * torch.randn(n, ch, 8, 12) + 3).to(dtype, memory_format=CHANNELS_LAST)


def trained(norm, x, context):
    """What a training step of relu(norm(x)) computes: output, gradients and running statistics."""
    x = x.clone().requires_grad_()
    with context:
        out = F.relu(norm(x), inplace=True)
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).sin().to(out.dtype))
    return out, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var, norm.num_batches_tracked


@pytest.mark.parametrize("ch", [1, 4, 8, 12, 20, 24, 40, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folded_is_batch_norm(ch, dtype, folded):
    norm, x = drawn(ch, dtype, n=4)
    expected = trained(copy.deepcopy(norm).double(), x.double(), nullcontext())
    found = trained(norm, x, FastBatchNorm())
    folded.assert_called_once()
    assert found[0].is_contiguous(memory_format=CHANNELS_LAST) and found[1].is_contiguous(memory_format=CHANNELS_LAST)
    for value, wanted, kind in zip(found, expected, (dtype, dtype, *[torch.float32] * 4, torch.int64), strict=True):
        assert value.dtype == kind
        of_bfloat16 = 3 * 2**-8 * wanted.abs().max().item()  # of three roundings: two terms of grad_x and their sum
        rtol, atol = (0, of_bfloat16) if dtype == torch.bfloat16 else (1e-5, 1e-5)
        torch.testing.assert_close(value.double(), wanted.double(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("n_pixels", [2, 6, 14])
def test_few_pixels_are_folded_as_far_as_they_go(n_pixels, folded):
    norm, x = drawn(8)
    x = x[:1, :, :1, :n_pixels].contiguous(memory_format=CHANNELS_LAST)
    expected = trained(copy.deepcopy(norm).double(), x.double(), nullcontext())
    for value, wanted in zip(trained(norm, x, FastBatchNorm()), expected, strict=True):
        torch.testing.assert_close(value.double(), wanted.double(), rtol=1e-4, atol=1e-4)
    folded.assert_called_once()


@pytest.mark.parametrize("ch", [16, 32, 48])
def test_whole_cache_lines_are_left_to_pytorch(ch, folded):
    norm, x = drawn(ch)
    expected = trained(copy.deepcopy(norm), x, nullcontext())
    for value, wanted in zip(trained(norm, x, FastBatchNorm()), expected, strict=True):
        assert torch.equal(value, wanted)
    folded.assert_not_called()


@pytest.mark.parametrize(
    "change",
    [
        lambda norm, x: (norm.eval(), x),
        lambda norm, x: (norm.double(), x.double()),
        lambda norm, x: (norm.bfloat16(), x.bfloat16()),
        lambda norm, x: (norm, x.half()),
        lambda norm, x: (norm, x.contiguous()),
        lambda norm, x: (norm, x[:, :, :1, :3].contiguous(memory_format=CHANNELS_LAST)),  # 9 pixels
        lambda norm, x: (norm, x[:, :, :1, :2].contiguous(memory_format=CHANNELS_LAST)),  # 6 pixels
        lambda norm, x: (nn.BatchNorm2d(12, affine=False), x),
        lambda norm, x: (nn.BatchNorm2d(12, track_running_stats=False), x),
        lambda norm, x: (nn.BatchNorm1d(12), x[:, :, 0, 0]),
    ],
)
def test_what_cannot_be_folded_is_left_to_pytorch(change, folded):
    norm, x = change(*drawn(12))
    expected = copy.deepcopy(norm)(x)
    with FastBatchNorm():
        assert torch.equal(norm(x), expected)
    folded.assert_not_called()


def test_a_single_value_per_channel_is_refused():
    norm, x = drawn(8)
    with FastBatchNorm(), pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(x[:1, :, :1, :1])


def test_gradients_may_have_any_layout(folded):
    norm, x = drawn(12)
    grads = torch.randn_like(x), torch.randn(3, 12, 1, 1).expand_as(x)
    with FastBatchNorm():
        out = norm(x.requires_grad_())
    for grad in grads:
        expected = torch.autograd.grad(out, x, grad.clone(memory_format=CHANNELS_LAST), retain_graph=True)
        for same in (grad, grad.contiguous()):
            assert torch.equal(*torch.autograd.grad(out, x, same, retain_graph=True), *expected)
    folded.assert_called_once()


def test_a_second_derivative_is_refused():
    norm, x = drawn(12)
    with FastBatchNorm():
        loss = norm(x.requires_grad_()).square().sum()
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


@pytest.mark.parametrize(("ch", "of_norm"), [(1, 12), (12, 1), (12, 8)])
def test_a_wrong_number_of_channels_is_refused(ch, of_norm):
    _, x = drawn(ch)
    with FastBatchNorm(), pytest.raises(RuntimeError, match=f"should contain {ch} elements not {of_norm}"):
        nn.BatchNorm2d(of_norm)(x)


def test_training_steps_are_folded_and_evaluation_is_not(folded):
    net = build("cspnet_resnet", 10, {"resnet.depth": 8}).to(memory_format=CHANNELS_LAST)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    state = engine.TrainState(net, optimizer, [0.1], None)
    imgs = torch.randn(4, 3, 32, 32).contiguous(memory_format=CHANNELS_LAST)
    targets = torch.arange(4)
    engine.train_step(state, net.train(), imgs, targets)
    n_of_8_channels = sum(isinstance(m, nn.BatchNorm2d) and m.num_features == 8 for m in net.modules())
    assert folded.call_count == n_of_8_channels > 0
    engine.start_evaluation(net, [(imgs, targets)], 4, 10, None)()
    assert folded.call_count == n_of_8_channels
