import math

import pytest
import torch

from models.se import SE
from tests.checks import assert_learns_and_keeps_layout, n_params, randomize


def reference(x, w1, b1, w2, b2):
    """SE written from the paper's equations, a number at a time."""
    B, C, H, W = x.shape
    out = torch.empty_like(x)
    for b in range(B):
        z = [x[b, c].sum().item() / (H * W) for c in range(C)]
        hidden = [max(0.0, b1[h].item() + sum(w1[h, c].item() * z[c] for c in range(C))) for h in range(len(b1))]
        for c in range(C):
            s = b2[c].item() + sum(w2[c, h].item() * hidden[h] for h in range(len(b1)))
            out[b, c] = x[b, c] / (1 + math.exp(-s))
    return out


@pytest.mark.parametrize("reduction", [16, 4, 1])
def test_agrees_with_the_equations(reduction):
    se = randomize(SE(16, reduction=reduction))
    x = torch.randn(2, 16, 5, 7)
    p = se.squeeze.weight, se.squeeze.bias, se.excite.weight, se.excite.bias
    torch.testing.assert_close(se(x), reference(x, *p), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ch", "count"), [(16, 49), (32, 162), (64, 580)])
def test_parameter_count(ch, count):
    """2 C²/r + C/r + C."""
    assert n_params(SE(ch)) == count


def test_zero_weights_halve():
    se = SE(16)
    for p in se.parameters():
        torch.nn.init.zeros_(p)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(se(x), x / 2)


def test_learns_and_keeps_layout():
    def positive():  # with a positive map, or both hidden units may be cut off
        se = SE(32)
        torch.nn.init.uniform_(se.squeeze.weight, 0.05, 0.15)
        return se

    x = torch.randn(2, 32, 7, 7).abs()
    assert_learns_and_keeps_layout(positive, x)


def test_one_unit_is_left_and_less_than_1_is_refused():
    assert SE(8).squeeze.out_features == 1
    with pytest.raises(ValueError, match=r"se\.reduction must be at least 1, got 0"):
        SE(16, reduction=0)
