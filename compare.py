"""Trains the runs that compare.sh and ablations.sh name, with every seed, then writes the report. Start those, not this file.

Settings come from the environment (settings.py), flags are passed to train.py. All state is in OUT, so that any number of these
processes, on any machines, may work on one comparison: each takes the next run that is not finished and that nobody
holds (board.py). Exit codes: 0 if nothing is left to take or MINUTES have passed, 1 if a run failed or this machine is broken,
2 for a user's mistake, and 128 plus the signal's number.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from zipfile import is_zipfile

import locks
import slurm
from board import Board, Taken, step_of, when_stopped
from children import Children
from flags import HELD_CODE, PADDED_UP_TO, TIME_IS_UP_CODE, parse_args
from hours import SPEEDS, hours_of, speeds_in
from names import network_of, parts_of
from plan import show_plan
from settings import (
    BUDGET,
    HERE,
    read_settings,
    refuse,
    refuse_unknown_networks,
    train_command,
    train_flags,
    tuned_parts_of,
    without_default,
)
from tasks import Task
from tuning import as_text

RESOLVED = ("amp", "arch", "crop_scale", "graph", "seed", "settings")  # flags that a row has in another form


# ------------------------------------------------------------------------------------------------------------ work


class BrokenMachineError(Exception):
    """Nothing can be trained here any more."""


class Comparison:
    """The runs of one OUT, which this process checks, times, trains and reports on, maybe together with other processes."""

    def __init__(self, settings):
        self.settings, self.children = settings, Children()
        self.board = Board(settings.out, settings.runs, settings.seeds, settings.best)
        self.failures = []
        self.checked, self.facts = None, {}  # the command of check(), and what it said of run and machine
        self.deadline = time.monotonic() + 60 * settings.minutes if settings.minutes else float("inf")
        self.time_is_up = self.has_measured = False
        self.is_too_short = False  # whether MINUTES leaves too little time to start any run
        self.needed_s = 0.0  # seconds that must be left to start a run
        self.steps_before = {}  # {folder: step} when each run was taken

    def check(self, elsewhere=()):
        """Sets checked and facts, by train.py --check on one run: if possible on an existing one, whose recipe must match.

        elsewhere: flags that name another folder, where no run is.
        """
        unfinished, finished = self.board.overview()
        # not a last.pt that was cut short: it would end --check, and with it the comparison
        saved = [entry for entry in unfinished if is_zipfile(self.board.folder(*entry) / "last.pt")]
        new = [entry for entry in unfinished if not self.board.folder(*entry).exists()]
        run, seed = (finished or saved or new or unfinished)[0]
        save_every_s = parse_args(train_flags(self.settings, run, [seed])).save_every_s  # which refuses mistaken flags
        command = [*train_command(self.settings, run, [seed]), "--check", *elsewhere]
        began = time.monotonic()
        code, output = self.children.run(command, stdout=subprocess.PIPE)
        self.leave_if_stopped()
        *notes, last = output.strip().splitlines() or [""]
        if code:
            print(output, end="")
            raise SystemExit(code if code > 0 else 128 - code)
        for note in notes:
            print(note)
        self.checked, self.facts = command, json.loads(last)
        given = os.environ.get("SLURM_JOB_GPUS") or os.environ.get("SLURM_GPUS", "0") not in ("", "0")
        if given and not self.facts["gpus"] and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
            refuse(f"Slurm gave this job a GPU, but PyTorch finds none on {socket.gethostname()}", code=1)
        self.needed_s = time.monotonic() - began + save_every_s
        self.is_too_short = self.deadline - time.monotonic() < self.needed_s
        small = self.facts["image_size"] <= PADDED_UP_TO  # a network of large images fills a GPU alone
        self.board.together = self.facts["gpus"] > 0 and self.settings.nproc == 1 and small

    def refuse_other_budget(self, run, seed):
        """Ends the program if OUT holds any run of another budget: no report could cover both."""
        asked = vars(parse_args(train_flags(self.settings, run, [seed])))
        for file in sorted(self.settings.out.glob("*/result.json")):
            with suppress(ValueError):  # damaged: the report names it
                row = json.loads(file.read_text())
                for name in BUDGET:
                    if row.get(name) not in (None, asked[name]):  # val_size is None with --folds and val/
                        refuse(f"{file.parent} has {name} {row[name]}, not {asked[name]}: choose another OUT")

    def refuse_other_recipe(self, run, seed):
        """Ends the program if a finished run was trained with other flags."""
        try:
            row = self.board.result(run, seed)
        except ValueError:  # damaged: the report names it
            return
        asked = vars(parse_args(train_flags(self.settings, run, [seed])))
        others = [
            f"{name} {row[name]} there, {value} here"
            for name, value in asked.items()
            if name in row
            and name not in RESOLVED
            and (row[name] or None) != (value or None)
            and (name, row[name]) != ("val_size", None)  # a folder val/ is scored instead
        ]
        knobs = {name: as_text(value) for name, value in row.get("settings", {}).items()}
        if network_of("", knobs) != network_of("", asked["settings"]):  # TUNED has another winner
            others.append(f"knobs {knobs} there, {asked['settings']} here")
        if others:
            folder = self.board.folder(run, seed)
            refuse(f"{folder} holds another run ({'; '.join(others)}): correct the settings, or choose another OUT")

    def measure_speeds(self):
        """Measures the speeds, unless another process does or has done it, and says how long the rest takes."""
        s, self.has_measured = self.settings, True
        with suppress(locks.HeldError), locks.Lock(self.board.claims / "speeds"):
            if not self.speeds_are_known():
                networks = [":".join([arch, *map("=".join, knobs.items())]) for arch, knobs in self.networks().values()]
                command = [sys.executable, str(HERE / "speed.py"), *networks]
                completing = ("--pretrained", "--init-from", "--fold", "--folds")  # flags for all runs may need these
                own = [flag for flag in parts_of(s.runs[0])[2] if flag.split("=")[0] in completing]
                command += ["--out", str(s.out / SPEEDS), *s.recipe, *own, *s.user_flags]
                if self.facts:
                    command += ["--image-size", str(self.facts["image_size"])]
                left = self.deadline - time.monotonic()
                code, _ = self.children.run(command, limit_s=max(0.0, left) if s.minutes else None)
                self.leave_if_stopped()
                if code == 2:  # a mistake, which training would meet, too
                    raise SystemExit(code)
                if code:
                    print("the speeds could not be measured: going on without them", flush=True)
        hours = self.hours()
        left = [hours[run] for run, _ in self.board.overview()[0] + self.board.to_come()] if hours else []
        if left:
            own_gpus = self.facts.get("gpus", 0) // s.nproc  # jobs that share a device are no faster together
            total = max(0.1, sum(left) / min(s.jobs, max(1, own_gpus)))
            print(
                f"{len(left)} run{'s' * (len(left) != 1)} left, about {total:.1f} hours of training at the measured speeds",
                flush=True,
            )

    def lacks_speeds(self):
        """Whether to measure now: only failed runs are left, the report reads speeds, one is unknown, and there is time."""
        unfinished, _ = self.board.overview()
        reads_none = "--recipes" in os.environ["REPORT"]  # the report of a search
        is_late = time.monotonic() > self.deadline
        only_failed = all(self.board.has_failed(*entry) for entry in unfinished)
        if reads_none or self.has_measured or is_late or not only_failed:
            return False
        return not hours_of(self.networks(), self.speed_rows(), 1)

    def try_speeds(self):
        """Measures the speeds after the training. Data or a machine lost by then must not hold the report up."""
        try:
            if not self.facts:
                self.check()
            self.measure_speeds()
        except SystemExit:
            if self.children.stopped_by:
                raise
            print("the speeds were not measured, because one run could not be prepared here", flush=True)

    def networks(self):
        """{run: (arch, {knob: value})}, with the knobs that TUNED adds, which may change its speed."""
        return {run: tuned_parts_of(run, self.settings.recipes)[:2] for run in self.settings.runs}

    def speeds_are_known(self):
        """Whether another task of this array has measured, and on a GPU if this machine has one."""
        if not slurm.array() or not self.hours():
            return False
        return self.speeds_are_of_gpu() or not self.facts["gpus"]

    def speeds_are_of_gpu(self):
        """Whether the speeds in OUT were measured on a GPU."""
        return "eval_batch_size" in speeds_in(self.settings.out)

    def hours(self):
        """{run: hours} at the speeds in OUT; empty if they are not known."""
        if not self.facts:
            return {}
        n_devices = self.settings.nproc if self.speeds_are_of_gpu() else 1  # a CPU was measured with all its cores
        return hours_of(self.networks(), self.speed_rows(), self.facts["steps"] * self.facts["batch_size"] / n_devices)

    def speed_rows(self):
        """The rows of cost.json in OUT; once check() has told the size of the images, those of that size."""
        size = self.facts.get("image_size")
        return [row for row in speeds_in(self.settings.out)["rows"] if size is None or row["image_size"] == size]

    def work(self):
        """JOBS workers, until there is nothing to take. What one of them raises is raised here, once all have ended."""
        environs = [self.environ_of(i) for i in range(self.settings.jobs)]
        with ThreadPoolExecutor(self.settings.jobs) as workers:
            list(workers.map(self.train_what_is_left, environs))

    def environ_of(self, i):
        """The environment of a worker's programs: on a machine with GPUs it has its own, or shares one."""
        environ = dict(os.environ)
        gpus, n = self.facts.get("gpus", 0), self.settings.nproc
        if self.settings.jobs > 1 and gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
            first = i % max(1, gpus // n) * n  # processes that share a GPU hide each other's start-up
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[first : first + n])
        return environ

    def train_what_is_left(self, environ):
        while not self.children.stopped_by:
            left = self.deadline - time.monotonic()
            if left < self.needed_s:
                self.time_is_up = True
                return
            taken = self.board.take()
            if taken is None:
                return
            if not taken:  # others may leave something
                time.sleep(locks.POLL_S)
                continue
            try:
                self.refuse_other_budget(taken.run, taken.seeds[0])  # which another command may have begun in OUT
                self.train(taken, left, environ)
            finally:
                self.board.give_back(taken)

    def train(self, taken, left, environ):
        command = train_command(self.settings, taken.run, taken.seeds)
        if left < float("inf"):
            command += ["--max-minutes", f"{left / 60:.3f}"]
        folders = [self.board.folder(taken.run, seed) for seed in taken.seeds]
        self.steps_before |= {folder: step_of(folder) for folder in folders if folder not in self.steps_before}
        stopped_before = {folder: when_stopped(folder) for folder in folders}
        code, _ = self.children.run(command, environ)
        if code == 2 and len(taken.seeds) > 1:  # the folder of a seed cannot be used: the others train without it
            for seed in taken.seeds:
                left = self.deadline - time.monotonic()
                self.time_is_up |= left < self.needed_s
                if not (self.time_is_up or self.children.stopped_by):
                    self.train(Taken(taken.run, [seed]), left, environ)
            return
        failed = [seed for seed in taken.seeds if not self.board.is_finished(taken.run, seed)]
        self.time_is_up |= code == TIME_IS_UP_CODE
        if code == HELD_CODE and any((folder / "lock").exists() for folder in folders):  # else its folder was removed
            print(f"{taken.run}: another process writes its folder; going on with the next run", flush=True)
            self.board.forget_failure(taken.run, failed)
            failed = []
        # others hold some seeds, and those that were stopped in time have a status
        if code in (1, HELD_CODE, TIME_IS_UP_CODE):
            failed = [seed for seed in failed if self.ended_badly(self.board.folder(taken.run, seed), stopped_before)]
        if failed and not self.children.stopped_by:
            self.leave_if_broken(environ)
            self.failures += [f"{taken.run} with seed {seed}" for seed in failed]
            self.board.note_failure(taken.run, failed)

    def leave_if_broken(self, environ):
        """Ends this task of an array if nothing can be trained here any more: the others go on with what it took.

        Without this, one node whose GPU or disk fails would mark every run that is left as failed.
        """
        if slurm.array() and self.checked:
            code, output = self.children.run(self.checked, environ, stdout=subprocess.PIPE)
            if self.children.stopped_by:
                return
            if code or json.loads(output.strip().splitlines()[-1])["gpus"] < min(1, self.facts["gpus"]):
                raise BrokenMachineError(
                    f"train.py --check fails on {socket.gethostname()} now: its GPU or disk is broken"
                )

    @staticmethod
    def ended_badly(folder, stopped_before):
        """Whether an unfinished run failed: this call did not stop it in time, and no other process holds it."""
        held = (folder / "lock").exists() and locks.look(folder / "lock", {})[1] is not False
        return not held and when_stopped(folder) in (None, stopped_before[folder])

    def progressed(self):
        """Whether a run that was taken made progress."""
        return any(
            (folder / "result.json").exists() or step_of(folder) > before
            for folder, before in self.steps_before.items()
        )

    def leave_if_stopped(self):
        """Ends the program if a signal has come; asks Slurm to requeue the job if its time limit sent that signal."""
        if self.children.stopped_by:
            by_slurm = self.children.stopped_by in (signal.SIGTERM, signal.SIGUSR1)  # and not by Ctrl-C
            if by_slurm and slurm.job():
                unfinished, finished = self.board.overview()
                if unfinished or (finished and not self.board.is_reported()):
                    slurm.requeue_if_out_of_time(self.progressed())
            print("stopped: the same command continues", flush=True)
            raise SystemExit(128 + self.children.stopped_by)

    def finish(self):
        """Writes the report, unless others still train; prints how many runs are left."""
        self.leave_if_stopped()
        unfinished, finished = self.board.overview()
        if finished and self.lacks_folds():
            print(f"once all folds are trained, each in an OUT of its own: python report.py {self.settings.out.parent}")
        elif finished:
            self.report()
        if self.failures:
            raise SystemExit(1)
        if self.time_is_up and unfinished:
            minutes, n_left = f"MINUTES={self.settings.minutes:g}", len(unfinished + self.board.to_come())
            if self.is_too_short:
                least = f"{self.needed_s:.0f} s are left after the check, fewer once the data are prepared"
                print(f"{minutes} is too short: a run is started only if {least}")
            else:
                print(
                    f"{minutes} is over: {n_left} of {n_left + len(finished)} runs are left; the same command continues"
                )
        elif unfinished:
            failed = [f"{run} with seed {seed}" for run, seed in unfinished if self.board.has_failed(run, seed)]
            why = [f"{len(failed)} failed in this array ({'; '.join(failed)})"] if failed else []
            n_held = len(unfinished) - len(failed)
            why += [f"{n_held} held by other processes"] if n_held else []
            are = "runs are" if len(unfinished) != 1 else "run is"
            print(f"{len(unfinished)} {are} left: {', '.join(why)}")

    def lacks_folds(self):
        """Whether the runs are of some folds only, of which there is no report."""
        asked = [parse_args(train_flags(self.settings, run, ["0"])) for run in self.settings.runs]
        return len({each.fold for each in asked}) < (asked[0].folds or 1)

    def report(self):
        out = self.settings.out
        command = [sys.executable, str(HERE / "report.py"), str(out), *os.environ["REPORT"].split()]
        has_waited = False
        while True:
            self.leave_if_stopped()
            try:
                with locks.Lock(self.board.claims / "report") as lock:
                    began = lock.path.stat().st_mtime  # by the clock of OUT's disk
                    is_written = (has_waited or slurm.array()) and self.board.is_reported()
                    if not is_written and not self.board.held_by_others():
                        code, _ = self.children.run(command)
                        self.leave_if_stopped()
                        if code:
                            self.failures.append("report")
                        else:
                            self.board.date_report(began)
                break
            except locks.HeldError:  # its holder may believe that we still train, and leave the report to us
                has_waited = True
                time.sleep(locks.POLL_S)
        self.board.clear()


# ------------------------------------------------------------------------------------------------------------ main


def costs(environ, flags):
    """PRESET=cost: measures costs."""
    runs, sizes = environ["RUNS"].split(), environ["SIZES"].split()
    file = os.path.expanduser(f"{environ['OUT']}/costs.json")
    for name in ("RUNS", "SIZES", "OUT"):
        if not environ[name].strip():
            refuse(f"{name} is empty: leave it unset for the default, or give a value")
    if environ["PLAN"] not in ("", "0"):
        print("\n".join([f"costs at {' '.join(sizes)} pixels, in {environ['OUT']}", *runs]))
        return
    measure = [sys.executable, str(HERE / "speed.py"), *runs, "--costs", file, "--image-sizes", *sizes, *flags]
    children = Children()
    try:
        with locks.Lock(f"{file}.lock"):
            for command in (measure, [sys.executable, str(HERE / "report.py"), file]):
                code, _ = children.run(command)
                code = 128 + children.stopped_by if children.stopped_by else code
                if code:
                    raise SystemExit(code if code > 0 else 128 - code)
    except locks.HeldError:
        refuse(f"another process is writing {file}: wait for it, or choose another OUT", code=1)
    except OSError as error:
        refuse(f"OUT={environ['OUT']} cannot be used here: {error}", code=1)


def main(flags):
    if "PRESET" not in os.environ:
        refuse("compare.py is started by compare.sh: bash compare.sh")
    if os.environ["PRESET"] == "cost":
        return costs(os.environ, flags)
    settings = read_settings(os.environ, flags)
    if settings.minutes:  # otherwise the measurement of speeds finds them
        refuse_unknown_networks(settings.runs)
    comparison = Comparison(settings)
    unfinished, finished = comparison.board.overview()
    total, epochs = len(unfinished) + len(finished), f"{settings.epochs} epoch{'s' * (settings.epochs != '1')}"
    runs = f"{total} run{'s' * (total != 1)} in {settings.out}"
    print(f"{runs}, {len(finished)} of them finished; {settings.dataset}, {epochs}", flush=True)
    for arch, recipe in settings.recipes.items():
        print(f"{arch}: {recipe}", file=sys.stderr, flush=True)
    for run, seed in dict(finished).items():  # one seed of each run: the report compares the others with it
        comparison.refuse_other_recipe(run, seed)
    if unfinished:
        comparison.refuse_other_budget(*unfinished[0])
    is_plan = os.environ["PLAN"] not in ("", "0")
    if is_plan:
        show_plan(comparison, unfinished)
    archs = without_default(settings) if unfinished and "--recipes" not in os.environ["REPORT"] else []
    if archs:
        lacks = f"RUNS lacks the default of {', '.join(archs)}"
        print(f"{lacks}: there will be no verdict on what a report compares with it", file=sys.stderr, flush=True)
    if is_plan:
        return
    if unfinished and any(find_spec(name) is None for name in ("matplotlib", "pptx", "scipy")):
        print(
            "the report needs more packages (pip install -r requirements-report.txt); training starts without them",
            flush=True,
        )
    try:
        with Task(comparison.board.claims):
            if unfinished:
                comparison.check()
                if not settings.minutes:  # within MINUTES the runs come first
                    comparison.measure_speeds()
                comparison.work()
            if comparison.lacks_speeds():
                comparison.try_speeds()
            elif not unfinished:
                print("nothing is left to train, so the data are not looked at", flush=True)
            comparison.finish()
    except BrokenMachineError as error:
        refuse(error, code=1)
    except OSError as error:  # such as a disk that this node lacks
        refuse(f"OUT={settings.out} cannot be used here: {error}", code=1)
    finally:
        if comparison.failures:
            print(f"failed: {'; '.join(comparison.failures)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
