"""Grouped convolutions in the form that a device computes fast.

cuDNN has no kernels for channels-last groups of few channels: it slices maps and copies them to another layout and back, a
tenth of a ResNeSt's step. So on CUDA such a convolution is a dense one whose weights between groups are zeros.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.ops.tracing import leaf

FEW = 64  # channels of a group; measured with 8, 16 and 32, where the products with zeros cost less than the copies


class Grouped(nn.Conv2d):
    """nn.Conv2d in groups, without bias: (B, in_ch, H, W) -> (B, out_ch, H', W')."""

    def forward(self, x):
        return grouped(x, self.weight, self.stride, self.padding, self.groups)


@leaf
def grouped(x, weight, stride, padding, groups):
    """The F.conv2d of x (B, in_ch, H, W) and weight (out_ch, in_ch / groups, kh, kw)."""
    if x.is_cuda and weight.shape[1] < FEW:
        weight, groups = dense(weight, groups), 1
    return F.conv2d(x, weight, None, stride, padding, groups=groups)


def dense(weight, groups):
    """Grouped weights (out_ch, in_ch / groups, kh, kw) made block-diagonal: (out_ch, in_ch, kh, kw)."""
    n = weight.shape[1]
    parts = [F.pad(part, (0, 0, 0, 0, i * n, (groups - 1 - i) * n)) for i, part in enumerate(weight.chunk(groups))]
    return torch.cat(parts)
