"""Networks of other libraries by name, to compare with ours: torchvision:NAME, and timm:NAME where timm is installed.

Each is what its library builds for NAME, with our number of classes and, if it has a fixed image size, ours.
They take no method and have no knobs. The libraries are imported when a name asks for them.
"""

import difflib

import torch
from torch import nn
from torch.func import functional_call

# torchvision's, which by default return auxiliary logits in training
WITH_AUXILIARY = ("googlenet", "inception_v3")


def first_line(error):
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def import_timm():
    """The module timm, which nothing else needs. Raises ValueError if it is not installed."""
    try:
        import timm
    except ImportError:
        raise ValueError("timm:NAME needs the package timm: pip install timm") from None
    return timm


def check_name(library, name):
    """Raises ValueError, with similar names, for a name that the library does not have."""
    if library == "torchvision":
        from torchvision import models

        known = models.list_models(module=models)
    elif library == "timm":
        timm = import_timm()
        # weights have names such as resnet18.a1_in1k
        known = timm.list_pretrained() if "." in name else timm.list_models()
    else:
        raise ValueError(
            f"unknown library {library!r}: an arch with a colon is torchvision:NAME or timm:NAME, and takes no method"
            + "; knobs go into --set" * ("=" in name)
        )
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, 3, cutoff=0.4))
        raise ValueError(f"{library} has no classification network {name!r}{near and f': try {near}'}")


def make(library, name, num_classes, image_size):
    """A library's network: (B, 3, image_size, image_size) -> (B, num_classes) logits, in training too.

    Raises ValueError if the network is not made for images of this size, or returns anything but logits.
    """
    make_network = make_torchvision if library == "torchvision" else make_timm
    try:
        try:
            net = make_network(name, num_classes, image_size)
        except NotImplementedError:  # torchvision's regnets compute widths with tensors, which need values
            with torch.device("cpu"):
                net = make_network(name, num_classes, image_size)
            net = net.to(torch.get_default_device())
        out = try_forward(net, image_size)
    except Exception as error:  # each network fails in its own way
        raise ValueError(
            f"{library}:{name} cannot be made for images of {image_size} pixels ({first_line(error)})"
        ) from None
    if not isinstance(out, torch.Tensor) or out.shape != (2, num_classes):
        raise ValueError(f"{library}:{name} does not return logits (B, {num_classes}): it is not a plain classifier")
    return net


def make_torchvision(name, num_classes, image_size):
    from torchvision import models

    more = {"image_size": image_size} if name.startswith("vit_") else {}
    if name in WITH_AUXILIARY:
        more = {"aux_logits": False, "init_weights": True}
    return models.get_model(name, weights=None, num_classes=num_classes, **more)


def make_timm(name, num_classes, image_size, **weights):
    timm = import_timm()
    made_for_one_size = timm.models.get_pretrained_cfg(name).fixed_input_size
    more = {"img_size": image_size} if made_for_one_size else {}
    return timm.create_model(name, num_classes=num_classes, **more, **weights)


def try_forward(net, image_size, n=2):
    """What the network gives for n images in training, on the meta device: shapes without numbers, and no side effects."""
    tensors = {name: value.to("meta") for name, value in [*net.named_parameters(), *net.named_buffers()]}
    with torch.device("meta"), torch.no_grad():
        return functional_call(net, tensors, torch.empty(n, 3, image_size, image_size))


def synchronized(net, arch):
    """The network with its batch norms computed over all processes.

    Some of timm's contain an activation, which torch's conversion would drop.
    """
    if arch.startswith("timm:"):
        return import_timm().layers.convert_sync_batchnorm(net)
    return nn.SyncBatchNorm.convert_sync_batchnorm(net)
