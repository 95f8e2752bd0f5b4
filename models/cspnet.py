"""CSPNet: cross-stage partial connections.

Wang, Liao, Wu, Chen, Hsieh and Yeh, "CSPNet: A New Backbone that can Enhance Learning Capability of CNN", CVPR Workshops
2020, Figures 2 and 3. Slot: stage, around any block. Published with SGD.

Departures: ReLU, as in the rest of the network, where the authors' configurations have leaky ReLU, or none after some
splits of CSPResNet-50 and CSPResNeXt-50. The paper slices the channels; the authors' configurations make the two parts
by 1x1 convolutions, which is the default here (`split`). Each part has its share of the channels, as in CSPResNeXt and
CSPDarknet (in CSPResNet-50 and in CSPDarknet's first stage both are as wide as the stage).
"""

import math
from functools import partial
from typing import Literal

from torch import nn

from models.ops.layout import concatenate
from models.resnet import ConvBN


class Slice(nn.Module):
    """Channels start..stop as they are: (B, C, H, W) -> (B, stop - start, H, W), a view."""

    def __init__(self, start, stop):
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x):
        return x[:, self.start : self.stop]


class CSPStage(nn.Module):
    """Runs the blocks on one part of the channels: (B, in_ch, H, W) -> (B, out_ch, ceil(H/stride), ceil(W/stride)).

    A 3x3 convolution before the split changes the shape where in_ch and stride ask for it; with split=conv and bottlenecks
    it only strides, and the split's 1x1 convolutions widen, as in CSPResNeXt-50.

    gamma: the fraction of the channels that bypasses the blocks (part 1). split: two 1x1 convolutions, or a slice. fusion:
    a 1x1 transition after the blocks and one after the concatenation ("both"), only the latter ("first": the parts are
    fused first), or only the former ("last"). Raises ValueError for a gamma that does not split the channels into
    whole numbers.
    """

    def __init__(
        self,
        in_ch,
        out_ch,
        stride,
        place,
        block,
        drop_paths,
        *,
        gamma: float = 0.5,
        split: Literal["conv", "slice"] = "conv",
        fusion: Literal["both", "first", "last"] = "both",
    ):
        super().__init__()
        ch1 = round(gamma * out_ch)
        ch2 = out_ch - ch1
        if not (0 < ch1 < out_ch and math.isclose(ch1, gamma * out_ch)):
            raise ValueError(f"cspnet.gamma must split {out_ch} channels into two whole numbers, got {gamma}")

        conv1x1 = partial(ConvBN, kernel_size=1)

        down_ch = in_ch if place.bottleneck and split == "conv" else out_ch
        self.down = nn.Identity() if (in_ch, stride) == (down_ch, 1) else ConvBN(in_ch, down_ch, stride)
        self.part1 = conv1x1(down_ch, ch1) if split == "conv" else Slice(0, ch1)
        self.part2 = conv1x1(down_ch, ch2) if split == "conv" else Slice(ch1, out_ch)
        place = place.after(stride)
        self.blocks = nn.Sequential(
            *[block(ch2, ch2, 1, place._replace(index=i), drop_path=p) for i, p in enumerate(drop_paths)]
        )
        self.transition1 = nn.Identity() if fusion == "first" else conv1x1(ch2, ch2)
        self.transition2 = nn.Identity() if fusion == "last" else conv1x1(out_ch, out_ch)

    def forward(self, x):
        x = self.down(x)
        out = self.transition1(self.blocks(self.part2(x)))  # part2 is the paper's x_0'', out its x_T
        return self.transition2(concatenate([out, self.part1(x)]))  # part1 is x_0', the result x_U
