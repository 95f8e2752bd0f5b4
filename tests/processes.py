"""Runs a function in processes of its own, alone or as a gloo group, in a fraction of a second; and programs, as a user does."""

import os
import signal
import socket
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
import torch._dynamo
import torch.multiprocessing as mp

ROOT = Path(__file__).parent.parent
GRACE_S = 5  # in which the others may end by themselves if one fails, and again before they are killed
TORCHRUNS_GRACE_S = 30  # that it gives its processes, which are in groups of their own, before it kills them


def run(function, n, *args):
    """Calls function(*args) in n forked processes that find each other as torchrun's do. Raises if one of them fails.

    torch._dynamo is imported above because DistributedDataParallel does it, once here instead of once in each process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = mp.start_processes(_start, (function, n, port, args), nprocs=n, join=False, start_method="fork")
    while not started.join(grace_period=GRACE_S):
        pass


def _start(rank, function, n, port, args):
    from accelerate import PartialState

    torch.set_num_threads(1)  # the parent's thread pool does not survive the fork
    PartialState._reset_state()
    if n > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    function(*args)


@contextmanager
def program(command, environment):
    """A program in a session of its own. It and what torchrun started in it do not outlive the block."""
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes) as running:
        try:
            yield running
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(subprocess.TimeoutExpired):
                    signal_session(running.pid, number)
                    running.wait(timeout=TORCHRUNS_GRACE_S + GRACE_S)


def signal_session(leader, number):
    """Signals all processes of a session, those of the process groups that a script makes among them."""
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == leader:
                os.kill(process.pid, number)
