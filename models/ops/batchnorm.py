"""Batch norm with a GELU after it, in the form that is fast on the device."""

import importlib.util

import torch
import torch.nn.functional as F
from torch import nn

from models.ops.tracing import leaf

if importlib.util.find_spec("triton"):
    from models.ops import batchnorm_cuda, kernels
else:
    kernels = None


class NormGELU(nn.Module):
    """gelu(norm(x)): (B, C, H, W) -> (B, C, H, W).

    Fused on CUDA, in training, if norm is an nn.BatchNorm2d.
    """

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        norm = self.norm
        # layer norm, nn.SyncBatchNorm, or a cumulative average
        if type(norm) is not nn.BatchNorm2d or norm.momentum is None:
            return F.gelu(norm(x))
        running = norm.running_mean, norm.running_var, norm.num_batches_tracked
        return batch_norm_gelu(x, *running, norm.weight, norm.bias, norm.training, norm.momentum, norm.eps)


@leaf
def batch_norm_gelu(x, running_mean, running_var, num_batches_tracked, weight, bias, training, momentum, eps):
    """F.gelu of what nn.BatchNorm2d computes: (B, C, H, W) -> (B, C, H, W).

    running_mean, running_var, weight and bias are (C,). Raises ValueError in training if a channel has a single value.
    """
    if training:
        num_batches_tracked.add_(1)
    is_float32 = weight.dtype == bias.dtype == running_mean.dtype == running_var.dtype == torch.float32
    if not training or kernels is None or not kernels.takes(x) or not is_float32 or x.numel() == x.shape[1]:
        return F.gelu(F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps))
    mean, scale = batchnorm_cuda.batch_statistics(x.detach(), running_mean, running_var, momentum, eps)
    return batchnorm_cuda.batch_norm_gelu(x, mean, scale, weight, bias)
