"""models/ops/layout.py: numbers, and the order in memory of maps and gradients."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models import METHODS, build
from models.ops.layout import channels_last_gradient, concatenate, every_nth, global_avg_pool
from models.resnet import ConvBN
from tests import processes
from tests.nets import KNOBS, SMALL


def is_channels_last(x):
    return x.is_contiguous(memory_format=torch.channels_last)


def channels_last(*shape):
    return torch.randn(shape).to(memory_format=torch.channels_last)


def test_gradient_is_channels_last_whatever_comes_back():
    x = channels_last(2, 6, 4, 5).requires_grad_()
    (grad,) = torch.autograd.grad(channels_last_gradient(x), x, torch.randn(2, 6, 4, 5))
    assert is_channels_last(grad)


def test_concatenated_maps_get_their_parts_of_the_gradient():
    a, b = channels_last(2, 3, 4, 5).requires_grad_(), channels_last(2, 5, 4, 5).requires_grad_()
    out, back = concatenate([a, b]), channels_last(2, 8, 4, 5)
    assert torch.equal(out, torch.cat([a, b], 1))
    grads = torch.autograd.grad(out, (a, b), back)
    assert torch.equal(grads[0], back[:, :3])
    assert torch.equal(grads[1], back[:, 3:])
    assert all(is_channels_last(grad) for grad in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_global_avg_pool(dtype):
    x = (100 * channels_last(3, 8, 32, 32)).to(dtype) + 90  # their sum is more than float16 holds
    for part in (x, x[:, 2:5], x.contiguous()):
        exact = part.double().mean((2, 3))
        pooled = global_avg_pool(part)
        assert pooled.dtype == dtype
        torch.testing.assert_close(pooled.double(), exact, rtol=2e-2, atol=0.5)
        with torch.autocast("cpu", torch.bfloat16):  # which would round the map
            assert torch.equal(global_avg_pool(part), pooled)
    x = channels_last(3, 8, 4, 4).to(dtype).requires_grad_()
    (grad,) = torch.autograd.grad(global_avg_pool(x).square().sum(), x)
    assert is_channels_last(grad) or dtype == torch.float16  # a view of a number per channel
    expected = (2 * x.double().mean((2, 3), keepdim=True) / 16).expand_as(x)
    rtol, atol = (1e-5, 1e-6) if dtype == torch.float32 else (2e-2, 1e-3)
    torch.testing.assert_close(grad.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("arch", ["resnet", *(f"{method}_resnet" for method in METHODS)])
def test_gradients_reach_convolutions_with_batch_norm_channels_last(arch):
    """A gradient in another order, or in slices, would cost ten times the time; see the head of models/ops/layout.py."""
    net, wrong = build(arch, 10).to(memory_format=torch.channels_last), []

    def check(name):
        def hook(module, grad_input, grad_output):
            if not is_channels_last(grad_output[0]):
                wrong.append(f"{name} {tuple(grad_output[0].shape)} {grad_output[0].stride()}")

        return hook

    for name, module in net.named_modules():
        if isinstance(module, ConvBN):
            module[-1].register_full_backward_hook(check(name))  # its ReLU, or else its norm
            if len(module) > 2:
                module[-1].inplace = False  # which a backward hook does not allow
    net(channels_last(2, 3, 32, 32)).sum().backward()
    assert not wrong


@pytest.mark.parametrize(
    ("arch", "settings", "amp"), [*((*net, False) for net in [*SMALL, *KNOBS]), *((*net, True) for net in SMALL)]
)
def test_gradients_have_the_strides_of_their_parameters(arch, settings, amp):
    """Where they differ, DistributedDataParallel warns and copies each gradient at every step."""
    net = build(arch, 7, settings).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        net(channels_last(4, 3, 32, 32)).sum().backward()
    wrong = [name for name, p in net.named_parameters() if p.grad.stride() != p.stride()]
    assert not wrong


def train_two_steps(arch, settings):
    warnings.simplefilter("error")
    torch.distributed.init_process_group("gloo")
    try:
        net = build(arch, 7, settings).to(memory_format=torch.channels_last)
        model = DistributedDataParallel(net, gradient_as_bucket_view=True)
        optimizer = torch.optim.SGD(net.parameters(), 0.01)
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(channels_last(2, 3, 32, 32)), torch.tensor([0, 6])).backward()
            optimizer.step()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("arch", ["hornet_resnet", "lskblock_resnet"])
def test_two_processes_train_without_a_warning(arch):
    processes.run(train_two_steps, 2, arch, dict(SMALL)[arch])


@pytest.mark.parametrize(("height", "n"), [(7, 2), (8, 2), (8, 3)])
def test_every_nth_pixel_and_its_gradient_are_channels_last(height, n):
    x = torch.randn(2, 3, height, 5, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    out = every_nth(x, n)
    assert torch.equal(out, x[:, :, ::n, ::n]) and is_channels_last(out)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    assert is_channels_last(grad)
    assert torch.autograd.gradcheck(lambda x: every_nth(x, n), x)
