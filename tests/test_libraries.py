import sys

import pytest
import torch
from torch import nn

from cost import cost, n_params
from models import build, canonical, libraries, settable
from speed import parse_run
from tests.checks import assert_channels_last_agrees, assert_samples_are_independent


def test_torchvisions_network_is_torchvisions():
    from torchvision import models

    torch.manual_seed(0)
    ours = build("torchvision:squeezenet1_1", 7, image_size=48)
    torch.manual_seed(0)
    theirs = models.squeezenet1_1(num_classes=7)
    assert type(ours) is type(theirs) and ours.training
    imgs = torch.randn(2, 3, 48, 48)
    assert torch.equal(ours.eval()(imgs), theirs.eval()(imgs))


def test_numbers_are_the_published_ones():
    """Parameters and billions of MACs as torchvision lists them; transformers and tensor-made regnets among them."""
    from torchvision import models

    for name in ("resnet18", "vit_b_16", "regnet_y_400mf", "swin_t"):
        published = models.get_model_weights(name).DEFAULT.meta
        params, macs = cost(f"torchvision:{name}", 1000, {}, 224)
        assert params == published["num_params"]
        assert macs / 1e9 == pytest.approx(published["_ops"], abs=0.01)


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_whole_network_trains_and_scores(name):
    torch.manual_seed(0)
    net = build(f"torchvision:{name}", 5)
    imgs = torch.randn(4, 3, 32, 32)
    nn.functional.cross_entropy(net(imgs), torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert_channels_last_agrees(net, imgs)
    assert_samples_are_independent(net, imgs)


@pytest.mark.parametrize(("name", "size"), [("googlenet", 32), ("inception_v3", 80)])
def test_training_gives_plain_logits(name, size):
    with torch.device("meta"):
        net = build(f"torchvision:{name}", 5, image_size=size)
        assert net.training
        assert net(torch.empty(2, 3, size, size)).shape == (2, 5)


def test_trying_the_size_leaves_the_network_alone():
    torch.manual_seed(0)
    net = build("torchvision:shufflenet_v2_x0_5", 5)
    after = torch.rand(1)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.num_batches_tracked == 0 and norm.running_mean.abs().sum() == 0 for norm in norms)
    assert all(p.device.type == "cpu" for p in net.parameters())
    from torchvision import models

    torch.manual_seed(0)
    models.shufflenet_v2_x0_5(num_classes=5)
    assert torch.equal(after, torch.rand(1))  # no random number was drawn beside its own


@pytest.mark.parametrize(
    ("arch", "size", "message"),
    [
        ("torchvision:alexnet", 32, r"^torchvision:alexnet cannot be made for images of 32 pixels \(.*too small\)$"),
        ("torchvision:inception_v3", 32, "cannot be made for images of 32 pixels"),
        ("torchvision:vit_b_16", 40, "cannot be made for images of 40 pixels"),
        ("torchvision:maxvit_t", 64, "cannot be made for images of 64 pixels"),
    ],
)
def test_size_that_a_network_is_not_made_for_is_refused_in_one_line(arch, size, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message) as error:
        build(arch, 5, image_size=size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("torchvision:resnet19", r"^torchvision has no classification network 'resnet19': try resnet18"),
        ("torchvision:", "has no classification network ''$"),
        ("torchvision:fcn_resnet50", "no classification network 'fcn_resnet50'"),
        ("torchvision:zzzz", "no classification network 'zzzz'$"),
        ("nosuch:resnet18", "^unknown library 'nosuch': an arch with a colon is torchvision:NAME or timm:NAME"),
        ("eca_torchvision:resnet18", "unknown library 'eca_torchvision': .* takes no method"),
        ("torchvision:eca_resnet18", "no classification network 'eca_resnet18': try "),
    ],
)
def test_illegal_name_is_refused_in_one_line(arch, message):
    for use in (canonical, build):
        with pytest.raises(ValueError, match=message) as error:
            use(arch)
        assert "\n" not in str(error.value)


def test_libraries_networks_have_no_knobs():
    assert settable("torchvision:resnet18") == {}
    with pytest.raises(ValueError, match="torchvision:resnet18 has no such knob, it has none"):
        build("torchvision:resnet18", settings={"resnet.width": 8})


def test_run_specs_keep_the_colon_of_a_library():
    assert parse_run("torchvision:resnet18") == ("torchvision:resnet18", {})
    assert parse_run("eca_resnet:resnet.width=8:eca.kernel_size=3") == (
        "eca_resnet",
        {"eca.kernel_size": 3, "resnet.width": 8},
    )
    with pytest.raises(ValueError, match="has no such knob"):
        parse_run("torchvision:resnet18:resnet.width=8")
    with pytest.raises(ValueError, match="unknown library 'resnet'"):
        parse_run("resnet:width")


def test_missing_timm_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # what an import then raises is ImportError
    with pytest.raises(ValueError, match=r"^timm:NAME needs the package timm: pip install timm$"):
        build("timm:resnet18")


# --------------------------------------------------------------------------------------------------------------- timm


def test_timms_network_is_timms():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    ours = build("timm:vit_tiny_patch16_224", 7, image_size=64)
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=64)
    imgs = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours.eval()(imgs), theirs.eval()(imgs))
    assert cost("timm:vit_tiny_patch16_224", 7, {}, 64)[0] == n_params(theirs)


def test_timms_distilled_network_gives_plain_logits():
    pytest.importorskip("timm")
    with torch.device("meta"):
        assert build("timm:deit_tiny_distilled_patch16_224", 5)(torch.empty(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("timm:resnet19", "^timm has no classification network 'resnet19': try "),
        ("timm:resnet18.nosuch", r"^timm has no classification network 'resnet18.nosuch': try resnet"),
        ("timm:hf-hub:user/name", "^timm has no classification network 'hf-hub:user/name'"),
        ("timm:crossvit_9_240", "cannot be made for images of 32 pixels"),
    ],
)
def test_what_timm_does_not_have_is_refused_in_one_line(arch, message):
    pytest.importorskip("timm")
    with torch.device("meta"), pytest.raises(ValueError, match=message) as error:
        build(arch, 5)
    assert "\n" not in str(error.value)


def test_synchronized_norms_keep_the_activations_inside_them():
    timm = pytest.importorskip("timm")
    net = build("timm:efficientnet_b0", 5, {}, 64)
    inside = [module.act for module in net.modules() if isinstance(module, timm.layers.BatchNormAct2d)]
    made = libraries.synchronized(net, "timm:efficientnet_b0")
    kept = [module.act for module in made.modules() if isinstance(module, timm.layers.SyncBatchNormAct)]
    assert inside and all(a is b for a, b in zip(inside, kept, strict=True))
    plain = libraries.synchronized(build("resnet", 5, {"resnet.depth": 8}, 16), "resnet")
    assert any(isinstance(module, nn.SyncBatchNorm) for module in plain.modules())
