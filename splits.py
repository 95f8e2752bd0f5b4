"""Splits: images in memory or decoded as they are needed, their targets, and the parts that are held out of them."""

import os
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

import machine
from decode import Encoded, UnfitImageError, decoded

MAX_THREADS = 8  # decoding for one process; 16 are slower, as they wait for the GIL
FOLD_SEED = 0  # the folds of one K must be parts of one partition, whatever the run's seed


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 3, H, W) in channels-last order, targets int64 (N,), and the rows that belong to the split."""

    images: torch.Tensor
    targets: torch.Tensor
    index: torch.Tensor

    is_streamed = False

    def __len__(self):
        return len(self.index)

    @property
    def image_size(self):
        return self.images.shape[-1]

    @property
    def labels(self):
        """The targets of the split's own rows, as a NumPy array (n,)."""
        return self.targets.cpu().numpy()[self.index.cpu().numpy()]

    def to(self, device):
        return replace(
            self, images=self.images.to(device), targets=self.targets.to(device), index=self.index.to(device)
        )

    def read(self, batches):
        """For each tensor of rows (b,), yields images uint8 (n, 3, H, W) and the positions of these rows among them, (b,)."""
        for rows in batches:
            yield self.images, rows


@dataclass(frozen=True)
class StreamedSplit(Split):
    """A split whose images are decoded, resized and cropped by threads as they are needed: images is Encoded."""

    images: Encoded

    is_streamed = True

    @property
    def image_size(self):
        return self.images.size

    def to(self, device):
        return replace(self, targets=self.targets.to(device), index=self.index.to(device))

    def read(self, batches):
        """As Split.read, in the same order with any number of threads. Raises UnfitImageError."""
        device = self.index.device
        empty = partial(torch.empty, dtype=torch.uint8, pin_memory=device.type == "cuda")
        for images in decoded(self.images, [rows.tolist() for rows in batches], n_threads(), empty):
            if isinstance(images, UnfitImageError):
                raise images
            yield images.to(device, non_blocking=True).permute(0, 3, 1, 2), torch.arange(len(images), device=device)


def n_threads():
    """Threads that decode for this process: its share of the cores."""
    return max(1, min(machine.cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), MAX_THREADS))


def in_memory(images, targets):
    """Arrays (N, H, W, 3) and (N,) -> Split."""
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(targets), torch.arange(len(images)))


def streamed(images):
    """Encoded -> StreamedSplit."""
    return StreamedSplit(images, torch.from_numpy(images.targets), torch.arange(len(images)))


# ----------------------------------------------------------------------------------------------------- held-out parts


def hold_out(split, val_size, seed):
    """Splits off a stratified part: (the rest, the part). val_size: a fraction below 1, or a number of images; 0 for none.

    Raises ValueError where a part would be empty.
    """
    if val_size == 0:
        return split, None
    n_held = round(val_size * len(split)) if val_size < 1 else int(val_size)
    if not 0 < n_held < len(split):
        raise ValueError(
            f"--val-size {val_size:g} leaves no image to train on, or none to hold out, of {len(split)} training images: "
            "give another, or 0"
        )
    shuffled = np.random.default_rng(seed).permutation(len(split))
    label = split.labels[shuffled]
    # where an image stands in its shuffled class, 0 to 1: the first of every class are held out
    by_class = np.argsort(label, kind="stable")
    _, first, size = np.unique(label[by_class], return_index=True, return_counts=True)
    place = np.empty(len(split))
    place[by_class] = (np.arange(len(split)) - np.repeat(first, size) + 0.5) / np.repeat(size, size)
    held = np.zeros(len(split), dtype=bool)
    held[shuffled[np.argsort(place, kind="stable")[:n_held]]] = True
    return divide(split, held)


def hold_out_fold(split, folds, fold):
    """Splits off one of `folds` stratified parts, numbered from 0: (the rest, the part).

    The parts are disjoint and cover the split; their sizes, and their counts of a class, differ by at most one image.
    Raises ValueError where there are fewer images than parts.
    """
    if len(split) < folds:
        raise ValueError(f"--folds {folds} leaves folds without an image: there are {len(split)} training images")
    label = split.labels
    shuffled = np.random.default_rng(FOLD_SEED).permutation(len(label))
    by_class = shuffled[np.argsort(label[shuffled], kind="stable")]
    fold_of = np.empty(len(label), dtype=np.int64)
    fold_of[by_class] = np.arange(len(label)) % folds  # dealt like cards, class after class
    return divide(split, fold_of == fold)


def divide(split, held):
    """A split in two by a mask (n,): (the rest, what is held out)."""
    sides = (split.index[torch.from_numpy(side).to(split.index.device)] for side in (~held, held))
    return tuple(replace(split, index=side) for side in sides)
