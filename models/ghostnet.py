"""GhostNet: some channels from a convolution, the others from cheap depthwise filters of those.

Han, Wang, Tian, Guo, Xu and Xu, "GhostNet: More Features from Cheap Operations", CVPR 2020, equations 2 and 3, Figure 2.
Slot: conv, both convolutions of the basic block, as in the paper's Ghost-ResNet-56. Published with SGD.

Departures: in a bottleneck only the 3x3 is replaced; the paper's Ghost-ResNet-50 replaces the 1x1 convolutions, too. The
paper's equation 3 keeps each primary map beside its ghosts; here all primary maps come first, as in the authors' code.
"""

import math
from typing import Literal

from torch import nn

from models.ops.depthwise import Depthwise
from models.ops.layout import concatenate
from models.resnet import ConvBN


class GhostConv(nn.Module):
    """Primary maps from a 3x3 convolution with the stride, and ghosts of them from a depthwise one.

    (B, in_ch, H, W) -> (B, out_ch, ceil(H/stride), ceil(W/stride)).

    ratio: channels for each primary, itself included (s in the paper). kernel_size: of the depthwise filters, odd (d in
    the paper). relu_on: the maps that get the layer's ReLU, if it has one. Raises ValueError for an even kernel size or a
    ratio outside 2..out_ch.
    """

    def __init__(
        self,
        in_ch,
        out_ch,
        stride,
        relu,
        *,
        ratio: int = 2,
        kernel_size: int = 3,
        relu_on: Literal["both", "primary", "ghost"] = "both",
    ):
        super().__init__()
        if not 2 <= ratio <= out_ch:
            raise ValueError(f"ghostnet.ratio must be from 2 to the {out_ch} channels of the layer, got {ratio}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"ghostnet.kernel_size must be odd, got {kernel_size}")
        n_primary = math.ceil(out_ch / ratio)  # m in the paper
        n_ghost = n_primary * (ratio - 1)
        self.n_used = out_ch - n_primary  # of the ghosts; where ratio does not divide out_ch the last ones are dropped
        self.primary = ConvBN(in_ch, n_primary, stride, relu and relu_on != "ghost")
        # the filters Phi of equation 3
        cheap = Depthwise(n_primary, kernel_size, multiplier=ratio - 1, bias=False)
        nn.init.kaiming_normal_(cheap.weight, nonlinearity="relu")  # fan in: PyTorch's fan out forgets the groups
        rectified = relu and relu_on != "primary"
        self.ghost = nn.Sequential(cheap, nn.BatchNorm2d(n_ghost), *([nn.ReLU(inplace=True)] if rectified else []))

    def forward(self, x):
        primary = self.primary(x)
        ghosts = self.ghost(primary)
        return concatenate([primary, ghosts[:, : self.n_used]])
