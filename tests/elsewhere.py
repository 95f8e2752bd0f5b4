"""Runs a script as if on Windows: what Windows lacks is taken away first. A Mac lacks nothing else that is used here.

    python tests/elsewhere.py train.py --dataset shapes100 --max-steps 3

What fails here fails there. What works here may still fail there.
"""

import ctypes
import multiprocessing
import os
import runpy
import signal
import sys

import psutil  # noqa: F401 -- before what it needs on Linux alone is taken away

MISSING = {
    signal: ["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGKILL", "pthread_sigmask", "sigtimedwait", "sigwait",
             "sigwaitinfo"],
    os: ["fork", "sched_getaffinity", "getuid", "getpgid", "killpg", "mkfifo"],
}  # fmt: skip
MODULES = ["resource", "fcntl", "pwd", "grp"]
START_METHODS = ["fork", "forkserver"]


def main():
    for module, names in MISSING.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in MODULES:
        sys.modules[name] = None  # importing it fails
    for method in START_METHODS:
        multiprocessing.context._concrete_contexts.pop(method, None)
    multiprocessing.set_start_method("spawn")
    really_open = os.open

    def open_file(path, *args, **kwargs):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, *args, **kwargs)

    os.open = open_file
    ctypes.CDLL = Library
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
    runpy.run_path(sys.argv[0], run_name="__main__")


class Library(ctypes.CDLL):
    def __init__(self, name, *args, **kwargs):
        if name is None:
            raise TypeError("bad argument type for built-in operation")
        super().__init__(name, *args, **kwargs)


if __name__ == "__main__":
    main()
