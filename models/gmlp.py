"""gMLP: a channel MLP whose hidden map is gated by a learned mix of all pixels.

Liu, Dai, So and Le, "Pay Attention to MLPs", NeurIPS 2021, Figure 1, equations 1 to 4 and the ablation of the gate.
Slot: block. Published with AdamW. The authors' only code is Figure 1's listing.

Departures: the block stands between those of a ResNet, in the third stage, where a map is 64 pixels, and after its
ReLU; a block at 32x32 would hold a million spatial weights. There is no patch embedding and no norm before the
classifier. Weights other than the spatial ones start at PyTorch's default.
"""

from typing import Literal

from torch import nn

from models.ops.channels import Pointwise
from models.ops.tracing import of_size
from models.prenorm import ChannelNorm, ReplacingFamily
from models.resnet import DropPath

Gate = Literal["split", "whole", "additive", "linear"]


class SpatialGatingUnit(nn.Module):
    """Gates a map by f(z) = W norm(z) + b, a linear layer along the pixels: (B, C, H, W) -> (B, C/2 or C, H, W).

    gate: "split" halves the channels into z1 and z2 and gives z1 * f(z2); "whole" is z * f(z), "additive" z + f(z) and
    "linear" f(z), all C wide. All channels share W and b. In the paper W starts close to 0 and b at 1, so that a unit that
    multiplies begins as z1. size: H = W of the map; others raise ValueError.
    """

    def __init__(self, ch, size, gate, spatial_std, spatial_bias):
        super().__init__()
        self.size, self.gate = size, gate
        self.out_ch = ch // 2 if gate == "split" else ch
        self.norm = ChannelNorm(self.out_ch, before_linear=True)
        self.spatial = nn.Linear(size**2, size**2)
        nn.init.normal_(self.spatial.weight, std=spatial_std)
        nn.init.constant_(self.spatial.bias, spatial_bias)

    def forward(self, x):
        x = of_size(x, self.size, "gmlp is built")
        z1, z2 = x.chunk(2, dim=1) if self.gate == "split" else (x, x)
        f = self.spatial(self.norm(z2).flatten(2)).unflatten(2, (self.size, self.size))  # along the pixels, row by row
        if self.gate == "linear":
            return f
        return z1 + f if self.gate == "additive" else z1 * f


class GMLPBlock(nn.Module):
    """x + project(gate(gelu(expand(norm(x))))): (B, C, H, W) -> (B, C, H, W). The gate alone mixes pixels."""

    def __init__(self, ch, size, attention, drop_path, ratio, gate, spatial_std, spatial_bias):
        super().__init__()
        sgu = SpatialGatingUnit(ratio * ch, size, gate, spatial_std, spatial_bias)
        self.branch = nn.Sequential(
            ChannelNorm(ch, before_linear=True),
            Pointwise(ch, ratio * ch),  # U of equation 1, along the channels
            nn.GELU(),
            sgu,
            Pointwise(sgu.out_ch, ch),  # V
            attention(ch),
            DropPath(drop_path),
        )

    def forward(self, x):
        return x + self.branch(x)


class GMLP(ReplacingFamily):
    """gMLP blocks in place of blocks that keep the shape; the others, the stem and the head stay the ResNet's.

    stages: those with gMLP blocks, counted from 1. A map of the third has 64 pixels for a 32x32 image and, after the
    ImageNet stem, 196 for a 224x224 image. first_block: index (from 0) of the first block replaced in a stage: 2 replaces
    only the last of three. Strided blocks are never replaced. ratio: hidden width over the block's width (d_ffn / d in the
    paper). gate: "split" is the paper's z1 * f(z2), f a linear layer along the pixels, z1 and z2 halves of the channels;
    "whole" is z * f(z), "additive" z + f(z) and "linear" f(z), which it compares with. spatial_std: initial standard
    deviation of the weights W of f (nn.Linear's own: 1 / sqrt(3 n) for n pixels). spatial_bias: initial value of the biases
    b of f. Raises ValueError for stages that are not distinct numbers from 1 to 4, a negative index or deviation, a ratio
    below 1 and an odd width to split.
    """

    def __init__(
        self,
        *,
        stages: tuple[int, ...] = (3,),
        first_block: int = 0,
        ratio: int = 6,
        gate: Gate = "split",
        spatial_std: float = 1e-6,
        spatial_bias: float = 1.0,
    ):
        super().__init__("gmlp", stages, first_block)
        if first_block < 0 or ratio < 1 or spatial_std < 0:
            raise ValueError(
                "gmlp.first_block and gmlp.spatial_std must be at least 0 and gmlp.ratio at least 1, "
                f"got {first_block}, {spatial_std} and {ratio}"
            )
        self.ratio, self.gate, self.spatial_std, self.spatial_bias = ratio, gate, spatial_std, spatial_bias

    def block(self, ch, place, attention, drop_path):
        if self.gate == "split" and self.ratio * ch % 2:
            raise ValueError(f"gmlp.ratio must make an even width of {ch} channels, got {self.ratio}")
        knobs = (self.ratio, self.gate, self.spatial_std, self.spatial_bias)
        return GMLPBlock(ch, place.size, attention, drop_path, *knobs)
