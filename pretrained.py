"""Published weights for a network with a new head: torchvision's, timm's, and ImageNet weights for `vit` from the hub.

Loading is strict: all but the classifier is loaded, or a ValueError lists what is not.
"""

import math
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import torch
import torch.nn.functional as F
from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

import hub
from flags import one_line
from models import libraries

# ViT-tiny of Steiner et al., "How to train your ViT?", TMLR 2022: ImageNet-21k, then ImageNet-1k, in timm's layout
VIT_REPOSITORY = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
VIT_HEADS = 3


class Published(NamedTuple):
    """Weights (the classifier's go unused), and the images they were trained on: mean and std on the scale 0 to 255."""

    weights: dict
    image_size: int
    mean: list
    std: list


def head_names(net):
    """The names of the classifier's entries in the network's state_dict.

    timm names it; in other networks it is the last linear layer or convolution (as in SqueezeNet).
    """
    if hasattr(net, "get_classifier"):
        heads = net.get_classifier()
        heads = heads if isinstance(heads, tuple) else (heads,)  # a distilled network has two
    else:
        heads = [module for module in net.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1:]
    prefixes = tuple(f"{name}." for name, module in net.named_modules() if module in heads)
    return {name for name in net.state_dict() if name.startswith(prefixes)}


def load_pretrained(arch, net, image_size):
    """Loads published weights into a network that build() made; its classifier stays as it is.

    Returns (mean, std), the statistics of pixels (0 to 255) by which images were normalized for these weights. Raises
    ValueError, in one line, for an arch without published weights, a missing package, weights that cannot be reached, and
    those that do not fit the network.
    """
    library, _, name = arch.partition(":")
    if library == "torchvision":
        published = from_torchvision(name)
    elif library == "timm":
        published = from_timm(name, image_size)
    elif arch == "vit":
        published = for_vit(net)
    else:
        raise ValueError(f"there are no published weights for {arch}: use vit, torchvision:NAME or timm:NAME")
    load_backbone(arch, net, published)
    return published.mean, published.std


def load_backbone(arch, net, published):
    """Copies all weights but the classifier's. Raises ValueError, with their names, if any is left over on either side."""
    head = head_names(net)
    kept = {name: value for name, value in net.state_dict().items() if name in head}
    try:
        hub.load_weights(net, published.weights | kept)
    except ValueError as error:
        raise ValueError(f"{arch}, published for images of {published.image_size} pixels: {error}") from None


# ---------------------------------------------------------------------------------------------------------- libraries


def from_torchvision(name):
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    preprocess = weights.transforms()
    refuse_unreachable(weights.url)
    try:
        net = models.get_model(name, weights=weights, progress=False)
    except Exception as error:  # download, checksum and damaged local copy each raise their own
        raise ValueError(f"cannot load the weights of torchvision:{name}: {libraries.first_line(error)}") from None
    mean, std = preprocess.mean, preprocess.std
    if getattr(net, "transform_input", False):  # it maps ImageNet's normalization to 0.5, which ours uses directly
        mean = std = [0.5] * 3
    # without Inception's auxiliary classifier, which ours leaves out
    body = {name: value for name, value in net.state_dict().items() if not name.startswith("AuxLogits.")}
    return Published(body, preprocess.crop_size[0], [255 * m for m in mean], [255 * s for s in std])


def refuse_unreachable(url):
    """Raises ValueError within seconds if the file is neither there nor in torchvision's local copies."""
    place = urlparse(url)
    if (Path(torch.hub.get_dir()) / "checkpoints" / Path(place.path).name).exists():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except OSError as error:
        raise ValueError(
            f"cannot reach {place.netloc} for published weights ({error}): leave out --pretrained"
        ) from None


def from_timm(name, image_size):
    timm = libraries.import_timm()
    config = timm.models.get_pretrained_cfg(name)
    file = config.hf_hub_filename or "model.safetensors"
    if not config.hf_hub_id or not file.endswith(".safetensors"):  # a pickle could run code
        raise ValueError(
            f"timm has no weights of {name} on the hub as safetensors: timm.list_pretrained() lists what it has"
        )
    overlay = {"file": hub_file(config.hf_hub_id, file), "custom_load": False}  # True is for the authors' .npz files
    try:
        net = libraries.make_timm(name, config.num_classes, image_size, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # a damaged file, or tables that timm cannot resize, each in its own way
        raise ValueError(f"cannot load the weights of timm:{name}: {libraries.first_line(error)}") from None
    mean, std = ([255 * value for value in values] for values in (config.mean, config.std))
    return Published(net.state_dict(), config.input_size[-1], mean, std)


def hub_file(repository, name):
    """The path of a file of the hub, downloaded unless there is a copy. Raises ValueError within seconds if it cannot be."""
    if isinstance(cached := try_to_load_from_cache(repository, name), str):
        return cached
    try:
        HfApi().model_info(repository, timeout=5)  # hf_hub_download by itself tries for 23 s
        return hf_hub_download(repository, name)
    except Exception as error:  # httpx or httpx2 errors, by the client's version, not OSErrors
        raise ValueError(f"cannot get {repository} from the hub ({one_line(error)}): leave out --pretrained") from None


# ---------------------------------------------------------------------------------------------------------------- vit


def for_vit(net):
    """The hub's ViT-tiny, its position table and patches resized to those of the network."""
    heads = net.blocks[0].attn.heads
    if heads != VIT_HEADS:  # no shape shows it
        raise ValueError(f"the published weights of vit have {VIT_HEADS} heads, got vit.heads={heads}")
    file = hub_file(VIT_REPOSITORY, "model.safetensors")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}): remove it") from None
    table, kernels = "pos_embed", "patch_embed.proj.weight"
    if table in weights and kernels in weights:
        weights[table] = resize_positions(weights[table], net.pos_embed.shape[1])
        weights[kernels] = resize_patches(weights[kernels], net.patch_embed.proj.kernel_size[0])
    return Published(weights, 224, [127.5] * 3, [127.5] * 3)


def resize_positions(table, n_tokens):
    """Position table (1, 1 + old**2, D) -> (1, n_tokens, D): the square of patches resized, the class token's row kept."""
    if table.shape[1] == n_tokens:
        return table
    of_class, of_patches = table[:, :1], table[:, 1:]
    old, new = math.isqrt(of_patches.shape[1]), math.isqrt(n_tokens - 1)
    square = of_patches.unflatten(1, (old, old)).permute(0, 3, 1, 2)
    square = F.interpolate(square, (new, new), mode="bicubic", antialias=True)
    return torch.cat([of_class, square.flatten(2).transpose(1, 2)], 1)


def resize_patches(weight, patch):
    """Kernels (D, 3, old, old) -> (D, 3, patch, patch) that give a resized patch the token of the patch itself.

    FlexiViT's pseudo-inverse (Beyer et al., CVPR 2023, section 3.4): with B the matrix that resizes a patch x, it solves
    <B x, new> = <x, weight> for all x, exactly if the patch grows and by least squares if it shrinks. Resizing the
    kernels like images would scale the tokens with the number of pixels summed.
    """
    old = weight.shape[-1]
    if old == patch:
        return weight
    pixels = torch.eye(old**2).view(-1, 1, old, old)
    resize = F.interpolate(pixels, (patch, patch), mode="bicubic", antialias=True).flatten(1)  # B transposed
    return (weight.flatten(2) @ torch.linalg.pinv(resize).T).unflatten(2, (patch, patch))
