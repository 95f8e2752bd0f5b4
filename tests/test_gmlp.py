import math

import pytest
import torch
from torch import nn

from models.gmlp import GMLP, SpatialGatingUnit
from models.resnet import Place
from tests.checks import assert_learns_and_keeps_layout, n_params, no_attention, randomize


def block(ch, size, **knobs):
    return GMLP(**knobs).block(ch, Place(3, 1, size), no_attention, 0.0)


def layer_norm(v, scale, shift):
    return (v - v.mean()) / (v.var(unbiased=False) + 1e-6).sqrt() * scale + shift


def reference(x, p, gate):
    """Equations 1 to 4, one image and one token after the other; p: the parameters in the order of the layers."""
    (scale, shift), (w1, b1), (gate_scale, gate_shift), (spatial, spatial_bias), (w2, b2) = p
    result = x.clone()
    for b in range(len(x)):
        tokens = [x[b, :, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])]
        hidden = []
        for token in tokens:
            z = w1[:, :, 0, 0] @ layer_norm(token, scale, shift) + b1
            hidden.append(0.5 * z * (1 + torch.erf(z / math.sqrt(2))))
        half = len(hidden[0]) // 2
        gated = [z[half:] for z in hidden] if gate == "split" else hidden
        gated = [layer_norm(z, gate_scale, gate_shift) for z in gated]
        for n, z in enumerate(hidden):
            f = sum(spatial[n, m] * gated[m] for m in range(len(tokens))) + spatial_bias[n]
            if gate != "linear":
                z = z[:half] if gate == "split" else z
                f = z + f if gate == "additive" else z * f
            result[b, :, n // x.shape[3], n % x.shape[3]] += w2[:, :, 0, 0] @ f + b2
    return result


@pytest.mark.parametrize(
    ("size", "knobs"),
    [
        (4, {}),
        (3, {"ratio": 2}),
        (3, {"gate": "whole"}),
        (3, {"gate": "additive", "ratio": 4}),
        (3, {"gate": "linear", "ratio": 3}),
    ],
)
def test_agrees_with_the_equations(size, knobs):
    net = randomize(block(8, size, **knobs)).double()
    layers = [net.branch[0], net.branch[1], net.branch[3].norm, net.branch[3].spatial, net.branch[4]]
    p = [(layer.weight.detach(), layer.bias.detach()) for layer in layers]
    x = torch.randn(2, 8, size, size, dtype=torch.double)
    torch.testing.assert_close(net(x), reference(x, p, knobs.get("gate", "split")), rtol=1e-5, atol=1e-5)


def test_whole_network_is_the_papers():
    """gMLP-Ti for ImageNet: 30 blocks of 128 channels and 768 inside, patches of 16 pixels, a norm before the classifier."""
    with torch.device("meta"):
        blocks = [block(128, 14) for _ in range(30)]
        net = nn.Sequential(nn.Conv2d(3, 128, 16, 16), *blocks, nn.LayerNorm(128), nn.Linear(128, 1000))
    assert n_params(net) == 5_867_328


@pytest.mark.parametrize(
    ("ch", "ratio", "count"), [(64, 2, 16_896), (64, 4, 29_440), (64, 6, 41_984), (32, 6, 13_856), (16, 6, 6_704)]
)
def test_parameter_count(ch, ratio, count):
    assert n_params(block(ch, 8, ratio=ratio)) == count


def shuffled(x, order):
    return x.flatten(2)[:, :, order].view_as(x)


def test_gate_starts_open_and_blind_to_place():
    x, order = torch.randn(2, 16, 4, 4), torch.randperm(16)
    unit = SpatialGatingUnit(16, 4, "split", 1e-6, 1.0)
    assert (unit(x) - x[:, :8]).abs().max() < 1e-3
    torch.testing.assert_close(unit(shuffled(x, order)), shuffled(unit(x), order), rtol=0, atol=1e-3)
    randomize(unit)
    assert (unit(shuffled(x, order)) - shuffled(unit(x), order)).abs().max() > 1e-2


def test_spatial_start_is_the_knobs():
    spatial = block(16, 8, spatial_std=0.5, spatial_bias=-2.0).branch[3].spatial
    assert 0.45 < spatial.weight.std() < 0.55
    assert (spatial.bias == -2).all()
    spatial = block(16, 8).branch[3].spatial
    assert 0 < spatial.weight.abs().max() < 1e-5
    assert (spatial.bias == 1).all()


@pytest.mark.parametrize("knobs", [{}, {"gate": "whole"}, {"gate": "additive"}, {"gate": "linear", "ratio": 2}])
def test_learns_and_keeps_layout(knobs):
    def net():
        return block(16, 7, spatial_std=0.1, **knobs)  # the paper's 1e-6 would hide real zeros after W

    x = torch.randn(2, 16, 7, 7)
    assert_learns_and_keeps_layout(net, x)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"first_block": -1}, r"gmlp\.first_block"),
        ({"ratio": 0}, r"gmlp\.ratio"),
        ({"spatial_std": -1.0}, r"gmlp\.spatial_std"),
    ],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        GMLP(**knobs)


def test_odd_width_is_not_split():
    with pytest.raises(ValueError, match=r"gmlp\.ratio must make an even width of 5 channels, got 3"):
        block(5, 4, ratio=3)
    assert block(5, 4, ratio=3, gate="whole")(torch.randn(1, 5, 4, 4)).shape == (1, 5, 4, 4)
