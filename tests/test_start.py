"""Weights that a run starts from, and a hub that cannot be reached."""

import shutil
import sys
import time
import types

import pytest
import torch

import hub
import runfolder
from flags import parse_args
from models import build
from tests import processes
from tests.refusals import refusal
from tests.runs import SMALL, assert_same, built, die_after_saves, result_of, run, saved_state
from tests.test_flags import refused

# ------------------------------------------------------------------------------------------ weights to start with, the hub


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
        (["--set", "resnet.depth=8", *start], "give --set resnet.width=4"),
        ([*SMALL, "--init-from", "nowhere"], "nowhere: no such run, model folder or checkpoint"),
    ):
        assert message in refusal(capsys, run, *command(*flags, "--name", "other"))
        assert not (tmp_path / "runs" / "other").exists()


def test_other_classes_get_a_new_head(command, photos, published_weights, tmp_path, capsys):
    run(*command(*SMALL, "--name", "first"))
    fewer = tmp_path / "fewer"
    shutil.copytree(photos, fewer)
    for split in ("train", "test"):
        shutil.rmtree(fewer / split / "class3")
    first = tmp_path / "runs" / "first"
    run(*command(*SMALL, "--init-from", str(first), "--freeze", "backbone", "--data-dir", str(fewer)))
    assert "with a new head, as the classes differ" in capsys.readouterr().out
    (before, _), (after, head) = backbone_and_head(first), backbone_and_head(tmp_path / "runs" / "run")
    assert_same(before, after)
    assert head["fc.weight"].shape == (3, 16)

    model, result = hub.load(tmp_path / "runs" / "run"), result_of(tmp_path / "runs" / "run")
    made = built(*command(*SMALL, "--init-from", str(first), "--data-dir", str(fewer), "--name", "other"))
    assert made.images.mean != pytest.approx(model.mean)
    assert (model.mean, model.std) == (hub.load(first).mean, hub.load(first).std)  # of the pixels that its weights know
    assert made.batches.mean.flatten().tolist() == pytest.approx(model.mean)
    capsys.readouterr()
    run(*command("--data-dir", str(fewer), "--eval-only", str(tmp_path / "runs" / "run")))
    assert f"loss {result['loss']:.4f}" in capsys.readouterr().out


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


def test_model_folder_that_cannot_be_written_loses_nothing(command, monkeypatch, tmp_path, capsys):
    def full(*args):
        raise OSError("No space left on device")

    flags = command(*SMALL, "--max-steps", "1")
    with monkeypatch.context() as patch:
        patch.setattr("hub.save", full)
        said = refusal(capsys, run, *flags, code=1)
    assert said == "train.py: No space left on device; the last checkpoint is kept\n"
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
