"""Three candidates for a module of our own: results/own/README.md has their reasons, equations and predictions.

Slot: block. All keep the ResNet's stem and strided blocks.
"""

from typing import Literal

import torch.nn.functional as F
from torch import nn

from models.ops.depthwise import Depthwise
from models.ops.layout import mean_of_pixels
from models.resnet import BlockFamily, ConvBN, DropPath


def closed_norm(ch):
    """A batch norm that starts at 0."""
    norm = nn.BatchNorm2d(ch)
    nn.init.zeros_(norm.weight)
    return norm


class RelativeGate(nn.Module):
    """x + BN(P(a * (1 + BN0(k2 * k1 * b)))), with (a, b) = gelu(BN(E x)): (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, ch, size, ratio, attention, drop_path):
        super().__init__()
        inner, reach = ratio * ch // 2, 2 * size - 1
        self.expand = ConvBN(ch, 2 * inner, relu=False, kernel_size=1)
        self.gate = nn.Sequential(
            Depthwise(inner, (1, reach), bias=False), Depthwise(inner, (reach, 1), bias=False), closed_norm(inner)
        )
        self.project = nn.Sequential(ConvBN(inner, ch, relu=False, kernel_size=1), attention(ch), DropPath(drop_path))

    def forward(self, x):
        a, b = F.gelu(self.expand(x)).chunk(2, dim=1)
        return x + self.project(a * (1 + self.gate(b)))


class RelGate(BlockFamily):
    """RelativeGate in place of the third stage's blocks that keep the shape. ratio: hidden width in widths of the block."""

    def __init__(self, *, ratio: int = 6):
        self.ratio = ratio

    def __call__(self, in_ch, out_ch, stride, place, basic, attention, drop_path):
        if stride == 1 and in_ch == out_ch and place.stage == 3:
            return RelativeGate(out_ch, place.size, self.ratio, attention, drop_path)
        return basic(in_ch, out_ch, stride, drop_path)


class WidePooling(nn.Module):
    """Mean over pixels of relu(BN(U x)), or of BN(U x) * BN(V x): (B, C, H, W) -> (B, ratio C)."""

    def __init__(self, ch, ratio, form):
        super().__init__()
        self.form = form
        self.expand = ConvBN(ch, ratio * ch * (2 if form == "product" else 1), relu=form == "relu", kernel_size=1)

    def forward(self, x):
        x = self.expand(x)
        if self.form == "product":
            u, v = x.chunk(2, dim=1)
            x = u * v
        return mean_of_pixels(x)


class WidePool(BlockFamily):
    """WidePooling in place of the mean over pixels. ratio: features in channels of the last map."""

    def __init__(self, *, ratio: int = 4, form: Literal["relu", "product"] = "relu"):
        self.ratio, self.form = ratio, form

    def pooling(self, ch):
        return WidePooling(ch, self.ratio, self.form), self.ratio * ch


class ContextGate(nn.Module):
    """x * (1 + BN0(K * x)), K depthwise: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, ch, kernel_size):
        super().__init__()
        self.gate = nn.Sequential(Depthwise(ch, kernel_size, bias=False), closed_norm(ch))

    def forward(self, x):
        return x * (1 + self.gate(x))


class ContextGates(BlockFamily):
    """A ContextGate after each block of the last stages, from first_stage on."""

    def __init__(self, *, kernel_size: int = 7, first_stage: int = 3):
        self.kernel_size, self.first_stage = kernel_size, first_stage

    def __call__(self, in_ch, out_ch, stride, place, basic, attention, drop_path):
        block = basic(in_ch, out_ch, stride, drop_path)
        return nn.Sequential(block, ContextGate(out_ch, self.kernel_size)) if place.stage >= self.first_stage else block
