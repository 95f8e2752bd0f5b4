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
    """gelu(norm(x)): (B, C, H, W) -> (B, C, H, W). On CUDA one operation in training, if the norm is nn.BatchNorm2d."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        norm = self.norm
        if type(norm) is not nn.BatchNorm2d or not norm.training:  # which nn.SyncBatchNorm may have replaced
            return F.gelu(norm(x))
        norm.num_batches_tracked.add_(1)
        return batch_norm_gelu(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.momentum, norm.eps)


@leaf
def batch_norm_gelu(x, running_mean, running_var, weight, bias, momentum, eps):
    """F.gelu of F.batch_norm in training: (B, C, H, W) -> (B, C, H, W). Raises ValueError for one value a channel."""
    if kernels is None or not kernels.takes(x) or weight.dtype != torch.float32 or x.numel() == x.shape[1]:
        return F.gelu(F.batch_norm(x, running_mean, running_var, weight, bias, True, momentum, eps))
    mean, scale = batchnorm_cuda.batch_statistics(x.detach(), running_mean, running_var, momentum, eps)
    return batchnorm_cuda.batch_norm_gelu(x, mean, scale, weight, bias)
