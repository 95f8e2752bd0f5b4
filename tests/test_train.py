import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import data
import hub
import log
import optimizers
import runfolder
import training
from flags import DATASETS, OPTIMIZERS, SCHEDULES, parse_args
from models import build
from tests import processes
from tests.processes import ROOT
from tests.runs import assert_same, die_after_saves, result_of, run, saved_state
from tests.test_data import picture, write_parquet

# -------------------------------------------------------------------------------------------------------------- flags


def test_every_flag_is_read():
    body = "".join((ROOT / file).read_text() for file in ("train.py", "training.py", "processes.py", "runfolder.py"))
    for name in vars(parse_args([])):
        assert f"args.{name}" in body, f"--{name.replace('_', '-')} is declared and read nowhere"


def test_choices_are_those_of_the_code():
    """train.py names them again, so that a mistyped flag is refused before torch is imported."""
    assert DATASETS == data.DATASETS
    assert set(optimizers.OPTIMIZERS) == set(OPTIMIZERS)
    for name in SCHEDULES:
        assert max(optimizers.make_schedule(name, 0.1, 2, 10)) <= 0.1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nosuch"], "unknown flag --nosuch: "),
        (["--epoch", "3"], "unknown flag --epoch: did you mean --epochs?"),
        (["--lr", "nan"], "--lr must be more than 0, got nan"),
        (["--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
        (["--epochs", "0"], "--epochs must be more than 0"),
        (["--batch-size", "-1"], "--batch-size must be more than 0"),
        (["--val-size", "-0.1"], "--val-size must be 0 or more"),
        (["--warmup-frac", "1.5"], "--warmup-frac must be in [0, 1)"),
        (["--seed", "-1"], "--seed must be 0 or more"),
        (["--seed", "4294967296"], "--seed must be 0 or more"),
        (["--dataset", "imagenet"], "invalid choice: 'imagenet'"),
        (["--amp", "int8"], "invalid choice: 'int8'"),
        (["--set", "eca.kernel_size"], "--set takes KNOB=VALUE"),
        (["--set", "a.b=1", "--set", "a.b=2"], "--set a.b is given twice"),
        (["--image-size", "0"], "--image-size must be more than 0"),
        (["--crop-scale", "1.5"], "--crop-scale must be in [0, 1], got 1.5"),
        (["--folds", "5"], "--folds and --fold go together, such as --folds 5 --fold 0"),
        (["--fold", "0"], "--folds and --fold go together"),
        (["--folds", "1", "--fold", "0"], "--folds must be 2 or more, got 1"),
        (["--folds", "5", "--fold", "5"], "--fold must be in 0..4 with --folds 5, got 5"),
        (["--folds", "5", "--fold", "-1"], "--fold must be in 0..4 with --folds 5, got -1"),
        (["--folds", "5", "--fold", "0", "--val-size", "0.1"], "--val-size 0.1 and --folds exclude each other"),
        (["--pretrained", "--init-from", "run"], "--pretrained and --init-from are two sets of weights"),
        (["--freeze", "backbone"], "--freeze would keep random weights"),
        (["--freeze", "head", "--pretrained"], "invalid choice: 'head'"),
        (["--predict", "a.png"], "--predict needs --init-from"),
        (["--json"], "--json is the form of what --predict prints"),
        (["--push-to-hub", "nets"], "--push-to-hub takes USER/NAME, got 'nets'"),
    ],
)
def test_wrong_flag_is_refused_in_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as exit:
        parse_args(flags)
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "flags",
    [
        "--epochs 1 --batch-size 1 --accumulate 1 --log-every 1 --timeout-s 1 --image-size 1",
        "--val-size 0 --cutout 0 --crop-padding 0 --mixup 0 --cutmix 0 --clip-norm 0 --save-every 0",
        "--warmup-frac 0 --label-smoothing 0 --ema-decay 0 --momentum 0 --weight-decay 0 --crop-scale 0",
        "--warmup-frac 0.99 --label-smoothing 0.99 --ema-decay 0.9999 --momentum 0.99 --crop-scale 1",
        "--folds 2 --fold 0",
        "--folds 2 --fold 1",
        "--seed 0 4294967295",
    ],
)
def test_ends_of_the_ranges_are_allowed(flags):
    parse_args(flags.split())


@pytest.mark.parametrize(
    "flag", ["--label-smoothing 1", "--ema-decay 1", "--momentum 1", "--warmup-frac 1", "--lr inf", "--lr 0"]
)
def test_just_outside_a_range_is_refused(flag, capsys):
    with pytest.raises(SystemExit):
        parse_args(flag.split())
    assert f"{flag.split()[0]} must be " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arch", "nosuch_resnet"], "unknown method 'nosuch'"),
        (["--arch", "eca_resnet", "--set", "eca.kernel_size=4"], "eca.kernel_size must be odd"),
        (["--set", "eca.kernel_size=3"], "resnet has no such knob"),
        (["--batch-size", "1000"], "do not fill one batch"),
        (["--val-size", "1000"], "leaves no image on one side"),
        (["--folds", "97", "--fold", "0"], "--folds 97 leaves folds of no image"),
        (["--data-dir", "nowhere"], "--data-dir nowhere: no such folder"),
        (["--image-size", "16", "--dataset", "shapes100"], "drawn at 32x32"),
        (["--crop-padding", "16"], "--crop-padding 16 does not fit images of 16 pixels"),
        (["--lr", "1e-9", "--schedule", "polynomial"], "lr_end"),
        (["--sync-bn"], "--sync-bn works on GPUs only"),
        (["--predict", "nowhere", "--init-from", "nowhere"], "no such run, model folder or checkpoint"),
        (["--eval-only", "nowhere"], "no such run, model folder or checkpoint"),
    ],
)
def test_mistake_is_refused_in_one_line_and_nothing_is_written(flags, message, command, capsys, tmp_path):
    if "--sync-bn" in flags and torch.cuda.is_available():
        pytest.skip("a GPU has synchronized batch norm")
    with pytest.raises(SystemExit) as exit:
        run(*command(*flags))
    assert exit.value.code == 2
    _, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def refused(flags):
    with pytest.raises(SystemExit) as exit:
        run(*flags)
    assert exit.value.code == 2


@pytest.mark.parametrize("flags", [["--batch-size", "21"], ["--data-dir", "nowhere"], ["--arch", "nosuch"]])
def test_mistake_of_two_processes_is_said_once(flags, command, capfd, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    processes.run(refused, 2, command(*flags))
    err = capfd.readouterr().err
    assert err.count("train.py: ") == 1
    assert err.count("\n") == 1


def test_other_processes_leave_the_message_to_the_first(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(SystemExit):
        parse_args(["--nosuch"])
    assert capsys.readouterr().err == ""


def test_list_and_summary_need_no_data(capsys):
    run("--list")
    assert "hornet  [block]" in capsys.readouterr().out
    run("--arch", "eca_resnet", "--summary", "--set", "resnet.width=8")
    assert "parameters, 10,251,896 MACs" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------- what a run leaves

FIELDS = [
    "arch",
    "settings",
    "dataset",
    "epochs",
    "batch_size",
    "seed",
    "optimizer",
    "lr",
    "weight_decay",
    "schedule",
    "warmup_frac",
    "label_smoothing",
    "classes",
    "n_train",
    "n_val",
    "n_test",
    "world_size",
    "device",
    "amp",
    "compile",
    "torch",
    "commit",
    "started",
    "params",
    "macs",
    "train_imgs_per_s",
    "eval_imgs_per_s",
    "train_s",
    "peak_memory_mb",
    "top1",
    "top5",
    "loss",
    "ece",
    "val_top1",
    "best_on_test_minus_last",
    "per_class_top1",
    "curve",
    "status",
]


def test_a_run_leaves_everything(command, tmp_path, capsys):
    run(*command("--arch", "eca_resnet", "--set", "eca.kernel_size=5", "--log-every", "3"))
    out = capsys.readouterr().out
    assert len(re.findall(r"^epoch .* val top-1 .* img/s", out, re.M)) == 2
    folder = tmp_path / "runs" / "run"
    result = result_of(folder)
    assert set(FIELDS) <= set(result)
    assert (result["arch"], result["settings"]) == ("eca_resnet", {"eca.kernel_size": 5})
    assert (result["n_train"], result["n_val"], result["n_test"], result["classes"]) == (86, 10, 20, 4)
    assert len(result["per_class_top1"]) == 4
    assert result["top1"] == pytest.approx(sum(result["per_class_top1"]) / 4)
    assert [row["epoch"] for row in result["curve"]] == [0, 1]
    assert result["val_top1"] == result["curve"][-1]["top1"]
    assert result["best_on_test_minus_last"] is None
    assert result["status"] == "finished"

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    assert {"train/loss", "train/lr", "train/imgs_per_s", "val/top1", "val/top5", "val/loss", "test/top1",
            "test/top5"} <= set(events.Tags()["scalars"])  # fmt: skip
    assert {"train/first_batch", "test/confusion"} <= set(events.Tags()["images"])
    points, rates = ({event.step: event.value for event in events.Scalars(f"train/{name}")} for name in ("loss", "lr"))
    assert list(points) == [3, 6, 8]
    # each point is the mean of the steps since the one before, each epoch's loss the mean of its four
    total = sum(4 * row["train_loss"] for row in result["curve"])
    assert 3 * points[3] + 3 * points[6] + 2 * points[8] == pytest.approx(total, rel=1e-4)
    assert [row["step"] for row in result["curve"]] == [4, 8]
    assert rates[8] == pytest.approx(result["curve"][-1]["lr"], abs=1e-9)
    assert result["train_imgs_per_s"] * result["train_s"] == pytest.approx(8 * 20)
    assert events.Scalars("test/top1")[-1].value == pytest.approx(result["top1"])
    assert "_hparams_/experiment" in events.summary_metadata

    # the published model gives the published number, in both forms
    for path in (folder, folder / "model", folder / "last.pt"):
        run(*command("--eval-only", str(path)))
        assert f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %" in capsys.readouterr().out
    assert hub.load(folder).classes == [f"class{c}" for c in range(4)]

    card = (folder / "model" / "README.md").read_text()
    assert f"| {result['top1']:.2f} | {result['top5']:.2f} | {result['loss']:.4f} | {result['ece']:.2f} |" in card
    assert "| settings | {'eca.kernel_size': 5} |" in card
    assert card.count("import hub") == 1


def test_other_data_is_another_run(command, photos, tmp_path, capsys):
    run(*command("--max-steps", "1"))
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    (other / "train" / "class0" / "1.png").unlink()
    with pytest.raises(SystemExit):
        run(*command("--max-steps", "1", "--data-dir", str(other)))
    assert re.search(r"holds another run \(data \w+ there, \w+ here", capsys.readouterr().err)


@pytest.mark.parametrize("split", ["train", "test"])
def test_other_labels_are_another_run(command, photos, tmp_path, capsys, split):
    """The images are the same, and so are their numbers: two classes have changed their names."""
    mine = tmp_path / "mine"
    shutil.copytree(photos, mine)
    run(*command("--max-steps", "1", "--data-dir", str(mine)))
    first, second, aside = (mine / split / name for name in ("class0", "class1", "aside"))
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    with pytest.raises(SystemExit):
        run(*command("--max-steps", "1", "--data-dir", str(mine)))
    assert re.search(r"holds another run \(content \w+ there, \w+ here\)", capsys.readouterr().err)


def test_constant_schedule_goes_on_for_more_epochs(command, tmp_path, capsys):
    """And ends as the run that had them from the start."""
    flags = command("--schedule", "constant", "--warmup-frac", "0.1", "--lr", "0.01")
    processes.run(run, 1, *flags, "--epochs", "2")
    processes.run(run, 1, *flags, "--epochs", "4")
    processes.run(run, 1, *flags, "--epochs", "4", "--name", "whole")
    runs = tmp_path / "runs"
    assert_same(saved_state(runs / "whole"), saved_state(runs / "run"))
    assert len(result_of(runs / "run")["curve"]) == result_of(runs / "run")["epochs"] == 4
    with pytest.raises(SystemExit):
        run(*flags, "--epochs", "3")
    assert "holds another run (epochs 4 there, 3 here)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("schedule", "max_steps", "epochs", "longer"),
    [("constant", 0, 9, True), ("constant", 0, 7, False), ("constant", 30, 9, False), ("cosine", 0, 9, False)],
)
def test_only_a_constant_schedule_without_a_last_step_can_be_made_longer(schedule, max_steps, epochs, longer):
    config = {"schedule": schedule, "max_steps": max_steps, "epochs": epochs}
    assert runfolder.is_longer(config, config | {"epochs": 7}) == longer


def test_learning_rate_depends_on_the_optimizer():
    assert parse_args([]).lr == 0.2
    assert parse_args(["--optimizer", "adamw"]).lr == 0.001
    assert parse_args(["--optimizer", "adamw", "--lr", "0.1", "--weight-decay", "0"]).lr == 0.1


def test_finished_run_is_left_alone_and_another_is_refused(command, tmp_path, capsys):
    run(*command())
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs" / "run").rglob("*")}
    capsys.readouterr()
    run(*command())
    assert "is finished" in capsys.readouterr().out
    for flags in (["--epochs", "3"], ["--lr", "0.3"], ["--seed", "1"], ["--arch", "eca_resnet"], ["--val-size", "0"]):
        with pytest.raises(SystemExit) as exit:
            run(*command(*flags))
        assert exit.value.code == 2
        err = capsys.readouterr().err
        name = flags[0].strip("-").replace("-", "_")
        assert re.search(rf"holds another run \({name} .* there, {flags[1]}.* here\): .*give --", err)
        assert err.count("\n") == 1
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "runs" / "run").rglob("*")}


def test_watching_the_test_set_reports_its_bias(command, tmp_path, monkeypatch):
    score, given = training.score, iter([30.0, 45.0, 40.0, 35.0])

    def scored(*args):
        return (yield from score(*args)) | {"top1": next(given)}

    monkeypatch.setattr(training, "score", scored)
    run(*command("--val-size", "0", "--epochs", "4"))
    result = result_of(tmp_path / "runs" / "run")
    assert [row["top1"] for row in result["curve"]] == [30.0, 45.0, 40.0, 35.0]
    assert (result["top1"], result["best_on_test_minus_last"]) == (35.0, 10.0)
    assert (result["n_train"], result["n_val"], result["val_top1"]) == (96, 0, None)


def test_fold_takes_the_place_of_the_validation_part(command, tmp_path, capsys):
    run(*command("--folds", "5", "--fold", "4", "--max-steps", "2"))
    assert "77 images to train on, 19 for validation, 20 to test, in memory;" in capsys.readouterr().out
    result = result_of(tmp_path / "runs" / "run")
    assert (result["folds"], result["fold"], result["val_size"]) == (5, 4, None)
    assert (result["n_train"], result["n_val"], result["val_top1"]) == (77, 19, result["curve"][-1]["top1"])
    with pytest.raises(SystemExit):
        run(*command("--folds", "5", "--fold", "3", "--max-steps", "2"))
    assert "holds another run (fold 4 there, 3 here)" in capsys.readouterr().err
    args = parse_args(["--folds", "5", "--fold", "3", "--set", "resnet.width=8"])
    assert runfolder.run_name(args) == "resnet-resnet.width=8-cifar100-fold3of5-seed0"


@pytest.mark.parametrize(
    ("flags", "crop_scale"),
    [(["64"], None), (["65"], 0.08), (["65", "--crop-scale", "0"], None), (["64", "--crop-scale", "0.5"], 0.5)],
)
def test_crop_depends_on_the_size(command, tmp_path, flags, crop_scale):
    small = ["--set", "resnet.depth=8", "--set", "resnet.width=4", "--max-steps", "1"]
    run(*command("--image-size", *flags, *small))
    assert result_of(tmp_path / "runs" / "run")["crop_scale"] == crop_scale


def test_max_steps_ends_the_run_and_its_schedule(command, tmp_path):
    run(*command("--max-steps", "3"))
    result = result_of(tmp_path / "runs" / "run")
    assert [(row["epoch"], row["step"]) for row in result["curve"]] == [(0, 3)]
    assert result["curve"][-1]["lr"] == pytest.approx(0)


def test_hparams_have_the_same_names_in_every_run(command):
    """The HPARAMS tab takes its columns from the first run it finds."""
    names = []
    for flags in (["--amp", "off"], ["--arch", "eca_resnet", "--set", "eca.kernel_size=5", "--seed", "3"]):
        args = parse_args(command(*flags))
        config = runfolder.run_config(
            args, torch.bfloat16, SimpleNamespace(fingerprint="0123abcd", content_fingerprint="0")
        ) | {"params": 1, "macs": 2}
        experiment, _, _ = log.hparams_summaries(config)
        content = HParamsPluginData.FromString(experiment.value[0].metadata.plugin_data.content)
        names.append([info.name for info in content.experiment.hparam_infos])
    assert names[0] == names[1]
    assert {"arch", "settings", "lr", "seed", "params", "macs"} <= set(names[0])


# -------------------------------------------------------------------------------------------- resume, several processes

ALL_STATE = ["--mixup", "0.2", "--cutmix", "1", "--ema-decay", "0.9", "--set", "resnet.drop_path=0.3", "--cutout", "4"]


@pytest.mark.parametrize("n_processes", [1, 2])
def test_resumed_run_equals_an_uninterrupted_one(command, tmp_path, n_processes):
    flags = command(*ALL_STATE, "--epochs", "3")
    processes.run(run, n_processes, *flags, "--name", "whole")
    with pytest.raises(Exception, match="SIGKILL"):
        processes.run(die_after_saves, n_processes, 1, [*flags, "--name", "killed"])
    runs = tmp_path / "runs"
    assert not (runs / "killed" / "result.json").exists()
    assert len(saved_state(runs / "killed")["curve"]) == 1
    processes.run(run, n_processes, *flags, "--name", "killed")
    assert_same(saved_state(runs / "whole"), saved_state(runs / "killed"))
    whole, resumed = result_of(runs / "whole"), result_of(runs / "killed")
    for name in ("top1", "loss", "ece", "per_class_top1", "val_top1"):
        assert whole[name] == resumed[name]


def test_stopped_behind_the_last_step_of_an_epoch(command, tmp_path, monkeypatch):
    """Before that epoch was scored: the resumed run does it, and no row of the curve is missing."""
    flags = command(*ALL_STATE, "--epochs", "3")
    stop_or_save = training.Run.stop_or_save

    def told_at_step_4(self, at_point):
        self.stop.signal = signal.SIGTERM if self.state.step == 4 else 0
        stop_or_save(self, at_point)

    with monkeypatch.context() as told, pytest.raises(SystemExit):
        told.setattr(training.Run, "stop_or_save", told_at_step_4)
        run(*flags)
    folder = tmp_path / "runs" / "run"
    assert saved_state(folder)["step"] == 4 and not saved_state(folder)["curve"]
    run(*flags)
    run(*flags, "--name", "whole")
    assert_same(saved_state(tmp_path / "runs" / "whole"), saved_state(folder))


def test_damaged_checkpoint_falls_back_to_the_one_before(command, tmp_path, capsys):
    flags = command("--epochs", "3")
    with pytest.raises(Exception, match="SIGKILL"):
        processes.run(die_after_saves, 1, 2, flags)
    folder = tmp_path / "runs" / "run"
    (folder / "last.pt").write_bytes(b"")
    run(*flags)
    out, err = capsys.readouterr()
    assert "last.pt is not a readable checkpoint" in err
    assert "at step 4 of" in out
    processes.run(run, 1, *flags, "--name", "whole")
    assert_same(saved_state(tmp_path / "runs" / "whole"), saved_state(folder))


def test_no_readable_checkpoint_is_no_fresh_start(command, tmp_path, capsys):
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "last.pt").write_bytes(b"damaged")
    with pytest.raises(SystemExit) as exit:
        run(*command())
    assert exit.value.code == 2
    assert "no readable checkpoint" in capsys.readouterr().err
    assert (folder / "last.pt").read_bytes() == b"damaged"


def test_two_processes_reach_the_weights_of_one(command, tmp_path):
    """On an arch without batch statistics, where the mean of two gradients is the gradient of the whole batch."""
    flags = command("--arch", "convnext_resnet", "--amp", "off", "--lr", "0.05", "--mixup", "0.2")
    for n in (1, 2):
        processes.run(run, n, *flags, "--name", f"of{n}")
    one, two = (saved_state(tmp_path / "runs" / f"of{n}")["net"] for n in (1, 2))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)
    results = [result_of(tmp_path / "runs" / f"of{n}") for n in (1, 2)]
    assert [r["world_size"] for r in results] == [1, 2]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-4)
    assert len(list((tmp_path / "runs" / "of2").glob("events*"))) == 1


STREAMED = ["--set", "resnet.depth=8", "--set", "resnet.width=4", "--image-size", "12", "--crop-scale", "0.3"]


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
def test_ways_to_train(command, tmp_path, flags):
    small = ["--set", "resnet.depth=8", "--set", "resnet.width=4", "--max-steps", "2"]
    processes.run(run, 1, *command(*flags, *small))
    assert result_of(tmp_path / "runs" / "run")["status"] == "finished"


def test_cifar10(command, tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / "cifar10", split, [picture(size=(32, 32))] * 30, [*range(10)] * 3, label="label")
    small = ["--set", "resnet.depth=8", "--set", "resnet.width=4", "--max-steps", "1"]
    run(*command("--dataset", "cifar10", "--data-dir", str(tmp_path / "cifar10"), *small))
    result = result_of(tmp_path / "runs" / "run")
    assert (result["classes"], result["n_train"], result["n_val"], result["n_test"]) == (10, 27, 3, 30)


def test_torchrun_as_the_readme_has_it(tmp_path):
    command = ["torchrun", "--standalone", "--nproc_per_node", "2", "train.py", "--arch", "hornet_resnet"]
    flags = ["--dataset", "shapes100", "--set", "resnet.depth=8", "--set", "resnet.width=8", "--max-steps", "4"]
    flags += ["--out", str(tmp_path), "--cache-dir", str(tmp_path / "cache")]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   1/") == 1
    assert done.stderr.count("Traceback") == 0
    result = result_of(next(tmp_path.glob("hornet_resnet*")))
    assert (result["world_size"], result["n_train"], result["n_test"]) == (2, 18_000, 5_000)


# ------------------------------------------------------------------------------------------ weights to start with, the hub

SMALL = ["--set", "resnet.depth=8", "--set", "resnet.width=4"]


@pytest.fixture
def published_weights(monkeypatch):
    """Stands for the published weights of pretrained.py: all ones but for the head. Returns the archs asked for."""
    asked = []

    def load_pretrained(arch, net, image_size):
        asked.append((arch, image_size))
        if arch == "eca_resnet":
            raise ValueError("--pretrained: there are no weights of eca_resnet")
        for name, parameter in net.named_parameters():
            if not name.startswith("fc."):
                torch.nn.init.ones_(parameter)
        return [127.5] * 3, [60.0] * 3  # the statistics of the pixels they were trained on

    head = {"fc.weight", "fc.bias"}
    fake = types.SimpleNamespace(head_names=lambda net: head, load_pretrained=load_pretrained)
    monkeypatch.setitem(sys.modules, "pretrained", fake)
    return asked


def backbone_and_head(folder):
    net = saved_state(folder)["net"]
    return {k: v for k, v in net.items() if not k.startswith("fc.")}, {
        k: v for k, v in net.items() if k.startswith("fc.")
    }


def test_run_starts_from_another_one(command, published_weights, tmp_path, capsys):
    run(*command(*SMALL, "--name", "first"))
    first = tmp_path / "runs" / "first"
    start = ["--init-from", str(first), "--lr", "1e-30", "--weight-decay", "0", "--amp", "off"]
    run(*command(*SMALL, *start))
    assert f"weights of {first}, head included" in capsys.readouterr().out
    a, b = saved_state(first)["net"], saved_state(tmp_path / "runs" / "run")["net"]
    assert all(torch.equal(a[name], b[name]) for name in a if "running" not in name and "num_batches" not in name)
    assert result_of(tmp_path / "runs" / "run")["init_from"] == str(first)
    assert not published_weights

    for flags, message in (
        (["--set", "resnet.depth=8", *start], "give the same --arch and --set"),
        ([*SMALL, "--init-from", "nowhere"], "nowhere: no such run, model folder or checkpoint"),
    ):
        with pytest.raises(SystemExit) as exit:
            run(*command(*flags, "--name", "other"))
        assert exit.value.code == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "runs" / "other").exists()


def test_other_classes_get_a_new_head(command, photos, published_weights, tmp_path, capsys):
    run(*command(*SMALL, "--name", "first"))
    fewer = tmp_path / "fewer"
    shutil.copytree(photos, fewer)
    for split in ("train", "test"):
        shutil.rmtree(fewer / split / "class3")
    first = tmp_path / "runs" / "first"
    run(*command(*SMALL, "--init-from", str(first), "--freeze", "backbone", "--data-dir", str(fewer)))
    assert "but for a new head: other classes" in capsys.readouterr().out
    (before, _), (after, head) = backbone_and_head(first), backbone_and_head(tmp_path / "runs" / "run")
    assert_same(before, after)
    assert head["fc.weight"].shape == (3, 16)


@pytest.mark.parametrize("n_processes", [1, 2])
def test_frozen_backbone_stays_through_a_resumed_run(command, published_weights, tmp_path, n_processes):
    flags = command(
        *SMALL,
        "--pretrained",
        "--freeze",
        "backbone",
        "--epochs",
        "3",
        "--ema-decay",
        "0.9",
        "--set",
        "resnet.drop_path=0.5",
    )
    processes.run(run, n_processes, *flags, "--name", "whole")
    with pytest.raises(Exception, match="SIGKILL"):
        processes.run(die_after_saves, n_processes, 1, [*flags, "--name", "killed"])
    _, head_of_first_epoch = backbone_and_head(tmp_path / "runs" / "killed")
    processes.run(run, n_processes, *flags, "--name", "killed")
    whole, resumed = (saved_state(tmp_path / "runs" / name) for name in ("whole", "killed"))
    assert_same(whole, resumed)
    backbone, head = backbone_and_head(tmp_path / "runs" / "whole")
    fresh = build("resnet", 4, {"resnet.depth": 8, "resnet.width": 4}, 16).state_dict()
    for (
        name,
        value,
    ) in backbone.items():  # weights are the published ones, and the statistics nobody's but the initial ones
        assert torch.equal(value, fresh[name] if name.endswith(("running_mean", "tracked")) else torch.ones_like(value))
    assert not torch.equal(head["fc.weight"], head_of_first_epoch["fc.weight"])
    assert len(whole["optimizer"]["state"]) == 2  # the head's weight and bias
    assert result_of(tmp_path / "runs" / "whole")["freeze"] == "backbone"
    loaded = hub.load(tmp_path / "runs" / "killed")
    assert (loaded.mean, loaded.std) == ([127.5] * 3, [60.0] * 3)


def test_missing_published_weights_are_said_once(command, published_weights, capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    processes.run(refused, 2, command("--arch", "eca_resnet", "--pretrained"))
    assert capfd.readouterr().err == "train.py: --pretrained: there are no weights of eca_resnet\n"
    assert not (tmp_path / "runs").exists()


def test_how_a_run_starts_is_in_its_name():
    args = parse_args(["--pretrained", "--freeze", "backbone"])
    assert runfolder.run_name(args) == "resnet-pretrained-freeze-cifar100-seed0"


def test_run_from_before_a_flag_existed_is_still_the_same_run(command, tmp_path, capsys):
    run(*command(*SMALL, "--max-steps", "1"))
    file = tmp_path / "runs" / "run" / "result.json"
    older = {k: v for k, v in result_of(file.parent).items() if k not in ("pretrained", "init_from", "freeze")}
    file.write_text(json.dumps(older))
    run(*command(*SMALL, "--max-steps", "1"))
    assert "is finished" in capsys.readouterr().out


def test_model_folder_that_cannot_be_written_loses_nothing(command, monkeypatch, tmp_path, capsys):
    def full(*args):
        raise OSError("No space left on device")

    flags = command(*SMALL, "--max-steps", "1")
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit:
        patch.setattr("hub.save", full)
        run(*flags)
    assert exit.value.code == 1
    assert capsys.readouterr().err == "train.py: No space left on device; the last checkpoint is kept\n"
    folder = tmp_path / "runs" / "run"
    assert not (folder / "result.json").exists()
    run(*flags)
    assert hub.load(folder).classes == [f"class{c}" for c in range(4)]


def test_unreachable_hub_loses_nothing(command, monkeypatch, tmp_path, capsys):
    """The run is complete and says so in its exit code; the same command pushes again."""

    def unreachable(*args):
        raise RuntimeError("no\nroute")

    monkeypatch.setattr("hub.push", unreachable)
    flags = command(*SMALL, "--max-steps", "1", "--push-to-hub", "me/nets")
    run(*flags)
    err = capsys.readouterr().err
    assert "the hub did not take" in err
    assert err.count("\n") == 1
    folder = tmp_path / "runs" / "run"
    assert result_of(folder)["status"] == "finished"
    pushed = []
    monkeypatch.setattr("hub.push", lambda *args: pushed.append(args) or "me/nets@run")
    run(*flags)
    assert pushed == [(folder / "model", "me/nets", "run")]
    assert capsys.readouterr().out.endswith("nothing to do\npushed to the hub as me/nets@run\n")


# ----------------------------------------------------------------------------------------------- real data, and a GPU


@pytest.mark.skipif(
    "CIFAR100_DIR" not in os.environ, reason="CIFAR100_DIR names no folder with CIFAR-100's parquet files"
)
def test_learns_on_real_cifar100(tmp_path):
    flags = ["--data-dir", os.environ["CIFAR100_DIR"], "--out", str(tmp_path), "--name", "run"]
    small = ["--set", "resnet.depth=8", "--set", "resnet.width=8"]
    run(*flags, *small, "--batch-size", "64", "--max-steps", "300")
    result = result_of(tmp_path / "run")
    assert (result["n_train"], result["n_val"], result["n_test"], result["classes"]) == (45_000, 5_000, 10_000, 100)
    assert result["top1"] > 5  # chance is 1
    assert abs(result["top1"] - result["val_top1"]) < 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("flags", [["--amp", "bf16"], ["--amp", "fp16"], ["--amp", "off"], ["--compile"]])
def test_ways_to_train_on_a_gpu(command, tmp_path, flags):
    run(*command(*flags))
    result = result_of(tmp_path / "runs" / "run")
    assert result["status"] == "finished"
    assert result["peak_memory_mb"] > 0


# ------------------------------------------------------------------------------------------------- folders of images


BRIEF = ["--set", "resnet.depth=8", "--set", "resnet.width=4", "--max-steps", "2"]


def test_folder_of_images_is_recognized(command, photos, tmp_path):
    assert parse_args(["--data-dir", str(photos)]).dataset == "folder"
    assert parse_args([]).dataset == parse_args(["--data-dir", str(tmp_path)]).dataset == "cifar100"
    assert parse_args(["--data-dir", str(photos), "--dataset", "cifar10"]).dataset == "cifar10"
    for name in ("cifar-10-batches-py", "cifar-100-python"):
        (tmp_path / name / name).mkdir(parents=True)
    assert parse_args(["--data-dir", str(tmp_path / "cifar-10-batches-py")]).dataset == "cifar10"
    assert parse_args(["--data-dir", str(tmp_path / "cifar-100-python")]).dataset == "cifar100"


def test_validation_folder_is_watched_and_said_so(command, photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(photos / "test", tmp_path / "photos" / "val")
    run(*command("--data-dir", str(tmp_path / "photos"), *BRIEF))
    result = result_of(tmp_path / "runs" / "run")
    assert (result["n_train"], result["n_val"], result["n_test"], result["val_size"]) == (96, 20, 20, None)
    assert result["val_top1"] == result["top1"]  # the same images
    assert f"{tmp_path}/photos: val/ is watched in place of a part of train/ (--val-size)\n" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--image-size", "16"]])
def test_network_is_scored_on_a_folder_of_test_images_alone(command, photos, tmp_path, capsys, flags):
    """Which says neither all classes nor the size of images: the network knows them."""
    run(*command(*BRIEF, "--image-size", "12"))
    trained = str(tmp_path / "runs" / "run")
    for c in range(1, 4):
        shutil.copytree(photos / "test" / f"class{c}", tmp_path / "photos" / "test" / f"class{c}")
    flags = ["--data-dir", str(tmp_path / "photos"), "--cache-dir", str(tmp_path / "cache"), *flags]
    if flags[-1] == "16":
        with pytest.raises(SystemExit):
            run("--eval-only", trained, *flags)
        assert "in images of 12 pixels" in capsys.readouterr().err
        return
    run("--eval-only", trained, *flags)
    per_class = result_of(tmp_path / "runs" / "run")["per_class_top1"][1:]
    assert f"on 15 test images of folder: top-1 {sum(per_class) / 3:.2f} %" in capsys.readouterr().out


def test_summary_is_of_the_classes_there_are(photos, capsys):
    run("--summary", "--dataset", "folder", "--data-dir", str(photos))
    assert "269,332 parameters" in capsys.readouterr().out
