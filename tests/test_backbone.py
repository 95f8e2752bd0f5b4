"""ResNets as backbones of torchvision's detectors."""

import pytest
import torch
from torchvision.models.feature_extraction import create_feature_extractor

import hub
from models import build
from tests.nets import SMALL
from tests.processes import ROOT

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


def test_the_documented_backbone_runs(tmp_path):
    """docs/use.md, as it stands there, on a saved network."""
    model = hub.Classifier("eca_hornet_resnet", ["a", "b"], dict(SMALL)["hornet_resnet"], 32, [120.0] * 3, [60.0] * 3)
    model.save_pretrained(tmp_path)
    code = (ROOT / "docs" / "use.md").read_text().split("```python\n")[2].split("```")[0]
    names = {}
    exec(code.replace('"RUN"', repr(str(tmp_path))), names)
    assert [tuple(m.shape[1:]) for m in names["maps"].values()] == [
        (64, 128, 128),
        (64, 64, 64),
        (64, 32, 32),
        (64, 16, 16),
    ]
