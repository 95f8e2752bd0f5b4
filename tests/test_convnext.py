import pytest
import torch
import torch.nn.functional as F

from models.convnext import ConvNeXt
from models.prenorm import ChannelNorm
from models.resnet import BasicBlock, DropPath, Layout, Place, StagedNet
from tests.checks import (
    assert_channels_last_agrees,
    assert_every_parameter_learns,
    assert_samples_are_independent,
    n_params,
    no_attention,
    plain_block,
    randomize,
)


class Tiny(StagedNet):
    default_shortcut = "B"


def block(ch, **knobs):
    return ConvNeXt(**knobs).block(ch, Place(1, 0, 8), no_attention, 0.0)


def reference(x, p, norm="layer", act="gelu"):
    """Figure 4 with plain loops over taps and pixels; p: the block's parameters by the order of their layers.

    norm: "layer", or the running (mean, variance) of a batch norm.
    """
    (dw, dw_bias), (scale, shift), (w1, b1), (w2, b2), gamma = p
    k = dw.shape[-1]
    padded = F.pad(x, [k // 2] * 4)
    H, W = x.shape[2:]
    out = dw_bias.view(1, -1, 1, 1) + sum(
        dw[:, 0, i, j].view(1, -1, 1, 1) * padded[:, :, i : i + H, j : j + W] for i in range(k) for j in range(k)
    )
    result = x.clone()
    for b in range(len(x)):
        for i in range(H):
            for j in range(W):
                v = out[b, :, i, j]
                mean, var, eps = (v.mean(), v.var(unbiased=False), 1e-6) if norm == "layer" else (*norm, 1e-5)
                v = (v - mean) / (var + eps).sqrt() * scale + shift
                v = w1[:, :, 0, 0] @ v + b1
                v = 0.5 * v * (1 + torch.erf(v / 2**0.5)) if act == "gelu" else v.clamp(min=0)
                result[b, :, i, j] += gamma.flatten() * (w2[:, :, 0, 0] @ v + b2)
    return result


@pytest.mark.parametrize(
    "knobs",
    [{}, {"kernel_size": 3}, {"norm": "batch"}, {"act": "relu"}, {"expansion": 2}, {"layer_scale": 0}],
)
def test_agrees_with_the_equations(knobs):
    net = randomize(block(8, **knobs)).eval()
    layers = [net.branch[i] for i in (0, 1, 2, 4)]
    gamma = net.branch[6].gamma if knobs.get("layer_scale", 1) else torch.ones(8)
    p = [(layer.weight, layer.bias) for layer in layers] + [gamma]
    norm = (layers[1].running_mean, layers[1].running_var) if knobs.get("norm") == "batch" else "layer"
    x = torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(net(x), reference(x, p, norm, knobs.get("act", "gelu")), rtol=1e-5, atol=1e-5)


def test_whole_network_is_the_papers():
    """ConvNeXt-T for ImageNet: depths and widths of the paper's section 3.1, on the stem and head of large images."""
    layout = Layout(96, 4, BasicBlock, (3, 3, 9, 3), (96, 192, 384, 768))
    with torch.device("meta"):
        net = Tiny(1000, 224, layout, "B", "before-add", 0.0, block=ConvNeXt())
    assert n_params(net) == 28_589_128


@pytest.mark.parametrize(("ch", "count"), [(16, 2_976), (32, 10_048), (64, 36_480)])
def test_parameter_count(ch, count):
    assert n_params(block(ch)) == count


def test_starts_as_the_identity_at_the_papers_layer_scale():
    x = torch.randn(2, 16, 8, 8)
    assert (block(16, layer_scale=1e-6)(x) - x).abs().max() < 1e-5
    assert (block(16)(x) - x).abs().max() > 1e-3


def test_the_branch_is_dropped():
    net = ConvNeXt().block(16, Place(1, 0, 8), no_attention, 0.25)
    assert [module.rate for module in net.modules() if isinstance(module, DropPath)] == [0.25]


def test_channel_norm_is_per_pixel():
    out = ChannelNorm(16)(5 * torch.randn(2, 16, 4, 4) + 3)
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 4, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.var(1, unbiased=False), torch.ones(2, 4, 4), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "knobs", [{}, {"norm": "batch", "act": "relu", "kernel_size": 3}, {"init": "trunc", "expansion": 2}]
)
def test_learns_and_keeps_layout(knobs):
    x = torch.randn(2, 16, 7, 7)
    shifts_before_a_batch_norm = ["branch.0.bias"] if "norm" in knobs else []
    assert_every_parameter_learns(block(16, **knobs), x, shifts_before_a_batch_norm)
    assert_channels_last_agrees(block(16, **knobs), x)
    assert_samples_are_independent(block(16, **knobs), x)


def test_downsampling_native_or_the_resnets():
    x = torch.randn(2, 16, 8, 8)
    place = Place(2, 0, 8)
    native = ConvNeXt()(16, 32, 2, place, plain_block, no_attention, 0.0)
    assert native(x).shape == (2, 32, 4, 4)
    kinds = [type(layer) for layer in native[0]]
    assert kinds == [ChannelNorm, torch.nn.Conv2d]  # the norm stands before the convolution
    assert isinstance(ConvNeXt(downsample="resnet")(16, 32, 2, place, plain_block, no_attention, 0.0), BasicBlock)


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match=r"convnext\.kernel_size must be odd"):
        ConvNeXt(kernel_size=4)


def test_a_block_without_hidden_channels_is_refused():
    with pytest.raises(ValueError, match=r"convnext\.expansion must be at least 1, got 0"):
        ConvNeXt(expansion=0)


def test_start_of_the_weights_leaves_the_attention_slot_alone():
    net = ConvNeXt(init="trunc").block(64, Place(1, 0, 8), lambda ch: torch.nn.Conv2d(ch, ch, 1, bias=False), 0.0)
    own, slot = net.branch[2].weight, net.branch[5].weight
    assert 0.015 < own.std() < 0.022
    assert slot.std() > 0.05
