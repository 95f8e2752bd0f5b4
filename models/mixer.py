"""MLP-Mixer: one MLP along the pixels, one along the channels.

Tolstikhin, Houlsby, Kolesnikov, Beyer, Zhai and others, "MLP-Mixer: An all-MLP Architecture for Vision", NeurIPS 2021,
Figure 1 and equation 1. Slot: block. Published with Adam.

Departures: the block stands between those of a ResNet, in the third stage, where a map is 64 pixels, and after its
ReLU; there is no patch embedding and no norm before the classifier, which does not start at zero. Weights start at
PyTorch's default.
"""

from torch import nn

from models.ops.channels import Pointwise
from models.ops.tracing import of_size
from models.prenorm import ChannelNorm, ReplacingFamily
from models.resnet import DropPath


class TokenMLP(nn.Sequential):
    """The same MLP along the pixels of each channel: (B, C, H, W) -> (B, C, H, W), for H = W = size, or ValueError."""

    def __init__(self, size, hidden):
        super().__init__(nn.Linear(size**2, hidden), nn.GELU(), nn.Linear(hidden, size**2))  # W_1 and W_2 of equation 1
        self.size = size

    def forward(self, x):
        x = of_size(x, self.size, "mixer is built")
        return super().forward(x.flatten(2)).unflatten(2, (self.size, self.size))  # along the pixels, row by row


class MixerBlock(nn.Module):
    """x = x + token_mlp(norm(x)), then x + channel_mlp(norm(x)): (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, ch, size, attention, drop_path, token_hidden, channel_hidden):
        super().__init__()
        self.mix_tokens = nn.Sequential(
            ChannelNorm(ch, before_linear=True),
            TokenMLP(size, token_hidden),
            attention(ch),
            DropPath(drop_path),
        )
        self.mix_channels = nn.Sequential(
            ChannelNorm(ch, before_linear=True),
            Pointwise(ch, channel_hidden),  # W_3
            nn.GELU(),
            Pointwise(channel_hidden, ch),  # W_4
            DropPath(drop_path),
        )

    def forward(self, x):
        x = x + self.mix_tokens(x)
        return x + self.mix_channels(x)


class Mixer(ReplacingFamily):
    """Mixer blocks in place of blocks that keep the shape; the others, the stem and the head stay the ResNet's.

    stages: those with Mixer blocks, counted from 1. A map of the third has 64 pixels for a 32x32 image and, after the
    ImageNet stem, 196 for a 224x224 image. first_block: index (from 0) of the first block replaced in a stage: 2 replaces
    only the last of three. Strided blocks are never replaced. token_hidden: hidden width of the MLP along the pixels (D_S in
    the paper); 0 takes the paper's, C / 2 for C channels. channel_hidden: hidden width of the MLP along the channels (D_C in
    the paper); 0 takes the paper's, 4 C for C channels. Raises ValueError for stages that are not distinct numbers from 1 to
    4 and for a negative index or width.
    """

    def __init__(
        self,
        *,
        stages: tuple[int, ...] = (3,),
        first_block: int = 0,
        token_hidden: int = 0,
        channel_hidden: int = 0,
    ):
        super().__init__("mixer", stages, first_block)
        if min(first_block, token_hidden, channel_hidden) < 0:
            raise ValueError(
                "mixer.first_block, mixer.token_hidden and mixer.channel_hidden must be at least 0, "
                f"got {first_block}, {token_hidden} and {channel_hidden}"
            )
        self.token_hidden, self.channel_hidden = token_hidden, channel_hidden

    def block(self, ch, place, attention, drop_path):
        token_hidden, channel_hidden = self.token_hidden or max(1, ch // 2), self.channel_hidden or 4 * ch
        return MixerBlock(ch, place.size, attention, drop_path, token_hidden, channel_hidden)
