"""Runs a script as if on another system: what that system lacks is taken away first.

    python tests/elsewhere.py windows train.py --dataset shapes100 --max-steps 3
    python tests/elsewhere.py mac train.py --data-dir D --image-size 32 --epochs 1

What fails here fails there. What works here may still fail there.
"""

import ctypes
import multiprocessing
import os
import runpy
import signal
import sys

MISSING = {
    "windows": {
        signal: ["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGKILL", "pthread_sigmask", "sigtimedwait", "sigwait"],
        os: ["fork", "sched_getaffinity", "getuid", "getpgid", "killpg", "mkfifo"],
    },
    "mac": {signal: ["sigtimedwait", "sigwaitinfo"], os: ["sched_getaffinity"]},
}
MODULES = {"windows": ["resource", "fcntl", "pwd", "grp"], "mac": []}
# forking exists on a Mac, but crashes in a process that has threads
START_METHODS = {"windows": ["fork", "forkserver"], "mac": ["fork"]}


def main():
    system = sys.argv[1]
    for module, names in MISSING[system].items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in MODULES[system]:
        sys.modules[name] = None  # importing it fails
    for method in START_METHODS[system]:
        multiprocessing.context._concrete_contexts.pop(method, None)
    multiprocessing.set_start_method("spawn")
    if system == "windows":
        really_open = os.open

        def open_file(path, *args, **kwargs):
            if os.path.isdir(path):
                raise PermissionError(13, "Permission denied", str(path))
            return really_open(path, *args, **kwargs)

        os.open = open_file
        ctypes.CDLL = Library
    sys.argv = sys.argv[2:]
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
    runpy.run_path(sys.argv[0], run_name="__main__")


class Library(ctypes.CDLL):
    def __init__(self, name, *args, **kwargs):
        if name is None:
            raise TypeError("bad argument type for built-in operation")
        super().__init__(name, *args, **kwargs)


if __name__ == "__main__":
    main()
