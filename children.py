"""Programs that this one starts and waits for, and the signals that stop all of them."""

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress

STOP_SIGNALS = tuple(
    getattr(signal, f"SIG{name}") for name in ("HUP", "INT", "TERM", "USR1") if hasattr(signal, f"SIG{name}")
)
REPEAT_S = 2.0  # seconds within which a signal may arrive twice
SIGNAL_S = 1.0  # to wait, after a signal ended a child, for the same signal to reach this process


class Children:
    """The running programs, each in its own process group, to which a signal that stops us is passed on."""

    def __init__(self):
        self.running, self.signalled = set(), threading.Event()
        self.stopped_by, self.stopped_at = 0, 0.0
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.stop)

    def stop(self, number, _):
        now = time.monotonic()
        if self.stopped_by and now - self.stopped_at < REPEAT_S:
            return  # a scheduler signals all processes, some of them twice
        self.stopped_by, self.stopped_at = self.stopped_by or number, now
        self.signalled.set()
        for child in list(self.running):
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)

    def run(self, command, environ=None, limit_s=None, **how):
        """(exit code, output if stdout is a pipe). After a stop signal it starts nothing and returns 128 + the signal.

        limit_s: seconds after which the program is told to end.
        """
        if self.stopped_by:
            return 128 + self.stopped_by, ""
        child = subprocess.Popen(command, env=environ, process_group=0, text=True, **how)
        self.running.add(child)
        if self.stopped_by:  # between the check and the addition
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
        try:
            output, _ = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGTERM)
            output, _ = child.communicate()
        self.running.discard(child)
        if child.returncode < 0 or child.returncode > 128:  # by a signal, which may be about to reach us, too
            self.signalled.wait(SIGNAL_S)
        return child.returncode, output
