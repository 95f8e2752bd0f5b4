"""Decoded sets on disk: a folder of .npy files, which all processes of a node map into memory, and meta.json.

For a streamed set only meta.json is kept: its measured values.
"""

import hashlib
import json
import math
import shutil
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

import locks
import machine
from decode import UnfitImageError, decoded, headers
from flags import one_line
from splits import MAX_THREADS, in_memory, streamed

SAMPLE = 50_000  # images of a split that are measured, evenly spread: all of CIFAR's
DECODED_AT_ONCE = 256  # images
MEASURED_PIXELS = 256 * 224**2  # at once: sums of squares take two doubles for each
POLL_S = 1.0  # between two looks at a set that another process decodes
LEFTOVER_S = 24 * 3600  # a folder still incomplete after this time was left by a killed process


# -------------------------------------------------------------------------------------------------------------- decoding


def decode_all(splits):
    """All images of {name: Encoded}: {name: (uint8 (N, size, size, 3), targets)}. Raises UnfitImageError, naming all unfit."""
    problems, arrays = [], {}
    for name, images in splits.items():
        pixels = np.empty((len(images), images.size, images.size, 3), dtype=np.uint8)
        problems += decode_split(images, pixels)
        arrays[name] = pixels, images.targets
    if problems:
        raise UnfitImageError(*problems)
    return arrays


def decode_split(images, pixels=None):
    """Decodes all images of an Encoded, into pixels if they are wanted: uint8 (N, size, size, 3). Returns the problems."""
    n, problems = len(images), []
    batches = [range(start, min(start + DECODED_AT_ONCE, n)) for start in range(0, n, DECODED_AT_ONCE)]
    parts = iter(batches)  # decoded() asks for their buffers in order

    def buffer(shape):
        rows = next(parts)
        return np.empty(shape, dtype=np.uint8) if pixels is None else pixels[rows.start : rows.stop]

    with tqdm(total=n, unit="img", desc=images.split, leave=False, disable=not sys.stderr.isatty()) as bar:
        for batch, result in zip(batches, decoded(images, batches, n_threads(), buffer), strict=True):
            problems += result.problems if isinstance(result, UnfitImageError) else []
            bar.update(len(batch))
    return problems


def n_threads():
    """All cores, up to MAX_THREADS: the other processes wait for what is decoded here."""
    return min(machine.cores(), MAX_THREADS)


# --------------------------------------------------------------------------------------------------------- write and read


def refuse_full_disk(folder, n_bytes):
    """Raises ValueError, before the work of decoding, if there is no room for what will be written."""
    free = shutil.disk_usage(next(parent for parent in folder.parents if parent.exists())).free
    if free < n_bytes:
        raise ValueError(no_room(folder, n_bytes, f"{free / 2**20:,.0f} MB are free"))


def no_room(folder, n_bytes, why):
    return (
        f"cannot write {n_bytes / 2**20:,.0f} MB of decoded images to {folder.parent} ({one_line(why)}): make room "
        f"there, or give another --cache-dir"
    )


@contextmanager
def one_at_a_time(folder):
    """Tasks that begin together would decode, and write, a copy each: here the others wait until the first has done it."""
    path, waits = folder.with_name(f"{folder.name}.lock"), False
    while True:
        try:
            lock = locks.Lock(path)
            break
        except locks.HeldError:
            if not waits:
                print(
                    f"waiting for another process, which decodes the images for {folder}", file=sys.stderr, flush=True
                )
            waits = True
            time.sleep(POLL_S)
    with lock:
        # leftovers of killed processes: nobody but the holder of the lock writes
        for leftover in folder.parent.glob(f"{folder.name}.tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if folder.exists() and not (folder / "meta.json").exists():  # somebody has removed parts of it
            shutil.rmtree(folder)
        yield


def write(folder, classes, arrays):
    """Writes decoded splits {name: (images uint8 (N, H, W, 3), targets (N,))} and what measure() returns."""
    splits = {name: in_memory(*parts) for name, parts in arrays.items()}
    files = {}
    for name, (images, targets) in arrays.items():
        files |= {f"{name}_images": images, f"{name}_targets": targets}
    write_folder(folder, {"classes": classes, "splits": list(splits), **measure(splits)}, files)


def read(folder):
    """What write() wrote: {name: Split} and the rest of meta.json. Raises ValueError where a file is damaged."""
    splits = {}
    try:
        meta = json.loads((folder / "meta.json").read_text())
        for name in meta.pop("splits"):
            # copy-on-write: writable as torch wants it, yet the pages are shared by all processes of the node
            parts = (np.load(folder / f"{name}_{part}.npy", mmap_mode="c") for part in ("images", "targets"))
            splits[name] = in_memory(*parts)
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"{folder} is damaged ({one_line(error)}): remove it") from None
    return splits, meta


def stream(folder, classes, encoded):
    """read() for splits {name: Encoded} that are decoded when needed. The first call reads all headers, decodes the
    images that are measured, and writes meta.json. Raises UnfitImageError."""
    splits = {name: streamed(images) for name, images in encoded.items()}
    if not (folder / "meta.json").exists():
        problems = [problem for images in encoded.values() for problem in headers(images, n_threads())]
        if problems:
            raise UnfitImageError(*problems)
        try:
            measured = measure(splits)
        except UnfitImageError:  # there may be more, and the user wants to know of all
            raise UnfitImageError(
                *(problem for images in encoded.values() for problem in decode_split(images))
            ) from None
        write_folder(folder, {"classes": classes, **measured}, {})
    try:
        return splits, json.loads((folder / "meta.json").read_text())
    except ValueError as error:
        raise ValueError(f"{folder} is damaged ({one_line(error)}): remove it") from None


def write_folder(folder, meta, arrays):
    """Writes meta.json and the arrays as .npy files; the folder appears only when it is complete. Raises ValueError if it
    cannot be written, and leaves nothing."""
    pending = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        pending = folder.with_name(f"{folder.name}.tmp{uuid.uuid4().hex[:8]}")
        pending.mkdir()  # with the user's umask: others may share the folder
        for name, array in arrays.items():
            np.save(pending / f"{name}.npy", array)
        (pending / "meta.json").write_text(json.dumps(meta))
        try:
            pending.rename(folder)
        except OSError:
            if not (folder / "meta.json").exists():  # else another process was first
                raise
    except OSError as error:
        raise ValueError(no_room(folder, sum(array.nbytes for array in arrays.values()), error)) from None
    finally:
        if pending:
            shutil.rmtree(pending, ignore_errors=True)


def remove_leftovers(folder):
    """Removes what processes that were killed while they wrote this folder have left."""
    for leftover in folder.parent.glob(f"{folder.name}.tmp*"):
        with suppress(OSError):  # its writer renames it at this moment, or it is another user's
            if time.time() - leftover.stat().st_mtime > LEFTOVER_S:
                shutil.rmtree(leftover, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------- measuring


def measure(splits):
    """What is known of splits {name: Split}: mean and std of train, content_fingerprint and copies.

    The fingerprint covers all labels, and the pixels of SAMPLE images of each split, in the order of the splits. copies: how
    many of these images of each other split have the pixels of one of train's.
    """
    content, measured = hashlib.blake2b(digest_size=8), {"mean": None, "std": None}
    digests = {name: [] for name in splits}

    def see(name, images):
        content.update(images)
        digests[name] += [hashlib.blake2b(image, digest_size=8).digest() for image in images]

    for name, split in splits.items():
        content.update(f"{name} {len(split)} {split.image_size}".encode())
        content.update(split.targets.numpy().astype("<i8").tobytes())
        of_split = statistics(split, partial(see, name))
        measured = of_split if name == "train" else measured
    in_train = set(digests.pop("train", ()))
    copies = {name: sum(digest in in_train for digest in seen) for name, seen in digests.items()}
    return measured | {"content_fingerprint": content.hexdigest(), "copies": copies}


def statistics(split, see=lambda images: None):
    """Mean and std of each channel, on the scale 0 to 255, over SAMPLE images that are evenly spread over the split.

    see: is shown their pixels, too, uint8 (b, H, W, 3). The sums are exact, because they are of integers. The rest is Python's
    arithmetic, because torch rounds square roots differently on some processors. So results and fingerprints agree to the last
    bit, in memory or streamed, on every processor.
    """
    rows = torch.from_numpy(np.linspace(0, len(split) - 1, min(len(split), SAMPLE)).round().astype(np.int64))
    n_pixels = len(rows) * split.image_size**2
    sums, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for images, i in split.read(rows.split(max(1, min(256, MEASURED_PIXELS // split.image_size**2)))):
        images = images[i]
        see(images.permute(0, 2, 3, 1).contiguous().numpy())
        pixels = images.transpose(0, 1).reshape(3, -1).double()
        sums += pixels.sum(1)
        squares += pixels.square().sum(1)
    mean = [of_channel / n_pixels for of_channel in sums.tolist()]
    variance = [square / n_pixels - m * m for square, m in zip(squares.tolist(), mean, strict=True)]
    return {"mean": mean, "std": [math.sqrt(max(1.0, v)) for v in variance]}
