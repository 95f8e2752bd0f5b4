"""ResNets as backbones of torchvision's detectors."""

from collections import OrderedDict

import pytest
import torch
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.feature_extraction import create_feature_extractor

from models import build
from tests.nets import SMALL

NETS = [(arch, settings) for arch, settings in SMALL if "resnet" in arch]


@pytest.mark.parametrize(("arch", "settings"), NETS)
def test_maps_of_all_stages(arch, settings):
    net, imgs = build(arch, 7, settings).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        maps = net.stage_maps(imgs)
        assert [m.shape[2] for m in maps] == [32 // 2**i for i in range(len(net.stages))]
        assert torch.equal(maps[-1], net.forward_features(imgs))
        extracted = create_feature_extractor(net, {f"stages.{i}": str(i) for i in range(len(net.stages))})(imgs)
        for i, expected in enumerate(maps):
            assert torch.equal(extracted[str(i)], expected)


def test_a_feature_pyramid_stands_on_the_stages():
    net, imgs = build("eca_hornet_resnet", 7, dict(SMALL)["hornet_resnet"]), torch.randn(2, 3, 32, 32)
    stages = {f"stage{i}": stage for i, stage in enumerate(net.stages)}
    body = torch.nn.Sequential(OrderedDict(stem=net.stem, **stages))
    channels = [m.shape[1] for m in net.stage_maps(imgs)]
    pyramid = BackboneWithFPN(body, {name: name for name in stages}, channels, 24)(imgs)
    assert [tuple(m.shape[1:]) for m in pyramid.values()] == [(24, 32, 32), (24, 16, 16), (24, 8, 8), (24, 4, 4)]
