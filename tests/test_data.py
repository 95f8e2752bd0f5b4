import numpy as np
import pytest
import torch
from PIL import Image

import augment
import data
from shapes import draw_shapes100
from tests.test_augment import batches


def write_images(folder, names, size=(8, 8), mode="RGB"):
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        channels = len(Image.new(mode, (1, 1)).getbands())
        rng = np.random.default_rng(i)
        pixels = rng.integers(0, 256, (size[1], size[0], channels) if channels > 1 else size[::-1], dtype=np.uint8)
        Image.fromarray(pixels, mode=mode).save(folder / name)


def write_parquet(folder, split, images, labels, classes=None, **names):
    """A split in the hub's schema; images are PIL images or raw bytes. classes: names of the labels, if the file has them."""
    import io

    from datasets import ClassLabel, Dataset

    def encode(image):
        buffer = io.BytesIO()
        image.save(buffer, "png")
        return buffer.getvalue()

    folder.mkdir(exist_ok=True)
    rows = [{"bytes": image if isinstance(image, bytes) else encode(image), "path": None} for image in images]
    label = names.get("label", "fine_label")
    table = Dataset.from_dict({names.get("img", "img"): rows, label: labels})
    table = table.cast_column(label, ClassLabel(names=classes)) if classes else table
    table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


def write_table(folder, images, labels, classes=None, **names):
    """As write_parquet, both splits alike."""
    for split in ("train", "test"):
        write_parquet(folder, split, images, labels, classes, **names)


def picture(mode="RGB", size=(8, 8)):
    return Image.effect_noise(size, 90).convert(mode)


# ------------------------------------------------------------------------------------------------------------ loading


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


def test_built_in_set_has_its_training_and_its_test_images(tmp_path, monkeypatch):
    few = draw_shapes100(n_train=300, n_test=100)
    monkeypatch.setattr(data, "draw_shapes100", lambda: few)
    images = data.load("shapes100", cache_dir=tmp_path)
    for split, (pixels, targets) in zip((images.train, images.test), few, strict=False):
        assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy(), pixels)
        assert np.array_equal(split.targets.numpy(), targets)


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


# --------------------------------------------------------------------------------------------------------- streaming


def test_parquet_is_streamed_too(tmp_path):
    write_table(tmp_path / "set", [picture(size=(9, 9)) for _ in range(5)], [3, 1, 4, 1, 5], label="label")
    kept, streamed = (data.load("cifar10", tmp_path / "set", None, tmp_path / "cache", room) for room in (1e9, 0))
    assert (streamed.test.is_streamed, streamed.image_size) == (True, 9)
    first, second = (list(augment.eval_batches(images.train, 2, [0] * 3, [1] * 3)) for images in (kept, streamed))
    for (imgs, targets), (streamed_imgs, streamed_targets) in zip(first, second, strict=True):
        assert torch.equal(imgs, streamed_imgs)
        assert torch.equal(targets, streamed_targets)


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


def test_classes_are_counted_without_reading_an_image(photos):
    assert [data.n_classes(name, None) for name in ("cifar100", "cifar10", "shapes100")] == [100, 10, 100]
    assert data.n_classes("folder", photos) == 4


def test_splits_of_different_sizes_are_refused(tmp_path):
    write_images(tmp_path / "set" / "train" / "a", ["0.png"])
    write_images(tmp_path / "set" / "test" / "a", ["0.png"], size=(9, 9))
    for room in (0, 1e9):
        with pytest.raises(ValueError, match=r"differ in size \(8x8 and 9x9 pixels\): give --image-size"):
            data.load("folder", tmp_path / "set", None, tmp_path / "cache", room)


def test_set_that_just_fits_is_kept_in_memory(tmp_path):
    root, n_bytes = small_folder(tmp_path / "set"), 12 * 3 * 8 * 8
    assert loaded(root, n_bytes - 1).train.is_streamed
    for _ in range(2):  # decoded, and from the cache
        assert not loaded(root, n_bytes).train.is_streamed
    assert loaded(root, n_bytes - 1).train.is_streamed


def test_room_is_half_of_the_free_memory(monkeypatch):
    monkeypatch.setattr("machine.free_memory", lambda: 1000)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (600, 800))
    assert data.room(torch.device("cpu")) == 500
    assert data.room(torch.device("cuda")) == 300
