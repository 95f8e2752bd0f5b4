"""What is left to do in a comparison, as all of its processes see it: its only state is the files in OUT.

A run is finished when its result.json is there. Whoever trains it holds a lock in OUT/claims; locks.py
tells whether the holder is gone. Each process remembers finished runs, so to take the next one it looks only at the rest.
"""

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import locks
import slurm
from names import arch_of, name_of

LOOK_AGAIN_S = 5.0  # at a run that another process holds
LAST_WRITTEN = ("slides.pptx", "recipes.md")  # of a report, and of one with --recipes


@dataclass
class Taken:
    """A run and those of its seeds that are ours to train."""

    run: str
    seeds: list
    claims: list = field(default_factory=list)


class Board:
    """runs and seeds in their order: the first seed of all runs, then the second. together: all seeds of a run at once.

    best: if not 0, only this many runs of each architecture, the best on the validation split, are trained with more than
    the first seed.
    """

    def __init__(self, out, runs, seeds, best=0):
        self.out, self.claims, self.seeds, self.together, self.best = out, out / "claims", seeds, False, best
        first = seeds[:1] if best else seeds
        self.left = {(run, seed): None for seed in first for run in runs}  # not known to be finished, in order
        self.done = {}  # (run, seed), in the order in which they were found finished
        self.seen = {}  # what locks.py remembers of the holders of claims
        self.held_at = {}  # (run, seed) -> when it was found held, and whether the holder is alive (None: not known yet)
        self.passed = set()  # (run, seed) that this process gave back unfinished
        self.busy = 0  # runs that threads of this process train
        self.undecided = {}  # architecture -> its runs, whose best are not known yet
        if best:
            for run in runs:
                self.undecided.setdefault(arch_of(run), []).append(run)
        self.mutex = threading.Lock()

    def folder(self, run, seed):
        return self.out / f"{name_of(run)}-seed{seed}"

    def is_finished(self, run, seed):
        return (run, seed) in self.done or (self.folder(run, seed) / "result.json").exists()

    def result(self, run, seed):
        return json.loads((self.folder(run, seed) / "result.json").read_text())

    def claim_file(self, run, seed):
        return self.claims / self.folder(run, seed).name

    def overview(self):
        """(unfinished, finished), each a list of (run, seed)."""
        with self.mutex:
            self.decide()
            for entry in list(self.left):
                self.settle(entry)
            return list(self.left), list(self.done)

    def settle(self, entry):
        """Returns whether a run is finished; if it is, that is remembered."""
        if self.is_finished(*entry):
            self.left.pop(entry, None)
            self.held_at.pop(entry, None)
            self.done[entry] = None
            return True
        return False

    # ------------------------------------------------------------------------------------------------------ take

    def take(self):
        """The next run to train; None if there is none, and [] if there may be one later."""
        with self.mutex:
            self.decide()
            for look_at_held in (False, True):  # the second time also at runs held a moment ago
                for run, seed in list(self.left):
                    taken = self.try_to_take(run, seed, look_at_held)
                    if taken:
                        self.busy += 1
                        return taken
            unknown = any(alive is None and entry not in self.passed for entry, (_, alive) in self.held_at.items())
            return [] if unknown or (self.undecided and self.busy) else None

    def try_to_take(self, run, seed, look_at_held):
        """Claims one seed of a run, or all that are left if they train together. None if none can be claimed."""
        now, taken = time.monotonic(), Taken(run, [])
        for other in self.seeds if self.together else [seed]:
            entry = run, other
            held_at, was_alive = self.held_at.get(entry, (float("-inf"), None))
            if entry not in self.left or entry in self.passed or (now - held_at < LOOK_AGAIN_S and not look_at_held):
                continue
            if self.settle(entry) or self.has_failed(*entry):
                self.held_at.pop(entry, None)
                continue
            try:
                lock = locks.Lock(self.claim_file(*entry), self.seen)
            except locks.HeldError as held:
                self.held_at[entry] = now, held.is_alive or was_alive  # between two heartbeats is_alive is None
                continue
            self.held_at.pop(entry, None)
            if self.settle(entry):  # just before we locked it
                lock.release()
                continue
            if lock.taken_over:
                print(
                    f"{self.folder(*entry)}: {lock.taken_over} is gone; this process goes on in its place", flush=True
                )
            taken.seeds.append(other)
            taken.claims.append(lock)
        return taken if taken.seeds else None

    def give_back(self, taken):
        with self.mutex:
            self.busy -= 1
            for seed in taken.seeds:
                if not self.settle((taken.run, seed)):
                    self.passed.add((taken.run, seed))  # it failed, was stopped, or is held
            for lock in taken.claims:
                lock.release()

    # -------------------------------------------------------------------------------------------------- failures

    def failed_file(self, run, seed):
        return self.claims / f"{self.folder(run, seed).name}.failed"

    def note_failure(self, run, seeds):
        """Tells the other tasks of this array, and whoever waits for all runs of an architecture."""
        for seed in seeds:
            self.failed_file(run, seed).write_text(slurm.array() or "")

    def forget_failure(self, run, seeds):
        """Removes what note_failure() wrote, perhaps during an earlier command: somebody trains these runs now."""
        for seed in seeds:
            self.failed_file(run, seed).unlink(missing_ok=True)

    def has_failed(self, run, seed):
        """Whether a run failed in this array of tasks, or in this process: the next command tries it again."""
        try:
            array = self.failed_file(run, seed).read_text()
        except OSError:
            return False
        return array == slurm.array() if slurm.array() else (run, seed) in self.passed

    # ------------------------------------------------------------------------------------------------------ best

    def decide(self):
        """Adds the other seeds of an architecture's best runs once all of its runs are trained with the first seed."""
        first = self.seeds[0]
        for arch, runs in list(self.undecided.items()):
            finished = [run for run in runs if self.is_finished(run, first)]
            if all(run in finished or self.has_failed(run, first) for run in runs):
                ranked = sorted(finished, key=self.val_top1, reverse=True)
                for seed in self.seeds[1:]:
                    self.left |= {(run, seed): None for run in ranked[: self.best]}
                del self.undecided[arch]

    def to_come(self):
        """Stand-ins for the (run, seed) that decide() will add: as many of each architecture, but not yet its best runs."""
        return [(run, seed) for runs in self.undecided.values() for run in runs[: self.best] for seed in self.seeds[1:]]

    def val_top1(self, run):
        with suppress(ValueError):  # damaged: the report names it
            return self.result(run, self.seeds[0])["val_top1"] or 0.0
        return 0.0

    # -------------------------------------------------------------------------------------------------------- end

    def held_by_others(self):
        """Whether a living process trains one of the runs that are left."""
        claims = [claim for claim in (self.claim_file(*entry) for entry in self.left) if claim.exists()]
        return any(alive is not False for _, alive in locks.look_at_all(claims, self.seen))

    def is_reported(self):
        """Whether the report is complete, and younger than every result and the speeds."""
        files = [self.out / "report" / name for name in LAST_WRITTEN]
        reports = [path.stat().st_mtime for path in files if path.exists()]
        results = [path.stat().st_mtime for path in (*self.out.glob("*/result.json"), *self.out.glob("cost.json"))]
        return max(reports, default=0.0) > max(results, default=0.0)

    def date_report(self, began):
        """Dates the report to when it began to read, as it lacks the results that came later."""
        for name in LAST_WRITTEN:
            with suppress(OSError):  # it is not there, or is another user's
                os.utime(self.out / "report" / name, (began, began))

    def clear(self):
        """Removes the failure marks and stale locks of finished runs, and the marks of tasks that are gone."""
        for entry in self.done:
            self.failed_file(*entry).unlink(missing_ok=True)
        claims = [claim for claim in (self.claim_file(*entry) for entry in self.done) if claim.exists()]
        claims += self.claims.glob("task-*")
        for path, (_, alive) in zip(claims, locks.look_at_all(claims, self.seen), strict=True):
            if alive is False:
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.claims.rmdir()


def when_stopped(folder):
    """When a run was last stopped, by the time of its status; None if it is not stopped."""
    with suppress(OSError):
        return (folder / "status").stat().st_mtime_ns


def step_of(folder):
    """The step at which a run was stopped, by its status; without one, 1 if it has saved something, else 0."""
    with suppress(OSError, ValueError, IndexError):
        return int((folder / "status").read_text().rsplit("at step ", 1)[1])
    return int(os.path.exists(folder / "last.pt"))
