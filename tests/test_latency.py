"""latency.py: the wait for one image, measured in turns, as trained and as exported."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import engine
import export
import hub
import latency
import machine
import speed

CPU = torch.device("cpu")
TINY = ("resnet", {"resnet.depth": 8, "resnet.width": 4})
TRAINED = {"latency_ms", "latency_p95_ms"}
EXPORTED = {"exported_latency_ms", "exported_latency_p95_ms"}


class Clock:
    """A clock on which calls take the milliseconds that they are given, one after the other."""

    def __init__(self):
        self.now_s, self.order = 0.0, []

    def __call__(self):
        return self.now_s

    def network(self, name, times_ms):
        times_ms = iter(times_ms)

        def call():
            self.order.append(name)
            self.now_s += next(times_ms) / 1000

        return call


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses that were asked for, and not made."""
    asked = []
    monkeypatch.setattr(latency.time, "sleep", asked.append)
    return asked


def test_networks_take_turns():
    clock = Clock()
    calls = [clock.network(name, [1] * 9) for name in "abc"]
    latency.in_turns(calls, rounds=2, at_most=2, clock=clock)
    assert "".join(clock.order) == 3 * "aaabbbccc"  # the first round warms up, and so does the first call of each turn


def test_twenty_rounds_of_ten_calls_follow_the_one_that_warms_up():
    clock = Clock()
    latency.in_turns([clock.network("a", [1] * 999)], clock=clock)
    assert len(clock.order) == 21 * 11


def test_a_pause_comes_before_each_turn(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency.time, "sleep", lambda seconds: clock.order.append(f" {seconds} "))
    latency.in_turns([clock.network(name, [1] * 9) for name in "ab"], rounds=1, at_most=1, clock=clock)
    assert "".join(clock.order) == 2 * " 0.1 aa 0.1 bb"


def test_median_and_percentile_are_over_all_rounds():
    """Of 1, 2, 3, 4, 7 and 107 ms the 95th percentile lies three quarters of the way from the fifth to the sixth."""
    clock = Clock()
    first = clock.network("first", [900, 50, 60, 70, 800, 2, 1, 107, 800, 7, 4, 3])
    second = clock.network("second", [10] * 12)
    found = latency.in_turns([first, second], rounds=2, at_most=3, clock=clock)
    assert found[0] == pytest.approx((3.5, 82))
    assert found[1] == pytest.approx((10, 10))


def test_a_turn_of_a_slow_network_has_fewer_calls():
    clock = Clock()
    assert latency.turn(clock.network("slow", [5, 200, 201, 9]), 10, clock).tolist() == pytest.approx([0.2, 0.201])


@pytest.fixture
def few_calls(monkeypatch):
    in_turns = latency.in_turns
    monkeypatch.setattr(latency, "in_turns", lambda calls: in_turns(calls, rounds=1, at_most=1))


def test_latencies_are_measured_as_trained_and_as_exported(few_calls, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    rows = latency.measure([TINY, ("linear", {})], 5, 32, None, CPU)
    assert [row.keys() for row in rows] == [TRAINED | EXPORTED] * 2
    assert all(
        0 < row[f"{kind}latency_ms"] <= row[f"{kind}latency_p95_ms"] for row in rows for kind in ("", "exported_")
    )
    assert capsys.readouterr().out == ""
    assert latency.places(CPU)["exported"].startswith("ONNX Runtime ")


def test_without_onnx_a_line_says_what_to_install(few_calls, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)  # the first that is looked for
    (row,) = latency.measure([TINY], 5, 16, None, CPU)
    assert row.keys() == TRAINED
    line = "exported networks are not timed without onnx: pip install -r requirements-export.txt\n"
    assert capsys.readouterr().out == line
    assert latency.places(CPU)["exported"] is None


def test_network_that_cannot_be_exported_is_timed_as_trained(few_calls, capsys, monkeypatch):
    def trace(model):
        raise RuntimeError("no such operator\nand a long story")

    monkeypatch.setattr(export, "missing_package", lambda: None)
    monkeypatch.setattr(export, "trace", trace)
    (row,) = latency.measure([TINY], 5, 16, None, CPU)
    assert row.keys() == TRAINED
    line = "resnet cannot be exported with a dynamic batch (no such operator): not timed as exported\n"
    assert capsys.readouterr().out == line


def test_exported_network_answers_one_image():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = hub.Classifier(TINY[0], list("abcde"), TINY[1], 16, [128.0] * 3, [64.0] * 3).eval()
    assert latency.as_exported(model)().shape == (1, 5)


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_network_runs_as_it_is_evaluated(amp, monkeypatch):
    seen, autocast = [], engine.autocast
    monkeypatch.setattr(engine, "autocast", lambda *how: seen.append(how) or autocast(*how))

    class Probe(nn.Module):
        def forward(self, x):
            seen.append(
                (x.shape, x.is_contiguous(memory_format=torch.channels_last), self.training, torch.is_grad_enabled())
            )

    latency.as_trained(Probe(), 8, amp, CPU)()
    assert seen == [(CPU, amp), ((1, 3, 8, 8), True, False, False)]


def test_places_name_the_device_and_its_threads(monkeypatch):
    monkeypatch.setattr(
        machine, "device_name", lambda device: {"cpu": "a CPU, 3 threads", "cuda": "a GPU"}[device.type]
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="1.99"))
    monkeypatch.setattr(export, "missing_package", lambda: None)
    exported = "ONNX Runtime 1.99 on a CPU, 3 threads"
    assert latency.places(CPU) == {"trained": "PyTorch on a CPU, 3 threads", "exported": exported}
    on_gpu = {"trained": "PyTorch on a GPU, launched from a CPU, 3 threads", "exported": exported}
    assert latency.places(torch.device("cuda")) == on_gpu


# -------------------------------------------------------------------------------------------------------- in the file


@pytest.fixture
def measured(monkeypatch):
    """What was measured, by a stand-in that needs 1 ms more at each call; it runs at home, where nothing is exported."""
    calls, places = [], {"trained": "home", "exported": None}

    def measure(runs, num_classes, image_size, amp, device):
        calls.append(([arch for arch, _ in runs], image_size))
        return [{"latency_ms": len(calls), "latency_p95_ms": 2 * len(calls)} for _ in runs]

    monkeypatch.setattr(latency, "measure", measure)
    monkeypatch.setattr(latency, "places", lambda device: dict(places))
    return SimpleNamespace(calls=calls, places=places)


def written(tmp_path, *rows):
    file = tmp_path / "costs.json"
    rows = [{"arch": arch, "settings": {}, "image_size": size, "params": 7} | other for arch, size, other in rows]
    speed.write(file, {"device": "a CPU"}, rows)
    return file


def latencies(file):
    return [row.get("latency_ms") for row in json.loads(file.read_text())["rows"]]


def test_networks_of_a_size_are_measured_together_and_once(tmp_path, measured):
    file = written(tmp_path, ("resnet", 32, {}), ("resnet", 64, {}), ("lenet", 64, {"problem": "no"}), ("vit", 32, {}))
    for _ in range(2):
        speed.write_latencies(file, [32, 64], "off")
    assert measured.calls == [(["resnet", "vit"], 32), (["resnet"], 64)]
    assert latencies(file) == [1, 2, None, 1]
    content = json.loads(file.read_text())
    assert (content["device"], content["latency"]) == ("a CPU", {"trained": "home", "exported": None})
    assert content["rows"][3] == {"arch": "vit", "settings": {}, "image_size": 32, "params": 7} | {
        "latency_ms": 1, "latency_p95_ms": 2,
    }  # fmt: skip


def test_latencies_are_measured_in_the_precision_of_the_runs(tmp_path, measured, monkeypatch):
    seen = []
    monkeypatch.setattr(latency, "measure", lambda runs, *how: seen.append(how) or [{"latency_ms": 1.0}])
    speed.write_latencies(written(tmp_path, ("resnet", 32, {})), [32], "bf16")
    assert seen == [(speed.N_CLASSES, 32, torch.bfloat16, CPU)]


def test_a_new_network_takes_turns_with_the_known_ones(tmp_path, measured):
    known = {"latency_ms": 50, "latency_p95_ms": 60}
    file = written(tmp_path, ("resnet", 32, known), ("vit", 32, {}))
    speed.write_latencies(file, [32], "off")
    assert measured.calls == [(["resnet", "vit"], 32)]
    assert latencies(file) == [1, 1]


def test_latencies_of_another_place_are_dropped(tmp_path, measured):
    file = written(tmp_path, ("resnet", 32, {}), ("resnet", 64, {}))
    speed.write_latencies(file, [32, 64], "off")
    measured.places["exported"] = "now there is one"
    speed.write_latencies(file, [32], "off")
    assert latencies(file) == [3, None]


def test_cost_passes_measure_latencies_too(tmp_path, measured, monkeypatch):
    row = {"arch": "resnet", "settings": {}, "train_imgs_per_s": 5.0, "eval_imgs_per_s": 9.0, "train_step_ms": 1.0}
    monkeypatch.setattr(speed, "measure", lambda runs, n_classes, image_size, *how: [row | {"image_size": image_size}])
    monkeypatch.setattr(speed, "cost_row", lambda run, n_classes, image_size, *how: row | {"image_size": image_size})
    for flags in (["--out", "cost.json", "--image-size", "48"], ["--costs", "costs.json", "--image-sizes", "16", "24"]):
        file = tmp_path / flags[1]
        monkeypatch.setattr("sys.argv", ["speed.py", "resnet", flags[0], str(file), *flags[2:]])
        speed.main()
        assert None not in latencies(file)
    assert measured.calls == [(["resnet"], 48), (["resnet"], 16), (["resnet"], 24)]
