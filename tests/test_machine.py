"""machine.py: what it finds of control groups, in both versions, and what it does where a system lacks something."""

import errno
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

import machine
from tests import conftest

GIB = 2**30


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes files in place of /proc and /sys/fs/cgroup, on a machine of 8 GiB free and 16 cores."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "proc").mkdir()
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)), raising=False)

    def write(contents):
        for name, content in contents.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{content}\n")

    return write


def test_machine_without_control_groups(files):
    assert (machine.free_memory(), machine.cores()) == (8 * GIB, 16)


def test_container_of_the_second_version(files):
    files({
        "proc/self/cgroup": "0::/",
        "cgroup/memory.max": 6 * GIB,
        "cgroup/memory.current": 4 * GIB,
        "cgroup/memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file 7",  # which go when memory is needed
        "cgroup/cpu.max": "250000 100000",
    })  # fmt: skip
    assert (machine.free_memory(), machine.cores()) == (3 * GIB + 7, 3)


@pytest.mark.parametrize("tightest", ["", "/jobs", "/jobs/17"])
def test_tightest_of_nested_groups(files, tightest):
    files({"proc/self/cgroup": "0::/jobs/17/step"})
    for folder in ("/jobs", "/jobs/17", "/jobs/17/step"):
        files({f"cgroup{folder}/memory.max": "max", f"cgroup{folder}/cpu.max": "max 100000"})
    files({f"cgroup{tightest}/memory.max": 5 * GIB, f"cgroup{tightest}/memory.current": 2 * GIB})
    files({f"cgroup{tightest}/cpu.max": "400000 200000"})
    assert (machine.free_memory(), machine.cores()) == (3 * GIB, 2)


def test_name_of_a_group_may_hold_colons(files):
    files({"proc/self/cgroup": "0::/pod:a:b", "cgroup/pod:a:b/cpu.max": "100000 50000"})
    assert machine.cores() == 2


def test_name_of_a_cpu_says_its_threads():
    assert machine.device_name(torch.device("cpu")).endswith(" threads per process")


@pytest.mark.parametrize("seen_from_inside", [False, True])
def test_container_of_the_first_version(files, seen_from_inside):
    """A container names its group as the host does, and may find itself at the root."""
    here = "" if seen_from_inside else "/docker/abc"
    files({
        "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc",
        f"cgroup/memory{here}/memory.limit_in_bytes": 4 * GIB,
        f"cgroup/memory{here}/memory.usage_in_bytes": 3 * GIB,
        f"cgroup/memory{here}/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}\nactive_file 7\ntotal_active_file 9",
        f"cgroup/cpu{here}/cpu.cfs_quota_us": 150_000,
        f"cgroup/cpu{here}/cpu.cfs_period_us": 100_000,
    })  # fmt: skip
    assert (machine.free_memory(), machine.cores()) == (2 * GIB + 9, 2)


def test_first_version_without_limits(files):
    files({
        "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/",
        "cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
        "cgroup/memory/memory.usage_in_bytes": 3 * GIB,
        "cgroup/cpu/cpu.cfs_quota_us": -1,
        "cgroup/cpu/cpu.cfs_period_us": 100_000,
    })  # fmt: skip
    assert (machine.free_memory(), machine.cores()) == (8 * GIB, 16)


def test_limits_below_nothing(files):
    files({"proc/self/cgroup": "0::/", "cgroup/memory.max": GIB, "cgroup/memory.current": 2 * GIB})
    files({"cgroup/cpu.max": "1000 100000"})
    assert (machine.free_memory(), machine.cores()) == (0, 1)


@pytest.mark.parametrize("has_proc", [True, False])
def test_process_is_known_by_its_start(tmp_path, monkeypatch, has_proc):
    if not has_proc:
        monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    own = machine.process_started(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as later:
        assert 0 <= machine.process_started(later.pid) - own < 24 * 3600
        assert machine.process_started(later.pid) == machine.process_started(later.pid)
        later.stdin.close()
        deadline = time.monotonic() + 30
        while has_proc and machine.process_started(later.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not has_proc or machine.process_started(later.pid) is None  # gone, though its parent has not asked yet
        later.wait()
    assert machine.process_started(later.pid) is None


def test_threads_are_no_more_than_cores(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    given = []
    monkeypatch.setattr("torch.set_num_threads", given.append)
    for n in (3, 12):
        monkeypatch.setattr(machine, "cores", lambda n=n: n)
        machine.keep_to_cores()
    assert given == [3, 8]


def test_cores_without_affinity(files, monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert machine.cores() == 12


def test_peak_memory_is_in_units_of_1024_kb(tmp_path, monkeypatch):
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("VmPeak:\t   9216 kB\nVmHWM:\t   3072 kB\nVmRSS:\t   2048 kB\n")
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine.peak_memory_mb(torch.device("cpu")) == 3


def test_peak_memory_where_proc_does_not_tell(tmp_path, monkeypatch):
    """In a gVisor sandbox."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("VmRSS:\t   2048 kB\n")
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine.peak_memory_mb(torch.device("cpu")) > 0


def test_old_glibc_keeps_blocks_of_32_mb(monkeypatch):
    """It refuses larger ones, and a threshold for trimming alone would keep none."""
    taken = []

    def mallopt(parameter, value):
        accepted = parameter != machine.M_MMAP_THRESHOLD or value <= 2**25
        taken.extend([(parameter, value)] * accepted)
        return int(accepted)

    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    machine.keep_freed_memory()
    assert taken == [(machine.M_MMAP_THRESHOLD, 2**25), (machine.M_TRIM_THRESHOLD, 2**31 - 1)]


def test_disks_that_sync_no_folders_are_taken(tmp_path, monkeypatch):
    def refuse(code):
        def fsync(_):
            raise OSError(code, "no")

        monkeypatch.setattr(os, "fsync", fsync)

    refuse(errno.EINVAL)
    machine.sync_folder(tmp_path)
    refuse(errno.EIO)
    with pytest.raises(OSError, match="no"):
        machine.sync_folder(tmp_path)


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("model name\t: A CPU\ncpu family\t: 25\nmodel\t\t: 17\n\nmodel name\t: B\n", "A CPU family 25 model 17"),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n", "CPU implementer 0x41 part 0xd40"),
        ("", "CPU"),
    ],
)
def test_name_of_a_processor(cpuinfo, name):
    assert machine.cpu_name(cpuinfo) == name


def test_tests_have_a_worker_for_each_core_they_may_use(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 64)
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    for marks, n_workers in (("", 64), ("gpu", 16)):
        config = SimpleNamespace(option=SimpleNamespace(markexpr=marks))
        assert conftest.pytest_xdist_auto_num_workers(config) == n_workers


def test_peak_memory_grows_with_what_is_taken():
    cpu = torch.device("cpu")
    before = machine.peak_memory_mb(cpu)
    taken = torch.ones(int(before) * 2**20 // 4 + 50 * 2**20 // 4)  # beyond all that earlier tests took
    assert machine.peak_memory_mb(cpu) > before
    assert taken.sum() > 0


@pytest.mark.parametrize("has_resource", [True, False])
def test_peak_memory_without_proc(files, monkeypatch, has_resource):
    if not has_resource:
        monkeypatch.setattr(machine, "resource", None)
    import psutil

    resident = psutil.Process().memory_info().rss / 2**20
    assert 0.99 * resident < machine.peak_memory_mb(torch.device("cpu")) < 100 * resident


def test_names_are_kept_where_folders_cannot_be_opened(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.path.samestat(os.fstat(file), tmp_path.stat())))
    machine.sync_folder(tmp_path)
    assert synced == [True]

    def refuse(path, *args):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    machine.sync_folder(tmp_path)
    assert len(synced) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="not there")
def test_signals_that_stop_a_run():
    assert machine.STOP_SIGNALS == (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.mark.parametrize(
    ("device", "has_gpu", "said"), [("cpu", True, True), ("cpu", False, False), ("cuda", True, False)]
)
def test_a_mac_says_that_its_gpu_is_not_used(device, has_gpu, said, monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: has_gpu)
    assert ("not used" in machine.unused_gpu(torch.device(device))) == said
