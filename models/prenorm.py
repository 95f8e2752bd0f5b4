"""What the pre-norm methods share: layer norm over channels, layer scale, initial weights, and families of blocks.

Pre-norm blocks keep width and size and have no activation after the add, so a network of them (PreNormFamily) brings its
own stem, downsampling and final norm. ReplacingFamily puts a few of them among the ResNet's own blocks.
"""

import math
from typing import Literal

import torch
from torch import nn

from models.ops.channels import channel_scale
from models.ops.layernorm import channel_norm
from models.resnet import BlockFamily

Downsample = Literal["native", "resnet"]
Init = Literal["default", "trunc"]


def initialized(module, init):
    """Initializes a module's convolutions as the authors do, biases at 0, and returns it; "default" keeps PyTorch's.

    "trunc" has a standard deviation of 0.02 (ConvNeXt, HorNet), "normal" a variance of 2 / fan_out, the fan of one group
    (VAN, SegNeXt, LSKNet). They draw the classifier at 0.02, too; here it keeps PyTorch's start.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and init != "default":
            if init == "trunc":
                nn.init.trunc_normal_(layer.weight, std=0.02)
            else:
                fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
                nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel: (B, C, H, W) -> (B, C, H, W). On channels-last maps no copy is made.

    before_linear: only convolutions and linear layers read the result. Under autocast a GPU then writes it in half precision
    at once; otherwise autocast would copy it.
    """

    def __init__(self, ch, before_linear=False):
        super().__init__(ch, eps=1e-6)
        self.before_linear = before_linear

    def forward(self, x):
        return channel_norm(x, self.weight, self.bias, self.eps, self.before_linear)


class LayerScale(nn.Module):
    """A learned factor for each channel of a branch (Touvron et al. 2021, CaiT); `init` 0 leaves the branch as it is."""

    def __init__(self, ch, init):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((ch, 1, 1), float(init))) if init else None

    def forward(self, x):
        return x if self.gamma is None else channel_scale(x, self.gamma)


class PreNormFamily(BlockFamily):
    """Hosts blocks that keep the shape. A method gives stem, downsample and block.

    downsample: "native" is the paper's layer before the first block of a stage; "resnet" keeps the ResNet's own
    strided block there. CSPNet's stage downsamples by itself and ignores this knob.
    """

    narrow = True

    def __init__(self, downsample: Downsample):
        self.downsampling = downsample

    def downsample(self, in_ch, out_ch, stride):
        """A layer (B, in_ch, H, W) -> (B, out_ch, H / stride, W / stride), rounded as the paper's layer does."""
        raise NotImplementedError

    def block(self, ch, place, attention, drop_path):
        """A block (B, ch, H, W) -> (B, ch, H, W)."""
        raise NotImplementedError

    def __call__(self, in_ch, out_ch, stride, place, resnet_block, attention, drop_path):
        if stride == 1 and in_ch == out_ch:
            return self.block(out_ch, place, attention, drop_path)
        if self.downsampling == "resnet":
            return resnet_block(in_ch, out_ch, stride, drop_path)
        down = self.downsample(in_ch, out_ch, stride)
        return nn.Sequential(down, self.block(out_ch, place.after(stride), attention, drop_path))

    def final_norm(self, ch):
        return nn.LayerNorm(ch, eps=1e-6)


def patch_stem(in_ch, out_ch, stride, norm):
    """ConvNeXt's stem, patches of `stride` pixels, or a 3x3 convolution for small images; then the norm."""
    conv = nn.Conv2d(in_ch, out_ch, 3, padding=1) if stride == 1 else nn.Conv2d(in_ch, out_ch, stride, stride)
    return nn.Sequential(conv, norm(out_ch))


def patch_downsample(in_ch, out_ch, stride, norm):
    """ConvNeXt's downsampling: the norm, then a convolution of patches of `stride` pixels."""
    return nn.Sequential(norm(in_ch), nn.Conv2d(in_ch, out_ch, stride, stride))


class ReplacingFamily(BlockFamily):
    """Puts a method's blocks in place of the ResNet's blocks that keep the shape, in `stages` (from 1).

    first_block: index (from 0) of the first block replaced in a stage. Raises ValueError for stages that are not distinct
    numbers from 1 to 4; method: its name, for that error.
    """

    def __init__(self, method, stages, first_block):
        if len(set(stages)) < len(stages) or not set(stages) <= {1, 2, 3, 4}:
            raise ValueError(f"{method}.stages must be distinct numbers from 1 to 4, got {stages}")
        self.stages, self.first_block = stages, first_block

    def block(self, ch, place, attention, drop_path):
        """A block (B, ch, H, W) -> (B, ch, H, W)."""
        raise NotImplementedError

    def __call__(self, in_ch, out_ch, stride, place, resnet_block, attention, drop_path):
        keeps_shape = stride == 1 and in_ch == out_ch
        if not keeps_shape or place.stage not in self.stages or place.index < self.first_block:
            return resnet_block(in_ch, out_ch, stride, drop_path)
        return self.block(out_ch, place, attention, drop_path)
