"""A trained network in the hub's format: config.json, model.safetensors and a model card."""

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from models import build


class Classifier(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="pytorch",
    tags=["image-classification", "resnet-grafts"],
    license="mit",
):
    """A network with the preprocessing it was trained with: uint8 images (B, 3, image_size, image_size) -> (B, classes) logits.

    Save with save_pretrained(folder). Load with Classifier.from_pretrained(folder_or_id, strict=True): without strict the
    mixin loads a file with missing weights and says nothing. mean and std: of the pixels, on the scale 0 to 255.
    """

    def __init__(self, arch: str, classes: list, settings: dict, image_size: int, mean: list, std: list):
        super().__init__()
        self.net = build(arch, len(classes), settings, image_size)
        self.arch, self.classes, self.settings, self.image_size = arch, classes, settings, image_size
        self.mean, self.std = mean, std

    def forward(self, imgs):
        mean, std = (torch.tensor(v, device=imgs.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return self.net((imgs.float() - mean) / std)
