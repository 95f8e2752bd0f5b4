"""sources.py: what is found in folders, tables and on the hub, and what a set is recognized by."""

import shutil
import unicodedata
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch

import data
import sources
from tests.test_data import loaded, picture, small_folder, write_images, write_parquet, write_table


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


@pytest.mark.parametrize(
    ("name", "folders", "given", "said"),
    [
        ("cifar100", ["train/cat", "test/cat"], "", ": an image folder: give --dataset folder"),
        (
            "folder",
            ["train/cat", "val/cat"],
            "",
            ": rename val/ to test/, and a part of train/ is held out for validation",
        ),
        (
            "folder",
            ["train/cat", "valid/cat"],
            "",
            ": rename valid/ to test/, and a part of train/ is held out for validation",
        ),
        ("folder", ["Train/cat", "Test/cat"], "", ": rename Test/ to test/"),
        ("folder", ["training/cat", "testing/cat"], "", ": rename testing/ to test/"),
        ("folder", ["train/cat", "val/cat", "Test/cat"], "", ": rename Test/ to test/"),
        (
            "folder",
            ["train/cat", "training/cat", "valid/cat"],
            "",
            ": rename valid/ to test/, and a part of train/ is held out for validation",
        ),
        ("folder", ["test/cat"], "", ", found test"),
        ("folder", ["set/train/cat", "set/test/cat"], "", ": give its folder set/"),
        ("folder", ["train/cat", "test/cat"], "train", ": give the folder above"),
        ("folder", ["train/cat", "train/dog"], "", ": move some images of each class from train/ to test/"),
        ("folder", ["cat", "dog"], "", ": are these classes? Their images must be split into train/ and test/"),
    ],
)
def test_a_folder_of_another_layout_gets_a_hint(name, folders, given, said, tmp_path):
    for folder in folders:
        write_images(tmp_path / "set" / folder, ["1.png"])
    with pytest.raises(ValueError, match=r"no (train|test) images; expected") as error:
        sources.find(name, tmp_path / "set" / given)
    assert str(error.value).endswith(said)


def test_files_as_the_hub_keeps_them_get_a_hint(tmp_path):
    (tmp_path / "set" / "cifar100").mkdir(parents=True)
    (tmp_path / "set" / "cifar100" / "train-00000-of-00001.parquet").touch()
    with pytest.raises(ValueError, match=r": give its folder cifar100/$"):
        sources.find("cifar100", tmp_path / "set")


@pytest.mark.parametrize("name", ["valid", "Val"])
def test_validation_images_under_another_name_are_told(name, tmp_path):
    for folder in ("train", "test", name):
        write_images(tmp_path / folder / "cat", ["1.png"])
    (note,) = sources.find("folder", tmp_path).notes
    assert note == f"{tmp_path}: {name}/ is not read: renamed to val/, it would be scored after each epoch"


def test_a_file_in_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "set.zip").touch()
    with pytest.raises(ValueError, match=r"set.zip: is a file: give its folder; unpack it first if it is an archive$"):
        sources.find("folder", tmp_path / "set.zip")


def test_classes_that_may_be_mistakes_are_told(tmp_path):
    for split, classes in (("train", ("Cat", "cat", "dog")), ("test", ("Cat", "cat"))):
        for name in classes:
            write_images(tmp_path / split / name, ["1.png"])
    lacking, twins = sources.find("folder", tmp_path).notes
    assert lacking == f"{tmp_path}: test/ has no image of 1 of 3 classes, such as dog"
    assert twins == f"{tmp_path}: classes whose names differ only in case or Unicode form: Cat, cat"


def test_names_that_only_look_alike_are_told(tmp_path):
    """As when train/ was made on Linux and test/ on a Mac."""
    for split, form in (("train", "NFC"), ("test", "NFD")):
        write_images(tmp_path / split / unicodedata.normalize(form, "caf\u00e9"), ["1.png"])
    with pytest.raises(ValueError, match=r"\(some names differ only in case or Unicode form: rename the folders\)$"):
        sources.find("folder", tmp_path)


def test_a_full_disk_is_named_where_it_is(tmp_path, monkeypatch):
    from datasets.exceptions import DatasetGenerationError

    def failing(*_, **__):
        raise DatasetGenerationError("An error occurred") from OSError(28, "No space left on device")

    write_table(tmp_path, [picture()], [0])
    monkeypatch.setattr("datasets.load_dataset", failing)
    with pytest.raises(ValueError, match=r"No space left on device: make room in .*, or set HF_HOME$"):
        data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache")


def test_brackets_in_a_path_are_no_pattern(tmp_path):
    write_table(tmp_path / "set [1]", [picture()], [0])
    assert len(data.load("cifar100", tmp_path / "set [1]", cache_dir=tmp_path / "cache").train) == 1


def test_cifar10_in_parquet_is_told_from_cifar100(tmp_path):
    write_table(tmp_path, [picture()], [0], label="label")
    with pytest.raises(
        ValueError,
        match="no column 'fine_label', found img, label; these are the columns of cifar10: give --dataset cifar10",
    ):
        data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache")
    write_table(tmp_path / "fine", [picture()], [0])
    with pytest.raises(ValueError, match="these are the columns of cifar100: give --dataset cifar100"):
        data.load("cifar10", tmp_path / "fine", cache_dir=tmp_path / "cache")


def test_parquet_of_another_set_is_not_read(tmp_path):
    write_table(tmp_path, [picture()], [0], img="image", label="label")
    with pytest.raises(ValueError, match=r"no column '\w+', found image, label; only CIFAR is read from parquet"):
        data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("value", [7, [[[0.5] * 3] * 8] * 8, [[[9] * 8] * 8] * 3])
def test_column_without_image_files_is_named(value, tmp_path):
    """Numbers, floats, and arrays with the channels first."""
    from datasets import Dataset

    for split in ("train", "test"):
        table = Dataset.from_dict({"img": [value], "fine_label": [0]})
        table.to_parquet(str(tmp_path / f"{split}-0.parquet"))
    with pytest.raises(
        ValueError, match=r"^train split of cifar100: column 'img' must hold the bytes of image files \("
    ):
        data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache")


def test_columns_that_only_some_files_have_are_named(tmp_path):
    import pyarrow
    from pyarrow import parquet

    write_parquet(tmp_path, "train", [picture()], [0])
    table = parquet.read_table(tmp_path / "train-00000-of-00001.parquet")
    table = table.append_column("coarse_label", pyarrow.array([0]))
    parquet.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"some of its files have columns that others lack: coarse_label$"):
        data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache")


def test_image_that_a_table_lacks_is_named(tmp_path):
    from datasets import Dataset, Features, Image, Value

    features = Features({"img": Image(), "fine_label": Value("int64")})
    for split in ("train", "test"):
        table = Dataset.from_dict({"img": [picture(), None], "fine_label": [0, 1]}, features=features)
        table.to_parquet(str(tmp_path / f"{split}-0.parquet"))
    with pytest.raises(ValueError, match="cannot read the image"):
        data.load("cifar100", tmp_path, cache_dir=tmp_path / "cache")


def test_classes_of_a_table_keep_their_names(tmp_path):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    for split in ("train", "test"):
        write_parquet(tmp_path / "named", split, [picture()] * 2, [3, 9], classes=names, label="label")
        write_parquet(tmp_path / "bare", split, [picture()] * 2, [3, 9], label="label")
    named, bare = (data.load("cifar10", tmp_path / kind, cache_dir=tmp_path / "cache") for kind in ("named", "bare"))
    assert named.classes == names
    assert bare.classes == [str(c) for c in range(10)]
    assert named.train.targets.tolist() == bare.train.targets.tolist() == [3, 9]


def test_tables_of_a_split_are_read_in_the_order_of_their_names(tmp_path, monkeypatch):
    """Not in that of the disk, which differs between copies."""
    names = [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    for name in (*names, "test-00000-of-00001.parquet"):
        (tmp_path / name).touch()
    on_disk = sources.glob.glob
    monkeypatch.setattr(sources.glob, "glob", lambda pattern: sorted(on_disk(pattern), reverse=True))
    found = sources.find("cifar10", tmp_path)
    assert [Path(file).name for file in found.files["train"]] == names


def test_parquet_of_all_modes(tmp_path):
    modes = [picture(mode) for mode in ("RGB", "L", "RGBA", "P", "1")]
    write_table(tmp_path / "set", modes, [0, 1, 2, 98, 99])
    images = data.load("cifar100", tmp_path / "set", cache_dir=tmp_path / "cache")
    assert images.train.images.shape == (5, 3, 8, 8)
    assert images.train.targets.tolist() == [0, 1, 2, 98, 99]
    assert len(images.classes) == 100
    assert torch.equal(images.train.images[0], torch.from_numpy(np.array(modes[0])).permute(2, 0, 1))


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
    with pytest.raises(ValueError, match="test has classes that train does not have: b"):
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
    write_table(tmp_path / "copy", [picture()], [0], label="label")
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
    # or each request would take 23 seconds to fail
    assert datasets.config.HF_HUB_OFFLINE and huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([picture(), picture()], ["a", "b"], "column 'label' must hold class numbers only"),
        ([picture(), picture()], [0, None], "column 'label' must hold class numbers only"),
        ([picture(), picture()], [[0, 1], [1, 0]], "column 'label' must hold class numbers only"),
    ],
)
def test_labels_that_are_no_numbers(tmp_path, images, labels, message):
    write_table(tmp_path / "set", images, labels, label="label")
    with pytest.raises(ValueError, match=message):
        data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")


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
    told = "4 names that begin with a dot and 1 file without an image's suffix and 1 image outside the class folders"
    assert after.notes == (f"left out of {root}: {told}",)


@pytest.mark.parametrize("split", ["train", "test"])
def test_class_without_an_image_is_named_with_its_split(tmp_path, split):
    root = small_folder(tmp_path / "set")
    for file in (root / split / "bee").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=f"no image for class bee in {split}/: add some, or remove its folder$"):
        loaded(root)
    (root / split / "bee" / "IMG_1.HEIC").touch()
    unread = rf"\(left out of {split}/bee: 1 file without an image's suffix\)"
    with pytest.raises(ValueError, match=f"add some, or remove its folder {unread}$"):
        loaded(root)


@pytest.mark.parametrize("room", [1e9, 0])
def test_copies_of_training_images_are_counted(tmp_path, room):
    root = small_folder(tmp_path / "set")
    assert loaded(root, room).notes == ()
    copied = sorted((root / "train" / "bee").iterdir())[0]
    shutil.copy(copied, root / "test" / "ant" / f"again{copied.suffix}")
    assert loaded(root, room).notes == (f"{root}: images of test/ that are copies of training images: 1",)


@pytest.mark.parametrize("room", [1e9, 0])
def test_folder_of_validation_images_is_watched(tmp_path, room):
    root = small_folder(tmp_path / "set")
    without = loaded(root, room)
    assert without.val is None
    write_images(root / "val" / "bee", ["0.png", "1.png", "2.png"])
    images = loaded(root, room)
    assert images.notes == (
        f"{root}: val/ has no image of 1 of 2 classes, such as ant",
        f"{root}: val/ is scored after each epoch, in place of a part of train/ (--val-size)",
    )
    train, val = data.held_out(images, val_size=0.5, folds=None, fold=None, seed=0)
    assert (len(train), len(val)) == (8, 3)
    assert val.targets[val.index].tolist() == [1, 1, 1]
    assert images.fingerprint == without.fingerprint
    assert images.content_fingerprint != without.content_fingerprint
    with pytest.raises(ValueError, match="--folds divides train/, but there is a folder val/, too"):
        data.held_out(images, val_size=None, folds=4, fold=0, seed=0)
    (root / "val" / "cat").mkdir()
    write_images(root / "val" / "cat" / "below", ["0.png"])
    with pytest.raises(ValueError, match="val has classes that train does not have: cat"):
        loaded(root, room)


@pytest.mark.parametrize("room", [1e9, 0])
def test_test_images_alone_are_numbered_as_a_network_knows_them(tmp_path, room):
    root = small_folder(tmp_path / "set")
    whole = loaded(root)
    (root / "train").rename(tmp_path / "away")
    with pytest.raises(ValueError, match="no train images"):
        loaded(root)
    images = data.load("folder", root, None, tmp_path / "cache", room, known_classes=["bee", "cat", "ant"])
    assert images.to("cpu").train is None
    assert (images.classes, images.image_size) == (["bee", "cat", "ant"], 8)
    assert images.test.targets.tolist() == [2, 2, 0, 0]
    (pixels, i), *_ = images.test.read([torch.arange(4)])
    assert torch.equal(pixels[i], whole.test.images)
    again = data.load("folder", root, None, tmp_path / "cache", room, known_classes=["ant", "bee"])  # another network
    assert again.test.targets.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="test has classes that the network does not have: bee"):
        data.load("folder", root, None, tmp_path / "cache", room, known_classes=["ant", "cat"])
