"""What Slurm reports about this process's job, and what we ask of it."""

import math
import os
import re
import shlex
import subprocess

NEAR_S = 15 * 60  # a job that is stopped this close to its time limit counts as stopped by it
ASK_S = 20  # to wait for Slurm's answer
SPARE, START_H = 1.5, 0.25  # proposed time limit: SPARE times the measured hours, plus START_H
MOST_TASKS = 256  # in a proposed array


def job():
    """ID of this job, or of its array task, as scontrol takes it; None outside Slurm."""
    if array():
        return f"{array()}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def array():
    return os.environ.get("SLURM_ARRAY_JOB_ID")


def ask(*command):
    """What a command of Slurm's prints, or None if it cannot be asked."""
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=ASK_S).strip()
    except (OSError, subprocess.SubprocessError):  # it is not there, fails, or hangs
        return None


def seconds(text):
    """'1-02:03:04' -> 93784; None for UNLIMITED and the like."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text or "")
    if not found:
        return None
    days, hours, minutes, secs = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + secs


def running_tasks():
    """(task, node, seconds since its start) of each task of this array that runs; none if squeue cannot be asked."""
    shown = ask("squeue", "-h", "-j", array(), "-t", "running", "-o", "%i %N %M")
    tasks = [line.split() for line in (shown or "").splitlines()]
    return [(task, node, seconds(run) or 0) for task, node, run in tasks]


def is_out_of_time(shown):
    """Whether the text of `scontrol show job` says that the time limit ends the job, not a person or another job.

    When --signal=B: arrives, before the limit, the job is RUNNING with little time left; scancel makes it COMPLETING, then
    CANCELLED. A job to be restarted after preemption or a node failure is COMPLETING with RunTime 0. The first record counts.
    """
    fields = dict(re.findall(r"(\S+?)=(\S*)", (shown or "").split("\n\n")[0]))
    state = fields.get("JobState")
    run, limit = seconds(fields.get("RunTime")), seconds(fields.get("TimeLimit"))
    near = run and limit and limit - run <= min(NEAR_S, limit / 2 + 60)
    return state == "TIMEOUT" or bool(state in ("RUNNING", "COMPLETING") and near)


def requeue_if_out_of_time(progressed):
    """Requeues this job, or only its own array task, if the time limit ended it."""
    job_id = job()
    shown = ask("scontrol", "show", "job", job_id)  # one task of an array has the id of the whole, which shows all
    if shown is None:
        print(
            f"scontrol cannot be asked about job {job_id}: if its time limit ended it, submit the same line again",
            flush=True,
        )
    if not is_out_of_time(shown):
        return
    if not progressed:
        print(f"the time limit of job {job_id} is too short: no run made progress in it; raise --time", flush=True)
    elif ask("scontrol", "requeue", job_id) is None:
        print(f"job {job_id} cannot be requeued: submit it with --requeue, or submit the same line again", flush=True)
    else:
        print(f"the time limit of job {job_id} is over, with work left: requeued", flush=True)


def sbatch_line(given, script, tasks, hours, n_gpus):
    """The line that hands tasks to Slurm, each a (run, number of its seeds) that one task trains with n_gpus.

    hours: {run: hours of one seed} as measured, or empty. Seeds side by side take less than one after the other.
    """
    limit = ""
    if hours:
        longest = math.ceil(60 * (SPARE * max(n_seeds * hours[run] for run, n_seeds in tasks) + START_H))
        limit = f" --time={longest // 60:02d}:{longest % 60:02d}:00"
    nodes = " --nodes=1" * (n_gpus > 1)  # Slurm may spread --gpus over several
    command = f"sbatch --array=0-{min(len(tasks), MOST_TASKS) - 1}{limit}{nodes} --gpus={n_gpus}"
    command += " --requeue --signal=B:TERM@90 --open-mode=append"
    return " ".join([*given, command, *map(shlex.quote, script)])
