"""models/prenorm.py: what its families of blocks have in common, tried with each of them."""

import pytest
import torch
from torch import nn

from models import build
from models.coatnet import CoAtNet
from models.convnext import ConvNeXt
from models.gmlp import GMLP, GMLPBlock
from models.hornet import HorNet
from models.lsknet import LSKBlocks
from models.mixer import Mixer, MixerBlock
from models.prenorm import ChannelNorm, LayerScale
from models.resnet import BasicBlock, DropPath, Place, ResNet
from models.segnext import MSCAN
from tests.checks import Silence, no_attention, plain_block


def block(family, size, attention=no_attention, drop_path=0.0):
    """One that keeps the shape, of 16 channels in stage 3."""
    return family(16, 16, 1, Place(3, 1, size), plain_block, attention, drop_path)


def test_channel_norm_is_per_pixel():
    out = ChannelNorm(16)(5 * torch.randn(2, 16, 4, 4) + 3)
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 4, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.var(1, unbiased=False), torch.ones(2, 4, 4), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("family", "second", "n_branches", "scale"),
    [
        (GMLP(), None, 1, None),
        (ConvNeXt(), None, 1, 1.0),
        (Mixer(), "mix_channels", 2, None),
        (HorNet(), "channel", 2, 1.0),
        (MSCAN(), "channel", 2, 1e-2),
        (LSKBlocks(), "channel", 2, 1e-2),
    ],
)
def test_attention_is_on_the_spatial_branch_and_each_branch_is_scaled_and_dropped(family, second, n_branches, scale):
    net = block(family, 4, Silence, drop_path=0.2)
    assert [module.rate for module in net.modules() if isinstance(module, DropPath)] == [0.2] * n_branches
    scales = [module.gamma for module in net.modules() if isinstance(module, LayerScale)]
    assert len(scales) == (n_branches if scale else 0) and all((gamma == scale).all() for gamma in scales)
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(net.eval()(x), x + getattr(net, second)(x) if second else x)


DOWNSAMPLING = [
    make(downsample=how) for make in (ConvNeXt, HorNet, MSCAN, LSKBlocks, CoAtNet) for how in ("native", "resnet")
]


@pytest.mark.parametrize("family", [GMLP(), Mixer(), *DOWNSAMPLING])
def test_drop_path_rises_over_all_blocks(family):
    """Those that downsample and the ResNet's own, too."""
    with torch.device("meta"):
        net = ResNet(5, 8, block=family, depth=14, drop_path=0.5)
    rates = {module.rate for module in net.modules() if isinstance(module, DropPath)}
    assert sorted(rates) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize(
    ("family", "layers"),
    [
        (ConvNeXt, [ChannelNorm, nn.Conv2d]),
        (HorNet, [ChannelNorm, nn.Conv2d]),
        (MSCAN, [nn.Conv2d, nn.BatchNorm2d]),
        (LSKBlocks, [nn.Conv2d, nn.BatchNorm2d]),
    ],
)
def test_downsampling_native_or_the_resnets(family, layers):
    place, rest = Place(2, 0, 8), (plain_block, no_attention, 0.0)
    native = family()(16, 32, 2, place, *rest)
    assert native(torch.randn(2, 16, 8, 8)).shape == (2, 32, 4, 4)
    assert [type(layer) for layer in native[0]] == layers
    assert isinstance(family(downsample="resnet")(16, 32, 2, place, *rest), BasicBlock)
    assert not isinstance(family(downsample="resnet")(16, 16, 1, place, *rest), BasicBlock)


@pytest.mark.parametrize("family", [ConvNeXt, HorNet])
def test_starts_as_the_identity_at_the_papers_layer_scale(family):
    x = torch.randn(2, 16, 8, 8)
    assert (block(family(layer_scale=1e-6), 8)(x) - x).abs().max() < 1e-5
    assert (block(family(), 8)(x) - x).abs().max() > 1e-3


@pytest.mark.parametrize("family", [GMLP(spatial_std=0.1), Mixer(), CoAtNet(layout="CCT"), HorNet(gate="gf")])
def test_autocast(family):
    net, x = block(family, 8).eval(), torch.randn(2, 16, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
    torch.testing.assert_close(out.float(), net(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("family", [GMLP(), Mixer(), CoAtNet(layout="CCT")])
@pytest.mark.parametrize(("size", "shape"), [(4, (2, 8)), (4, (5, 5)), (1, (2, 2))])
def test_other_map_sizes_are_refused(family, size, shape):
    net = block(family, size)
    message = rf"^{type(family).__name__.lower()}\b.* for maps of {size}x{size} pixels, got {shape[0]}x{shape[1]}"
    with pytest.raises(ValueError, match=message):
        net(torch.randn(2, 16, *shape))


@pytest.mark.parametrize(("family", "kind"), [(GMLP, GMLPBlock), (Mixer, MixerBlock)])
@pytest.mark.parametrize(
    ("knobs", "replaced"),
    [
        ({}, {(3, 1), (3, 2)}),
        ({"first_block": 2}, {(3, 2)}),
        ({"stages": (2, 3)}, {(2, 1), (2, 2), (3, 1), (3, 2)}),
        ({"stages": (1,)}, {(1, 0), (1, 1), (1, 2)}),
    ],
)
def test_blocks_stand_where_the_knobs_say(family, kind, knobs, replaced):
    net = ResNet(10, 15, block=family(**knobs))  # maps of 15, 8 and 4 pixels
    found = {(s, i): type(block) for s, stage in enumerate(net.stages, 1) for i, block in enumerate(stage)}
    assert found == {at: kind if at in replaced else BasicBlock for at in found} and len(found) == 9
    assert net(torch.randn(2, 3, 15, 15)).shape == (2, 10)


@pytest.mark.parametrize("family", [GMLP, Mixer])
@pytest.mark.parametrize("stages", [(0,), (3, 3), (3, 5)])
def test_stages_that_are_not_there_are_refused(family, stages):
    message = rf"{family.__name__.lower()}\.stages must be distinct numbers from 1 to 4, got \({stages[0]},"
    with pytest.raises(ValueError, match=message):
        family(stages=stages)


def test_block_that_widens_stays_the_resnets():
    """Though it has no stride: the first bottleneck, from 8 to 32 channels."""
    net = build("mixer_resnet50", 7, {"resnet.width": 8, "mixer.stages": (1,)}, 16)
    assert net(torch.randn(2, 3, 16, 16)).shape == (2, 7)
