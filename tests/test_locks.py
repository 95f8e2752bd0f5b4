"""Locks: one holder at a time, and one that is gone is known to be."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

import locks
import machine
from tests import processes
from tests.refusals import refusal
from tests.runs import SMALL, run
from tests.test_signals import start, wait_for_step

HEARTBEAT_S, WATCH_S = locks.HEARTBEAT_S, locks.WATCH_S  # which the tests shorten


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(locks, "WATCH_S", 0.6)
    monkeypatch.setattr(locks, "POLL_S", 0.05)
    monkeypatch.setattr(locks, "squeue_said", (float("-inf"), None))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def left_by(path, **changes):
    """A lock whose holder is as we are but for the changes."""
    lock = locks.Lock(path)
    lock.stopped.set()
    holder = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(holder))
    return lock


def test_one_holder_at_a_time(path):
    with locks.Lock(path) as lock:
        with pytest.raises(
            locks.HeldError, match=f"is held by process {os.getpid()} on {socket.gethostname()}, since "
        ):
            locks.Lock(path)
        assert lock.is_ours() and lock.taken_over is None
    assert not path.exists()


def test_holder_that_was_killed_is_replaced(path):
    code = f"import locks, os; locks.Lock({str(path)!r}); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], cwd=processes.ROOT)
    assert path.exists()
    with locks.Lock(path) as lock:
        assert lock.taken_over.startswith("process ")


def test_program_that_never_releases_its_lock_ends_all_the_same(path):
    """The thread that gives signs of life does not keep it."""
    code = f"import locks; lock = locks.Lock({str(path)!r}); print(lock.is_ours())"
    done = subprocess.run([sys.executable, "-c", code], cwd=processes.ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True\n")


def test_number_of_a_process_that_was_given_anew_is_no_holder(path):
    left_by(path, process_started=1.0)
    locks.Lock(path).release()


def test_holder_on_another_machine_is_known_by_its_heartbeat(path, monkeypatch):
    with locks.Lock(path), monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        with pytest.raises(locks.HeldError):
            locks.Lock(path)
    left_by(path, host="elsewhere")
    began = time.monotonic()
    lock = locks.Lock(path)
    assert "on elsewhere" in lock.taken_over
    assert time.monotonic() - began >= locks.WATCH_S


@pytest.mark.parametrize("other", ["cluster", "user"])
def test_squeue_tells_nothing_of_another_clusters_and_another_users_jobs(other, path, monkeypatch):
    monkeypatch.setattr(locks, "slurm_jobs", lambda: (time.monotonic(), {"8"}))
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "here")
    left_by(path, host="elsewhere", job="7", cluster="there" if other == "cluster" else "here")
    if other == "user":
        monkeypatch.setattr(os, "getuid", lambda: -1)
    with pytest.raises(locks.HeldError) as held:
        locks.Lock(path, {})
    assert held.value.is_alive is None
    monkeypatch.undo()


def test_a_lock_that_is_gone_is_lost(path):
    """Whoever took it over has finished and released it."""
    with locks.Lock(path) as lock:
        assert lock.rival() is None
        path.unlink()
        assert lock.rival() == "another process that has ended, or its lock was removed"


def test_each_sign_of_life_begins_the_watch_anew(path, monkeypatch):
    left_by(path, host="elsewhere", job=None)
    clock, seen, alive = SimpleNamespace(now=0.0), {}, []
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(locks, "time", clock)
    locks.look(path, seen)
    for second in range(1, 9):
        clock.now += 0.4 * locks.WATCH_S
        if second % 2:
            os.utime(path, (second, second))
        alive.append(locks.look(path, seen)[1])
    assert alive == [True, None] * 4
    clock.now += locks.WATCH_S
    assert locks.look(path, seen)[1] is False


def test_holder_may_miss_two_signs_of_life():
    assert WATCH_S >= 3 * HEARTBEAT_S


def test_holder_on_a_machine_of_the_same_name_is_known_by_its_heartbeat(path, monkeypatch):
    """Its process is none of ours; outside containers process numbers are counted alike on all machines."""
    with locks.Lock(path), monkeypatch.context() as elsewhere:
        elsewhere.setattr(machine, "process_started", lambda pid: None)
        elsewhere.setattr(locks, "pid_namespace", lambda: "pid:[4026531836]another boot")
        with pytest.raises(locks.HeldError):
            locks.Lock(path)


def test_heart_goes_on_beating_after_an_error_of_the_disk(path, monkeypatch):
    touch, failed = os.utime, []

    def utime(file):
        if not failed:
            failed.append(file)
            raise OSError(5, "Input/output error")
        touch(file)

    monkeypatch.setattr(os, "utime", utime)
    with locks.Lock(path):
        before = path.stat().st_mtime_ns
        time.sleep(5 * locks.HEARTBEAT_S)
        assert failed and path.stat().st_mtime_ns > before


def test_who_comes_back_later_does_not_wait(path):
    left_by(path, host="elsewhere")
    seen = {}
    with pytest.raises(locks.HeldError) as first:
        locks.Lock(path, seen)
    assert first.value.is_alive is None
    time.sleep(locks.WATCH_S)
    locks.Lock(path, seen).release()


def squeue_that_says(tmp_path, monkeypatch, text):
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_job_that_slurm_does_not_run_is_gone_at_once(path, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WATCH_S", 1000)
    squeue_that_says(tmp_path, monkeypatch, 'case "$*" in *,suspended,*) echo 8; esac')
    left_by(path, host="elsewhere", job="7")
    locks.Lock(path, {}).release()
    left_by(path, host="elsewhere", job="8")
    monkeypatch.setattr(locks, "squeue_said", (float("-inf"), None))
    with pytest.raises(locks.HeldError):  # it is only suspended
        locks.Lock(path, {})


def test_squeue_that_does_not_list_this_job_tells_nothing_of_others(path, tmp_path, monkeypatch):
    """Their partition may be hidden, from one that does not ask for all."""
    squeue_that_says(tmp_path, monkeypatch, 'case "$*" in *--all*) echo 9; esac')
    left_by(path, host="elsewhere", job="8")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert locks.look(path, {})[1] is None
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setattr(locks, "squeue_said", (float("-inf"), None))
    assert locks.look(path, {})[1] is False


def test_another_users_process_is_known_by_its_heartbeat(path, monkeypatch):
    """/proc may hide it, as if it had ended."""
    left_by(path, process_started=1.0)
    assert locks.look(path, {})[1] is False
    monkeypatch.setattr(os, "getuid", lambda: -1)
    assert locks.look(path, {})[1] is None


def test_job_that_began_after_the_last_answer_of_squeue_is_not_taken_for_gone(path, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WATCH_S", 1000)
    squeue_that_says(tmp_path, monkeypatch, f"cat {tmp_path}/jobs")
    jobs, seen = tmp_path / "jobs", {}
    jobs.write_text("8\n")
    left_by(path, host="elsewhere", job="8")
    with pytest.raises(locks.HeldError):
        locks.Lock(path, seen)
    jobs.write_text("8\n9\n")
    path.unlink()
    left_by(path, host="elsewhere", job="9")
    with pytest.raises(locks.HeldError) as held:
        locks.Lock(path, seen)
    assert held.value.is_alive is None
    jobs.write_text("8\n")
    monkeypatch.setattr(locks, "squeue_said", (float("-inf"), None))
    locks.Lock(path, seen).release()


def test_all_locks_of_dead_jobs_are_known_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WATCH_S", 1000)
    squeue_that_says(tmp_path, monkeypatch, "echo 8")
    paths = [tmp_path / name for name in "abc"]
    for path, job in zip(paths, ("7", "8", "9"), strict=True):
        left_by(path, host="elsewhere", job=job)
    assert [alive for _, alive in locks.look_at_all(paths, {})] == [False, None, False]


def test_without_an_answer_of_squeue_the_heartbeat_counts(path, tmp_path, monkeypatch):
    squeue_that_says(tmp_path, monkeypatch, "exit 1")
    left_by(path, host="elsewhere", job="7")
    with pytest.raises(locks.HeldError):
        locks.Lock(path, {})
    locks.Lock(path).release()


def test_requeued_job_takes_what_it_held(path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    left_by(path, host="elsewhere", job="7", restart="0")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    locks.Lock(path, {}).release()


def test_other_node_of_a_job_is_no_earlier_turn_of_it(path, tmp_path, monkeypatch):
    squeue_that_says(tmp_path, monkeypatch, "echo 7")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    left_by(path, host="elsewhere")
    assert locks.look(path, {})[1] is None


def test_a_lock_names_its_job_its_turn_and_its_cluster(path, tmp_path, monkeypatch):
    """Held by another node of this job, and after a requeue by an earlier turn of it."""
    squeue_that_says(tmp_path, monkeypatch, "echo 7")
    for name, value in (("JOB_ID", "7"), ("RESTART_COUNT", "1"), ("CLUSTER_NAME", "here")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    left_by(path, host="elsewhere")
    with pytest.raises(locks.HeldError, match=" on elsewhere, job 7, since ") as held:
        locks.Lock(path, {})
    assert held.value.is_alive is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert locks.look(path, {})[1] is False


@pytest.mark.parametrize("content", ["", '{"host": "cut'])
def test_unreadable_lock_is_watched_first(path, content):
    """It may be one that is just being written."""
    path.write_text(content)
    with pytest.raises(locks.HeldError):
        locks.Lock(path, {})
    lock = locks.Lock(path)
    assert lock.taken_over == "an unknown process"


def test_of_several_that_take_over_one_wins(path):
    for _ in range(20):
        left_by(path, process_started=1.0)
        won, go = [], threading.Barrier(8)

        def take(won=won, go=go):
            go.wait()
            with contextlib.suppress(locks.HeldError):
                won.append(locks.Lock(path))

        takers = [threading.Thread(target=take) for _ in range(8)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
        assert len(won) == 1 and won[0].is_ours()
        won[0].release()
        assert not list(path.parent.glob("lock*"))


def test_one_that_judged_late_does_not_take_a_living_lock(path, monkeypatch):
    """Between the look at a dead holder and the taking over, another process did that."""
    left_by(path, process_started=1.0)
    look, others = locks.look, []

    def slow(*args):
        found = look(*args)
        if not others:
            others.append(None)
            others[0] = locks.Lock(path)
        return found

    monkeypatch.setattr(locks, "look", slow)
    with pytest.raises(locks.HeldError):
        locks.Lock(path)
    assert others[0].is_ours()
    others[0].release()
    assert not list(path.parent.glob("lock*"))


def test_taker_that_died_in_between_is_no_obstacle(path):
    left_by(path, process_started=1.0)
    token = json.loads(path.read_text())["token"]
    path.with_name(f"lock.{token}").write_text(path.read_text())
    locks.Lock(path).release()
    assert not list(path.parent.glob("lock*"))


def test_lock_of_another_is_not_released(path):
    lock = left_by(path, token="another")
    lock.release()
    assert path.exists()


def test_same_command_twice_at_once(command, tmp_path, capsys):
    """The second one ends with one line and leaves all as it is; after a kill it goes on."""
    folder = tmp_path / "runs" / "run"
    flags = command(*SMALL, "--epochs", "200", "--save-every", "1")
    with start(1, *flags) as running:
        wait_for_step(folder, running)
        with pytest.raises(SystemExit) as exit:
            run(*flags)
        assert exit.value.code == 3
        out, err = capsys.readouterr()
        assert f"{folder} is held by process {running.pid} on " in err and err.count("\n") == 1
        assert "resuming" not in out
        assert running.poll() is None
        processes.signal_session(running.pid, signal.SIGKILL)
        running.wait()
    with pytest.raises(SystemExit):
        run(*flags, "--max-minutes", "0.001")
    assert f"{folder}: process {running.pid} on " in capsys.readouterr().out
    assert not (folder / "lock").exists()
    assert len(list(folder.glob("events*"))) == 2


def test_heartbeat_keeps_no_rival_alive(path):
    """A process that was suspended for long comes back, after another one has taken its lock over."""
    with locks.Lock(path) as lock:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"token": "another", "host": "elsewhere"}))
        assert " on elsewhere, since " in lock.rival()
        time.sleep(2 * locks.HEARTBEAT_S)
        before = path.stat().st_mtime_ns
        time.sleep(3 * locks.HEARTBEAT_S)
        assert path.stat().st_mtime_ns == before
    assert path.exists()


def test_run_that_was_taken_over_writes_no_more(command, tmp_path):
    """Its node was given up by Slurm, say, but lives."""
    folder = tmp_path / "runs" / "run"
    with start(1, *command(*SMALL, "--epochs", "2000", "--save-every", "1")) as running:
        wait_for_step(folder, running)
        left_by(folder / "of-another", host="elsewhere")
        os.replace(folder / "of-another", folder / "lock")
        _, err = running.communicate(timeout=60)
    assert running.returncode == 3
    assert f"train.py: {folder} was taken over by process " in err and " on elsewhere" in err
    assert err.count("\n") == 1 and (folder / "lock").exists()


def test_run_that_went_on_between_look_and_lock_is_refused(command, tmp_path, monkeypatch, capsys):
    last, lock = tmp_path / "runs" / "run" / "last.pt", locks.Lock

    def late(path):
        if path.parent == last.parent:
            last.parent.mkdir(parents=True)
            last.touch()
        return lock(path)

    monkeypatch.setattr(locks, "Lock", late)
    said = refusal(capsys, run, *command(*SMALL, "--max-steps", "1"))
    assert f"{last.parent} was written by another process just now: start again" in said


@pytest.mark.parametrize(
    ("name", "value", "missing"),
    [("LOCAL_RANK", "0", "RANK"), ("PMI_SIZE", "2", "LOCAL_RANK"), ("WORLD_SIZE", "2", "LOCAL_RANK")],
)
def test_sign_of_other_processes_without_torchrun(name, value, missing, command, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    said = refusal(capsys, run, *command())
    assert f"{name}={value} is set and {missing} is not: start several processes with torchrun" in said


def test_rank_alone_silences_no_mistake(command, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert "--lr must be more than 0" in refusal(capsys, run, *command("--lr", "-1"))


def test_more_epochs_of_a_finished_run(command, tmp_path, capsys):
    run(*command(*SMALL, "--epochs", "1"))
    folder = tmp_path / "runs" / "run"
    said = refusal(capsys, run, *command(*SMALL, "--epochs", "2"))
    assert f"give --init-from {folder} --name NEW" in said
    run(*command(*SMALL, "--epochs", "2", "--init-from", str(folder)), "--name", "new")
    said = refusal(capsys, run, *command(*SMALL, "--epochs", "2", "--lr", "1"))
    assert "give another --name, or delete that folder" in said


def test_a_disk_that_fails_for_a_moment_is_no_rival(path, monkeypatch):
    def failing(*_, **__):
        raise OSError(5, "Input/output error")

    with locks.Lock(path) as lock, monkeypatch.context() as patch:
        patch.setattr(locks, "read", lambda _: None)
        patch.setattr(type(path), "stat", failing)
        assert lock.rival() is None
