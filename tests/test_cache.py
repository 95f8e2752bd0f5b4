"""cache.py: what is kept on the disk of a decoded set, what is measured of it, and what is told of images that are unfit."""

import json
import math
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import cache
import data
import locks
from tests.test_augment import random_split
from tests.test_data import loaded, picture, small_folder, write_images, write_table


def test_decoded_images_are_cached_and_mapped(tmp_path, monkeypatch):
    write_table(tmp_path / "set", [picture()] * 2, [0, 1], label="label")
    first = data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")
    monkeypatch.setattr(data, "check_splits", None)  # would fail if the set were opened again
    second = data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")
    assert torch.equal(first.train.images, second.train.images)
    assert not list((tmp_path / "cache").glob("*.tmp*"))
    pixels = first.train.images.double()
    assert np.allclose(first.mean, pixels.mean((0, 2, 3)))
    assert np.allclose(first.std, pixels.std((0, 2, 3), unbiased=False))


def test_processes_share_the_pages_of_a_decoded_set(tmp_path, monkeypatch):
    """Copy-on-write, as torch wants arrays that it may write to."""
    root = small_folder(tmp_path / "set")
    loaded(root)
    load, modes = np.load, []
    monkeypatch.setattr(np, "load", lambda file, **how: modes.append(how["mmap_mode"]) or load(file, **how))
    loaded(root)
    assert modes == ["c"] * 4  # images and targets of train and test


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_images_are_decoded_in_order_by_any_number_of_threads(tmp_path, n_threads, monkeypatch):
    pictures = [picture() for _ in range(23)]
    write_table(tmp_path / "set", pictures, [0] * 23, label="label")
    monkeypatch.setattr("machine.cores", lambda: n_threads)
    monkeypatch.setattr(cache, "DECODED_AT_ONCE", 7)
    images = data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")
    assert np.array_equal(images.test.images.permute(0, 2, 3, 1).numpy(), np.stack(pictures))


def swap(a, b):
    between = a.with_name("between")
    a.rename(between)
    b.rename(a)
    between.rename(b)


@pytest.mark.parametrize("room", [1e9, 0])
@pytest.mark.parametrize(
    "change",
    [
        lambda root: swap(root / "test" / "ant", root / "test" / "bee"),
        lambda root: swap(root / "train" / "ant" / "0.png", root / "train" / "bee" / "0.png"),
        lambda root: swap(root / "test" / "ant" / "0.png", root / "train" / "ant" / "0.png"),
        lambda root: swap(root / "train" / "ant" / "0.png", root / "train" / "ant" / "1.png"),
        lambda root: (root / "test" / "ant" / "1.png").rename(root / "test" / "bee" / "9.png"),
        lambda root: Image.new("RGB", (8, 8)).save(root / "test" / "bee" / "0.png"),
    ],
)
def test_other_labels_and_other_test_images_make_another_content(tmp_path, change, room):
    root = small_folder(tmp_path / "set")
    before = loaded(root, room)
    change(root)
    assert loaded(root, room).content_fingerprint != before.content_fingerprint


def test_content_is_the_same_in_memory_and_streamed_and_from_a_copy(tmp_path):
    root = small_folder(tmp_path / "set")
    small_folder(tmp_path / "copy")
    contents = [loaded(root), loaded(root, room=0), loaded(tmp_path / "copy")]
    assert len({images.content_fingerprint for images in contents}) == 1
    assert len(contents[0].content_fingerprint) == 16


def truncate(*files):
    for file in files:
        file.write_bytes(file.read_bytes()[:60])


@pytest.mark.parametrize("room", [1e9, 0])
def test_all_damaged_images_are_told_at_once_by_their_paths(tmp_path, room):
    """Wherever they are, the first image of a split among them."""
    root = small_folder(tmp_path / "set")
    bad = [root / name for name in ("train/ant/0.png", "train/bee/2.png", "test/bee/1.png")]
    truncate(*bad)
    with pytest.raises(ValueError, match=r"^3 images cannot be used: [^\n]*$") as error:
        loaded(root, room)
    assert [line.split(": ")[0] for line in error.value.problems] == list(map(str, bad))


@pytest.mark.parametrize("classes", [["ant"], ["ant", "bee"]])
def test_many_damaged_images_are_listed_in_a_file(classes, tmp_path, monkeypatch):
    """Of one class, and of all."""
    root = small_folder(tmp_path / "set", n=20)
    truncate(*(file for name in classes for file in (root / "train" / name).glob("*.png")))
    n = 20 * len(classes)
    with pytest.raises(
        ValueError, match=rf"^{n} images cannot be used: .*; and {n - 10} more, all of them in (.*-unfit\.txt)$"
    ) as error:
        loaded(root)
    (file,) = (tmp_path / "cache").glob("*-unfit.txt")
    assert str(error.value).endswith(str(file))
    assert file.read_text().splitlines() == error.value.problems


def test_headers_of_a_streamed_set_are_read_before_it_is_used(tmp_path, monkeypatch):
    """Also of images that are not measured."""
    monkeypatch.setattr(cache, "SAMPLE", 2)
    root = small_folder(tmp_path / "set", n=9)
    (root / "test" / "ant" / "1.png").write_bytes(b"not an image")
    write_images(root / "train" / "cat", ["0.png", "1.png"], size=(9, 8))
    with pytest.raises(ValueError) as error:
        loaded(root, room=0)
    assert [line.replace(str(root), "D") for line in error.value.problems] == [
        *(
            f"D/train/cat/{i}.png: image of 9x8 pixels where squares of one size are needed: give --image-size"
            for i in (0, 1)
        ),
        "D/test/ant/1.png: cannot read the image (in no format that Pillow knows)",
    ]


def full_disk(*_):
    raise OSError("1105920 requested and 102272 written")  # numpy's words, in which there is no folder


def test_full_disk_names_the_folder_and_leaves_nothing(tmp_path, monkeypatch):
    root = small_folder(tmp_path / "set")
    monkeypatch.setattr("numpy.save", full_disk)
    with pytest.raises(
        ValueError, match=rf"^cannot write 0 MB of decoded images to {tmp_path}/cache \(1105920 .*--cache-dir$"
    ):
        loaded(root)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_process_left_makes_room_first(tmp_path, monkeypatch):
    root = small_folder(tmp_path / "set")
    loaded(root)
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    folder.rename(folder.with_name(f"{folder.name}.tmpx"))
    before = cache.refuse_full_disk

    def refuse_full_disk(*arguments):
        assert not folder.with_name(f"{folder.name}.tmpx").exists()
        before(*arguments)

    monkeypatch.setattr(cache, "refuse_full_disk", refuse_full_disk)
    assert len(loaded(root).train) == 8


def test_disk_that_will_be_full_is_told_before_anything_is_decoded(tmp_path, monkeypatch):
    root = small_folder(tmp_path / "set")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setattr(cache, "decode_all", None)
    with pytest.raises(ValueError, match=rf"{tmp_path}/cache.*: make room there, or give another --cache-dir"):
        loaded(root)


def test_a_set_that_another_task_decodes_is_waited_for(tmp_path, monkeypatch, capsys):
    root, lock, others = small_folder(tmp_path / "set"), locks.Lock, []

    def busy_at_first(path):
        if others:
            return lock(path)
        others.append(path)
        loaded(root)  # as the other task does meanwhile
        raise locks.HeldError("held")

    monkeypatch.setattr(locks, "Lock", busy_at_first)
    monkeypatch.setattr(cache, "POLL_S", 0)
    monkeypatch.setattr(cache, "decode_all", once(cache.decode_all))
    assert len(loaded(root).train) == 8
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert capsys.readouterr().err.startswith("waiting for another process, which decodes the images for ")


def test_a_set_that_was_streamed_from_a_cache_of_another_user_is_streamed_again(tmp_path, monkeypatch):
    root = small_folder(tmp_path / "set")
    loaded(root, room=0)
    monkeypatch.setattr(data.os, "access", lambda *_: False)
    assert loaded(root).train.is_streamed


def test_a_set_that_was_streamed_is_decoded_by_one_task_at_a_time(tmp_path, monkeypatch):
    root, folders, one_at_a_time = small_folder(tmp_path / "set"), [], cache.one_at_a_time
    loaded(root, room=0)

    def noted(folder):
        folders.append(folder)
        if len(folders) == 1:
            loaded(root)  # as another task does while this one waits
        return one_at_a_time(folder)

    monkeypatch.setattr(cache, "one_at_a_time", noted)
    monkeypatch.setattr(cache, "decode_all", once(cache.decode_all))
    assert not loaded(root).train.is_streamed and len(folders) == 2


def once(function):
    calls = []

    def counted(*args):
        calls.append(args)
        assert len(calls) == 1
        return function(*args)

    return counted


def test_a_set_that_lost_a_part_is_decoded_again_or_told(tmp_path):
    root = small_folder(tmp_path / "set")
    loaded(root)
    (whole,) = (tmp_path / "cache").iterdir()
    (whole / "meta.json").unlink()
    assert len(loaded(root).train) == 8
    (whole / "train_images.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"^{whole} is damaged \(.*\): remove it$"):
        loaded(root)


def test_measurements_that_are_damaged_are_told(tmp_path):
    root = small_folder(tmp_path / "set")
    loaded(root, room=0)
    (folder,) = (tmp_path / "cache").iterdir()
    (folder / "meta.json").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"^{folder} is damaged \(.*\): remove it$"):
        loaded(root, room=0)


def test_cifar_is_measured_whole():
    assert cache.SAMPLE == 50_000


def test_leftovers_of_a_process_that_was_killed_are_removed(tmp_path):
    root = small_folder(tmp_path / "set")
    loaded(root)
    (whole,) = (tmp_path / "cache").iterdir()
    for name, age_s in (("killed", 3 * 24 * 3600), ("at work", 3600)):
        folder = whole.with_name(f"{whole.name}.tmp{name}")
        folder.mkdir()
        os.utime(folder, (time.time() - age_s,) * 2)
    loaded(root)
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == [whole.name, f"{whole.name}.tmpat work"]


def test_streamed_set_is_measured_once(both_ways, photos, tmp_path, monkeypatch):
    _, streamed = both_ways
    monkeypatch.setattr(cache, "statistics", None)  # would fail if it were called
    again = data.load("folder", photos, 12, tmp_path / "cache", 0)
    assert (again.mean, again.std, again.classes) == (streamed.mean, streamed.std, streamed.classes)


def test_statistics_are_of_a_sample_spread_over_the_split(monkeypatch):
    split = random_split(n=41)
    monkeypatch.setattr(cache, "SAMPLE", 5)
    pixels = split.images[[0, 10, 20, 30, 40]].double()
    measured = cache.statistics(split)
    assert np.allclose(measured["mean"], pixels.mean((0, 2, 3)))
    assert np.allclose(measured["std"], pixels.std((0, 2, 3), unbiased=False))


def test_channel_of_one_colour_is_not_divided_by_zero():
    images = torch.full((5, 3, 4, 4), 7, dtype=torch.uint8)
    images[0, 1, 0, 0] = 8  # a variance below 1
    measured = cache.statistics(data.Split(images, torch.zeros(5), torch.arange(5)))
    assert measured == {"mean": [7.0, 7.0125, 7.0], "std": [1.0, 1.0, 1.0]}


def test_statistics_are_rounded_alike_on_every_processor():
    """Which torch's square root is not; a run goes on, and its row is compared, wherever the same statistics are found."""
    for n in range(1, 300):  # of about 100 square roots one is
        split = random_split(n, size=2)
        pixels = split.images.transpose(0, 1).reshape(3, -1).tolist()
        means = [sum(of) / len(of) for of in pixels]
        squares = [sum(x * x for x in of) / len(of) for of in pixels]
        stds = [math.sqrt(square - mean * mean) for square, mean in zip(squares, means, strict=True)]
        assert cache.statistics(split) == {"mean": means, "std": stds}


def test_a_cache_may_be_shared_as_the_users_mask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        cache.write_folder(tmp_path / "cache" / "set", {}, {"a": np.zeros(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "cache" / "set").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "cache" / "set" / "a.npy").stat().st_mode & 0o777 == 0o644


def test_another_users_cache_is_refused_in_one_line(tmp_path, monkeypatch):
    def exists(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "exists", exists)
    with pytest.raises(ValueError, match="belongs to another user and cannot be read: give another --cache-dir"):
        data.load("shapes100", cache_dir=tmp_path)


def test_meta_of_the_cache_is_plain_json(tmp_path):
    write_images(tmp_path / "set" / "train" / "a", ["0.png"])
    write_images(tmp_path / "set" / "test" / "a", ["0.png"])
    data.load("folder", tmp_path / "set", cache_dir=tmp_path / "cache")
    (meta,) = (tmp_path / "cache").glob("*/meta.json")
    assert set(json.loads(meta.read_text())) == {"classes", "splits", "mean", "std", "content_fingerprint", "copies"}
