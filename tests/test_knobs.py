"""The knobs of methods and backbones: how they are read, refused and listed."""

import subprocess
import sys
from typing import Literal, get_args, get_origin

import pytest
import torch

from describe import listing, meanings, shown
from models import (
    BACKBONES,
    METHODS,
    alike,
    build,
    convert,
    describe_type,
    knobs,
    parse_settings,
    settable,
    without_effect,
)
from tests.test_models import ALONE, WHOLE


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


def test_knobs_of_few_values_are_told_and_taken_as_typed():
    assert (convert("a.b", "2", Literal[1, 2]), convert("a.b", 2, Literal[1, 2])) == (2, 2)
    with pytest.raises(ValueError, match=r"^--set a\.b takes 1\|2, got '3'$"):
        convert("a.b", "3", Literal[1, 2])
    with pytest.raises(ValueError, match=r"^--set a\.b takes true\|false, got 'False'$"):
        convert("a.b", "False", bool)


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


@pytest.mark.parametrize("method", METHODS)
def test_every_choice_of_a_knob_makes_another_network(method):
    def made(settings):
        torch.manual_seed(0)
        return build(f"{method}_resnet", 7, {"resnet.depth": 14} | settings)

    default = made({})
    for name, knob in knobs(METHODS[method].make).items():
        choices = get_args(knob.annotation) if get_origin(knob.annotation) is Literal else (knob.default,)
        if knob.annotation is bool:
            choices = (True, False)
        for choice in choices:
            is_same = alike(default, made({f"{method}.{name}": choice}))
            assert is_same == (choice == knob.default), f"{name}={choice}"


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
