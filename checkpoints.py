"""State on disk that survives a crash at any moment, and signals that stop a run after the current step."""

import io
import math
import os
import signal
import time
import zipfile

import torch

import machine
from flags import one_line

TIME_IS_UP = 256  # in place of a signal's number
REPEAT_S = 2.0  # seconds within which a signal may arrive twice


def write_atomically(path, content, keep=None):
    """Writes bytes so that, whenever the machine stops, the file is the old one or the new one.

    keep: a name to keep the old file under; for a moment it exists under that name only. On a full disk this raises OSError
    and leaves the old file in place.
    """
    pending = path.with_name(path.name + ".tmp")
    try:
        with open(pending, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        pending.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None  # which disk it is
    if keep and path.exists():
        os.replace(path, keep)
    os.replace(pending, path)
    machine.sync_folder(path.parent)  # the new name is on the disk, too


def save_checkpoint(path, content):
    """Saves plain types and tensors. The file that was there becomes <name>.previous."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getbuffer(), keep=f"{path}.previous")


class UnreadableError(ValueError):
    """A file that cannot be read here and now, but may be whole."""


def load_checkpoint(path):
    """Reads what save_checkpoint wrote; runs no pickled code. Raises ValueError for a damaged file and for other files, and
    UnreadableError, one of these, where reading itself failed."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load itself does not notice a flipped byte
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} has a wrong checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError) as error:  # says nothing about the file
        raise UnreadableError(f"{path} cannot be read: {error or type(error).__name__}") from None
    except Exception as error:  # every kind of damage has its own exception
        reason = one_line(error)
        if "Weights only load failed" in reason:
            reason = "it holds pickled objects, which are not loaded because that would run code"
        raise ValueError(f"{path} is not a readable checkpoint ({reason})") from None


# ----------------------------------------------------------------------------------------------------- interruption


class StopSignals:
    """Notes the signals that stop a run, so that training can stop after a step; a second one ends the program at once.

    A scheduler may signal all processes, and torchrun then passes its own on: a repeat within REPEAT_S does not count as a
    second one. received: the signal's number, or TIME_IS_UP after max_s seconds, or 0.
    """

    def __init__(self, max_s=math.inf):
        self.signal, self.deadline = 0, time.monotonic() + max_s

    @property
    def received(self):
        return self.signal or (TIME_IS_UP if time.monotonic() > self.deadline else 0)

    def __enter__(self):
        self.before = {number: signal.signal(number, self.note) for number in machine.STOP_SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number, _):
        now = time.monotonic()
        if not self.signal:
            self.signal, self.signal_at = number, now
        elif number != self.signal or now - self.signal_at > REPEAT_S:
            os._exit(128 + number)
