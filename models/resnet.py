"""Slim CIFAR ResNet, the baseline, and the four slots that a method can fill.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.

    slot       what fills it                                              in place of
    conv       conv(in_ch, out_ch, stride, relu)                          a 3x3 convolution with its norm
    attention  attention(ch), keeps the shape                             nothing: it joins the residual branch
    block      a BlockFamily                                              the basic block
    stage      stage(in_ch, out_ch, stride, place, block, drop_paths)     the plain chain of blocks

Shapes: B images, C channels, H x W pixels.
"""

from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from models.layout import mean_of_pixels


class Place(NamedTuple):
    """Where a block stands: its stage (from 1), its index in the stage (from 0), the height of the map that enters it."""

    stage: int
    index: int
    size: int

    def after(self, stride):
        """The same place behind a layer of this stride (sizes round up, as a padded 3x3 convolution does)."""
        return self._replace(size=-(-self.size // stride))


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm, ReLU if asked: (B, in_ch, H, W) -> (B, out_ch, ceil(H/stride), ceil(W/stride))."""

    def __init__(self, in_ch, out_ch, stride=1, relu=True, kernel_size=3, groups=1):
        conv = nn.Conv2d(in_ch, out_ch, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(conv, nn.BatchNorm2d(out_ch), *([nn.ReLU(inplace=True)] if relu else []))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops a sample's whole branch with probability `rate`, scales the rest."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)

    def extra_repr(self):
        return f"rate={self.rate:.3g}"


class PadShortcut(nn.Module):
    """Option A: takes every `stride`-th pixel and pads the new channels with zeros; no parameters."""

    def __init__(self, in_ch, out_ch, stride):
        super().__init__()
        self.stride, self.new_ch = stride, out_ch - in_ch

    def forward(self, x):
        x = F.avg_pool2d(x, 1, self.stride)  # of single pixels: unlike a strided view it keeps odd sizes channels-last
        return F.pad(x, (0, 0, 0, 0, self.new_ch // 2, self.new_ch - self.new_ch // 2))


AttentionPosition = Literal["before-conv1", "after-conv1", "before-add", "after-add"]


class BasicBlock(nn.Module):
    """relu(shortcut(x) + branch(x)), branch = conv, conv: (B, in_ch, H, W) -> (B, out_ch, ceil(H/stride), ceil(W/stride)).

    An attention module stands before the add (the usual place), or where `attention_position` says; "after-add" is
    behind the last ReLU.
    """

    def __init__(self, in_ch, out_ch, stride, drop_path, conv, attention, shortcut, attention_position):
        super().__init__()

        def attend(position, ch):
            return attention(ch) if attention_position == position else nn.Identity()

        self.branch = nn.Sequential(
            attend("before-conv1", in_ch),
            conv(in_ch, out_ch, stride, True),
            attend("after-conv1", out_ch),
            conv(out_ch, out_ch, 1, False),
            attend("before-add", out_ch),
            DropPath(drop_path),
        )
        if stride == 1 and in_ch == out_ch:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = PadShortcut(in_ch, out_ch, stride)
        else:
            self.shortcut = ConvBN(in_ch, out_ch, stride, relu=False, kernel_size=1)
        self.after_add = attend("after-add", out_ch)

    def forward(self, x):
        return self.after_add(F.relu(self.shortcut(x) + self.branch(x)))


class BlockFamily:
    """What fills the block slot. This one keeps the ResNet's own stem and blocks; a method overrides what it changes.

    `basic(in_ch, out_ch, stride, drop_path)` makes the ResNet's own block with its conv and attention slots filled.
    """

    def stem(self, in_ch, out_ch):
        return ConvBN(in_ch, out_ch)

    def __call__(self, in_ch, out_ch, stride, place, basic, attention, drop_path):
        """One block: (B, in_ch, H, W) -> (B, out_ch, ceil(H/stride), ceil(W/stride)), with H = place.size."""
        return basic(in_ch, out_ch, stride, drop_path)

    def final_norm(self, ch):
        """Normalizes the pooled vector (B, ch) in front of the classifier."""
        return nn.Identity()


class Chain(nn.Sequential):
    """The empty stage slot: one block after the other, the first of them strided."""

    def __init__(self, in_ch, out_ch, stride, place, block, drop_paths):
        first = block(in_ch, out_ch, stride, place, drop_path=drop_paths[0])
        place = place.after(stride)
        rest = [
            block(out_ch, out_ch, 1, place._replace(index=i), drop_path=p) for i, p in enumerate(drop_paths) if i > 0
        ]
        super().__init__(first, *rest)


class ResNet(nn.Module):
    """Three stages of width, 2 width, 4 width channels and (depth - 2) / 6 blocks each: (B, 3, H, W) -> (B, num_classes).

    depth: layers, 6k + 2. shortcut: A pads with zeros, B projects with a 1x1 convolution. drop_path: rate of the last
    block; it rises linearly from 0 at the first. Raises ValueError for a depth that is not 6k + 2 and for knobs that
    nothing in the network reads.
    """

    def __init__(
        self,
        num_classes,
        image_size,
        conv=ConvBN,
        attention=None,
        block=None,
        stage=Chain,
        *,
        depth: int = 20,
        width: int = 16,
        shortcut: Literal["A", "B"] = "A",
        attention_position: AttentionPosition = "before-add",
        drop_path: float = 0.0,
    ):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"resnet.depth must be 6k + 2 (20, 32, 44, 56, 110), got {depth}")
        if width < 1 or not 0 <= drop_path < 1:
            raise ValueError(
                f"resnet.width must be at least 1 and resnet.drop_path in [0, 1), got {width} and {drop_path}"
            )
        if attention is None and attention_position != "before-add":
            raise ValueError("resnet.attention_position is set, but no method fills the attention slot")
        attention = attention or (lambda ch: nn.Identity())
        family = block or BlockFamily()
        basic = partial(
            BasicBlock, conv=conv, attention=attention, shortcut=shortcut, attention_position=attention_position
        )
        make_block = partial(family, basic=basic, attention=attention)

        n_blocks = (depth - 2) // 6
        drop_paths = torch.linspace(0, drop_path, 3 * n_blocks, device="cpu").tolist()
        in_ch, size = width, image_size
        self.stem = family.stem(3, width)
        self.stages = nn.Sequential()
        for i in range(3):
            out_ch, stride = width * 2**i, 1 if i == 0 else 2
            rates = drop_paths[i * n_blocks : (i + 1) * n_blocks]
            self.stages.append(stage(in_ch, out_ch, stride, Place(i + 1, 0, size), block=make_block, drop_paths=rates))
            in_ch, size = out_ch, -(-size // stride)
        self.norm = family.final_norm(in_ch)
        self.fc = nn.Linear(in_ch, num_classes)

        blocks = [module for module in self.modules() if isinstance(module, BasicBlock)]
        if attention_position != "before-add" and not blocks:
            raise ValueError("resnet.attention_position is read by basic blocks only, and this network has none")
        if shortcut != "A" and all(isinstance(module.shortcut, nn.Identity) for module in blocks):
            raise ValueError("resnet.shortcut is read by basic blocks that change the shape, and this network has none")

    def forward(self, x):
        x = self.stages(self.stem(x))
        return self.fc(self.norm(mean_of_pixels(x)))
