"""What `train.py --list` and `train.py --summary` print."""

import re

from cost import layer_table
from models import BACKBONES, METHODS, describe_type, knobs, parse_arch

SLOTS = {  # what a method of the slot replaces; see models/resnet.py
    "conv": "takes the place of the 3x3 convolutions",
    "attention": "joins the residual branch",
    "block": "takes the place of the basic block or bottleneck",
    "stage": "takes the place of the plain chain of blocks",
    "pool": "takes the place of the mean over pixels",
}
MEANING = re.compile(r"(\w+(?:,\s\w+)*):\s(.+)\.", re.DOTALL)  # a docstring's sentence on one or several knobs


def listing():
    """All methods by slot, with paper and knobs, and all backbones, with knobs, as text."""
    lines = ["Architectures are <method>_..._<backbone>, one method per slot. Knobs are shown with their defaults."]
    for slot, role in SLOTS.items():
        lines += ["", f"Methods of the {slot} slot: each {role}"]
        for name, method in METHODS.items():
            if method.slot == slot:
                lines += [f"{name}  [{slot}]  {method.paper}; published with {method.published_with}"]
                lines += class_lines(name, method.make)
    lines += ["", "Backbones, and whole networks"]
    shown_before = set()
    for name, backbone in BACKBONES.items():
        fixed = "".join(f", {knob} {value}" for knob, value in backbone.fixed.items())
        lines += [f"{name}  [takes {', '.join(backbone.slots) or 'no method'}]  {backbone.family}.*{fixed}"]
        if backbone.make not in shown_before:
            lines += class_lines(backbone.family, backbone.make, backbone.fixed)
        shown_before.add(backbone.make)
    lines += [
        "torchvision:NAME  [takes no method]  any classification network of torchvision, such as torchvision:resnet18"
    ]
    lines += ["timm:NAME  [takes no method]  any network of timm, where it is installed, such as timm:convnext_nano"]
    return "\n".join(lines)


def class_lines(group, make, fixed=()):
    """The first line of a class's docstring, and a line for each knob: how it is set, its type and default, and its meaning."""
    doc = make.__doc__ or ""
    meaning = meanings(doc)
    return [f"    {line}" for line in doc.splitlines()[:1]] + [
        f"    --set {group}.{name}={shown(knob.default)}  ({describe_type(knob.annotation)})"
        + (f"  {meaning[name]}" if name in meaning else "")
        for name, knob in knobs(make, fixed).items()
    ]


def meanings(docstring):
    """What a docstring says about arguments, in sentences such as "kernel_size: of the filter, odd.": name -> text."""
    by_name = {}
    for sentence in re.split(r"(?<=\.)\s+", docstring):
        if found := MEANING.fullmatch(sentence.strip()):
            text = " ".join(found[2].split())
            by_name |= {name: text for name in re.split(r",\s", found[1]) if name not in by_name}
    return by_name


def shown(value):
    """A knob's value as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def summary(arch, settings, num_classes, image_size):
    """The layer table of an arch as text, with parameters, MACs per image, papers and the optimizers they used."""
    rows = layer_table(arch, num_classes, settings, image_size)
    lines = [f"{'layer':<30}{'class':<20}{'output':<14}{'parameters':>12}{'MACs':>14}"]
    for name, kind, shape, params, macs in rows:
        lines += [f"{name:<30}{kind:<20}{'x'.join(map(str, shape)):<14}{params:>12,}{macs:>14,}"]
    params, macs = rows[0][3:]
    lines += ["", f"{arch}: {params:,} parameters, {macs:,} MACs for an image of {image_size}x{image_size} pixels"]
    for method in parse_arch(arch)[0]:
        lines += [f"{method}: {METHODS[method].paper}; published with {METHODS[method].published_with}"]
    return "\n".join(lines)
