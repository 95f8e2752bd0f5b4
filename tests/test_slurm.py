"""compare.sh as tasks of a real Slurm, where one can be started."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import latency
import slurm
import speed
from flags import parse_args
from settings import read_settings, train_command
from speed import parse_run
from tests import slurm_cluster, stand_in
from tests.processes import ROOT
from tests.runs import assert_same
from tests.test_compare import SETTINGS
from tests.test_scripts import environment


@pytest.mark.parametrize(
    ("state", "run", "limit", "expected"),
    [
        ("RUNNING", "00:58:40", "01:00:00", True),
        ("TIMEOUT", "01:00:10", "01:00:00", True),
        ("RUNNING", "00:10:00", "01:00:00", False),  # someone else's signal
        ("CANCELLED", "00:59:00", "01:00:00", False),
        ("PREEMPTED", "00:59:00", "01:00:00", False),
        ("COMPLETING", "00:59:50", "01:00:00", True),
        ("COMPLETING", "00:00:00", "00:02:00", False),  # requeued already
        ("RUNNING", "2-00:00:00", "UNLIMITED", False),
        ("RUNNING", "1-23:59:00", "2-00:00:00", True),
        ("COMPLETING", "23:46:00", "1-00:00:00", True),
        ("COMPLETING", "23:44:00", "1-00:00:00", False),  # scancel, more than a quarter of an hour before the limit
    ],
)
def test_end_by_the_time_limit_is_told_from_a_persons(state, run, limit, expected):
    shown = f"JobId=7 JobName=x\n   JobState={state} Reason=None\n   RunTime={run} TimeLimit={limit} TimeMin=N/A"
    assert slurm.is_out_of_time(shown) == expected


def test_of_several_records_the_first_counts():
    """One task of an array has the id of the whole: asked for it, scontrol shows all tasks."""
    own = "JobId=8 ArrayJobId=7 JobState=RUNNING\n   RunTime=00:58:40 TimeLimit=01:00:00"
    other = "JobId=7 ArrayJobId=7 JobState=COMPLETED\n   RunTime=00:10:00 TimeLimit=01:00:00"
    assert slurm.is_out_of_time(f"{own}\n\n{other}\n") and not slurm.is_out_of_time(f"{other}\n\n{own}\n")


def test_without_slurm_nothing_is_asked():
    assert slurm.ask("no-such-command-of-slurm") is None
    assert not slurm.is_out_of_time(None)


def test_line_follows_from_the_measured_speeds():
    line = slurm.sbatch_line(
        ["SEEDS='0 1'"], ["compare.sh", "--lr", "1"], [("a", 3), ("b", 1)], {"a": 1.0, "b": 2.5}, 8
    )
    assert line == (
        "SEEDS='0 1' sbatch --array=0-1 --time=04:45:00 --nodes=1 --gpus=8 --requeue --signal=B:TERM@90 --open-mode=append "
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
        command = [
            "sbatch",
            "--parsable",
            "--open-mode=append",
            log,
            f"--chdir={ROOT}",
            *flags,
            *([script] if script else []),
        ]
        return say(*command, **settings)

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


def test_disturbed_tasks_lose_nothing(tasks, tmp_path):
    """One is requeued, one cancelled, one killed, one preempted, and the node of the others goes down; afterwards the same line
    again finishes the rest."""
    settings = {"STEPS": "40", "GO": str(tmp_path / "go")}  # nothing is finished before that
    job = tasks.submit("--array=0-5", "--requeue", **settings)
    wait_until(lambda: sum(int(read(path) or 0) >= 10 for path in tasks.out.glob("*/last.pt")) == 6)
    listed = tasks.say("squeue", "-h", "-r", "-j", job, "-o", "%i %A %N").splitlines()
    ids, nodes = ({line.split()[0]: line.split()[i] for line in listed} for i in (1, 2))
    first, *others = sorted(nodes, key=nodes.get)
    cancelled, killed, *last = others
    assert [nodes[name] for name in (first, cancelled, killed, *last)] == ["n0"] * 3 + ["n1"] * 3
    holders = [json.loads(path.read_text()) for path in (tasks.out / "claims").glob("*seed*")]
    pids = {holder["job"]: holder["pid"] for holder in holders}

    def waiting():
        return set(tasks.say("squeue", "-h", "-r", "-j", job, "-t", "pending", "-o", "%i").split())

    tasks.say("scontrol", "requeue", first)
    tasks.say("scancel", cancelled)
    os.kill(pids[ids[killed]], signal.SIGKILL)
    tasks.say("sbatch", "--partition=urgent", "--nodelist=n1", "--output=/dev/null", "--wrap=true")
    wait_until(lambda: len(waiting() & set(last)) >= 1)
    tasks.say("scontrol", "update", "nodename=n1", "state=down", "reason=test")
    wait_until(lambda: waiting() >= {first, *last})
    tasks.say("scontrol", "update", "nodename=n1", "state=resume")
    (tmp_path / "go").touch()
    wait_until(lambda: is_over(tasks))
    tasks.submit("--array=0-5", "--requeue", **settings)
    wait_until(lambda: is_over(tasks))
    assert_complete(tasks.out, 8)


def test_tasks_that_see_different_folders_say_so(tasks):
    """Each node has a disk of its own."""
    own = f"--wrap=OUT={tasks.out}/$SLURMD_NODENAME exec bash compare.sh"
    settings = {"STEPS": "3000", "LOOK_AFTER_S": "2"}
    job = tasks.submit("--array=0-1", "--cpus-per-task=3", own, script=None, **settings)
    wait_until(lambda: all("which left no mark in" in tasks.log(i) for i in (0, 1)))
    tasks.say("scancel", job)
    wait_until(lambda: is_over(tasks))
    names = {
        i: re.search(r"Slurm runs (\S+) on (n\d), which left no mark in \S+/(n\d): if", tasks.log(i)).groups()
        for i in (0, 1)
    }
    assert {names[0], names[1]} in (
        {(f"{job}_1", "n1", "n0"), (f"{job}_0", "n0", "n1")},
        {(f"{job}_1", "n0", "n1"), (f"{job}_0", "n1", "n0")},
    )
    assert tasks.log().splitlines()[-1].startswith("Slurm runs ")  # where the log ends
    assert not list(tasks.out.glob("*/claims"))


def test_mistakes_of_a_job_are_one_line(tasks, tmp_path):
    """Started elsewhere than in the repository; and without squeue."""
    tasks.say("sh", "-c", f"cd {tmp_path} && sbatch --output={tmp_path}/log-0 {ROOT}/compare.sh")
    wait_until(lambda: is_over(tasks))
    assert tasks.log() == f"compare.sh: {tmp_path} is not the repository: start sbatch in the folder of compare.sh\n"
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "squeue").chmod(0o755)
    tasks.submit("--array=0-1", STEPS="1")
    wait_until(lambda: all("squeue cannot be asked here" in tasks.log(i) for i in (0, 1)))
    wait_until(lambda: len(list(tasks.out.glob("*/result.json"))) == 8 and not (tasks.out / "claims").exists())
    assert all(tasks.log(i).count("squeue cannot be asked here") == 1 for i in (0, 1))


def test_time_limit_asks_for_another_turn(tasks):
    """A minute is Slurm's least; its signal comes early in it, and what is left is done in the next turns."""
    job = tasks.submit(
        "--array=0", "--time=1", "--requeue", "--signal=B:TERM@20", SEEDS="0", RUNS="resnet", STEPS="3000"
    )
    wait_until(lambda: "is over, with work left: requeued" in tasks.log())
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


def write_speeds(settings, flags):
    """The file of a cost pass over the runs, with speeds that nobody measured."""
    recipe, cpu = parse_args(flags), torch.device("cpu")
    rows = []
    for arch, set_knobs in map(parse_run, settings["RUNS"].split()):
        row = {"arch": arch, "settings": set_knobs, "image_size": recipe.image_size}
        rows.append(
            row | {"train_imgs_per_s": 500.0, "eval_imgs_per_s": 900.0, "latency_ms": 2.0, "latency_p95_ms": 3.0}
        )
    places = latency.places(cpu) | {"exported": None}
    conditions = speed.conditions(recipe.batch_size, recipe.amp, recipe.compile)
    speed.write(Path(settings["OUT"]) / "cost.json", conditions | {"latency": places}, rows)


def test_numbers_are_those_of_one_process(small, cluster, tmp_path):
    """Real trainings: two tasks of Slurm's, and this process."""
    pytest.importorskip("pptx", reason="requirements-report.txt is not installed")
    settings, flags = small
    settings |= {"RUNS": "resnet:resnet.depth=8 eca_resnet:resnet.depth=8", "SEEDS": "0"}
    write_speeds(settings, flags)
    environ = environment(settings | cluster)
    slurm_cluster.said(
        environ, "sbatch", "--array=0-1", f"--output={tmp_path}/log-%a", f"--chdir={ROOT}", "compare.sh", *flags
    )
    alone = read_settings(SETTINGS | settings | {"OUT": str(tmp_path / "one")}, flags)
    for name in settings["RUNS"].split():
        command = train_command(alone, name, ["0"])
        subprocess.run(command, env=environment(settings), capture_output=True, check=True)
    wait_until(lambda: not slurm_cluster.said(environ, "squeue", "-h"), 300)
    log = read(tmp_path / "log-0") + read(tmp_path / "log-1")
    files = sorted((tmp_path / "one").glob("*/result.json"))
    assert len(files) == 2
    for file in files:
        rows = [json.loads(path.read_text()) for path in (file, tmp_path / "out" / file.relative_to(tmp_path / "one"))]
        for row in rows:
            for name in ("started", "peak_memory_mb"):
                del row[name]
        assert_same(*rows)
    assert (tmp_path / "out" / "report" / "report.md").exists(), log


@pytest.mark.parametrize(
    ("progressed", "answer", "asked", "line"),
    [
        (True, "", True, "is over, with work left: requeued"),
        (True, None, True, "cannot be requeued: submit it with --requeue"),
        (False, "", False, "is too short: no run made progress in it; raise --time"),
    ],
)
def test_own_element_is_requeued_unless_it_got_no_further(progressed, answer, asked, line, monkeypatch, capsys):
    calls = []

    def ask(*command):
        calls.append(command)
        return "JobState=TIMEOUT" if command[1] == "show" else answer

    monkeypatch.setattr(slurm, "ask", ask)
    for name, value in (("ARRAY_JOB_ID", "7"), ("ARRAY_TASK_ID", "3"), ("JOB_ID", "9")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    slurm.requeue_if_out_of_time(progressed)
    assert (("scontrol", "requeue", "7_3") in calls) == asked
    assert line in capsys.readouterr().out


def test_slurm_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(slurm, "ASK_S", 0.1)
    assert slurm.ask("sleep", "5") is None
