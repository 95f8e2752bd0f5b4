"""What this machine is and has. What only some systems have is wrapped here, with a fallback for the others.

Linux has it all. Windows has no SIGUSR1, no file handles of folders and no module `resource`; neither Windows nor a Mac has
control groups, /proc or glibc.
"""

import ctypes
import errno
import math
import os
import re
import signal
import sys
from pathlib import Path

# torch is imported where it is needed: locks.py, which needs only processes, should start at once

try:
    import resource
except ImportError:
    resource = None

# what schedulers and users stop a run with; SIGBREAK is Ctrl-Break on Windows
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK") if hasattr(signal, name)
)
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def device_name(device):
    import torch

    from models.ops import bfloat16

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = PROC / "cpuinfo"
    name = cpu_name(cpuinfo.read_text() if cpuinfo.exists() else "")
    without = "" if bfloat16.is_native() else " without bfloat16"
    return f"{name}{without}, {torch.get_num_threads()} threads per process"


def unused_gpu(device):
    """What a run's first line adds on a Mac, whose GPU silently computes some numbers wrong."""
    import torch

    return (
        " (the GPU of this machine is not used)" if device.type == "cpu" and torch.backends.mps.is_available() else ""
    )


def cpu_name(cpuinfo):
    """The first processor in the text of /proc/cpuinfo: its name, family and model, as far as known, or "CPU".

    The name alone is not enough: virtual machines call several generations "AMD EPYC".
    """
    first, _, _ = cpuinfo.partition("\n\n")
    known = dict(re.findall(r"^(.+?)\s*: (.+)$", first, re.MULTILINE))
    parts = ("cpu family", "model", "CPU implementer", "CPU part")  # the last two are ARM's, which gives no name
    numbers = [f"{name.removeprefix('cpu ').removeprefix('CPU ')} {known[name]}" for name in parts if name in known]
    return " ".join([known.get("model name", "CPU"), *numbers])


# -------------------------------------------------------------------------------------------------------------- memory


def keep_freed_memory():
    """Makes glibc keep large freed blocks, which the kernel would otherwise map anew, page by page, in each step.

    This makes training steps on a CPU 10 to 30 % faster. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (AttributeError, OSError):
        return
    # glibc up to 2.34 takes at most 32 MiB; with no value set, M_TRIM_THRESHOLD would fix this one at 128 kB
    if not mallopt(M_MMAP_THRESHOLD, 2**31 - 1):
        mallopt(M_MMAP_THRESHOLD, 2**25)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory_mb(device):
    """Most memory the run took, its images and evaluation included: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", text_of(PROC / "self" / "status"), re.MULTILINE)  # gVisor has none
    if peak:  # a child's ru_maxrss starts at its parent's
        return int(peak[1]) / 2**10
    if resource:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    import psutil  # which comes with accelerate

    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", memory.rss) / 2**20  # peak_wset: on Windows


def free_memory():
    """Bytes that this process may still take: of the machine, and of the containers and jobs that it runs in."""
    import psutil  # which comes with accelerate

    free = psutil.virtual_memory().available
    for folder in control_groups("memory"):
        for limit_file, usage_file, reclaimable in (
            ("memory.max", "memory.current", "(?:in)?active_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_(?:in)?active_file"),
        ):
            limit = number_in(folder / limit_file)
            if limit is not None:
                usage = number_in(folder / usage_file) or 0
                # cached files, such as decoded images that an earlier run has read, are dropped when memory is needed
                cached = re.findall(rf"^{reclaimable} (\d+)$", text_of(folder / "memory.stat"), re.MULTILINE)
                free = min(free, limit - usage + sum(map(int, cached)))
    return max(0, free)


# --------------------------------------------------------------------------------------------------------------- cores


def cores():
    """Cores that this process may use: those it is bound to, or fewer if its container or job has a CPU quota."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in control_groups("cpu"):
        first = text_of(folder / "cpu.cfs_quota_us"), text_of(folder / "cpu.cfs_period_us")
        second = text_of(folder / "cpu.max").split() or ("", "")  # such as 150000 100000, or max 100000
        for quota, period in (first, second):
            if quota.isdecimal() and period.isdecimal():  # no limit is "max", and -1 in the first version
                n = min(n, math.ceil(int(quota) / int(period)))
    return max(1, n)


def keep_to_cores():
    """Limits torch to the cores that this process may use; by default it counts those of the whole machine."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), cores()))


def process_started(pid):
    """When a process started, in seconds since some fixed time; None if no process has this pid."""
    if PROC.exists():
        fields = text_of(PROC / str(pid) / "stat").rpartition(")")[2].split()  # after the name: state, parent, ...
        is_gone = not fields or fields[0] in ("Z", "X")
        return None if is_gone else int(fields[19]) / os.sysconf("SC_CLK_TCK")
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


# ------------------------------------------------------------------------------------------------------ control groups


def control_groups(controller):
    """Folders of the control groups that this process is in, the innermost first, of both cgroup versions; may be empty."""
    folders = []
    for line in text_of(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        here = root / path.strip("/") if ".." not in path else root  # a container may not see where its own group is
        folders += [here, *(parent for parent in here.parents if parent.is_relative_to(root))]
    return folders


def text_of(file):
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def number_in(file):
    """The number in a file, or None where there is no file, or no limit."""
    text = text_of(file)
    return int(text) if text.isdecimal() else None


# ---------------------------------------------------------------------------------------------------------------- disk


def sync_folder(folder):
    """Flushes new names in a folder to disk. Windows cannot open folders, and flushes names by itself."""
    try:
        directory = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of disks that sync no folders, such as VirtualBox's
            raise
    finally:
        os.close(directory)
