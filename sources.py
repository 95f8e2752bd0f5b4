"""Where images come from: folders of classes, CIFAR's parquet files and original archives, and the hub.

What is found is listed first, cheaply, so that a decoded set can be recognized by its files; it is opened only to be decoded.
"""

import errno
import glob
import os
import sys
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from decode import Encoded, Stored, image_files, is_image, left_out_in_words

HUB_SETS = {  # name: (repository on the hub, image column, label column)
    "cifar100": ("uoft-cs/cifar100", "img", "fine_label"),
    "cifar10": ("uoft-cs/cifar10", "img", "label"),
}
ARCHIVES = {  # name: (folder, tar file, files)
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz", ("train", "test", "meta")),
    "cifar10": (
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
    ),
}
LAYOUTS = {
    "folder": "train/<class>/ and test/<class>/",
    "cifar100": "train-*.parquet and test-*.parquet, or cifar-100-python",
    "cifar10": "train-*.parquet and test-*.parquet, or cifar-10-batches-py",
}


@dataclass(frozen=True)
class Found:
    """What lies in a folder for a dataset: files, their paths by split; classes of an image folder; notes for the user."""

    root: str
    files: dict
    open: object
    classes: list | None = None
    notes: tuple = ()

    @property
    def stamp(self):
        """What changes whenever a file that is read changes, comes or goes: names below the root, sizes and times."""
        files = [stamp_of(file, self.root) for files in self.files.values() for file in files]
        return [self.root, list(self.files), self.classes, files]


def stamp_of(file, root):
    try:
        info = os.stat(file)
    except OSError:  # a dangling link, which is reported when it is read
        return file[len(root) :], None, None
    return file[len(root) :], info.st_size, info.st_mtime_ns


def find(name, data_dir, classes=None):
    """The files of a local dataset, as Found. classes: those of a trained network, if only test/<class>/ is needed.

    Raises ValueError, saying what was found, for a missing folder or split.
    """
    root = os.path.realpath(os.path.expanduser(data_dir))  # one folder, however it is spelled
    if not os.path.isdir(root):
        problem = (
            "is a file: give its folder; unpack it first if it is an archive"
            if os.path.exists(root)
            else "no such folder"
        )
        raise ValueError(f"--data-dir {data_dir}: {problem}")
    found = find_folder(root, data_dir, classes) if name == "folder" else find_cifar(name, root)
    for split, files in found.files.items():
        if not files:
            entries = ", ".join(sorted(os.listdir(root))[:8]) or "nothing"
            own = "" if name == "folder" else f" (for images of your own, {LAYOUTS['folder']})"
            raise ValueError(
                f"--data-dir {data_dir}: no {split} images; expected {LAYOUTS[name]}{own}, found {entries}{hint(root, name)}"
            )
    return found


def hint(root, name):
    """The end of a message about a folder of another layout: what to do; '' if no advice fits."""
    folders = [f for f in sorted(os.listdir(root)) if not f.startswith(".") and os.path.isdir(os.path.join(root, f))]
    splits = {"train", "test"}
    inner = [f for f in folders if os.path.isdir(f"{root}/{f}/train") or parquet_files(f"{root}/{f}", "train")]
    misspelt = [f for f in folders if f.lower().removesuffix("ing") in splits - {*folders}]
    if splits <= {*folders}:
        each = "each needs a folder of images for every class; remove an empty val/"
        said = each if name == "folder" else "an image folder: give --dataset folder"
    elif misspelt:
        said = f"rename {misspelt[0]}/ to {misspelt[0].lower().removesuffix('ing')}/"
    elif "train" in folders and (val := validation_in(root)):
        said = f"rename {val}/ to test/, and a part of train/ is held out for validation"
    elif inner:
        said = f"give its folder {inner[0]}/"
    elif os.path.basename(root) in ("train", "test", "val"):
        said = "give the folder above"
    elif "train" in folders:
        said = "move some images of each class from train/ to test/"
    else:
        unsplit = folders and "test" not in folders
        said = "are these classes? Their images must be split into train/ and test/" if unsplit else ""
    return f": {said}" if said else ""


def validation_in(root):
    """A folder of validation images, val/ or one of another name; None if there is none."""
    names = ("val", "valid", "validation", "dev")
    there = (f for f in sorted(os.listdir(root)) if f.lower() in names and os.path.isdir(os.path.join(root, f)))
    return next(there, None)


# ------------------------------------------------------------------------------------------------------ image folders


def find_folder(root, data_dir, known=None):
    """An image folder: a class is a folder in train/ and may be called anything, but for names with a leading dot.

    known: the classes, if train/ is not read.
    """
    splits = ["test"] if known else ["train", *["val"] * os.path.isdir(os.path.join(root, "val")), "test"]
    files, classes, left_out, notes = {}, known, Counter(), []
    for split in splits:
        names, others = class_folders(os.path.join(root, split))
        left_out += others
        files[split] = []
        for name in names:
            images, others = image_files(os.path.join(root, split, name))
            files[split] += images
            left_out += others
            if not images:
                unread = left_out_in_words(os.path.join(split, name), others)
                raise ValueError(
                    f"--data-dir {data_dir}: no image for class {name} in {split}/: add some, or remove its folder"
                    + f" ({unread})" * bool(unread)
                )
        classes = classes or names
        unknown = sorted({*names} - {*classes})
        if unknown:
            whose = "the network" if known else "train"
            look_alike = {plain(name) for name in unknown} & {plain(name) for name in classes}
            raise ValueError(
                f"--data-dir {data_dir}: {split} has classes that {whose} does not have: {', '.join(unknown[:5])}"
                + " (some names differ only in case or Unicode form: rename the folders)" * bool(look_alike)
            )
        lacking = sorted({*classes} - {*names})
        if lacking and names and not known:
            notes.append(
                f"{data_dir}: {split}/ has no image of {len(lacking)} of {len(classes)} classes, such as {lacking[0]}"
            )
    counts = Counter(map(plain, classes))
    twins = [name for name in classes if counts[plain(name)] > 1]
    if twins:
        notes.append(f"{data_dir}: classes whose names differ only in case or Unicode form: {', '.join(twins[:5])}")
    if "val" in splits:
        notes.append(f"{data_dir}: val/ is scored after each epoch, in place of a part of train/ (--val-size)")
    elif not known and (unread := validation_in(root)):
        notes.append(f"{data_dir}: {unread}/ is not read: renamed to val/, it would be scored after each epoch")
    note = left_out_in_words(data_dir, left_out)
    return Found(root, files, open_folder, classes, (*notes, *[note] * bool(note)))


def plain(name):
    """A form of a name that is the same for names which differ only in case or Unicode form."""
    return unicodedata.normalize("NFC", name).casefold()


def class_folders(folder):
    """Names of the classes in a folder, sorted, and how many others there are, as image_files counts them."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    dotted = sum(name.startswith(".") for name in names)
    classes = [name for name in names if not name.startswith(".") and os.path.isdir(os.path.join(folder, name))]
    loose = sum(is_image(name) for name in {*names} - {*classes} if not name.startswith("."))
    return classes, Counter(dotted=dotted, loose=loose, others=len(names) - dotted - loose - len(classes))


def open_folder(_, found, image_size):
    """The splits of an image folder as {name: Encoded}, and class names."""
    encoded, number = {}, {name: c for c, name in enumerate(found.classes)}
    for split, files in found.files.items():
        below = len(os.path.join(found.root, split, ""))
        targets = [number[file[below:].split(os.sep)[0]] for file in files]
        encoded[split] = Encoded(split, Stored(files), np.array(targets, dtype=np.int64), image_size)
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
        return [image and (image["path"] if image["bytes"] is None else image["bytes"]) for image in images]


def find_cifar(name, root):
    """CIFAR's parquet files, or its original archive."""
    files = {split: parquet_files(root, split) for split in ("train", "test")}
    archive = {} if any(files.values()) else find_archive(name, root)
    return Found(root, archive, open_archive) if archive else Found(root, files, open_tables)


def parquet_files(folder, split):
    return sorted(map(str, Path(folder).glob(f"{split}-*.parquet")))


def find_archive(name, root):
    """{"archive": files}: those of CIFAR's original archive in root or its folder there, or else the tar file; {} if none."""
    folder, tar, names = ARCHIVES[name]
    for here in (root, os.path.join(root, folder)):
        files = [os.path.join(here, file) for file in names]
        if all(map(os.path.isfile, files)):
            return {"archive": files}
    tar = os.path.join(root, tar)
    return {"archive": [tar]} if os.path.isfile(tar) else {}


def open_archive(name, found, image_size):
    """CIFAR from its original archive, in the form of open_folder.

    Its files are pickles, which could run any code. torchvision checks their MD5 sums first, and so reads only the files
    that CIFAR's authors published.
    """
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import check_integrity, extract_archive

    published, path = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name], found.files["archive"][0]
    reader = type(name, (published,), {"base_folder": ""})  # the user's folder may have another name
    here = os.path.dirname(path)
    with TemporaryDirectory() as unpacked:
        if check_integrity(path, published.tgz_md5):
            try:
                here = os.path.join(extract_archive(path, unpacked), published.base_folder)
            except OSError as error:
                place = os.path.dirname(unpacked)
                raise ValueError(f"cannot unpack {path} in {place} ({error}): make room there, or set TMPDIR") from None
        try:
            sets = {split: reader(here, train=split == "train") for split in ("train", "test")}
        except RuntimeError:
            raise ValueError(
                f"{found.root}: these are not {name}'s original files (MD5 sums): get them again"
            ) from None
    encoded = {}
    for split, images in sets.items():
        targets = np.array(images.targets, dtype=np.int64)
        encoded[split] = Encoded(split, Stored(images.data), targets, image_size)
    return encoded, sets["train"].classes


def open_tables(name, found, image_size):
    """CIFAR from parquet files, or from the hub if there are none, in the form of open_folder."""
    repository, image_column, label_column = HUB_SETS[name]
    if not found:
        refuse_unreachable_hub(name, repository)
    from datasets import Image, config, disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetGenerationError
    from datasets.table import CastError

    if not sys.stderr.isatty():
        disable_progress_bars()
    files = found and {split: [glob.escape(path) for path in paths] for split, paths in found.files.items()}  # patterns
    try:
        sets = load_dataset("parquet", data_files=files) if found else load_dataset(repository)
    except (ConnectionError, DatasetGenerationError, OSError, ValueError) as error:
        where = found.root if found else "the hub"
        if isinstance(error, DatasetGenerationError) and error.__cause__:  # which says what went wrong
            error = error.__cause__
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, CastError):
            columns = sorted({*error.table_column_names} ^ {*error.requested_column_names})
            reason = f"some of its files have columns that others lack: {', '.join(columns)}"
        if getattr(error, "errno", None) == errno.ENOSPC:
            reason += f": make room in {config.HF_CACHE_HOME}, or set HF_HOME"
        raise ValueError(f"cannot read {name} from {where}: {reason}") from None
    encoded = {}
    for split in ("train", "test"):
        table = sets[split]
        missing = {image_column, label_column} - set(table.column_names)
        if missing:
            problem = f"no column {min(missing)!r}, found {', '.join(table.column_names)}"
            (other,) = HUB_SETS.keys() - {name}
            is_other = set(HUB_SETS[other][1:]) <= set(table.column_names)
            advice = (
                f"these are the columns of {other}: give --dataset {other}"
                if is_other
                else "only CIFAR is read from parquet"
            )
            raise ValueError(f"{split} split of {name}: {problem}; {advice}")
        try:
            images = table.select_columns([image_column]).cast_column(image_column, Image(decode=False))
        except (NotImplementedError, TypeError, ValueError) as error:  # of pyarrow, datasets and Pillow
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{split} split of {name}: column {image_column!r} must hold the bytes of image files ({reason})"
            ) from None
        try:
            targets = np.array(table[label_column][:], dtype=np.int64).reshape(len(table))
        except (TypeError, ValueError):
            raise ValueError(f"{split} split of {name}: column {label_column!r} must hold class numbers only") from None
        encoded[split] = Encoded(split, TableImages(images, image_column), targets, image_size)
    label = sets["train"].features[label_column]
    classes = getattr(label, "names", None) or [str(i) for i in range(int(name.removeprefix("cifar")))]
    return encoded, classes


def refuse_unreachable_hub(name, repository):
    """Raises ValueError at once, not after the client's 23 s of retries, if neither the hub nor a local copy is found."""
    from huggingface_hub import HfApi, constants

    try:
        HfApi().dataset_info(repository, timeout=5)
    except Exception as error:  # httpx or httpx2 errors, by the client's version, not OSErrors
        from datasets import config

        cached = (Path(config.HF_DATASETS_CACHE) / repository.replace("/", "___")).is_dir()
        if not cached:
            raise ValueError(
                f"cannot reach the hub for {repository} ({type(error).__name__}): give --data-dir, a folder with its "
                f"parquet files, or try --dataset shapes100, which needs no download"
            ) from None
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
