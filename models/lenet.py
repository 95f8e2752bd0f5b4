"""LeNet-5.

LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", Proceedings of the IEEE
1998, section II.B and Figure 2.

Departures, usual today: colour images, ReLU in place of scaled tanh, max pooling without weights in place of
subsampling with them, every map of the second convolution connected to all of the first, a linear classifier in place
of radial basis functions.
"""

from torch import nn


class LeNet(nn.Sequential):
    """Two convolutions of 5x5 with pooling, three linear layers: (B, 3, image_size, image_size) -> (B, num_classes).

    The first linear layer sees all pixels that are left, 5x5 of a 32x32 image, so it grows with the image.
    """

    def __init__(self, num_classes, image_size):
        size = ((image_size - 4) // 2 - 4) // 2
        super().__init__(
            nn.Conv2d(3, 6, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * size**2, 120), nn.ReLU(inplace=True),
            nn.Linear(120, 84), nn.ReLU(inplace=True),
            nn.Linear(84, num_classes),
        )  # fmt: skip
