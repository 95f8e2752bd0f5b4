import math
from functools import partial

import pytest
import torch
from torch import nn

from models.resnest import ResNeStConv, SplitAttention
from models.resnet import BasicBlock, ConvBN, ImageNetResNet, ResNet
from tests.checks import assert_learns_and_keeps_layout, n_params, randomize
from tests.test_ghostnet import filtered, normed
from tests.test_multiscale import averaged


def reference(x, split, R, K, stride):
    """Section 3.1 for one cardinal group, split and channel at a time; parameters of `split` by the order of its layers."""
    conv, conv_norm, _ = split.splits
    squeeze, squeeze_norm, _, excite = split.gate
    inputs = x.chunk(R * K, dim=1)  # those of split 0 come first, in it those of cardinal group 0
    C = conv.out_channels // R
    width, inner = C // K, squeeze.out_channels // K
    out = [None] * C
    for k in range(K):
        U = []
        for r in range(R):
            channels = [r * C + k * width + c for c in range(width)]
            maps = [
                normed(filtered(inputs[r * K + k].unbind(1), conv.weight[c], stride), conv_norm, c) for c in channels
            ]
            U.append([one.clamp(min=0) for one in maps])
        s = [sum(U[r][c] for r in range(R)).mean((1, 2)) for c in range(width)]
        z = []
        for i in range(k * inner, (k + 1) * inner):
            value = squeeze.bias[i] + sum(squeeze.weight[i, c, 0, 0] * s[c] for c in range(width))
            z.append(normed(value, squeeze_norm, i).clamp(min=0))
        for c in range(width):
            rows = [k * R * width + r * width + c for r in range(R)]
            logits = [excite.bias[i] + sum(excite.weight[i, j, 0, 0] * z[j] for j in range(inner)) for i in rows]
            exps = [logit.exp() for logit in logits]
            a = [e / sum(exps) for e in exps] if R > 1 else [1 / (1 + (-logits[0]).exp())]
            out[k * width + c] = sum(a[r].view(-1, 1, 1) * U[r][c] for r in range(R))
    return torch.stack(out, dim=1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("radix", "cardinality"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2), (2, 4)])
def test_agrees_with_the_equations(radix, cardinality, stride):
    split = randomize(SplitAttention(8, 12, stride, radix, cardinality)).eval()
    x = torch.randn(2, 8, 5, 6)
    expected = reference(x, split, radix, cardinality, stride)
    assert expected.shape == (2, 12, math.ceil(5 / stride), 6 // stride)
    torch.testing.assert_close(split(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("avd", ["none", "before", "after"])
def test_pooling_carries_the_stride(avd):
    conv = randomize(ResNeStConv(8, 12, 2, True, cardinality=2, avd=avd)).eval()
    split = next(module for module in conv if isinstance(module, SplitAttention))
    x = torch.randn(2, 8, 7, 6)
    if avd == "none":
        expected = reference(x, split, 2, 2, 2)
    elif avd == "before":
        expected = reference(averaged(x, 2), split, 2, 2, 1)
    else:
        expected = averaged(reference(x, split, 2, 2, 1), 2)
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)


def test_nothing_pools_without_a_stride():
    for avd in ("before", "after"):
        assert [type(module) for module in ResNeStConv(8, 8, 1, True, avd=avd)] == [SplitAttention]


def test_radix_0_is_the_plain_convolution():
    """The paper's control. With one group it is ConvBN, with two it is one convolution on each half."""
    x = torch.randn(2, 8, 7, 6)
    for relu, position in ((True, "conv1"), (False, "both")):
        plain = randomize(ConvBN(8, 12, 2, relu)).eval()
        control = ResNeStConv(8, 12, 2, relu, radix=0, avd="none", position=position).eval()
        control[0].load_state_dict(plain.state_dict())
        assert torch.equal(control(x), plain(x))

    control = randomize(ResNeStConv(8, 12, 1, True, radix=0, cardinality=2)).eval()
    conv, norm, _ = control[0]
    halves = x.chunk(2, dim=1)
    expected = [normed(filtered(halves[c // 6].unbind(1), conv.weight[c], 1), norm, c).clamp(min=0) for c in range(12)]
    torch.testing.assert_close(control(x), torch.stack(expected, dim=1), rtol=1e-5, atol=1e-5)
    assert [type(module) for module in ResNeStConv(8, 8, 2, True, radix=0)] == [ConvBN, nn.AvgPool2d]
    plain = [ResNeStConv(8, 8, stride, True, radix=0, cardinality=K).is_plain for stride, K in ((1, 1), (1, 2), (2, 1))]
    assert plain == [True, False, False]  # groups and pooling are the method's


@pytest.mark.parametrize(
    ("radix", "cardinality", "counts"),
    [(2, 1, (4_032, 12_576, 43_488)), (4, 1, (5_152, 14_816, 58_304)), (2, 2, (2_112, 6_432, 21_984))],
)
def test_parameter_count(radix, cardinality, counts):
    convs = [ResNeStConv(ch, ch, 1, True, radix=radix, cardinality=cardinality) for ch in (16, 32, 64)]
    assert tuple(n_params(conv) for conv in convs) == counts


def test_whole_network_is_the_papers():
    """ResNeSt-50 for ImageNet, whose stem is three 3x3 convolutions in place of a 7x7."""
    with torch.device("meta"):
        net = ImageNetResNet(1000, 224, conv=ResNeStConv, depth=50)
        net.stem = nn.Sequential(ConvBN(3, 32, 2), ConvBN(32, 32), ConvBN(32, 64))
    assert n_params(net) == 27_483_240


def test_the_convolution_costs_the_same_for_every_radix():
    for cardinality in (1, 2):
        splits = [SplitAttention(16, 32, 1, radix, cardinality).splits[0] for radix in (1, 2, 4)]
        assert [n_params(conv) for conv in splits] == [9 * 16 * 32 // cardinality] * 3


@pytest.mark.parametrize("cardinality", [1, 2, 4])
@pytest.mark.parametrize("radix", [2, 4])
def test_weights_sum_to_one_over_splits(radix, cardinality):
    """With every split at 1 the output is the sum of the weights."""
    split = randomize(SplitAttention(16, 16, 1, radix, cardinality)).eval()
    nn.init.zeros_(split.splits[1].weight)
    nn.init.ones_(split.splits[1].bias)
    torch.testing.assert_close(split(torch.randn(3, 16, 5, 5)), torch.ones(3, 16, 5, 5))


def test_radix_1_is_a_sigmoid_gate():
    split = randomize(SplitAttention(8, 8, 1, 1, 1)).eval()
    x = torch.randn(2, 8, 5, 5)
    U = split.splits(x)
    assert (split(x) <= U).all()
    nn.init.zeros_(split.gate[3].weight)
    nn.init.zeros_(split.gate[3].bias)
    assert torch.equal(split(x), U / 2)


def test_each_split_sees_its_own_inputs():
    """With all weight on split 0 the second half of the input channels reaches the output through no path."""
    split = randomize(SplitAttention(8, 8, 1, 2, 1)).eval()
    with torch.no_grad():
        split.gate[3].weight.zero_()
        split.gate[3].bias[:8], split.gate[3].bias[8:] = 100.0, -100.0
    x, other = torch.randn(2, 8, 5, 5), torch.randn(2, 4, 5, 5)
    assert torch.equal(split(x), split(torch.cat([x[:, :4], other], dim=1)))
    assert not torch.equal(split(x), split(torch.cat([other, x[:, 4:]], dim=1)))


@pytest.mark.parametrize(
    ("position", "kinds"),
    [
        ("conv1", (SplitAttention, ConvBN)),
        ("conv2", (ConvBN, SplitAttention)),
        ("both", (SplitAttention, SplitAttention)),
    ],
)
def test_position_in_the_block(position, kinds):
    net = ResNet(10, 16, conv=partial(ResNeStConv, position=position), depth=8)
    for block in (module for module in net.modules() if isinstance(module, BasicBlock)):
        conv1, conv2 = (module for module in block.branch if isinstance(module, ResNeStConv))
        assert (type(conv1[0]), type(conv2[0])) == kinds
    assert net(torch.randn(2, 3, 17, 17)).shape == (2, 10)


def test_output_is_never_negative():
    """Why the branch must not end in it."""
    for radix in (1, 2, 4):
        assert randomize(SplitAttention(8, 8, 1, radix, 1)).eval()(torch.randn(4, 8, 5, 5)).min() >= 0


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"radix": 0},
        {"radix": 1},
        {"radix": 4, "cardinality": 2, "avd": "before"},
        {"cardinality": 4, "avd": "none"},
    ],
)
def test_learns_and_keeps_layout(knobs):
    x = torch.randn(8, 16, 7, 7)
    # the batch norm after it takes the gate's first bias away again
    assert_learns_and_keeps_layout(lambda: ResNeStConv(16, 32, 2, True, **knobs), x, exempt=["gate.0.bias"])


def test_output_is_channels_last_and_stays_in_half_precision():
    x = torch.randn(2, 16, 7, 7).contiguous(memory_format=torch.channels_last)
    split = SplitAttention(16, 16, 1, 2, 1).to(memory_format=torch.channels_last)
    split.gate.register_forward_hook(lambda module, args, logits: logits.float())  # as a GPU's autocast does to softmax
    with torch.autocast("cpu", torch.bfloat16):
        out = split(x)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_one_image_cannot_be_trained_on():
    x = torch.randn(1, 8, 5, 5)
    conv = ResNeStConv(8, 8, 1, True)
    with pytest.raises(ValueError, match="more than 1 value"):
        conv(x)
    assert conv.eval()(x).shape == (1, 8, 5, 5)
    assert ResNeStConv(8, 8, 1, True, radix=0)(x).shape == (1, 8, 5, 5)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"radix": -1}, r"resnest\.radix must be at least 0 .* got -1 and 1$"),
        ({"cardinality": 0}, r"resnest\.cardinality at least 1, got 2 and 0$"),
        ({"radix": 5}, r"resnest\.radix x resnest\.cardinality \(5\) must divide the 16 channels"),
        ({"radix": 4, "cardinality": 8}, r"resnest\.radix x resnest\.cardinality \(32\) must divide the 16 channels"),
        ({"radix": 0, "cardinality": 3}, r"resnest\.radix x resnest\.cardinality \(3\) must divide the 16 channels"),
        ({"position": "conv2", "avd": "before"}, r"resnest\.avd=before has no effect with"),
    ],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        ResNet(10, 32, conv=partial(ResNeStConv, **knobs))


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"resnest\.cardinality \(4\) the 18 that leave$"):
        ResNeStConv(16, 18, 1, True, radix=1, cardinality=4)
    with pytest.raises(ValueError, match=r"resnest\.cardinality must divide the 32 channels of the gate, got 3$"):
        ResNeStConv(24, 24, 1, True, cardinality=3)
