"""What the pre-norm methods share: layer norm over channels, layer scale, a start, and the family that hosts their blocks.

Pre-norm blocks keep width and size and have no activation after the add, so such a family brings its own stem,
downsampling and final norm.
"""

from typing import Literal

import torch
from torch import nn

from models.ops.channels import channel_scale
from models.ops.layernorm import channel_norm
from models.resnet import BlockFamily

Downsample = Literal["native", "resnet"]
Init = Literal["default", "trunc"]


def initialized(module, init):
    """The module, its convolutions drawn as ConvNeXt's and HorNet's authors do for "trunc": N(0, 0.02), biases 0.

    They draw the classifier so, too; here it keeps PyTorch's start.
    """
    if init == "trunc":
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    return module


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel: (B, C, H, W) -> (B, C, H, W). On channels-last maps no copy is made.

    before_linear: only convolutions and linear layers read the result, which saves a GPU the copy that autocast makes for
    them.
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
    strided basic block there. A stage that brings its own downsampling, as CSPNet's does, reads neither.
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

    def __call__(self, in_ch, out_ch, stride, place, basic, attention, drop_path):
        if stride == 1 and in_ch == out_ch:
            return self.block(out_ch, place, attention, drop_path)
        if self.downsampling == "resnet":
            return basic(in_ch, out_ch, stride, drop_path)
        down = self.downsample(in_ch, out_ch, stride)
        return nn.Sequential(down, self.block(out_ch, place.after(stride), attention, drop_path))

    def final_norm(self, ch):
        return nn.LayerNorm(ch, eps=1e-6)
