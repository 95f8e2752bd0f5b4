"""How the tasks of a Slurm array notice that they do not share OUT.

Each leaves a mark there while it works, and looks once for the others' marks. If each node had an OUT of its own, each would
train all runs, and nobody would notice.
"""

import sys
import threading
import time
from contextlib import suppress

import locks
import slurm

LOOK_AFTER_S = 240.0  # by then, tasks that began with this one have left their marks, and a shared disk shows them
LOOK_AGAIN_S = 60.0  # Slurm lists a task for a while that has just ended
MOST_NAMED = 3  # tasks in the message


class Task:
    """Leaves this task's mark in the folder `claims` of OUT, while the block runs. Outside of an array there is no mark."""

    def __init__(self, claims):
        self.claims, self.lock, self.complaint = claims, None, None

    def __enter__(self):
        if slurm.job() and locks.slurm_jobs()[1] is None:
            print("squeue cannot be asked here: that a task is gone shows only when its heartbeat stops", flush=True)
        if slurm.array():
            with suppress(locks.HeldError):  # by another command in this job
                self.lock = locks.Lock(self.claims / f"task-{slurm.job()}", {})
            threading.Thread(target=self.look_for_others, daemon=True).start()
        return self

    def __exit__(self, *_):
        if self.lock:
            self.lock.release()
            with suppress(OSError):  # others are at work
                self.claims.rmdir()
        self.complain()  # once more, where the log ends

    def look_for_others(self):
        """Looks once for tasks that began earlier; those that begin later look for this one."""
        time.sleep(LOOK_AFTER_S)
        if first := self.missing():
            time.sleep(LOOK_AGAIN_S)
            if still := {name: node for name, node in self.missing().items() if name in first}:
                listed = [f"{name} on {node}" for name, node in sorted(still.items())]
                more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
                self.complaint = (
                    f"Slurm runs {', '.join(listed[:MOST_NAMED])}{more}, which left no mark in {self.claims.parent}: if OUT is "
                    "another folder there, they train the same runs again; choose an OUT that all nodes share"
                )
                self.complain()

    def missing(self):
        """{task: node} of tasks that Slurm has listed as running for a while and that left no mark."""
        marked = {path.name.removeprefix("task-") for path in self.claims.glob("task-*")}
        return {
            name: node
            for name, node, seconds in slurm.running_tasks()
            if seconds >= LOOK_AFTER_S / 2 and name not in marked
        }

    def complain(self):
        if self.complaint:
            print(self.complaint, file=sys.stderr, flush=True)
