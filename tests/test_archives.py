"""archives.py: CIFAR's original files, written here as Python 2 wrote them, and files that would run code."""

import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch

import archives
import data
from tests.test_data import write_parquet

N = 6


def as_python_2(dictionary):
    """A pickle of str keys, lists of whole numbers or of str, and one array of bytes, in the operations of Python 2.7's numpy."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value.encode("latin1")

    def number(value):
        return b"J" + struct.pack("<i", value)

    def array(value):
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text("b") + b"\x87R"
        dtype = b"cnumpy\ndtype\n" + text("u1") + number(0) + number(1) + b"\x87R"
        dtype += b"(" + number(3) + text("|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
        shape = number(value.shape[0]) + number(value.shape[1]) + b"\x86"
        return made + b"(" + number(1) + shape + dtype + b"\x89" + text(value.tobytes().decode("latin1")) + b"tb"

    def any_of(value):
        if isinstance(value, np.ndarray):
            return array(value)
        if isinstance(value, list):
            return b"](" + b"".join(map(any_of, value)) + b"e"
        return text(value) if isinstance(value, str) else number(value)

    return b"\x80\x02}(" + b"".join(text(key) + any_of(value) for key, value in dictionary.items()) + b"u."


def as_python_3(dictionary):
    return pickle.dumps({key.encode(): value for key, value in dictionary.items()}, protocol=2)


def images(seed, n=N):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def rows(images):
    """As CIFAR has them: a row for each image, plane by plane."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))


@pytest.fixture(params=[as_python_2, as_python_3])
def write(request, tmp_path):
    """Writes the archive of a dataset below tmp_path. Returns its folder."""

    def write(dataset, key, names_key, files, names):
        folder = tmp_path / archives.ARCHIVES[dataset][0]
        folder.mkdir()
        for seed, file in enumerate(files):
            (folder / file).write_bytes(
                request.param({"data": rows(images(seed)), key: [c % 10 for c in range(seed, seed + N)]})
            )
        known = 100 if dataset == "cifar100" else 10
        (folder / names).write_bytes(request.param({names_key: [f"class {c}" for c in range(known)]}))
        return folder

    return write


@pytest.mark.parametrize("where", ["beside it", "in it", "packed"])
def test_cifar100_is_read_from_its_archive(write, where, tmp_path):
    folder = write("cifar100", "fine_labels", "fine_label_names", ["train", "test"], "meta")
    if where == "packed":
        with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as tar:
            tar.add(folder, "cifar-100-python")
        for file in folder.iterdir():
            file.unlink()
    found = data.load("cifar100", folder if where == "in it" else tmp_path, cache_dir=tmp_path / "cache")
    assert np.array_equal(found.train.images.permute(0, 2, 3, 1).numpy(), images(0))
    assert np.array_equal(found.test.images.permute(0, 2, 3, 1).numpy(), images(1))
    assert found.test.targets.tolist() == [1, 2, 3, 4, 5, 6]
    assert (found.classes[7], len(found.classes)) == ("class 7", 100)


def test_cifar10_is_the_same_from_its_archive_and_from_a_table(write, tmp_path):
    from PIL import Image

    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    write("cifar10", "labels", "label_names", files, "batches.meta")
    train = [image for seed in range(5) for image in images(seed)]
    labels = [c % 10 for seed in range(5) for c in range(seed, seed + N)]
    write_parquet(tmp_path / "table", "train", [Image.fromarray(image) for image in train], labels, label="label")
    write_parquet(
        tmp_path / "table", "test", [Image.fromarray(i) for i in images(5)], [*range(5, 10), 0], label="label"
    )
    one, other = (data.load("cifar10", folder, None, tmp_path / "cache") for folder in (tmp_path, tmp_path / "table"))
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.train.targets, other.train.targets)
    assert one.content_fingerprint == other.content_fingerprint


class Forged:
    """An array whose bytes would be pointers to objects, though its type claims to have none."""

    class Type:
        def __reduce__(self):
            return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)

    def __reduce__(self):
        return np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (2,), self.Type(), False, b"A" * 16)


def test_bytes_are_not_taken_for_pointers():
    """numpy's own names would follow the pointers."""
    sets_the_first = pickle.dumps(Forged(), 2)[:-1] + b"K\x00K\x01s."
    with pytest.raises(ValueError, match="values of type O8"):
        archives.unpickled(sets_the_first, "train")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    "content", [pickle.dumps({"data": Payload()}), pickle.dumps(Payload()), b"cos\nsystem\n(S'true'\ntR."]
)
def test_pickled_code_is_not_run(write, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write("cifar100", "fine_labels", "fine_label_names", ["train", "test"], "meta")
    (folder / "train").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"train is not a file of the CIFAR archives \(it would call (posix|nt|os)\.(mkdir|system)\)"
    ):
        data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache")
    assert not os.path.exists("executed")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "train is not a file of the CIFAR archives"),
        (
            as_python_3({"data": rows(images(0)), "coarse_labels": [0] * N}),
            "train has no 'fine_labels': is it of cifar100",
        ),
        (
            as_python_3({"data": rows(images(0))[:, :-1].copy(), "fine_labels": [0] * N}),
            "holds no images of 32x32 pixels",
        ),
        (
            as_python_3({"data": rows(images(0)).astype(float), "fine_labels": [0] * N}),
            "holds no images of 32x32 pixels",
        ),
        (as_python_3({"data": [1, 2], "fine_labels": [0] * N}), "holds no images of 32x32 pixels"),
        (as_python_3({"data": rows(images(0)), "fine_labels": [0]}), "1 labels of 6 train images"),
        (as_python_3({"data": rows(images(0)), "fine_labels": ["a"] * N}), "or labels that are no numbers"),
    ],
)
def test_unfit_files_are_refused(write, content, message, tmp_path):
    folder = write("cifar100", "fine_labels", "fine_label_names", ["train", "test"], "meta")
    (folder / "train").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache")


def test_names_are_needed(write, tmp_path):
    folder = write("cifar100", "fine_labels", "coarse_label_names", ["train", "test"], "meta")
    with pytest.raises(ValueError, match="meta has no 'fine_label_names': is it of cifar100"):
        data.load("cifar100", folder, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("is_torn", [True, False])
def test_damaged_tar_file_is_named(is_torn, tmp_path):
    content = b"no tar file"
    if is_torn:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            random = np.random.default_rng(0).bytes(100_000)
            for name in ("data_batch_1", "batches.meta"):
                info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                info.size = len(random)
                tar.addfile(info, io.BytesIO(random))
        content = bytearray(packed.getvalue())
        content[500:600] = bytes(100)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*cifar-10-python.tar.gz"):
        data.load("cifar10", tmp_path, cache_dir=tmp_path / "cache")
