"""AlexNet for small images.

Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS 2012,
section 3, with the widths of Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, as in its
code (cuda-convnet2) and in torchvision: its text has 384 for the fourth convolution, not 256.

Departures, those of bearpaw's pytorch-classification for 32x32 images: neither dropout nor normalization, wider padding in
the first convolution, pools of 2x2, and one linear layer in place of 4096-4096-classes (torchvision's AlexNet leaves no
pixel of a 32x32 image). Global average pooling of what is left (1x1 of a 32x32 image) makes it fit every size.
"""

from torch import nn

from models.ops.layout import global_avg_pool


class AlexNet(nn.Module):
    """Five convolutions, the first of 11x11 and stride 4, and a linear layer: (B, 3, H, W) -> (B, num_classes)."""

    def __init__(self, num_classes, image_size):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=5), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        )  # fmt: skip
        self.fc = nn.Linear(256, num_classes)

    def forward(self, x):
        return self.fc(global_avg_pool(self.features(x)))
