"""ResNeSt: split attention.

Zhang, Wu, Zhang, Zhu, Lin, Zhang, Sun, He, Mueller, Manmatha, Li and Smola, "ResNeSt: Split-Attention Networks",
CVPR Workshops 2022, sections 3.1, 3.2 (the radix-major layout) and 4.1 (the average pooling). Slot: conv.
Published with SGD.

Departures: the paper's bottleneck has one 3x3 convolution, the basic block two. Split attention replaces the first one,
which a ReLU follows. Its output, a weighted mean of rectified maps, is never negative: in the second's place it could only
add to the shortcut (`position=conv2` tries that). The gate's weights start at PyTorch's default, the authors' at a normal of
variance 2 / fan_out. Deep stem, pooled shortcut and the last norm's zero init belong to the recipe and stay out.
"""

from typing import Literal

import torch
from torch import nn

from models.ops.layout import global_avg_pool
from models.resnet import ConvBN


class SplitAttention(nn.Module):
    """Mixes `radix` convolutions, channel by channel: (B, in_ch, H, W) -> (B, out_ch, ceil(H/stride), ceil(W/stride)).

    Split r of R sees the r-th part of the input channels only, so the convolution costs the same for every radix. The
    weights come from the mean of the summed splits and sum to 1 over the splits; with radix 1 they are sigmoids.
    Raises ValueError in training on a single image, whose gate batch norm cannot normalize.
    """

    def __init__(self, in_ch, out_ch, stride, radix, cardinality):
        super().__init__()
        self.radix, self.cardinality = radix, cardinality
        inner_ch = max(in_ch * radix // 4, 32)  # the authors' reduction and floor
        if inner_ch % cardinality:
            raise ValueError(f"resnest.cardinality must divide the {inner_ch} channels of the gate, got {cardinality}")
        self.splits = ConvBN(in_ch, radix * out_ch, stride, groups=radix * cardinality)
        self.gate = nn.Sequential(
            nn.Conv2d(out_ch, inner_ch, 1, groups=cardinality),
            nn.BatchNorm2d(inner_ch),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner_ch, radix * out_ch, 1, groups=cardinality),
        )

    def forward(self, x):
        R, K = self.radix, self.cardinality
        B = x.shape[0]
        splits = self.splits(x).chunk(R, 1)  # R of (B, C, H, W); read by index, as torch.fx cannot loop over them
        pooled = sum(global_avg_pool(splits[r]) for r in range(R))  # (B, C)
        logits = self.gate(pooled[:, :, None, None]).view(B, K, R, -1)  # (B, K, R, C / K): the gate's groups come first
        weights = logits.softmax(2) if R > 1 else logits.sigmoid()  # on a GPU, autocast's softmax is in float32
        weights = weights.transpose(1, 2).reshape(B, R, -1, 1, 1).to(splits[0].dtype).unbind(1)  # R of (B, C, 1, 1)
        out = weights[0] * splits[0]
        for r in range(1, R):  # one by one, because autocast's sum over a stacked dimension would be float32
            out = torch.addcmul(out, weights[r], splits[r])
        return out


class ResNeStConv(nn.Sequential):
    """Split attention in one or both 3x3 convolutions of a basic block, ConvBN in the other.

    (B, in_ch, H, W) -> (B, out_ch, ceil(H/stride), ceil(W/stride)).

    radix: splits; 1 is a sigmoid gate as in SE, 0 a plain convolution in its place (the paper's control). cardinality:
    groups within a split. avd: where 3x3 average pooling takes over the stride, "before" (the paper's fast variant) or
    "after" the convolution; with "none" the convolution strides. position: which 3x3 of a basic block, conv1, conv2 or both;
    a bottleneck's only one counts as conv1. Raises ValueError if radix times cardinality does not divide in_ch, if
    cardinality does not divide out_ch or the gate's channels, and for an avd given with position=conv2.
    """

    def __init__(
        self,
        in_ch,
        out_ch,
        stride,
        relu,
        *,
        radix: int = 2,
        cardinality: int = 1,
        avd: Literal["none", "before", "after"] = "after",
        position: Literal["conv1", "conv2", "both"] = "conv1",
    ):
        if radix < 0 or cardinality < 1:
            raise ValueError(
                f"resnest.radix must be at least 0 and resnest.cardinality at least 1, got {radix} and {cardinality}"
            )
        if position == "conv2" and avd != "after":
            raise ValueError(
                f"resnest.avd={avd} has no effect with resnest.position=conv2, which has no stride: leave it out"
            )
        if position != "both" and position != ("conv1" if relu else "conv2"):
            super().__init__(ConvBN(in_ch, out_ch, stride, relu))
            self.is_plain = True
            return
        groups = max(radix, 1) * cardinality
        if in_ch % groups or out_ch % cardinality:
            raise ValueError(
                f"resnest.radix x resnest.cardinality ({groups}) must divide the {in_ch} channels that enter and "
                f"resnest.cardinality ({cardinality}) the {out_ch} that leave"
            )
        pool = [nn.AvgPool2d(3, stride, padding=1)] if stride > 1 and avd != "none" else []
        conv_stride = 1 if pool else stride
        if radix:
            conv = SplitAttention(in_ch, out_ch, conv_stride, radix, cardinality)
        else:
            conv = ConvBN(in_ch, out_ch, conv_stride, relu, groups=cardinality)
        super().__init__(*([*pool, conv] if avd == "before" else [conv, *pool]))
        self.is_plain = radix == 0 and cardinality == 1 and not pool  # build() refuses networks of such layers alone
