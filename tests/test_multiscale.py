import math

import pytest
import torch

from models import build
from models.multiscale import Cascade, MultiScaleConv, shares
from models.resnet import BasicBlock, Bottleneck, ConvBN, ImageNetResNet, ResNet
from tests.checks import assert_learns_and_keeps_layout, n_params, randomize
from tests.test_ghostnet import filtered, normed

FORMS = ({}, {"form": "depthwise"}, {"form": "cascade"})


@pytest.mark.parametrize("kernel_sizes", [(3, 5, 7), (1, 3), (5,), (3, 5, 7, 9)])
@pytest.mark.parametrize(("stride", "relu"), [(1, True), (2, False)])
def test_parallel_kernels_one_map_at_a_time(kernel_sizes, stride, relu):
    module = randomize(MultiScaleConv(5, 16, stride, relu, kernel_sizes=kernel_sizes)).eval()
    x = torch.randn(2, 5, 9, 6)
    kernels = [kernel for conv in module[0].convs for kernel in conv.weight]  # a kernel of each output map, in order
    maps = [normed(filtered(x.unbind(1), kernel, stride), module[1], c) for c, kernel in enumerate(kernels)]
    expected = torch.stack([one.clamp(min=0) if relu else one for one in maps], 1)
    assert expected.shape == (2, 16, math.ceil(9 / stride), 6 // stride)
    assert {kernel.shape[-1] for kernel in kernels} == set(kernel_sizes)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stride", "relu"), [(1, True), (2, False)])
def test_depthwise_kernels_one_map_at_a_time(stride, relu):
    module = randomize(MultiScaleConv(8, 6, stride, relu, form="depthwise")).eval()
    x = torch.randn(2, 8, 9, 6)
    kernels = [kernel for conv in module[0].convs for kernel in conv.weight]  # one of each input map
    mixed = [filtered([one], kernel, stride) for one, kernel in zip(x.unbind(1), kernels, strict=True)]
    maps = [
        normed(sum(weight * one for weight, one in zip(row.flatten(), mixed, strict=True)), module[1], c)
        for c, row in enumerate(module[0].mix.weight)
    ]
    expected = torch.stack([one.clamp(min=0) if relu else one for one in maps], 1)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


def averaged(x, stride):
    """3x3 means that count the padding."""
    return filtered_each(x, torch.full((3, 3), 1 / 9), stride)


def filtered_each(x, kernel, stride):
    return torch.stack([filtered([one], [kernel], stride) for one in x.unbind(1)], 1)


@pytest.mark.parametrize("scales", [2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_cascade_agrees_with_equation_1(scales, stride):
    module = randomize(MultiScaleConv(8, 8, stride, True, form="cascade", scales=scales)).eval()
    x = torch.randn(2, 8, 9, 6)
    w, expected, y = 8 // scales, [], None
    for i in range(scales):
        group = x[:, i * w : (i + 1) * w]
        if i == scales - 1:
            expected.append(averaged(group, 2) if stride == 2 else group)
            continue
        seen = group + y if i > 0 and stride == 1 else group
        conv, norm, _ = module[0].convs[i]
        maps = [normed(filtered(seen.unbind(1), kernel, stride), norm, c) for c, kernel in enumerate(conv.weight)]
        y = torch.stack(maps, 1).clamp(min=0)
        expected.append(y)
    torch.testing.assert_close(module(x), torch.cat(expected, 1), rtol=1e-4, atol=1e-5)


def test_groups_see_those_before_them_only():
    module = randomize(MultiScaleConv(8, 8, 1, True, form="cascade")).eval()
    x = torch.randn(1, 8, 7, 7)
    changed = x.clone()
    changed[:, 2:4] += 1  # the second of four groups
    difference = (module(x) - module(changed)).abs().amax((0, 2, 3)) > 0
    assert difference.tolist() == [False] * 2 + [True] * 4 + [False] * 2
    assert torch.equal(module(x)[:, 6:], x[:, 6:])


@pytest.mark.parametrize(
    ("ch", "kernel_sizes", "parts"),
    [(64, (3, 5, 7), [32, 16, 16]), (16, (3,), [16]), (7, (3, 5, 7), [3, 2, 2]), (6, (3, 5), [3, 3])],
)
def test_shares_halve_what_is_left(ch, kernel_sizes, parts):
    assert shares(ch, kernel_sizes) == parts


@pytest.mark.parametrize(
    ("knobs", "count"),
    [
        ({}, 23 * 64 * 64 + 2 * 64),
        ({"form": "depthwise"}, 64 * 64 + 23 * 64 + 2 * 64),
        ({"form": "cascade", "scales": 2}, 9_280),
        ({"form": "cascade"}, 7_008),
        ({"form": "cascade", "scales": 8}, 4_144),
    ],
)
def test_parameter_count(knobs, count):
    assert n_params(MultiScaleConv(64, 64, 1, True, **knobs)) == count


def test_cascade_stands_where_something_mixes_its_groups():
    """In a basic block the first convolution, unless it widens; in a bottleneck the only one, strided or not."""
    with torch.device("meta"):
        slim = build("multiscale_resnet", settings={"multiscale.form": "cascade"})
        wide = build("multiscale_resnet50", settings={"multiscale.form": "cascade"})
    for net, kind in ((slim, BasicBlock), (wide, Bottleneck)):
        assert isinstance(net, ResNet if kind is BasicBlock else ImageNetResNet)
        blocks = [block for block in net.modules() if isinstance(block, kind)]
        convs = [[m for m in block.branch if isinstance(m, MultiScaleConv)] for block in blocks]
        forms = [[type(m[0]) for m in two] for two in convs]
        if kind is Bottleneck:
            assert forms == [[Cascade]] * 16
        else:
            changes = [block.shortcut.__class__.__name__ == "PadShortcut" for block in blocks]
            assert forms == [[ConvBN if change else Cascade, ConvBN] for change in changes]


@pytest.mark.parametrize("knobs", FORMS)
@pytest.mark.parametrize(("in_ch", "stride"), [(16, 1), (16, 2)])
def test_learns_and_keeps_layout(knobs, in_ch, stride):
    x = torch.randn(4, in_ch, 9, 9)
    assert_learns_and_keeps_layout(lambda: MultiScaleConv(in_ch, 16, stride, True, **knobs), x)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"kernel_sizes": (3, 4)}, r"multiscale\.kernel_sizes must be odd, got \(3, 4\)$"),
        ({"kernel_sizes": (1, 3, 5, 7, 9, 11)}, r"multiscale\.kernel_sizes has more sizes than 16 channels can share"),
        (
            {"kernel_sizes": (1, 3, 5, 7, 9, 11), "form": "depthwise"},
            r"multiscale\.kernel_sizes has more sizes than 16 channels can share",
        ),
        ({"form": "cascade", "scales": 1}, r"multiscale\.scales must be at least 2 and divide the 16 channels, got 1$"),
        ({"form": "cascade", "scales": 3}, r"multiscale\.scales .* divide the 16 channels, got 3$"),
        ({"form": "cascade", "kernel_sizes": (3, 5)}, r"multiscale\.kernel_sizes is set, but"),
        ({"scales": 2}, r"multiscale\.scales is set, but multiscale\.form=parallel has no groups"),
    ],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleConv(16, 16, 1, True, **knobs)
