"""Windows and a Mac, as far as tests/elsewhere.py can stand for them: train, stop, resume, predict and report.

The numbers are Linux's.
"""

import os
import signal
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests import processes
from tests.runs import assert_same, run, saved_state


def start(system, *flags, script="train.py"):
    command = [sys.executable, "tests/elsewhere.py", system, script, *flags]
    return processes.program(command, os.environ | {"OMP_NUM_THREADS": "1"})


def output(system, *flags, script="train.py"):
    with start(system, *flags, script=script) as running:
        out, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    return out


@pytest.mark.parametrize("system", ["windows", "mac"])
def test_train_stop_resume_and_predict(system, command, photos, tmp_path):
    flags = command("--epochs", "8", "--save-every", "1", "--set", "resnet.depth=8", "--amp", "off")
    folder = tmp_path / "runs" / "run"
    with start(system, *flags) as running:
        while not (folder / "last.pt").exists() and running.poll() is None:
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=240)
    assert running.returncode == 128 + signal.SIGINT, err
    assert "SIGINT: stopped at step" in out
    output(system, *flags)
    processes.run(run, 1, *flags, "--name", "whole")
    assert_same(saved_state(tmp_path / "runs" / "whole"), saved_state(folder))
    assert "class" in output(system, "--predict", str(photos / "test" / "class1"), "--init-from", str(folder))


@pytest.mark.parametrize("system", ["windows", "mac"])
def test_folder_of_many_images(system, tmp_path):
    """More than were once decoded by one process alone."""
    for split, n in (("train", 6000), ("test", 10)):
        for name in "ab":
            (tmp_path / "set" / split / name).mkdir(parents=True)
        for i in range(n):
            file = tmp_path / "set" / split / "ab"[i % 2] / f"{i}.bmp"
            Image.fromarray(np.full((4, 4, 3), i % 256, np.uint8)).save(file)
    small = ["--arch", "linear", "--image-size", "32", "--max-steps", "1", "--val-size", "0"]
    places = [
        "--data-dir",
        str(tmp_path / "set"),
        "--cache-dir",
        str(tmp_path / "cache"),
        "--out",
        str(tmp_path / "runs"),
    ]
    assert "6,000 images to train on" in output(system, *small, *places)


@pytest.mark.parametrize("system", ["windows", "mac"])
def test_report(system, tmp_path):
    pytest.importorskip("pptx", reason="of the report: pip install -r requirements-report.txt")
    rows = processes.ROOT / "results" / "own" / "judged"
    output(system, str(rows), "--out", str(tmp_path), script="report.py")
    for name in ("report.md", "results.csv"):
        assert (tmp_path / name).read_text() == (rows / "report" / name).read_text()
