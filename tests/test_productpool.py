import math

import pytest
import torch

from models import build
from models.productpool import ProductPool
from tests.checks import assert_learns_and_keeps_layout, n_params, randomize


def reference(pool, x):
    """The equation, a number at a time, in evaluation mode."""
    conv, norm = pool.expand[0].weight.flatten(1), pool.expand[1]

    def factor(k, pixel):
        z = sum(conv[k, c].item() * pixel[c].item() for c in range(len(pixel)))
        z = (z - norm.running_mean[k].item()) / math.sqrt(norm.running_var[k].item() + norm.eps)
        return z * norm.weight[k].item() + norm.bias[k].item()

    B, _, H, W = x.shape
    K = pool.out_ch
    out = torch.zeros(B, K)
    for b in range(B):
        for k in range(K):
            for p in [x[b, :, i, j] for i in range(H) for j in range(W)]:
                second = {"product": lambda k=k, p=p: factor(K + k, p), "square": lambda k=k, p=p: factor(k, p)}
                u = factor(k, p)
                out[b, k] += u * second[pool.form]() if pool.form in second else max(u, 0) if pool.form == "relu" else u
    return out / (H * W)


@pytest.mark.parametrize("form", ["product", "square", "relu", "linear"])
def test_agrees_with_the_equation(form):
    pool = randomize(ProductPool(6, features=4, form=form)).eval()
    x = torch.randn(2, 6, 3, 5)
    torch.testing.assert_close(pool(x), reference(pool, x), rtol=1e-5, atol=1e-5)


def test_is_bilinear_pooling_through_matrices_of_rank_one():
    """y_k = <u_k v_k^T, mean over pixels of x x^T>, where the norms change nothing."""
    pool = ProductPool(5, features=3, norm=False)
    torch.nn.init.zeros_(pool.expand.bias)
    x = torch.randn(2, 5, 3, 4)
    second_moments = torch.einsum("bchw,bdhw->bcd", x, x) / 12
    u, v = pool.expand.weight.flatten(1).split(3)
    torch.testing.assert_close(pool(x), torch.einsum("kc,bcd,kd->bk", u, second_moments, v))


@pytest.mark.parametrize(("knobs", "count"), [({}, 2 * 256 * (64 + 2)), ({"form": "relu"}, 256 * (64 + 2)),
                                              ({"norm": False, "features": 10}, 20 * 65)])  # fmt: skip
def test_parameter_count(knobs, count):
    assert n_params(ProductPool(64, **knobs)) == count


@pytest.mark.parametrize("knobs", [{}, {"form": "square"}, {"form": "relu"}, {"form": "linear"}, {"norm": False}])
def test_learns_and_keeps_layout(knobs):
    x = torch.randn(3, 16, 5, 7)
    assert_learns_and_keeps_layout(lambda: randomize(ProductPool(16, features=9, **knobs)), x)


def test_classifier_reads_the_features():
    net = build("productpool_resnet", 7, {"productpool.features": 33})
    assert net.fc.in_features == 33 and net.norm(torch.ones(1)) == 1
    hornet = build("hornet_productpool_resnet", 7)
    assert hornet.norm.normalized_shape == (256,) and hornet.fc.in_features == 256


def test_no_features_are_refused():
    with pytest.raises(ValueError, match=r"productpool\.features must be at least 1, got 0"):
        ProductPool(16, features=0)
