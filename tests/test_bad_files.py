"""Data, weights and results that are damaged, missing or half written."""

import os
import pickle
import re
import shutil
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch

import cache
import checkpoints
import data
import engine
import flags
import hub
from tests import processes
from tests.runs import SMALL, result_of, run
from tests.test_data import picture, write_parquet
from tests.test_faults import killed
from tests.test_hub import saved

# --------------------------------------------------------------------------------------------------------------- data


def decode_slowly(flags):
    decode_all = cache.decode_all

    def slow(splits):
        time.sleep(6)
        return decode_all(splits)

    cache.decode_all = slow
    run(*flags)


def test_decoding_may_take_longer_than_the_processes_wait_for_each_other(command, tmp_path):
    processes.run(decode_slowly, 2, command(*SMALL, "--timeout-s", "3", "--max-steps", "2"))
    assert result_of(tmp_path / "runs" / "run")["world_size"] == 2


def decode_in_the_first_process_only(flags):
    decode_all = cache.decode_all

    def watched(splits):
        assert os.environ["RANK"] == "0"
        return decode_all(splits)

    cache.decode_all = watched
    run(*flags)


def test_mistake_in_the_data_is_told_once_by_several_processes(command, photos, tmp_path, capfd):
    shutil.copytree(photos, tmp_path / "photos")
    for name in ("train/class0/0.png", "test/class3/1.png"):
        (tmp_path / "photos" / name).write_bytes(b"not an image")
    with pytest.raises(Exception, match="exit code 2"):
        processes.run(decode_in_the_first_process_only, 2, command("--data-dir", str(tmp_path / "photos")))
    (told,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("train.py")]  # torch may warn
    assert re.fullmatch(r"train.py: 2 images cannot be used: .*/0.png: .*; .*/1.png: .*", told)


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_split(tmp_path, split):
    for name in ("train", "test"):
        write_parquet(tmp_path / "set", name, [picture()] * (name != split), [0] * (name != split), label="label")
    with pytest.raises(ValueError, match=f"^cannot read cifar10 from {re.escape(str(tmp_path))}/set: "):
        data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")


def test_flipped_byte_in_an_image_is_no_crash(tmp_path):
    """PNG data is checksummed, and PIL raises where torchvision's decoder may end the process."""
    import io

    buffer = io.BytesIO()
    picture(size=(32, 32)).save(buffer, "png")
    content = bytearray(buffer.getvalue())
    content[content.index(b"IDAT") + 30] ^= 0xFF
    write_parquet(tmp_path / "set", "train", [picture(size=(32, 32)), bytes(content)], [0, 1], label="label")
    write_parquet(tmp_path / "set", "test", [picture(size=(32, 32))], [0], label="label")
    with pytest.raises(ValueError, match="train split, row 1: cannot read the image"):
        data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")


def stream_until_an_image_is_gone(folder, flags):
    """A streamed run whose images are damaged after its first step."""
    data.room = lambda device: 0
    step = engine.train_step

    def damaging(state, *args):
        step(state, *args)
        for image in (folder / "train").rglob("*.png"):
            image.write_bytes(b"not an image")

    engine.train_step = damaging
    run(*flags)


def test_image_that_turns_bad_ends_a_streamed_run_in_one_line(command, photos, tmp_path, capfd):
    shutil.copytree(photos, tmp_path / "photos")
    flags = command(*SMALL, "--data-dir", str(tmp_path / "photos"), "--epochs", "9")
    with pytest.raises(Exception, match="exit code 1"):
        processes.run(stream_until_an_image_is_gone, 1, tmp_path / "photos", flags)
    err = capfd.readouterr().err
    assert re.fullmatch(
        r"train.py: 20 images cannot be used: .*/train/class\d/\d+.png: .*; and 10 more; the last checkpoint is kept\n",
        err,
    )


def test_image_that_one_process_meets_is_told_by_that_one(monkeypatch, capsys):
    """Numbers that fail are the same in all processes, and the first one speaks."""
    monkeypatch.setenv("RANK", "1")
    for error, told in ((data.UnfitImageError("train split, row 3"), 1), (FloatingPointError("loss"), 0)):
        with pytest.raises(SystemExit), flags.failures_reported():
            raise error
        assert capsys.readouterr().err.count("\n") == told


def test_full_gpu_is_told_in_one_line(capsys):
    with pytest.raises(SystemExit) as exit, flags.failures_reported():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")
    assert exit.value.code == 1
    assert capsys.readouterr().err == (
        "train.py: CUDA out of memory. Tried to allocate 2 GiB: give fewer seeds at a time, --accumulate 2 or more, or --graph off, or lower --batch-size; the last checkpoint is kept\n"
    )


# ---------------------------------------------------------------------------------------------------------- hub files


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    """In place of a network's weights, or of a checkpoint."""
    monkeypatch.chdir(tmp_path)
    folder = saved(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    torch.save({"weights": Payload()}, "bad.pt")
    for load, path, kind in ((hub.load, folder, "model folder"), (checkpoints.load_checkpoint, "bad.pt", "checkpoint")):
        with pytest.raises(ValueError, match=f"not a readable {kind}"):
            load(path)
    assert not os.path.exists("executed")


# -------------------------------------------------------------------------------------------------------- run folders


@pytest.mark.parametrize("held_out", ["0.1", "0"])
def test_result_is_written_whole_or_not_at_all(command, tmp_path, held_out):
    """Killed before its result, a run is not taken for a finished one."""
    flags = command(*SMALL, "--epochs", "1", "--val-size", held_out)
    killed(die_before_result, 1, flags)
    folder = tmp_path / "runs" / "run"
    assert not (folder / "result.json").exists()
    run(*flags)
    assert result_of(folder)["status"] == "finished"
    assert zipfile.is_zipfile(folder / "last.pt")


def die_before_result(flags):
    checkpoints.write_atomically_before = checkpoints.write_atomically

    def die_at_result(path, *args, **kwargs):
        if Path(path).name == "result.json":
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.write_atomically_before(path, *args, **kwargs)

    checkpoints.write_atomically = die_at_result
    run(*flags)
