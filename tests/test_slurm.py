"""compare.sh as tasks of a real Slurm, where one can be started."""

import json
import os
import signal
import time
from types import SimpleNamespace

import pytest

import slurm
from tests import processes, slurm_cluster, stand_in
from tests.processes import ROOT
from tests.runs import assert_same
from tests.test_scripts import environment


@pytest.mark.parametrize(
    ("state", "run", "limit", "expected"),
    [
        ("RUNNING", "00:58:40", "01:00:00", True),
        ("TIMEOUT", "01:00:10", "01:00:00", True),
        ("RUNNING", "00:10:00", "01:00:00", False),  # someone else's signal
        ("CANCELLED", "00:59:00", "01:00:00", False),
        ("PREEMPTED", "00:59:00", "01:00:00", False),
        ("RUNNING", "2-00:00:00", "UNLIMITED", False),
        ("RUNNING", "1-23:59:00", "2-00:00:00", True),
    ],
)
def test_end_by_the_time_limit_is_told_from_a_persons(state, run, limit, expected):
    shown = f"JobId=7 JobName=x\n   JobState={state} Reason=None\n   RunTime={run} TimeLimit={limit} TimeMin=N/A"
    assert slurm.is_out_of_time(shown) == expected


def test_without_slurm_nothing_is_asked():
    assert slurm.ask("no-such-command-of-slurm") is None
    assert not slurm.is_out_of_time(None)


def test_line_follows_from_the_measured_speeds():
    waiting = [("a", "0"), ("b", "0"), ("a", "1")]
    line = slurm.sbatch_line(["SEEDS='0 1'"], ["compare.sh", "--lr", "1"], waiting, {"a": 1.0, "b": 2.5})
    assert line == (
        "SEEDS='0 1' sbatch --array=0-2 --time=04:00:00 --gpus=1 --requeue --signal=B:TERM@90 --open-mode=append "
        "compare.sh --lr 1"
    )


# ------------------------------------------------------------------------------------------------------ a real one


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if reason := slurm_cluster.why_not():
        pytest.skip(reason)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm") / "of") as variables:
        yield variables


@pytest.fixture
def tasks(cluster, tmp_path):
    """Tasks of compare.sh with a stand-in for training: submit(line, **settings), and what else is needed."""
    path = stand_in.install(tmp_path / "bin")
    common = {
        "RUNS": "resnet eca_resnet gmlp_resnet mixer_resnet",
        "SEEDS": "0 1",
        "OUT": str(tmp_path / "out"),
        "PATH": path,
    }

    def say(*command, **settings):
        return slurm_cluster.said(environment(common | cluster | settings), *command)

    def submit(*flags, script="compare.sh", **settings):
        log = f"--output={tmp_path}/log-%a"
        return say("sbatch", "--parsable", "--open-mode=append", log, f"--chdir={ROOT}", *flags, script, **settings)

    return SimpleNamespace(submit=submit, say=say, out=tmp_path / "out", log=lambda i=0: read(tmp_path / f"log-{i}"))


def read(path):
    return path.read_text() if path.exists() else ""


def wait_until(condition, seconds=170):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_over(tasks):
    return not tasks.say("squeue", "-h", "-o", "%i %T")


def assert_complete(out, n):
    assert len(list(out.glob("*/result.json"))) == len(list(out.glob("*/events.*"))) == n
    assert (out / "report" / "report.md").read_text().splitlines()[-1] == f"{n} runs"
    assert not (out / "claims").exists() and not list(out.glob("*/lock*"))


def test_four_tasks_on_two_nodes_train_each_run_once(tasks):
    tasks.submit("--array=0-3", STEPS="20")
    wait_until(lambda: is_over(tasks))
    logs = [tasks.log(i) for i in range(4)]
    assert all("8 runs in" in log for log in logs), logs
    assert_complete(tasks.out, 8)


def test_disturbed_tasks_lose_nothing(tasks):
    """One is requeued, one cancelled, one killed; afterwards the same line finishes the rest."""
    job = tasks.submit("--array=0-3", "--requeue", STEPS="100")
    wait_until(lambda: len(list(tasks.out.glob("*/last.pt"))) == 4)
    holders = [json.loads(path.read_text()) for path in (tasks.out / "claims").glob("*seed0")]
    ids = {f"{job}_{i}": tasks.say("squeue", "-h", "-r", "-j", f"{job}_{i}", "-o", "%A") for i in range(4)}
    pids = {holder["job"]: holder["pid"] for holder in holders}
    tasks.say("scontrol", "requeue", f"{job}_1")
    tasks.say("scancel", f"{job}_2")
    os.kill(pids[ids[f"{job}_3"]], signal.SIGKILL)
    wait_until(lambda: is_over(tasks))
    tasks.submit("--array=0-3", "--requeue", STEPS="100")
    wait_until(lambda: is_over(tasks))
    assert_complete(tasks.out, 8)


def test_time_limit_asks_for_another_turn(tasks):
    """A minute is Slurm's least; its signal comes early in it, and what is left is done in the next turns."""
    job = tasks.submit(
        "--array=0", "--time=1", "--requeue", "--signal=B:TERM@55", SEEDS="0", RUNS="resnet", STEPS="3000"
    )
    wait_until(lambda: "is over, with runs left: requeued" in tasks.log())
    assert "is too short" not in tasks.log()
    wait_until(lambda: "PENDING" in tasks.say("squeue", "-h", "-j", job, "-o", "%T"))
    tasks.say("scancel", job)
    wait_until(lambda: is_over(tasks))
    assert len(list(tasks.out.glob("*/events.*"))) == 1


def test_what_a_person_ends_is_not_requeued(tasks):
    job = tasks.submit("--array=0", "--requeue", "--time=10", SEEDS="0", RUNS="resnet", STEPS="3000")
    wait_until(lambda: list(tasks.out.glob("*/last.pt")))
    tasks.say("scancel", job)
    wait_until(lambda: is_over(tasks))
    assert "requeued" not in tasks.log()
    assert (tasks.out / "resnet-seed0" / "status").exists()


def test_numbers_are_those_of_one_process(photos, cluster, tmp_path):
    """Real trainings: two tasks of Slurm's, and one process."""
    pytest.importorskip("pptx", reason="requirements-report.txt is not installed")
    small = "resnet.depth=8:resnet.width=4"
    settings = {"RUNS": f"resnet:{small} eca_resnet:{small}", "SEEDS": "0", "DATASET": "folder", "EPOCHS": "1"}
    settings |= {"OMP_NUM_THREADS": "1"}
    flags = [
        "--data-dir",
        str(photos),
        "--cache-dir",
        str(tmp_path / "cache"),
        "--batch-size",
        "20",
        "--max-steps",
        "2",
    ]
    environ = environment(settings | cluster | {"OUT": str(tmp_path / "tasks")})
    slurm_cluster.said(
        environ, "sbatch", "--array=0-1", f"--output={tmp_path}/log-%a", f"--chdir={ROOT}", "compare.sh", *flags
    )
    wait_until(lambda: not slurm_cluster.said(environ, "squeue", "-h"), 300)
    log = read(tmp_path / "log-0") + read(tmp_path / "log-1")
    with processes.program(
        ["bash", "compare.sh", *flags], environment(settings | {"OUT": str(tmp_path / "one")})
    ) as one:
        out, err = one.communicate(timeout=300)
    assert one.returncode == 0, out + err
    files = sorted((tmp_path / "one").glob("*/result.json"))
    assert len(files) == 2
    for file in files:
        alone = json.loads(file.read_text())
        other = json.loads((tmp_path / "tasks" / file.relative_to(tmp_path / "one")).read_text())
        for row in (alone, other):
            for name in ("started", "peak_memory_mb"):
                del row[name]
        assert_same(alone, other)
    assert (tmp_path / "tasks" / "report" / "report.md").exists(), log


@pytest.mark.parametrize(
    ("progressed", "left", "answer", "asked", "line"),
    [
        (True, True, "", True, "is over, with runs left: requeued"),
        (True, True, None, True, "cannot be requeued: start it with --requeue"),
        (False, True, "", False, "is too short: no run got further in it; raise --time"),
        (True, False, "", False, ""),
    ],
)
def test_own_element_is_requeued_unless_it_got_no_further(progressed, left, answer, asked, line, monkeypatch, capsys):
    calls = []

    def ask(*command):
        calls.append(command)
        return "JobState=TIMEOUT" if command[1] == "show" else answer

    monkeypatch.setattr(slurm, "ask", ask)
    for name, value in (("ARRAY_JOB_ID", "7"), ("ARRAY_TASK_ID", "3"), ("JOB_ID", "9")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    slurm.requeue_if_out_of_time(progressed, left)
    assert (("scontrol", "requeue", "7_3") in calls) == asked
    assert line in capsys.readouterr().out
