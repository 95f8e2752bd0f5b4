"""What names mean: of runs in a list, such as eca_resnet:eca.kernel_size=5:--lr=0.1, and of networks.

Nothing here needs torch or numpy, so that a plan can be made without them.
"""

import re

from tuning import as_text


def parts_of(run):
    """'torchvision:resnet18:--freeze=backbone:a.b=1' -> (arch, {knob: value}, flags)."""
    arch, *parts = run.split(":")
    flags = [part for part in parts if part.startswith("--")]
    knobs = dict(part.split("=", 1) for part in parts if "=" in part and part not in flags)
    library_names = [part for part in parts if "=" not in part and part not in flags]  # torchvision:NAME
    return ":".join([arch, *library_names]), knobs, flags


def arch_of(run):
    return parts_of(run)[0]


def name_of(run):
    """The name of a run's folder, without the seed: eca_resnet-eca.kernel_size=5, vit-pretrained."""
    return run.replace(":--", "-").replace(":", "-").replace("/", "-")


def in_order(run):
    """The run with its methods sorted, as models.canonical() names it: ghostnet_eca_resnet:a.b=1 -> eca_ghostnet_resnet:a.b=1."""
    arch, *parts = run.split(":")
    *methods, backbone = arch.split("_")
    return ":".join(["_".join([*sorted(methods), backbone]), *parts])


def network_of(arch, knobs):
    """A network's identity: ghostnet_eca_resnet is eca_ghostnet_resnet, and a knob of 1e-6 is one of 1e-06."""

    def plain(value):  # typed or parsed
        text = as_text(value)
        try:
            return float(text)
        except ValueError:
            return text.lower()

    return frozenset(arch.split("_")), frozenset((name, plain(value)) for name, value in knobs.items())


def family_and_depth(arch):
    """A backbone's kind and number of layers: 'resnet' -> ('resnet', 20), 'eca_plain56' -> ('plain', 56); else None."""
    found = re.fullmatch(r"(?:[a-z]+_)*(resnet|plain)(\d*)", arch)
    return found and (found[1], int(found[2] or 20))


def has_bottlenecks(arch):
    """Whether a network's blocks are bottlenecks, as in ResNet-50, instead of basic blocks."""
    family = family_and_depth(arch)
    return bool(family) and family[1] in (50, 101, 152)


def default_width(arch):
    """The default of resnet.width: 64 at the depths used for ImageNet, 16 at those used for CIFAR."""
    family = family_and_depth(arch)
    return 64 if family and family[1] in (18, 34, 50, 101, 152) else 16
