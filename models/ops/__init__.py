"""How a device computes: layouts and kernels that are fast there, with the numbers of PyTorch's own."""
