"""compare.sh and ablations.sh, as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models import METHODS, build
from models.speed import measure, parse_run

ROOT = Path(__file__).parent.parent


def environment(settings):
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | settings


def run_script(script, *flags, check=True, **settings):
    command = ["bash", script, *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment(settings), capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done


def planned(script, **settings):
    lines = run_script(script, PLAN="1", **settings).stdout.splitlines()
    return [tuple(line.split()) for line in lines[1:]]


def test_comparison_has_every_method_and_the_widening_curve(tmp_path):
    plan = planned("compare.sh", OUT=str(tmp_path))
    assert {seed for _, seed in plan} == {"0", "1", "2"}
    runs = [run for run, seed in plan if seed == "0"]
    blocks = {"mscan", "lskblock"}  # the whole blocks of two methods that are compared by their attention
    assert {f"{name}_resnet" for name in set(METHODS) - blocks} < set(runs)
    assert {f"resnet:resnet.width={width}" for width in (8, 12, 24, 32)} | {"resnet"} < set(runs)
    assert len(runs) == len(set(runs)) == 20
    for run in runs:
        build(*with_settings(run))


def with_settings(run):
    arch, settings = parse_run(run)
    return arch, 100, settings


def test_every_ablation_builds_and_changes_something(tmp_path):
    runs = [run for run, _ in planned("ablations.sh", OUT=str(tmp_path), SEEDS="0")]
    assert len(runs) == len(set(runs))
    defaults = {run.split(":")[0] for run in runs if ":" not in run}
    for run in runs:
        arch, settings = parse_run(run)
        assert arch in defaults  # what it is compared with
        build(arch, 100, settings)
    ablated = {run.split("_")[0] for run in runs if ":" in run}
    assert ablated == set(METHODS) - {"mscan", "lskblock"}


def test_ablations_can_be_limited(tmp_path):
    runs = [run for run, _ in planned("ablations.sh", OUT=str(tmp_path), SEEDS="0", METHODS="eca")]
    assert runs[:3] == ["resnet", "eca_resnet", "eca_resnet:eca.kernel_size=1"]
    assert all(run.startswith(("resnet", "eca_resnet")) for run in runs)
    refused = run_script("ablations.sh", check=False, METHODS="nosuch", OUT=str(tmp_path))
    assert refused.returncode == 2
    assert "no ablations of 'nosuch'; choose from eca" in refused.stderr


def test_speeds_are_measured_for_each_run():
    measured = measure(["resnet:resnet.depth=8", "eca_resnet:resnet.depth=8"], 5, 16, batch_size=4, rounds=2, n_calls=1)
    assert [(row["arch"], row["settings"]) for row in measured["rows"]] == [
        ("resnet", {"resnet.depth": 8}),
        ("eca_resnet", {"resnet.depth": 8}),
    ]
    assert all(row["train_imgs_per_s"] > 0 < row["eval_imgs_per_s"] for row in measured["rows"])


@pytest.fixture
def small(tmp_path):
    """Settings and flags of a comparison of two steps per run."""
    settings = {"RUNS": "resnet eca_resnet ghostnet_resnet", "SEEDS": "0 1", "DATASET": "shapes100", "EPOCHS": "1"}
    settings |= {"OUT": str(tmp_path / "out"), "OMP_NUM_THREADS": str(os.cpu_count())}
    flags = ["--max-steps", "2", "--cache-dir", str(tmp_path / "cache"), "--batch-size", "32"]
    return settings, flags


def test_comparison_from_nothing_to_the_report(small, tmp_path):
    pytest.importorskip("pptx", reason="requirements-report.txt is not installed")
    settings, flags = small
    out = tmp_path / "out"

    first = run_script("compare.sh", *flags, **settings | {"SEEDS": "0"})
    assert "3 runs in" in first.stdout
    assert "0 of them finished" in first.stdout
    assert "3 runs left, about" in first.stdout
    before = {file: file.stat().st_mtime_ns for file in out.glob("*/result.json")}
    assert len(before) == 3

    # again, with one more seed: nothing is trained twice
    second = run_script("compare.sh", *flags, **settings)
    assert "6 runs in" in second.stdout
    assert "3 of them finished" in second.stdout
    assert len(list(out.glob("*/result.json"))) == 6
    assert all(file.stat().st_mtime_ns == at for file, at in before.items())

    report = (out / "report" / "report.md").read_text()
    for file in out.glob("*/result.json"):
        assert json.loads(file.read_text())["arch"] in report
    assert (out / "report" / "slides.pptx").exists()


def test_killed_half_way_nothing_is_trained_twice(small, photos, tmp_path):
    settings, flags = small
    out = tmp_path / "out"
    settings |= {"RUNS": "resnet:resnet.depth=8 eca_resnet:resnet.depth=8", "SEEDS": "0", "EPOCHS": "60"}
    settings |= {"DATASET": "folder"}
    flags = ["--data-dir", str(photos), "--cache-dir", str(tmp_path / "cache"), "--batch-size", "20"]
    done, saved = out / "resnet-resnet.depth=8-seed0/result.json", out / "eca_resnet-resnet.depth=8-seed0/last.pt"

    started = subprocess.Popen(
        ["bash", "compare.sh", *flags], cwd=ROOT, env=environment(settings), start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not saved.exists():
        assert time.monotonic() < deadline
        assert started.poll() is None
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert not saved.with_name("result.json").exists()
    finished_at = done.stat().st_mtime_ns

    again = run_script("compare.sh", *flags, check=False, **settings)
    assert "1 of them finished" in again.stdout
    assert done.stat().st_mtime_ns == finished_at
    assert f"resuming {saved.parent} at step" in again.stdout
    assert len(json.loads(saved.with_name("result.json").read_text())["curve"]) == 60


def test_ablations_from_nothing_to_the_report(photos, tmp_path):
    pytest.importorskip("pptx", reason="requirements-report.txt is not installed")
    flags = ["--data-dir", str(photos), "--cache-dir", str(tmp_path / "cache"), "--batch-size", "20"]
    settings = {"METHODS": "cspnet", "SEEDS": "0", "EPOCHS": "1", "DATASET": "folder", "OUT": str(tmp_path / "out")}
    run_script("ablations.sh", *flags, **settings)
    report = (tmp_path / "out" / "report" / "report.md").read_text()
    for setting in ("cspnet.gamma", "cspnet.fusion", "cspnet.split", "resnet.width"):
        assert setting in report


def test_failed_run_does_not_stop_the_others(small, tmp_path):
    settings, flags = small
    only = settings | {"RUNS": "resnet:resnet.depth=8 eca_resnet:resnet.depth=8", "SEEDS": "0"}
    blocked = tmp_path / "out" / "resnet-resnet.depth=8-seed0"
    blocked.mkdir(parents=True)
    (blocked / "last.pt").write_bytes(b"damaged")
    done = run_script("compare.sh", *flags, check=False, **only)
    assert done.returncode == 1
    assert "failed: resnet:resnet.depth=8 with seed 0" in done.stderr
    assert (tmp_path / "out" / "eca_resnet-resnet.depth=8-seed0" / "result.json").exists()
