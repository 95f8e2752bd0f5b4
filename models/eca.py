"""ECA: efficient channel attention.

Wang, Wu, Zhu, Li, Zuo and Hu, "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR 2020,
equations 8, 9 and 12. Slot: attention, after the last norm of the branch and before the add, as in the authors' code.
Published with SGD. The sigmoid is the paper's equation (its Figure 3 listing leaves it out).
"""

import math

import torch
from torch import nn

from models.ops.layout import global_avg_pool


class ECA(nn.Module):
    """Weights each channel by its own mean and those of its neighbours: (B, C, H, W) -> (B, C, H, W).

    kernel_size: channels that each gate reads, odd (k in the paper); 0 takes the paper's size for C channels, |log2(C) /
    gamma + b / gamma| made odd, with gamma = 2 and b = 1, but at least 3, as in timm: 3 below 128 channels, 5 from 128, 7
    from 2048. Raises ValueError for an even size.
    """

    def __init__(self, ch, *, kernel_size: int = 0):
        super().__init__()
        if kernel_size < 0 or (kernel_size and kernel_size % 2 == 0):
            raise ValueError(f"eca.kernel_size must be odd, or 0 for the paper's size, got {kernel_size}")
        if kernel_size == 0:
            t = int(abs(math.log2(ch) + 1) / 2)
            kernel_size = max(3, t if t % 2 else t + 1)
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x):
        pooled = global_avg_pool(x)  # (B, C)
        gate = torch.sigmoid(self.conv(pooled[:, None]))  # (B, 1, C): channels are the sequence
        return x * gate[:, 0, :, None, None]
