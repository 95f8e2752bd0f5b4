"""Kills real trainings at random moments, again and again, and compares each with one that nobody interrupted.

    python tests/soak.py --kills 50             # one run of two processes
    python tests/soak.py --kills 50 --seeds 2   # two runs of one process

Prints kills, resumes, steps that were trained twice, and differences of the final state and of the log; exit code 1 if
there is a difference. A minute or two on two cores for every ten kills.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import engine
from tests import processes
from tests.runs import assert_same, logged, run, saved_state, write_photos

STEPS_PER_EPOCH, EPOCHS = 4, 60


def run_and_count(flags, counter):
    """A run that leaves a byte in the file `counter` for each step its first process trains."""
    step = engine.train_step

    def counted(state, *args):
        step(state, *args)
        if state.rank == 0:
            with open(counter, "ab") as file:
                file.write(b".")

    engine.train_step = counted
    run(*flags)


def start(n_processes, flags, counter):
    """A training in a process group of its own; returns the group's number."""
    group = os.fork()
    if group == 0:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            processes.run(run_and_count, n_processes, flags, counter)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return group


def differences(a, b):
    """The first difference of two runs' final states and logs, or None."""
    try:
        assert_same(saved_state(a), saved_state(b))
        assert_same(logged(a), logged(b))
    except AssertionError as error:
        return (str(error).splitlines() or ["their values have different names"])[0]
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--seeds", type=int, default=1, help="runs of one process, in place of one run of two")
    args = parser.parse_args()
    n_processes, seeds = (2 if args.seeds == 1 else 1), [str(seed) for seed in range(args.seeds)]
    rng = np.random.default_rng(args.seed)

    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        photos = write_photos(scratch / "photos")
        flags = ["--dataset", "folder", "--data-dir", str(photos), "--cache-dir", str(scratch / "cache")]
        flags += ["--out", str(scratch / "runs"), "--batch-size", "20", "--epochs", str(EPOCHS), "--lr", "0.01"]
        flags += ["--mixup", "0.2", "--ema-decay", "0.9", "--set", "resnet.drop_path=0.3"]
        flags += ["--save-every", "3", "--save-every-s", "0", "--log-every", "2", "--set", "resnet.depth=8"]
        flags += ["--seed", *seeds]
        os.waitpid(start(n_processes, [*flags, "--name", "whole-{seed}"], scratch / "whole"), 0)

        kills = resumes = repeated = n_runs = 0
        different = []
        while kills < args.kills:
            n_runs += 1
            name, counter = f"killed{n_runs}", scratch / f"count{n_runs}"
            finished = False
            while not finished:
                folders = [scratch / "runs" / f"{name}-{seed}" for seed in seeds]
                resumes += any((folder / "last.pt").exists() for folder in folders)
                group = start(n_processes, [*flags, "--name", f"{name}-{{seed}}"], counter)
                if kills < args.kills:
                    time.sleep(rng.uniform(0.5, 4.0))
                    finished = os.waitpid(group, os.WNOHANG)[0] != 0
                    if not finished:
                        os.killpg(group, signal.SIGKILL)
                        os.waitpid(group, 0)
                        kills += 1
                else:
                    finished = os.waitpid(group, 0)[0] != 0
            repeated += counter.stat().st_size - STEPS_PER_EPOCH * EPOCHS * len(seeds)
            for seed, folder in zip(seeds, folders, strict=True):
                difference = differences(scratch / "runs" / f"whole-{seed}", folder)
                different += [difference] if difference else []
            print(f"{kills} kills, {resumes} resumes, {repeated} steps trained twice, {n_runs} runs finished, "
                  f"{len(different)} differ from the uninterrupted one", flush=True)  # fmt: skip
        print("\n".join(different))
        raise SystemExit(bool(different))


if __name__ == "__main__":
    main()
