import math

import pytest
import torch
from torch import nn

from models import build
from models.mixer import Mixer, MixerBlock
from models.resnet import BasicBlock, DropPath, Place, ResNet
from tests.checks import (
    assert_channels_last_agrees,
    assert_every_parameter_learns,
    assert_samples_are_independent,
    n_params,
    no_attention,
    plain_block,
    randomize,
)


def block(ch, size, attention=no_attention, drop_path=0.0, **knobs):
    return Mixer(**knobs)(ch, ch, 1, Place(3, 1, size), plain_block, attention, drop_path)


def layer_norm(v, scale, shift):
    return (v - v.mean()) / (v.var(unbiased=False) + 1e-6).sqrt() * scale + shift


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


def test_whole_net():
    net = ResNet(100, 32, block=Mixer())
    assert [type(b) for stage in net.stages for b in stage] == [BasicBlock] * 7 + [MixerBlock] * 2


@pytest.mark.parametrize(
    ("knobs", "replaced"),
    [
        ({"first_block": 2}, {(3, 2)}),
        ({"stages": (2, 3)}, {(2, 1), (2, 2), (3, 1), (3, 2)}),
        ({"stages": (1,)}, {(1, 0), (1, 1), (1, 2)}),
    ],
)
def test_blocks_stand_where_the_knobs_say(knobs, replaced):
    net = ResNet(10, 15, block=Mixer(**knobs))  # maps of 15, 8 and 4 pixels
    assert {(s + 1, i) for s in range(3) for i in range(3) if isinstance(net.stages[s][i], MixerBlock)} == replaced
    assert net(torch.randn(2, 3, 15, 15)).shape == (2, 10)


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
    assert_every_parameter_learns(block(16, 7, **knobs), x)
    assert_channels_last_agrees(block(16, 7, **knobs), x)
    assert_samples_are_independent(block(16, 7, **knobs), x)


def test_attention_and_drop_path_are_on_the_spatial_branch():
    class Silence(nn.Module):
        def __init__(self, ch):
            super().__init__()
            self.ch = ch

        def forward(self, x):
            assert x.shape[1:] == (self.ch, 4, 4)
            return 0 * x

    net = block(16, 4, attention=Silence, drop_path=0.2).eval()
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(net(x), x + net.mix_channels(x))
    assert [module.rate for module in net.modules() if isinstance(module, DropPath)] == [0.2, 0.2]


def test_autocast():
    net = block(16, 8).eval()
    x = torch.randn(2, 16, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(x)
    torch.testing.assert_close(out.float(), net(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"stages": (0,)}, r"mixer\.stages must be distinct numbers from 1 to 4, got \(0,\)"),
        ({"stages": (3, 3)}, r"mixer\.stages"),
        ({"first_block": -1}, r"mixer\.first_block"),
        ({"token_hidden": -1}, r"mixer\.token_hidden"),
        ({"channel_hidden": -1}, r"mixer\.channel_hidden"),
    ],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Mixer(**knobs)


@pytest.mark.parametrize("shape", [(2, 8), (5, 5)])
def test_other_map_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=f"mixer is built for maps of 4x4 pixels, got {shape[0]}x{shape[1]}"):
        block(16, 4)(torch.randn(2, 16, *shape))


def test_block_that_widens_stays_the_resnets():
    """Though it has no stride: the first bottleneck, from 8 to 32 channels."""
    net = build("mixer_resnet50", 7, {"resnet.width": 8, "mixer.stages": (1,)}, 16)
    assert net(torch.randn(2, 3, 16, 16)).shape == (2, 7)
