"""A real Slurm of two nodes on this machine, on the loopback alone, with all of its files in one folder.

Each node has a host name of its own where the system allows that. Jobs of the partition `urgent` preempt those of `main`.
"""

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
KILL_WAIT_S = 10
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=1
KillWait={kill_wait}
MpiDefault=none
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=3 RealMemory=4000
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=3 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


def why_not():
    """Why there can be no Slurm here, or None."""
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return f"{missing[0]} is missing: apt-get install -y slurm-wlm munge"
    return None if os.geteuid() == 0 else "Slurm's daemons are started by root here"


@contextmanager
def cluster(folder):
    """Slurm's daemons, while the block runs; yields the variables under which its commands find them."""
    folder = Path(folder)
    for name in ("state", "n0", "n1", "munge"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # as munged asks
    munge = folder / "munge"
    munge.chmod(0o711)
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o400)
    flags = [f"--{name}-file={munge}/{name}" for name in ("key", "pid", "log", "seed")]
    subprocess.run(["munged", "--force", "--num-threads=2", f"--socket={munge}/socket", *flags], check=True)
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, ports=free_ports(3), folder=folder, kill_wait=KILL_WAIT_S))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    environ = os.environ | {"SLURM_CONF": str(conf)}
    try:
        for command in (["slurmctld"], daemon("n0"), daemon("n1")):
            subprocess.run(command, env=environ, check=True)
        deadline = time.monotonic() + 60
        while said(environ, "sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D") != "2":
            assert time.monotonic() < deadline, (folder / "ctld.log").read_text()
            time.sleep(0.2)
        yield {"SLURM_CONF": str(conf)}
    finally:
        subprocess.run(["scancel", "-u", "root"], env=environ)
        time.sleep(1)
        for file in ("n0.pid", "n1.pid", "ctld.pid", "munge/pid"):
            end(folder / file)


def daemon(node):
    """The command that starts a node."""
    own_name = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec slurmd -N "$0"', node]
    try:
        subprocess.run(["unshare", "--uts", "hostname", node], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ["slurmd", "-N", node]
    return own_name


def end(pid_file):
    """Ends a daemon, and waits until it has written its state."""
    with suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        os.kill(pid, 15)
        for _ in range(50):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.1)


def free_ports(n):
    held = [socket.socket() for _ in range(n)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def said(environ, *command):
    return subprocess.run(command, env=environ, capture_output=True, text=True).stdout.strip()
