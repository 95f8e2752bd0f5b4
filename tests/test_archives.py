"""CIFAR's original archives: files as their authors write them, whose MD5 sums torchvision is told."""

import hashlib
import os
import pickle
import tarfile
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

import data
from tests.test_bad_files import Payload
from tests.test_data import write_parquet

N = 6
CIFAR10_TRAIN = [f"data_batch_{i}" for i in range(1, 6)]


def images(seed):
    return np.random.default_rng(seed).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the archive of a dataset below tmp_path. Returns its folder."""

    def write(published, train, test, key):
        folder = tmp_path / published.base_folder
        folder.mkdir()
        for seed, file in enumerate([*train, test]):
            planes = images(seed).transpose(0, 3, 1, 2).reshape(N, -1)
            content = {"data": planes, key: [c % 10 for c in range(seed, seed + N)]}
            (folder / file).write_bytes(pickle.dumps(content, protocol=2))
        names = {published.meta["key"]: [f"class {c}" for c in range(100 if published is CIFAR100 else 10)]}
        (folder / published.meta["filename"]).write_bytes(pickle.dumps(names, protocol=2))
        meta = published.meta | {"md5": md5(folder / published.meta["filename"])}
        monkeypatch.setattr(published, "train_list", [[file, md5(folder / file)] for file in train])
        monkeypatch.setattr(published, "test_list", [[test, md5(folder / test)]])
        monkeypatch.setattr(published, "meta", meta)
        return folder

    return write


def pack(folder, monkeypatch):
    """Puts CIFAR-100's folder into its tar file."""
    path = folder.with_name(CIFAR100.filename)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, CIFAR100.base_folder)
    for file in folder.iterdir():
        file.unlink()
    monkeypatch.setattr(CIFAR100, "tgz_md5", md5(path))
    return path


@pytest.mark.parametrize("where", ["beside it", "in it", "renamed", "packed"])
def test_cifar100_is_read_from_its_archive(write, where, tmp_path, monkeypatch):
    folder = write(CIFAR100, ["train"], "test", "fine_labels")
    if where == "packed":
        pack(folder, monkeypatch)
    if where == "renamed":
        folder = folder.rename(tmp_path / "mine")
    found = data.load("cifar100", folder if where in ("in it", "renamed") else tmp_path, cache_dir=tmp_path / "cache")
    assert np.array_equal(found.train.images.permute(0, 2, 3, 1).numpy(), images(0))
    assert np.array_equal(found.test.images.permute(0, 2, 3, 1).numpy(), images(1))
    assert found.test.targets.tolist() == [1, 2, 3, 4, 5, 6]
    assert (found.classes[7], len(found.classes)) == ("class 7", 100)


def test_a_full_folder_for_temporary_files_is_named(write, tmp_path, monkeypatch):
    pack(write(CIFAR100, ["train"], "test", "fine_labels"), monkeypatch)
    monkeypatch.setattr(
        "torchvision.datasets.utils.extract_archive", Mock(side_effect=OSError(28, "No space left on device"))
    )
    with pytest.raises(ValueError, match=r"cannot unpack .*No space left on device\): make room there, or set TMPDIR$"):
        data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache")


def test_cifar10_is_the_same_from_its_archive_and_from_a_table(write, tmp_path):
    write(CIFAR10, CIFAR10_TRAIN, "test_batch", "labels")
    train = [Image.fromarray(image) for seed in range(5) for image in images(seed)]
    labels = [c % 10 for seed in range(5) for c in range(seed, seed + N)]
    write_parquet(tmp_path / "table", "train", train, labels, label="label")
    write_parquet(
        tmp_path / "table", "test", [Image.fromarray(i) for i in images(5)], [*range(5, 10), 0], label="label"
    )
    one, other = (data.load("cifar10", folder, None, tmp_path / "cache") for folder in (tmp_path, tmp_path / "table"))
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.train.targets, other.train.targets)
    assert one.content_fingerprint == other.content_fingerprint


def test_the_hubs_misspelt_class_is_the_archives(write, tmp_path):
    """Also in a copy that was decoded before."""
    names = [f"class {c:02}" for c in range(100)]
    found = []
    for spelling in ("cra", "crab", "cra"):
        folder, names[26] = tmp_path / spelling, spelling
        for split in ("train", "test"):
            if not (folder / f"{split}-00000-of-00001.parquet").exists():
                write_parquet(folder, split, [Image.fromarray(images(0)[0])], [26], names)
        found.append(data.load("cifar100", folder, None, tmp_path / "cache"))
    assert [one.classes[26] for one in found] == ["crab"] * 3
    assert found[0].fingerprint == found[1].fingerprint


def test_other_files_do_not_hide_an_archive(write, tmp_path):
    write(CIFAR100, ["train"], "test", "fine_labels")
    (tmp_path / "meta").touch()
    (tmp_path / "test").touch()
    assert len(data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache").train) == N


@pytest.mark.parametrize("file", ["train", "test", "meta"])
def test_files_that_were_changed_are_refused_and_not_run(write, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write(CIFAR100, ["train"], "test", "fine_labels")
    (folder / file).write_bytes(pickle.dumps({"data": Payload()}))
    with pytest.raises(ValueError, match=r"these are not cifar100's original files \(MD5 sums\): get them again"):
        data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache")
    assert not os.path.exists("executed")


def test_damaged_tar_file_is_refused(write, tmp_path, monkeypatch):
    path = pack(write(CIFAR100, ["train"], "test", "fine_labels"), monkeypatch)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="these are not cifar100's original files"):
        data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache")
