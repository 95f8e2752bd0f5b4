from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.resnet import Place
from models.segnext import MSCA, MSCAN
from models.van import AttentionUnit
from tests.checks import (
    assert_every_parameter_learns,
    assert_learns_and_keeps_layout,
    n_params,
    no_attention,
    randomize,
)


def block(ch, attention=no_attention, **knobs):
    return MSCAN(**knobs).block(ch, Place(1, 0, 8), attention, 0.0)


def depthwise(x, p, name, dilation=1):
    """One kernel per channel and zeros outside of the map, a tap at a time."""
    weight, out = p[name + ".weight"], p[name + ".bias"].view(1, -1, 1, 1).expand_as(x).clone()
    (kh, kw), (H, W) = weight.shape[2:], x.shape[2:]
    top, left = dilation * (kh // 2), dilation * (kw // 2)
    padded = F.pad(x, (left, left, top, top))
    for i in range(kh):
        for j in range(kw):
            shifted = padded[:, :, i * dilation : i * dilation + H, j * dilation : j * dilation + W]
            out += weight[:, 0, i, j].view(1, -1, 1, 1) * shifted
    return out


def pointwise(x, p, name):
    return torch.einsum("oc,bchw->bohw", p[name + ".weight"][:, :, 0, 0], x) + p[name + ".bias"].view(1, -1, 1, 1)


def batch_norm(x, p, name):
    mean, var, scale, shift = (
        p[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def reference(x, p, prefix="", kernel_sizes=(7, 11, 21), branch="strip", fuse="multiply", mix=True):
    """Equations 1 and 2, and VAN's equations for lka."""
    if branch == "lka":
        total = depthwise(depthwise(x, p, prefix + "local.0"), p, prefix + "local.1", dilation=3)
    else:
        a = depthwise(x, p, prefix + "local")
        total = a
        for i in range(len(kernel_sizes)):
            if branch == "strip":
                total = total + depthwise(depthwise(a, p, f"{prefix}branches.{i}.0"), p, f"{prefix}branches.{i}.1")
            else:
                total = total + depthwise(a, p, f"{prefix}branches.{i}")
    att = pointwise(total, p, prefix + "mix") if mix else total
    return att * x if fuse == "multiply" else att + x


@pytest.mark.parametrize(
    ("shape", "knobs"),
    [
        ((2, 8, 8, 8), {}),
        ((2, 8, 5, 7), {}),
        ((2, 8, 24, 23), {"kernel_sizes": (21,)}),
        ((2, 8, 5, 7), {"kernel_sizes": (7, 11), "fuse": "add"}),
        ((2, 8, 9, 6), {"branch": "square", "kernel_sizes": (3, 7)}),
        ((2, 8, 9, 6), {"branch": "lka"}),
        ((2, 8, 5, 7), {"pointwise": False}),
    ],
)
def test_agrees_with_the_equations(shape, knobs):
    msca = randomize(MSCA(8, **knobs)).double()
    x = torch.randn(shape, dtype=torch.float64)
    how = {"mix" if name == "pointwise" else name: value for name, value in knobs.items()}
    torch.testing.assert_close(msca(x), reference(x, msca.state_dict(), **how), rtol=1e-5, atol=1e-5)


def test_strips_run_along_rows_first():
    shapes = [tuple(conv.weight.shape[2:]) for branch in MSCA(8).branches for conv in branch]
    assert shapes == [(1, 7), (7, 1), (1, 11), (11, 1), (1, 21), (21, 1)]


@pytest.mark.parametrize("knobs", [{}, {"kernel_sizes": (7,), "fuse": "add", "expansion": 2}])
def test_block_agrees_with_the_figure(knobs):
    net = randomize(block(8, **knobs)).eval().double()
    p = net.state_dict()
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)

    normed = batch_norm(x, p, "spatial.0")
    gate = {name: value for name, value in knobs.items() if name != "expansion"}
    inside = gelu(pointwise(normed, p, "spatial.1.branch.0"))
    unit = normed + pointwise(reference(inside, p, "spatial.1.branch.2.", **gate), p, "spatial.1.branch.3")
    expected = x + p["spatial.3.gamma"] * unit
    hidden = depthwise(pointwise(batch_norm(expected, p, "channel.0"), p, "channel.1.0"), p, "channel.1.1")
    expected = expected + p["channel.2.gamma"] * pointwise(gelu(hidden), p, "channel.1.3")
    torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("ch", "bare", "unit", "whole"),
    [(16, 2_032, 2_576, 5_440), (32, 4_576, 6_688, 16_512), (64, 11_200, 19_520, 55_552)],
)
def test_parameter_count(ch, bare, unit, whole):
    assert n_params(MSCA(ch)) == bare
    assert n_params(AttentionUnit(ch, MSCA)) == unit
    assert n_params(block(ch)) == whole
    assert n_params(MSCA(ch, branch="lka")) == ch**2 + 77 * ch


@pytest.mark.parametrize("fuse", ["multiply", "add"])
def test_identity_start(fuse):
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(MSCA(16, fuse=fuse, init="identity")(x), x)


@pytest.mark.parametrize(("size", "live"), [(8, 15), (16, 21)])
def test_taps_that_see_padding_only_do_not_learn(size, live):
    msca = MSCA(8)
    msca(torch.randn(2, 8, size, size)).square().sum().backward()
    for conv in msca.branches[2]:
        seen = conv.weight.grad.flatten(1).abs().sum(0) > 0
        assert seen.sum() == live
        assert seen[10 - live // 2 : 10 + live // 2 + 1].all()


@pytest.mark.parametrize(
    "knobs", [{}, {"branch": "square", "fuse": "add"}, {"branch": "lka"}, {"pointwise": False, "kernel_sizes": (7,)}]
)
def test_learns_and_keeps_layout(knobs):
    x = torch.randn(2, 16, 7, 7)
    for make in (lambda: MSCA(16, **knobs), lambda: block(16, layer_scale=1.0, **knobs)):
        assert_learns_and_keeps_layout(make, x, dtype=torch.float64)  # in float32 gates multiply the rounding


def test_identity_start_holds_back_the_kernels_for_one_step():
    assert_every_parameter_learns(MSCA(16, init="identity"), torch.randn(2, 16, 7, 7), exempt=("local", "branches"))


def test_initialization_is_the_authors():
    """N(0, 2 / fan_out) with fan_out per group, biases 0; what fills the attention slot keeps its own start."""
    net = block(64, attention=partial(MSCA, init="identity"))
    unit, mlp = net.spatial[1], net.channel[1]
    for conv, fan_out in [(unit.branch[0], 64), (unit.branch[2].local, 25), (mlp[0], 256), (mlp[1], 9), (mlp[3], 64)]:
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        assert not conv.bias.any()
    x = torch.randn(2, 64, 8, 8)
    assert torch.equal(net.spatial[2](x), x)
    default = MSCAN(init="default")
    layers = default.stem(64, 64, 1), default.downsample(64, 64, 2), block(64, init="default")
    for conv in (module for module in nn.ModuleList(layers).modules() if isinstance(module, nn.Conv2d)):
        assert conv.weight.abs().max() <= conv.weight[0].numel() ** -0.5  # PyTorch draws uniformly


def test_stem_of_large_images_is_vans():
    for stride, kernel_size, size in ((1, 3, 9), (4, 7, 3)):
        stem = MSCAN().stem(3, 16, stride)
        assert [type(layer) for layer in stem] == [nn.Conv2d, nn.BatchNorm2d]
        assert stem[0].kernel_size == (kernel_size, kernel_size)
        assert stem(torch.randn(2, 3, 9, 9)).shape == (2, 16, size, size)


def test_bad_knobs_are_refused():
    with pytest.raises(ValueError, match=r"segnext\.kernel_sizes must be odd"):
        MSCA(16, kernel_sizes=(7, 10))
    with pytest.raises(ValueError, match=r"segnext\.kernel_sizes is set, but segnext\.branch=lka"):
        MSCA(16, kernel_sizes=(7,), branch="lka")
    with pytest.raises(ValueError, match=r"segnext\.init=identity needs the 1x1"):
        MSCA(16, pointwise=False, init="identity")
    with pytest.raises(ValueError, match=r"mscan\.kernel_sizes must be odd"):
        block(16, kernel_sizes=(0,))
    with pytest.raises(ValueError, match=r"mscan\.expansion must be at least 1"):
        MSCAN(expansion=0)


def test_wide_kernels_in_bfloat16_on_a_cpu():
    """With 16 channels of 32x32 pixels in channels-last, oneDNN's own bfloat16 kernel would not return."""
    torch.manual_seed(0)
    msca = MSCA(16).to(memory_format=torch.channels_last)
    x = torch.randn(2, 16, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        out = msca(x)
    out.float().sum().backward()
    torch.testing.assert_close(out.float(), msca(x), rtol=0.1, atol=0.1)
