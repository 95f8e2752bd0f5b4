"""train.py on real data, and on folders of images."""

import math
import os
import shutil
from types import SimpleNamespace

import pytest

import checkpoints
from flags import parse_args
from predict import score_only
from processes import Processes
from tests.refusals import refusal
from tests.runs import SMALL, result_of, run

# ---------------------------------------------------------------------------------------------------------- real data


@pytest.mark.skipif(
    "CIFAR100_DIR" not in os.environ, reason="CIFAR100_DIR names no folder with CIFAR-100's parquet files"
)
def test_learns_on_real_cifar100(tmp_path):
    flags = ["--data-dir", os.environ["CIFAR100_DIR"], "--out", str(tmp_path), "--name", "run"]
    small = ["--set", "resnet.depth=8", "--set", "resnet.width=8"]
    run(*flags, *small, "--batch-size", "64", "--max-steps", "100")
    result = result_of(tmp_path / "run")
    assert (result["n_train"], result["n_val"], result["n_test"], result["classes"]) == (45_000, 5_000, 10_000, 100)
    assert result["top1"] > 3  # chance is 1
    assert abs(result["top1"] - result["val_top1"]) < 4


# ------------------------------------------------------------------------------------------------- folders of images


BRIEF = [*SMALL, "--max-steps", "2"]


def test_folder_of_images_is_recognized(command, photos, tmp_path):
    assert parse_args(["--data-dir", str(photos)]).dataset == "folder"
    assert parse_args([]).dataset == parse_args(["--data-dir", str(tmp_path)]).dataset == "cifar100"
    assert parse_args(["--data-dir", str(photos), "--dataset", "cifar10"]).dataset == "cifar10"


def test_classes_one_folder_too_deep_are_noticed(command, photos, tmp_path, capsys):
    for split in ("train", "test"):
        shutil.copytree(photos / split, tmp_path / "photos" / split / "images")
    said = refusal(capsys, run, *command("--data-dir", str(tmp_path / "photos")))
    assert "train/ holds one class, images: are the classes one folder deeper?" in said
    assert not (tmp_path / "runs").exists()


def test_validation_folder_is_watched_and_said_so(command, photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(photos / "test", tmp_path / "photos" / "val")
    run(*command("--data-dir", str(tmp_path / "photos"), "--amp", "off", *BRIEF))
    result = result_of(tmp_path / "runs" / "run")
    assert (result["n_train"], result["n_val"], result["n_test"], result["val_size"]) == (96, 20, 20, None)
    assert result["val_top1"] == result["top1"]  # the same images
    out = capsys.readouterr().out
    assert f"{tmp_path}/photos: val/ is scored after each epoch, in place of a part of train/ (--val-size)\n" in out
    assert ", float32; writing " in out


def test_network_is_scored_on_a_folder_of_test_images_alone(command, photos, tmp_path, capsys):
    """Which says neither all classes nor the size of images: the network knows them."""
    run(*command(*BRIEF, "--image-size", "12"))
    trained = str(tmp_path / "runs" / "run")
    for c in range(1, 4):
        shutil.copytree(photos / "test" / f"class{c}", tmp_path / "photos" / "test" / f"class{c}")
    flags = ["--data-dir", str(tmp_path / "photos"), "--cache-dir", str(tmp_path / "cache")]
    assert "for images of 12 pixels" in refusal(capsys, run, "--eval-only", trained, *flags, "--image-size", "16")
    run("--eval-only", trained, *flags)
    per_class = result_of(tmp_path / "runs" / "run")["per_class_top1"][1:]
    assert f"on 15 test images of folder: top-1 {sum(per_class) / 3:.2f} %" in capsys.readouterr().out


def test_an_error_without_words_is_named(capsys):
    def fail():
        raise OSError

    team = Processes(parse_args([]))
    for ask in (team.one_first, team.first_decides):
        assert refusal(capsys, ask, fail) == "train.py: OSError\n"


def test_network_is_not_scored_on_other_classes(capsys):
    args = SimpleNamespace(eval_only="runs/a", dataset="folder")
    model, images = (SimpleNamespace(image_size=32, classes=classes) for classes in (["cat", "dog"], ["dog", "cat"]))
    said = refusal(capsys, score_only, args, None, model, images, None)
    assert "runs/a has other classes than folder" in said


def test_summary_is_of_the_classes_there_are(photos, capsys):
    run("--summary", "--dataset", "folder", "--data-dir", str(photos))
    assert "269,332 parameters" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "seconds"), [(["--max-minutes", "2"], 120), ([], math.inf)])
def test_a_run_is_stopped_after_its_minutes(monkeypatch, flags, seconds):
    told = []

    def stop_signals(max_s):
        told.append(max_s)
        raise SystemExit

    monkeypatch.setattr(checkpoints, "StopSignals", stop_signals)
    with pytest.raises(SystemExit):
        run(*flags)
    assert told == [seconds]
