"""Architectures by name: METHODS, BACKBONES and build().

An architecture is `<method>_..._<backbone>`, such as `eca_ghostnet_resnet`. Each method fills one slot of the backbone
(models/resnet.py). Whole networks such as `vit`, `torchvision:NAME` and `timm:NAME` are backbones without slots. Every
keyword-only argument of a method's or backbone's class is a knob, set as `eca.kernel_size=5`. A new method is one file and
one row of METHODS.
"""

import difflib
import inspect
import math
import re
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Literal, get_args, get_origin

import torch

from models import libraries
from models.alexnet import AlexNet
from models.coatnet import CoAtNet
from models.convnext import ConvNeXt
from models.cspnet import CSPStage
from models.eca import ECA
from models.ghostnet import GhostConv
from models.gmlp import GMLP
from models.googlenet import GoogLeNet
from models.hornet import HorNet
from models.lenet import LeNet
from models.linear import Linear
from models.lsknet import LSK, LSKBlocks
from models.mixer import Mixer
from models.multiscale import MultiScaleConv
from models.productpool import ProductPool
from models.resnest import ResNeStConv
from models.resnet import DEPTHS, ImageNetResNet, ResNet
from models.se import SE
from models.segnext import MSCA, MSCAN
from models.vgg import VGG
from models.vit import ViT


@dataclass(frozen=True)
class Method:
    slot: Literal["conv", "attention", "block", "stage", "pool"]
    make: type  # its keyword-only arguments are the knobs
    paper: str
    published_with: str  # the optimizer of the paper's recipe


@dataclass(frozen=True)
class Backbone:
    family: str  # the prefix of its knobs: resnet56 has resnet.width, ...
    make: type
    fixed: dict = field(default_factory=dict)  # knobs that the name decides
    slots: tuple = ("conv", "attention", "block", "stage", "pool")
    sizes: tuple = (1, math.inf)  # the smallest and largest image, in pixels


METHODS = {
    "coatnet": Method("block", CoAtNet, "Dai et al., CoAtNet, NeurIPS 2021", "AdamW"),
    "convnext": Method("block", ConvNeXt, "Liu et al., A ConvNet for the 2020s, CVPR 2022", "AdamW"),
    "cspnet": Method("stage", CSPStage, "Wang et al., CSPNet, CVPR Workshops 2020", "SGD"),
    "eca": Method("attention", ECA, "Wang et al., ECA-Net, CVPR 2020", "SGD"),
    "ghostnet": Method("conv", GhostConv, "Han et al., GhostNet, CVPR 2020", "SGD"),
    "gmlp": Method("block", GMLP, "Liu et al., Pay Attention to MLPs, NeurIPS 2021", "AdamW"),
    "hornet": Method("block", HorNet, "Rao et al., HorNet, NeurIPS 2022", "AdamW"),
    "lskblock": Method("block", LSKBlocks, "Li et al., Large Selective Kernel Network, ICCV 2023", "AdamW"),
    "lsknet": Method("attention", LSK, "Li et al., Large Selective Kernel Network, ICCV 2023", "AdamW"),
    "mixer": Method("block", Mixer, "Tolstikhin et al., MLP-Mixer, NeurIPS 2021", "Adam"),
    "mscan": Method("block", MSCAN, "Guo et al., SegNeXt, NeurIPS 2022", "AdamW"),
    "multiscale": Method(
        "conv",
        MultiScaleConv,
        "Szegedy et al., Going Deeper with Convolutions, CVPR 2015 (form=depthwise: MixConv, form=cascade: Res2Net)",
        "SGD",
    ),
    "productpool": Method("pool", ProductPool, "this project, results/own/README.md", "SGD"),
    "resnest": Method("conv", ResNeStConv, "Zhang et al., ResNeSt, CVPR Workshops 2022", "SGD"),
    "se": Method("attention", SE, "Hu et al., Squeeze-and-Excitation Networks, CVPR 2018", "SGD"),
    "segnext": Method("attention", MSCA, "Guo et al., SegNeXt, NeurIPS 2022", "AdamW"),
}

OTHER_NAMES = {"resnet20": "resnet", "senet": "se", "ecanet": "eca", "lsk": "lsknet", "res2net": "multiscale"}
WHOLE = {"slots": (), "sizes": (32, 224)}
PLAIN = {"shortcut": "none"}
WITHOUT_SHORTCUTS = ("conv", "attention", "pool")  # slots that bring none of their own

BACKBONES = {
    "resnet": Backbone("resnet", ResNet),
    **{f"resnet{depth}": Backbone("resnet", ResNet, {"depth": depth}) for depth in (32, 44, 56, 110)},
    **{f"resnet{depth}": Backbone("resnet", ImageNetResNet, {"depth": depth}) for depth in DEPTHS},
    **{
        f"plain{depth}": Backbone("resnet", make, PLAIN | {"depth": depth}, WITHOUT_SHORTCUTS)
        for make, depths in ((ResNet, (20, 32, 44, 56, 110)), (ImageNetResNet, (18, 34)))
        for depth in depths
    },
    "vit": Backbone("vit", ViT, **WHOLE),
    "vgg16": Backbone("vgg", VGG, {"depth": 16}, **WHOLE),
    "vgg19": Backbone("vgg", VGG, {"depth": 19}, **WHOLE),
    "googlenet": Backbone("googlenet", GoogLeNet, **WHOLE),
    "alexnet": Backbone("alexnet", AlexNet, **WHOLE),
    "lenet": Backbone("lenet", LeNet, **WHOLE),
    "linear": Backbone("linear", Linear, **WHOLE),
}


def find_backbone(name):
    """The Backbone of a name; for torchvision:NAME or timm:NAME it is made here."""
    library, colon, network = name.partition(":")
    if colon:
        return Backbone(name, partial(libraries.make, library, network), slots=())
    return BACKBONES[name]


def knobs(make, fixed=()):
    """The settable arguments of a class: name -> inspect.Parameter. Raises TypeError without a default or known type."""
    parameters = inspect.signature(make, eval_str=True).parameters.values()
    found = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in fixed}
    for name, knob in found.items():
        known = knob.annotation in (bool, int, float, str) or get_origin(knob.annotation) in (Literal, tuple)
        if not known or knob.default is knob.empty:
            raise TypeError(
                f"{make.__name__}.{name} is a knob: give it a default and one of the types bool, int, float, str, Literal and "
                f"tuple[int, ...], such as {name}: float = 1.0"
            )
    return found


def describe_type(kind):
    """A knob's type as a person reads it: 'int', 'A|B', 'int,...' for a tuple."""
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if kind is bool:
        return "true|false"
    return f"{get_args(kind)[0].__name__},..." if get_origin(kind) is tuple else kind.__name__


def convert(name, value, kind):
    """A setting's value as type `kind`, from the command line or from JSON. Raises ValueError."""
    wrong = ValueError(f"--set {name} takes {describe_type(kind)}, got {value!r}")
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if str(value) == str(choice):  # typed, or from JSON
                return choice
    elif get_origin(kind) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if isinstance(items, (list, tuple)) and items:
            return tuple(convert(name, item, get_args(kind)[0]) for item in items)
    elif kind is bool:
        if value in (True, False, "true", "false"):
            return value in (True, "true")
    elif kind is str and isinstance(value, str):
        return value
    elif isinstance(value, str) or type(value) is kind or (kind is float and type(value) is int):
        try:
            number = kind(value)
        except (ValueError, OverflowError):
            raise wrong from None
        if abs(number) <= torch.finfo(torch.float32).max:  # and not nan
            return number
    raise wrong


def parse_arch(arch):
    """'eca_ghostnet_resnet' -> (['eca', 'ghostnet'], 'resnet'), methods sorted. Raises ValueError for an illegal name."""
    if ":" in arch:
        libraries.check_name(*arch.split(":", 1))
        return [], arch
    *methods, backbone = arch.split("_")
    if backbone not in BACKBONES:
        raise ValueError(
            f"unknown backbone {backbone!r} in --arch {arch}: {did_you_mean(arch)}an arch ends in one of "
            f"{', '.join(BACKBONES)}, or is torchvision:NAME or timm:NAME"
        )
    slots = {}
    for method in methods:
        if method not in METHODS:
            raise ValueError(
                f"unknown method {method!r} in --arch {arch}: {did_you_mean(arch)}choose from {', '.join(METHODS)}"
            )
        slot = METHODS[method].slot
        if slot in slots:
            twice = f"{method} twice" if slots[slot] == method else f"{slots[slot]} and {method} in the one {slot} slot"
            taken = {"block", "conv"} if slot in ("block", "conv") else {slot}  # most blocks have no conv slot
            others = ", ".join(
                name for name, row in METHODS.items() if row.slot in BACKBONES[backbone].slots and row.slot not in taken
            )
            raise ValueError(f"--arch {arch} has {twice}: combine {slots[slot]} with one of {others}")
        open_slots = BACKBONES[backbone].slots
        if slot not in open_slots:
            takes = "no method"
            if open_slots:
                takes = f"methods of the slots {', '.join(open_slots[:-1])} and {open_slots[-1]} only"
            raise ValueError(f"--arch {arch}: {backbone} has no {slot} slot for {method}, it takes {takes}")
        slots[slot] = method
    return sorted(methods), backbone


def did_you_mean(arch):
    """'did you mean eca_resnet? ' for eca, resnet_eca, eca-resnet or eca_resnet20; '' where nothing is near."""
    known = {name: name for name in (*METHODS, *BACKBONES)} | OTHER_NAMES
    arch = re.sub(r"(resnet|plain)[_-](\d+)$", r"\1\2", arch.lower())
    near = [difflib.get_close_matches(part, known, 1, cutoff=0.75) for part in re.split("[_-]", arch)]
    names = [known[name] for found in near for name in found]
    backbone = next((name for name in names if name in BACKBONES), "resnet")
    suggestion = "_".join([*sorted(name for name in names if name in METHODS), backbone])
    try:
        parse_arch(suggestion)
    except ValueError:
        return ""
    return f"did you mean {suggestion}? " if all(near) else ""


def canonical(arch):
    """The one spelling of an arch: methods sorted. Raises ValueError for an illegal name."""
    methods, backbone = parse_arch(arch)
    return "_".join([*methods, backbone])


def settable(arch):
    """Every knob of an arch: 'eca.kernel_size' -> inspect.Parameter. Raises ValueError for an illegal name."""
    methods, backbone = parse_arch(arch)
    row = find_backbone(backbone)
    groups = {row.family: knobs(row.make, row.fixed)} | {name: knobs(METHODS[name].make) for name in methods}
    return {f"{group}.{name}": knob for group, names in groups.items() for name, knob in names.items()}


def parse_settings(arch, settings):
    """Checks settings against the arch's knobs and converts them: {'eca.kernel_size': '5'} -> {'eca.kernel_size': 5}.

    Raises ValueError for an illegal arch, a knob that it does not have, or a value of the wrong type.
    """
    allowed = settable(arch)
    for name in settings:
        if name not in allowed:
            raise ValueError(f"--set {name}: {arch} has no such knob, it has {', '.join(allowed) or 'none'}")
    return {name: convert(name, value, allowed[name].annotation) for name, value in sorted(settings.items())}


def build(arch, num_classes=100, settings=None, image_size=32):
    """Makes a network: (B, 3, image_size, image_size) -> (B, num_classes) logits.

    settings: knob -> value, such as {'eca.kernel_size': 5}. Raises ValueError, in one line, for a name, knob or value
    that does not exist, for a method that the network has no layer of, and for an image size that it does not take.
    """
    methods, backbone = parse_arch(arch)
    values = parse_settings(arch, settings or {})
    row = find_backbone(backbone)
    smallest, largest = row.sizes
    if not smallest <= image_size <= largest:
        raise ValueError(
            f"{backbone} takes images of {smallest} to {largest} pixels, got {image_size}: give --image-size"
        )

    def given(group):
        return {name.split(".")[1]: value for name, value in values.items() if name.split(".")[0] == group}

    fillers = {}
    for name in methods:
        method = METHODS[name]
        make = partial(method.make, **given(name))
        fillers[method.slot] = make() if method.slot == "block" else make  # a block family is an object, see resnet.py
    net = row.make(num_classes, image_size, **fillers, **row.fixed, **given(row.family))

    # by file, because a family's blocks are of other classes; is_plain: a knob made this layer an ordinary convolution
    sources = {type(module).__module__ for module in net.modules() if not getattr(module, "is_plain", False)}
    for name in methods:
        file = METHODS[name].make.__module__
        if file not in sources:
            raise ValueError(
                f"--arch {arch}: nothing in this network uses {name} (no layer of {file} differs from an ordinary "
                "convolution): leave it out or change its settings"
            )
    return net


def without_effect(arch, num_classes=100, settings=None, image_size=32):
    """Settings that change nothing: [knob]. If any one is left out, build() makes the same network with the same weights.

    The random state stays as it is.
    """
    values, allowed = parse_settings(arch, settings or {}), settable(arch)

    def net_without(*left_out):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            try:
                rest = {name: value for name, value in values.items() if name not in left_out}
                return build(arch, num_classes, rest, image_size)
            except ValueError:  # the others need it
                return None

    changed = [name for name, value in values.items() if value != allowed[name].default]
    net = net_without() if changed else None
    return [name for name in changed if (other := net_without(name)) and alike(net, other)]


def alike(net, other):
    """Whether two networks have the same modules and weights. Attributes that cannot be compared count as different."""
    pairs = zip_longest(net.modules(), other.modules())
    tensors = [[*each.named_parameters(), *each.named_buffers()] for each in (net, other)]
    try:
        return all(type(a) is type(b) and attributes(a) == attributes(b) for a, b in pairs) and all(
            name == other_name and torch.equal(value, other_value)
            for (name, value), (other_name, other_value) in zip(*tensors, strict=True)
        )
    except (RuntimeError, ValueError):  # tensors among the attributes
        return False


def attributes(module):
    own = vars(torch.nn.Module())
    return {name: value for name, value in vars(module).items() if name not in own}
