import math

import pytest
import torch
from torch import nn

from models.mixer import Mixer
from models.resnet import Place
from tests.checks import assert_learns_and_keeps_layout, n_params, no_attention, randomize
from tests.test_gmlp import layer_norm


def block(ch, size, **knobs):
    return Mixer(**knobs).block(ch, Place(3, 1, size), no_attention, 0.0)


def mlp(v, w1, b1, w2, b2):
    hidden = w1 @ v + b1
    return w2 @ (0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))) + b2


def reference(x, p):
    """Equation 1: for each image a table of tokens (rows) by channels (columns), mixed by column and then by row."""
    norm1, token_mlp, norm2, channel_mlp = p
    result = torch.empty_like(x)
    for b in range(len(x)):
        table = torch.stack([x[b, :, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])])
        normed = torch.stack([layer_norm(row, *norm1) for row in table])
        for c in range(table.shape[1]):
            table[:, c] += mlp(normed[:, c], *token_mlp)
        for n, row in enumerate(table):
            result[b, :, n // x.shape[3], n % x.shape[3]] = row + mlp(layer_norm(row, *norm2), *channel_mlp)
    return result


@pytest.mark.parametrize(("size", "knobs"), [(4, {}), (3, {"token_hidden": 5, "channel_hidden": 12})])
def test_agrees_with_the_equations(size, knobs):
    net = randomize(block(8, size, **knobs)).double()
    p = [p.detach() for p in net.parameters()]
    p = [[w[:, :, 0, 0] if w.ndim == 4 else w for w in group] for group in (p[:2], p[2:6], p[6:8], p[8:])]
    x = torch.randn(2, 8, size, size, dtype=torch.double)
    torch.testing.assert_close(net(x), reference(x, p), rtol=1e-5, atol=1e-5)


def test_whole_network_is_the_papers():
    """Mixer-B/16 for ImageNet: 12 blocks of 768 channels, patches of 16 pixels, a norm before the classifier."""
    with torch.device("meta"):
        blocks = [block(768, 14) for _ in range(12)]
        net = nn.Sequential(nn.Conv2d(3, 768, 16, 16), *blocks, nn.LayerNorm(768), nn.Linear(768, 1000))
    assert n_params(net) == 59_880_472


@pytest.mark.parametrize(("ch", "count"), [(16, 3_288), (32, 10_608), (64, 37_536)])
def test_parameter_count(ch, count):
    assert n_params(block(ch, 8)) == count


@pytest.mark.parametrize(("token_hidden", "channel_hidden"), [(8, 128), (128, 256)])
def test_parameter_count_of_other_widths(token_hidden, channel_hidden):
    n, ds, dc = 64, token_hidden, channel_hidden
    count = 4 * 64 + 2 * n * ds + ds + n + 2 * 64 * dc + dc + 64
    assert n_params(block(64, 8, token_hidden=token_hidden, channel_hidden=channel_hidden)) == count


def test_each_mlp_is_blind_to_the_other_axis():
    """The token MLP treats all channels alike, the channel MLP all pixels; neither holds the other way round."""
    net = randomize(block(16, 4))
    x, order = torch.randn(2, 16, 4, 4), torch.randperm(16)
    mix_tokens, mix_channels = net.mix_tokens[1], net.mix_channels

    def pixels_shuffled(x):
        return x.flatten(2)[:, :, order].view_as(x)

    torch.testing.assert_close(mix_tokens(x[:, order]), mix_tokens(x)[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mix_channels(pixels_shuffled(x)), pixels_shuffled(mix_channels(x)), rtol=1e-4, atol=1e-5)
    assert (mix_tokens(pixels_shuffled(x)) - pixels_shuffled(mix_tokens(x))).abs().max() > 1e-2
    assert (mix_channels(x[:, order]) - mix_channels(x)[:, order]).abs().max() > 1e-2


@pytest.mark.parametrize("knobs", [{}, {"token_hidden": 20, "channel_hidden": 8}])
def test_learns_and_keeps_layout(knobs):
    x = torch.randn(2, 16, 7, 7)
    assert_learns_and_keeps_layout(lambda: block(16, 7, **knobs), x)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"first_block": -1}, r"mixer\.first_block"),
        ({"token_hidden": -1}, r"mixer\.token_hidden"),
        ({"channel_hidden": -1}, r"mixer\.channel_hidden"),
    ],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Mixer(**knobs)
