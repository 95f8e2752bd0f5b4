import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from models.ghostnet import GhostConv
from models.resnet import BasicBlock, ResNet
from tests.checks import assert_learns_and_keeps_layout, n_params, randomize


def filtered(maps, kernels, stride):
    """The sum of maps (B, H, W), each under its own k x k kernel, tap by tap."""
    total = 0
    for one, kernel in zip(maps, kernels, strict=True):
        k, (H, W) = len(kernel), one.shape[1:]
        padded = F.pad(one, [k // 2] * 4)
        for i in range(k):
            for j in range(k):
                total = total + kernel[i, j] * padded[:, i : i + H : stride, j : j + W : stride]
    return total


def normed(one, norm, c):
    one = (one - norm.running_mean[c]) / (norm.running_var[c] + norm.eps).sqrt()
    return one * norm.weight[c] + norm.bias[c]


def reference(x, ghost, out_ch, stride, ratio, relu_primary, relu_ghost):
    """Equations 2 and 3, a map at a time; the parameters of `ghost` by the order of its layers."""
    conv, norm, *_ = ghost.primary
    primaries = []
    for c in range(math.ceil(out_ch / ratio)):
        one = normed(filtered(x.unbind(1), conv.weight[c], stride), norm, c)
        primaries.append(one.clamp(min=0) if relu_primary else one)
    cheap, norm, *_ = ghost.ghost
    ghosts = []
    for source, one in enumerate(primaries):
        for _ in range(ratio - 1):
            c = len(ghosts)
            assert c // (ratio - 1) == source
            made = normed(filtered([one], cheap.weight[c], 1), norm, c)
            ghosts.append(made.clamp(min=0) if relu_ghost else made)
    return torch.stack([*primaries, *ghosts][:out_ch], dim=1)


@pytest.mark.parametrize(
    ("out_ch", "stride", "relu", "knobs"),
    [
        (8, 1, True, {}),
        (8, 2, True, {}),
        (8, 1, False, {}),
        (8, 2, True, {"ratio": 4, "kernel_size": 5}),
        (8, 1, True, {"ratio": 3, "kernel_size": 1}),
        (16, 2, False, {"ratio": 5, "kernel_size": 7}),
        (8, 1, True, {"ratio": 3, "relu_on": "primary"}),
        (8, 1, True, {"relu_on": "ghost"}),
        (8, 1, False, {"relu_on": "ghost"}),
    ],
)
def test_agrees_with_the_equations(out_ch, stride, relu, knobs):
    ghost = randomize(GhostConv(6, out_ch, stride, relu, **knobs)).eval()
    x = torch.randn(2, 6, 9, 6)
    where = knobs.get("relu_on", "both")
    expected = reference(
        x, ghost, out_ch, stride, knobs.get("ratio", 2), relu and where != "ghost", relu and where != "primary"
    )
    assert expected.shape == (2, out_ch, math.ceil(9 / stride), 6 // stride)
    torch.testing.assert_close(ghost(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("ch", "ratio", "count"),
    [(16, 2, 1_256), (32, 2, 4_816), (64, 2, 18_848), (16, 4, 716), (32, 4, 2_584), (64, 4, 9_776), (16, 5, 760)],
)
def test_parameter_count(ch, ratio, count):
    assert n_params(GhostConv(ch, ch, 1, True, ratio=ratio)) == count


@pytest.mark.parametrize(("ratio", "count"), [(3, 104_884), (4, 79_660), (5, 69_316)])
def test_parameter_count_of_the_network(ratio, count):
    assert n_params(ResNet(100, 32, conv=partial(GhostConv, ratio=ratio))) == count


def test_parameter_count_of_ghost_resnet56():
    """On CIFAR-10, where the paper reports 0.43M."""
    assert n_params(ResNet(10, 32, conv=GhostConv, depth=56)) == 438_154


def test_primaries_come_first_and_untouched():
    ghost = randomize(GhostConv(16, 16, 2, True, ratio=3)).eval()
    x = torch.randn(2, 16, 8, 8)
    primaries = ghost.primary(x)
    assert primaries.shape[1] == 6
    assert torch.equal(ghost(x)[:, :6], primaries)


def test_the_last_module_of_a_block_is_not_rectified():
    """Only ReLUs of the block's own: one after each half of its first module, the other after the add."""
    net = ResNet(10, 16, conv=GhostConv, depth=8)
    for block in (module for module in net.modules() if isinstance(module, BasicBlock)):
        first, last = (module for module in block.branch if isinstance(module, GhostConv))
        x = torch.randn(4, first.primary[0].in_channels, 8, 8)
        middle = first(x)
        assert middle.min() == 0
        out = last(middle)
        half = out.shape[1] // 2
        assert out[:, :half].min() < 0 and out[:, half:].min() < 0


def test_a_ratio_that_does_not_divide_leaves_dead_filters():
    """16 channels in fives: 4 primaries make 16 ghosts, of which 12 are used."""
    ghost = GhostConv(16, 16, 1, True, ratio=5)
    ghost(torch.randn(4, 16, 8, 8)).square().sum().backward()
    reached = ghost.ghost[0].weight.grad.flatten(1).abs().amax(1) > 0
    assert reached.tolist() == [True] * 12 + [False] * 4


@pytest.mark.parametrize("knobs", [{}, {"ratio": 3, "kernel_size": 5}, {"relu_on": "primary"}, {"relu_on": "ghost"}])
def test_learns_and_keeps_layout(knobs):
    x = torch.randn(4, 16, 7, 7)
    assert_learns_and_keeps_layout(lambda: GhostConv(16, 32, 2, True, **knobs), x)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"ratio": 1}, r"ghostnet\.ratio must be from 2 to the 16 channels of the layer, got 1$"),
        ({"ratio": 17}, r"ghostnet\.ratio .* got 17$"),
        ({"kernel_size": 4}, r"ghostnet\.kernel_size must be odd, got 4$"),
        ({"kernel_size": -1}, r"ghostnet\.kernel_size must be odd, got -1$"),
    ],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        GhostConv(16, 16, 1, True, **knobs)
