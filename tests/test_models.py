"""Names, knobs and whole networks of models/__init__.py; each method has a test file of its own."""

import itertools
import re
import subprocess
import sys
from typing import Literal

import pytest
import torch
from torch import nn

from cost import cost, layer_table, n_params
from describe import listing, meanings, shown, summary
from models import (
    BACKBONES,
    METHODS,
    build,
    canonical,
    convert,
    describe_type,
    did_you_mean,
    knobs,
    parse_arch,
    parse_settings,
    settable,
    without_effect,
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


def test_knobs_of_few_values_are_told_and_taken_as_typed():
    assert (convert("a.b", "2", Literal[1, 2]), convert("a.b", 2, Literal[1, 2])) == (2, 2)
    with pytest.raises(ValueError, match=r"^--set a\.b takes 1\|2, got '3'$"):
        convert("a.b", "3", Literal[1, 2])
    with pytest.raises(ValueError, match=r"^--set a\.b takes true\|false, got 'False'$"):
        convert("a.b", "False", bool)


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


# ------------------------------------------------------------------------------------------------------------- knobs


def test_settings_reach_the_constructors():
    net = build(
        "eca_resnet", 10, {"eca.kernel_size": "5", "resnet.width": 32, "resnet.attention_position": "after-add"}
    )
    assert net.stages[0][0].after_add.conv.kernel_size == (5,)
    assert net.fc.in_features == 128


def test_a_knob_of_another_type_is_refused():
    class Method:
        def __init__(self, ch, *, size: int | None = None):
            pass

    with pytest.raises(TypeError, match=r"Method.size is a knob: give it a default and one of the types bool, int"):
        knobs(Method)


def test_types_written_as_text_are_read():
    class Method:
        def __init__(self, ch, *, size: "int" = 3):
            pass

    assert knobs(Method)["size"].annotation is int


@pytest.mark.parametrize("arch", [*ALONE, *WHOLE])
def test_every_knob_has_a_type_and_takes_its_default(arch):
    allowed = settable(arch)
    assert allowed or arch in ("alexnet", "lenet", "linear")
    typed = {name: knob.default for name, knob in allowed.items()}
    assert parse_settings(arch, typed) == typed
    for name, knob in allowed.items():
        assert describe_type(knob.annotation)
        assert parse_settings(arch, {name: shown(knob.default)}) == {name: knob.default}
    with torch.device("meta"):
        build(arch, settings=typed)


@pytest.mark.parametrize(
    ("arch", "settings", "message"),
    [
        ("eca_resnet", {"eca.nosuch": "1"}, "eca_resnet has no such knob, it has resnet.depth, .*eca.kernel_size"),
        ("resnet", {"eca.kernel_size": "3"}, "resnet has no such knob"),
        ("resnet56", {"resnet.depth": "20"}, "resnet56 has no such knob"),
        ("eca_resnet", {"eca.kernel_size": "5.0"}, r"--set eca\.kernel_size takes int, got '5\.0'"),
        ("eca_resnet", {"eca.kernel_size": True}, "takes int, got True"),
        ("eca_resnet", {"eca.kernel_size": 5.0}, r"takes int, got 5\.0"),
        ("resnet", {"resnet.drop_path": "nan"}, "takes float, got 'nan'"),
        ("convnext_resnet", {"convnext.layer_scale": 1e300}, "takes float, got 1e\\+300"),  # more than float32 holds
        ("resnet", {"resnet.width": "9" * 400}, "takes int, got '9"),
        ("resnet", {"resnet.shortcut": "C"}, r"takes A\|B\|none, got 'C'"),
        ("hornet_resnet", {"hornet.orders": "2,x"}, "takes int, got 'x'"),
        ("hornet_resnet", {"hornet.orders": ""}, "hornet.orders takes int"),
        ("resnet", {"resnet.attention_position": "after-add"}, "no method fills the attention slot"),
        (
            "cspnet_resnet",
            {"resnet.shortcut": "B"},
            "resnet.shortcut is read by the ResNet's own blocks that change the shape",
        ),
    ],
)
def test_wrong_setting_is_refused_in_one_line(arch, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        build(arch, settings=settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arch", "settings", "idle"),
    [
        ("coatnet_resnet", {"coatnet.layout": "CCC", "coatnet.head_dim": 7}, ["coatnet.head_dim"]),
        ("coatnet_resnet", {"coatnet.layout": "CTT", "coatnet.stride_place": "expand"}, ["coatnet.stride_place"]),
        ("coatnet_resnet", {"coatnet.layout": "CCCT"}, []),
        ("cspnet_convnext_resnet", {"convnext.downsample": "resnet"}, ["convnext.downsample"]),
        ("cspnet_resnest_resnet", {"resnest.avd": "none"}, ["resnest.avd"]),
        ("gmlp_resnet", {"gmlp.stages": "3,4", "gmlp.ratio": 4}, ["gmlp.stages"]),
        ("convnext_resnet", {"convnext.init": "trunc", "convnext.layer_scale": 1e-6}, []),
        ("eca_resnet", {"eca.kernel_size": 5, "resnet.attention_position": "after-add"}, []),
        ("resnet", {"resnet.depth": 20, "resnet.drop_path": 0.1}, []),
    ],
)
def test_settings_without_effect_are_found(arch, settings, idle):
    before = torch.get_rng_state()
    assert without_effect(arch, settings=settings) == idle
    assert torch.equal(torch.get_rng_state(), before)


def test_listing_names_every_method_backbone_and_knob():
    text = listing()
    for name, row in METHODS.items():
        assert f"{name}  [{row.slot}]  {row.paper}; published with {row.published_with}" in text
        for knob in knobs(row.make):
            assert f"--set {name}.{knob}=" in text
    assert all(f"\n{name}  [takes" in text for name in [*BACKBONES, "torchvision:NAME", "timm:NAME"])
    for row in BACKBONES.values():
        for knob in knobs(row.make, row.fixed):
            assert f"--set {row.family}.{knob}=" in text


def test_listing_groups_methods_by_slot():
    parts = listing().split("\n\n")[1:6]
    for part, slot in zip(parts, ("conv", "attention", "block", "stage", "pool"), strict=True):
        assert part.startswith(f"Methods of the {slot} slot")
        named = [line.split()[0] for line in part.splitlines()[1:] if not line.startswith(" ")]
        assert named == [name for name, row in METHODS.items() if row.slot == slot]


def test_knobs_are_listed_with_what_their_class_says_of_them():
    docstring = """A layer.

    size: of the kernel, odd; 0 takes
    the usual one. first, second: of both. Raises ValueError for an even size.
    """
    assert meanings(docstring) == {
        "size": "of the kernel, odd; 0 takes the usual one",
        "first": "of both",
        "second": "of both",
    }
    assert "--set ghostnet.kernel_size=3  (int)  of the depthwise filters, odd" in listing()


def test_listing_imports_no_library_of_networks():
    script = "import sys; from describe import listing; listing(); print({'torchvision', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        ("convnext_resnet", {"convnext.kernel_size": 1}),
        ("eca_resnet", {"eca.kernel_size": 1}),
        ("ghostnet_resnet", {"ghostnet.kernel_size": 1}),
        ("hornet_resnet", {"hornet.kernel_size": 1}),
        ("lsknet_resnet", {"lsknet.kernel_sizes": (1, 3), "lsknet.dilations": (1, 1)}),
        ("segnext_resnet", {"segnext.kernel_sizes": (1,)}),
    ],
)
def test_kernels_of_one_pixel_are_allowed(arch, settings):
    net = build(arch, 7, settings | {"resnet.depth": 8, "resnet.width": 4})
    assert net(torch.randn(2, 3, 9, 9)).shape == (2, 7)


@pytest.mark.parametrize("method", [None, "coatnet", "convnext", "hornet", "lskblock", "mscan"])
def test_stem_keeps_small_images_and_quarters_large_ones(method):
    """Each of these brings a stem of its own."""
    small, large = (f"{method}_{backbone}" if method else backbone for backbone in ("resnet", "resnet18"))
    keeps = build(small, 7, {"resnet.depth": 8, "resnet.width": 16}).stem
    assert keeps(torch.randn(2, 3, 9, 13)).shape == (2, 16, 9, 13)
    quarters = build(large, 7, {"resnet.width": 16}, 72).stem
    assert quarters(torch.randn(2, 3, 72, 72)).shape == (2, 16, 18, 18)


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
