"""The flags of train.py: what they refuse, and that each is read."""

import re
import subprocess
import sys
import time

import pytest

import optimizers
import sources
from flags import DATASETS, OPTIMIZERS, SCHEDULES, parse_args
from tests import processes
from tests.processes import ROOT
from tests.refusals import refusal
from tests.runs import run

# -------------------------------------------------------------------------------------------------------------- flags


def test_every_flag_is_read():
    body = "".join((ROOT / file).read_text() for file in ("train.py", "training.py", "processes.py", "runfolder.py"))
    for name in vars(parse_args([])):
        assert re.search(rf"\bargs\.{name}\b", body), f"--{name.replace('_', '-')} is declared and read nowhere"


def test_choices_are_those_of_the_code():
    """train.py names them again, so that a mistyped flag is refused before torch is imported."""
    assert set(DATASETS) == {*sources.HUB_SETS, "folder", "shapes100"}
    assert set(optimizers.OPTIMIZERS) == set(OPTIMIZERS)
    for name in SCHEDULES:
        assert max(optimizers.make_schedule(name, 0.1, 2, 10)) <= 0.1


@pytest.mark.parametrize(
    ("optimizer", "lr", "weight_decay"),
    [
        ("sgd", 0.4, 5e-4),
        ("adamw", 1e-3, 0.05),
        ("adam", 1e-3, 0),
        ("nadam", 1e-3, 0),
        ("adagrad", 1e-2, 0),
        ("adafactor", 1e-3, 0),
    ],
)
def test_every_optimizer_has_its_own_defaults(optimizer, lr, weight_decay):
    args = parse_args(["--optimizer", optimizer])
    assert (args.lr, args.weight_decay) == (lr, weight_decay)
    args = parse_args(["--optimizer", optimizer, "--lr", "0.7", "--weight-decay", "0"])
    assert (args.lr, args.weight_decay) == (0.7, 0)


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
        (["--max-minutes", "inf"], "--max-minutes must be less than 2**32, got inf"),
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
        (["eca_resnet"], "unknown flag eca_resnet: did you mean --arch eca_resnet?"),
        (["--set", "eca.kernel_size=5", "resnet.width=8"], "did you mean --set resnet.width=8?"),
        (["torchvision:resnet18"], "did you mean --arch torchvision:resnet18?"),
        (["--lr", "0.1", "0.2"], "unknown flag 0.2: train.py --help lists all"),
        (["--set", "eca.kernel_size", "5"], "--set takes KNOB=VALUE, such as eca.kernel_size=5, got 'eca.kernel_size'"),
        (["--data", "x"], "unknown flag --data: give --data-dir"),
        (["--num_workers", "8"], "unknown flag --num_workers: leave it out"),
        (["--batch", "64"], "unknown flag --batch: did you mean --batch-size?"),
        ([""], "unknown flag : train.py --help lists all"),
        (["--wd", "1e-4"], "unknown flag --wd: train.py --help lists all"),
        (["--predict", "a.jpg", "b.jpg"], "--predict takes one image or one folder, got b.jpg as well"),
        (["--seed", "0,1"], "expected whole numbers with spaces between them, got '0,1'"),
        (["--val-size", "1"], "--val-size is a fraction below 1, or a whole number of images, 2 or more, got 1"),
        (["--val-size", "1.5"], "--val-size is a fraction below 1, or a whole number of images, 2 or more, got 1.5"),
        (["--crop-padding", "4", "--crop-scale", "0.5"], "--crop-padding 4 would have no effect"),
        (["--class-weights", "balanced", "--balanced-sampling"], "both balance the classes: give one of them"),
        (["--schedule", "inverse_sqrt", "--warmup-frac", "0"], "give --warmup-frac more than 0"),
        (["--eval-only", "run", "--init-from", "other"], "--init-from has no effect with --eval-only"),
        (["--eval-only", "run", "--predict", "a.png", "--init-from", "b"], "--predict has no effect with --eval-only"),
        (["--eval-only", "run", "--folds", "5", "--fold", "0"], "--folds has no effect with --eval-only"),
        (["--predict", "a.png", "--init-from", "run", "--check"], "--check has no effect with --predict"),
        (
            ["--predict", "a.png", "--init-from", "run", "--image-size", "64"],
            "--image-size has no effect with --predict",
        ),
        (["--predict", "a.png"], "--predict needs --init-from"),
        (["--model", "resnet"], "unknown flag --model: give --arch"),
        (["--eca.kernel_size=5"], "did you mean --set eca.kernel_size=5?"),
        (["--out", __file__], "is a file: give a folder"),
        (["--json"], "--json has no effect without --predict"),
        (["--push-to-hub", "nets"], "--push-to-hub takes USER/NAME, got 'nets'"),
    ],
)
def test_wrong_flag_is_refused_in_one_line(flags, message, capsys):
    assert message in refusal(capsys, parse_args, flags)


def test_an_older_python_is_refused_in_one_line():
    code = "import sys; sys.version_info = (3, 10); import flags"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "Python 3.11 or newer is needed: make the virtual environment with it\n"


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
    assert f"{flag.split()[0]} must be " in refusal(capsys, parse_args, flag.split())


def test_of_both_archives_the_default_set_is_taken(tmp_path):
    for name, dataset in (("cifar-10-batches-py", "cifar10"), ("cifar-100-python", "cifar100")):
        (tmp_path / name).mkdir()
        assert parse_args(["--data-dir", str(tmp_path)]).dataset == dataset


def test_home_is_meant_by_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    args = parse_args(["--out=~/runs", "--cache-dir=~/cache", "--data-dir", "~/images", "--init-from=~/runs/a"])
    assert (args.out, args.cache_dir) == ("/home/ada/runs", "/home/ada/cache")
    assert (args.data_dir, args.init_from) == ("/home/ada/images", "/home/ada/runs/a")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arch", "nosuch_resnet"], "unknown method 'nosuch'"),
        (["--arch", "eca_resnet", "--set", "eca.kernel_size=4"], "eca.kernel_size must be odd"),
        (["--set", "eca.kernel_size=3"], "resnet has no such knob"),
        (["--batch-size", "1000"], "do not fill a batch of 1000"),
        (["--init-from", ""], "--init-from is empty: is a variable unset?"),
        (["--eval-only", ""], "--eval-only is empty"),
        (["--val-size", "1000"], "leaves no image to train on, or none to hold out"),
        (["--folds", "97", "--fold", "0"], "--folds 97 leaves folds without an image"),
        (["--data-dir", "nowhere"], "--data-dir nowhere: no such folder"),
        (["--image-size", "16", "--dataset", "shapes100"], "drawn at 32x32"),
        (
            ["--arch", "hornet_resnet", "--set", "hornet.gate=gf", "--image-size", "30"],
            "choose an image size that every",
        ),
        (["--crop-padding", "16"], "--crop-padding 16 does not fit images of 16 pixels"),
        (["--lr", "1e-9", "--schedule", "polynomial"], "lr_end"),
        (["--sync-bn"], "--sync-bn works on GPUs only"),
        (["--momentum", "0.8", "--optimizer", "adagrad"], "--momentum 0.8 would have no effect: adagrad has none"),
        (["--warmup-frac", "0.2", "--schedule", "constant"], "--warmup-frac 0.2 would have no effect"),
        (["--predict", "nowhere", "--init-from", "nowhere"], "no such run, model folder or checkpoint"),
        (["--eval-only", "nowhere"], "no such run, model folder or checkpoint"),
    ],
)
def test_mistake_is_refused_in_one_line_and_nothing_is_written(flags, message, command, capsys, tmp_path):
    assert message in refusal(capsys, run, *command(*flags))
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
