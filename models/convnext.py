"""ConvNeXt: the modernized convolutional block.

Liu, Mao, Wu, Feichtenhofer, Darrell and Xie, "A ConvNet for the 2020s", CVPR 2022, Figure 4 and section 2.6.
Slot: block. Published with AdamW.

Departures, for 32x32 images and SGD: the stem is a 3x3 convolution of stride 1 (the 4x4 patches of stride 4 would leave
8x8 pixels; large images get them); weights start at PyTorch's default rather than at a truncated normal of 0.02
(`init=trunc`, except for the classifier); and layer scale starts at 1 rather than at 1e-6 (`layer_scale=1e-6`). The
gradients of a branch carry its scale as a factor: Adam divides by their size, SGD does not, and with a small scale the
branch hardly learns.
"""

from functools import partial
from typing import Literal

from torch import nn

from models.ops.channels import Pointwise
from models.ops.depthwise import Depthwise
from models.prenorm import (
    ChannelNorm,
    Downsample,
    Init,
    LayerScale,
    PreNormFamily,
    initialized,
    patch_downsample,
    patch_stem,
)
from models.resnet import DropPath

NORMS = {"layer": ChannelNorm, "batch": nn.BatchNorm2d}
NORMS_BEFORE_CONV = {"layer": partial(ChannelNorm, before_linear=True), "batch": nn.BatchNorm2d}
ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class ConvNeXtBlock(nn.Module):
    """x + scale(mlp(norm(depthwise(x)))): (B, C, H, W) -> (B, C, H, W). One norm, one activation."""

    def __init__(self, ch, attention, drop_path, kernel_size, norm, act, expansion, layer_scale, init):
        super().__init__()
        branch = nn.Sequential(
            Depthwise(ch, kernel_size),
            NORMS_BEFORE_CONV[norm](ch),
            Pointwise(ch, expansion * ch),
            ACTIVATIONS[act](),
            Pointwise(expansion * ch, ch),
        )
        self.branch = initialized(branch, init)  # before the attention module, which keeps its own init
        self.branch.extend([attention(ch), LayerScale(ch, layer_scale), DropPath(drop_path)])

    def forward(self, x):
        return x + self.branch(x)


class ConvNeXt(PreNormFamily):
    """Depthwise 7x7, layer norm and an inverted bottleneck in each block; layer norm and 2x2 convolutions between stages.

    kernel_size: of the depthwise convolution, odd. norm: of blocks, stem and downsampling; the paper's is "layer", over the
    channels of each pixel. act: of the block; the paper's is "gelu". expansion: of the inverted bottleneck. layer_scale: its
    initial value, 0 for none. init: "default" is PyTorch's, "trunc" the authors' truncated normal of 0.02. downsample:
    between stages, "native" is the paper's layer, "resnet" the ResNet's strided block. Raises ValueError for an even kernel
    size and an expansion below 1.
    """

    def __init__(
        self,
        *,
        kernel_size: int = 7,
        norm: Literal["layer", "batch"] = "layer",
        act: Literal["gelu", "relu"] = "gelu",
        expansion: int = 4,
        layer_scale: float = 1.0,
        init: Init = "default",
        downsample: Downsample = "native",
    ):
        super().__init__(downsample)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"convnext.kernel_size must be odd, got {kernel_size}")
        if expansion < 1:
            raise ValueError(f"convnext.expansion must be at least 1, got {expansion}")
        self.kernel_size, self.norm, self.act = kernel_size, norm, act
        self.expansion, self.layer_scale, self.init = expansion, layer_scale, init

    def stem(self, in_ch, out_ch, stride):
        return initialized(patch_stem(in_ch, out_ch, stride, NORMS[self.norm]), self.init)

    def downsample(self, in_ch, out_ch, stride):
        return initialized(patch_downsample(in_ch, out_ch, stride, NORMS_BEFORE_CONV[self.norm]), self.init)

    def block(self, ch, place, attention, drop_path):
        knobs = (self.kernel_size, self.norm, self.act, self.expansion, self.layer_scale, self.init)
        return ConvNeXtBlock(ch, attention, drop_path, *knobs)
