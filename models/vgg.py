"""VGG-16 and VGG-19 with batch norm.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, Table 1, columns
D and E. Batch norm (Ioffe and Szegedy 2015) lets them train from random weights; the paper initializes the deep ones
with the weights of a shallower network. Convolutions keep their biases, as in torchvision.

Departures: the head follows global average pooling (of 1x1 for a 32x32 image) and is a single layer by default.
"""

from typing import Literal

from torch import nn

from models.ops.layout import global_avg_pool

WIDTHS = (64, 128, 256, 512, 512)  # of the five stages, each ended by a 2x2 max pool
DEPTHS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # layers: convolutions of the stages


class VGG(nn.Module):
    """Five stages of 3x3 convolutions and max pooling: (B, 3, H, W) -> (B, num_classes), H and W at least 32.

    depth: layers, 16 or 19. head: "linear", or "mlp" for the paper's 4096-4096-classes with dropout. Raises ValueError
    for another depth.
    """

    def __init__(self, num_classes, image_size, *, depth: int = 16, head: Literal["linear", "mlp"] = "linear"):
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"vgg.depth must be 16 or 19, got {depth}")
        self.features = nn.Sequential()
        in_ch = 3
        for n_convs, ch in zip(DEPTHS[depth], WIDTHS, strict=True):
            for _ in range(n_convs):
                conv = nn.Conv2d(in_ch, ch, 3, padding=1)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                self.features.extend([conv, nn.BatchNorm2d(ch), nn.ReLU(inplace=True)])
                in_ch = ch
            self.features.append(nn.MaxPool2d(2))
        hidden = []
        if head == "mlp":
            hidden = [
                nn.Linear(512, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5),
                nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5),
            ]  # fmt: skip
        self.hidden = nn.Sequential(*hidden)
        self.fc = nn.Linear(4096 if hidden else 512, num_classes)

    def forward(self, x):
        return self.fc(self.hidden(global_avg_pool(self.features(x))))
