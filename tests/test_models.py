"""Names and whole networks of models/__init__.py, and their costs; each method has a test file of its own."""

import itertools
import re

import pytest
import torch
from torch import nn

from cost import cost, layer_table, n_params
from describe import meanings, summary
from models import (
    BACKBONES,
    METHODS,
    build,
    canonical,
    did_you_mean,
    knobs,
    parse_arch,
)
from models.prenorm import ReplacingFamily
from tests.checks import assert_channels_last_agrees, assert_samples_are_independent
from tests.processes import ROOT


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_documented_and_tested(method):
    make = METHODS[method].make
    file = ROOT / "tests" / f"test_{make.__module__.split('.')[-1]}.py"
    assert f"| `{method}` |" in (ROOT / "README.md").read_text(), "give it a row in README.md"
    assert set(knobs(make)) <= set(meanings(make.__doc__)), (
        "say what each knob is in the docstring: `name: what it is.`"
    )
    assert method.isalnum(), "underscores separate the methods of an --arch"
    assert file.exists(), f"compare it with its equations in {file.name}"


ALONE = {  # arch: parameters of ResNet-20 with the method's default graft
    "resnet": 275_572,
    "convnext_resnet": 166_052,
    "segnext_resnet": 328_996,
    "mscan_resnet": 262_948,
    "lsknet_resnet": 327_754,
    "lskblock_resnet": 261_706,
    "coatnet_resnet": 201_044,
    "eca_resnet": 275_599,
    "se_resnet": 277_945,
    "cspnet_resnet": 116_100,
    "ghostnet_resnet": 144_964,
    "hornet_resnet": 240_548,
    "productpool_resnet": 328_564,
    "resnest_resnet": 310_036,
    "gmlp_resnet": 211_572,
    "mixer_resnet": 202_676,
    "multiscale_resnet": 691_316,
}
WHOLE = {  # networks without slots, and backbones as they are
    "resnet18": 11_220_132,
    "resnet34": 21_328_292,
    "resnet50": 23_705_252,
    "resnet101": 42_697_380,
    "resnet152": 58_341_028,
    "plain20": 275_572,
    "plain32": 470_004,
    "plain44": 664_436,
    "plain56": 858_868,
    "plain110": 1_733_812,
    "plain18": 11_046_308,  # without the 173,824 of three projections
    "plain34": 21_154_468,
    "vit": 5_380_132,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "googlenet": 6_402_564,
    "alexnet": 2_495_396,
    "lenet": 69_656,
    "linear": 307_300,
}
COMBINED = [
    "eca_ghostnet_resnet",
    "cspnet_eca_resnet",
    "convnext_eca_resnet",
    "cspnet_hornet_resnet",
    "eca_resnest_resnet",
    "cspnet_eca_ghostnet_resnet",
    "ghostnet_gmlp_segnext_resnet",
]


def test_every_method_is_listed_here():
    here = {arch.removesuffix("_resnet") for arch in ALONE if arch != "resnet"}
    assert here == set(METHODS), "give its parameters in ALONE of tests/test_models.py"


def test_every_backbone_is_listed_here():
    assert {*WHOLE, "resnet", "resnet32", "resnet44", "resnet56", "resnet110"} == set(BACKBONES)


@pytest.mark.parametrize(("arch", "count"), (ALONE | WHOLE).items())
def test_parameter_count(arch, count):
    with torch.device("meta"):  # counts need no memory and no drawing of weights
        assert n_params(build(arch)) == count


SMALLER = {"resnet.width": 8}
TRAINED = [
    *((arch, {}) for arch in [*ALONE, *COMBINED, "eca_resnet32", "ghostnet_resnet56", "plain20", "googlenet"]),
    *((arch, {}) for arch in ("alexnet", "lenet", "linear")),
    ("vit", {"vit.depth": 2, "vit.drop_path": 0.1}),
    ("vgg19", {"vgg.head": "mlp"}),
    *((arch, SMALLER) for arch in ("resnet34", "resnet152", "plain18", "plain34", "eca_resnet50", "resnest_resnet50")),
    *(
        (arch, SMALLER)
        for arch in ("cspnet_resnet50", "ghostnet_resnet18", "multiscale_resnet18", "multiscale_resnet50")
    ),
    ("hornet_resnet18", {"resnet.width": 16}),
    ("hornet_resnet50", {"resnet.width": 16}),
    ("eca_ghostnet_plain20", {}),
]


@pytest.mark.parametrize(("arch", "settings"), TRAINED)
def test_whole_network_trains_and_scores(arch, settings):
    torch.manual_seed(0)
    net = build(arch, 7, settings)
    imgs, targets = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 6])
    loss = nn.functional.cross_entropy(net(imgs), targets)
    loss.backward()
    assert loss.isfinite()
    for name, p in net.named_parameters():
        assert p.grad is not None, f"{name} is not used"
        assert p.grad.isfinite().all()
    with torch.no_grad():  # running statistics that are not the initial ones
        net(imgs)
    net, imgs = net.double(), imgs[:2].double()  # through a whole network float32 rounds by more than the checks allow
    assert_channels_last_agrees(net, imgs)
    assert_samples_are_independent(net, imgs)


@pytest.mark.parametrize(("backbone", "size", "last"), [("resnet18", 96, 3), ("resnet50", 32, 4)])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_stands_in_four_stages_and_after_either_stem(method, backbone, size, last):
    with torch.device("meta"):
        net = build(f"{method}_{backbone}", 7, image_size=size)
        maps = net.stages(net.stem(torch.empty(2, 3, size, size)))
        assert maps.shape[2:] == (last, last)
        assert net(torch.empty(2, 3, size, size)).shape == (2, 7)


def pairs():
    return [f"{a}_{b}_resnet" for a, b in itertools.combinations(METHODS, 2) if METHODS[a].slot != METHODS[b].slot]


CONVS = {name for name, row in METHODS.items() if row.slot == "conv"}
WITHOUT_BASIC_BLOCKS = {  # which bring blocks for every place
    name for name, row in METHODS.items() if row.slot == "block" and not issubclass(row.make, ReplacingFamily)
}


@pytest.mark.parametrize("arch", pairs())
def test_methods_of_two_slots_combine_unless_one_has_no_place(arch):
    methods, small = set(arch.split("_")), {"settings": {"resnet.depth": 14}, "image_size": 16}
    if methods & CONVS and methods & WITHOUT_BASIC_BLOCKS:
        with pytest.raises(ValueError, match=f"nothing in this network uses ({'|'.join(CONVS)})"):
            build(arch, **small)
    else:
        with torch.no_grad():
            assert build(arch, **small)(torch.randn(2, 3, 16, 16)).shape == (2, 100)


def test_odd_image_sizes():
    for arch in (
        "resnet",
        "ghostnet_resnet",
        "coatnet_resnet",
        "gmlp_resnet",
        "hornet_resnet",
        "cspnet_segnext_resnet",
    ):
        assert build(arch, 5, image_size=30)(torch.randn(2, 3, 30, 30)).shape == (2, 5)
        assert build(arch, 5, image_size=45)(torch.randn(2, 3, 45, 45)).shape == (2, 5)


# ------------------------------------------------------------------------------------------------------------- names


def test_order_of_methods_does_not_matter():
    assert canonical("ghostnet_eca_resnet") == canonical("eca_ghostnet_resnet") == "eca_ghostnet_resnet"


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("nosuch_resnet", "unknown method 'nosuch' .* choose from .*coatnet, .*convnext, "),
        ("eca", "unknown backbone 'eca' .* one of resnet, resnet32"),
        ("eca_resnet20", "unknown backbone 'resnet20'"),
        ("", "unknown backbone ''"),
        ("resnet_eca", "unknown backbone 'eca'"),
        ("ECA_resnet", "unknown method 'ECA'"),
        ("eca__resnet", "unknown method ''"),
        ("eca_eca_resnet", "has eca twice: combine eca with one of .*coatnet, .*convnext"),
        (
            "eca_lsknet_resnet",
            "has eca and lsknet in the one attention slot: combine eca with one of .*coatnet, .*convnext",
        ),
        (
            "convnext_hornet_resnet",
            "convnext and hornet in the one block slot: combine convnext with one of .*cspnet, .*eca, .*lsknet",
        ),
        (
            "eca_se_plain20",
            "eca and se in the one attention slot: combine eca with one of .*ghostnet, .*productpool, .*resnest",
        ),
        ("convnext_ghostnet_resnet", "nothing in this network uses ghostnet"),
        ("ghostnet_hornet_resnet50", "nothing in this network uses ghostnet"),
        ("eca_vit", "vit has no attention slot for eca, it takes no method$"),
        (
            "convnext_plain20",
            "plain20 has no block slot for convnext, it takes methods of the slots conv, attention and pool only",
        ),
        ("cspnet_plain18", "plain18 has no stage slot for cspnet"),
        ("vgg11", "unknown backbone 'vgg11' .* or is torchvision:NAME or timm:NAME$"),
    ],
)
def test_illegal_name_is_refused_in_one_line(arch, message):
    with pytest.raises(ValueError, match=message) as error:
        build(arch)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arch", ["vit", "vgg16", "vgg19", "googlenet", "alexnet", "lenet", "linear"])
def test_whole_networks_take_images_of_32_to_224_pixels(arch):
    for size in (32, 48, 96, 224):
        with torch.device("meta"):
            assert build(arch, 7, image_size=size)(torch.empty(2, 3, size, size)).shape == (2, 7)
    for size in (31, 225):
        with pytest.raises(
            ValueError, match=f"^{arch} takes images of 32 to 224 pixels, got {size}: give --image-size$"
        ):
            build(arch, image_size=size)


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        # of a bottleneck's only 3x3, which a ReLU follows, position=conv2 leaves the plain convolution
        ("resnest_resnet50", {"resnest.position": "conv2"}),
        ("resnest_resnet", {"resnest.radix": 0, "resnest.avd": "none"}),
        ("multiscale_resnet", {"multiscale.kernel_sizes": "3"}),
    ],
)
def test_knobs_that_leave_nothing_of_a_method_are_refused(arch, settings):
    method = arch.split("_")[0]
    with torch.device("meta"), pytest.raises(ValueError, match=f"nothing in this network uses {method}"):
        build(arch, settings=settings)


# ------------------------------------------------------------------------------------------------------------- cost


def test_macs_of_resnet20_by_hand():
    """Nine multiplications for each pair of channels and each pixel, and the classifier; option A costs nothing."""
    stem = 32 * 32 * 9 * 3 * 16
    stage1 = 6 * 32 * 32 * 9 * 16 * 16
    stage2 = 16 * 16 * 9 * (16 * 32 + 5 * 32 * 32)
    stage3 = 8 * 8 * 9 * (32 * 64 + 5 * 64 * 64)
    assert cost("resnet", 100, {}, 32) == (275_572, stem + stage1 + stage2 + stage3 + 64 * 100)


def test_macs_of_attention_are_counted():
    """One more of the transformer blocks, of 64 channels on 8x8 tokens: projections, MLP, and twice tokens squared."""
    short, long = (cost("coatnet_resnet", 100, {"resnet.depth": depth}, 32)[1] for depth in (20, 26))
    rows = {name: macs for name, _, _, _, macs in layer_table("coatnet_resnet", 100, {}, 32)}
    assert rows["stages.2.2"] == 64 * (12 * 64 * 64) + 2 * 64 * 64 * 64
    assert long - short == rows["stages.0.2"] + rows["stages.1.2"] + rows["stages.2.2"]


def test_summary_says_what_a_paper_needed():
    text = summary("convnext_eca_resnet", {}, 100, 32)
    assert "166,079 parameters" in text
    assert "convnext: Liu et al., A ConvNet for the 2020s, CVPR 2022; published with AdamW" in text


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("eca", "did you mean eca_resnet? "),
        ("resnet_eca", "did you mean eca_resnet? "),
        ("eca-resnet", "did you mean eca_resnet? "),
        ("senet", "did you mean se_resnet? "),
        ("eca_resnet_18", "did you mean eca_resnet18? "),
        ("res2net_resnet", "did you mean multiscale_resnet? "),
        ("ghostnet_eca_resnet20", "did you mean eca_ghostnet_resnet? "),
        ("gosthnet_resnet", "did you mean ghostnet_resnet? "),
        ("vit_eca", ""),
        ("eca_se", ""),
        ("nosuch_resnet", ""),
    ],
)
def test_an_arch_that_may_be_meant_is_named(arch, hint):
    assert did_you_mean(arch) == hint
    with pytest.raises(ValueError, match=f": {re.escape(hint)}(an arch ends in|choose from)"):
        parse_arch(arch)
