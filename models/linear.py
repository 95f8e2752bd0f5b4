"""A linear classifier of the pixels: the least that a network has to beat."""

from torch import nn


class Linear(nn.Sequential):
    """One layer from all pixels to all classes: (B, 3, image_size, image_size) -> (B, num_classes)."""

    def __init__(self, num_classes, image_size):
        super().__init__(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))
