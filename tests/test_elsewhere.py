"""Windows, as far as tests/elsewhere.py can stand for it: train, stop, resume, predict and report.

The numbers are Linux's.
"""

import os
import signal
import sys
import time

import pytest

from tests import processes
from tests.runs import assert_same, run, saved_state


def start(*flags, script="train.py"):
    command = [sys.executable, "tests/elsewhere.py", script, *flags]
    return processes.program(command, os.environ | {"OMP_NUM_THREADS": "1"})


def output(*flags, script="train.py"):
    with start(*flags, script=script) as running:
        out, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    return out


def test_train_stop_resume_and_predict(command, photos, tmp_path):
    flags = command("--epochs", "8", "--save-every", "1", "--set", "resnet.depth=8", "--amp", "off")
    folder = tmp_path / "runs" / "run"
    with start(*flags) as running:
        while not (folder / "last.pt").exists() and running.poll() is None:
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=240)
    assert running.returncode == 128 + signal.SIGINT, err
    assert "SIGINT: stopped at step" in out
    output(*flags)
    processes.run(run, 1, *flags, "--name", "whole")
    assert_same(saved_state(tmp_path / "runs" / "whole"), saved_state(folder))
    assert "class" in output("--predict", str(photos / "test" / "class1"), "--init-from", str(folder))


def test_report(tmp_path):
    pytest.importorskip("pptx", reason="of the report: pip install -r requirements-report.txt")
    rows = processes.ROOT / "results" / "own" / "judged"
    output(str(rows), "--out", str(tmp_path), script="report.py")
    for name in ("report.md", "results.csv"):
        assert (tmp_path / name).read_text() == (rows / "report" / name).read_text()
