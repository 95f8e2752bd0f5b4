import json
import math
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import augment
import cache
import data
import splits
from augment import Augment, TrainBatches
from data import Split


def random_split(n=40, size=8, n_classes=4):
    images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    return Split(images, torch.arange(n) % n_classes, torch.arange(n))


def batches(split, augment=Augment(), batch_size=8, **kwargs):  # noqa: B008
    return TrainBatches(split, batch_size, augment, [0.0] * 3, [1.0] * 3, 4, seed=1, **kwargs)


def write_images(folder, names, size=(8, 8), mode="RGB"):
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        channels = len(Image.new(mode, (1, 1)).getbands())
        rng = np.random.default_rng(i)
        pixels = rng.integers(0, 256, (size[1], size[0], channels) if channels > 1 else size[::-1], dtype=np.uint8)
        Image.fromarray(pixels, mode=mode).save(folder / name)


def write_parquet(folder, split, images, labels, **names):
    """A split in the hub's schema; images are PIL images or raw bytes."""
    import io

    from datasets import Dataset

    def encode(image):
        buffer = io.BytesIO()
        image.save(buffer, "png")
        return buffer.getvalue()

    folder.mkdir(exist_ok=True)
    rows = [{"bytes": image if isinstance(image, bytes) else encode(image), "path": None} for image in images]
    columns = {names.get("img", "img"): rows, names.get("label", "fine_label"): labels}
    Dataset.from_dict(columns).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


def picture(mode="RGB", size=(8, 8)):
    return Image.effect_noise(size, 90).convert(mode)


# ------------------------------------------------------------------------------------------------------ augmentation


def test_nothing_drawn_gives_the_pixels():
    split = random_split()
    plain = batches(split, Augment(crop_padding=0, flip=False))
    rows = plain.draw(0)["row"]
    imgs = torch.cat([imgs for imgs, _ in plain.epoch(0)])
    assert torch.equal(imgs, split.images[rows].float())
    assert sorted(rows.tolist()) == list(range(40))


def test_crop_and_flip_agree_with_a_loop():
    split = random_split()
    made = batches(split, Augment(crop_padding=3))
    draws = made.draw(5)
    position = 0
    for imgs, targets in made.epoch(5):
        for img, target in zip(imgs, targets, strict=True):
            row, top, left, mirror = (draws[k][position].item() for k in ("row", "top", "left", "mirror"))
            padded = np.pad(split.images[row].numpy(), ((0, 0), (3, 3), (3, 3)), mode="reflect")
            crop = padded[:, 3 + top : 11 + top, 3 + left : 11 + left]
            crop = crop[:, :, ::-1] if mirror else crop
            assert np.array_equal(img.numpy(), crop)
            assert target == split.targets[row]
            position += 1
    assert {-3, 3} <= set(draws["top"].tolist()) | set(draws["left"].tolist())
    assert 0 < draws["mirror"].sum() < len(draws["mirror"])


def bilinear(image, y, x):
    """The value of an image (3, H, W) at the point (y, x), pixels centred at whole numbers, borders continued."""
    _, H, W = image.shape
    y, x = min(max(y, 0), H - 1), min(max(x, 0), W - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, H - 1), min(x0 + 1, W - 1)
    upper = image[:, y0, x0] * (1 - (x - x0)) + image[:, y0, x1] * (x - x0)
    lower = image[:, y1, x0] * (1 - (x - x0)) + image[:, y1, x1] * (x - x0)
    return upper * (1 - (y - y0)) + lower * (y - y0)


def test_resized_crops_agree_with_a_loop():
    split = random_split(n=16)
    made = batches(split, Augment(crop_scale=0.08))
    draws = made.draw(5)
    position = 0
    for imgs, targets in made.epoch(5):
        assert imgs.is_contiguous(memory_format=torch.channels_last)
        for img, target in zip(imgs, targets, strict=True):
            row, mirror = draws["row"][position].item(), draws["mirror"][position].item()
            top, left, height, width = (8 * draws[k][position].item() for k in ("top", "left", "height", "width"))
            image = split.images[row].numpy().astype(float)
            expected = np.empty((3, 8, 8))
            for y in range(8):
                for x in range(8):
                    at = top + height * (y + 0.5) / 8 - 0.5, left + width * (x + 0.5) / 8 - 0.5
                    expected[:, y, 7 - x if mirror else x] = bilinear(image, *at)
            assert np.allclose(img.numpy(), expected, atol=1e-2)  # of 255
            assert target == split.targets[row]
            position += 1
    assert 0 < draws["mirror"].sum() < len(draws["mirror"])


def test_every_other_image_is_mirrored():
    mirror = batches(random_split(n=40_000), Augment()).draw(0)["mirror"]
    assert mirror.float().mean() == pytest.approx(0.5, abs=0.01)  # four standard deviations


def test_resized_crops_keep_to_their_ranges():
    draws = batches(random_split(n=4000), Augment(crop_scale=0.08)).draw(0)
    top, left, height, width = (draws[k].double() for k in ("top", "left", "height", "width"))
    area, shape = height * width, width / height
    assert 0.08 <= area.min() < 0.1 and 0.98 < area.max() <= 1.0001
    assert 0.749 < shape.min() < 0.76 and 1.32 < shape.max() < 1.334
    assert min(top.min(), left.min()) >= 0 and max((top + height).max(), (left + width).max()) < 1.0001
    assert abs(area.mean() - 0.54) < 0.02 and abs(shape.log().mean()) < 0.01


def test_resized_crop_of_everything_gives_the_pixels():
    split = random_split()
    made = batches(split, Augment(crop_padding=100, flip=False, crop_scale=1.0))  # the padding is not read
    imgs = torch.cat([imgs for imgs, _ in made.epoch(0)])
    torch.testing.assert_close(imgs, split.images[made.draw(0)["row"]].float(), rtol=0, atol=1e-3)


def test_batches_are_channels_last_and_normalized():
    split = random_split()
    mean, std = [100.0, 120.0, 140.0], [50.0, 60.0, 70.0]
    made = TrainBatches(split, 8, Augment(0, False, cutout=2), mean, std, 4, seed=0)
    imgs, _ = next(made.epoch(0))
    assert imgs.is_contiguous(memory_format=torch.channels_last)
    expected = (split.images[made.draw(0)["row"][:8]].float() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(
        std
    ).view(3, 1, 1)
    kept = imgs != 0
    assert torch.allclose(imgs[kept], expected[kept])


def test_cutout_blanks_one_square():
    made = batches(random_split(), Augment(0, False, cutout=4))
    draws = made.draw(0)
    imgs, _ = next(made.epoch(0))
    for i, img in enumerate(imgs):
        y, x = draws["hole_y"][i].item(), draws["hole_x"][i].item()
        hole = torch.zeros(8, 8, dtype=torch.bool)
        hole[max(0, y - 2) : y + 2, max(0, x - 2) : x + 2] = True
        assert (img[:, hole] == 0).all()
        assert (img[:, ~hole] != 0).float().mean() > 0.95  # some pixels are 0 by themselves


@pytest.mark.parametrize("mixed", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_targets_are_the_shares_of_the_pixels(mixed):
    """With images of one constant each, the pixels of a mixed image say which share of it came from where."""
    constants = torch.arange(40).clamp(min=1)
    images = constants.byte().view(40, 1, 1, 1).expand(40, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    split = Split(images, torch.arange(40) % 4, torch.arange(40))
    made = batches(split, Augment(0, False, **mixed))
    rows = made.draw(2)["row"].view(-1, 8)
    changed = 0
    for step, (imgs, shares) in enumerate(made.epoch(2)):
        own, partner = constants[rows[step]].float(), constants[rows[step].flip(0)].float()
        kept = (imgs.mean((1, 2, 3)) - partner) / (own - partner)
        expected = torch.zeros(8, 4)
        for i, row in enumerate(rows[step]):
            expected[i, split.targets[row]] += kept[i]
            expected[i, split.targets[rows[step].flip(0)[i]]] += 1 - kept[i]
        torch.testing.assert_close(shares, expected, rtol=0, atol=1e-4)
        changed += (kept < 0.99).sum()
    assert changed > 10


# ----------------------------------------------------------------------------------- order, processes, held-out part


@pytest.mark.parametrize(
    "augment", [Augment(), Augment(cutout=4, mixup=0.2, cutmix=1.0), Augment(mixup=0.2, crop_scale=0.2)]
)
@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_processes_sees_the_same_pixels(augment, world_size):
    split = random_split()
    alone = list(batches(split, augment).epoch(3))
    together = [list(batches(split, augment, rank=r, world_size=world_size).epoch(3)) for r in range(world_size)]
    assert len(alone) == len(together[0]) == 5
    for step, (imgs, targets) in enumerate(alone):
        assert torch.equal(torch.cat([parts[step][0] for parts in together]), imgs)
        assert torch.equal(torch.cat([parts[step][1] for parts in together]), targets)


def test_resumed_epoch_continues_where_it_was():
    made = batches(random_split(), Augment(mixup=0.2))
    whole, rest = list(made.epoch(4)), list(made.epoch(4, first_step=3))
    assert len(rest) == 2
    assert torch.equal(whole[3][0], rest[0][0])
    assert torch.equal(whole[4][1], rest[1][1])


def test_epochs_and_seeds_differ():
    split = random_split()
    first, second = next(batches(split).epoch(0))[0], next(batches(split).epoch(1))[0]
    assert not torch.equal(first, second)
    other_seed = TrainBatches(split, 8, Augment(), [0.0] * 3, [1.0] * 3, 4, seed=2)
    assert not torch.equal(first, next(other_seed.epoch(0))[0])


@pytest.mark.parametrize("n", [1, 3, 10, 17])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_image_once(n, world_size):
    split = Split(torch.zeros(n, 3, 4, 4, dtype=torch.uint8), torch.arange(n), torch.arange(n))
    seen = [
        target.item()
        for rank in range(world_size)
        for _, targets in augment.eval_batches(split, 4, [0.0] * 3, [1.0] * 3, rank, world_size)
        for target in targets
    ]
    assert sorted(seen) == list(range(n))


def test_held_out_part_is_stratified_and_fixed_by_the_seed():
    split = random_split(n=80)
    rest, held = data.hold_out(split, 0.2, seed=0)
    assert sorted(torch.cat([rest.index, held.index]).tolist()) == list(range(80))
    assert split.targets[held.index].bincount().tolist() == [4, 4, 4, 4]
    assert torch.equal(held.index, data.hold_out(split, 0.2, seed=0)[1].index)
    assert not torch.equal(held.index, data.hold_out(split, 0.2, seed=1)[1].index)
    for n in (1, 3, 40, 41, 79):
        part = data.hold_out(split, n, seed=0)[1]
        assert len(part) == n
        shares = split.targets[part.index].bincount(minlength=4)
        assert shares.max() - shares.min() <= 1
    assert data.hold_out(split, 0, seed=0) == (split, None)
    rows = batches(rest).draw(0)["row"]
    assert not set(rows.tolist()) & set(held.index.tolist())


@pytest.mark.parametrize(("n", "folds"), [(80, 5), (83, 4), (7, 7)])
def test_folds_divide_the_images_evenly(n, folds):
    split = random_split(n=n)
    parts = [data.hold_out_fold(split, folds, fold) for fold in range(folds)]
    assert sorted(torch.cat([held.index for _, held in parts]).tolist()) == list(range(n))
    sizes = [len(held) for _, held in parts]
    assert max(sizes) - min(sizes) <= 1
    for rest, held in parts:
        assert sorted(torch.cat([rest.index, held.index]).tolist()) == list(range(n))
        shares = split.targets[held.index].bincount(minlength=4) - split.targets.bincount() / folds
        assert shares.abs().max() < 1
    in_order = split.targets[parts[0][1].index] * n + parts[0][1].index  # classes do not decide who is beside whom
    assert folds == n or len(set(in_order.diff().tolist())) > 2


def test_more_folds_than_images_are_refused():
    with pytest.raises(ValueError, match="--folds 81 leaves folds of no image: there are 80 training images"):
        data.hold_out_fold(random_split(n=80), 81, 0)


@pytest.mark.parametrize("val_size", [0.001, 80, 100, 0.999])
def test_empty_side_is_refused(val_size):
    with pytest.raises(ValueError, match="leaves no image on one side"):
        data.hold_out(random_split(n=80), val_size, seed=0)


def test_batches_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="not a multiple of the 3 processes"):
        batches(random_split(), world_size=3)
    with pytest.raises(ValueError, match="--crop-padding 8 does not fit images of 8 pixels"):
        batches(random_split(), Augment(8))
    with pytest.raises(ValueError, match="40 training images do not fill one batch"):
        batches(random_split(), batch_size=64)


# ------------------------------------------------------------------------------------------------------------ loading


def test_image_folder_with_a_class_named_train(tmp_path):
    root = tmp_path / "photos"
    for split, n in (("train", 3), ("test", 2)):
        for name in ("apple", "test", "train"):
            write_images(root / split / name, [f"{split}{i}.png" for i in range(n)])
    images = data.load("folder", root, cache_dir=tmp_path / "cache")
    assert images.classes == ["apple", "test", "train"]
    assert images.train.targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert images.test.targets.tolist() == [0] * 2 + [1] * 2 + [2] * 2
    assert images.train.images.shape == (9, 3, 8, 8)
    assert images.train.images.is_contiguous(memory_format=torch.channels_last)


def test_image_folder_is_resized(tmp_path):
    root = tmp_path / "photos"
    write_images(root / "train" / "a", ["0.png"], size=(20, 10))
    write_images(root / "train" / "b", ["0.jpg"], size=(9, 30))
    write_images(root / "test" / "b", ["0.png"], size=(64, 64), mode="L")
    images = data.load("folder", root, image_size=16, cache_dir=tmp_path / "cache")
    assert images.train.images.shape == (2, 3, 16, 16)
    assert images.test.targets.tolist() == [1]  # by its name: test lacks the first class
    with pytest.raises(ValueError, match=r"train/a/0.png: image of 20x10 pixels .* give --image-size"):
        data.load("folder", root, cache_dir=tmp_path / "cache")


def test_parquet_of_all_modes(tmp_path):
    modes = [picture(mode) for mode in ("RGB", "L", "RGBA", "P", "1")]
    for split in ("train", "test"):
        write_parquet(tmp_path / "set", split, modes, [0, 1, 2, 98, 99])
    images = data.load("cifar100", tmp_path / "set", cache_dir=tmp_path / "cache")
    assert images.train.images.shape == (5, 3, 8, 8)
    assert images.train.targets.tolist() == [0, 1, 2, 98, 99]
    assert len(images.classes) == 100
    assert torch.equal(images.train.images[0], torch.from_numpy(np.array(modes[0])).permute(2, 0, 1))


def test_decoded_images_are_cached_and_mapped(tmp_path, monkeypatch):
    for split in ("train", "test"):
        write_parquet(tmp_path / "set", split, [picture()] * 2, [0, 1], label="label")
    first = data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")
    monkeypatch.setattr(data, "open_found", None)  # would fail if it were called
    second = data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")
    assert torch.equal(first.train.images, second.train.images)
    assert not list((tmp_path / "cache").glob("*.tmp*"))
    pixels = first.train.images.double()
    assert np.allclose(first.mean, pixels.mean((0, 2, 3)))
    assert np.allclose(first.std, pixels.std((0, 2, 3), unbiased=False))


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_images_are_decoded_in_order_by_any_number_of_threads(tmp_path, n_threads, monkeypatch):
    pictures = [picture() for _ in range(23)]
    for split in ("train", "test"):
        write_parquet(tmp_path / "set", split, pictures, [0] * 23, label="label")
    monkeypatch.setattr("machine.cores", lambda: n_threads)
    monkeypatch.setattr(cache, "DECODED_AT_ONCE", 7)
    images = data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")
    assert np.array_equal(images.test.images.permute(0, 2, 3, 1).numpy(), np.stack(pictures))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([picture(), b"not an image"], [0, 1], "train split, row 1: cannot read the image"),
        ([picture(), picture(size=(9, 8))], [0, 1], "train split, row 1: image of 9x8 pixels"),
        ([picture(), picture()], [0, 10], "train split: 1 labels outside 0..9, such as 10"),
        ([picture(), picture()], [-1, -100], "train split: 2 labels outside 0..9, such as -1"),
    ],
)
def test_unfit_rows_are_named(tmp_path, images, labels, message):
    write_parquet(tmp_path / "set", "train", images, labels, label="label")
    write_parquet(tmp_path / "set", "test", [picture()], [0], label="label")
    with pytest.raises(ValueError, match=message):
        data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else True


def test_truncated_image_is_named(tmp_path):
    import io

    buffer = io.BytesIO()
    picture(size=(32, 32)).save(buffer, "png")
    write_parquet(tmp_path / "set", "train", [picture(size=(32, 32)), buffer.getvalue()[:200]], [0, 1], label="label")
    write_parquet(tmp_path / "set", "test", [picture(size=(32, 32))], [0], label="label")
    with pytest.raises(ValueError, match="train split, row 1: cannot read the image"):
        data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        data.load("cifar100", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no train images; expected train-\*\.parquet .* found nothing"):
        data.load("cifar100", tmp_path)
    write_parquet(tmp_path, "train", [picture()], [0], label="coarse_label")
    with pytest.raises(ValueError, match=r"no test images; .* found train-00000-of-00001\.parquet"):
        data.load("cifar100", tmp_path)
    write_parquet(tmp_path, "test", [picture()], [0], label="coarse_label")
    with pytest.raises(ValueError, match="no column 'fine_label', found img, coarse_label"):
        data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="--dataset folder needs --data-dir"):
        data.load("folder")
    with pytest.raises(ValueError, match=r"train/<class>/ and test/<class>/"):
        data.load("folder", tmp_path)


def test_classes_that_only_test_has_are_refused(tmp_path):
    write_images(tmp_path / "set" / "train" / "a", ["0.png"])
    write_images(tmp_path / "set" / "test" / "b", ["0.png"])
    with pytest.raises(ValueError, match="test has classes that train has not: b"):
        data.load("folder", tmp_path / "set", cache_dir=tmp_path / "cache")


def unreachable(*args, **kwargs):
    raise RuntimeError("no route")  # as little an OSError as the errors of the hub's client


def test_unreachable_hub_is_said_at_once(tmp_path, monkeypatch):
    """Before load_dataset, which would try for 23 seconds, is called at all."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    monkeypatch.setattr("datasets.load_dataset", None)
    with pytest.raises(ValueError, match=r"cannot reach the hub for uoft-cs/cifar100 .*--data-dir.*shapes100"):
        data.load("cifar100", cache_dir=tmp_path / "cache")


def test_unreachable_hub_with_a_local_copy(tmp_path, monkeypatch):
    for split in ("train", "test"):
        write_parquet(tmp_path / "copy", split, [picture()], [0], label="label")
    from datasets import load_dataset

    files = {split: str(tmp_path / "copy" / f"{split}-00000-of-00001.parquet") for split in ("train", "test")}
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.load_dataset", lambda name: load_dataset("parquet", data_files=files))
    (tmp_path / "uoft-cs___cifar10").mkdir()
    images = data.load("cifar10", cache_dir=tmp_path / "cache")
    assert len(images.train) == 1


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([picture(), picture()], ["a", "b"], "column 'label' must hold class numbers only"),
        ([picture(), picture()], [0, None], "column 'label' must hold class numbers only"),
    ],
)
def test_labels_that_are_no_numbers(tmp_path, images, labels, message):
    for split in ("train", "test"):
        write_parquet(tmp_path / "set", split, images, labels, label="label")
    with pytest.raises(ValueError, match=message):
        data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")


# -------------------------------------------------------------------------------------- what a set is recognized by


def small_folder(root, n=4):
    """Two classes, n training and two test images of each."""
    for c, name in enumerate(("ant", "bee")):
        for split, many in (("train", n), ("test", 2)):
            (root / split / name).mkdir(parents=True)
            for i in range(many):
                pixels = np.random.default_rng((c, i, many)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def loaded(root, room=1e9):
    return data.load("folder", root, cache_dir=root.parent / "cache", room=room)


@pytest.mark.parametrize("room", [1e9, 0])
def test_images_however_deep_are_noticed_when_they_come(tmp_path, room):
    root = small_folder(tmp_path / "set")
    write_images(root / "train" / "ant" / "session0" / "cam0", ["a.png", "b.png"])
    assert len(loaded(root, room).train) == 10
    write_images(root / "train" / "ant" / "session0" / "cam1", ["a.png"])
    assert len(loaded(root, room).train) == 11
    (root / "train" / "ant" / "session0" / "cam0" / "b.png").unlink()
    assert len(loaded(root, room).train) == 10


def test_image_that_is_replaced_is_noticed(tmp_path):
    root = small_folder(tmp_path / "set")
    before = loaded(root)
    write_images(tmp_path / "new", ["0.png"])
    (tmp_path / "new" / "0.png").replace(root / "train" / "ant" / "0.png")
    assert not torch.equal(before.train.images, loaded(root).train.images)


def test_folder_is_one_set_however_it_is_spelled(tmp_path, monkeypatch):
    root = small_folder(tmp_path / "set")
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for spelled in (root, "set", "./set/", "set/../set", "link", "~/set"):
        images = data.load("folder", spelled, cache_dir=tmp_path / "cache")
        assert len(list((tmp_path / "cache").iterdir())) == 1
        assert len(images.train) == 8


def test_names_with_a_leading_dot_are_neither_images_nor_classes(tmp_path):
    """Nor do they make another set of it: they are counted, and that is all."""
    root = small_folder(tmp_path / "set")
    before = loaded(root)
    for folder in (root / "train", root / "test", root / "train" / "ant"):
        (folder / ".ipynb_checkpoints").mkdir()
    (root / "train" / ".ipynb_checkpoints" / "0.png").write_bytes((root / "train" / "ant" / "0.png").read_bytes())
    (root / "train" / "ant" / "._0.jpg").write_bytes(b"\0\5\x16\7")
    (root / "test" / "bee" / "Thumbs.db").touch()
    (root / "test" / "0.png").touch()
    after = loaded(root)
    assert after.classes == ["ant", "bee"]
    assert (after.fingerprint, after.content_fingerprint) == (before.fingerprint, before.content_fingerprint)
    assert before.notes == ()
    assert after.notes == (
        f"left out of {root}: 4 names that begin with a dot and 2 files that are no images by their names",
    )


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


def test_fingerprint_of_earlier_rows_stays(tmp_path):
    """By which runs are recognized that were made before there was another."""
    images = loaded(small_folder(tmp_path / "set"))
    assert images.fingerprint == "3fc55454"


def test_picture_is_the_same_from_a_folder_from_a_table_and_streamed(tmp_path):
    """Turned for the eye, whatever way the camera was held."""
    picture = Image.effect_noise((8, 8), 90)
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "test"):
        (tmp_path / "set" / split / "ant").mkdir(parents=True)
        file = tmp_path / "set" / split / "ant" / "0.png"
        picture.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
        write_parquet(tmp_path / "table", split, [file.read_bytes()], [0], label="label")
    sets = [
        data.load(name, tmp_path / where, cache_dir=tmp_path / "cache", room=room)
        for name, where in (("folder", "set"), ("cifar10", "table"))
        for room in (1e9, 0)
    ]
    for images in sets:
        (read, _), *_ = images.train.read([torch.tensor([0])])
        assert np.array_equal(read[0, 0].numpy(), np.asarray(picture))


# ------------------------------------------------------------------------------------------------ checks and messages


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


def test_many_damaged_images_are_listed_in_a_file(tmp_path, monkeypatch):
    root = small_folder(tmp_path / "set", n=20)
    truncate(*(root / "train" / "ant").glob("*.png"))
    with pytest.raises(
        ValueError, match=r"^20 images cannot be used: .*; and 10 more, all of them in (.*-unfit\.txt)$"
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


@pytest.mark.parametrize("split", ["train", "test"])
def test_class_without_an_image_is_named_with_its_split(tmp_path, split):
    root = small_folder(tmp_path / "set")
    for file in (root / split / "bee").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=f"no image for class bee in {split}/: add some, or remove it"):
        loaded(root)


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


def test_disk_that_will_be_full_is_told_before_anything_is_decoded(tmp_path, monkeypatch):
    root = small_folder(tmp_path / "set")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setattr(cache, "decode_all", None)
    with pytest.raises(ValueError, match=rf"{tmp_path}/cache.*: make room there, or give another --cache-dir"):
        loaded(root)


def test_leftovers_of_a_process_that_was_killed_are_removed(tmp_path):
    root = small_folder(tmp_path / "set")
    loaded(root)
    (whole,) = (tmp_path / "cache").iterdir()
    for name, age_s in (("killed", 3 * 24 * 3600), ("at work", 3600)):
        folder = whole.with_name(f"{whole.name}.tmp{name}")
        folder.mkdir()
        os.utime(folder, (time.time() - age_s,) * 2)
    (whole / "meta.json").unlink()
    (tmp_path / "cache" / whole.name).rename(tmp_path / "away")
    loaded(root)
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == [whole.name, f"{whole.name}.tmpat work"]


# -------------------------------------------------------------------------------------------- val/ and only test/


@pytest.mark.parametrize("room", [1e9, 0])
def test_folder_of_validation_images_is_watched(tmp_path, room):
    root = small_folder(tmp_path / "set")
    without = loaded(root, room)
    assert without.val is None
    write_images(root / "val" / "bee", ["0.png", "1.png", "2.png"])
    images = loaded(root, room)
    assert images.notes == (f"{root}: val/ is watched in place of a part of train/ (--val-size)",)
    train, val = data.held_out(images, val_size=0.5, folds=None, fold=None, seed=0)
    assert (len(train), len(val)) == (8, 3)
    assert val.targets[val.index].tolist() == [1, 1, 1]
    assert images.fingerprint == without.fingerprint
    assert images.content_fingerprint != without.content_fingerprint
    with pytest.raises(ValueError, match="--folds divides train/, but there is a folder val/, too"):
        data.held_out(images, val_size=None, folds=4, fold=0, seed=0)
    (root / "val" / "cat").mkdir()
    write_images(root / "val" / "cat" / "below", ["0.png"])
    with pytest.raises(ValueError, match="val has classes that train has not: cat"):
        loaded(root, room)


def test_parts_are_held_out_as_the_flags_say():
    images = data.ImageSet(random_split(), random_split(8), [*"abcd"], [0] * 3, [1] * 3, "")
    for arguments, expected in (
        ((0.25, None, None, 3), data.hold_out(images.train, 0.25, 3)),
        ((None, 5, 2, 3), data.hold_out_fold(images.train, 5, 2)),
    ):
        for part, other in zip(data.held_out(images, *arguments), expected, strict=True):
            assert torch.equal(part.index, other.index)
    assert data.held_out(images, 0, None, None, 3) == (images.train, None)


@pytest.mark.parametrize("room", [1e9, 0])
def test_test_images_alone_are_numbered_as_a_network_knows_them(tmp_path, room):
    root = small_folder(tmp_path / "set")
    whole = loaded(root)
    (root / "train").rename(tmp_path / "away")
    with pytest.raises(ValueError, match="no train images"):
        loaded(root)
    images = data.load("folder", root, None, tmp_path / "cache", room, classes=["bee", "cat", "ant"])
    assert images.to("cpu").train is None
    assert (images.classes, images.image_size) == (["bee", "cat", "ant"], 8)
    assert images.test.targets.tolist() == [2, 2, 0, 0]
    (pixels, i), *_ = images.test.read([torch.arange(4)])
    assert torch.equal(pixels[i], whole.test.images)
    with pytest.raises(ValueError, match="test has classes that the network has not: bee"):
        data.load("folder", root, None, tmp_path / "cache", room, classes=["ant", "cat"])


# --------------------------------------------------------------------------------------------------------- streaming


@pytest.fixture
def both_ways(photos, tmp_path):
    """One image folder, resized to 12 pixels: in memory and streamed."""
    return [data.load("folder", photos, 12, tmp_path / "cache", room) for room in (1e9, 0)]


@pytest.mark.parametrize("augment", [Augment(), Augment(mixup=0.2, cutmix=1.0, cutout=4, crop_scale=0.2)])
def test_streamed_batches_are_those_in_memory(both_ways, augment):
    """Whatever the number of processes, and from the middle of an epoch on."""
    kept, streamed = both_ways
    assert (kept.train.way, streamed.train.way) == ("in memory", "streamed")
    assert kept.fingerprint == streamed.fingerprint  # with the same mean and std, so that either way resumes a run
    for rank, world_size, first_step in ((0, 1, 0), (0, 2, 1), (1, 2, 1)):
        same = [
            TrainBatches(data.hold_out_fold(images.train, 4, 1)[0], 20, augment, images.mean, images.std, 4, seed=3,
                         rank=rank, world_size=world_size).epoch(2, first_step)
            for images in both_ways
        ]  # fmt: skip
        n_steps = 0
        for (imgs, targets), (streamed_imgs, streamed_targets) in zip(*same, strict=True):
            assert torch.equal(imgs, streamed_imgs)
            assert torch.equal(targets, streamed_targets)
            assert streamed_imgs.is_contiguous(memory_format=torch.channels_last)
            n_steps += 1
        assert n_steps == 3 - first_step


@pytest.mark.parametrize("n_threads", [1, 2])
def test_streamed_evaluation_sees_each_image_once(both_ways, n_threads, monkeypatch):
    monkeypatch.setattr(splits, "n_threads", lambda: n_threads)
    for rank in range(3):
        parts = [list(augment.eval_batches(images.test, 4, images.mean, images.std, rank, 3)) for images in both_ways]
        for (imgs, targets), (streamed_imgs, streamed_targets) in zip(*parts, strict=True):
            assert torch.equal(imgs, streamed_imgs)
            assert torch.equal(targets, streamed_targets)


def test_parquet_is_streamed_too(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / "set", split, [picture(size=(9, 9)) for _ in range(5)], [3, 1, 4, 1, 5], label="label")
    kept, streamed = (data.load("cifar10", tmp_path / "set", None, tmp_path / "cache", room) for room in (1e9, 0))
    assert (streamed.test.way, streamed.image_size) == ("streamed", 9)
    first, second = (list(augment.eval_batches(images.train, 2, [0] * 3, [1] * 3)) for images in (kept, streamed))
    for (imgs, targets), (streamed_imgs, streamed_targets) in zip(first, second, strict=True):
        assert torch.equal(imgs, streamed_imgs)
        assert torch.equal(targets, streamed_targets)


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


def test_statistics_are_rounded_alike_on_every_processor():
    """Which torch's square root is not; a run goes on, and its row is compared, wherever the same statistics are found."""
    for n in range(1, 300):  # of about 100 square roots one is
        split = random_split(n, size=2)
        pixels = split.images.transpose(0, 1).reshape(3, -1).tolist()
        means = [sum(of) / len(of) for of in pixels]
        squares = [sum(x * x for x in of) / len(of) for of in pixels]
        stds = [math.sqrt(square - mean * mean) for square, mean in zip(squares, means, strict=True)]
        assert cache.statistics(split) == {"mean": means, "std": stds}


def test_streamed_image_that_is_unfit_is_named(tmp_path):
    """When the set is loaded, which is the user's mistake, and where it is met later, which ends the run."""
    write_images(tmp_path / "set" / "train" / "a", [f"{i}.png" for i in range(5)])
    write_images(tmp_path / "set" / "test" / "a", ["0.png"])
    images = data.load("folder", tmp_path / "set", None, tmp_path / "cache", 0)
    (tmp_path / "set" / "train" / "a" / "3.png").write_bytes(b"not an image")
    with pytest.raises(OSError, match=r"train/a/3.png: cannot read the image \([^\n]*\)$"):
        list(batches(images.train, batch_size=5).epoch(0))
    with pytest.raises(ValueError, match=r"train/a/3.png: cannot read the image \([^\n]*\)$"):
        data.load("folder", tmp_path / "set", None, tmp_path / "other", 0)
    write_images(tmp_path / "set" / "train" / "b", ["0.png"], size=(9, 9))
    (tmp_path / "set" / "train" / "a" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"train/b/0.png: image of 9x9 pixels .* give --image-size"):
        data.load("folder", tmp_path / "set", None, tmp_path / "cache", 0)


def test_splits_of_different_sizes_are_refused(tmp_path):
    write_images(tmp_path / "set" / "train" / "a", ["0.png"])
    write_images(tmp_path / "set" / "test" / "a", ["0.png"], size=(9, 9))
    for room in (0, 1e9):
        with pytest.raises(ValueError, match=r"differ in size \(8x8 and 9x9 pixels\): give --image-size"):
            data.load("folder", tmp_path / "set", None, tmp_path / "cache", room)


def test_room_is_half_of_the_free_memory(monkeypatch):
    monkeypatch.setattr("machine.free_memory", lambda: 1000)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (600, 800))
    assert data.room(torch.device("cpu")) == 500
    assert data.room(torch.device("cuda")) == 300


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr("machine.cores", lambda: 20)
    assert splits.n_threads() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert splits.n_threads() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert splits.n_threads() == 1


def test_meta_of_the_cache_is_plain_json(tmp_path):
    write_images(tmp_path / "set" / "train" / "a", ["0.png"])
    write_images(tmp_path / "set" / "test" / "a", ["0.png"])
    data.load("folder", tmp_path / "set", cache_dir=tmp_path / "cache")
    (meta,) = (tmp_path / "cache").glob("*/meta.json")
    assert set(json.loads(meta.read_text())) == {"classes", "splits", "mean", "std", "content_fingerprint"}
