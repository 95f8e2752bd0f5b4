"""Product pooling: the mean over pixels of products of two linear maps. A module of this project: results/own/README.md.

    y_k = mean over pixels p of BN(u_k . x_p) BN(v_k . x_p),    k = 1 ... K

Slot: pool, in place of the mean over pixels. The mean adds up each feature by itself; a product is large where two features
occur in the same pixel. Without the norms, y_k = u_k^T M v_k, where M = mean_p x_p x_p^T is the bilinear pooling of Lin,
RoyChowdhury and Maji (ICCV 2015). Kim et al. ("Hadamard Product for Low-rank Bilinear Pooling", ICLR 2017) fuse features of a
question and an image with such products, with tanh on the factors; Li et al. ("Factorized Bilinear Models for Image
Recognition", ICCV 2017) give each class matrices of its own. Here all classes share the products, and batch norm starts both
factors at unit size.
"""

from typing import Literal

from torch import nn

from models.ops.layout import global_avg_pool
from models.resnet import ConvBN

Form = Literal["product", "square", "relu", "linear"]


class ProductPool(nn.Module):
    """Means of products over the pixels: (B, C, H, W) -> (B, features).

    features: K in the equation, whatever C is. form: "product" is BN(u x) BN(v x), "square" BN(u x)^2, "relu"
    relu(BN(u x)) and "linear" BN(u x). norm: false replaces the batch norms by biases. Raises ValueError for fewer than 1
    feature.
    """

    def __init__(self, ch, *, features: int = 256, form: Form = "product", norm: bool = True):
        super().__init__()
        if features < 1:
            raise ValueError(f"productpool.features must be at least 1, got {features}")
        self.form, self.out_ch = form, features
        expanded = 2 * features if form == "product" else features
        self.expand = ConvBN(ch, expanded, relu=False, kernel_size=1) if norm else nn.Conv2d(ch, expanded, 1)

    def forward(self, x):
        x = self.expand(x)  # (B, features or 2 features, H, W)
        if self.form == "product":
            u, v = x.chunk(2, dim=1)  # BN(u_k . x_p) and BN(v_k . x_p), each (B, features, H, W)
            x = u * v
        elif self.form == "square":
            x = x * x
        elif self.form == "relu":
            x = x.relu()
        return global_avg_pool(x)
