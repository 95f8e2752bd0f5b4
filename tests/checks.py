"""Checks that hold for every module of every method, called by the test files."""

import torch
from torch import nn

from models.resnet import BasicBlock, ConvBN


def n_params(module):
    return sum(p.numel() for p in module.parameters())


def can_build():
    """Whether there is a GPU for which Triton can build kernels."""
    if not torch.cuda.is_available():
        return False
    from models.ops import kernels

    return kernels.can_build(0)


def no_attention(ch):
    return nn.Identity()


class Silence(nn.Module):
    """Attention that lets nothing through."""

    def __init__(self, ch):
        super().__init__()
        self.ch = ch

    def forward(self, x):
        assert x.shape[1] == self.ch
        return 0 * x


def plain_block(in_ch, out_ch, stride, drop_path):
    """What a block family is handed as `resnet_block`: the ResNet's own block, slots empty."""
    return BasicBlock(in_ch, out_ch, stride, drop_path, ConvBN, no_attention, "A", "before-add")


def randomize(module, seed=0):
    """Draws every parameter and running statistic anew, so that a comparison sees no zeros, ones or tiny layer scales."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if "running_var" in name:
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
            elif "running_mean" in name:
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return module


def assert_every_parameter_learns(module, x, exempt=()):
    """After one backward every parameter has a finite gradient, which is zero for those with a name in `exempt` alone.

    In float64, where what is zero but for rounding, such as a bias before a norm, is told from what is small.
    """
    module.double().train()
    out = module(x.double())
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None, f"{name} has no gradient"
        assert p.grad.isfinite().all(), f"{name} has a gradient that is not finite"
    largest = {name: p.grad.abs().max().item() for name, p in module.named_parameters()}
    zero = {name for name, size in largest.items() if size <= 1e-10 * max(largest.values())}
    assert zero == {name for name in largest if any(part in name for part in exempt)}


def assert_channels_last_agrees(module, x):
    """Channels-last weights and input give what contiguous ones give, a map in channels-last."""
    module.eval()
    with torch.no_grad():
        expected = module(x)
        out = module.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert out.ndim < 4 or out.is_contiguous(memory_format=torch.channels_last)


def assert_samples_are_independent(module, x):
    """In eval mode a sample's output does not depend on the rest of its batch."""
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(module(x)[:1], module(x[:1]), rtol=1e-4, atol=1e-5)


def assert_learns_and_keeps_layout(make, x, exempt=(), dtype=torch.float32):
    """The three checks above of a module as make() gives it, the last two of them in this precision."""
    assert_every_parameter_learns(make(), x, exempt)
    assert_channels_last_agrees(make().to(dtype), x.to(dtype))
    assert_samples_are_independent(make().to(dtype), x.to(dtype))
