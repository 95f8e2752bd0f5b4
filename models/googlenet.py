"""GoogLeNet with batch norm, for small images.

Szegedy, Liu, Jia and others, "Going Deeper with Convolutions", CVPR 2015, section 5, Table 1 and Figure 2(b).

Departures, those of weiaicunzai's pytorch-cifar100: three 3x3 convolutions of stride 1 and one pool for a stem, batch
norm after every convolution in place of local response normalization, biases before it except in the stem, two 3x3
convolutions in place of a 5x5 (Szegedy et al., CVPR 2016), no auxiliary classifiers.
"""

from torch import nn

from models.ops.layout import concatenate, global_avg_pool

# Rows of Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj. None is its 3x3 max pool of stride 2.
INCEPTIONS = (
    (64, 96, 128, 16, 32, 32),  # 3a
    (128, 128, 192, 32, 96, 64),  # 3b
    None,
    (192, 96, 208, 16, 48, 64),  # 4a
    (160, 112, 224, 24, 64, 64),  # 4b
    (128, 128, 256, 24, 64, 64),  # 4c
    (112, 144, 288, 32, 64, 64),  # 4d
    (256, 160, 320, 32, 128, 128),  # 4e
    None,
    (256, 160, 320, 32, 128, 128),  # 5a
    (384, 192, 384, 48, 128, 128),  # 5b
)


def conv(in_ch, out_ch, kernel_size, bias=True):
    """Convolution that keeps the size, batch norm, ReLU."""
    layer = nn.Conv2d(in_ch, out_ch, kernel_size, padding=kernel_size // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm2d(out_ch), nn.ReLU(inplace=True))


class Inception(nn.Module):
    """1x1, 3x3, 5x5 and pooling side by side: (B, in_ch, H, W) -> (B, out1 + out3 + out5 + pooled, H, W)."""

    def __init__(self, in_ch, out1, reduce3, out3, reduce5, out5, pooled):
        super().__init__()
        self.branch1 = conv(in_ch, out1, 1)
        self.branch3 = nn.Sequential(conv(in_ch, reduce3, 1), conv(reduce3, out3, 3))
        self.branch5 = nn.Sequential(conv(in_ch, reduce5, 1), conv(reduce5, out5, 3), conv(out5, out5, 3))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv(in_ch, pooled, 1))

    def forward(self, x):
        return concatenate([branch(x) for branch in (self.branch1, self.branch3, self.branch5, self.pool)])


class GoogLeNet(nn.Module):
    """Nine inception modules: (B, 3, H, W) -> (B, num_classes).

    dropout: rate before the classifier. Raises ValueError for a rate outside [0, 1).
    """

    def __init__(self, num_classes, image_size, *, dropout: float = 0.4):
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"googlenet.dropout must be in [0, 1), got {dropout}")
        self.features = nn.Sequential(
            conv(3, 64, 3, bias=False),
            conv(64, 64, 3, bias=False),
            conv(64, 192, 3, bias=False),
            nn.MaxPool2d(3, 2, padding=1),
        )
        in_ch = 192
        for channels in INCEPTIONS:
            if channels is None:
                self.features.append(nn.MaxPool2d(3, 2, padding=1))
            else:
                self.features.append(Inception(in_ch, *channels))
                out1, _, out3, _, out5, pooled = channels
                in_ch = out1 + out3 + out5 + pooled
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_ch, num_classes)

    def forward(self, x):
        return self.fc(self.dropout(global_avg_pool(self.features(x))))
