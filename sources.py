"""Where images come from: folders of classes, CIFAR's parquet files, and the hub.

What is found is listed first, cheaply, so that a decoded set can be recognized by its files; it is opened only to be decoded.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from decode import Encoded, Paths, image_files, left_out_in_words

HUB_SETS = {  # name: (repository on the hub, image column, label column)
    "cifar100": ("uoft-cs/cifar100", "img", "fine_label"),
    "cifar10": ("uoft-cs/cifar10", "img", "label"),
}
LAYOUTS = {
    "folder": "train/<class>/ and test/<class>/",
    "cifar100": "train-*.parquet and test-*.parquet",
    "cifar10": "train-*.parquet and test-*.parquet",
}


@dataclass(frozen=True)
class Found:
    """What lies in a folder for a dataset: files, their paths by split; classes of an image folder; notes for the user."""

    name: str
    root: str
    files: dict
    classes: list | None = None
    notes: tuple = ()

    @property
    def stamp(self):
        """What changes whenever a file that is read changes, comes or goes: names below the root, sizes and times."""
        return [self.root, [stamp_of(file, self.root) for files in self.files.values() for file in files]]


def stamp_of(file, root):
    try:
        there = os.stat(file)
    except OSError:  # a link that leads nowhere, which will be told when it is read
        return file[len(root) :], None, None
    return file[len(root) :], there.st_size, there.st_mtime_ns


def find(name, data_dir):
    """The files of a local dataset, as Found. Raises ValueError, saying what was found, for a missing folder or split."""
    root = Path(os.path.realpath(os.path.expanduser(data_dir)))  # one folder, however it is spelled
    if not root.is_dir():
        raise ValueError(f"--data-dir {data_dir}: no such folder")
    found = find_folder(root, data_dir) if name == "folder" else find_tables(name, root)
    for split in ("train", "test"):
        if not found.files[split]:
            there = ", ".join(sorted(os.listdir(root))[:8]) or "nothing"
            raise ValueError(f"--data-dir {data_dir}: no {split} images; expected {LAYOUTS[name]}, found {there}")
    return found


# ------------------------------------------------------------------------------------------------------ image folders


def find_folder(root, data_dir):
    """An image folder: a class is a folder in train/ and may be called anything, but for names with a leading dot."""
    files, classes, left_out = {}, {}, Counter()
    for split in ("train", "test"):
        here = root / split
        names = sorted(os.listdir(here)) if here.is_dir() else []
        dotted = [name for name in names if name.startswith(".")]
        classes[split] = [name for name in names if name not in dotted and (here / name).is_dir()]
        left_out["dotted"] += len(dotted)
        left_out["others"] += len(names) - len(dotted) - len(classes[split])
        files[split] = []
        for name in classes[split]:
            images, others = image_files(here / name)
            files[split] += images
            left_out += others
            if not images:
                raise ValueError(
                    f"--data-dir {data_dir}: no image for class {name} in {split}/: add some, or remove it"
                )
    unknown = sorted(set(classes["test"]) - set(classes["train"]))
    if classes["train"] and unknown:
        raise ValueError(f"--data-dir {data_dir}: test has classes that train has not: {', '.join(unknown[:5])}")
    note = left_out_in_words(data_dir, left_out)
    return Found("folder", str(root), files, classes["train"], (note,) if note else ())


def open_folder(found, image_size):
    """The splits of an image folder as {name: Encoded}, and class names."""
    encoded, number = {}, {name: c for c, name in enumerate(found.classes)}
    for split, files in found.files.items():
        below = len(os.path.join(found.root, split, ""))
        targets = [number[file[below:].split(os.sep)[0]] for file in files]
        encoded[split] = Encoded(split, Paths(files), np.array(targets, dtype=np.int64), image_size)
    return encoded, found.classes


# -------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class TableImages:
    """Images in a table of the datasets library: the bytes of files, or their paths."""

    table: object
    column: str

    def __len__(self):
        return len(self.table)

    def take(self, rows):
        images = self.table[list(rows)][self.column]
        return [image["path"] if image["bytes"] is None else image["bytes"] for image in images]


def find_tables(name, root):
    files = {split: sorted(str(file) for file in root.glob(f"{split}-*.parquet")) for split in ("train", "test")}
    return Found(name, str(root), files)


def open_tables(name, found, image_size):
    """CIFAR from parquet files, or from the hub if there are none, in the form of open_folder."""
    repository, image_column, label_column = HUB_SETS[name]
    if not found:
        refuse_unreachable_hub(name, repository)
    from datasets import Image, disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetGenerationError

    disable_progress_bars()
    try:
        sets = load_dataset("parquet", data_files=found.files) if found else load_dataset(repository)
    except (ConnectionError, DatasetGenerationError, OSError, ValueError) as error:
        where = found.root if found else "the hub"
        raise ValueError(f"cannot read {name} from {where}: {str(error).splitlines()[0]}") from None
    encoded = {}
    for split in ("train", "test"):
        table = sets[split]
        missing = {image_column, label_column} - set(table.column_names)
        if missing:
            raise ValueError(
                f"{split} split of {name}: no column {missing.pop()!r}, found {', '.join(table.column_names)}"
            )
        images = table.select_columns([image_column]).cast_column(image_column, Image(decode=False))
        try:
            targets = np.array(table[label_column][:], dtype=np.int64)
        except (TypeError, ValueError):
            raise ValueError(f"{split} split of {name}: column {label_column!r} must hold class numbers only") from None
        encoded[split] = Encoded(split, TableImages(images, image_column), targets, image_size)
    label = sets["train"].features[label_column]
    classes = getattr(label, "names", None) or [str(i) for i in range(int(name.removeprefix("cifar")))]
    return encoded, classes


def refuse_unreachable_hub(name, repository):
    """Raises ValueError at once, not after the client's 23 s of retries, where neither hub nor its local copy is there."""
    from huggingface_hub import HfApi, constants

    try:
        HfApi().dataset_info(repository, timeout=5)
    except Exception as error:  # httpx and httpx2 errors, by the hub's version, are no OSErrors
        from datasets import config

        cached = (Path(config.HF_DATASETS_CACHE) / repository.replace("/", "___")).is_dir()
        if not cached:
            raise ValueError(
                f"cannot reach the hub for {repository} ({type(error).__name__}): give --data-dir, a folder with its "
                f"parquet files, or try --dataset shapes100, which needs no download"
            ) from None
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
