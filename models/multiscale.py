"""Multi-scale convolutions: several kernel sizes side by side, or small kernels one after the other.

Szegedy, Liu, Jia and others, "Going Deeper with Convolutions", CVPR 2015, section 4 (kernels side by side); Tan and Le,
"MixConv: Mixed Depthwise Convolutional Kernels", BMVC 2019, section 3; Gao, Cheng, Zhao, Zhang, Yang and Torr,
"Res2Net: A New Multi-scale Backbone Architecture", IEEE TPAMI 2021, equation 1. Slot: conv. Published with SGD,
MixConv with RMSProp.

Departures: an Inception module keeps only its parallel kernels, here 3x3, 5x5 and 7x7 rather than 1x1, 3x3 and 5x5, with one
norm after their concatenation and no reductions or pooling. The channels are shared by MixConv's exponential partition (each
kernel takes half of what is left, the last all of it), where the authors' code has equal shares. After MixConv's kernels comes
a 1x1 convolution, without the norm and activation that MixNet has between them. Res2Net's cascade is made for bottlenecks,
whose 1x1 convolutions mix its groups, and cannot change the width. So in a basic block it replaces the first convolution,
unless that changes the width, and the second one mixes. It has the channels of the 3x3 that it replaces; the paper widens it
(4 x 26 for 64) to keep the costs. As in the authors' code the last group is the one without a kernel, where the paper has the
first. Their code leaves out the sums x_i + y_{i-1} and averages the last group in the first block of each stage; here only
strided blocks do.
"""

from typing import Literal

import torch.nn.functional as F
from torch import nn

from models.ops.channels import Pointwise
from models.ops.depthwise import Depthwise
from models.ops.layout import concatenate
from models.resnet import ConvBN


def shares(ch, kernel_sizes):
    """MixConv's exponential partition of ch channels: each kernel takes half of the rest, the last all of it.

    Raises ValueError if a kernel would get no channel.
    """
    parts = []
    for _ in kernel_sizes[1:]:
        parts.append((ch - sum(parts)) // 2)
    parts.append(ch - sum(parts))
    if min(parts) < 1:
        raise ValueError(f"multiscale.kernel_sizes has more sizes than {ch} channels can share: {kernel_sizes}")
    return parts


class Parallel(nn.Module):
    """Kernels of several sizes, each for a share of the output: (B, in_ch, H, W) -> (B, out_ch, H', W').

    H' = ceil(H / stride).
    """

    def __init__(self, in_ch, out_ch, stride, kernel_sizes):
        super().__init__()
        parts = shares(out_ch, kernel_sizes)
        self.convs = nn.ModuleList(
            nn.Conv2d(in_ch, part, k, stride, k // 2, bias=False) for part, k in zip(parts, kernel_sizes, strict=True)
        )
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")  # fan out is that of a share

    def forward(self, x):
        return concatenate([conv(x) for conv in self.convs])


class MixedDepthwise(nn.Module):
    """Depthwise kernels of several sizes, each on a share of the input, then 1x1: (B, in_ch, H, W) -> (B, out_ch, H', W').

    H' = ceil(H / stride).
    """

    def __init__(self, in_ch, out_ch, stride, kernel_sizes):
        super().__init__()
        self.parts = shares(in_ch, kernel_sizes)
        self.convs = nn.ModuleList(
            Depthwise(part, k, stride, bias=False) for part, k in zip(self.parts, kernel_sizes, strict=True)
        )
        self.mix = Pointwise(in_ch, out_ch, bias=False)

    def forward(self, x):
        parts = x.split(self.parts, dim=1)  # read by index, as torch.fx cannot loop over them
        return self.mix(concatenate([conv(parts[i]) for i, conv in enumerate(self.convs)]))


class Cascade(nn.Module):
    """y_1 = K_1(x_1), y_i = K_i(x_i + y_{i-1}), and the last of the groups as it is: (B, C, H, W) -> (B, C, H', W').

    K_i is a 3x3 convolution with norm and ReLU. With a stride y_{i-1}, smaller than x_i, is not added, and the
    last group is average-pooled over 3x3 pixels. Raises ValueError for scales that do not divide the channels.
    """

    def __init__(self, ch, stride, scales):
        super().__init__()
        if scales < 2 or ch % scales:
            raise ValueError(f"multiscale.scales must be at least 2 and divide the {ch} channels, got {scales}")
        self.stride = stride
        self.convs = nn.ModuleList(ConvBN(ch // scales, ch // scales, stride) for _ in range(scales - 1))

    def forward(self, x):
        groups = x.chunk(len(self.convs) + 1, dim=1)
        out = []  # y_1, y_2, ...
        for i, conv in enumerate(self.convs):
            adds_prev = i > 0 and self.stride == 1
            group = groups[i] + out[-1] if adds_prev else groups[i]
            out.append(conv(group))
        last = groups[len(self.convs)]
        if self.stride > 1:
            last = F.avg_pool2d(last, 3, self.stride, padding=1)
        return concatenate([*out, last])


class MultiScaleConv(nn.Sequential):
    """Kernels of several sizes, a norm and perhaps a ReLU: (B, in_ch, H, W) -> (B, out_ch, ceil(H/stride), ceil(W/stride)).

    form: "parallel" is dense kernels side by side, "depthwise" depthwise ones and a 1x1, "cascade" is Res2Net's.
    kernel_sizes: odd, not for cascade; the first gets half of the channels, the next half of the rest, the last all of it.
    scales: groups of the cascade. Raises ValueError for an even size, shares or groups that the channels do not allow, and a
    knob that the form does not read.
    """

    def __init__(
        self,
        in_ch,
        out_ch,
        stride,
        relu,
        *,
        form: Literal["parallel", "depthwise", "cascade"] = "parallel",
        kernel_sizes: tuple[int, ...] = (3, 5, 7),
        scales: int = 4,
    ):
        if any(k < 1 or k % 2 == 0 for k in kernel_sizes):
            raise ValueError(f"multiscale.kernel_sizes must be odd, got {kernel_sizes}")
        if form == "cascade" and kernel_sizes != (3, 5, 7):
            raise ValueError("multiscale.kernel_sizes is set, but multiscale.form=cascade has 3x3 kernels only")
        if form != "cascade" and scales != 4:
            raise ValueError(f"multiscale.scales is set, but multiscale.form={form} has no groups")
        if form == "depthwise" or (form == "parallel" and kernel_sizes != (3,)):
            convs = (Parallel if form == "parallel" else MixedDepthwise)(in_ch, out_ch, stride, kernel_sizes)
            super().__init__(convs, nn.BatchNorm2d(out_ch), *([nn.ReLU(inplace=True)] if relu else []))
        elif form == "cascade" and relu and in_ch == out_ch:
            super().__init__(Cascade(in_ch, stride, scales))
        else:
            super().__init__(ConvBN(in_ch, out_ch, stride, relu))
            self.is_plain = True  # build() refuses networks of such layers alone
