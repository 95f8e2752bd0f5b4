"""SE: squeeze and excitation, the attention that ECA-Net simplifies.

Hu, Shen and Sun, "Squeeze-and-Excitation Networks", CVPR 2018, equations 2 to 4. Slot: attention, after the last norm of
the branch and before the add, as in the paper's SE-ResNet. Published with SGD.

Departure: the linear layers have biases, which equation 3 leaves out.
"""

import torch
from torch import nn

from models.ops.layout import global_avg_pool


class SE(nn.Module):
    """Scales each channel by a small MLP of all channel means: (B, C, H, W) -> (B, C, H, W).

    reduction: how many times narrower than C the hidden layer is (r in the paper); it keeps at least one unit. Raises
    ValueError for less than 1.

    `squeeze` and `excite` are the paper's W_1 and W_2; what it calls the squeeze is the mean before them.
    """

    def __init__(self, ch, *, reduction: int = 16):
        super().__init__()
        if reduction < 1:
            raise ValueError(f"se.reduction must be at least 1, got {reduction}")
        hidden = max(1, ch // reduction)
        self.squeeze, self.excite = nn.Linear(ch, hidden), nn.Linear(hidden, ch)

    def forward(self, x):
        z = global_avg_pool(x)  # (B, C), equation 2
        s = torch.sigmoid(self.excite(torch.relu(self.squeeze(z))))  # (B, C), equation 3
        return x * s[:, :, None, None]  # equation 4
