"""CoAtNet: convolutional stages first, then transformer stages with relative attention.

Dai, Liu, Le and Tan, "CoAtNet: Marrying Convolution and Attention for All Data Sizes", NeurIPS 2021, equation 3,
section 2.2 and appendix A.1. Slot: block. Published with AdamW. What the paper leaves open follows timm: biases, the SiLU
in squeeze-excite, and that its ratio of 0.25 refers to the block's width.

Departures, for 32x32 images and narrow stages: heads of 16 channels (32 do not fit into a stage of 16); an MBConv
strides in its depthwise convolution, as the paper found better on its smallest net, not in the first 1x1, as the paper does
elsewhere (`stride_place=expand`); the stem is one 3x3 convolution of stride 1 (for large images two of stride 2,
with batch norm after both and a ReLU between them; the paper names neither); the last layer norm is after the pooling;
the blocks' weights start at PyTorch's default.
"""

import re
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from models.ops.batchnorm import NormGELU
from models.ops.channels import Pointwise, channel_scale
from models.ops.depthwise import Depthwise
from models.ops.layout import global_avg_pool
from models.ops.tracing import of_size
from models.prenorm import ChannelNorm, Downsample
from models.resnet import BlockFamily, ConvBN, DropPath

NORMS = {"batch": nn.BatchNorm2d, "layer": ChannelNorm}
POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


def make_pool(pool, stride):
    """Pools stride x stride windows, those cut off by the border too: H -> ceil(H / stride)."""
    return nn.Identity() if stride == 1 else POOLS[pool](stride, stride, ceil_mode=True)


def make_shortcut(in_ch, out_ch, stride, pool):
    """Proj(Pool(x)) of a block that changes size or width, x itself in the others."""
    if stride == 1 and in_ch == out_ch:
        return nn.Identity()
    return nn.Sequential(make_pool(pool, stride), Pointwise(in_ch, out_ch))


class SqueezeExcite(nn.Module):
    """Scales each channel by a small MLP of all channel means (Hu et al. 2018): (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, ch, squeezed):
        super().__init__()
        self.gate = nn.Sequential(nn.Conv2d(ch, squeezed, 1), nn.SiLU(), nn.Conv2d(squeezed, ch, 1), nn.Sigmoid())

    def forward(self, x):
        return channel_scale(x, self.gate(global_avg_pool(x)[:, :, None, None]))


class MBConv(nn.Module):
    """shortcut(x) + inverted bottleneck(norm(x)): (B, in_ch, H, W) -> (B, out_ch, ceil(H/stride), ceil(W/stride)).

    The first norm has no activation and the last 1x1 no norm. The bottleneck is `expansion` times out_ch wide.
    """

    def __init__(self, in_ch, out_ch, stride, attention, drop_path, expansion, se_ratio, norm, stride_place, pool):
        super().__init__()
        hidden = expansion * out_ch
        expand_stride, dw_stride = (stride, 1) if stride_place == "expand" else (1, stride)
        self.shortcut = make_shortcut(in_ch, out_ch, stride, pool)
        self.branch = nn.Sequential(
            NORMS[norm](in_ch),
            Pointwise(in_ch, hidden, expand_stride, bias=False),
            NormGELU(NORMS[norm](hidden)),
            Depthwise(hidden, 3, dw_stride, bias=False),
            NormGELU(NORMS[norm](hidden)),
            SqueezeExcite(hidden, max(1, int(se_ratio * out_ch))) if se_ratio else nn.Identity(),
            Pointwise(hidden, out_ch),
            attention(out_ch),
            DropPath(drop_path),
        )

    def forward(self, x):
        return self.shortcut(x) + self.branch(x)


class RelativeAttention(nn.Module):
    """Self-attention over all pixels, softmax_j(q_i k_j / sqrt(d) + w_{i-j}): (B, in_ch, H, W) -> (B, out_ch, H, W).

    w is learned for each head and offset of a map of size x size, a table (heads, 2 size - 1, 2 size - 1).
    Other maps raise ValueError; without the bias every map will do.
    """

    def __init__(self, in_ch, out_ch, size, head_dim, relative_bias):
        super().__init__()
        if out_ch % head_dim:
            raise ValueError(
                f"coatnet.head_dim must divide the {out_ch} channels of a transformer stage, got {head_dim}"
            )
        self.size, self.n_heads = size, out_ch // head_dim
        self.qkv = nn.Linear(in_ch, 3 * out_ch)
        self.proj = nn.Linear(out_ch, out_ch)
        self.bias_table = None
        if relative_bias:
            self.bias_table = nn.Parameter(torch.empty(self.n_heads, 2 * size - 1, 2 * size - 1))
            nn.init.trunc_normal_(self.bias_table, std=0.02)

    def bias(self):
        """w_{i-j} of each head for tokens i and j, row by row: (heads, N, N), N = size**2.

        windows[h, r, c, a, b] is table[h, r + a, c + b]. flip() puts a = size - 1 - r', b = size - 1 - c' at token
        j = (r', c').
        """
        windows = self.bias_table.unfold(1, self.size, 1).unfold(2, self.size, 1)  # (heads, size, size, size, size)
        return windows.flip(3, 4).flatten(3, 4).flatten(1, 2)

    def forward(self, x):
        if self.bias_table is not None:
            x = of_size(x, self.size, "coatnet's bias is")
        B, _, H, W = x.shape
        qkv = self.qkv(x.flatten(2).transpose(1, 2))  # (B, N, 3 out_ch)
        q, k, v = qkv.view(B, H * W, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, N, head_dim)
        if self.bias_table is None:
            out = F.scaled_dot_product_attention(q, k, v)
        else:  # by hand, because PyTorch's fast CPU kernels take no learned bias
            out = ((q * q.shape[-1] ** -0.5) @ k.mT + self.bias()).softmax(-1).to(v.dtype) @ v
        out = self.proj(out.transpose(1, 2).flatten(2))  # (B, N, out_ch)
        return out.transpose(1, 2).unflatten(2, (H, W))


class TransformerBlock(nn.Module):
    """x = shortcut(x) + attention(pool(norm(x))), then x + mlp(norm(x)): (B, in_ch, H, W) -> (B, out_ch, H', W').

    H' = ceil(H / stride). size: the height H of the square map that enters.
    """

    def __init__(self, in_ch, out_ch, stride, attention, drop_path, size, expansion, head_dim, relative_bias, pool):
        super().__init__()
        self.shortcut = make_shortcut(in_ch, out_ch, stride, pool)
        self.mix = nn.Sequential(
            ChannelNorm(in_ch),
            make_pool(pool, stride),
            RelativeAttention(in_ch, out_ch, -(-size // stride), head_dim, relative_bias),
            attention(out_ch),
            DropPath(drop_path),
        )
        self.mlp = nn.Sequential(
            ChannelNorm(out_ch, before_linear=True),
            Pointwise(out_ch, expansion * out_ch),
            nn.GELU(),
            Pointwise(expansion * out_ch, out_ch),
            DropPath(drop_path),
        )

    def forward(self, x):
        x = self.shortcut(x) + self.mix(x)
        return x + self.mlp(x)


class CoAtNet(BlockFamily):
    """MBConv blocks in the first stages, transformer blocks in the later ones; a stage's first block downsamples.

    layout: one letter for each stage, C for convolution before T for transformer; a net of three stages reads the first three.
    head_dim: channels of an attention head. relative_bias: whether attention adds a learned number for each offset between two
    pixels. expansion: of the MBConv and of the transformer's MLP. se_ratio: hidden width of squeeze-and-excitation as a
    fraction of the block's width, 0 for none. norm: of the MBConv; the transformer's is a layer norm. stride_place: what
    strides in a strided MBConv, the depthwise convolution or the first 1x1. pool: how strided shortcuts and attention pool.
    downsample: between stages, "native" is the paper's, "resnet" the ResNet's strided block. Raises ValueError for a layout
    with T before C or too short for the net, a head_dim that does not divide the width, an expansion below 1, a negative ratio,
    and, where the layout or the downsampling would not read them, relative_bias, norm, se_ratio, stride_place and pool.
    """

    narrow = True

    def __init__(
        self,
        *,
        layout: str = "CCTT",
        head_dim: int = 16,
        relative_bias: bool = True,
        expansion: int = 4,
        se_ratio: float = 0.25,
        norm: Literal["batch", "layer"] = "batch",
        stride_place: Literal["dw", "expand"] = "dw",
        pool: Literal["max", "avg"] = "max",
        downsample: Downsample = "native",
    ):
        if not re.fullmatch("C+T*|T+", layout):
            raise ValueError(f"coatnet.layout must be letters C and then letters T, as in CCTT, got {layout!r}")
        if head_dim < 1 or expansion < 1 or se_ratio < 0:
            raise ValueError(
                "coatnet.head_dim and coatnet.expansion must be at least 1 and coatnet.se_ratio at least 0, "
                f"got {head_dim}, {expansion} and {se_ratio}"
            )
        if downsample == "resnet" and (stride_place, pool) != ("dw", "max"):
            raise ValueError("coatnet.stride_place and coatnet.pool are read with coatnet.downsample=native only")
        if "T" not in layout and not relative_bias:
            raise ValueError(f"coatnet.relative_bias is read in stages T, of which coatnet.layout={layout} has none")
        if "C" not in layout and (norm, se_ratio, stride_place) != ("batch", 0.25, "dw"):
            raise ValueError(
                "coatnet.norm, coatnet.se_ratio and coatnet.stride_place are read in stages C, of which "
                f"coatnet.layout={layout} has none"
            )
        self.layout, self.downsample = layout, downsample
        self.convolution = partial(
            MBConv, expansion=expansion, se_ratio=se_ratio, norm=norm, stride_place=stride_place, pool=pool
        )
        self.transformer = partial(
            TransformerBlock, expansion=expansion, head_dim=head_dim, relative_bias=relative_bias, pool=pool
        )

    def stem(self, in_ch, out_ch, stride):
        if stride == 1:
            return ConvBN(in_ch, out_ch, relu=False)  # the first block begins with a norm of its own
        return nn.Sequential(ConvBN(in_ch, out_ch, 2), ConvBN(out_ch, out_ch, 2, relu=False))

    def __call__(self, in_ch, out_ch, stride, place, resnet_block, attention, drop_path):
        if place.stage > len(self.layout):
            raise ValueError(f"coatnet.layout has no letter for stage {place.stage} of this net, got {self.layout!r}")
        if self.downsample == "resnet" and (stride != 1 or in_ch != out_ch):
            return resnet_block(in_ch, out_ch, stride, drop_path)
        if self.layout[place.stage - 1] == "C":
            return self.convolution(in_ch, out_ch, stride, attention, drop_path)
        return self.transformer(in_ch, out_ch, stride, attention, drop_path, size=place.size)

    def final_norm(self, ch):
        return nn.LayerNorm(ch, eps=1e-6)
