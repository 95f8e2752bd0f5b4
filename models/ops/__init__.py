"""Memory layouts and kernels that are fast on a device; results are PyTorch's, up to rounding."""
