"""Datasets by name, as splits of uint8 images on the training device. augment.py makes batches of them.

Images are decoded once and cached as .npy files, which all processes of a node map into memory. A set that would take more
than half of the free memory is decoded again in every epoch, by threads.
"""

import hashlib
import json
import math
import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import cache
import machine
from decode import UnfitImageError
from flags import DATASETS
from shapes import draw_shapes100
from sources import find, open_tables
from splits import Split, hold_out, hold_out_fold

CACHE_DIR = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "resnet-grafts"
CACHE_FORMAT = 6  # raise it with every change to what is decoded, resized, drawn or measured


@dataclass
class ImageSet:
    """Splits and their classes. mean and std: of the training pixels, three channels each, on the scale 0 to 255.

    content_fingerprint: 16 characters that differ if a label, an image or their order does, as far as cache.measure() looks.
    val: the images of a folder val/, if there is one. train is None where a trained network is only to be tested. notes: lines
    on how the set was read, for the user.
    """

    train: Split
    test: Split
    classes: list
    mean: list
    std: list
    content_fingerprint: str
    val: Split | None = None
    notes: tuple = ()

    def to(self, device):
        splits = {name: getattr(self, name) for name in ("train", "val", "test")}
        return replace(self, **{name: split and split.to(device) for name, split in splits.items()})

    @property
    def fingerprint(self):
        """Eight characters made of classes, sizes, mean and std. content_fingerprint also sees labels and test images."""
        content = [self.classes, self.mean, self.std, len(self.train), len(self.test), self.image_size]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]

    @property
    def image_size(self):
        return self.test.image_size


def load(name, data_dir=None, image_size=None, cache_dir=None, room=math.inf, known_classes=None):
    """Loads a dataset by name: an ImageSet, from its decoded copy in cache_dir (CACHE_DIR) where there is one.

    data_dir: for cifar100 and cifar10 a folder of train-*.parquet and test-*.parquet in the hub's columns, or of the original
    archive; for folder a directory with train/<class>/ and test/<class>/, and perhaps val/<class>/. image_size: resize and
    centre-crop to that many pixels; without it all images must be squares of one size. room: bytes that decoded images may
    take; a larger set is streamed. known_classes: the names that a trained network knows; then only the test images of a
    folder are read, and numbered by them. Raises ValueError, in one line, for whatever is missing or unfit.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}: choose from {', '.join(DATASETS)}")
    require_folder(name, data_dir)
    if name == "shapes100" and (data_dir or image_size):
        raise ValueError("--dataset shapes100 is drawn at 32x32: leave out --data-dir and --image-size")
    found = find(name, data_dir, known_classes) if data_dir else None
    key = hashlib.sha256(json.dumps([CACHE_FORMAT, name, image_size, found and found.stamp]).encode()).hexdigest()[:12]
    folder = Path(cache_dir or CACHE_DIR) / f"{name}-{key}"
    splits, meta = read_or_decode(name, found, image_size, folder, math.inf if name == "shapes100" else room)
    if name == "cifar100":  # as in the archive; the hub's table says "cra"
        meta["classes"] = ["crab" if label == "cra" else label for label in meta["classes"]]
    notes, copies = list(found.notes if found else ()), meta.pop("copies")
    if name == "folder":
        notes += [
            f"{data_dir}: images of {split}/ that are copies of training images: {n:,}"
            for split, n in copies.items()
            if n
        ]
    return ImageSet(**{"train": None} | splits | meta, notes=tuple(notes))


def read_or_decode(name, found, image_size, folder, room):
    """A set as cache.read() gives it: from its decoded copy in folder if that is there and fits into `room`, else decoded."""
    try:
        is_decoded = (folder / "meta.json").exists()
    except PermissionError:
        raise ValueError(f"{folder} belongs to another user and cannot be read: give another --cache-dir") from None
    if is_decoded and (fitting := read_fitting(folder, room)):
        cache.remove_leftovers(folder)
        return fitting
    streamed = folder.with_name(f"{folder.name}-streamed")
    is_cached = is_decoded or (streamed / "meta.json").exists()
    if not is_cached and not os.access(next(p for p in folder.parents if p.exists()), os.W_OK):
        raise ValueError(f"cannot write decoded images to {folder.parent}: give another --cache-dir")
    with nullcontext() if is_cached else cache.one_at_a_time(folder):
        # another process may have decoded it while this one waited
        if (folder / "meta.json").exists() and (fitting := read_fitting(folder, room)):
            return fitting
        if name == "shapes100":
            train, test, classes = draw_shapes100()
            cache.write(folder, classes, {"train": train, "test": test})
            return cache.read(folder)
        splits, classes = (found.open if found else open_tables)(name, found, image_size)
        try:
            check_splits(splits, classes)
            return decode_or_stream(splits, classes, folder, streamed, room, is_cached)
        except UnfitImageError as error:
            raise error.listed_in(folder.with_name(f"{folder.name}-unfit.txt")) from None


def decode_or_stream(splits, classes, folder, streamed, room, is_cached):
    """Decodes splits {name: Encoded} into folder; streams those that do not fit into `room`. Returns what cache.read() does.

    is_cached: decoded or known as streamed, so the caller holds no lock.
    """
    n_bytes = sum(len(images) * 3 * images.size**2 for images in splits.values())
    is_read_only = is_cached and not os.access(folder.parent, os.W_OK)  # another user's cache: streamed, as before
    if n_bytes > room or is_read_only:
        return cache.stream(streamed, classes, splits)
    with cache.one_at_a_time(folder) if is_cached else nullcontext():  # known only as streamed: no lock is held
        if not (folder / "meta.json").exists():
            cache.refuse_full_disk(folder, n_bytes)
            cache.write(folder, classes, cache.decode_all(splits))
    return cache.read(folder)


def read_fitting(folder, room):
    """A decoded set, as cache.read() gives it; None if it takes more than `room` bytes."""
    splits, meta = cache.read(folder)
    return (splits, meta) if sum(split.images.nbytes for split in splits.values()) <= room else None


def require_folder(name, data_dir):
    if name == "folder" and not data_dir:
        raise ValueError("--dataset folder needs --data-dir, a folder with train/<class>/ and test/<class>/ in it")


def n_classes(name, data_dir):
    """A dataset's number of classes, found without reading an image. Raises ValueError for a missing folder."""
    if name != "folder":
        return 10 if name == "cifar10" else 100
    require_folder(name, data_dir)
    return len(find(name, data_dir).classes)


def room(device):
    """The bytes that decoded images may take: half of what is free in the machine's memory and in the device's."""
    free = machine.free_memory()
    return (min(free, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free) // 2


def check_splits(splits, classes):
    """Raises ValueError for bad labels, and for splits whose first images differ in size: without decoding all images."""
    for split, images in splits.items():
        outside = images.targets[(images.targets < 0) | (images.targets >= len(classes))]
        if len(outside):
            raise ValueError(
                f"{split} split: {len(outside)} labels outside 0..{len(classes) - 1}, such as {outside[0]}"
            )
    sizes = {split: images.size for split, images in splits.items()}
    if len(set(sizes.values())) > 1:
        names, pixels = " and ".join(sizes), " and ".join(f"{size}x{size}" for size in sizes.values())
        raise ValueError(f"{names} images differ in size ({pixels} pixels): give --image-size")


def held_out(images, val_size, folds, fold, seed):
    """What to train on and what to watch: (train, val or None). A folder val/ overrides val_size. Raises ValueError."""
    if folds and images.val:
        raise ValueError(
            "--folds divides train/, but there is a folder val/, too: leave out --folds and --fold, or move val/ away"
        )
    if images.val:
        return images.train, images.val
    if folds:
        return hold_out_fold(images.train, folds, fold)
    return hold_out(images.train, val_size, seed)
