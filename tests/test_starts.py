"""The weights that convolutions start with: N(0, 2 / fan), so that maps keep their size from layer to layer."""

import pytest
import torch
from torch import nn

from models.convnext import ConvNeXt
from models.ghostnet import GhostConv
from models.googlenet import conv
from models.hornet import HorNet
from models.lsknet import LSKBlocks
from models.multiscale import MultiScaleConv
from models.resnet import ConvBN
from models.segnext import MSCAN
from models.vgg import VGG


def third_of_vgg():
    return [layer for layer in VGG(10, 32).features if isinstance(layer, nn.Conv2d)][2]


@pytest.mark.parametrize(
    ("make", "fan"),
    [
        (lambda: ConvBN(64, 128)[0], 9 * 128),
        (lambda: ConvBN(64, 256, kernel_size=1)[0], 256),
        (third_of_vgg, 9 * 128),
        (lambda: conv(64, 192, 3)[0], 9 * 192),
        (lambda: GhostConv(8, 4096, 1, True).primary[0], 9 * 2048),
        (lambda: GhostConv(8, 4096, 1, True).ghost[0], 9),
        (lambda: MultiScaleConv(32, 128, 1, True)[0].convs[0], 9 * 32),
        (lambda: MultiScaleConv(32, 128, 1, True)[0].convs[1], 25 * 32),
        *(
            (make, fan)
            for family in (MSCAN, LSKBlocks)
            for make, fan in (
                (lambda family=family: family().stem(64, 128, 1)[0], 9 * 128),
                (lambda family=family: family().stem(64, 128, 4)[0], 49 * 128),
                (lambda family=family: family().downsample(64, 128, 2)[0], 9 * 128),
            )
        ),
    ],
)
def test_variance_is_two_by_the_fan(make, fan):
    torch.manual_seed(0)
    layer = make()
    assert layer.weight.numel() > 10_000  # enough for a few per cent
    assert layer.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.05)
    assert layer.weight.mean().item() == pytest.approx(0, abs=0.05 * (2 / fan) ** 0.5)


@pytest.mark.parametrize("family", [ConvNeXt, HorNet])
def test_trunc_draws_stem_and_downsampling_too(family):
    torch.manual_seed(0)
    net = family(init="trunc")
    for layer in (net.stem(3, 64, 1)[0], net.stem(3, 64, 4)[0], net.downsample(32, 64, 2)[1]):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not layer.bias.any()
