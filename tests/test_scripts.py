"""compare.sh and ablations.sh, as a user starts them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import checkpoints
import compare
from locks import Lock
from models import METHODS, build, knobs
from settings import HERE
from speed import parse_run
from tests import processes
from tests.processes import ROOT
from tests.refusals import refusal


def environment(settings):
    """The user's, but for what the scripts read of it."""
    names = re.findall(r"\$\{([A-Z]+)-", (ROOT / "compare.sh").read_text() + (ROOT / "ablations.sh").read_text())
    user = {name: value for name, value in os.environ.items() if name not in names}
    return user | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | settings


WITHOUT_TORCH = {"PYTHONPATH": str(ROOT / "tests" / "without")}  # as a plan can be made


def run_script(script, *flags, check=True, **settings):
    if "PLAN" in settings:
        settings = WITHOUT_TORCH | settings
    command = ["bash", script, *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment(settings), capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done


def planned(script, **settings):
    lines = run_script(script, PLAN="1", **settings).stdout.splitlines()
    return [tuple(line.split()) for line in lines[1:-1]]  # between the count and the line for Slurm


def test_comparison_has_every_method_and_the_widening_curve(tmp_path, monkeypatch):
    monkeypatch.setenv("SEEDS", "7")  # the user's own settings are not the test's
    plan = planned("compare.sh", OUT=str(tmp_path))
    assert {seed for _, seed in plan} == {"0", "1", "2"}
    runs = [run for run, seed in plan if seed == "0"]
    others = {"mscan", "lskblock"}  # the whole blocks of two methods that are compared by their attention
    others |= {"multiscale", "se"}  # which are compared with the classics, and with eca in its ablations
    assert {f"{name}_resnet" for name in set(METHODS) - others} < set(runs), "name it in ALL_METHODS of compare.sh"
    assert {f"resnet:resnet.width={width}" for width in (8, 12, 24, 32)} | {"resnet"} < set(runs)
    assert len(runs) == len(set(runs))
    for run in runs:
        build(*with_settings(run))


def with_settings(run):
    arch, settings = parse_run(run)
    return arch, 100, settings


def test_every_ablation_builds_and_changes_something(tmp_path):
    runs = [run for run, _ in planned("ablations.sh", OUT=str(tmp_path), SEEDS="0")]
    assert len(runs) == len(set(runs))
    imgs = torch.randn(2, 3, 32, 32)

    @torch.no_grad()
    def what_it_is(arch, settings):
        torch.manual_seed(0)
        net = build(arch, 100, settings)
        return [len(list(net.parameters())), *net(imgs).flatten().tolist()]

    defaults = {run: what_it_is(run, {}) for run in runs if ":" not in run}
    for run in runs:
        if ":" in run:
            arch, settings = parse_run(run)
            assert what_it_is(arch, settings) != defaults[arch], run
    ablated = {run.split("_")[0] for run in runs if ":" in run}
    assert ablated == {name for name in METHODS if knobs(METHODS[name].make)} - {"se"}, (
        "name its ablations in KNOWN and runs_of of ablations.sh"
    )


def test_ablations_can_be_limited(tmp_path):
    runs = [run for run, _ in planned("ablations.sh", OUT=str(tmp_path), SEEDS="0", METHODS="eca")]
    assert runs[:3] == ["resnet", "eca_resnet", "eca_resnet:eca.kernel_size=1"]
    assert all(run.startswith(("resnet", "eca_resnet", "se_resnet")) for run in runs)
    refused = run_script("ablations.sh", check=False, METHODS="nosuch", OUT=str(tmp_path))
    assert refused.returncode == 2
    assert "no ablations of 'nosuch'; choose from eca" in refused.stderr


@pytest.mark.parametrize(
    ("preset", "some"),
    [
        ("depth", ["plain20", "plain56", "resnet", "resnet56"]),
        ("classics", ["linear", "lenet", "alexnet", "googlenet", "vgg16", "vgg19", "resnet18"]),
        ("vit", ["vit", "vit:--pretrained", "vit:vit.depth=6:vit.width=96"]),
        ("recipe", ["resnet:--lr=0.2", "hornet_resnet:--optimizer=adamw:--lr=2e-3"]),
        ("transfer", ["vit", "vit:--pretrained", "torchvision:resnet18:--pretrained:--freeze=backbone"]),
    ],
)
def test_presets_name_their_runs(tmp_path, preset, some):
    plan = planned("compare.sh", PRESET=preset, OUT=str(tmp_path))
    assert {seed for _, seed in plan} == {"0", "1", "2"}
    runs = [run for run, seed in plan if seed == "0"]
    assert len(runs) == len(set(runs))
    assert set(some) <= set(runs)
    for run in runs:
        parse_run(run)


def test_unknown_preset_is_refused(tmp_path):
    done = run_script("compare.sh", check=False, PRESET="nosuch", OUT=str(tmp_path))
    assert done.returncode == 2
    assert "no list 'nosuch'; choose from methods depth classics vit transfer recipe tuning cost" in done.stderr


@pytest.mark.parametrize("minutes", ["1.5", "0", "08", ""])
def test_ten_minutes_on_a_gpu_are_whole_ones(minutes):
    done = subprocess.run(
        ["bash", "results/gpu.sh"], cwd=ROOT, env=environment({"MINUTES": minutes}), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == f"gpu.sh: MINUTES must be a whole number, 1 or more, got '{minutes}'\n"


def test_with_minutes_a_mistyped_network_is_refused_before_the_others_train(tmp_path):
    done = run_script("compare.sh", check=False, MINUTES="5", ARCHS="ecaa_resnet", OUT=str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("train.py: unknown method 'ecaa' in --arch ecaa_resnet")


@pytest.mark.parametrize(
    ("script", "given", "message"),
    [
        ("compare.sh", {"METHODS": "eca"}, "compare.sh: METHODS is read by ablations.sh: give ARCHS"),
        ("compare.sh", {"PRESET": "depth", "ARCHS": "eca_resnet"}, "compare.sh: ARCHS is not read with PRESET=depth"),
        ("compare.sh", {"PRESET": "cost", "MINUTES": "5"}, "compare.sh: MINUTES is not read with PRESET=cost"),
        ("compare.sh", {"PRESET": "tuning", "WIDTHS": "8"}, "compare.sh: WIDTHS is not read with PRESET=tuning"),
        ("ablations.sh", {"ARCHS": "eca_resnet"}, "ablations.sh: ARCHS is read by compare.sh: give METHODS"),
        ("compare.sh", {"RUNS": "eca"}, "train.py: unknown backbone 'eca'"),
        ("compare.sh", {"RUNS": "resnet", "ARCHS": "eca_resnet"}, "compare.sh: ARCHS is not read with RUNS"),
        ("compare.sh", {"PRESET": "nosuch", "ARCHS": "eca_resnet"}, "compare.sh: PRESET has no list 'nosuch'"),
        (
            "compare.sh",
            {"RUNS": "resnet eca_resnet:kernel_size=5"},
            "train.py: --set kernel_size: eca_resnet has no such",
        ),
        ("compare.sh", {"DATASET": "imagenet"}, "train.py: argument --dataset: invalid choice: 'imagenet'"),
    ],
)
def test_what_could_not_be_trained_is_refused_by_the_plan(script, given, message):
    done = run_script(script, check=False, PLAN="1", OUT="nowhere", PYTHONPATH="", **given)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and done.stderr.startswith(message)


def test_plan_of_a_search_counts_the_runs_of_its_second_part():
    plan = run_script("compare.sh", PRESET="tuning", ARCHS="resnet", PLAN="1", OUT="nowhere", EPOCHS="45").stdout
    assert plan.startswith("7 runs in nowhere, 0 of them finished; cifar100, 45 epochs\n")
    assert "\nand 4 more: the best 2 of each architecture with the other seeds\n" in plan


def test_plan_whose_reader_leaves_ends_quietly():
    command = "PLAN=1 bash ablations.sh | head -n 1"
    settings = environment(WITHOUT_TORCH)
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=settings, capture_output=True, text=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_the_baselines_are_those_of_the_architectures():
    plan = planned("compare.sh", ARCHS="eca_resnet18 se_resnet18 eca_resnet56", SEEDS="0", OUT="nowhere")
    assert [run for run, _ in plan] == ["resnet18", "resnet56", "eca_resnet18", "se_resnet18", "eca_resnet56"]
    widths = planned("compare.sh", ARCHS="eca_resnet18", WIDTHS="48", SEEDS="0", OUT="nowhere")
    assert [run for run, _ in widths] == ["resnet18", "resnet18:resnet.width=48", "eca_resnet18"]
    default = planned("compare.sh", ARCHS="eca_resnet", WIDTHS="8 16", SEEDS="0", OUT="nowhere")
    assert [run for run, _ in default] == ["resnet", "resnet:resnet.width=8", "eca_resnet"]
    others = planned(
        "compare.sh", ARCHS="eca_resnet:eca.kernel_size=5 torchvision:resnet18", WIDTHS="", SEEDS="0", OUT="nowhere"
    )
    assert [run for run, _ in others] == ["resnet", "torchvision:resnet18", "eca_resnet:eca.kernel_size=5"]


def test_misspelt_settings_are_told():
    done = run_script("compare.sh", PLAN="1", RUNS="resnet", SEED="0", DATA_DIR="x", OUT="nowhere")
    assert done.stderr.splitlines() == [
        "compare.sh: SEED is not read: did you mean SEEDS?",
        "compare.sh: DATA_DIR is not read: did you mean --data-dir?",
    ]


def test_misspelt_settings_of_ablations_are_told_as_its_own():
    done = run_script("ablations.sh", PLAN="1", METHODS="eca", METHOD="eca", WIDTH="8", OUT="nowhere")
    assert done.stderr == "ablations.sh: METHOD is not read: did you mean METHODS?\n"


def test_knobs_without_their_default_are_told():
    done = run_script("compare.sh", PLAN="1", RUNS="resnet eca_resnet:resnet.depth=8", OUT="nowhere")
    assert done.stderr.startswith("RUNS lacks the default of eca_resnet: there will be no verdict on what a report")


def test_dataset_is_what_the_folder_holds(photos):
    first, *_ = run_script(
        "compare.sh", "--data-dir", str(photos), PLAN="1", RUNS="resnet", OUT="nowhere"
    ).stdout.splitlines()
    assert first.endswith("; folder, 100 epochs")


@pytest.mark.parametrize(
    ("script", "first"),
    [("compare.sh", "Trains a list of networks"), ("ablations.sh", "Varies the methods' knobs")],
)
def test_scripts_tell_how_they_are_used(script, first):
    assert run_script(script, "--help").stdout.startswith(first)
    other = subprocess.run(["sh", script], cwd=ROOT, env=environment({}), capture_output=True, text=True)
    if other.returncode:  # where sh is not bash
        assert (other.returncode, other.stderr) == (2, f"{script}: start it with bash\n")
    alone = subprocess.run(
        [sys.executable, "compare.py"], cwd=ROOT, env=environment({}), capture_output=True, text=True
    )
    assert (alone.returncode, alone.stderr) == (2, "compare.sh: compare.py is started by compare.sh: bash compare.sh\n")


@pytest.mark.parametrize(
    ("script", "preset"), [("compare.sh", "methods"), ("compare.sh", "cost"), ("ablations.sh", None)]
)
def test_best_belongs_to_a_search(script, preset):
    """With others it would take seeds away from the baselines, which are of one architecture with their widths."""
    settings = {"BEST": "1", "PLAN": "1", "OUT": "nowhere"} | ({"PRESET": preset} if preset else {})
    done = run_script(script, check=False, **settings)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "BEST is not read" in done.stderr


def test_a_mistaken_flag_of_any_run_is_refused_before_the_first():
    done = run_script("compare.sh", check=False, RUNS="resnet eca_resnet:--weigth-decay=1e-4", OUT="nowhere")
    assert done.returncode == 2 and "--weigth-decay" in done.stderr and not done.stdout


def test_empty_settings_are_given():
    assert [run for run, _ in planned("compare.sh", ARCHS="", WIDTHS="", SEEDS="0", OUT="nowhere")] == ["resnet"]
    refused = run_script("compare.sh", check=False, RUNS="", OUT="nowhere")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("script", ["compare.sh", "ablations.sh"])
def test_line_for_slurm_repeats_what_was_given(script, tmp_path):
    settings = {"OUT": str(tmp_path / "a b"), "SEEDS": "0 1", "PLAN": "1"}
    settings |= (
        {"METHODS": "eca", "RECIPE": "--clip-norm 1"} if script == "ablations.sh" else {"RUNS": "resnet", "BEST": "1"}
    )
    line = run_script(script, "--lr", "1", **settings).stdout.splitlines()[-1]
    assert f"SEEDS='0 1' OUT='{tmp_path / 'a b'}' " in line and " sbatch --array=0-" in line
    assert line.endswith(f"--gpus=1 --requeue --signal=B:TERM@90 --open-mode=append {script} --lr 1")
    assert ("METHODS=eca" in line) == ("RECIPE='--clip-norm 1'" in line) == (script == "ablations.sh")
    assert ("BEST=1" in line) == (script == "compare.sh")


@pytest.mark.parametrize(
    ("nproc", "flags", "resources"),
    [
        ("1", [], "--array=0-1 --gpus=1"),
        ("2", [], "--array=0-5 --nodes=1 --gpus=2"),
        ("1", ["--image-size", "224"], "--array=0-5 --gpus=1"),
    ],
)
def test_line_for_slurm_counts_what_a_task_takes(nproc, flags, resources):
    """With one GPU all seeds of a network of small images. Its runs come one after the other, whatever JOBS is here."""
    settings = {
        "RUNS": "resnet eca_resnet",
        "SEEDS": "0 1 2",
        "NPROC": nproc,
        "OUT": "nowhere",
        "PLAN": "1",
        "JOBS": "4",
    }
    line = run_script("compare.sh", *flags, **settings).stdout.splitlines()[-1]
    assert f" sbatch {resources} --requeue " in line and "JOBS" not in line


@pytest.mark.parametrize("script", ["compare.sh", "ablations.sh"])
def test_copy_of_a_script_finds_the_repository(script, tmp_path):
    """Slurm runs a copy in a folder of its own, in the folder in which the user stood."""
    copy = tmp_path / "slurm_script"
    copy.write_text((ROOT / script).read_text())
    settings = environment({"PLAN": "1", "OUT": "nowhere", "SLURM_SUBMIT_DIR": str(ROOT)} | WITHOUT_TORCH)
    done = subprocess.run(["bash", str(copy)], cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    settings["SLURM_SUBMIT_DIR"] = str(tmp_path)
    done = subprocess.run(["bash", str(copy)], cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{script}: {tmp_path} is not the repository") and done.stderr.count("\n") == 1


def test_cost_preset_trains_nothing(tmp_path, monkeypatch, capsys):
    settings = {"PRESET": "cost", "RUNS": "resnet eca_resnet", "SIZES": "16 32", "OUT": "out"}
    plan = run_script("compare.sh", PLAN="1", **settings).stdout.splitlines()
    assert plan == ["costs at 16 32 pixels, in out", "resnet", "eca_resnet"]
    monkeypatch.chdir(tmp_path)
    calls, programs = [], SimpleNamespace(code=0, stopped_by=0)
    programs.run = lambda command: (calls.append(command[1:]), (programs.code, ""))[1]
    monkeypatch.setattr(compare, "Children", lambda: programs)
    compare.costs(settings | {"PLAN": ""}, ["--batch-size", "2"])
    here = HERE
    assert [" ".join(call) for call in calls] == [
        f"{here}/speed.py resnet eca_resnet --costs out/costs.json --image-sizes 16 32 --batch-size 2",
        f"{here}/report.py out/costs.json",
    ]
    lock = Lock(tmp_path / "out" / "costs.json.lock")
    capsys.readouterr()
    said = refusal(capsys, compare.costs, settings | {"PLAN": ""}, [], code=1)
    lock.release()
    assert "another process is writing out/costs.json" in said
    for programs.code, programs.stopped_by, ends_with in ((5, 0, "5"), (-15, signal.SIGINT, "130")):
        with pytest.raises(SystemExit, match=ends_with):
            compare.costs(settings | {"PLAN": ""}, [])
    assert len(calls) == 4 and not list((tmp_path / "out").iterdir())
    (tmp_path / "file").touch()
    said = refusal(capsys, compare.costs, settings | {"PLAN": "", "OUT": "file"}, [], code=1)
    assert "OUT=file cannot be used here" in said


# ------------------------------------------------------------------------------------------------- from start to end


def test_killed_comparison_goes_on_to_the_report_and_trains_nothing_twice(small, tmp_path):
    pytest.importorskip("pptx", reason="requirements-report.txt is not installed")
    settings, (*flags, _, _) = small  # the epochs in full
    flags += ["--save-every-s", "0"]  # after each of them
    out = tmp_path / "out"
    settings |= {"RUNS": "resnet:resnet.depth=8 eca_resnet:resnet.depth=8", "EPOCHS": "12", "SEEDS": "0"}
    done, saved = out / "resnet-resnet.depth=8-seed0/result.json", out / "eca_resnet-resnet.depth=8-seed0/last.pt"

    with processes.program(["bash", "compare.sh", *flags], environment(settings)) as running:
        deadline = time.monotonic() + 300
        while not saved.exists():
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.05)
        processes.signal_session(running.pid, signal.SIGKILL)
        first, _ = running.communicate()
    assert "2 runs in" in first
    assert "0 of them finished" in first
    assert "2 runs left, about" in first
    assert first.count("exported networks are not timed without onnxruntime: pip install") == 1
    assert not saved.with_name("result.json").exists()
    finished_at = done.stat().st_mtime_ns

    again = run_script("compare.sh", *flags, **settings)
    assert "1 of them finished" in again.stdout
    assert "measuring" in first and "measuring" not in again.stdout
    assert done.stat().st_mtime_ns == finished_at
    assert f"resuming {saved.parent} at step" in again.stdout
    results = [json.loads(file.read_text()) for file in out.glob("*/result.json")]
    assert [len(result["curve"]) for result in results] == [12] * 2

    report = (out / "report" / "report.md").read_text()
    assert all(result["arch"] in report for result in results)
    latency = json.loads((out / "cost.json").read_text())["latency"]
    assert latency["trained"].startswith("PyTorch on ") and latency["exported"] is None
    assert (out / "report" / "slides.pptx").exists()


def stub_python(folder, script, gpus=0):
    """A program that stands for python in what compare.py starts, and the settings under which it does."""
    folder.mkdir()
    python = folder / "stub"
    facts = json.dumps({"steps": 1, "batch_size": 1, "n_train": 1, "gpus": gpus, "image_size": 32})
    check = f"for flag; do [ $flag != --check ] || {{ echo '{facts}'; exit; }}; done\n"
    python.write_text(f'#!/bin/bash\nset -- $(basename $1) "${{@:2}}"\n{check}{script}')
    python.chmod(0o755)
    wrapper = folder / "python"  # as which compare.sh finds compare.py's interpreter
    code = f"import sys; sys.executable = {str(python)!r}; sys.path.insert(0, {str(ROOT)!r}); import compare; compare.main(sys.argv[2:])"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    wrapper.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("visible", "used"), [(None, "0 1 2"), ("5,7", "5 7 5"), ("GPU-a,GPU-b,GPU-c", "GPU-a GPU-b GPU-c")]
)
def test_runs_side_by_side_are_on_the_users_gpus(visible, used, tmp_path, monkeypatch):
    """Three processes, each of which waits here until all are at work."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    n_gpus, calls = len(set(used.split())), tmp_path / "calls"
    wait = f"until [ $(wc -l <{calls}) -ge 3 ]; do sleep 0.05; done\n"
    path = stub_python(
        tmp_path / "bin", f"[ $1 != train.py ] || {{ echo $CUDA_VISIBLE_DEVICES $7 $8 >>{calls}; {wait} }}\n", n_gpus
    )
    settings = {"RUNS": "resnet eca_resnet gmlp_resnet", "SEEDS": "0 1", "JOBS": "3", "OUT": str(tmp_path / "out")}
    run_script(
        "compare.sh", PATH=path, check=False, **settings | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    )
    lines = [line.split() for line in calls.read_text().splitlines()]
    assert sorted(gpu for gpu, *_ in lines) == sorted(used.split())  # two GPUs are shared by three
    assert len(lines) == 3  # all seeds of a network in one call


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_runs_at_hand_and_starts_no_other(number, tmp_path):
    """As a terminal does, which signals the script's process group at Ctrl-C and when it is closed."""
    calls = tmp_path / "calls"
    path = stub_python(
        tmp_path / "bin",
        "[ $1 = train.py ] || exit 0\n"
        f"trap 'echo stopped >>{calls}; exit 143' TERM\n"
        f"echo $3 >>{calls}\n"
        "for i in {1..300}; do sleep 0.1; done\n",
    )
    settings = {"RUNS": "resnet eca_resnet gmlp_resnet", "SEEDS": "0", "JOBS": "2", "OUT": str(tmp_path / "out")}
    settings |= {"PATH": path}
    was = {n: signal.signal(n, lambda *_: None) for n in (signal.SIGHUP, signal.SIGINT)}  # one started deaf stays deaf
    try:
        with processes.program(["bash", "compare.sh"], environment(settings)) as running:
            while not calls.exists() or len(calls.read_text().split()) < 2:
                assert running.poll() is None
                time.sleep(0.05)
            os.killpg(running.pid, number)
            running.wait(timeout=60)
    finally:
        for other, handler in was.items():
            signal.signal(other, handler)
    assert running.returncode == 128 + number
    assert sorted(calls.read_text().split()) == ["eca_resnet", "resnet", "stopped", "stopped"]


@pytest.mark.parametrize("left", ["result.json", "last.pt"])
def test_runs_of_another_recipe_are_not_continued(left, small, tmp_path):
    """Finished ones, or those that others train at this moment."""
    settings, flags = small
    settings |= {"RUNS": "resnet:resnet.depth=8 resnet", "SEEDS": "0"}
    folder = tmp_path / "out" / "resnet-resnet.depth=8-seed0"
    folder.mkdir(parents=True)
    if left == "last.pt":
        checkpoints.save_checkpoint(folder / left, {"run": {"epochs": 100}})
    else:
        (folder / left).write_text(json.dumps({"epochs": 100}))
    done = run_script("compare.sh", *flags, check=False, **settings)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "holds another run (" in line and "): correct the settings, or choose another " in line
