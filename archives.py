"""CIFAR's original archives, as its authors publish them: pickled dictionaries, read without running what is pickled.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; https://www.cs.toronto.edu/~kriz/cifar.html.
A pickle can name any function of Python to be called. This reader knows the four names that arrays and bytes need, puts
harmless functions in their places, and refuses all others.
"""

import io
import os
import pickle
import tarfile
import zlib

import numpy as np

ARCHIVES = {  # dataset: (folder, tar file, {split: files}, file of names, key of labels, key of names)
    "cifar100": (
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        {"train": ["train"], "test": ["test"]},
        "meta",
        "fine_labels",
        "fine_label_names",
    ),
    "cifar10": (
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
        "batches.meta",
        "labels",
        "label_names",
    ),
}


def new_array(*_):
    """Stands for numpy's _reconstruct: an array of bytes, which is filled by what follows."""
    return np.empty(0, np.uint8)


def pixel_type(name, *_):
    """Stands for numpy.dtype, which could take any bytes for pointers."""
    if name not in ("u1", "uint8"):
        raise pickle.UnpicklingError(f"it holds no images of 32x32 pixels, but values of type {name}")
    return np.dtype(np.uint8)


KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): new_array,
    ("numpy._core.multiarray", "_reconstruct"): new_array,
    ("numpy", "ndarray"): None,  # the class that _reconstruct is given
    ("numpy", "dtype"): pixel_type,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # how Python 3 writes bytes for Python 2
}


class Unpickler(pickle.Unpickler):
    """Reads dictionaries, lists, bytes, str, numbers and arrays of bytes. Raises UnpicklingError for anything else."""

    def find_class(self, module, name):
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return KNOWN[module, name]


def unpickled(content, name):
    """The dictionary in the bytes of a file, its keys and text as str. Raises ValueError for what is no such file."""
    try:
        read = Unpickler(io.BytesIO(content), encoding="latin1").load()
        return {as_text(key): value for key, value in read.items()}
    except Exception as error:  # a damaged pickle raises whatever its reader met
        raise ValueError(f"{name} is not a file of the CIFAR archives ({' '.join(str(error).split())})") from None


def as_text(value):
    return value.decode("latin1") if isinstance(value, bytes) else value


def pixels_of(array, name):
    """A pickled array of CIFAR as uint8 (N, 32, 32, 3). Raises ValueError."""
    if not (isinstance(array, np.ndarray) and array.shape[1:] == (3 * 32 * 32,)):
        raise ValueError(f"{name} holds no images of 32x32 pixels")
    return np.ascontiguousarray(array.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # they are plane by plane


def members(splits, names):
    return [file for files in splits.values() for file in files] + [names]


def find_archive(dataset, root):
    """{split: files}: CIFAR's files in root or in its folder there, with those of "names", or else its tar file; {} if none."""
    folder, tar, splits, names, _, _ = ARCHIVES[dataset]
    for here in (root, os.path.join(root, folder)):
        if all(os.path.isfile(os.path.join(here, file)) for file in members(splits, names)):
            found = splits | {"names": [names]}
            return {part: [os.path.join(here, file) for file in files] for part, files in found.items()}
    tar = os.path.join(root, tar)
    return {split: [tar] for split in splits} if os.path.isfile(tar) else {}


def read_archive(dataset, files):
    """Files as find_archive gives them -> ({split: (pixels uint8 (N, 32, 32, 3), targets (N,))}, class names). Raises ValueError."""
    folder, tar, splits, names, label_key, names_key = ARCHIVES[dataset]
    path = files["train"][0]
    if path.endswith(tar):
        contents = read_tar(path, folder, members(splits, names))
    else:
        here = os.path.dirname(path)
        contents = {}
        for name in members(splits, names):
            with open(os.path.join(here, name), "rb") as file:
                contents[name] = file.read()
    dictionaries = {name: unpickled(content, f"{path}: {name}") for name, content in contents.items()}
    read = {}
    for split, parts in splits.items():
        pixels, labels = [], []
        for name in parts:
            part = dictionaries[name]
            if "data" not in part or label_key not in part:
                raise ValueError(f"{path}: {name} has no {label_key!r}: is it of {dataset}?")
            pixels.append(pixels_of(part["data"], f"{path}: {name}"))
            labels += part[label_key]
        pixels = np.concatenate(pixels)
        if len(pixels) != len(labels) or not all(isinstance(label, int) for label in labels):
            raise ValueError(
                f"{path}: {len(labels)} labels of {len(pixels)} {split} images, or labels that are no numbers"
            )
        read[split] = pixels, np.array(labels, dtype=np.int64)
    if names_key not in dictionaries[names]:
        raise ValueError(f"{path}: {names} has no {names_key!r}: is it of {dataset}?")
    return read, [as_text(name) for name in dictionaries[names][names_key]]


def read_tar(path, folder, names):
    """{name: bytes} of files in a tar file; nothing is unpacked on the disk. Raises ValueError."""
    try:
        with tarfile.open(path) as tar:
            return {name: tar.extractfile(f"{folder}/{name}").read() for name in names}
    except (KeyError, OSError, EOFError, tarfile.TarError, zlib.error, AttributeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
