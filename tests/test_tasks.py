"""What tasks of a Slurm array see of each other; test_slurm.py tries it on two nodes."""

import json

import pytest

import locks
import slurm
import tasks
from board import Board


@pytest.fixture
def claims(tmp_path, monkeypatch):
    """Of task 7_0."""
    for name, value in (("ARRAY_JOB_ID", "7"), ("ARRAY_TASK_ID", "0"), ("JOB_ID", "8")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(locks, "squeue_said", (float("inf"), {"8"}))
    return tmp_path / "out" / "claims"


def looked(claims, monkeypatch, *answers):
    """What is said at once where squeue answers this, the last of it from then on."""
    answers = list(answers)
    monkeypatch.setattr(tasks.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(slurm, "ask", lambda *command: answers.pop(0) if len(answers) > 1 else answers[0])
    task = tasks.Task(claims)
    task.look_for_others()
    return task.complaint


def test_mark_is_there_while_the_task_works(claims):
    with tasks.Task(claims), tasks.Task(claims):  # two commands in one job
        assert [path.name for path in claims.iterdir()] == ["task-7_0"]
    assert not claims.exists()


def test_tasks_that_are_not_seen_are_named(claims, monkeypatch):
    claims.mkdir(parents=True)
    (claims / "task-7_0").touch()
    listed = "7_0 n0 10:00\n" + "".join(f"7_{i} n{i} 1-00:10:00\n" for i in range(1, 6))
    said = looked(claims, monkeypatch, listed)
    assert said.startswith(
        f"Slurm runs 7_1 on n1, 7_2 on n2, 7_3 on n3 and 2 more, which left no mark in {claims.parent}: if OUT is "
    )
    for i in range(1, 6):
        (claims / f"task-7_{i}").touch()
    assert looked(claims, monkeypatch, listed) is None


@pytest.mark.parametrize(
    "answers",
    [
        [None],  # squeue cannot be asked
        [""],
        ["7_1 n1 0:30"],  # it begins
        ["7_1 n1 10:00", "7_2 n2 10:00"],  # 7_1 ended just now, 7_2 took its mark away first
    ],
)
def test_no_alarm_without_reason(answers, claims, monkeypatch):
    assert looked(claims, monkeypatch, *answers) is None


def test_marks_of_killed_tasks_are_removed_at_the_end(claims):
    with tasks.Task(claims) as task:
        holder = json.loads(task.lock.path.read_text())
        for name, job in (("7_1", "9"), ("7_2", "8")):  # of which the second runs
            (claims / f"task-{name}").write_text(json.dumps(holder | {"host": "elsewhere", "job": job, "token": name}))
        Board(claims.parent, [], ["0"]).clear()
        assert {path.name for path in claims.iterdir()} == {"task-7_0", "task-7_2"}


def test_lack_of_squeue_is_said_once_and_of_scontrol_when_it_matters(claims, monkeypatch, capsys):
    monkeypatch.setattr(slurm, "ask", lambda *command: None)
    monkeypatch.setattr(locks, "squeue_said", (float("inf"), None))
    with tasks.Task(claims):
        pass
    out = capsys.readouterr().out
    assert "squeue cannot be asked here: that a task is gone shows only when its heartbeat stops" in out
    assert out.count("\n") == 1
    slurm.requeue_if_out_of_time(progressed=True)
    out = capsys.readouterr().out
    assert "scontrol cannot be asked about job 7_0: if its time limit ended it, submit the same line again" in out
    assert out.count("\n") == 1


def test_outside_of_slurm_nothing_happens(claims, monkeypatch, capsys):
    for name in ("ARRAY_JOB_ID", "ARRAY_TASK_ID", "JOB_ID"):
        monkeypatch.delenv(f"SLURM_{name}")
    with tasks.Task(claims):
        assert not claims.parent.exists()
    assert not capsys.readouterr().out
