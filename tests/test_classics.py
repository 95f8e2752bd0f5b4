"""linear, lenet, alexnet, vgg and googlenet, against their layers written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.alexnet import AlexNet
from models.googlenet import INCEPTIONS, GoogLeNet, Inception
from models.lenet import LeNet
from models.vgg import VGG
from tests.checks import n_params, randomize


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: LeNet(10, 32), 62_006),
        (lambda: VGG(100, 32, depth=16, head="mlp"), 34_015_396),
        (lambda: VGG(100, 32, depth=19, head="mlp"), 39_327_652),
    ],
)
def test_parameter_count(make, count):
    with torch.device("meta"):
        assert n_params(make()) == count


def weights_of(net):
    return [(m.weight, m.bias) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def test_lenet_agrees_with_its_figure():
    net = LeNet(10, 32).eval()
    conv1, conv2, full1, full2, full3 = weights_of(net)
    x = torch.randn(2, 3, 32, 32)
    out = F.max_pool2d(F.conv2d(x, *conv1).relu(), 2)
    assert out.shape == (2, 6, 14, 14)
    out = F.max_pool2d(F.conv2d(out, *conv2).relu(), 2)
    assert out.shape == (2, 16, 5, 5)
    out = F.linear(F.linear(out.flatten(1), *full1).relu(), *full2).relu()
    torch.testing.assert_close(net(x), F.linear(out, *full3))


@pytest.mark.parametrize(("size", "left"), [(32, 1), (224, 7)])
def test_alexnet_agrees_with_its_layers(size, left):
    net = AlexNet(10, size).eval()
    conv1, conv2, conv3, conv4, conv5, full = weights_of(net)
    x = torch.randn(1, 3, size, size)
    out = F.max_pool2d(F.conv2d(x, *conv1, stride=4, padding=5).relu(), 2)
    out = F.max_pool2d(F.conv2d(out, *conv2, padding=2).relu(), 2)
    for conv in (conv3, conv4, conv5):
        out = F.conv2d(out, *conv, padding=1).relu()
    out = F.max_pool2d(out, 2)
    assert out.shape == (1, 256, left, left)
    torch.testing.assert_close(net(x), F.linear(out.mean((2, 3)), *full), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("depth", "convs"), [(16, [2, 2, 3, 3, 3]), (19, [2, 2, 4, 4, 4])])
def test_vgg_has_the_layers_of_its_table(depth, convs):
    with torch.device("meta"):
        net = VGG(10, 32, depth=depth, head="mlp")
        out = net.features(torch.empty(1, 3, 32, 32))
    widths = [layer.out_channels for layer in net.features if isinstance(layer, nn.Conv2d)]
    expected = [ch for ch, n in zip([64, 128, 256, 512, 512], convs, strict=True) for _ in range(n)]
    assert widths == expected and out.shape == (1, 512, 1, 1)
    assert len(weights_of(net)) == depth
    kinds = [type(layer) for layer in net.features]
    conv = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds == [kind for n in convs for kind in [*conv * n, nn.MaxPool2d]]


def conv_norm_relu(x, layers):
    conv, norm, _ = layers
    out = F.conv2d(x, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2)
    return F.batch_norm(out, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()


def test_inception_agrees_with_its_figure():
    module = randomize(Inception(4, 2, 3, 3, 4, 4, 5)).eval()
    x = torch.randn(2, 4, 9, 9)
    expected = [conv_norm_relu(x, module.branch1), x, x, conv_norm_relu(F.max_pool2d(x, 3, 1, 1), module.pool[1])]
    for i, branch in ((1, module.branch3), (2, module.branch5)):
        for layers in branch:
            expected[i] = conv_norm_relu(expected[i], layers)
    torch.testing.assert_close(module(x), torch.cat(expected, dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_vggs_heads(head):
    net = VGG(10, 32, head=head).eval()
    x = torch.randn(2, 3, 64, 64)
    out = net.features(x).mean((2, 3))
    *hidden, last = [layer for layer in weights_of(net) if layer[0].ndim == 2]
    for layer in hidden:
        out = F.linear(out, *layer).relu()
    assert len(hidden) == (2 if head == "mlp" else 0)
    torch.testing.assert_close(net(x), F.linear(out, *last), rtol=1e-4, atol=1e-5)


def test_inception_sees_four_scales():
    """A changed pixel reaches 1, 3, 5 and 3 rows of the four parts of the output."""
    module = randomize(Inception(4, 2, 3, 3, 4, 4, 5)).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.abs_()  # nothing is cut off by a ReLU
    x = torch.rand(1, 4, 9, 9)
    changed = x.clone()
    changed[:, :, 4, 4] += 10
    rows = ((module(x) != module(changed)).any(0).any(2)).split([2, 3, 4, 5])
    assert [part.any(0).sum().item() for part in rows] == [1, 3, 5, 3]


def test_googlenet_has_nine_modules_and_its_channels():
    with torch.device("meta"):
        net = GoogLeNet(10, 32)
        out = net.features(torch.empty(1, 3, 32, 32))
    assert out.shape == (1, 1024, 4, 4)
    assert sum(channels is not None for channels in INCEPTIONS) == 9
    assert [m.out_features for m in net.modules() if isinstance(m, nn.Linear)] == [10]
    pools = [m for m in net.features if not isinstance(m, (nn.Sequential, Inception))]
    assert [(type(m), m.kernel_size, m.stride) for m in pools] == [(nn.MaxPool2d, 3, 2)] * 3  # Table 1's 3x3/2


def test_googlenets_dropout_is_a_knob():
    with pytest.raises(ValueError, match=r"googlenet\.dropout must be in \[0, 1\), got 1\.0$"):
        GoogLeNet(10, 32, dropout=1.0)


def test_vgg_of_another_depth_is_refused():
    with pytest.raises(ValueError, match=r"vgg\.depth must be 16 or 19, got 11$"):
        VGG(10, 32, depth=11)


def test_vggs_wide_head_drops_half_of_each_hidden_layer():
    with torch.device("meta"):
        hidden = VGG(10, 32, head="mlp").hidden
    assert [type(layer) for layer in hidden] == 2 * [nn.Linear, nn.ReLU, nn.Dropout]
    assert [layer.p for layer in hidden if isinstance(layer, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize(("knobs", "rate"), [({}, 0.4), ({"dropout": 0.25}, 0.25)])
def test_googlenet_drops_features_in_training_alone(knobs, rate):
    with torch.device("meta"):
        net = GoogLeNet(10, 32, **knobs)
    net.features = net.fc = nn.Identity()  # so that its output is what the classifier would see
    x = torch.ones(64, 1024, 2, 2)
    dropped = net.train()(x) == 0
    assert dropped.float().mean().item() == pytest.approx(rate, abs=0.01)  # five standard deviations
    assert torch.equal(net.eval()(x), torch.ones(64, 1024))
