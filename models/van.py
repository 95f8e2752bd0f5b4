"""The attention unit, block and layers of VAN, which SegNeXt and LSKNet took over; each puts its own gate into the unit.

Guo, Lu, Liu, Cheng and Hu, "Visual Attention Network", Computational Visual Media 2023 (arXiv 2202.09741), and the
authors' code: batch norm, layer scale 1e-2, a depthwise convolution in the feed-forward part. A gate is
gate(ch): (B, C, H, W) -> (B, C, H, W).

Departures, for 32x32 images: the stem is a 3x3 convolution of stride 1. (The 7x7 of stride 4 of VAN and LSKNet would leave
8x8 pixels. Large images get it, also in MSCAN, whose authors use two 3x3 of stride 2.) The only layer norm comes after the
pooling; theirs end each stage with one, the last before the pooling. The classifier keeps PyTorch's start. One expansion
serves all stages; theirs are 8, 8, 4, 4.
"""

from typing import Literal

from torch import nn

from models.ops.channels import Pointwise
from models.ops.depthwise import Depthwise
from models.prenorm import Downsample, LayerScale, PreNormFamily, initialized
from models.resnet import DropPath

Init = Literal["normal", "default"]


class AttentionUnit(nn.Module):
    """x + 1x1(gate(gelu(1x1(x)))): (B, C, H, W) -> (B, C, H, W). The block adds its own shortcut to this one."""

    def __init__(self, ch, gate):
        super().__init__()
        self.branch = nn.Sequential(Pointwise(ch, ch), nn.GELU(), gate(ch), Pointwise(ch, ch))

    def forward(self, x):
        return x + self.branch(x)


class VANBlock(nn.Module):
    """x = x + scale(unit(norm(x))), then x + scale(mlp(norm(x))): (B, C, H, W) -> (B, C, H, W).

    mlp: 1x1, depthwise 3x3, GELU, 1x1.
    """

    def __init__(self, ch, gate, attention, drop_path, expansion, layer_scale, init):
        super().__init__()
        hidden = expansion * ch
        mlp = nn.Sequential(Pointwise(ch, hidden), Depthwise(hidden, 3), nn.GELU(), Pointwise(hidden, ch))
        self.spatial = nn.Sequential(
            nn.BatchNorm2d(ch),
            initialized(AttentionUnit(ch, gate), init),
            attention(ch),
            LayerScale(ch, layer_scale),
            DropPath(drop_path),
        )
        self.channel = nn.Sequential(
            nn.BatchNorm2d(ch), initialized(mlp, init), LayerScale(ch, layer_scale), DropPath(drop_path)
        )

    def forward(self, x):
        x = x + self.spatial(x)
        return x + self.channel(x)


class VANFamily(PreNormFamily):
    """VAN's blocks around a gate; stem and downsampling are convolutions with batch norm.

    method: its name, for the error. Raises ValueError for an expansion below 1.
    """

    def __init__(self, method, gate, expansion, layer_scale, init: Init, downsample: Downsample):
        super().__init__(downsample)
        if expansion < 1:
            raise ValueError(f"{method}.expansion must be at least 1, got {expansion}")
        self.gate, self.expansion, self.layer_scale, self.init = gate, expansion, layer_scale, init

    def stem(self, in_ch, out_ch, stride):
        return self.downsample(in_ch, out_ch, stride, kernel_size=3 if stride == 1 else 7)

    def downsample(self, in_ch, out_ch, stride, kernel_size=3):
        conv = initialized(nn.Conv2d(in_ch, out_ch, kernel_size, stride, padding=kernel_size // 2), self.init)
        return nn.Sequential(conv, nn.BatchNorm2d(out_ch))

    def block(self, ch, place, attention, drop_path):
        return VANBlock(ch, self.gate, attention, drop_path, self.expansion, self.layer_scale, self.init)
