"""Runs that are killed, or whose disk is full: checkpoints, and resuming from them."""

import os
import resource
import shutil
import signal
import time
import traceback
from contextlib import contextmanager
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import checkpoints
import engine
import optimizers
from tests import processes
from tests.refusals import refusal
from tests.runs import SMALL, assert_same, die_after_saves, logged, result_of, run, saved_state

ALL_STATE = [*SMALL, "--mixup", "0.2", "--ema-decay", "0.9", "--set", "resnet.drop_path=0.3", "--save-every", "1"]


def killed(function, n, *args):
    """Runs forked processes that are killed on the way."""
    with pytest.raises(Exception, match="SIG"):
        processes.run(function, n, *args)


# -------------------------------------------------------------------------------------------------------- checkpoints


@contextmanager
def never_returning():
    """In a forked child: whatever is raised is printed, and pytest does not go on in it."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(2)


def save_for_ever(path):
    step = 0
    while True:
        checkpoints.save_checkpoint(path, {"step": step, "weights": torch.full((300_000,), float(step))})
        step += 1


def test_kill_while_saving(tmp_path):
    """40 kills at random moments of writing: each time the newest file, or the one before it, is whole."""
    path = tmp_path / "last.pt"
    checkpoints.save_checkpoint(path, {"step": -1, "weights": torch.zeros(1)})
    rng = np.random.default_rng(0)
    for _ in range(40):
        child = os.fork()
        if child == 0:
            with never_returning():
                save_for_ever(path)
        while sum(file.stat().st_size for file in tmp_path.glob("last.pt.previous")) < 1_000_000:
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
            time.sleep(0.001)  # the first child has not saved twice
        time.sleep(rng.uniform(0.005, 0.03))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        there = path if path.exists() else path.with_name("last.pt.previous")
        saved = checkpoints.load_checkpoint(there)
        assert (saved["weights"] == max(0, saved["step"])).all()
    assert saved["step"] >= 0


def fill_the_disk(path):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # writing beyond it fails like a full disk
    with pytest.raises(OSError, match="File too large"):
        checkpoints.save_checkpoint(path, {"weights": torch.zeros(100_000)})


def test_a_full_disk_is_named_by_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.os, "fsync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/last.pt'"):
        checkpoints.write_atomically(tmp_path / "last.pt", b"content")
    assert not list(tmp_path.iterdir())


def test_full_disk_while_saving(tmp_path):
    path = tmp_path / "last.pt"
    checkpoints.save_checkpoint(path, {"step": 1})
    processes.run(fill_the_disk, 1, path)
    assert checkpoints.load_checkpoint(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["last.pt"]


def test_content_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    path, replace, done = tmp_path / "file", os.replace, []
    pending, before = tmp_path / "file.tmp", tmp_path / "file.previous"
    path.write_bytes(b"old")

    def fsync(file):
        is_folder = os.path.samestat(os.fstat(file), tmp_path.stat())
        done.append("names" if is_folder else pending.read_bytes())

    def noted(*names):
        done.append(names)
        replace(*names)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", noted)
    checkpoints.write_atomically(path, b"new", keep=before)
    assert done == [b"new", (path, before), (pending, path), "names"]
    assert (path.read_bytes(), before.read_bytes()) == (b"new", b"old")


def test_full_disk_ends_the_run_in_one_line(command, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_checkpoint", full)
    said = refusal(capsys, run, *command(*SMALL), code=1)
    assert "No space left on device; the last checkpoint is kept" in said


def test_leftovers_of_a_killed_save_are_swept(command, tmp_path):
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "last.pt.tmp").write_bytes(b"half a checkpoint")
    run(*command(*SMALL, "--max-steps", "1"))
    assert not list(folder.glob("*.tmp"))


# ------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(("n_processes", "n_saves"), [(1, 2), (1, 6), (2, 6)])  # (2, 2): a streamed run in test_resume
def test_kill_within_an_epoch(command, tmp_path, n_processes, n_saves):
    """Behind step 2, or step 6: the same weights, optimizer, averages and curve as without the kill, bit for bit."""
    flags = command(*ALL_STATE, "--epochs", "2")
    processes.run(run, n_processes, *flags, "--name", "whole")
    killed(die_after_saves, n_processes, n_saves, [*flags, "--name", "killed"])
    runs = tmp_path / "runs"
    assert saved_state(runs / "killed")["step"] == n_saves
    processes.run(run, n_processes, *flags, "--name", "killed")
    assert_same(saved_state(runs / "whole"), saved_state(runs / "killed"))
    assert logged(runs / "whole") == logged(runs / "killed")


def test_forgetting_a_part_of_the_state_would_show(command, tmp_path):
    """A resumed run that lost any part of its checkpoint does not end as the whole run does."""
    flags, runs = command(*ALL_STATE, "--epochs", "2"), tmp_path / "runs"
    processes.run(run, 1, *flags, "--name", "whole")
    killed(die_after_saves, 1, 6, [*flags, "--name", "killed"])  # within the second epoch
    whole = saved_state(runs / "whole")
    for part in ("optimizer", "ema", "step", "losses", "net", "curve"):
        shutil.copytree(runs / "killed", runs / part)
        processes.run(resume_without, 1, part, [*flags, "--name", part])
        with pytest.raises(AssertionError):
            assert_same(whole, saved_state(runs / part))


def resume_without(part, flags):
    load = engine.TrainState.load_state_dict

    def forget(self, saved):
        load(self, saved | {part: self.state_dict()[part]})

    engine.TrainState.load_state_dict = forget
    run(*flags)


def small_state():
    net = torch.nn.Linear(2, 2)
    optimizer = optimizers.make_optimizer("sgd", net, 0.1, 0.9, 0)
    return engine.TrainState(net, optimizer, optimizers.make_schedule("cosine", 0.1, 0, 10), torch.float16)


def test_scaler_and_count_of_skips_come_back():
    first, second = small_state(), small_state()
    first.scaler.scale(torch.ones(()))
    first.scaler.update(new_scale=512.0)
    first.n_bad += 3
    second.load_state_dict(first.state_dict())
    assert second.scaler.get_scale() == 512.0
    assert second.n_bad == 3


@pytest.mark.parametrize("change", [(1, 2), (2, 1)])
def test_another_number_of_processes(command, tmp_path, change, capfd):
    """On an arch without batch statistics, where the mean of two gradients is the gradient of the whole batch, the run goes on
    as if nothing had changed, to rounding; and it is announced."""
    flags = command(
        "--arch", "convnext_resnet", "--set", "resnet.depth=8", "--amp", "off", "--lr", "0.05", "--mixup", "0.2"
    )
    flags += ["--save-every", "3"]
    processes.run(run, 1, *flags, "--name", "whole")
    killed(die_after_saves, change[0], 1, [*flags, "--name", "changed"])
    processes.run(run, change[1], *flags, "--name", "changed")
    assert f"with {change[1]} processes instead of {change[0]}" in capfd.readouterr().out
    whole, changed = (saved_state(tmp_path / "runs" / name) for name in ("whole", "changed"))
    for name, value in whole["net"].items():
        torch.testing.assert_close(value, changed["net"][name], rtol=1e-4, atol=1e-5)
    assert changed["curve"][0]["train_loss"] == pytest.approx(whole["curve"][0]["train_loss"], rel=1e-4)
    points = (logged(tmp_path / "runs" / name)["train/loss"] for name in ("changed", "whole"))
    for (step, loss), (_, expected) in zip(*points, strict=True):
        assert step == 8 and loss == pytest.approx(expected, rel=1e-4)
    one, other = (result_of(tmp_path / "runs" / name) for name in ("whole", "changed"))
    assert (one["world_size"], other["world_size"]) == (1, change[1])
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert len(list((tmp_path / "runs" / "changed").glob("events*"))) == 2  # one from each start, whatever the number
