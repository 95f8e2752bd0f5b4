"""MSCA: multi-scale convolutional attention, and MSCAN, SegNeXt's encoder.

Guo, Lu, Hou, Liu, Cheng and Hu, "SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation",
NeurIPS 2022, equations 1 and 2 and Figure 2. Slots: attention (MSCA) and block (MSCAN). Published with AdamW.

Departures: in the attention slot the gate stands alone, after the last norm of the branch and before the add, without
the 1x1 convolutions and the shortcut of the paper's unit (models/van.py), and its weights start at PyTorch's default:
with the authors' normal initialization it would amplify the branch about five times. MSCAN has the paper's unit and
initialization; its stem and expansion are those of models/van.py.
"""

from functools import partial
from typing import Literal

from torch import nn

from models.ops.channels import Pointwise
from models.ops.depthwise import Depthwise
from models.prenorm import Downsample
from models.van import Init, VANFamily

Branch = Literal["strip", "square", "lka"]
Fuse = Literal["multiply", "add"]


class MSCA(nn.Module):
    """x * 1x1(a + sum of branches(a)) with a = depthwise 5x5 of x: (B, C, H, W) -> (B, C, H, W). No norm, no activation.

    kernel_sizes: of the branches, odd. branch: "strip" is 1xk, then kx1; "square" is kxk; "lka" is VAN's large kernel
    attention, a depthwise 7x7 of dilation 3 after the 5x5 and no sum. fuse: "multiply" gives x * map, "add" x + map.
    pointwise: whether a 1x1 convolution mixes the map. init: "default" is PyTorch's, "identity" starts as y = x. method: its
    name in error messages. Raises ValueError for an even size, for sizes that lka would not read and for an identity without
    the 1x1.

    Maps narrower than half a kernel leave its outer taps without gradient: of 21 taps, 15 learn on 8x8 pixels.
    """

    def __init__(
        self,
        ch,
        method="segnext",
        *,
        kernel_sizes: tuple[int, ...] = (7, 11, 21),
        branch: Branch = "strip",
        fuse: Fuse = "multiply",
        pointwise: bool = True,
        init: Literal["default", "identity"] = "default",
    ):
        super().__init__()
        if any(k < 1 or k % 2 == 0 for k in kernel_sizes):
            raise ValueError(f"{method}.kernel_sizes must be odd, got {kernel_sizes}")
        if branch == "lka" and kernel_sizes != (7, 11, 21):
            raise ValueError(f"{method}.kernel_sizes is set, but {method}.branch=lka has one fixed kernel")
        if init == "identity" and not pointwise:
            raise ValueError(f"{method}.init=identity needs the 1x1 convolution, but {method}.pointwise is false")
        self.multiplies = fuse == "multiply"
        self.local, self.branches = Depthwise(ch, 5), nn.ModuleList()
        if branch == "lka":
            self.local = nn.Sequential(self.local, Depthwise(ch, 7, dilation=3))
        elif branch == "square":
            self.branches.extend(Depthwise(ch, k) for k in kernel_sizes)
        else:
            self.branches.extend(nn.Sequential(Depthwise(ch, (1, k)), Depthwise(ch, (k, 1))) for k in kernel_sizes)
        self.mix = Pointwise(ch, ch) if pointwise else nn.Identity()
        if init == "identity":
            nn.init.zeros_(self.mix.weight)
            nn.init.constant_(self.mix.bias, 1.0 if self.multiplies else 0.0)  # x * 1 or x + 0

    def forward(self, x):
        att = local = self.local(x)  # Scale_0, the identity on DW-Conv(F); x is the paper's F
        for branch in self.branches:
            att = att + branch(local)  # Scale_1 ... Scale_3
        att = self.mix(att)
        return x * att if self.multiplies else x + att


class MSCAN(VANFamily):
    """VAN's blocks with MSCA in their attention unit.

    kernel_sizes, branch, fuse, pointwise: as in the method segnext. expansion: of the feed-forward part. layer_scale: its
    initial value, 0 for none. init: "normal" is the authors', "default" PyTorch's. downsample: between stages, "native" is
    a strided 3x3 convolution, "resnet" the ResNet's strided block. Raises ValueError as MSCA and VANFamily do.
    """

    def __init__(
        self,
        *,
        kernel_sizes: tuple[int, ...] = (7, 11, 21),
        branch: Branch = "strip",
        fuse: Fuse = "multiply",
        pointwise: bool = True,
        expansion: int = 4,
        layer_scale: float = 1e-2,
        init: Init = "normal",
        downsample: Downsample = "native",
    ):
        gate = partial(MSCA, method="mscan", kernel_sizes=kernel_sizes, branch=branch, fuse=fuse, pointwise=pointwise)
        super().__init__("mscan", gate, expansion, layer_scale, init, downsample)
