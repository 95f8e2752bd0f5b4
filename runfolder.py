"""The folder of a run: its name, which run it belongs to, what is in it already, and who is writing it."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import machine
from checkpoints import load_checkpoint

NOT_THE_RUN = (  # flags that do not change what a run computes
    "list",
    "summary",
    "eval_only",
    "predict",
    "json",
    "push_to_hub",
    "data_dir",
    "cache_dir",
    "out",
    "name",
    "log_every",
    "save_every",
    "save_every_s",
    "max_minutes",
    "graph",
    "seeds",
    "timeout_s",
)
HEARTBEAT_S = 10.0  # between two signs of life of a run's owner
WATCH_S = 35.0  # in which the owner of another machine must give one

# ------------------------------------------------------------------------------------------------- name and content


def run_config(args, amp, images):
    """What makes a run this run and no other: a folder that holds other values belongs to another run.

    data and content are fingerprints of the dataset, because its path may change, and what is there may change, too.
    """
    config = {name: value for name, value in vars(args).items() if name not in NOT_THE_RUN}
    config |= {"amp": str(amp or "off").removeprefix("torch.")}
    config |= {"data": images.fingerprint, "content": images.content_fingerprint}
    return json.loads(json.dumps(config))  # as result.json will hold it


def run_name(args):
    """The default name of a run's folder: arch, settings, where its weights come from, dataset, fold and seed."""
    from describe import shown

    settings = [f"{knob}={shown(value)}" for knob, value in args.settings.items()]
    start = [flag.replace("_", "-") for flag in ("pretrained", "init_from", "freeze") if getattr(args, flag)]
    fold = [f"fold{args.fold}of{args.folds}"] if args.folds else []
    return "-".join([args.arch, *settings, *start, args.dataset, *fold, f"seed{args.seed}"])


def look_at_folder(folder, config):
    """What is already in the run's folder: (its result if it is finished, its checkpoint if there is one).

    Raises ValueError if that belongs to another run, or if no checkpoint in it can be read.
    """
    result = None
    if (folder / "result.json").exists():
        try:
            result = json.loads((folder / "result.json").read_text())
        except ValueError:
            raise ValueError(f"{folder}/result.json is damaged: remove it, and the run goes on") from None
    saved = None if result else last_checkpoint(folder)
    there = result or (saved and saved["run"]) or config
    others = [
        f"{name} {there.get(name)} there, {value} here"
        for name, value in config.items()
        if (there.get(name) or None) != (value or None)  # a flag that is younger than that run was off in it
        and (name in there or name != "content")  # which older runs did not note
    ]
    if others:
        raise ValueError(f"{folder} holds another run ({'; '.join(others[:3])}): give --name, or remove it")
    return result, saved


def stamp(folder):
    """What changes with every file that a run leaves for its next start."""
    files = [folder / name for name in ("last.pt", "result.json")]
    return [file.stat().st_mtime_ns for file in files if file.exists()]


def last_checkpoint(folder):
    """The content of the newest checkpoint that can be read, or None. Raises ValueError if there are only damaged ones."""
    saved, problem = None, None
    for path in (folder / "last.pt", folder / "last.pt.previous"):
        if path.exists() and not saved:
            try:
                saved = load_checkpoint(path)
            except ValueError as error:
                problem = error
                print(f"train.py: {error}; looking for the one before it", file=sys.stderr)
    if saved and problem:
        (folder / "last.pt").rename(folder / "last.pt.damaged")  # or the next save would move it over the good one
    if problem and not saved:
        raise ValueError(
            f"no readable checkpoint in {folder}: remove the folder to start afresh, or give another --name"
        )
    return saved


# ------------------------------------------------------------------------------------------------------------ owner


class Lock:
    """The right to write a folder, held by one process at a time, on whatever machine.

    A file `lock` in the folder, created atomically, names its holder; a thread touches it every HEARTBEAT_S. Raises
    ValueError, naming the holder, if there is one that is alive. A holder is gone if its process is (on this machine), its
    Slurm job is, or the file's time stands still while we watch it: the clocks of two machines are not compared.
    """

    def __init__(self, folder):
        self.path = Path(folder) / "lock"
        self.taken_over = None  # the holder that was gone, in words
        self.path.parent.mkdir(parents=True, exist_ok=True)
        own = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": machine.process_started(os.getpid()),
            "job": os.environ.get("SLURM_JOB_ID"),
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "token": uuid.uuid4().hex,
        }
        content = json.dumps(own).encode()
        if not create(self.path, content):
            holder = self.holder()
            if holder and is_alive(holder, self.path):
                raise ValueError(
                    f"{self.path.parent} is being written by {in_words(holder)}: wait for it, or give --name"
                )
            self.take_over(holder, content)
        self.stopped = threading.Event()
        threading.Thread(target=self.beat, daemon=True).start()

    def holder(self):
        try:
            return json.loads(self.path.read_text())
        except (OSError, ValueError):
            return None  # just released, or cut off by a full disk

    def take_over(self, holder, content):
        """Puts our lock in the place of one whose holder is gone; of several that try, one wins."""
        claim = self.path.with_name(f"lock.{holder['token'] if holder else 'unreadable'}")
        if not create(claim, content):
            raise ValueError(f"{self.path.parent} is being taken over by another process: wait for it, or give --name")
        os.replace(claim, self.path)
        self.taken_over = in_words(holder) if holder else "an unknown process"

    def beat(self):
        while not self.stopped.wait(HEARTBEAT_S):
            try:
                os.utime(self.path)
            except OSError:
                return

    def release(self):
        self.stopped.set()
        self.path.unlink(missing_ok=True)


def create(path, content):
    """Writes a new file; False if it is there already."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(file, "wb") as out:
        out.write(content)
    return True


def in_words(holder):
    job = f", job {holder['job']}" if holder.get("job") else ""
    return f"process {holder['pid']} on {holder['host']}{job}, since {holder['time']}"


def is_alive(holder, path):
    """Whether the holder of a lock still runs, by its process, by its job, or by its heartbeat."""
    if holder["host"] == socket.gethostname():
        started = machine.process_started(holder["pid"])
        return started is not None and abs(started - holder["process_started"]) < 1
    if holder.get("job") and (running := slurm_jobs()) is not None:
        return holder["job"] in running
    before = path.stat().st_mtime_ns
    deadline = time.monotonic() + WATCH_S
    while time.monotonic() < deadline:
        time.sleep(1)
        try:
            if path.stat().st_mtime_ns != before:
                return True
        except OSError:
            return True  # released meanwhile: the next start finds it free
    return False


def slurm_jobs():
    """The ids of the jobs that Slurm knows, or None where squeue cannot be asked."""
    try:
        done = subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(done.stdout.split()) if done.returncode == 0 else None
