"""Several processes at one comparison: each run is trained once, by one of them, and nothing is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from multiprocessing import get_context

import pytest

import compare as compare_py
import locks
import plan
from board import Board, Taken
from flags import HELD_CODE
from tests import processes, stand_in
from tests.processes import ROOT
from tests.refusals import refusal
from tests.test_compare import comparison_of
from tests.test_scripts import environment
from tuning import Recipe


@pytest.fixture
def compare(tmp_path):
    """Starts compare.sh with a stand-in for train.py; settings can be given."""
    path = stand_in.install(tmp_path / "bin")

    def begin(*flags, **settings):
        common = {"RUNS": "resnet eca_resnet", "SEEDS": "0 1", "OUT": str(tmp_path / "out"), "PATH": path}
        return processes.program(["bash", str(ROOT / "compare.sh"), *flags], environment(common | settings))

    return begin


def ended(running, code=0):
    out, err = running.communicate(timeout=60)
    assert running.returncode == code, out + err
    return out + err


def test_three_at_once_train_each_run_once(compare, tmp_path):
    with compare() as first, compare() as second, compare() as third:
        said = [ended(running) for running in (first, second, third)]
    out = tmp_path / "out"
    assert len(list(out.glob("*/result.json"))) == len(list(out.glob("*/events.*"))) == 4
    assert (out / "measured").read_text().count("once") >= 1
    assert (out / "report" / "report.md").read_text().splitlines()[-1] == "4 runs"
    assert not list(out.glob("**/lock*")) and not (out / "claims").exists(), said


def test_runs_of_one_that_was_killed_are_taken_over(compare, tmp_path):
    saved = tmp_path / "out" / "resnet-seed0" / "last.pt"
    with compare(STEPS="60") as running:
        while not saved.exists() or int(saved.read_text() or 0) < 3:
            assert running.poll() is None
            time.sleep(0.02)
        processes.signal_session(running.pid, signal.SIGKILL)
        running.wait()
    assert (tmp_path / "out" / "claims" / "resnet-seed0").exists()
    with compare(STEPS="60") as running:
        assert "is gone; this process goes on in its place" in ended(running)
    out = tmp_path / "out"
    assert len(list(out.glob("*/events.*"))) == len(list(out.glob("*/result.json"))) == 4
    assert not (out / "claims").exists()


@pytest.mark.parametrize("name", ["report", "measure_speeds"])
def test_what_a_process_of_another_machine_left_undone_is_done(name, tmp_path, monkeypatch):
    """Its lock is there, and only watching it shows that its holder is gone."""
    monkeypatch.setattr(locks, "WATCH_S", 0.3)
    monkeypatch.setattr(locks, "POLL_S", 0.05)
    made = comparison_of(tmp_path, monkeypatch)
    lock = locks.Lock(made.board.claims / name.removeprefix("measure_"))
    lock.stopped.set()
    lock.path.write_text(json.dumps(json.loads(lock.path.read_text()) | {"host": "elsewhere"}))
    getattr(made, name)()
    assert len(made.calls) == 1


def test_the_last_to_finish_waits_for_one_who_may_leave_the_report_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "POLL_S", 0.05)
    made = comparison_of(tmp_path, monkeypatch)
    lock = locks.Lock(made.board.claims / "report")
    threading.Timer(0.5, lock.release).start()
    made.report()
    assert len(made.calls) == 1 and not made.failures
    made.answer.code = 1
    made.report()
    assert made.failures == ["report"]


@pytest.mark.parametrize(
    ("name", "value", "is_refused"), [("JOB_GPUS", "0", True), ("GPUS", "0", False), ("GPUS", "1", True)]
)
def test_a_job_that_lost_its_gpu_does_not_train_on_the_cpu(name, value, is_refused, tmp_path, monkeypatch, capsys):
    """SLURM_JOB_GPUS numbers them, SLURM_GPUS counts them."""
    made = comparison_of(tmp_path, monkeypatch)
    facts = {"steps": 1, "batch_size": 1, "gpus": 0, "image_size": 32}
    made.children.run = lambda *_, **__: (0, json.dumps(facts))
    monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    refused = pytest.raises(SystemExit, match="1") if is_refused else nullcontext()
    with refused:
        made.check()
    assert ("Slurm gave this job a GPU" in capsys.readouterr().err) == is_refused
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the user's own wish
    made.check()


def test_a_checkpoint_that_was_cut_short_is_not_what_is_checked(tmp_path, monkeypatch):
    made = comparison_of(tmp_path, monkeypatch)
    (tmp_path / "out" / "resnet-seed0").mkdir(parents=True)
    (tmp_path / "out" / "resnet-seed0" / "last.pt").write_bytes(b"cut")
    facts = {"steps": 1, "batch_size": 1, "gpus": 0, "image_size": 32}
    made.children.run = lambda *_, **__: (0, json.dumps(facts))
    made.check()
    assert made.checked[made.checked.index("--name") + 1] == "eca_resnet-seed0"


def test_a_check_that_was_killed_ends_as_shells_say_it(tmp_path, monkeypatch):
    made = comparison_of(tmp_path, monkeypatch)
    made.children.run = lambda *_, **__: (-9, "")
    with pytest.raises(SystemExit, match="137"):
        made.check()


def test_a_report_that_was_stopped_is_work_that_is_left(tmp_path, monkeypatch):
    made, asked = comparison_of(tmp_path, monkeypatch), []
    for entry in made.board.overview()[0]:
        made.board.folder(*entry).mkdir(parents=True)
        (made.board.folder(*entry) / "result.json").write_text("{}")
    made.children.stopped_by = signal.SIGTERM
    monkeypatch.setattr(compare_py.slurm, "job", lambda: "7")
    monkeypatch.setattr(compare_py.slurm, "requeue_if_out_of_time", asked.append)
    for is_reported in (False, True):
        made.board.is_reported = lambda is_reported=is_reported: is_reported
        with pytest.raises(SystemExit, match="143"):
            made.leave_if_stopped()
        assert asked == [False]  # no progress; and once all is there, Slurm is not asked again
    made.board.is_reported = lambda: False
    made.children.stopped_by = signal.SIGINT  # a person's, in a job such as a notebook's
    with pytest.raises(SystemExit, match="130"):
        made.leave_if_stopped()
    assert asked == [False]


def test_a_report_lacks_what_came_while_it_was_drawn(tmp_path, monkeypatch):
    made = comparison_of(tmp_path, monkeypatch)

    def draw(*_, **__):
        (made.settings.out / "report").mkdir()
        for file in ("resnet-seed0/result.json", "report/slides.pptx"):
            (made.settings.out / file).parent.mkdir(exist_ok=True)
            (made.settings.out / file).write_text("{}")
            time.sleep(0.02)
        return 0, ""

    made.board.claims.mkdir(parents=True)
    made.children.run = draw
    made.report()
    assert (made.settings.out / "report" / "slides.pptx").exists() and not made.board.is_reported()


def test_one_fold_is_not_reported(tmp_path, monkeypatch, capsys):
    made = comparison_of(tmp_path, monkeypatch, SEEDS="0", RUNS="resnet")
    made.settings.user_flags = ["--folds", "2", "--fold", "0"]
    (tmp_path / "out" / "resnet-seed0").mkdir(parents=True)
    (tmp_path / "out" / "resnet-seed0" / "result.json").write_text("{}")
    made.finish()
    assert f"python report.py {tmp_path}" in capsys.readouterr().out and not made.calls
    made.settings.user_flags, made.settings.runs = [], [f"resnet:--folds=2:--fold={fold}" for fold in (0, 1)]
    assert not made.lacks_folds()


def test_a_run_whose_folder_was_removed_has_failed(tmp_path, monkeypatch):
    made = comparison_of(tmp_path, monkeypatch)
    made.board.claims.mkdir(parents=True)
    made.children.run = lambda *_, **__: (HELD_CODE, "")  # of train.py, which found its lock gone
    made.train(Taken("resnet", ["0"]), 60.0, {})
    assert made.failures == ["resnet with seed 0"]


def test_a_budget_that_another_command_began_meanwhile_is_refused(tmp_path, monkeypatch, capsys):
    made = comparison_of(tmp_path, monkeypatch)
    other = tmp_path / "out" / "se_resnet-seed0"
    other.mkdir(parents=True)
    (other / "result.json").write_text(json.dumps({"epochs": 7}))
    with pytest.raises(SystemExit, match="2"):
        made.train_what_is_left({})
    assert "se_resnet-seed0 has epochs 7, not" in capsys.readouterr().err and not made.calls


def test_a_finished_comparison_is_reported_where_its_speeds_cannot_be_measured(compare, tmp_path):
    """Its data may be elsewhere by now: --check fails."""
    with compare(SEEDS="0") as running:
        ended(running)
    report = tmp_path / "out" / "report" / "report.md"
    report.unlink()
    with compare(SEEDS="0", BROKEN="1") as running:
        assert "the speeds were not measured, because one run could not be prepared here" in ended(running)
    assert report.exists()


def test_speeds_are_measured_beside_a_run_that_failed(tmp_path, monkeypatch, capsys):
    made = comparison_of(tmp_path, monkeypatch)
    made.board.claims.mkdir(parents=True)
    assert not made.lacks_speeds()
    for run, seed in list(made.board.left)[1:]:
        made.board.folder(run, seed).mkdir(parents=True)
        (made.board.folder(run, seed) / "result.json").write_text("{}")
    lost = next(iter(made.board.left))
    made.board.note_failure(lost[0], [lost[1]])
    made.board.passed.add(lost)
    assert made.lacks_speeds()
    made.report = lambda: None
    made.finish()
    assert f"1 run is left: 1 failed in this array ({lost[0]} with seed {lost[1]})\n" in capsys.readouterr().out
    rows = [{"arch": arch, "settings": {}, "train_imgs_per_s": 1.0} for arch in ("resnet", "eca_resnet")]
    (made.settings.out / "cost.json").write_text(json.dumps({"rows": rows[:1]}))
    assert made.lacks_speeds()
    (made.settings.out / "cost.json").write_text(json.dumps({"rows": rows}))
    assert not made.lacks_speeds()


def test_a_plan_knows_the_hours_on_another_kind_of_machine(tmp_path, monkeypatch, capsys):
    """It would compute in another precision than the runs in OUT, so none of these is checked."""
    made = comparison_of(tmp_path, monkeypatch)
    facts, checked = {"steps": 100, "batch_size": 10, "gpus": 0, "image_size": 32}, []
    made.children.run = lambda command, **_: (checked.extend(command), (0, json.dumps(facts)))[1]
    made.settings.out.mkdir()
    rows = [
        {"arch": arch, "settings": {}, "image_size": 32, "train_imgs_per_s": 1.0} for arch in ("resnet", "eca_resnet")
    ]
    (made.settings.out / "cost.json").write_text(json.dumps({"rows": rows}))
    for name, value in (("GIVEN", ""), ("SCRIPT", "compare.sh")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(plan.signal, "signal", lambda *_: None)
    plan.show_plan(made, made.board.overview()[0])
    assert checked[-2:] == ["--out", str(made.board.claims / "plan")]
    assert " --time=" in capsys.readouterr().out


def test_half_a_report_is_none(tmp_path):
    board = Board(tmp_path, ["resnet"], ["0"])
    (tmp_path / "resnet-seed0").mkdir()
    (tmp_path / "report").mkdir()
    (tmp_path / "resnet-seed0" / "result.json").touch()
    os.utime(tmp_path / "resnet-seed0" / "result.json", (1, 1))
    (tmp_path / "report" / "learning.png").touch()
    assert not board.is_reported()
    (tmp_path / "report" / "slides.pptx").touch()
    assert board.is_reported()
    (tmp_path / "cost.json").touch()
    os.utime(tmp_path / "report" / "slides.pptx", (2, 2))  # from before the speeds were measured
    assert not board.is_reported()


def test_a_node_that_broke_leaves_the_runs_to_the_others(tmp_path, monkeypatch):
    made = comparison_of(tmp_path, monkeypatch)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    made.board.claims.mkdir(parents=True)
    made.checked, made.facts = ["check"], {"gpus": 1}
    for answer, is_broken in (((2, ""), True), ((0, '{"gpus": 0}'), True), ((0, '{"gpus": 1}'), False)):
        made.children.run = lambda command, *_, answer=answer, **__: answer if command == ["check"] else (1, "")
        failed = pytest.raises(compare_py.BrokenMachineError) if is_broken else nullcontext()
        with failed:
            made.train(Taken("resnet", ["0"]), 60.0, {})
        assert made.board.has_failed("resnet", "0") != is_broken


def test_run_that_someone_trains_is_left_to_them(compare, tmp_path):
    """The script was killed, its training lives on: it holds the folder."""
    saved = tmp_path / "out" / "resnet-seed0" / "last.pt"
    with compare(STEPS="200", SEEDS="0") as running:
        while not saved.exists():
            assert running.poll() is None
            time.sleep(0.02)
        os.kill(running.pid, signal.SIGKILL)
        with compare(STEPS="5", SEEDS="0") as second:
            assert "resnet: another process writes its folder; going on with the next run" in ended(second)
    assert not (saved.parent / "result.json").exists()
    assert (tmp_path / "out" / "eca_resnet-seed0" / "result.json").exists()


def test_minutes_stop_and_the_same_command_goes_on(compare, tmp_path):
    settings = {"STEPS": "40", "MINUTES": "0.05"}
    with compare("--save-every-s", "0", **settings) as running:
        said = ended(running)
    assert "MINUTES=0.05 is over: 3 of 4 runs are left; the same command continues" in said
    with compare("--save-every-s", "100", **settings) as running:
        said = ended(running)  # a run is to save at least once; a busy machine takes some seconds more to prepare
        assert re.search(r"MINUTES=0.05 is too short: a run is started only if 1[0-4]\d s are left", said)
    with compare(STEPS="40") as running:
        ended(running)
    assert len(list((tmp_path / "out").glob("*/events.*"))) == 4


def test_finished_runs_of_another_recipe_are_refused(compare):
    with compare(EPOCHS="5", SEEDS="0") as running:
        ended(running)
    for settings, flags, other in (
        ({"EPOCHS": "6"}, [], "epochs 5 there, 6"),
        ({}, ["--lr", "1"], "lr 0.4 there, 1.0"),
        ({}, ["--val-size", "0"], "val_size 0.1 there, 0.0"),
    ):
        with compare(*flags, **{"EPOCHS": "5", "SEEDS": "0"} | settings) as running:
            said = ended(running, code=2)
        assert f"holds another run ({other} here): correct the settings, or choose another " in said
        assert "5 runs" not in said and "Traceback" not in said


def test_other_runs_of_another_budget_are_refused_before_the_training(compare, tmp_path):
    with compare(EPOCHS="5", SEEDS="0", RUNS="resnet") as running:
        ended(running)
    with compare(EPOCHS="6", SEEDS="0", RUNS="eca_resnet") as running:
        said = ended(running, code=2)
    assert f"{tmp_path}/out/resnet-seed0 has epochs 5, not 6: choose another OUT" in said


def test_finished_runs_of_other_knobs_are_refused(tmp_path, monkeypatch, capsys):
    """TUNED may have another winner than before."""
    made = comparison_of(tmp_path, monkeypatch)
    made.board.result = lambda *_: {"settings": {"resnet.width": 24}, "val_size": None}
    made.settings.recipes = {"resnet": Recipe([], {"resnet.width": "24.0"})}
    made.refuse_other_recipe("resnet", "0")
    made.settings.recipes = {"resnet": Recipe([], {"resnet.width": "8"})}
    said = refusal(capsys, made.refuse_other_recipe, "resnet", "0")
    assert "knobs {'resnet.width': '24'} there, {'resnet.width': '8'} here" in said


def test_damaged_result_does_not_stop_a_search(tmp_path):
    board = Board(tmp_path, ["resnet:--lr=1", "resnet:--lr=2"], ["0", "1"], best=1)
    for lr, text in ((1, "{"), (2, '{"val_top1": 50.0}')):
        (tmp_path / f"resnet-lr={lr}-seed0").mkdir()
        (tmp_path / f"resnet-lr={lr}-seed0" / "result.json").write_text(text)
    assert board.overview()[0] == [("resnet:--lr=2", "1")]


def test_failed_run_is_tried_again_by_the_next_command_and_does_not_stop_the_others(compare, tmp_path):
    for _ in range(2):
        with compare(RUNS="lost_resnet resnet", SEEDS="0") as running:
            assert "failed: lost_resnet with seed 0" in ended(running, code=1)
    assert (tmp_path / "out" / "resnet-seed0" / "result.json").exists()


def test_failure_counts_in_its_own_array_of_tasks_alone(tmp_path, monkeypatch):
    board = Board(tmp_path, ["resnet"], ["0"])
    board.claims.mkdir()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    board.note_failure("resnet", ["0"])
    assert board.has_failed("resnet", "0")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    assert not board.has_failed("resnet", "0")


def held_elsewhere(board, run):
    """A claim of a process on another machine, which beats only when the test does."""
    lock = locks.Lock(board.claim_file(run, "0"))
    lock.stopped.set()
    lock.path.write_text(json.dumps(json.loads(lock.path.read_text()) | {"host": "elsewhere"}))
    return lock.path


def test_runs_that_others_train_are_not_waited_for_though_no_two_beat_at_once(tmp_path):
    board = Board(tmp_path, ["resnet", "eca_resnet"], ["0"])
    claims = [held_elsewhere(board, run) for run in ("resnet", "eca_resnet")]
    assert board.take() == []  # are they alive?
    os.utime(claims[0])
    assert board.take() == []
    os.utime(claims[1])
    assert board.take() is None


def test_a_run_that_failed_in_another_task_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    board = Board(tmp_path, ["resnet"], ["0"])
    claim = held_elsewhere(board, "resnet")
    assert board.take() == []
    board.note_failure("resnet", ["0"])
    claim.unlink()
    assert board.take() is None


def test_tuning_and_its_winners(compare, tmp_path):
    """All runs with the first seed, the best two of each architecture with all; a run that is lost is passed over."""
    settings = {"PRESET": "tuning", "RECIPE": "", "ARCHS": "resnet hornet_resnet", "SEEDS": "0 1 2", "STEPS": "1"}
    out = tmp_path / "out"
    environ = environment(settings | {"OUT": str(out), "PLAN": "1"})
    plan = subprocess.run(["bash", str(ROOT / "compare.sh")], env=environ, capture_output=True, text=True).stdout
    runs = [line.split()[0] for line in plan.splitlines()[1:-2]]
    assert len(runs) == 7 + 10  # HorNet also from its published start
    starts = "hornet.init=trunc:hornet.layer_scale=1e-6:hornet.scale=0.3333"
    assert f"hornet_resnet:{starts}:--optimizer=adamw:--lr=1e-3" in runs
    few = [f"{arch}:--lr={lr}" for arch in ("resnet", "eca_resnet") for lr in ("0.05", "0.1", "0.2", "0.4")]
    settings.pop("ARCHS")
    settings |= {"RUNS": " ".join([*few, "resnet:--cache-dir=lost"]), "JOBS": "2"}
    with compare(**settings) as running:
        assert "failed: resnet:--cache-dir=lost with seed 0" in ended(running, code=1)
    done = {path.parent.name for path in out.glob("*/result.json")}
    assert len(done) == 8 + 2 * 2 * 2
    assert {name for name in done if name.endswith("seed2")} == {
        f"{arch}-lr={lr}-seed2" for arch in ("resnet", "eca_resnet") for lr in ("0.1", "0.05")
    }
    with compare(TUNED=str(out), OUT=str(tmp_path / "long"), SEEDS="0", STEPS="1") as running:
        said = ended(running)
    assert re.search(r"^resnet: --optimizer sgd --lr 0.1 .*, the best of 4 recipes, with 3 seeds$", said, re.MULTILINE)
    rows = [json.loads(path.read_text()) for path in (tmp_path / "long").glob("*/result.json")]
    assert [row["lr"] for row in rows] == [0.1, 0.1]
    with compare(TUNED=str(out), RUNS="gmlp_resnet") as running:
        said = ended(running, code=2)
    assert f"TUNED: no rows of gmlp_resnet in {out}, only of eca_resnet resnet: tune first, with PRESET=tuning" in said


def test_ablations_are_a_comparison_of_a_list_of_their_own(tmp_path):
    settings = {"METHODS": "cspnet", "SEEDS": "0", "JOBS": "2", "OUT": str(tmp_path / "out"), "STEPS": "1"}
    settings["PATH"] = stand_in.install(tmp_path / "bin")
    subprocess.run(["bash", str(ROOT / "ablations.sh")], env=environment(settings), check=True)
    assert len(list((tmp_path / "out").glob("*/result.json"))) == 8
    assert (tmp_path / "out" / "report" / "report.md").read_text() == "8 runs\n"


def test_relative_folder_is_the_users(tmp_path):
    """Not the repository's: where the user stands."""
    settings = {"RUNS": "resnet", "SEEDS": "0", "OUT": "mine", "PATH": stand_in.install(tmp_path / "bin"), "STEPS": "1"}
    subprocess.run(["bash", str(ROOT / "compare.sh")], cwd=tmp_path, env=environment(settings), check=True)
    assert (tmp_path / "mine" / "resnet-seed0" / "result.json").exists()


def test_disk_that_is_not_there_is_one_line(compare, tmp_path):
    (tmp_path / "disk").touch()
    with compare(OUT=str(tmp_path / "disk" / "out")) as running:
        out, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert err.startswith(f"compare.sh: OUT={tmp_path}/disk/out cannot be used here: ") and err.count("\n") == 1, out


# ---------------------------------------------------------------------------------------------- many, without training


def take_all(out, n_runs, results):
    board = Board(out, [f"run{i}" for i in range(n_runs)], ["0"])
    taken, seconds = 0, 0.0
    while True:
        began = time.process_time()  # not of waiting for a core
        mine = board.take()
        seconds += time.process_time() - began
        if not mine:
            break
        folder = board.folder(mine.run, "0")
        folder.mkdir(parents=True)  # twice would fail
        (folder / "result.json").touch()
        board.give_back(mine)
        taken += 1
    results.put((taken, seconds))


def crowd(out, n_workers, n_runs):
    """(runs that were taken, seconds of taking in all processes together, seconds until the last one ended)."""
    context = get_context("fork")
    results = context.Queue()
    began = time.perf_counter()
    workers = [context.Process(target=take_all, args=(out, n_runs, results)) for _ in range(n_workers)]
    for worker in workers:
        worker.start()
    got = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return sum(taken for taken, _ in got), sum(seconds for _, seconds in got), time.perf_counter() - began


def test_crowd_takes_each_run_once(tmp_path):
    taken, _, _ = crowd(tmp_path, 16, 100)
    assert taken == len(list(tmp_path.glob("*/result.json"))) == 100
    assert not list((tmp_path / "claims").iterdir())


def test_a_failure_on_a_machine_without_gpus_does_not_break_it(tmp_path, monkeypatch):
    made = comparison_of(tmp_path, monkeypatch)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    made.board.claims.mkdir(parents=True)
    made.checked, made.facts = ["check"], {"gpus": 0}
    made.children.run = lambda command, *_, **__: (0, '{"gpus": 0}') if command == ["check"] else (1, "")
    made.train(Taken("resnet", ["0"]), 60.0, {})
    assert made.board.has_failed("resnet", "0")


def test_run_of_a_machine_that_died_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WATCH_S", 0.2)
    board = Board(tmp_path, ["resnet"], ["0"])
    held_elsewhere(board, "resnet")
    assert board.take() == []
    time.sleep(0.3)
    taken = board.take()
    board.give_back(taken)
    assert taken.seeds == ["0"]


if __name__ == "__main__":  # the cost of taking a run: python -m tests.test_board
    from pathlib import Path
    from tempfile import TemporaryDirectory

    for n_runs in map(int, sys.argv[1:] or (100, 500, 1000, 2000)):
        with TemporaryDirectory() as folder:
            taken, seconds, wall = crowd(Path(folder), 64, n_runs)
            print(
                f"{n_runs} runs: {taken} taken by 64 processes in {wall:.1f} s, {1000 * seconds / taken:.2f} ms of a core each"
            )
