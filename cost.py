"""What a network costs: parameters, multiply-accumulates (MACs) and the table of its layers.

MACs are counted on the meta device, where no number is computed and attention is counted on every version of torch.
"""

from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from models import build


def n_params(net):
    return sum(p.numel() for p in net.parameters())


@contextmanager
def counted_attention():
    """Turns off eval mode's fused nn.MultiheadAttention, used by some torchvision networks: it would count as 0 MACs."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def layer_table(arch, num_classes, settings, image_size, depth=3):
    """Rows (name, class, output shape, parameters, MACs) for one image; the first row is the whole network.

    depth: rows go down to names of this many parts; 0 for the network alone. MACs count convolutions and matrix products, as
    papers do; norms, activations, pooling, Fourier transforms and element-wise products are left out.
    """
    with torch.device("meta"):
        net = build(arch, num_classes, settings, image_size).eval()
        imgs = torch.empty(1, 3, image_size, image_size)
    shapes = {}

    def note_shape(name, out):
        if isinstance(out, torch.Tensor):  # and not the tuple of an nn.MultiheadAttention
            shapes[name] = tuple(out.shape[1:])  # without the batch of 1

    for name, module in net.named_modules():
        module.register_forward_hook(lambda _, __, out, name=name: note_shape(name, out))
    with FlopCounterMode(display=False) as counter, counted_attention(), torch.no_grad():
        net(imgs)
    flops = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    root = type(net).__name__  # the counter's names start with the class of the network

    rows = []
    for name, module in net.named_modules():
        shown = not name or (name.count(".") < depth and n_params(module))
        if shown and name in shapes:
            macs = flops.get(f"{root}.{name}" if name else root, 0) // 2
            rows.append((name or arch, type(module).__name__, shapes[name], n_params(module), macs))
    return rows


def cost(arch, num_classes, settings, image_size):
    """(parameters, MACs) of one image's forward pass."""
    _, _, _, params, macs = layer_table(arch, num_classes, settings, image_size, depth=0)[0]
    return params, macs
