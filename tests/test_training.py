"""What a run makes of its flags and leaves in its folder, and when a folder is that of another run."""

import itertools
import json
import math
import os
import pickle
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import checkpoints
import engine
import hub
import log
import machine
import runfolder
import training
from augment import Augment
from cost import cost
from flags import NOT_IN_CONFIG, parse_args
from models import settable
from optimizers import make_schedule
from rows import problem_of
from tests import processes
from tests.refusals import refusal
from tests.runs import SMALL, assert_same, built, result_of, run, saved_state

TEN_EPOCHS = {"schedule": "cosine", "max_steps": 0, "epochs": 10}

# ------------------------------------------------------------------------------------------------- what flags ask for


def test_flags_of_the_recipe_reach_the_step(command, monkeypatch):
    """In two epochs of four steps each."""
    recipe = "--label-smoothing 0.1 --clip-norm 0.7 --accumulate 5 --ema-decay 0.95"
    optimizer = "--lr 0.4 --momentum 0.8 --weight-decay 0.03 --schedule linear --warmup-frac 0.25"
    augment = "--crop-padding 3 --no-flip --cutout 2 --mixup 0.2 --cutmix 0.6"
    made = built(*command(*SMALL, *f"{recipe} {optimizer} {augment} --amp bf16 --compile".split()))
    assert made.step.recipe == (0.1, 0.7, 5, None)
    assert made.state.ema_decay == 0.95
    assert made.state.net.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert made.state.amp is torch.bfloat16 and isinstance(made.step.model, torch._dynamo.OptimizedModule)
    scored = []
    monkeypatch.setattr(engine, "start_evaluation", lambda *args: scored.append(args[-1]))
    next(made.score(made.val))
    assert scored == [torch.bfloat16]
    decayed, kept = made.state.optimizer.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.03, 0)
    assert decayed["momentum"] == kept["momentum"] == 0.8
    assert made.state.rates == make_schedule("linear", 0.4, 2, 8)
    assert made.batches.augment == Augment(crop_padding=3, flip=False, cutout=2, mixup=0.2, cutmix=0.6)


def test_full_precision_is_full_in_convolutions(command, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    built(*command(*SMALL, "--amp", "off"))
    assert not torch.backends.cudnn.allow_tf32


def test_scale_of_crops_reaches_the_batches(command):
    assert built(*command(*SMALL, "--crop-scale", "0.5")).batches.augment == Augment(crop_scale=0.5)


# --------------------------------------------------------------------------------------------------- what a run leaves


def test_a_run_leaves_everything(command, tmp_path, capsys):
    run(*command("--arch", "eca_resnet", "--set", "eca.kernel_size=5", "--log-every", "3"))
    out = capsys.readouterr().out
    assert len(re.findall(r"^epoch .* val top-1 .* img/s", out, re.M)) == 2
    folder = tmp_path / "runs" / "run"
    result = result_of(folder)
    assert problem_of(result) is None
    assert set(vars(parse_args([]))) - {*NOT_IN_CONFIG} <= set(result)
    assert (result["arch"], result["settings"]) == ("eca_resnet", {"eca.kernel_size": 5})
    assert (result["params"], result["macs"]) == cost("eca_resnet", 4, {"eca.kernel_size": 5}, 16)
    published = json.loads((folder / "model" / "config.json").read_text())["settings"]
    assert published.keys() == settable("eca_resnet").keys() and published["eca.kernel_size"] == 5
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
    assert sum(4 * 20 / row["train_imgs_per_s"] for row in result["curve"]) == pytest.approx(result["train_s"])
    assert events.Scalars("test/top1")[-1].value == pytest.approx(result["top1"])
    assert {"_hparams_/experiment", "_hparams_/session_end_info"} <= set(events.summary_metadata)

    # the published model gives the published number, in both forms
    for path in (folder, folder / "model", folder / "last.pt"):
        run(*command("--eval-only", str(path)))
        assert f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %" in capsys.readouterr().out
    assert hub.load(folder).classes == [f"class{c}" for c in range(4)]

    card = (folder / "model" / "README.md").read_text()
    assert f"| {result['top1']:.2f} | {result['top5']:.2f} | {result['loss']:.4f} | {result['ece']:.2f} |" in card
    assert "| settings | {'eca.kernel_size': 5} |" in card
    assert card.count("import hub") == 1


def test_the_time_left_is_told(command, capsys, monkeypatch):
    """The clock moves on by a second whenever it is read: four steps take four, the wait for the last one two. As much is left."""
    clock = itertools.count()
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    run(*command(*SMALL))
    (took, left), (_, at_the_end) = re.findall(r"img/s  (\d+) s, 0:00:(\d+) left", capsys.readouterr().out)
    assert (int(took), int(left), int(at_the_end)) == (6, 6, 0)


def test_other_data_is_another_run(command, photos, tmp_path, capsys):
    run(*command(*SMALL, "--max-steps", "1"))
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    (other / "train" / "class0" / "1.png").unlink()
    said = refusal(capsys, run, *command(*SMALL, "--max-steps", "1", "--data-dir", str(other)))
    assert re.search(r"holds another run \(fingerprint of the images \w+ there, \w+ here", said)


@pytest.mark.parametrize("split", ["train", "test"])
def test_other_labels_are_another_run(command, photos, tmp_path, capsys, split):
    """The images are the same, and so are their numbers: two classes have changed their names."""
    mine = tmp_path / "mine"
    shutil.copytree(photos, mine)
    run(*command(*SMALL, "--max-steps", "1", "--data-dir", str(mine)))
    first, second, aside = (mine / split / name for name in ("class0", "class1", "aside"))
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    said = refusal(capsys, run, *command(*SMALL, "--max-steps", "1", "--data-dir", str(mine)))
    assert re.search(r"holds another run \(fingerprint of labels and pixels \w+ there, \w+ here\)", said)


def test_constant_schedule_goes_on_for_more_epochs(command, tmp_path, capsys):
    """And ends as the run that had them from the start."""
    flags = command(*SMALL, "--schedule", "constant", "--warmup-frac", "0.1", "--lr", "0.01")
    processes.run(run, 1, *flags, "--epochs", "2")
    processes.run(run, 1, *flags, "--epochs", "4")
    processes.run(run, 1, *flags, "--epochs", "4", "--name", "whole")
    runs = tmp_path / "runs"
    assert_same(saved_state(runs / "whole"), saved_state(runs / "run"))
    assert len(result_of(runs / "run")["curve"]) == result_of(runs / "run")["epochs"] == 4
    assert "holds another run (epochs 4 there, 3 here)" in refusal(capsys, run, *flags, "--epochs", "3")


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ({}, {"content": "0123456789abcdef"}),  # from before there was a second fingerprint
        ({}, {"pretrained": False, "init_from": None, "freeze": None}),  # from before these flags
        ({"data": "4f32f603"}, {"data": "90fde761"}),  # the hub's CIFAR-100, when its "cra" was not yet read as "crab"
    ],
)
def test_older_runs_are_still_the_same(there, here, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(TEN_EPOCHS | there))
    assert runfolder.look_at_folder(tmp_path, TEN_EPOCHS | here)[0] == TEN_EPOCHS | there


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        ({}, {"freeze": "backbone"}, "freeze None there, backbone here"),
        ({"lr": 0.2}, {"lr": 0.4}, r"lr 0.2 there, 0.4 here\): give --lr 0.2 to go on with it"),  # of another default
        # of another kind of machine, as --amp auto depends on it
        ({"amp": "bfloat16"}, {"amp": "off"}, r"amp bfloat16 there, off here\): give --amp bf16 to go on with it$"),
        ({"amp": "float16"}, {"amp": "off"}, r"amp float16 there, off here\): give --amp fp16 to go on with it$"),
        ({"amp": "off"}, {"amp": "bfloat16"}, r"amp off there, bfloat16 here\): give --amp off to go on with it$"),
        ({"amp": "off", "lr": 0.2}, {"amp": "bfloat16", "lr": 0.4}, r"amp off .* here\): give another --name, "),
        ({}, {"epochs": 20}, r"epochs 10 there, 20 here\): to train further from it, give --init-from .* --name NEW$"),
        ({}, {"epochs": 5}, r"epochs 10 there, 5 here\): give another --name, "),
    ],
)
def test_another_run_is_told_how_to_go_on(there, here, message, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(TEN_EPOCHS | there))
    with pytest.raises(ValueError, match=rf"holds another run \({message}"):
        runfolder.look_at_folder(tmp_path, TEN_EPOCHS | here)


def test_an_unfinished_run_is_not_one_to_train_further_from(tmp_path):
    checkpoints.save_checkpoint(tmp_path / "last.pt", {"run": TEN_EPOCHS})
    with pytest.raises(ValueError, match=r"epochs 10 there, 20 here\): give another --name, or delete that folder$"):
        runfolder.look_at_folder(tmp_path, TEN_EPOCHS | {"epochs": 20})


def test_knobs_of_several_numbers_are_those_of_the_row(tmp_path):
    images = SimpleNamespace(fingerprint="a", content_fingerprint="b")
    args = parse_args(["--arch", "hornet_resnet"])
    args.settings = {"hornet.orders": (1, 2, 3)}
    config = runfolder.run_config(args, None, images)
    (tmp_path / "result.json").write_text(json.dumps(config))
    assert runfolder.look_at_folder(tmp_path, config)[0] == config


def test_only_changed_code_is_dirty(tmp_path, monkeypatch):
    def git(*command):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path), *command], check=True)

    monkeypatch.setattr(runfolder, "__file__", str(tmp_path / "runfolder.py"))
    assert runfolder.commit() is None
    git("init", "-q")
    for file in ("train.py", "results/a/cost.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # a checkout of somebody else
    (tmp_path / "results/a/cost.json").write_text("2")
    assert re.fullmatch("[0-9a-f]{40}", runfolder.commit())
    (tmp_path / "train.py").write_text("2")
    assert re.fullmatch("[0-9a-f]{40}-dirty", runfolder.commit())
    monkeypatch.setattr(runfolder, "__file__", str(tmp_path / "results" / "runfolder.py"))  # in a larger repository
    assert re.fullmatch("[0-9a-f]{40}-dirty", runfolder.commit())


def test_a_row_names_the_code_that_trained_it(command, tmp_path, monkeypatch):
    def train_epoch(*args):
        monkeypatch.setattr(runfolder, "commit", lambda: "edited since")
        return trains(*args)

    trains = engine.train_epoch
    monkeypatch.setattr(runfolder, "commit", lambda: "as it was imported")
    monkeypatch.setattr(engine, "train_epoch", train_epoch)
    run(*command("--max-steps", "1"))
    assert result_of(tmp_path / "runs" / "run")["commit"] == "as it was imported"


def test_a_row_names_all_commits_and_machines_that_trained_it(command, tmp_path, monkeypatch):
    """One commit begins a run, another resumes it twice, on another machine."""
    flags = command("--epochs", "3", "--schedule", "constant")
    for epochs, commit in (("1", "a1-dirty"), ("2", "b2"), ("3", "b2")):
        monkeypatch.setattr(runfolder, "commit", lambda commit=commit: commit)
        monkeypatch.setattr(machine, "device_name", lambda _, commit=commit: f"machine of {commit}")
        run(*flags, "--epochs", epochs)
    result = result_of(tmp_path / "runs" / "run")
    assert (result["commit"], result["device"]) == ("a1-dirty and b2", "machine of a1-dirty and machine of b2")
    assert result["torch"] == torch.__version__


def test_run_that_was_asked_for_more_epochs_is_not_taken_for_one_of_fewer(tmp_path):
    """Ten epochs finished, thirty begun: twenty would keep weights that have seen more."""
    config = {"schedule": "constant", "max_steps": 0}
    (tmp_path / "result.json").write_text(json.dumps(config | {"epochs": 10}))
    checkpoints.save_checkpoint(tmp_path / "last.pt", {"run": config | {"epochs": 30}})
    with pytest.raises(ValueError, match=r"holds another run \(epochs 30 there, 20 here"):
        runfolder.look_at_folder(tmp_path, config | {"epochs": 20})
    assert runfolder.look_at_folder(tmp_path, config | {"epochs": 40})[1]["run"]["epochs"] == 30


@pytest.mark.parametrize(
    ("schedule", "max_steps", "epochs", "longer"),
    [("constant", 0, 9, True), ("constant", 0, 7, False), ("constant", 30, 9, False), ("cosine", 0, 9, False)],
)
def test_only_a_constant_schedule_without_a_last_step_can_be_made_longer(schedule, max_steps, epochs, longer):
    config = {"schedule": schedule, "max_steps": max_steps, "epochs": epochs}
    assert runfolder.is_longer(config, config | {"epochs": 7}) == longer


def test_finished_run_is_left_alone_and_another_is_refused(command, tmp_path, capsys):
    run(*command(*SMALL))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs" / "run").rglob("*")}
    capsys.readouterr()
    run(*command(*SMALL))
    assert "is finished" in capsys.readouterr().out
    for flag, value in (("lr", "0.3"), ("arch", "eca_resnet")):  # test_resume.py has all of them
        said = refusal(capsys, run, *command(*SMALL, f"--{flag}", value))
        assert re.search(rf"holds another run \({flag} .* there, {value}.* here\): .*give (another )?--", said)
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "runs" / "run").rglob("*")}


@pytest.fixture
def scores(monkeypatch):
    """The top-1 of each scoring, in their order, as is each speed."""
    start, given = training.start_scoring, iter([45.0, 30.0, 40.0, 35.0])

    def scored(*args):
        scores, top1 = start(*args), next(given)
        return lambda: scores() | {"top1": top1, "imgs_per_s": 100 * top1}

    monkeypatch.setattr(training, "start_scoring", scored)


def test_watching_the_test_set_reports_its_bias(command, tmp_path, scores, capsys):
    run(*command(*SMALL, "--val-size", "0", "--epochs", "4"))
    assert re.findall(r"  (\w+ top-1 \d+)", capsys.readouterr().out) == [f"test top-1 {n}" for n in (45, 30, 40, 35)]
    result = result_of(tmp_path / "runs" / "run")
    assert [row["top1"] for row in result["curve"]] == [45.0, 30.0, 40.0, 35.0]
    assert (result["top1"], result["best_on_test_minus_last"]) == (35.0, 10.0)
    assert (result["n_train"], result["n_val"], result["val_top1"]) == (96, 0, None)


def test_the_last_epoch_is_reported_of_the_validation_part(command, tmp_path, scores):
    run(*command(*SMALL))
    result = result_of(tmp_path / "runs" / "run")
    assert (result["val_top1"], result["top1"], result["best_on_test_minus_last"]) == (30.0, 40.0, None)
    assert [row["eval_imgs_per_s"] for row in (*result["curve"], result)] == [4500, 3000, 4000]


def test_confusion_of_many_classes_is_not_kept(command, tmp_path, monkeypatch):
    monkeypatch.setattr(log, "MOST_CLASSES", 3)
    run(*command(*SMALL, "--max-steps", "1"))
    assert result_of(tmp_path / "runs" / "run")["confusion"] is None


def test_fold_takes_the_place_of_the_validation_part(command, tmp_path, capsys):
    run(*command(*SMALL, "--folds", "5", "--fold", "4", "--max-steps", "2"))
    assert "77 images to train on, 19 for validation, 20 to test, in memory;" in capsys.readouterr().out
    result = result_of(tmp_path / "runs" / "run")
    assert (result["folds"], result["fold"], result["val_size"]) == (5, 4, None)
    assert (result["n_train"], result["n_val"], result["val_top1"]) == (77, 19, result["curve"][-1]["top1"])
    said = refusal(capsys, run, *command(*SMALL, "--folds", "5", "--fold", "3", "--max-steps", "2"))
    assert "holds another run (fold 4 there, 3 here)" in said
    args = parse_args(["--folds", "5", "--fold", "3", "--set", "resnet.width=8"])
    assert runfolder.run_name(args) == "resnet-resnet.width=8-cifar100-fold3of5-seed0"


@pytest.mark.parametrize(
    ("flags", "crop_scale"),
    [(["64"], None), (["65"], 0.08), (["65", "--crop-scale", "0"], None), (["64", "--crop-scale", "0.5"], 0.5),
     *((["65", "--crop-padding", padding], None) for padding in ("8", "4", "0"))],
)  # fmt: skip
def test_crop_depends_on_the_size(command, flags, crop_scale):
    assert built(*command("--image-size", *flags, *SMALL)).config["crop_scale"] == crop_scale


def test_max_steps_ends_the_run_and_its_schedule(command, tmp_path):
    run(*command(*SMALL, "--max-steps", "3"))
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


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoint_round_trip_keeps_the_one_before(tmp_path):
    path = tmp_path / "last.pt"
    for step in (1, 2):
        checkpoints.save_checkpoint(path, {"step": step, "weights": torch.arange(5)})
    assert checkpoints.load_checkpoint(path)["step"] == 2
    assert checkpoints.load_checkpoint(tmp_path / "last.pt.previous")["step"] == 1
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "last.pt.previous"]


def flip_a_byte(content):
    at = content.index(torch.arange(100.0).numpy().tobytes()) + 20
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda c: b"", lambda c: c[: len(c) // 2], flip_a_byte, lambda c: b"some text", pickle.dumps],
    ids=["empty", "truncated", "flipped", "text", "pickle"],
)
def test_damaged_checkpoint_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "last.pt"
    checkpoints.save_checkpoint(path, {"weights": torch.arange(100.0)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"last\.pt is not a readable checkpoint"):
        checkpoints.load_checkpoint(path)


def test_bad_numbers_do_not_take_the_place_of_a_good_checkpoint(command, tmp_path, capsys, monkeypatch):
    loss_of, steps = engine.loss_of, itertools.count(1)
    monkeypatch.setattr(engine, "loss_of", lambda *args: loss_of(*args) + (math.nan if next(steps) == 3 else 0))
    assert "not finite at step 3" in refusal(capsys, run, *command(*SMALL, "--save-every", "1"), code=1)
    assert saved_state(tmp_path / "runs" / "run")["step"] == 2
