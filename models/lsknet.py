"""LSK: large selective kernels, and LSKNet's blocks.

Li, Hou, Zheng, Cheng, Yang and Li, "Large Selective Kernel Network for Remote Sensing Object Detection", ICCV 2023,
section 3. Slots: attention (LSK) and block (LSKBlocks). Published with AdamW.

Departures: in the attention slot the gate stands alone, after the last norm of the branch and before the add, without
the 1x1 convolutions and the shortcut of the paper's unit (models/van.py), and its weights start at PyTorch's default.
LSKBlocks has the paper's unit and initialization; its stem and expansion are those of models/van.py.
"""

from functools import partial
from typing import Literal

import torch
from torch import nn

from models.ops.channels import Pointwise
from models.ops.depthwise import Depthwise
from models.prenorm import Downsample
from models.van import Init, VANFamily

Pooling = Literal["both", "mean", "max"]
Selection = Literal["spatial", "channel", "none"]
Gate = Literal["sigmoid", "softmax"]


class LSK(nn.Module):
    """x * 1x1(sum of mask_i * part_i), part_i of a growing receptive field: (B, C, H, W) -> (B, C, H, W), C even.

    Part i is a 1x1, C to C/2, of the output of the chain's i-th depthwise layer.
    kernel_sizes: of the chain of depthwise convolutions, odd. dilations: of the chain of depthwise convolutions. selection:
    "spatial" is the paper's: a mask for each kernel and pixel, by a 7x7 convolution of the parts pooled over channels;
    "channel" has one for each kernel and channel, by a 1x1 convolution of the parts pooled over pixels (the paper compares
    with such masks, but gives no equation: this one is ours); "none" adds the parts. pooling: of the parts; "both" gives a
    map each. gate: independent sigmoids, or a softmax over kernels. method: its name in error messages. Raises ValueError
    for an even size, a dilation below 1, lists of different lengths, an odd C, a softmax of a single kernel and knobs that
    selection=none would not read.

    On 8x8 pixels 25 of the 49 taps of a 7x7 with dilation 3 learn, the others see padding only.
    """

    def __init__(
        self,
        ch,
        method="lsknet",
        *,
        kernel_sizes: tuple[int, ...] = (5, 7),
        dilations: tuple[int, ...] = (1, 3),
        selection: Selection = "spatial",
        pooling: Pooling = "both",
        gate: Gate = "sigmoid",
    ):
        super().__init__()
        if any(k < 1 or k % 2 == 0 for k in kernel_sizes) or any(d < 1 for d in dilations):
            raise ValueError(
                f"{method}.kernel_sizes must be odd and {method}.dilations positive, got {kernel_sizes} and {dilations}"
            )
        if len(kernel_sizes) != len(dilations):
            raise ValueError(
                f"{method}.kernel_sizes and {method}.dilations must pair up, got {kernel_sizes} and {dilations}"
            )
        if ch % 2:
            raise ValueError(f"{method} needs an even number of channels, got {ch}: choose another resnet.width")
        n_kernels, part_ch = len(kernel_sizes), ch // 2
        if gate == "softmax" and n_kernels == 1:
            raise ValueError(f"{method}.gate=softmax needs two {method}.kernel_sizes or more, got {kernel_sizes}")
        if selection == "none" and (pooling, gate) != ("both", "sigmoid"):
            raise ValueError(f"{method}.pooling and {method}.gate are not read with {method}.selection=none")
        self.kernels = nn.ModuleList(Depthwise(ch, k, dilation=d) for k, d in zip(kernel_sizes, dilations, strict=True))
        self.reduce = nn.ModuleList(Pointwise(ch, part_ch) for _ in kernel_sizes)
        self.n_kernels, self.selection, self.pooling, self.gate = n_kernels, selection, pooling, gate
        n_pools = 2 if pooling == "both" else 1
        if selection == "spatial":
            self.squeeze = nn.Conv2d(n_pools, n_kernels, 7, padding=3)
        elif selection == "channel":
            self.squeeze = nn.Conv2d(n_pools * n_kernels * part_ch, n_kernels * part_ch, 1)
        else:
            self.squeeze = None
        self.mix = Pointwise(part_ch, ch)

    def masks(self, parts):
        """Masks in (0, 1): (B, n C/2, H, W) -> (B, n, 1, H, W), or for "channel" (B, n, C/2, 1, 1)."""
        # pooled over the channels of (B, n C/2, H, W), or over the pixels of (B, n C/2, H W, 1)
        parts, dim = (parts, 1) if self.selection == "spatial" else (parts.flatten(2)[..., None], 2)
        pooled = []
        if self.pooling != "max":
            pooled.append(parts.mean(dim, keepdim=True))
        if self.pooling != "mean":
            pooled.append(parts.max(dim, keepdim=True).values)  # amax is slow: its gradient looks for ties
        logits = self.squeeze(torch.cat(pooled, 1)).unflatten(1, (self.n_kernels, -1))
        return logits.sigmoid() if self.gate == "sigmoid" else logits.softmax(1)

    def forward(self, x):
        u, parts = x, []  # U_0 in the paper
        for kernel, reduce in zip(self.kernels, self.reduce, strict=True):
            u = kernel(u)  # U_i
            parts.append(reduce(u))  # U_i with a tilde, (B, C/2, H, W)
        if self.squeeze is not None:
            masks = self.masks(torch.cat(parts, 1)).unbind(1)  # SA_i, n of (B, 1, H, W) or (B, C/2, 1, 1)
            parts = [part * masks[i] for i, part in enumerate(parts)]  # torch.fx cannot loop over masks
        mixed, *rest = parts
        for part in rest:  # a sum over a stacked dimension would return contiguous maps for channels-last ones
            mixed = mixed + part
        return x * self.mix(mixed)


class LSKBlocks(VANFamily):
    """VAN's blocks with LSK in their attention unit.

    kernel_sizes, dilations, selection, pooling, gate: as in the method lsknet. expansion: of the feed-forward part.
    layer_scale: its initial value, 0 for none. init: "normal" is the authors', "default" PyTorch's. downsample: between
    stages, "native" is a strided 3x3 convolution, "resnet" the ResNet's strided block. Raises ValueError as LSK and
    VANFamily do.
    """

    def __init__(
        self,
        *,
        kernel_sizes: tuple[int, ...] = (5, 7),
        dilations: tuple[int, ...] = (1, 3),
        selection: Selection = "spatial",
        pooling: Pooling = "both",
        gate: Gate = "sigmoid",
        expansion: int = 4,
        layer_scale: float = 1e-2,
        init: Init = "normal",
        downsample: Downsample = "native",
    ):
        lsk = partial(
            LSK,
            method="lskblock",
            kernel_sizes=kernel_sizes,
            dilations=dilations,
            selection=selection,
            pooling=pooling,
            gate=gate,
        )
        super().__init__("lskblock", lsk, expansion, layer_scale, init, downsample)
