"""speed.py: speeds measured side by side, and what a network costs by itself."""

import json
import os
from types import SimpleNamespace

import pytest
import torch

import machine
import speed
from cost import cost
from speed import parse_run
from tests.refusals import refusal

TINY = ("resnet", {"resnet.depth": 8, "resnet.width": 4})
HOW = (4, "off", False)  # batch size, amp, compiled


def test_speeds_are_measured_for_each_run():
    runs = [("resnet", {"resnet.depth": 8}), ("eca_resnet", {"resnet.depth": 8})]
    rows = speed.measure(runs, 5, 16, *HOW, rounds=2, n_calls=1)
    assert [(row["arch"], row["settings"], row["image_size"]) for row in rows] == [(*run, 16) for run in runs]
    assert all(row["train_imgs_per_s"] > 0 < row["eval_imgs_per_s"] for row in rows)


def test_speeds_are_images_over_the_seconds_of_either_call(monkeypatch):
    """One call of four images in 2 s, which is long enough, and three of eight in 1/8 s each."""
    now = [0.0]

    class Stepper:
        imgs = range(8)  # those of an evaluation

        def __init__(self, *_):
            pass

        def train(self):
            now[0] += 2

        def evaluate(self):
            now[0] += 0.125

    monkeypatch.setattr(speed, "Stepper", Stepper)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    (row,) = speed.measure([TINY], 5, 16, *HOW, rounds=2)
    assert (row["train_imgs_per_s"], row["eval_imgs_per_s"]) == pytest.approx((2, 64))


def test_the_first_round_warms_up(monkeypatch):
    speeds = iter([1.0, 1.0, 10.0, 20.0])
    monkeypatch.setattr(speed, "Stepper", lambda *_: SimpleNamespace(imgs=[0], train=None, evaluate=None))
    monkeypatch.setattr(speed, "imgs_per_s", lambda *_: next(speeds))
    (row,) = speed.measure([TINY], 5, 16, *HOW, rounds=1)
    assert (row["train_imgs_per_s"], row["eval_imgs_per_s"]) == pytest.approx((10, 20))


def test_a_network_is_trained_and_evaluated_in_its_mode_and_precision():
    seen = []
    stepper = speed.Stepper(*TINY, 5, 16, 4, torch.bfloat16, False, 1, True, torch.device("cpu"))
    stepper.net.register_forward_hook(lambda net, imgs, logits: seen.append((net.training, logits.dtype)))
    for call in (stepper.train, stepper.evaluate, stepper.train):
        call()
    assert seen == [(training, torch.bfloat16) for training in (True, False, True)]


def test_a_step_is_cut_as_the_recipe_has_it():
    batches = []
    stepper = speed.Stepper(*TINY, 5, 16, 4, None, False, 2, True, torch.device("cpu"))
    stepper.net.register_forward_hook(lambda net, imgs, logits: batches.append(len(logits)))
    stepper.train()
    assert batches == [2, 2]


@pytest.mark.parametrize(
    ("flags", "captured"),
    [([], True), (["--optimizer", "adamw"], True), (["--graph", "off"], False), (["--optimizer", "nadam"], False)],
)
def test_steps_are_timed_as_the_runs_take_them(flags, captured, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(speed, "write_speeds", lambda file, runs, image_size, how: asked.append(how))
    monkeypatch.setattr(speed, "write_latencies", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["speed.py", "resnet", "--out", str(tmp_path / "cost.json"), *flags])
    speed.main()
    assert [how[-1] for how in asked] == [captured]


def test_flags_of_the_recipe_reach_what_is_measured(monkeypatch):
    asked = []
    for name in ("write_speeds", "write_costs", "write_latencies"):
        monkeypatch.setattr(speed, name, lambda file, *what: asked.append(what))
    recipe = "--batch-size 8 --accumulate 2 --amp bf16 --compile"
    for flags in ("--out cost.json --image-size 48", "--costs costs.json --image-sizes 16 24"):
        monkeypatch.setattr("sys.argv", ["speed.py", "resnet", *flags.split(), *recipe.split()])
        speed.main()
    runs, how = [("resnet", {})], (8, "bf16", True, 2, True)
    assert asked == [(runs, 48, how), ([48], "bf16"), (runs, [16, 24], how), ([16, 24], "bf16")]


def test_speeds_without_a_graph_are_not_those_with_one(monkeypatch):
    assert speed.conditions(8, "off", False, graph=False) == speed.conditions(8, "off", False)  # of a CPU
    monkeypatch.setattr(speed, "the_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(machine, "device_name", lambda device: "a GPU")
    with_graph, without = (speed.conditions(8, "off", False, graph=graph) for graph in (True, False))
    assert without == with_graph | {"graph": "off"}


def test_a_slow_spell_slows_all_networks_alike():
    """Two equal networks, the second slow by chance in a fast round; by its own median it would seem to be slow always."""
    speeds = [[10.0, 10.0], [10.0, 6.0], [5.0, 5.0]]
    first, second = speed.typical(speeds)
    assert first == pytest.approx(second)
    assert speed.typical([[10.0, 20.0], [5.0, 10.0], [20.0, 40.0]]).tolist() == pytest.approx([10, 20])


def test_speeds_measured_otherwise_are_not_used(tmp_path, monkeypatch):
    measured = []

    def measure(runs, n_classes, image_size, *how):
        measured.append(how)
        return [{"arch": a, "settings": s, "image_size": image_size, "train_imgs_per_s": 10.0} for a, s in runs]

    monkeypatch.setattr(speed, "measure", measure)
    file = tmp_path / "out" / "cost.json"
    others = [(8, "off", False), (8, "bf16", False), (8, "bf16", False, 2), (8, "bf16", True), (8, "bf16", False)]
    for how in (HOW, HOW, *others, others[-1]):
        speed.write_speeds(file, [TINY], 32, how)
    assert measured == [HOW, *others]
    monkeypatch.setattr(machine, "device_name", lambda device: "another machine")
    speed.write_speeds(file, [TINY], 32, (8, "bf16", False))
    speed.write_speeds(file, [TINY], 64, (8, "bf16", False))
    monkeypatch.setattr(torch, "__version__", "1.0")
    speed.write_speeds(file, [TINY], 64, (8, "bf16", False))
    assert len(measured) == 9


def test_new_networks_are_measured_beside_the_known_ones(tmp_path, monkeypatch):
    """A comparison that is continued with a part of its networks keeps the speeds of all, on whatever machine."""
    rows = [{"image_size": 32, "train_imgs_per_s": 10.0}]
    monkeypatch.setattr(speed, "measure", lambda runs, *_: [rows[0] | {"arch": a, "settings": s} for a, s in runs])
    file, other = tmp_path / "cost.json", ("hornet_resnet", {"hornet.orders": (1, 1, 1)})
    speed.write_speeds(file, [TINY], 32, HOW)
    monkeypatch.setattr(machine, "device_name", lambda device: "another machine")
    speed.write_speeds(file, [other, TINY], 32, HOW)
    speed.write_speeds(file, [("resnet", {}), other], 32, HOW)
    content = json.loads(file.read_text())
    assert content["device"] == "another machine"
    measured = [("resnet", {}), ("hornet_resnet", {"hornet.orders": [1, 1, 1]}), TINY]
    assert [(row["arch"], row["settings"]) for row in content["rows"]] == measured


def test_a_network_that_takes_no_such_images_is_refused_by_the_cost_pass(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["speed.py", "googlenet", "--image-size", "1", "--out", str(tmp_path / "cost.json")]
    )
    assert refusal(capsys, speed.main).startswith("speed.py: ")


def test_flags_of_a_run_leave_its_speed_alone():
    assert parse_run("resnet:resnet.width=8:--freeze=backbone") == ("resnet", {"resnet.width": 8})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["resnet", "--out", "cost.json", "--batchsize", "8"], "unknown flag --batchsize: did you mean --batch-size?"),
        (["nosuch", "--out", "cost.json"], "unknown backbone"),
        (["resnet", "--costs", "costs.json", "--image-size", "16"], "--costs takes --image-sizes"),
        (["resnet", "--out", "cost.json", "--image-sizes", "64"], "--out takes --image-size"),
        (["resnet", "--out", "cost.json", "--costs", "costs.json"], "not allowed with argument --out"),
        (["resnet"], "one of the arguments --out --costs is required"),
        (["--out", "cost.json"], "name the networks first"),
        (["--amp", "off", "resnet", "--out", "cost.json"], "name the networks first"),
        (["resnet", "--out", "cost.json", "eca_resnet"], "unknown flag eca_resnet"),
        (["resnet", "--out", "cost.json", "--arch", "eca_resnet"], "name the networks first"),
    ],
)
def test_mistyped_flag_of_the_cost_pass_is_refused(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["speed.py", *flags])
    assert message in refusal(capsys, speed.main)


def test_costs_of_other_conditions_are_kept_beside(tmp_path, monkeypatch, capsys):
    file = tmp_path / "costs.json"
    monkeypatch.setattr(speed, "cost_row", lambda run, *_: {"arch": run[0], "settings": run[1], "problem": "none"})
    speed.write_costs(file, [TINY], [16], HOW)
    first = file.read_text()
    speed.write_costs(file, [TINY], [16], (8, *HOW[1:]))
    (kept,) = set(tmp_path.glob("*.json")) - {file}
    assert kept.read_text() == first and json.loads(file.read_text())["batch_size"] == 8
    file.write_text("{")
    monkeypatch.setattr("sys.argv", ["speed.py", "resnet", "--costs", str(file)])
    assert refusal(capsys, speed.main) == f"speed.py: {file} is damaged: delete it\n"


def test_costs_of_networks_alone(tmp_path, capsys):
    """A second call measures what is missing, and what cannot be measured has a row that says why."""
    file = tmp_path / "costs.json"
    speed.write_costs(file, [TINY], [16], HOW)
    before = json.loads(file.read_text())["rows"]
    speed.write(file, json.loads(file.read_text()) | {"latency": {"trained": "here"}}, before)
    speed.write_costs(file, [TINY, ("gmlp_resnet", {"gmlp.ratio": 0})], [16], HOW)
    content = json.loads(file.read_text())
    row, unfit = content["rows"]
    assert [row] == before
    assert (row["params"], row["macs"]) == cost(*TINY[:1], 100, TINY[1], 16)
    assert row["train_step_ms"] == pytest.approx(4000 / row["train_imgs_per_s"])
    assert row["train_tflops"] == pytest.approx(6 * row["macs"] * row["train_imgs_per_s"] / 1e12)
    assert row["peak_memory_mb"] > 0
    assert unfit.keys() == {"arch", "settings", "image_size", "problem"}
    assert "resnet at 16x16: " in capsys.readouterr().out
    assert content["batch_size"] == 4
    assert content["latency"] == {"trained": "here"}  # by which other sizes' latencies are known to be comparable


def be_killed(*args):
    os._exit(9)


def test_network_that_needs_too_much_memory_has_a_row(monkeypatch):
    monkeypatch.setattr(speed, "measure_alone", be_killed)
    row = speed.cost_row(TINY, 100, 16, *HOW)
    assert "terminated abruptly" in row["problem"]
