"""Datasets as uint8 tensors, and batches that are augmented on the training device.

Images are decoded once, cached as .npy files that all processes of a node map into memory, and augmented a whole batch at
a time. A set that would take more than half of the free memory is decoded again in every epoch, by threads. The order
of the samples and everything drawn for them depend on (seed, epoch, position in the epoch) only: any number of processes sees
the same pixels, whichever way they come, and a resumed run sees what it would have seen.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

import machine
from decode import Encoded, UnfitImageError, decoded
from shapes import draw_shapes100
from sources import HUB_SETS, find, open_folder, open_tables

CACHE_DIR = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "resnet-grafts"
FORMAT = 3  # of the decoded cache: to be raised with every change of what is decoded, resized, drawn or measured
DATASETS = (*HUB_SETS, "folder", "shapes100")
SAMPLE = 50_000  # images that mean and std are of, evenly spread over train: all of CIFAR's
MAX_THREADS = 16  # that decode for one process
DECODED_AT_ONCE = 256  # images
FOLD_SEED = 0  # the folds of one K must be parts of one partition, whatever the run's seed

# ----------------------------------------------------------------------------------------------------------- splits


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 3, H, W) in channels-last order, targets int64 (N,), and the rows that belong to the split."""

    images: torch.Tensor
    targets: torch.Tensor
    index: torch.Tensor

    way = "in memory"

    def __len__(self):
        return len(self.index)

    @property
    def image_size(self):
        return self.images.shape[-1]

    def to(self, device):
        return replace(
            self, images=self.images.to(device), targets=self.targets.to(device), index=self.index.to(device)
        )

    def read(self, batches):
        """Yields for each tensor of rows (b,) images uint8 (n, 3, H, W), and where among these the b rows are."""
        for rows in batches:
            yield self.images, rows


@dataclass(frozen=True)
class StreamedSplit(Split):
    """A split whose images are decoded, resized and cropped by threads as they are needed: images is Encoded."""

    images: Encoded

    way = "streamed"

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


@dataclass
class ImageSet:
    """Two splits and their classes. mean and std: of the training pixels, three channels each, on the scale 0 to 255.

    content_fingerprint: 16 characters that differ if a label or an image of either split does, as far as measure() looks.
    notes: what a user should know of how the set was read, a line each.
    """

    train: Split
    test: Split
    classes: list
    mean: list
    std: list
    content_fingerprint: str
    notes: tuple = ()

    def to(self, device):
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    @property
    def fingerprint(self):
        """Eight characters that differ between datasets, though neither with every pixel nor with labels or test images."""
        content = [self.classes, self.mean, self.std, len(self.train), len(self.test), self.image_size]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]

    @property
    def image_size(self):
        return self.train.image_size


# ---------------------------------------------------------------------------------------------- loading and decoding


def load(name, data_dir=None, image_size=None, cache_dir=None, room=math.inf):
    """Loads a dataset by name, from its decoded cache where there is one.

    data_dir: for cifar100 and cifar10 a folder of train-*.parquet and test-*.parquet in the hub's columns; for folder a
    directory with train/<class>/ and test/<class>/. image_size: resize and centre-crop to that many pixels; without it
    all images must be squares of one size. room: bytes that decoded images may take; a larger set is streamed. Raises
    ValueError, in one line, for whatever is missing or unfit.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}: choose from {', '.join(DATASETS)}")
    if name == "folder" and not data_dir:
        raise ValueError("--dataset folder needs --data-dir, a folder with train/<class>/ and test/<class>/ in it")
    if name == "shapes100" and (data_dir or image_size):
        raise ValueError("--dataset shapes100 is drawn at 32x32: leave out --data-dir and --image-size")
    found = find(name, data_dir) if data_dir else None
    key = hashlib.sha256(json.dumps([FORMAT, name, image_size, found and found.stamp]).encode()).hexdigest()[:12]
    folder = Path(cache_dir or CACHE_DIR) / f"{name}-{key}"
    notes = found.notes if found else ()
    if (folder / "meta.json").exists():
        cached = read_cache(folder, notes)
        if name == "shapes100" or cached.train.images.nbytes + cached.test.images.nbytes <= room:
            return cached
    streamed = folder.with_name(f"{folder.name}-streamed")
    if not (streamed / "meta.json").exists() and not os.access(next(p for p in folder.parents if p.exists()), os.W_OK):
        raise ValueError(f"cannot write decoded images to {folder.parent}: give another --cache-dir")
    if name == "shapes100":
        write_cache(folder, *draw_shapes100())
        return read_cache(folder)
    splits, classes = open_folder(found, image_size) if name == "folder" else open_tables(name, found, image_size)
    check_splits(splits, classes)
    if sum(map(len, splits.values())) * 3 * splits["train"].size ** 2 > room:
        return stream(streamed, splits, classes, notes)
    arrays = decode_all(splits.values())
    write_cache(folder, *[(a, images.targets) for a, images in zip(arrays, splits.values(), strict=True)], classes)
    return read_cache(folder, notes)


def room(device):
    """The bytes that decoded images may take: half of what is free in the machine's memory and in the device's."""
    free = machine.free_memory()
    return (min(free, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free) // 2


def check_splits(splits, classes):
    """Raises ValueError for what can be seen without decoding all images: labels, and the first image of each split."""
    for split, images in splits.items():
        outside = images.targets[(images.targets < 0) | (images.targets >= len(classes))]
        if len(outside):
            raise ValueError(
                f"{split} split: {len(outside)} labels outside 0..{len(classes) - 1}, such as {outside[0]}"
            )
        if problems := images.decode([0], np.empty((1, images.size, images.size, 3), dtype=np.uint8)):
            raise UnfitImageError(*problems)
    train, test = splits["train"], splits["test"]
    if train.size != test.size:
        sizes = " and ".join(f"{images.size}x{images.size}" for images in (train, test))
        raise ValueError(f"train and test images differ in size ({sizes} pixels): give --image-size")


def decode_all(splits):
    """All images of Encoded splits: [uint8 (N, size, size, 3)]. Raises UnfitImageError, naming all that are unfit."""
    problems, arrays = [], []
    for images in splits:
        pixels = np.empty((len(images), images.size, images.size, 3), dtype=np.uint8)
        starts = range(0, len(images), DECODED_AT_ONCE)
        parts = iter([pixels[start : start + DECODED_AT_ONCE] for start in starts])
        batches = [range(start, min(start + DECODED_AT_ONCE, len(images))) for start in starts]
        for result in decoded(images, batches, min(machine.cores(), MAX_THREADS), lambda _, parts=parts: next(parts)):
            problems += result.problems if isinstance(result, UnfitImageError) else []
        arrays.append(pixels)
    if problems:
        raise UnfitImageError(*problems)
    return arrays


def write_cache(folder, train, test, classes):
    """Writes a decoded dataset: images uint8 (N, H, W, 3) and targets (N,) of each split, and its meta.json."""
    arrays = {}
    for split, (images, targets) in (("train", train), ("test", test)):
        arrays |= {f"{split}_images": images, f"{split}_targets": targets}
    write_folder(folder, {"classes": classes, **measure(in_memory(*train), in_memory(*test))}, arrays)


def write_folder(folder, meta, arrays):
    """Writes meta.json and the arrays as .npy files; the folder appears only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    pending = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.tmp"))
    for name, array in arrays.items():
        np.save(pending / f"{name}.npy", array)
    (pending / "meta.json").write_text(json.dumps(meta))
    try:
        pending.rename(folder)
    except OSError:
        shutil.rmtree(pending)
        if not (folder / "meta.json").exists():  # or else another process was first
            raise


def read_cache(folder, notes=()):
    """The ImageSet that write_cache wrote."""
    splits = []
    for split in ("train", "test"):
        # copy-on-write: writable as torch wants it, yet the pages are shared by all processes of the node
        parts = (np.load(folder / f"{split}_{part}.npy", mmap_mode="c") for part in ("images", "targets"))
        splits.append(in_memory(*parts))
    return ImageSet(*splits, **json.loads((folder / "meta.json").read_text()), notes=notes)


def in_memory(images, targets):
    """Arrays (N, H, W, 3) and (N,) -> Split."""
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(targets), torch.arange(len(images)))


def stream(folder, splits, classes, notes):
    """The streamed ImageSet of Encoded splits; what was measured of it is cached in the folder's meta.json."""
    train, test = (
        StreamedSplit(images, torch.from_numpy(images.targets), torch.arange(len(images))) for images in splits.values()
    )
    if not (folder / "meta.json").exists():
        write_folder(folder, {"classes": classes, **measure(train, test)}, {})
    return ImageSet(train, test, **json.loads((folder / "meta.json").read_text()), notes=notes)


def measure(train, test):
    """Mean and std of train, and the fingerprint of what both splits hold: all labels, and the pixels of SAMPLE images of each."""
    content = hashlib.blake2b(digest_size=8)
    measured = statistics(train, content)
    statistics(test, content)
    for split in (train, test):
        content.update(split.targets.numpy().astype("<i8").tobytes())
    return measured | {"content_fingerprint": content.hexdigest()}


def statistics(split, content=None):
    """Mean and std of each channel, on the scale 0 to 255, over SAMPLE images that are evenly spread over the split.

    content: a hash that takes their pixels, too. The sums are of whole numbers, and exact, and the rest is Python's arithmetic,
    so that both ways to read a split and all processors agree to the last bit, and with it on the fingerprints; torch's square
    root is rounded otherwise on some.
    """
    rows = torch.from_numpy(np.linspace(0, len(split) - 1, min(len(split), SAMPLE)).round().astype(np.int64))
    n_pixels = len(rows) * split.image_size**2
    sums, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for images, i in split.read(rows.split(256)):
        images = images[i]
        if content:
            content.update(images.permute(0, 2, 3, 1).contiguous().numpy())
        pixels = images.transpose(0, 1).reshape(3, -1).double()
        sums += pixels.sum(1)
        squares += pixels.square().sum(1)
    mean = [of_channel / n_pixels for of_channel in sums.tolist()]
    variance = [square / n_pixels - m * m for square, m in zip(squares.tolist(), mean, strict=True)]
    return {"mean": mean, "std": [math.sqrt(max(1.0, v)) for v in variance]}


def hold_out(split, val_size, seed):
    """Splits off a stratified part: (the rest, the part). val_size: a fraction below 1, or a number of images; 0 for none.

    Raises ValueError where a part would be empty.
    """
    if val_size == 0:
        return split, None
    n_held = round(val_size * len(split)) if val_size < 1 else int(val_size)
    if not 0 < n_held < len(split):
        raise ValueError(f"--val-size {val_size:g} leaves no image on one side of {len(split)} training images")
    index = split.index.cpu().numpy()
    shuffled = np.random.default_rng(seed).permutation(len(index))
    label = split.targets.cpu().numpy()[index][shuffled]
    turn = np.empty(len(index))  # when an image is taken: all classes are used up at the same rate
    for c in np.unique(label):
        members = label == c
        turn[members] = (np.arange(members.sum()) + 0.5) / members.sum()
    held = np.zeros(len(index), dtype=bool)
    held[shuffled[np.argsort(turn, kind="stable")[:n_held]]] = True
    return divide(split, held)


def hold_out_fold(split, folds, fold):
    """Splits off one of `folds` stratified parts, numbered from 0: (the rest, the part).

    The parts are disjoint and cover the split, their sizes and their shares of each class differ by one image at the most.
    Raises ValueError where there are fewer images than parts.
    """
    if len(split) < folds:
        raise ValueError(f"--folds {folds} leaves folds of no image: there are {len(split)} training images")
    label = split.targets.cpu().numpy()[split.index.cpu().numpy()]
    shuffled = np.random.default_rng(FOLD_SEED).permutation(len(label))
    by_class = shuffled[np.argsort(label[shuffled], kind="stable")]
    fold_of = np.empty(len(label), dtype=np.int64)
    fold_of[by_class] = np.arange(len(label)) % folds  # dealt like cards, class after class
    return divide(split, fold_of == fold)


def divide(split, held):
    """A split in two by a mask (n,): (the rest, what is held out)."""
    sides = (split.index[torch.from_numpy(side).to(split.index.device)] for side in (~held, held))
    return tuple(replace(split, index=side) for side in sides)
