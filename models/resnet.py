"""The ResNets, slim for CIFAR and wide as for ImageNet, and the five slots that a method can fill.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016: section 4.2 (ResNet, the baseline) and
section 4.1 with Table 1 and Figure 5 (ImageNetResNet). Without shortcuts they are the paper's plain networks.

Departures of ImageNetResNet: a bottleneck strides in its 3x3, as in Facebook's code of 2016, ResNeSt and Res2Net, not in
its first 1x1, which skips three pixels of four; and images of up to 64 pixels get a 3x3 stem without pooling.

    slot       what fills it                                              in place of
    conv       conv(in_ch, out_ch, stride, relu)                          a 3x3 convolution with its norm
    attention  attention(ch), keeps the shape                             nothing: it joins the residual branch
    block      a BlockFamily                                              the basic block or bottleneck
    stage      stage(in_ch, out_ch, stride, place, block, drop_paths)     the plain chain of blocks
    pool       pool(ch), to a vector of pool.out_ch numbers               the mean over pixels

Shapes: B images, C channels, H x W pixels.
"""

from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from models.ops.grouped import Grouped
from models.ops.layout import every_nth, global_avg_pool
from models.ops.tracing import leaf


class Place(NamedTuple):
    """Where a block stands: its stage (from 1), its index in the stage (from 0), the height of the map that enters it.

    bottleneck: whether the block is a bottleneck, whose output has four times the channels of its 3x3 convolution.
    """

    stage: int
    index: int
    size: int
    bottleneck: bool = False

    def after(self, stride):
        """The same place after a layer of this stride (sizes round up, as a padded 3x3 convolution does)."""
        return self._replace(size=-(-self.size // stride))


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm, ReLU if asked: (B, in_ch, H, W) -> (B, out_ch, ceil(H/stride), ceil(W/stride))."""

    def __init__(self, in_ch, out_ch, stride=1, relu=True, kernel_size=3, groups=1):
        Conv = Grouped if groups > 1 else nn.Conv2d
        conv = Conv(in_ch, out_ch, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        # the fan out of all groups together, as in ResNeSt's code; the norm undoes the scale
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(conv, nn.BatchNorm2d(out_ch), *([nn.ReLU(inplace=True)] if relu else []))


@leaf
def drop_path(x, rate):
    """Zeroes each sample with probability `rate`, divides the others by 1 - rate: keeps the shape."""
    keep = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - rate)
    return x * keep.div_(1 - rate)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops a sample's whole branch with probability `rate`, scales the rest.

    The paper draws once for all samples of a batch.
    """

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        return drop_path(x, self.rate) if self.training and self.rate else x

    def extra_repr(self):
        return f"rate={self.rate:.3g}"


class PadShortcut(nn.Module):
    """Option A: takes every `stride`-th pixel and pads the new channels with zeros; no parameters."""

    def __init__(self, in_ch, out_ch, stride):
        super().__init__()
        self.stride, self.new_ch = stride, out_ch - in_ch

    def forward(self, x):
        return F.pad(every_nth(x, self.stride), (0, 0, 0, 0, self.new_ch // 2, self.new_ch - self.new_ch // 2))


class GlobalAvgPool(nn.Module):
    """The default pool: global average pooling: (B, C, H, W) -> (B, C)."""

    def __init__(self, ch):
        super().__init__()
        self.out_ch = ch

    def forward(self, x):
        return global_avg_pool(x)


AttentionPosition = Literal["before-conv1", "after-conv1", "before-add", "after-add"]
Shortcut = Literal["A", "B", "none"]


def make_shortcut(in_ch, out_ch, stride, kind):
    """What is added to the branch: x itself, or x brought to the branch's shape; None in a plain network."""
    if kind == "none":
        return None
    if stride == 1 and in_ch == out_ch:
        return nn.Identity()
    if kind == "A":
        return PadShortcut(in_ch, out_ch, stride)
    return ConvBN(in_ch, out_ch, stride, relu=False, kernel_size=1)


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + branch(x)): (B, in_ch, H, W) -> (B, out_ch, ceil(H/stride), ceil(W/stride)).

    An attention module stands before the add (the usual place), or where `attention_position` says; "after-add" is
    after the last ReLU. Subclasses define the branch's layers.
    """

    def __init__(self, in_ch, out_ch, stride, drop_path, conv, attention, shortcut, attention_position):
        super().__init__()

        def attend(position, ch):
            return attention(ch) if attention_position == position else nn.Identity()

        self.branch = nn.Sequential(
            attend("before-conv1", in_ch),
            *self.layers(in_ch, out_ch, stride, conv, attend),
            attend("before-add", out_ch),
            DropPath(drop_path),
        )
        self.shortcut = make_shortcut(in_ch, out_ch, stride, shortcut)
        self.after_add = attend("after-add", out_ch)

    def layers(self, in_ch, out_ch, stride, conv, attend):
        """The convolutions, and attend("after-conv1", channels) after the first: a list of modules."""
        raise NotImplementedError

    def forward(self, x):
        out = self.branch(x)
        return self.after_add(F.relu(out if self.shortcut is None else self.shortcut(x) + out))


class BasicBlock(ResidualBlock):
    """Branch: two 3x3 convolutions from the conv slot."""

    def layers(self, in_ch, out_ch, stride, conv, attend):
        return [conv(in_ch, out_ch, stride, True), attend("after-conv1", out_ch), conv(out_ch, out_ch, 1, False)]


class Bottleneck(ResidualBlock):
    """Branch: 1x1 down to out_ch / 4, the conv slot's 3x3 with the stride, 1x1 up again.

    Raises ValueError if out_ch is not a multiple of 4.
    """

    def layers(self, in_ch, out_ch, stride, conv, attend):
        if out_ch % 4:
            raise ValueError(f"a bottleneck needs a multiple of 4 channels, got {out_ch}: choose another resnet.width")
        ch = out_ch // 4
        return [
            ConvBN(in_ch, ch, kernel_size=1),
            attend("after-conv1", ch),
            conv(ch, ch, stride, True),
            ConvBN(ch, out_ch, kernel_size=1, relu=False),
        ]


class BlockFamily:
    """What fills the block slot. This one keeps the ResNet's own stem and blocks; a method overrides what it changes.

    `resnet_block(in_ch, out_ch, stride, drop_path)` makes the ResNet's own block, its conv and attention slots filled.
    `attention(ch)` makes what fills the attention slot, or an identity; a method's block puts it at the end of the branch
    that mixes pixels, before layer scale. drop_path: the block's rate, for a DropPath at the end of each branch.
    narrow: the blocks expand inside, so from depth 50 the stages have a quarter of the channels of bottleneck stages.
    """

    narrow = False

    def stem(self, in_ch, out_ch, stride):
        """(B, in_ch, H, W) -> (B, out_ch, H / stride, W / stride), stride 1 for small images and 4 for large ones."""
        if stride == 1:
            return ConvBN(in_ch, out_ch)
        return nn.Sequential(ConvBN(in_ch, out_ch, 2, kernel_size=7), nn.MaxPool2d(3, 2, padding=1))

    def __call__(self, in_ch, out_ch, stride, place, resnet_block, attention, drop_path):
        """One block: (B, in_ch, H, W) -> (B, out_ch, ceil(H/stride), ceil(W/stride)), with H = place.size."""
        return resnet_block(in_ch, out_ch, stride, drop_path)

    def final_norm(self, ch):
        """Normalizes the pooled vector (B, ch) before the classifier."""
        return nn.Identity()


class Chain(nn.Sequential):
    """The default stage: one block after another, the first with the stride.

    block(in_ch, out_ch, stride, place, drop_path=rate) makes one. drop_paths: one rate for each block.
    """

    def __init__(self, in_ch, out_ch, stride, place, block, drop_paths):
        first = block(in_ch, out_ch, stride, place, drop_path=drop_paths[0])
        place = place.after(stride)
        rest = [block(out_ch, out_ch, 1, place._replace(index=i), drop_path=p) for i, p in enumerate(drop_paths[1:], 1)]
        super().__init__(first, *rest)


class Layout(NamedTuple):
    """The stem's channels and stride, the kind of block, and the number of blocks and channels of each stage.

    Stages of bottlenecks have four times these channels.
    """

    stem_ch: int
    stem_stride: int
    own_block: type
    depths: tuple
    widths: tuple


class StagedNet(nn.Module):
    """Stem, stages of blocks, pooling, final norm, classifier: (B, 3, H, W) -> (B, num_classes).

    Every stage but the first begins with a stride of 2. drop_path: rate of the last block; it rises linearly from 0 at
    the first. conv, attention, block, stage, pool: what fills the slots (see the head of this file). Raises ValueError for
    knobs out of range, and for knobs that nothing in the network reads.
    """

    default_shortcut: Shortcut

    def __init__(
        self,
        num_classes,
        image_size,
        layout,
        shortcut,
        attention_position,
        drop_path,
        conv=ConvBN,
        attention=None,
        block=None,
        stage=Chain,
        pool=GlobalAvgPool,
    ):
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"resnet.drop_path must be in [0, 1), got {drop_path}")
        if layout.stem_ch < 1:  # the width
            raise ValueError(f"resnet.width must be at least 1, got {layout.stem_ch}")
        if shortcut == "none" and drop_path:
            raise ValueError(
                "resnet.drop_path drops branches, and without shortcuts nothing would be left: leave it out"
            )
        if attention is None and attention_position != "before-add":
            raise ValueError("resnet.attention_position is set, but no method fills the attention slot")
        attention = attention or (lambda ch: nn.Identity())
        family = block or BlockFamily()
        stem_ch, stem_stride, own_block, depths, widths = layout
        resnet_block = partial(
            own_block, conv=conv, attention=attention, shortcut=shortcut, attention_position=attention_position
        )
        make_block = partial(family, resnet_block=resnet_block, attention=attention)
        bottleneck = own_block is Bottleneck and not family.narrow
        if bottleneck:
            widths = [4 * width for width in widths]

        # on the CPU even under torch.device("meta"), whose tensors have no values to read
        drop_paths = torch.linspace(0, drop_path, sum(depths), device="cpu").split(depths)
        in_ch, size = stem_ch, -(-image_size // stem_stride)
        self.stem = family.stem(3, stem_ch, stem_stride)
        self.stages = nn.Sequential()
        for i, (out_ch, rates) in enumerate(zip(widths, drop_paths, strict=True)):
            stride, place = 1 if i == 0 else 2, Place(i + 1, 0, size, bottleneck)
            self.stages.append(stage(in_ch, out_ch, stride, place, block=make_block, drop_paths=rates.tolist()))
            in_ch, size = out_ch, -(-size // stride)
        self.pool = pool(in_ch)
        self.norm = family.final_norm(self.pool.out_ch)
        self.fc = nn.Linear(self.pool.out_ch, num_classes)

        blocks = [module for module in self.modules() if isinstance(module, ResidualBlock)]
        if attention_position != "before-add" and not blocks:
            raise ValueError(
                "resnet.attention_position is read by the ResNet's own blocks only, and this network has none"
            )
        if shortcut != self.default_shortcut and all(isinstance(module.shortcut, nn.Identity) for module in blocks):
            raise ValueError(
                "resnet.shortcut is read by the ResNet's own blocks that change the shape, and this network has none"
            )

    def stage_maps(self, x):
        """A list of the stages' outputs, largest first: (B, 3, H, W) -> (B, C_i, H_i, W_i) each."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def forward_features(self, x):
        """The map that leaves the last stage, before the pooling: (B, 3, H, W) -> (B, C, H', W')."""
        return self.stages(self.stem(x))

    def forward(self, x):
        return self.fc(self.norm(self.pool(self.forward_features(x))))


class ResNet(StagedNet):
    """Slim, for CIFAR: three stages of width times 1, 2 and 4 channels, (depth - 2) / 6 basic blocks each.

    depth: layers, 6k + 2. width: channels of the first stage. shortcut: A pads with zeros, B projects with a 1x1
    convolution, none makes a plain network. attention_position: where an attention module stands in a block; "after-add" is
    after the last ReLU. drop_path: rate of the last block; it rises linearly from 0 at the first. Raises ValueError for a
    depth that is not 6k + 2, and as StagedNet does, which takes the slots.
    """

    default_shortcut = "A"

    def __init__(
        self,
        num_classes,
        image_size,
        *,
        depth: int = 20,
        width: int = 16,
        shortcut: Shortcut = "A",
        attention_position: AttentionPosition = "before-add",
        drop_path: float = 0.0,
        **slots,
    ):
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"resnet.depth must be 6k + 2 (20, 32, 44, 56, 110), got {depth}")
        n = (depth - 2) // 6
        layout = Layout(width, 1, BasicBlock, (n, n, n), (width, 2 * width, 4 * width))
        super().__init__(num_classes, image_size, layout, shortcut, attention_position, drop_path, **slots)


DEPTHS = {  # layers: kind of block, blocks of the four stages (Table 1)
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
LARGE_IMAGE = 64  # pixels; above it the stem strides


class ImageNetResNet(StagedNet):
    """Wide, as for ImageNet: four stages of width times 1, 2, 4 and 8 channels, and four times as many with bottlenecks.

    depth: layers, a key of DEPTHS. width: channels of the first stage, or with bottlenecks a quarter of them. stem: "cifar"
    is a 3x3 convolution, "imagenet" a 7x7 of stride 2 with a 3x3 max pool of stride 2, and "auto" is cifar for images of up
    to 64 pixels. shortcut: A pads with zeros, B projects with a 1x1 convolution, none makes a plain network.
    attention_position: where an attention module stands in a block; "after-add" is after the last ReLU. drop_path: rate of
    the last block; it rises linearly from 0 at the first. Raises ValueError for another depth, and as StagedNet does, which
    takes the slots.
    """

    default_shortcut = "B"

    def __init__(
        self,
        num_classes,
        image_size,
        *,
        depth: int = 18,
        width: int = 64,
        stem: Literal["auto", "cifar", "imagenet"] = "auto",
        shortcut: Shortcut = "B",
        attention_position: AttentionPosition = "before-add",
        drop_path: float = 0.0,
        **slots,
    ):
        if depth not in DEPTHS:
            raise ValueError(f"resnet.depth must be one of {', '.join(map(str, DEPTHS))}, got {depth}")
        own_block, depths = DEPTHS[depth]
        strides = stem == "imagenet" or (stem == "auto" and image_size > LARGE_IMAGE)
        widths = tuple(width * 2**i for i in range(4))
        layout = Layout(width, 4 if strides else 1, own_block, depths, widths)
        super().__init__(num_classes, image_size, layout, shortcut, attention_position, drop_path, **slots)
