"""PLAN=1 of compare.sh and ablations.sh: what would be trained, and the line that hands it to Slurm."""

import os
import shlex
import signal
import sys
from collections import Counter

import slurm
from flags import PADDED_UP_TO, parse_args
from hours import SPEEDS
from settings import refuse_unknown_networks, train_flags


def show_plan(comparison, unfinished):
    """Prints the unfinished runs [(run, seed)] of a compare.Comparison, and the line for sbatch."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that `| head` ends it without a traceback
    refuse_unknown_networks(dict.fromkeys(run for run, _ in unfinished))
    for run, seed in unfinished:
        print(run, seed)
    if more := comparison.board.to_come():
        print(f"and {len(more)} more: the best {comparison.settings.best} of each architecture with the other seeds")
    if not unfinished:
        return
    if (comparison.settings.out / SPEEDS).exists():
        try:  # as a new run: this machine may compute in another precision than the one that trains
            comparison.check(elsewhere=("--out", str(comparison.board.claims / "plan")))
        except SystemExit:
            if comparison.children.stopped_by:
                raise
            print("the hours are not known, because one run could not be prepared here", file=sys.stderr)
    names = os.environ["GIVEN"].split()
    # a task takes one run after the other, whatever JOBS says
    given = [f"{name}={shlex.quote(os.environ[name])}" for name in names if name not in ("PLAN", "JOBS")]
    script, n_gpus = [os.environ["SCRIPT"], *comparison.settings.user_flags], comparison.settings.nproc
    size = parse_args(train_flags(comparison.settings, unfinished[0][0], ["0"])).image_size
    size = size or comparison.facts.get("image_size", 0)
    together = n_gpus == 1 and size <= PADDED_UP_TO  # see Comparison.check: a task then takes all seeds of a network
    tasks = list(Counter(run for run, _ in unfinished).items()) if together else [(run, 1) for run, _ in unfinished]
    print(slurm.sbatch_line(given, script, tasks, comparison.hours(), n_gpus))
