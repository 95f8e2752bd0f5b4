import math

import pytest
import torch

from models.eca import ECA
from tests.checks import assert_learns_and_keeps_layout, n_params, randomize


def reference(x, weight):
    """ECA written from the paper's equations, a channel at a time."""
    B, C, H, W = x.shape
    k = len(weight)
    out = torch.empty_like(x)
    for b in range(B):
        means = [x[b, c].sum().item() / (H * W) for c in range(C)]
        for c in range(C):
            z = sum(weight[j].item() * means[c + j - k // 2] for j in range(k) if 0 <= c + j - k // 2 < C)
            out[b, c] = x[b, c] / (1 + math.exp(-z))
    return out


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 9])
def test_agrees_with_the_equations(kernel_size):
    eca = randomize(ECA(16, kernel_size=kernel_size))
    x = torch.randn(2, 16, 5, 7)
    torch.testing.assert_close(eca(x), reference(x, eca.conv.weight.flatten()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ch", "k"), [(8, 3), (16, 3), (32, 3), (64, 3), (128, 5), (256, 5), (1024, 5), (2048, 7)])
def test_default_kernel_is_the_papers(ch, k):
    assert n_params(ECA(ch)) == k


def test_zero_kernel_halves():
    eca = ECA(16)
    torch.nn.init.zeros_(eca.conv.weight)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(eca(x), x / 2)


def test_gate_sees_means_only():
    """Pixels in another order leave the gate alone; channels rolled by one roll the gate away from the ends."""
    eca = randomize(ECA(16, kernel_size=3))
    x = torch.randn(2, 16, 4, 4)
    shuffled = x.flatten(2)[:, :, torch.randperm(16)].view_as(x)
    torch.testing.assert_close((eca(x) / x)[:, :, 0, 0], (eca(shuffled) / shuffled)[:, :, 0, 0])
    rolled = x.roll(1, dims=1)
    torch.testing.assert_close((eca(rolled) / rolled)[:, 2:-1], (eca(x) / x).roll(1, dims=1)[:, 2:-1])


def test_learns_and_keeps_layout():
    x = torch.randn(2, 16, 7, 7)
    assert_learns_and_keeps_layout(lambda: ECA(16), x)


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match=r"eca\.kernel_size must be odd"):
        ECA(16, kernel_size=4)
