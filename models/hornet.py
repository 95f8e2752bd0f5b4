"""HorNet: recursive gated convolution, gnConv.

Rao, Zhao, Tang, Zhou, Lim and Lu, "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions",
NeurIPS 2022, section 3 and the authors' code. Slot: block. Published with AdamW.

Departures, for 32x32 images and SGD: the stem is a 3x3 convolution of stride 1, as in convnext.py (patches are for
large images); weights start at PyTorch's default rather than at a truncated normal of 0.02; layer scale starts at 1
rather than at 1e-6; and the gates are multiplied by 3 rather than by 1/3. `init=trunc`, `layer_scale=1e-6` and
`scale=0.3333` give the authors' start, except for the classifier. With `gate=gf` the gates end in a norm and are not
scaled, and the filter has no weight decay and one size; the authors scale those gates by 1/3, too, decay the filter and
resize it to other maps.

Why: gnConv of order n multiplies n + 1 maps, so small factors vanish: from the authors' start, order 4 leaves 1e-14 of a
unit input. Adam divides gradients by their size and still learns; SGD does not. With PyTorch's start each layer scales
its input by 1 / sqrt(3). A gate comes after two such layers, so a factor of 3 gives it unit size. SGD can diverge from
this start: at a learning rate of 0.2, half of train.py's, one of three seeds did (results/README.md).
"""

from functools import partial
from typing import Literal

import torch
from torch import nn

from models.ops.channels import Pointwise
from models.ops.depthwise import Depthwise
from models.ops.tracing import of_size
from models.prenorm import (
    ChannelNorm,
    Downsample,
    Init,
    LayerScale,
    PreNormFamily,
    initialized,
    patch_downsample,
    patch_stem,
)
from models.resnet import DropPath


class GlobalLocalFilter(nn.Module):
    """Depthwise 3x3 on half of the channels, a learned filter of all frequencies on the other half, then interleaved.

    (B, C, size, size) -> (B, C, size, size), layer norm before and after. The spectrum of a real map has size x
    (size // 2 + 1) free frequencies. An odd C and maps of another size raise ValueError.
    """

    def __init__(self, ch, size):
        super().__init__()
        if ch % 2:
            raise ValueError(
                f"hornet.gate=gf needs an even number of channels in its gates, got {ch}: lower the order in hornet.orders"
            )
        self.size = size
        self.norm_in = ChannelNorm(ch)
        self.local = Depthwise(ch // 2, 3, bias=False)
        # two 3-D tensors: a 4-D one, (..., 2), would have its strides changed by .to(memory_format=channels_last)
        self.real = nn.Parameter(0.02 * torch.randn(ch // 2, size, size // 2 + 1))
        self.imag = nn.Parameter(0.02 * torch.randn(ch // 2, size, size // 2 + 1))
        self.norm_out = ChannelNorm(ch)

    def forward(self, x):
        x = of_size(x, self.size, "choose an image size that every layer halves evenly: hornet.gate=gf is built")
        near, far = self.norm_in(x).chunk(2, dim=1)  # float32 under autocast too, as there is no FFT in bfloat16
        spectrum = torch.fft.rfft2(far) * torch.complex(self.real, self.imag)
        far = torch.fft.irfft2(spectrum, s=(self.size, self.size))
        pairs = torch.stack((self.local(near), far), 2)  # (B, C/2, 2, H, W): every gate gets both kinds
        return self.norm_out(pairs.flatten(1, 2))


class GnConv(nn.Module):
    """p_{k+1} = g_k(p_k) * f_k(q_k) * scale for k = 0 ... n - 1: (B, C, H, W) -> (B, C, H, W).

    g_0 is the identity, the other g_k are 1x1 convolutions that double the channels (`widen`). All f_k are one depthwise layer
    (`gate`). q_k and p_{k+1} have C / 2^(n - 1 - k) channels.

    order: n. gate(ch): makes that layer, depthwise 7x7 or a GlobalLocalFilter. scale: 1 / alpha in the paper, 1/3 in the
    published models. Raises ValueError unless 2^(n - 1) divides C.
    """

    def __init__(self, ch, order, gate, scale):
        super().__init__()
        if not 1 <= order <= ch.bit_length() or ch % 2 ** (order - 1):
            raise ValueError(
                f"hornet.orders must be at least 1 and halve the channels order - 1 times, got {order} for {ch} channels"
            )
        self.widths = [ch // 2**i for i in reversed(range(order))]
        self.scale = scale
        self.proj_in = Pointwise(ch, 2 * ch)
        self.gate = gate(sum(self.widths))
        self.widen = nn.ModuleList(Pointwise(a, b) for a, b in zip(self.widths[:-1], self.widths[1:], strict=True))
        self.proj_out = Pointwise(ch, ch)

    def forward(self, x):
        p, q = self.proj_in(x).split([self.widths[0], sum(self.widths)], dim=1)  # p_0; q_0 ... q_{n-1} side by side
        gates = (self.gate(q) * self.scale).split(self.widths, dim=1)  # f_k(q_k) / alpha
        p = p * gates[0]  # p_1
        for k, widen in enumerate(self.widen, 1):
            p = widen(p) * gates[k]  # p_{k+1}
        return self.proj_out(p)


class HorNetBlock(nn.Module):
    """x = x + scale(gnconv(norm(x))), then x + scale(mlp(norm(x))): (B, C, H, W) -> (B, C, H, W).

    mlp: four times as wide inside.
    """

    def __init__(self, ch, gnconv, attention, drop_path, layer_scale, init):
        super().__init__()
        mlp = nn.Sequential(Pointwise(ch, 4 * ch), nn.GELU(), Pointwise(4 * ch, ch))
        self.spatial = nn.Sequential(
            ChannelNorm(ch, before_linear=True),
            initialized(gnconv, init),
            attention(ch),
            LayerScale(ch, layer_scale),
            DropPath(drop_path),
        )
        self.channel = nn.Sequential(
            ChannelNorm(ch, before_linear=True),
            initialized(mlp, init),
            LayerScale(ch, layer_scale),
            DropPath(drop_path),
        )

    def forward(self, x):
        x = x + self.spatial(x)
        return x + self.channel(x)


class HorNet(PreNormFamily):
    """gnConv with an order per stage; stem and downsampling as in ConvNeXt.

    orders: of stage 1, 2, ...; the fourth is read only by nets of four stages. kernel_size: of the depthwise convolution, odd.
    scale: factor on the gates of depthwise convolutions; those of filters (gate=gf) end in a norm and have none. gate: "dw"
    is the depthwise convolution, "gf" the GlobalLocalFilter from stage 3 on, as in the paper; it fixes the image size.
    layer_scale: its initial value, 0 for none. init: "default" is PyTorch's, "trunc" the authors' truncated normal of 0.02.
    downsample: between stages, "native" as in ConvNeXt, "resnet" the ResNet's strided block. Raises ValueError for an even
    kernel size, a scale of 0, too few orders and an order that the channels do not allow.
    """

    def __init__(
        self,
        *,
        orders: tuple[int, ...] = (2, 3, 4, 5),
        kernel_size: int = 7,
        scale: float = 3.0,
        gate: Literal["dw", "gf"] = "dw",
        layer_scale: float = 1.0,
        init: Init = "default",
        downsample: Downsample = "native",
    ):
        super().__init__(downsample)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"hornet.kernel_size must be odd, got {kernel_size}")
        if scale == 0:
            raise ValueError("hornet.scale must not be 0, which would close every gate")
        self.orders, self.kernel_size, self.scale, self.gate = orders, kernel_size, scale, gate
        self.layer_scale, self.init = layer_scale, init

    def stem(self, in_ch, out_ch, stride):
        return initialized(patch_stem(in_ch, out_ch, stride, ChannelNorm), self.init)

    def downsample(self, in_ch, out_ch, stride):
        norm = partial(ChannelNorm, before_linear=True)
        return initialized(patch_downsample(in_ch, out_ch, stride, norm), self.init)

    def block(self, ch, place, attention, drop_path):
        if place.stage > len(self.orders):
            raise ValueError(f"hornet.orders needs an order for stage {place.stage}, got {self.orders}")
        if self.gate == "dw" or place.stage < 3:
            make_gate, scale = partial(Depthwise, kernel_size=self.kernel_size), self.scale
        else:
            make_gate, scale = partial(GlobalLocalFilter, size=place.size), 1.0
        gnconv = GnConv(ch, self.orders[place.stage - 1], make_gate, scale)
        return HorNetBlock(ch, gnconv, attention, drop_path, self.layer_scale, self.init)
