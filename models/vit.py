"""ViT: a transformer over patches.

Dosovitskiy, Beyer, Kolesnikov and others, "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
ICLR 2021, section 3.1, equations 1 to 4. The size is DeiT's tiny (Touvron et al., ICML 2021). Names and shapes of the
weights are timm's, so that published ones fit.

Departures: smaller patches for small images; and as in DeiT, stochastic depth in place of dropout, its weight init, and a
linear classifier throughout, where the paper pre-trains one with a hidden layer.

Shapes: B images, N patches and the class token, D = width.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.resnet import DropPath

SMALL_IMAGE = 64  # pixels; up to here a patch is 4x4 by default


class PatchEmbed(nn.Module):
    """A linear map of each patch x patch square of pixels: (B, 3, H, W) -> (B, N, D), row by row."""

    def __init__(self, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention: (B, N + 1, D) -> (B, N + 1, D)."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (B, N + 1, 3, heads, D / heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N + 1, D / heads)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with GELU between them, on each token: (B, N + 1, D) -> (B, N + 1, D)."""

    def __init__(self, width, hidden):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x = x + attn(norm1(x)), then x + mlp(norm2(x)): (B, N + 1, D) -> (B, N + 1, D)."""

    def __init__(self, width, heads, drop_path):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, 4 * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def default_patch(image_size):
    return 4 if image_size <= SMALL_IMAGE else 16


class ViT(nn.Module):
    """Patches, positions, transformer blocks, a classifier on the class token: (B, 3, H, W) -> (B, num_classes), H = W.

    patch: side in pixels; 0 takes 4 up to images of 64 pixels and 16 above. width: channels of a token. depth: blocks.
    heads: attention heads of a block. drop_path: rate of the last block; it rises linearly from 0 at the first, so that
    a single block has none. Raises ValueError for a patch that does not divide the image, heads that do not divide the
    width, and a size or rate out of range.
    """

    def __init__(
        self,
        num_classes,
        image_size,
        *,
        patch: int = 0,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        drop_path: float = 0.0,
    ):
        super().__init__()
        patch = patch or default_patch(image_size)
        if patch < 1 or image_size % patch:
            raise ValueError(f"vit.patch must divide the {image_size} pixels of an image's side, got {patch}")
        if min(width, depth, heads) < 1 or width % heads:
            raise ValueError(
                "vit.width, vit.depth and vit.heads must be at least 1 and the heads divide the width, "
                f"got {width}, {depth} and {heads}"
            )
        if not 0 <= drop_path < 1:
            raise ValueError(f"vit.drop_path must be in [0, 1), got {drop_path}")
        self.patch_embed = PatchEmbed(width, patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (image_size // patch) ** 2, width))  # the class token's first
        # on the CPU even under torch.device("meta"), whose tensors have no values to read
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.Sequential(*[Block(width, heads, rate) for rate in rates])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x):
        patches = self.patch_embed(x)  # (B, N, D)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), patches], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])
