"""Signals, processes that die or hang, and numbers that are not finite."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import checkpoints
import data
import engine
from tests import processes
from tests.processes import ROOT
from tests.runs import SMALL, assert_same, run, saved_state
from tests.test_faults import ALL_STATE, never_returning

# -------------------------------------------------------------------------------------------------- signals, processes


def start(n_processes, *flags):
    """train.py as a user starts it."""
    launch = [sys.executable]
    if n_processes > 1:
        handled = ["--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1"]
        launch = [str(Path(sys.executable).parent / "torchrun"), "--standalone", *handled]
        launch += ["--nproc_per_node", str(n_processes)]
    return processes.program([*launch, "train.py", *flags], os.environ | {"OMP_NUM_THREADS": "1"})


def wait_for_step(folder, process):
    while not (folder / "last.pt").exists() and process.poll() is None:
        time.sleep(0.1)


def test_signal_to_two_processes(command, tmp_path):
    """The run stops after a step, says so, leaves a status, and the same command ends as if nothing had been.

    tests/test_elsewhere.py has one process and SIGINT, tests/test_machine.py the list of signals.
    """
    flags = command(*ALL_STATE, "--epochs", "15")
    folder = tmp_path / "runs" / "run"
    with start(2, *flags) as running:
        wait_for_step(folder, running)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=120)
    assert running.returncode == 1, err  # torchrun's, whatever its processes end with
    assert "SIGTERM: stopped at step" in out
    step = saved_state(folder)["step"]
    assert 0 < step < 60
    assert (folder / "status").read_text() == f"interrupted by SIGTERM at step {step}\n"
    processes.run(run, 2, *flags)
    assert not (folder / "status").exists()
    processes.run(run, 2, *flags, "--name", "whole")
    assert_same(saved_state(tmp_path / "runs" / "whole"), saved_state(folder))


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_the_program_at_once(second, monkeypatch):
    """The same one, too, if it comes late: it is sent every 0.05 s here, and the first counts."""
    monkeypatch.setattr(checkpoints, "REPEAT_S", 0.12)
    signals = checkpoints.StopSignals()
    child = os.fork()
    if child == 0:
        with never_returning(), signals:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            assert signals.received == signal.SIGTERM
            for _ in range(100):
                os.kill(os.getpid(), second)
                time.sleep(0.05)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + second


def test_a_signal_delivered_twice_is_one_signal():
    """As a scheduler does that signals torchrun and its processes: torchrun hands its own on."""
    child = os.fork()
    if child == 0:
        with never_returning(), checkpoints.StopSignals() as signals:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
            assert signals.received == signal.SIGTERM
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def read_through_a_signal(split):
    """Reads a streamed split; after the first batch another process signals this one, as torchrun does."""
    os.setpgrp()
    batches = torch.arange(40).split(2)
    with checkpoints.StopSignals() as stop:
        for n_read, _ in enumerate(split.read(batches)):
            if n_read == 0:
                subprocess.run(["kill", "-s", "TERM", "--", f"-{os.getpid()}"])
    assert stop.received == signal.SIGTERM
    assert n_read == len(batches) - 1


def test_signal_lets_a_streamed_set_be_read_on(photos, tmp_path):
    """So that the step at hand can end, and be saved."""
    images = data.load("folder", photos, None, tmp_path, room=0)
    assert images.train.is_streamed
    processes.run(read_through_a_signal, 1, images.train)


def test_failure_ends_a_program_that_reads_a_streamed_set(photos, tmp_path):
    """Its threads do not keep it from ending."""
    script = (
        "import data, torch\n"
        f"images = data.load('folder', {str(photos)!r}, None, {str(tmp_path)!r}, room=0)\n"
        "for _ in images.train.read(torch.arange(40).split(2)):\n"
        "    raise RuntimeError('in the loop')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: in the loop\n")


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with checkpoints.StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def fail_on_second(how, flags):
    """A run whose second process raises, is killed, or hangs after its third step."""
    step = engine.train_step

    def broken(state, *args):
        step(state, *args)
        if state.rank == 1 and state.step == 3:
            if how == "raises":
                raise RuntimeError("the guilty process")
            if how == "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    engine.train_step = broken
    run(*flags)


@pytest.mark.parametrize("how", ["raises", "is killed", "hangs"])
def test_process_that_dies_or_hangs(command, monkeypatch, how):
    """The others end in the time that --timeout-s allows; a hung process is then killed."""
    if how == "hangs":  # which no time to end by itself would change
        monkeypatch.setattr(processes, "GRACE_S", 1)
    started = time.monotonic()
    with pytest.raises(
        Exception, match=r"guilty process|SIGKILL|imed out|timeout|(closed|reset) by peer|[Bb]roken pipe"
    ):
        processes.run(fail_on_second, 2, how, command(*SMALL, "--timeout-s", "3"))
    assert time.monotonic() - started < 60


def test_torchrun_shows_the_true_traceback_and_leaves_no_orphan(command, tmp_path):
    script = tmp_path / "guilty.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import engine, train\n"
        "step = engine.train_step\n"
        "def broken(state, *args):\n"
        "    step(state, *args)\n"
        "    if state.rank == 1:\n"
        "        raise RuntimeError('the guilty process')\n"
        "engine.train_step = broken\n"
        "from torch.distributed.elastic.multiprocessing.errors import record\n"
        "record(train.main)(train.parse_args())\n"
    )
    torchrun = str(Path(sys.executable).parent / "torchrun")
    launch = [torchrun, "--standalone", "--nproc_per_node", "2", str(script), *command(*SMALL, "--timeout-s", "20")]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=90, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1
    cause = done.stderr[done.stderr.index("Root Cause") :]
    assert "rank      : 1" in cause
    assert "the guilty process" in cause
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(script) not in listed


def test_two_machines_are_two_processes(command, tmp_path):
    """Two torchrun agents on the loopback, one process each, give what one agent with two processes gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = command(*SMALL, "--arch", "eca_resnet", "--epochs", "1")
    torchrun = str(Path(sys.executable).parent / "torchrun")
    rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "test"]
    agent = [torchrun, "--nnodes", "2", "--nproc_per_node", "1", *rendezvous, "train.py", *flags, "--name", "agents"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with processes.program(agent, environment) as one, processes.program(agent, environment) as other:
        for running in (one, other):
            _, err = running.communicate(timeout=240)
            assert running.returncode == 0, err
    processes.run(run, 2, *flags, "--name", "processes")
    assert_same(saved_state(tmp_path / "runs" / "agents"), saved_state(tmp_path / "runs" / "processes"))


# ------------------------------------------------------------------------------------------------------------ numbers


def nan_on_second(flags):
    step = engine.train_step

    def broken(state, model, imgs, targets, *args):
        if state.rank == 1 and state.step == 5:
            imgs = imgs * torch.nan
        step(state, model, imgs, targets, *args)

    engine.train_step = broken
    run(*flags)


def test_nan_on_one_process_stops_all(command, tmp_path, capfd):
    with pytest.raises(Exception, match="exit code 1"):
        processes.run(nan_on_second, 2, command(*SMALL, "--amp", "off"))
    err = capfd.readouterr().err
    assert (
        "loss or gradient is not finite at step 6: start again in another folder, with a lower --lr or a tighter --clip-norm; the last checkpoint is kept"
        in err
    )
    state = saved_state(tmp_path / "runs" / "run")
    assert state["step"] == 4  # the end of the first epoch
    assert all(value.isfinite().all() for value in state["net"].values())
