"""Locks that are files: one holder at a time among all machines that see the folder. A holder that has died is noticed.

A lock is created atomically and names its holder: host, process, Slurm job and time. A thread touches it every HEARTBEAT_S.
A holder is gone if its process (on this machine) or its Slurm job has ended, or if the file's time stands still while we watch
it: the clocks of two machines are never compared. No torch here: whoever only looks for work should start at once.
"""

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

import machine
import slurm

HEARTBEAT_S = 10.0  # between two signs of life of a holder
WATCH_S = 35.0  # in which the holder on another machine must give one
POLL_S = 1.0  # between two looks at a lock
SQUEUE_S = 20.0  # for which an answer of squeue holds


class HeldError(ValueError):
    """The lock has a holder. is_alive: True, or None if it must be watched for longer."""

    def __init__(self, message, is_alive=True):
        super().__init__(message)
        self.is_alive = is_alive


class Lock:
    """Takes the lock at `path`, or raises HeldError, which names the holder.

    watched: a dict kept by a caller that tries again; without one, this waits until it knows whether the holder is alive.
    taken_over: the holder that was gone, in words, or None.
    """

    def __init__(self, path, watched=None):
        self.path, self.taken_over, self.token = Path(path), None, uuid.uuid4().hex
        own = {
            "host": socket.gethostname(),
            "pids": pid_namespace(),
            "pid": os.getpid(),
            "process_started": machine.process_started(os.getpid()),
            "job": os.environ.get("SLURM_JOB_ID"),
            "cluster": os.environ.get("SLURM_CLUSTER_NAME"),
            "restart": restart_count(),
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "token": self.token,
        }
        self.content = json.dumps(own).encode()
        waits = watched is None
        watched = {} if waits else watched
        while not create(self.path, self.content):
            holder, alive = look(self.path, watched)
            problem = self.held_error(holder, alive)
            if alive is False:
                try:
                    self.take_over(holder, watched)
                    break
                except HeldError as held:
                    problem = held
            if problem.is_alive or not waits:
                raise problem
            time.sleep(POLL_S)
        self.stopped = threading.Event()
        threading.Thread(target=self.beat, daemon=True).start()

    def held_error(self, holder, alive=True):
        return HeldError(
            f"{self.path.parent} is held by {in_words(holder)}: wait for it, or give another --name", alive
        )

    def take_over(self, old, watched):
        """Puts our lock in the place of one whose holder is gone. If several try, the one whose lock stays wins."""
        claim = self.path.with_name(f"{self.path.name}.{token_of(old)}")
        if not create(claim, self.content):
            rival, alive = look(claim, watched)
            if alive is not False:
                raise self.held_error(rival, alive)
            claim.unlink(missing_ok=True)  # the rival died before its os.replace
            if not create(claim, self.content):
                raise self.held_error(read(claim))
        if token_of(read(self.path)) != token_of(old):
            claim.unlink(missing_ok=True)
            raise self.held_error(read(self.path))
        with suppress(FileNotFoundError):  # a rival took our claim for a dead process's
            os.replace(claim, self.path)
        if not self.is_ours():
            raise self.held_error(read(self.path))
        self.taken_over = in_words(old)

    def is_ours(self):
        return token_of(read(self.path)) == self.token

    def rival(self):
        """Who took over from us (suspended, or on a node that Slurm gave up), in words, or None."""
        holder = read(self.path)
        if holder:
            return in_words(holder) if holder["token"] != self.token else None
        try:
            self.path.stat()
        except FileNotFoundError:  # who took it over has released it, or a person has removed it
            return "another process that has ended, or its lock was removed"
        except OSError:  # a network disk that fails for a moment
            pass
        return None

    def beat(self):
        while not self.stopped.wait(HEARTBEAT_S) and not self.rival():
            with suppress(OSError):  # a network disk that fails for a moment; rival() sees whether the file is gone
                os.utime(self.path)

    def release(self):
        self.stopped.set()
        if self.is_ours():
            self.path.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()


def create(path, content):
    """Writes a new file; False if it is there already."""
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    except FileNotFoundError:  # another process may have removed an empty folder
        path.parent.mkdir(parents=True, exist_ok=True)
        return create(path, content)
    return True


def read(path):
    """The holder named in a lock, or None: it is just being created or released, or was cut off by a full disk."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def token_of(holder):
    return holder["token"] if holder else "unreadable"


def in_words(holder):
    if not holder:
        return "an unknown process"
    job = f", job {holder['job']}" if holder.get("job") else ""
    return f"process {holder['pid']} on {holder['host']}{job}, since {holder['time']}"


# ---------------------------------------------------------------------------------------------------- is it alive?


def look(path, watched):
    """(the holder, whether it is alive: True, False, or None if it must be watched for longer).

    watched: (path, token) -> (the file's time, when we first saw that time), kept by the caller.
    """
    holder = read(path)
    try:
        file = path.stat()
    except FileNotFoundError:
        return holder, None  # released meanwhile
    is_here = holder and holder["host"] == socket.gethostname() and holder.get("pids") == pid_namespace()
    # /proc and squeue may hide other users' processes and jobs, and squeue does not list another cluster's
    is_own = not hasattr(os, "getuid") or file.st_uid == os.getuid()
    if is_here and is_own:
        started = machine.process_started(holder["pid"])
        return holder, started is not None and abs(started - holder["process_started"]) < 1
    now = file.st_mtime_ns
    key = str(path), token_of(holder)
    before, since = watched.setdefault(key, (now, time.monotonic()))
    if holder and is_own and job_has_ended(holder, since):
        return holder, False
    if before != now and holder:
        watched[key] = now, time.monotonic()
        return holder, True
    return holder, (False if time.monotonic() - since >= WATCH_S else None)


def job_has_ended(holder, since):
    """Whether the holder's Slurm job is known to have ended. since: when we first saw its lock; an older answer of squeue says
    nothing of a job that may have begun after it."""
    job = holder.get("job")
    if not job or holder.get("cluster") != os.environ.get("SLURM_CLUSTER_NAME"):
        return False
    if job == os.environ.get("SLURM_JOB_ID") and holder["restart"] != restart_count():
        return True  # this job, before it was requeued
    asked, running = slurm_jobs()
    return running is not None and job not in running and asked >= since


def look_at_all(paths, watched):
    """look() at several locks, with an answer of squeue newer than the first look at each."""
    global squeue_said
    found = [look(path, watched) for path in paths]
    if any(alive is None for _, alive in found):
        squeue_said = float("-inf"), None
    return [look(path, watched) if seen[1] is None else seen for path, seen in zip(paths, found, strict=True)]


def restart_count():
    return os.environ.get("SLURM_RESTART_COUNT", "0")


def pid_namespace():
    """This PID namespace and boot: containers or machines of the same name each have their own."""
    try:
        return os.readlink("/proc/self/ns/pid") + Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


squeue_said = (float("-inf"), None)  # when, what


def slurm_jobs():
    """(when squeue was asked, the ids of running jobs, or None if unknown). A requeued job that waits does not run."""
    global squeue_said
    now = time.monotonic()
    if now - squeue_said[0] > SQUEUE_S:
        states = "running,completing,configuring,suspended,stopped"
        said = slurm.ask("squeue", "-h", "--all", "-t", states, "-o", "%A")
        jobs = None if said is None else set(said.split())
        if jobs is not None and os.environ.get("SLURM_JOB_ID", "") not in jobs | {""}:
            jobs = None  # it does not list this job, so it may leave out others that run
        squeue_said = now, jobs
    return squeue_said
