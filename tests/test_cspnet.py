import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.convnext import ConvNeXt, ConvNeXtBlock
from models.cspnet import CSPStage
from models.resnet import BasicBlock, Place, ResNet
from tests.checks import assert_learns_and_keeps_layout, n_params, plain_block, randomize


class Toy(nn.Module):
    """A block without parameters that mixes channels and knows its index."""

    def __init__(self, index):
        super().__init__()
        self.index = index

    def forward(self, x):
        return x.roll(1, dims=1) * (self.index + 2) - x


def toy_block(in_ch, out_ch, stride, place, drop_path):
    return Toy(place.index)


def basic_block(in_ch, out_ch, stride, place, drop_path):
    return plain_block(in_ch, out_ch, stride, drop_path)


def stage(in_ch, out_ch, stride, block=basic_block, n_blocks=3, **knobs):
    return CSPStage(in_ch, out_ch, stride, Place(2, 0, 9), block, [0.0] * n_blocks, **knobs)


def conv_norm_relu(x, layer, stride=1):
    """Pixel by pixel, a layer's parameters by the order of its parts."""
    conv, norm, _ = layer
    k = conv.weight.shape[-1]
    padded = F.pad(x, [k // 2] * 4)
    B, H, W = len(x), math.ceil(x.shape[2] / stride), math.ceil(x.shape[3] / stride)
    out = x.new_empty(B, len(conv.weight), H, W)
    for i in range(H):
        for j in range(W):
            window = padded[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
            v = window.flatten(1) @ conv.weight.flatten(1).T
            v = (v - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
            out[:, :, i, j] = v.clamp(min=0)
    return out


def reference(x, csp, ch1, n_blocks, stride, split, fusion):
    """Figure 2b and the fusions of Figure 3 around toy blocks."""
    if not isinstance(csp.down, nn.Identity):
        x = conv_norm_relu(x, csp.down, stride)
    if split == "conv":
        part1, part2 = conv_norm_relu(x, csp.part1), conv_norm_relu(x, csp.part2)
    else:
        part1, part2 = x[:, :ch1], x[:, ch1:]
    for index in range(n_blocks):
        mixed = torch.stack([part2[:, c - 1] for c in range(part2.shape[1])], dim=1)
        part2 = (index + 2) * mixed - part2
    if fusion != "first":
        part2 = conv_norm_relu(part2, csp.transition1)
    out = torch.cat([part2, part1], dim=1)
    return out if fusion == "last" else conv_norm_relu(out, csp.transition2)


@pytest.mark.parametrize(
    ("shape", "knobs"),
    [
        ((8, 8, 1), {}),
        ((8, 16, 2), {}),
        ((8, 16, 1), {"split": "slice"}),
        ((8, 8, 1), {"gamma": 0.25}),
        ((8, 8, 2), {"gamma": 0.75, "fusion": "first"}),
        ((8, 8, 1), {"gamma": 0.25, "split": "slice", "fusion": "last"}),
        ((8, 16, 2), {"gamma": 0.75, "split": "slice", "fusion": "first"}),
        ((8, 8, 1), {"fusion": "last"}),
    ],
)
def test_agrees_with_the_figure(shape, knobs):
    in_ch, out_ch, stride = shape
    csp = randomize(stage(in_ch, out_ch, stride, toy_block, 2, **knobs)).eval()
    x = torch.randn(2, in_ch, 9, 6)
    knobs = {"gamma": 0.5, "split": "conv", "fusion": "both"} | knobs
    expected = reference(x, csp, int(knobs["gamma"] * out_ch), 2, stride, knobs["split"], knobs["fusion"])
    assert expected.shape == (2, out_ch, math.ceil(9 / stride), 6 // stride)
    torch.testing.assert_close(csp(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("in_ch", "ch", "stride", "count"),
    [(16, 16, 1, 4_208), (32, 32, 1, 16_480), (64, 64, 1, 65_216), (32, 64, 2, 83_776)],
)
def test_parameter_count(in_ch, ch, stride, count):
    assert n_params(stage(in_ch, ch, stride)) == count


@pytest.mark.parametrize(
    ("knobs", "count"),
    [
        ({"gamma": 0.25}, 208_892),
        ({"gamma": 0.75}, 60_268),
        ({"split": "slice"}, 110_500),
        ({"split": "slice", "gamma": 0.25}, 203_292),
        ({"split": "slice", "gamma": 0.75}, 54_668),
        ({"fusion": "first"}, 114_644),
        ({"fusion": "last"}, 110_500),
    ],
)
def test_parameter_count_of_the_network(knobs, count):
    assert n_params(ResNet(100, 32, stage=partial(CSPStage, **knobs))) == count


@pytest.mark.parametrize(("width", "count"), [(24, 254_884), (26, 297_995)])
def test_widths_with_the_parameters_of_the_baseline(width, count):
    assert n_params(ResNet(100, 32, stage=CSPStage, width=width)) == count


@pytest.mark.parametrize(("gamma", "ch2"), [(0.25, 12), (0.5, 8), (0.75, 4)])
def test_what_the_blocks_are_asked_for(gamma, ch2):
    """Width (1 - gamma) C, stride 1, the size after the downsampling, each its own index and drop path rate."""
    asked = []

    def block(in_ch, out_ch, stride, place, drop_path):
        asked.append((in_ch, out_ch, stride, place, drop_path))
        return Toy(place.index)

    CSPStage(8, 16, 2, Place(2, 0, 9), block, [0.1, 0.2, 0.3], gamma=gamma)
    assert asked == [(ch2, ch2, 1, Place(2, i, 5), p) for i, p in enumerate([0.1, 0.2, 0.3])]


def test_without_blocks_output_the_stage_depends_on_part_1_only():
    csp = randomize(stage(8, 8, 1, split="slice")).eval()
    nn.init.zeros_(csp.transition1[1].weight)
    nn.init.zeros_(csp.transition1[1].bias)
    x = torch.randn(2, 8, 9, 9)
    other = torch.randn(2, 4, 9, 9)
    assert torch.equal(csp(x), csp(torch.cat([x[:, :4], other], dim=1)))
    assert not torch.equal(csp(x), csp(torch.cat([other, x[:, 4:]], dim=1)))


@pytest.mark.parametrize("fusion", ["both", "first", "last"])
def test_a_sliced_part_1_reaches_the_concatenation_untouched(fusion):
    csp = randomize(stage(8, 8, 1, gamma=0.25, split="slice", fusion=fusion)).eval()
    seen = []
    csp.transition2.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.randn(2, 8, 9, 9)
    csp(x)
    assert torch.equal(seen[0][:, 6:], x[:, :2])
    assert not torch.equal(seen[0][:, :6], x[:, 2:])


def test_only_a_new_shape_is_downsampled():
    assert isinstance(stage(16, 16, 1).down, nn.Identity)
    assert [stage(*shape).down[0].kernel_size for shape in ((16, 32, 2), (16, 32, 1), (16, 16, 2))] == [(3, 3)] * 3


@pytest.mark.parametrize(("split", "down_ch"), [("conv", 8), ("slice", 32)])
def test_between_bottlenecks_the_split_widens(split, down_ch):
    one = CSPStage(8, 32, 2, Place(2, 0, 9, True), lambda ch, *_, **__: nn.Conv2d(ch, ch, 1), [0.0] * 2, split=split)
    assert (one.down[0].in_channels, one.down[0].out_channels) == (8, down_ch)
    assert one(torch.randn(2, 8, 9, 9)).shape == (2, 32, 5, 5)


@pytest.mark.parametrize(("family", "kind"), [(None, BasicBlock), (ConvNeXt(), ConvNeXtBlock)])
def test_any_block_runs_in_the_stages(family, kind):
    net = ResNet(10, 9, block=family, stage=CSPStage, depth=14, width=8)
    assert [[type(block) for block in one.blocks] for one in net.stages] == [[kind, kind]] * 3
    assert net(torch.randn(2, 3, 9, 9)).shape == (2, 10)


@pytest.mark.parametrize(
    "knobs", [{}, {"split": "slice", "gamma": 0.25}, {"fusion": "first", "gamma": 0.75}, {"fusion": "last"}]
)
def test_learns_and_keeps_layout(knobs):
    x = torch.randn(4, 16, 9, 9)
    assert_learns_and_keeps_layout(lambda: stage(16, 32, 2, **knobs), x)


@pytest.mark.parametrize("gamma", [0.0, 1.0, -0.5, 1.5, 0.3, 0.01])
def test_bad_gamma_is_refused(gamma):
    with pytest.raises(ValueError, match=rf"cspnet\.gamma must split 16 channels into two whole numbers, got {gamma}$"):
        ResNet(10, 32, stage=partial(CSPStage, gamma=gamma))
