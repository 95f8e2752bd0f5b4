import pytest
import torch

from models.convnext import ConvNeXt
from models.prenorm import ChannelNorm
from models.resnet import BasicBlock, Layout, Place, StagedNet
from tests.checks import assert_learns_and_keeps_layout, n_params, no_attention, randomize
from tests.test_hornet import depthwise


class Tiny(StagedNet):
    default_shortcut = "B"


def block(ch, **knobs):
    return ConvNeXt(**knobs).block(ch, Place(1, 0, 8), no_attention, 0.0)


def reference(x, p, norm="layer", act="gelu"):
    """Figure 4 with plain loops over taps and pixels; p: the block's parameters by the order of their layers.

    norm: "layer", or the running (mean, variance) of a batch norm.
    """
    (dw, dw_bias), (scale, shift), (w1, b1), (w2, b2), gamma = p
    out = depthwise(x, dw) + dw_bias.view(1, -1, 1, 1)
    result = x.clone()
    for b in range(len(x)):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
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


@pytest.mark.parametrize(
    "knobs", [{}, {"norm": "batch", "act": "relu", "kernel_size": 3}, {"init": "trunc", "expansion": 2}]
)
def test_learns_and_keeps_layout(knobs):
    x = torch.randn(2, 16, 7, 7)
    shifts_before_a_batch_norm = ["branch.0.bias"] if "norm" in knobs else []
    assert_learns_and_keeps_layout(lambda: block(16, **knobs), x, exempt=shifts_before_a_batch_norm)


@pytest.mark.parametrize(("norm", "kind"), [("layer", ChannelNorm), ("batch", torch.nn.BatchNorm2d)])
def test_norm_is_that_of_stem_and_downsampling_too(norm, kind):
    net = ConvNeXt(norm=norm)
    block = net.block(8, Place(1, 0, 8), no_attention, 0.0)
    norms = [net.stem(3, 8, 1)[1], net.stem(3, 8, 4)[1], net.downsample(8, 16, 2)[0], block.branch[1]]
    assert [type(layer) for layer in norms] == [kind] * 4


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
    assert block(64).branch[2].weight.std() > 0.05  # by default PyTorch's
