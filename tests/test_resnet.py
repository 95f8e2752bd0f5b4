import math
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from models.coatnet import CoAtNet
from models.convnext import ConvNeXt
from models.gmlp import GMLP
from models.hornet import HorNet
from models.resnet import (
    BasicBlock,
    BlockFamily,
    Bottleneck,
    Chain,
    ConvBN,
    DropPath,
    ImageNetResNet,
    PadShortcut,
    Place,
    ResNet,
)
from tests.checks import assert_learns_and_keeps_layout, n_params, no_attention, randomize

POSITIONS = ("before-conv1", "after-conv1", "before-add", "after-add")


def basic_block(in_ch, out_ch, stride, drop_path=0.0, attention=no_attention, shortcut="A", position="before-add"):
    return BasicBlock(in_ch, out_ch, stride, drop_path, ConvBN, attention, shortcut, position)


def conv_norm(x, layer, stride):
    """A padded convolution as one sum at each pixel, and batch norm; a layer's parameters by the order of its parts."""
    conv, norm, *_ = layer
    k = conv.weight.shape[-1]
    padded = F.pad(x, [k // 2] * 4)
    out = x.new_empty(len(x), len(conv.weight), math.ceil(x.shape[2] / stride), math.ceil(x.shape[3] / stride))
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            window = padded[:, None, :, i * stride : i * stride + k, j * stride : j * stride + k]
            v = (window * conv.weight).sum((2, 3, 4))
            out[:, :, i, j] = (v - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return out


def padded_shortcut(x, out_ch, stride):
    """Option A, a pixel at a time: the new channels are shared out to both ends, the odd one goes last."""
    out = x.new_zeros(len(x), out_ch, math.ceil(x.shape[2] / stride), math.ceil(x.shape[3] / stride))
    first = (out_ch - x.shape[1]) // 2
    for c in range(x.shape[1]):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                out[:, first + c, i, j] = x[:, c, i * stride, j * stride]
    return out


def reference(x, block, stride, attend=lambda position, out: out):
    """Section 4.2's block by the order of its layers; `attend` is called wherever attention may stand."""
    conv1, conv2 = (layer for layer in block.branch if isinstance(layer, ConvBN))
    out = attend("before-conv1", x)
    out = attend("after-conv1", conv_norm(out, conv1, stride).clamp(min=0))
    out = attend("before-add", conv_norm(out, conv2, 1))
    if isinstance(block.shortcut, ConvBN):
        shortcut = conv_norm(x, block.shortcut, stride)
    else:
        shortcut = padded_shortcut(x, out.shape[1], stride)
    return attend("after-add", (shortcut + out).clamp(min=0))


SHAPES = [(4, 4, 1), (4, 8, 2), (4, 9, 2), (4, 4, 2), (4, 6, 1)]


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize(("in_ch", "out_ch", "stride"), SHAPES)
def test_block_agrees_with_the_paper(in_ch, out_ch, stride, shortcut):
    block = randomize(basic_block(in_ch, out_ch, stride, shortcut=shortcut)).eval()
    x = torch.randn(2, in_ch, 7, 6)
    torch.testing.assert_close(block(x), reference(x, block, stride), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_plain_block_is_the_branch_alone(kind):
    block = randomize(kind(8, 16, 2, 0.0, ConvBN, no_attention, "none", "before-add")).eval()
    x = torch.randn(2, 8, 7, 6)
    out = x
    layers = [layer for layer in block.branch if isinstance(layer, ConvBN)]
    for layer in layers:
        out = conv_norm(out, layer, layer[0].stride[0]).clamp(min=0)
    torch.testing.assert_close(block(x), out, rtol=1e-5, atol=1e-5)
    assert block.shortcut is None


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize(("in_ch", "out_ch", "stride"), [(8, 8, 1), (4, 8, 1), (8, 16, 2)])
def test_bottleneck_agrees_with_the_paper(in_ch, out_ch, stride, shortcut):
    """1x1, ReLU, 3x3 with the stride, ReLU, 1x1; then the shortcut, and the last ReLU."""
    block = randomize(Bottleneck(in_ch, out_ch, stride, 0.0, ConvBN, no_attention, shortcut, "before-add")).eval()
    x = torch.randn(2, in_ch, 7, 6)
    reduce, conv, widen = (layer for layer in block.branch if isinstance(layer, ConvBN))
    assert [layer[0].kernel_size[0] for layer in (reduce, conv, widen)] == [1, 3, 1]
    assert conv[0].in_channels == conv[0].out_channels == out_ch // 4
    out = conv_norm(x, reduce, 1).clamp(min=0)
    out = conv_norm(conv_norm(out, conv, stride).clamp(min=0), widen, 1)
    if (in_ch, stride) == (out_ch, 1):
        added = x
    elif shortcut == "A":
        added = padded_shortcut(x, out_ch, stride)
    else:
        added = conv_norm(x, block.shortcut, stride)
    torch.testing.assert_close(block(x), (added + out).clamp(min=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_attention_in_a_bottleneck(position):
    block = Bottleneck(4, 16, 2, 0.0, ConvBN, Recorder, "B", position)
    (recorder,) = (module for module in block.modules() if isinstance(module, Recorder))
    assert recorder.ch == {"before-conv1": 4, "after-conv1": 4}.get(position, 16)
    out = block(torch.randn(2, 4, 8, 8))
    if position == "before-add":  # after the last norm, so it is not rectified yet
        assert recorder.seen[0].shape == (2, 16, 4, 4) and recorder.seen[0].min() < 0
    if position == "after-add":
        assert torch.equal(out, 2 * recorder.seen[0])


def test_conv_slot_of_a_bottleneck_is_its_3x3():
    conv = Mock(wraps=ConvBN)
    Bottleneck(16, 32, 2, 0.0, conv, no_attention, "B", "before-add")
    assert [call.args for call in conv.mock_calls] == [(8, 8, 2, True)]


def test_shortcut_of_a_block_that_keeps_the_shape_is_the_identity():
    for shortcut, kind in (("A", PadShortcut), ("B", ConvBN)):
        assert isinstance(basic_block(4, 4, 1, shortcut=shortcut).shortcut, nn.Identity)
        assert [type(basic_block(*shape, shortcut=shortcut).shortcut) for shape in SHAPES[1:]] == [kind] * 4


@pytest.mark.parametrize(
    ("make", "size", "tolerance"),
    [
        (lambda: ResNet(5, 9, depth=14, width=4), 3, 1e-5),
        (lambda: ImageNetResNet(5, 9, depth=18, width=2), 2, 1e-4),
    ],
)
def test_network_agrees_with_the_paper(make, size, tolerance):
    """Stem, three or four stages with the strides 1, 2, 2, 2, mean over pixels, classifier."""
    net = randomize(make()).eval()
    x = torch.randn(2, 3, 9, 9)
    out = conv_norm(x, net.stem, 1).clamp(min=0)
    for i, stage in enumerate(net.stages):
        for j, block in enumerate(stage):
            out = reference(out, block, 2 if i > 0 and j == 0 else 1)
    assert out.shape == (2, 16, size, size)
    logits = out.mean((2, 3)) @ net.fc.weight.T + net.fc.bias
    torch.testing.assert_close(net(x), logits, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("depth", "count_a", "count_b", "count_10_classes"),
    [
        (20, 275_572, 278_324, 269_722),
        (32, 470_004, 472_756, 464_154),
        (44, 664_436, 667_188, 658_586),
        (56, 858_868, 861_620, 853_018),
        (110, 1_733_812, 1_736_564, 1_727_962),
    ],
)
def test_parameter_count(depth, count_a, count_b, count_10_classes):
    with torch.device("meta"):  # counts need no memory and no drawing of weights
        assert n_params(ResNet(100, 32, depth=depth)) == count_a
        assert n_params(ResNet(100, 32, depth=depth, shortcut="B")) == count_b
        assert n_params(ResNet(10, 32, depth=depth)) == count_10_classes


@pytest.mark.parametrize(
    ("depth", "count"), [(18, 11_220_132), (34, 21_328_292), (50, 23_705_252), (101, 42_697_380), (152, 58_341_028)]
)
def test_parameter_count_of_the_wide_ones(depth, count):
    with torch.device("meta"):
        assert n_params(ImageNetResNet(100, 32, depth=depth)) == count
        assert n_params(ImageNetResNet(100, 224, depth=depth)) == count + 7_680


@pytest.mark.parametrize(("size", "stem", "strided"), [
    (32, "auto", False), (64, "auto", False), (65, "auto", True), (224, "auto", True),
    (32, "imagenet", True), (224, "cifar", False),
])  # fmt: skip
def test_stem_goes_by_the_size_of_the_images(size, stem, strided):
    with torch.device("meta"):
        net = ImageNetResNet(5, size, width=4, stem=stem)
        out = net.stem(torch.empty(2, 3, size, size))
    assert out.shape == (2, 4, *[math.ceil(size / 4) if strided else size] * 2)


def test_stem_of_large_images_is_torchvisions():
    stem, published = randomize(BlockFamily().stem(3, 64, 4)).eval(), resnet18().eval()
    (conv, norm, _), _ = stem
    published.conv1.load_state_dict(conv.state_dict())
    published.bn1.load_state_dict(norm.state_dict())
    x = torch.randn(2, 3, 33, 47)
    expected = published.maxpool(published.relu(published.bn1(published.conv1(x))))
    torch.testing.assert_close(stem(x), expected, rtol=1e-5, atol=1e-5)


def test_widths_and_depths_of_bottlenecks():
    with torch.device("meta"):
        net = ImageNetResNet(5, 32, depth=152)
    assert [len(stage) for stage in net.stages] == [3, 8, 36, 3]
    assert [stage[0].branch[1][0].out_channels for stage in net.stages] == [64, 128, 256, 512]
    assert net.fc.in_features == 2048


def test_blocks_that_widen_inside_stand_between_narrow_stages():
    with torch.device("meta"):
        for family in (HorNet(), CoAtNet()):
            assert ImageNetResNet(5, 32, block=family, depth=50).fc.in_features == 512
        assert ImageNetResNet(5, 32, block=GMLP(), depth=50).fc.in_features == 2048  # which leaves most bottlenecks


def test_stages_between_bottlenecks_know_it():
    asked = []

    def stage(in_ch, out_ch, stride, place, block, drop_paths):
        asked.append((in_ch, out_ch, stride, place, len(drop_paths)))
        return nn.Identity()

    ImageNetResNet(5, 33, stage=stage, depth=50, width=4)
    assert asked == [
        (4, 16, 1, Place(1, 0, 33, True), 3),
        (16, 32, 2, Place(2, 0, 33, True), 4),
        (32, 64, 2, Place(3, 0, 17, True), 6),
        (64, 128, 2, Place(4, 0, 9, True), 3),
    ]


@pytest.mark.parametrize("depth", [20, 56])
def test_plain_network_has_the_layers_of_option_a(depth):
    plain, residual = ResNet(7, 32, depth=depth, width=4, shortcut="none"), ResNet(7, 32, depth=depth, width=4)
    assert [(name, p.shape) for name, p in plain.named_parameters()] == [
        (name, p.shape) for name, p in residual.named_parameters()
    ]


class Recorder(nn.Module):
    """Attention that keeps what it sees and doubles it."""

    def __init__(self, ch):
        super().__init__()
        self.ch, self.seen = ch, []

    def forward(self, x):
        self.seen.append(x.clone())
        return 2 * x


@pytest.mark.parametrize("position", POSITIONS)
def test_attention_stands_where_it_is_put(position):
    block = randomize(basic_block(4, 8, 2, attention=Recorder, position=position)).eval()
    (recorder,) = (module for module in block.modules() if isinstance(module, Recorder))
    assert recorder.ch == (4 if position == "before-conv1" else 8)
    expected_seen = []

    def attend(where, out):
        if where != position:
            return out
        expected_seen.append(out)
        return 2 * out

    x = torch.randn(2, 4, 7, 6)
    out, expected = block(x), reference(x, block, 2, attend)
    torch.testing.assert_close(recorder.seen, expected_seen, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_every_block_of_the_network_attends_once(position):
    net = ResNet(5, 8, attention=Recorder, depth=14, width=4, attention_position=position)
    net(torch.randn(2, 3, 8, 8))
    recorders = [module for module in net.modules() if isinstance(module, Recorder)]
    first = [4, 4, 8] if position == "before-conv1" else [4, 8, 16]
    assert [recorder.ch for recorder in recorders] == [first[0], 4, first[1], 8, first[2], 16]
    assert [[len(seen[0]), seen[0].shape[1]] for seen in (r.seen for r in recorders)] == [[2, r.ch] for r in recorders]


def test_conv_slot_is_asked_for_both_convolutions():
    conv = Mock(wraps=ConvBN)
    ResNet(5, 8, conv=conv, depth=8, width=4)
    assert [call.args for call in conv.mock_calls] == [
        (4, 4, 1, True),
        (4, 4, 1, False),
        (4, 8, 2, True),
        (8, 8, 1, False),
        (8, 16, 2, True),
        (16, 16, 1, False),
    ]


def test_stage_slot_is_asked_for_three_stages():
    asked = []

    def stage(in_ch, out_ch, stride, place, block, drop_paths):
        asked.append((in_ch, out_ch, stride, place, len(drop_paths)))
        return Chain(in_ch, out_ch, stride, place, block, drop_paths)

    ResNet(5, 33, stage=stage, width=4)
    assert asked == [
        (4, 4, 1, Place(1, 0, 33), 3),
        (4, 8, 2, Place(2, 0, 33), 3),
        (8, 16, 2, Place(3, 0, 17), 3),
    ]


class PlacedFamily(BlockFamily):
    """The ResNet's own blocks, which check that the map that enters has the size they were promised."""

    def __init__(self):
        self.places = []

    def __call__(self, in_ch, out_ch, stride, place, resnet_block, attention, drop_path):
        def check(module, args):
            assert args[0].shape[1:] == (in_ch, place.size, place.size)

        self.places.append(place)
        block = resnet_block(in_ch, out_ch, stride, drop_path)
        block.register_forward_pre_hook(check)
        return block

    def final_norm(self, ch):
        return nn.LayerNorm(ch)


@pytest.mark.parametrize(("size", "sizes"), [(32, (32, 16, 8)), (33, (33, 17, 9)), (31, (31, 16, 8)), (5, (5, 3, 2))])
def test_blocks_know_their_place(size, sizes):
    family = PlacedFamily()
    net = ResNet(5, size, block=family, depth=14, width=4)
    s1, s2, s3 = sizes
    assert family.places == [
        *(Place(1, 0, s1), Place(1, 1, s1)),
        *(Place(2, 0, s1), Place(2, 1, s2)),
        *(Place(3, 0, s2), Place(3, 1, s3)),
    ]
    assert net(torch.randn(2, 3, size, size)).shape == (2, 5)


def test_final_norm_stands_before_the_classifier():
    net = ResNet(5, 8, block=PlacedFamily(), depth=8, width=4)
    seen = []
    net.fc.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(seen[0].mean(1), torch.zeros(2), rtol=0, atol=1e-5)
    assert isinstance(ResNet(5, 8, depth=8, width=4).norm, nn.Identity)


def test_place_after_a_stride_rounds_up():
    assert [Place(2, 1, size).after(2) for size in (8, 9)] == [Place(2, 1, 4), Place(2, 1, 5)]
    assert Place(2, 1, 9).after(1) == Place(2, 1, 9)


def test_drop_path_drops_whole_samples():
    """Of 20000 samples a share of 0.3 is zero, within 5 standard deviations, and the rest are 1 / 0.7 as large."""
    torch.manual_seed(0)
    x = 1 + torch.rand(20_000, 2, 3, 1)
    out = DropPath(0.3)(x)
    kept = out[:, 0, 0, 0] > 0
    torch.testing.assert_close(out, x / 0.7 * kept.view(-1, 1, 1, 1))
    assert abs(kept.float().mean() - 0.7) < 5 * math.sqrt(0.3 * 0.7 / len(x))


def test_drop_path_is_off_in_eval_and_at_rate_0():
    x = torch.randn(64, 4)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_drop_path_rises_over_the_blocks_and_leaves_the_shortcut():
    net = ResNet(5, 8, depth=14, width=4, drop_path=0.5)
    rates = [module.rate for module in net.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    x = torch.rand(32, 4, 6, 6)
    out = basic_block(4, 4, 1, drop_path=0.5)(x)
    unchanged = (out == x).flatten(1).all(1)
    assert 0 < unchanged.sum() < 32


@pytest.mark.parametrize("knobs", [{}, {"shortcut": "B"}, {"shortcut": "none"}])
def test_learns_and_keeps_layout(knobs):
    x = torch.randn(4, 3, 13, 13)
    assert_learns_and_keeps_layout(lambda: ResNet(5, 13, depth=8, width=4, **knobs), x)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"depth": 18}, r"resnet\.depth must be 6k \+ 2 .* got 18$"),
        ({"depth": 2}, r"resnet\.depth must be 6k \+ 2 .* got 2$"),
        ({"depth": -4}, r"resnet\.depth must be 6k \+ 2 .* got -4$"),
        ({"width": 0}, r"resnet\.width must be at least 1, got 0$"),
        ({"drop_path": 1.0}, r"resnet\.drop_path must be in \[0, 1\), got 1\.0$"),
        ({"drop_path": -0.1}, r"resnet\.drop_path must be in \[0, 1\), got -0\.1$"),
        ({"shortcut": "none", "drop_path": 0.1}, r"resnet\.drop_path .* without shortcuts"),
        ({"block": ConvNeXt(), "shortcut": "none"}, r"resnet\.shortcut .* this network has none$"),
        ({"attention_position": "after-add"}, r"resnet\.attention_position is set, but no method"),
        ({"block": ConvNeXt(), "shortcut": "B"}, r"resnet\.shortcut .* this network has none$"),
        (
            {"block": ConvNeXt(), "attention": Recorder, "attention_position": "after-add"},
            r"resnet\.attention_position is read by the ResNet's own blocks only",
        ),
    ],
)
def test_knobs_that_are_bad_or_read_by_nothing_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        ResNet(10, 32, **{"depth": 8} | knobs)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"depth": 20}, r"resnet\.depth must be one of 18, 34, 50, 101, 152, got 20$"),
        ({"width": 0}, r"resnet\.width must be at least 1, got 0$"),
        ({"block": HorNet(), "shortcut": "A"}, r"resnet\.shortcut .* this network has none$"),
    ],
)
def test_bad_knobs_of_the_wide_ones_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        ImageNetResNet(10, 32, **knobs)


def test_bottleneck_quarters_its_channels():
    with pytest.raises(ValueError, match="needs a multiple of 4 channels, got 6"):
        Bottleneck(6, 6, 1, 0.0, ConvBN, no_attention, "B", "before-add")


def test_knobs_of_the_basic_block_serve_where_one_is_left():
    net = ResNet(10, 32, block=ConvNeXt(downsample="resnet"), depth=8, shortcut="B")
    assert [type(module.shortcut) for module in net.modules() if isinstance(module, BasicBlock)] == [ConvBN, ConvBN]


@pytest.mark.parametrize("make", [ResNet, ImageNetResNet])
def test_one_channel_is_a_width(make):
    with torch.device("meta"):
        assert make(5, 32, width=1)(torch.empty(2, 3, 32, 32)).shape == (2, 5)
