"""Runs that go on, in one process or several, and the ways to train."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import zipfile
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import checkpoints
import data
import runfolder
import training
from flags import OPTIMIZERS, parse_args
from tests import processes
from tests.processes import ROOT
from tests.runs import SMALL, assert_same, die_after_saves, result_of, run, saved_state
from tests.test_data import picture, write_table

# -------------------------------------------------------------------------------------------- resume, several processes

ALL_STATE = [*SMALL, "--mixup", "0.2", "--cutmix", "1", "--ema-decay", "0.9"]
ALL_STATE += ["--set", "resnet.drop_path=0.3", "--cutout", "4"]


def test_resumed_run_equals_an_uninterrupted_one(command, tmp_path):
    """In two processes; with one, a damaged checkpoint falls back to this one, see below."""
    flags = command(*ALL_STATE, "--epochs", "3")
    processes.run(run, 2, *flags, "--name", "whole")
    with pytest.raises(Exception, match="SIGKILL"):
        processes.run(die_after_saves, 2, 1, [*flags, "--name", "killed"])
    runs = tmp_path / "runs"
    assert not (runs / "killed" / "result.json").exists()
    assert len(saved_state(runs / "killed")["curve"]) == 1
    processes.run(run, 2, *flags, "--name", "killed")
    assert_same(saved_state(runs / "whole"), saved_state(runs / "killed"))
    whole, resumed = result_of(runs / "whole"), result_of(runs / "killed")
    for name in ("top1", "loss", "ece", "per_class_top1", "val_top1"):
        assert whole[name] == resumed[name]


def run_until(step, flags, monkeypatch):
    """A run that SIGTERM reaches in this step."""
    stop_or_save = training.Run.stop_or_save

    def told(self, at_point):
        self.stop.signal = signal.SIGTERM if self.state.step == step else 0
        stop_or_save(self, at_point)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(training.Run, "stop_or_save", told)
        run(*flags)


def test_stopped_after_the_last_step_of_an_epoch(command, tmp_path, monkeypatch):
    """Before that epoch was scored: the resumed run does it, no row of the curve is missing, and its start is the first one."""
    flags = command(*ALL_STATE, "--epochs", "3")
    with monkeypatch.context() as patch:
        patch.setattr(runfolder, "datetime", Mock(now=lambda zone: datetime(2001, 2, 3, tzinfo=zone)))
        run_until(4, flags, monkeypatch)
    folder = tmp_path / "runs" / "run"
    assert saved_state(folder)["step"] == 4 and not saved_state(folder)["curve"]
    run(*flags)
    run(*flags, "--name", "whole")
    assert_same(saved_state(tmp_path / "runs" / "whole"), saved_state(folder))
    assert result_of(folder)["started"] == "2001-02-03T00:00:00+00:00"


def test_a_point_after_a_resume_is_the_mean_of_its_own_steps(command, tmp_path, monkeypatch):
    """Whatever the interval was before: logged after steps 3 and 6, stopped after 7, and then after step 10 only."""
    flags = command(*SMALL, "--epochs", "3", "--optimizer", "adamw", "--lr", "1e-30")
    run_until(7, [*flags, "--log-every", "3"], monkeypatch)
    run(*flags, "--log-every", "10")
    run(*flags, "--log-every", "1", "--name", "each")
    points = losses_of(tmp_path / "runs" / "run")
    each = losses_of(tmp_path / "runs" / "each")
    assert sorted(points) == [3, 6, 10, 12]
    assert points[10] == pytest.approx(sum(each[step] for step in range(7, 11)) / 4, rel=1e-5)


def losses_of(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {event.step: event.value for event in events.Scalars("train/loss")}


def test_damaged_checkpoint_falls_back_to_the_one_before(command, tmp_path, capsys):
    flags = command(*ALL_STATE, "--epochs", "3")
    with pytest.raises(Exception, match="SIGKILL"):
        processes.run(die_after_saves, 1, 2, flags)
    folder = tmp_path / "runs" / "run"
    (folder / "last.pt").write_bytes(b"")
    run(*flags)
    out, err = capsys.readouterr()
    assert "last.pt is not a readable checkpoint" in err
    assert "at step 4 of" in out
    assert checkpoints.load_checkpoint(folder / "last.pt.previous")["state"]["step"] == 8  # both are kept
    processes.run(run, 1, *flags, "--name", "whole")
    assert_same(saved_state(tmp_path / "runs" / "whole"), saved_state(folder))


def test_checkpoint_that_cannot_be_read_now_is_left_as_it_is(tmp_path, monkeypatch):
    """As on a network disk that fails for a moment, or in another user's folder."""
    last = tmp_path / "last.pt"
    for step in (1, 2):
        checkpoints.save_checkpoint(last, {"step": step})
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", Mock(side_effect=PermissionError(13, "Permission denied")))
        with pytest.raises(checkpoints.UnreadableError, match=r"last.pt cannot be read: .*Permission denied"):
            runfolder.last_checkpoint(tmp_path)
    assert runfolder.last_checkpoint(tmp_path) == {"step": 2}


def test_damaged_checkpoint_does_not_take_the_place_of_the_one_before(tmp_path):
    last = tmp_path / "last.pt"
    for step in (1, 2):
        checkpoints.save_checkpoint(last, {"step": step})
    last.write_bytes(b"damaged")
    assert runfolder.last_checkpoint(tmp_path) == {"step": 1}
    checkpoints.save_checkpoint(last, {"step": 3})
    assert checkpoints.load_checkpoint(tmp_path / "last.pt.previous") == {"step": 1}
    assert (tmp_path / "last.pt.damaged").read_bytes() == b"damaged"


OTHER_RUNS = [
    "--arch eca_resnet", "--set resnet.width=8", "--pretrained", "--init-from a", "--freeze backbone --init-from a",
    "--dataset cifar10", "--image-size 64", "--val-size 0.2", "--folds 5 --fold 1", "--fold 1 --folds 5",
    "--crop-padding 3", "--crop-scale 0.5", "--no-flip", "--cutout 8", "--mixup 0.2", "--cutmix 1", "--epochs 50",
    "--max-steps 9", "--batch-size 64", "--accumulate 2", "--optimizer adamw", "--lr 0.3", "--momentum 0.8",
    "--weight-decay 0", "--schedule linear", "--warmup-frac 0.2", "--label-smoothing 0.1", "--ema-decay 0.9",
    "--clip-norm 1", "--class-weights balanced", "--balanced-sampling", "--seed 1", "--compile", "--sync-bn",
]  # fmt: skip


@pytest.mark.parametrize("flags", OTHER_RUNS)
def test_run_is_not_continued_under_another_value_of_a_flag(flags, tmp_path):
    images = SimpleNamespace(fingerprint="", content_fingerprint="")
    there, here = (runfolder.run_config(parse_args(given), None, images) for given in ([], flags.split()))
    (tmp_path / "result.json").write_text(json.dumps(there))
    flag = re.sub("^--(no-)?", "", flags.split()[0]).replace("-", "_")
    name = "settings" if flag == "set" else flag
    with pytest.raises(ValueError, match=rf"holds another run \((.*; )?{name} .* there, "):
        runfolder.look_at_folder(tmp_path, here)


def test_no_readable_checkpoint_is_no_fresh_start(command, tmp_path, capsys):
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "last.pt").write_bytes(b"damaged")
    with pytest.raises(SystemExit) as exit:
        run(*command())
    assert exit.value.code == 2
    assert "no readable checkpoint" in capsys.readouterr().err
    assert (folder / "last.pt").read_bytes() == b"damaged"


STREAMED = ["--image-size", "12", "--crop-scale", "0.3"]


def test_streamed_run_equals_one_in_memory(command, tmp_path, capsys, monkeypatch):
    flags = command(*ALL_STATE, *STREAMED)
    run(*flags, "--name", "kept")
    monkeypatch.setattr(data, "room", lambda device: 0)
    run(*flags, "--name", "streamed")
    assert re.findall("20 to test, (.*?);", capsys.readouterr().out) == ["in memory", "streamed"]
    runs = tmp_path / "runs"
    assert_same(saved_state(runs / "kept"), saved_state(runs / "streamed"))
    for field in ("top1", "loss", "per_class_top1", "val_top1"):
        assert result_of(runs / "kept")[field] == result_of(runs / "streamed")[field]
    run(*flags, "--eval-only", str(runs / "kept" / "model"))
    assert f"top-1 {result_of(runs / 'kept')['top1']:.2f} %" in capsys.readouterr().out


def die_streamed(flags):
    data.room = lambda device: 0
    die_after_saves(2, flags)


def test_streamed_run_goes_on_in_memory(command, tmp_path):
    """Killed within its first epoch, and with room for it when the same command is given again."""
    flags = command(*ALL_STATE, *STREAMED, "--epochs", "1", "--save-every", "1")
    processes.run(run, 2, *flags, "--name", "whole")
    with pytest.raises(Exception, match="SIGKILL"):
        processes.run(die_streamed, 2, flags)
    processes.run(run, 2, *flags)
    assert_same(saved_state(tmp_path / "runs" / "whole"), saved_state(tmp_path / "runs" / "run"))


OTHER_OPTIMIZERS = [["--optimizer", name] for name in OPTIMIZERS if name != "sgd"]


@pytest.mark.parametrize("flags", [["--amp", "bf16"], ["--amp", "bf16", "--compile"], *OTHER_OPTIMIZERS])
def test_ways_to_train(command, tmp_path, monkeypatch, flags):
    eager = partial(torch.compile, backend="eager")  # inductor builds C++ for half a minute
    monkeypatch.setattr(torch, "compile", eager)
    processes.run(run, 1, *command(*flags, *SMALL, "--max-steps", "2"))
    assert result_of(tmp_path / "runs" / "run")["status"] == "finished"


def test_cifar10(command, tmp_path):
    write_table(tmp_path / "cifar10", [picture(size=(32, 32))] * 30, [*range(10)] * 3, label="label")
    run(*command("--dataset", "cifar10", "--data-dir", str(tmp_path / "cifar10"), *SMALL, "--max-steps", "1"))
    result = result_of(tmp_path / "runs" / "run")
    assert (result["classes"], result["n_train"], result["n_val"], result["n_test"]) == (10, 27, 3, 30)


def test_torchrun_as_the_readme_has_it(photos, tmp_path):
    """With --standalone it finds another port where its default is taken, as it is here."""
    command = ["torchrun", "--standalone", "--nproc_per_node", "2", "train.py", "--arch", "hornet_resnet"]
    flags = ["--data-dir", str(photos), "--set", "resnet.depth=8", "--set", "resnet.width=8", "--max-steps", "4"]
    flags += ["--out", str(tmp_path), "--cache-dir", str(tmp_path / "cache"), "--batch-size", "20"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # another program has taken it
            taken.bind(("127.0.0.1", 29500))
            taken.listen()
        done = subprocess.run([*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   1/") == 1
    assert done.stderr.count("Traceback") == 0
    result = result_of(next(tmp_path.glob("hornet_resnet*")))
    assert (result["world_size"], result["n_train"], result["n_test"]) == (2, 86, 20)
