"""compare.py and settings.py: what is asked for, and what is done about the runs that are left."""

import json
import signal
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import children
import compare
from board import Taken
from flags import parse_args
from locks import Lock
from settings import HERE, read_settings, train_command, train_flags, without_default
from tests.refusals import refusal
from tuning import Recipe

SETTINGS = {
    "SEEDS": "0 1", "EPOCHS": "100", "DATASET": "cifar100", "OUT": "out", "NPROC": "1", "JOBS": "1", "MINUTES": "0",
    "RECIPE": "", "TUNED": "", "RUNS": "resnet eca_resnet",
}  # fmt: skip


def test_parts_of_a_run_become_flags():
    """Knobs, flags and the name of a foreign network. The preset's flags come first, the user's last, and so count."""
    runs = [
        "torchvision:resnet18:--pretrained:--freeze=backbone",
        "eca_resnet:eca.kernel_size=5:--init-from=runs/a/model",
    ]
    environ = SETTINGS | {"RUNS": " ".join(runs), "RECIPE": "--optimizer adamw --lr 5e-4 --image-size 64"}
    settings = read_settings(environ, ["--lr", "1"])
    one, several = train_command(settings, runs[0], ["3"]), train_command(settings, runs[1], ["0", "1"])
    recipe = "--optimizer adamw --lr 5e-4 --image-size 64"
    common = "--epochs 100 --dataset cifar100"
    assert " ".join(one[2:]) == (
        f"--arch torchvision:resnet18 {common} --seed 3 --out out "
        f"--name torchvision-resnet18-pretrained-freeze=backbone-seed3 {recipe} --pretrained --freeze=backbone --lr 1"
    )
    assert " ".join(several[2:]) == (
        f"--arch eca_resnet {common} --seed 0 1 --set eca.kernel_size=5 --out out "
        f"--name eca_resnet-eca.kernel_size=5-init-from=runs-a-model-seed{{seed}} {recipe} --init-from=runs/a/model --lr 1"
    )


def test_the_order_of_methods_in_a_name_makes_no_other_run(tmp_path):
    (tmp_path / "search" / "a").mkdir(parents=True)
    row = {"arch": "eca_ghostnet_resnet", "settings": {}, "seed": 0, "val_top1": 50.0, "optimizer": "sgd", "lr": 0.4}
    (tmp_path / "search" / "a" / "result.json").write_text(json.dumps(row))
    runs = "ghostnet_eca_resnet:ghostnet.ratio=4 torchvision:vgg11_bn"
    assert read_settings(SETTINGS | {"RUNS": runs}, []).runs == [
        "eca_ghostnet_resnet:ghostnet.ratio=4",
        "torchvision:vgg11_bn",
    ]
    settings = read_settings(SETTINGS | {"RUNS": "ghostnet_eca_resnet", "TUNED": str(tmp_path / "search")}, [])
    assert "--lr 0.4" in " ".join(train_flags(settings, settings.runs[0], ["0"]))


def test_settings_without_their_default_are_named(tmp_path):
    runs = "resnet resnet:resnet.width=24 eca_resnet:resnet.depth=8 se_resnet:resnet.depth=8 resnet18:resnet.width=64"
    runs += " convnext_resnet:convnext.layer_scale=1e-6"  # one form with a knob of its own is judged
    (tmp_path / "se_resnet-seed0").mkdir()
    assert without_default(read_settings(SETTINGS | {"RUNS": runs, "OUT": str(tmp_path)}, [])) == ["eca_resnet"]


@pytest.mark.parametrize("by_signal", [False, True])
def test_failed_runs_are_named_however_the_command_ends(by_signal, tmp_path, monkeypatch, capsys):
    def work(self):
        self.failures.append("resnet with seed 0")
        self.children.stopped_by = signal.SIGTERM if by_signal else 0

    settings = SETTINGS | {"PRESET": "methods", "OUT": str(tmp_path / "out"), "PLAN": "", "REPORT": ""}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("check", "measure_speeds"):
        monkeypatch.setattr(compare.Comparison, name, lambda _: None)
    monkeypatch.setattr(compare.Comparison, "work", work)
    monkeypatch.setattr(compare.Comparison, "lacks_speeds", lambda _: False)
    monkeypatch.setattr(compare, "Children", lambda: SimpleNamespace(stopped_by=0))
    assert "failed: resnet with seed 0\n" in refusal(capsys, compare.main, [], code=143 if by_signal else 1)


def test_a_program_may_be_given_a_limit():
    began = time.monotonic()
    code, _ = children.Children().run([sys.executable, "-c", "import time; time.sleep(60)"], limit_s=0.5)
    assert code == -signal.SIGTERM and time.monotonic() - began < 30


def test_signal_that_was_ignored_at_the_start_stays_ignored():
    was = {number: signal.getsignal(number) for number in children.STOP_SIGNALS}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop = children.Children().stop
        assert (signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)) == (signal.SIG_IGN, stop)
    finally:
        for number, handler in was.items():
            signal.signal(number, handler)


def test_flags_that_the_recipe_completes_are_taken():
    settings = SETTINGS | {"DATASET": "auto", "RECIPE": "--pretrained"}
    assert read_settings(settings, ["--freeze", "backbone"]).dataset == "cifar100"
    settings |= {"RECIPE": "--freeze backbone", "RUNS": "vit:--pretrained", "BEST": "2"}
    assert read_settings(settings, []).dataset == "cifar100"


def test_home_is_meant_by_a_tilde(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/ada")
    assert read_settings(SETTINGS | {"OUT": "~/runs"}, []).out == Path("/home/ada/runs")
    said = refusal(capsys, read_settings, SETTINGS | {"TUNED": "~/search"}, [])
    assert "TUNED: no runs in /home/ada/search" in said


def test_a_runs_own_flags_count_for_more_than_a_tuned_recipe():
    settings = read_settings(SETTINGS | {"SEEDS": "00 1", "RECIPE": "--optimizer adamw --lr 5e-4"}, [])
    found = Recipe(["--optimizer", "sgd", "--lr", "0.1"], {"resnet.width": "8"})
    settings.recipes = {"resnet": found}
    flags = parse_args(train_flags(settings, "resnet:resnet.width=12:--lr=0.5", settings.seeds))
    assert (flags.lr, flags.settings, flags.seeds) == (0.5, {"resnet.width": "12"}, [0, 1])
    tuned, other = (parse_args(train_flags(settings, arch, ["0"])) for arch in ("resnet", "vit"))
    assert (tuned.optimizer, tuned.lr, other.optimizer, other.lr) == ("sgd", 0.1, "adamw", 5e-4)
    settings.user_flags = ["--lr", "1"]
    assert parse_args(train_flags(settings, "resnet", ["0"])).lr == 1


def comparison_of(tmp_path, monkeypatch, **settings):
    """A comparison whose programs only note how they were called, in .calls, and end with .answer.code."""
    calls = []
    answer = SimpleNamespace(code=0, during=lambda: None)

    def run(command, *_, **__):
        calls.append(command)
        answer.during()
        return answer.code, ""

    programs = SimpleNamespace(stopped_by=0, run=run)
    monkeypatch.setattr(compare, "Children", lambda: programs)
    monkeypatch.setenv("REPORT", "")
    made = compare.Comparison(read_settings(SETTINGS | {"OUT": str(tmp_path / "out")} | settings, []))
    made.calls, made.answer = calls, answer
    return made


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    return comparison_of(tmp_path, monkeypatch, RUNS="resnet", SEEDS="0 1 2 3")


def test_speeds_are_of_images_of_the_data_sets_size(comparison):
    comparison.facts = {"image_size": 64, "steps": 1, "batch_size": 1}
    comparison.measure_speeds()
    (command,) = comparison.calls
    assert command[-2:] == ["--image-size", "64"]


def test_speeds_are_measured_with_the_flags_that_those_of_all_runs_may_need(tmp_path, monkeypatch):
    made = comparison_of(tmp_path, monkeypatch, RUNS="resnet:--folds=5:--fold=0:--lr=0.1")
    made.measure_speeds()
    (command,) = made.calls
    assert [part for part in command if part.startswith("--")] == ["--out", "--folds=5", "--fold=0"]


def test_speeds_are_measured_within_the_minutes(tmp_path, monkeypatch):
    limits = []
    for minutes in ("0", "2"):
        made = comparison_of(tmp_path, monkeypatch, MINUTES=minutes)
        made.children.run = lambda _, limit_s: (limits.append(limit_s), (0, ""))[1]
        made.board.left.clear()
        assert made.lacks_speeds()
        made.measure_speeds()
    assert limits[0] is None and 100 < limits[1] <= 120
    made.has_measured, made.deadline = False, 0.0
    assert not made.lacks_speeds()


def test_minutes_that_the_check_uses_up_are_too_short(tmp_path, monkeypatch, capsys):
    """Three minutes, of which the check takes 100 s: 80 are left, and a run is started only if 160 are."""
    made = comparison_of(tmp_path, monkeypatch, MINUTES="3", RUNS="resnet", SEEDS="0")
    now, took_s = time.monotonic(), iter((0, 100))
    monkeypatch.setattr(compare.time, "monotonic", lambda: now + next(took_s, 100))
    made.children.run = lambda *_, **__: (0, '{"gpus": 0, "image_size": 32}')
    made.check()
    made.work()
    made.finish()
    assert "MINUTES=3 is too short: a run is started only if 160 s are left" in capsys.readouterr().out


def test_damaged_speeds_are_named(comparison, capsys):
    comparison.settings.out.mkdir()
    (comparison.settings.out / "cost.json").write_text("<<<<<<< HEAD")
    assert "cost.json is damaged: delete it" in refusal(capsys, comparison.speed_rows, code=1)


def test_speeds_that_cannot_be_measured_do_not_stop_the_training(comparison, capsys):
    comparison.answer.code = 1
    comparison.measure_speeds()
    assert "could not be measured: going on without them" in capsys.readouterr().out
    comparison.answer.code = 2
    with pytest.raises(SystemExit):
        comparison.measure_speeds()


def write_file(comparison, seed, name, content="{}"):
    path = comparison.board.folder("resnet", seed) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_an_existing_run_is_checked_rather_than_a_new_one(comparison):
    """A finished one above all: the others are compared with it, so its data must be theirs."""
    facts = {"steps": 1, "batch_size": 1, "gpus": 0, "image_size": 32}
    comparison.children.run = lambda *_, **__: (0, json.dumps(facts))

    def checked():
        comparison.check()
        return comparison.checked[comparison.checked.index("--name") + 1]

    assert checked() == "resnet-seed0"
    write_file(comparison, "2", "last.pt")
    zipfile.ZipFile(comparison.board.folder("resnet", "2") / "last.pt", "w").close()
    assert checked() == "resnet-seed2"
    write_file(comparison, "3", "result.json")
    assert checked() == "resnet-seed3"


@pytest.mark.parametrize(
    "other", [{"dataset": "cifar10"}, {"max_steps": 9}, {"val_size": 0.2}, {"folds": 5, "val_size": None}]
)
def test_a_run_of_another_budget_is_refused_whatever_differs(other, comparison, capsys):
    write_file(comparison, "1", "result.json", json.dumps(other))
    name, value = next(iter(other.items()))
    said = refusal(capsys, comparison.refuse_other_budget, "resnet", "0")
    assert f"resnet-seed1 has {name} {value}, not " in said


def test_a_dead_owner_and_an_old_status_do_not_hide_a_failure(comparison):
    """One process was killed and left its lock; one had been stopped the day before, and now ended before its first step."""
    lock = Lock(comparison.board.folder("resnet", "0") / "lock")
    lock.stopped.set()
    holder = json.loads(lock.path.read_text())
    lock.path.write_text(json.dumps(holder | {"process_started": holder["process_started"] - 100}))
    write_file(comparison, "1", "status", "SIGTERM at step 7")
    comparison.board.claims.mkdir()
    comparison.answer.code = 1
    comparison.train(Taken("resnet", ["0", "1"]), 60.0, {})
    assert comparison.failures == ["resnet with seed 0", "resnet with seed 1"]


@pytest.mark.parametrize(
    ("code", "failed"),
    [
        (compare.TIME_IS_UP_CODE, ["2"]),
        (1, ["2"]),
        (2, ["0", "1", "2"]),
        (-9, ["0", "1", "2"]),
        (compare.HELD_CODE, []),
        (0, ["0", "1", "2"]),
    ],
)
def test_only_seeds_that_failed_are_told_as_failed(comparison, code, failed):
    """Of four seeds in a call one was stopped in time, another process trains one, one diverged, one is finished."""
    for seed, file in (("1", "lock"), ("2", "last.pt"), ("3", "result.json")):
        write_file(comparison, seed, file)
    comparison.board.claims.mkdir()
    comparison.board.note_failure("resnet", ["0"])  # by an earlier command
    comparison.answer.code = code
    comparison.answer.during = lambda: write_file(comparison, "0", "status")
    comparison.train(Taken("resnet", ["0", "1", "2", "3"]), 60.0, {})
    assert comparison.failures == [f"resnet with seed {seed}" for seed in failed]
    assert comparison.time_is_up == (code == compare.TIME_IS_UP_CODE)
    assert comparison.board.failed_file("resnet", "0").exists() == (code != compare.HELD_CODE)


@pytest.mark.parametrize(
    ("file", "content", "further"),
    [
        ("status", "interrupted by SIGTERM at step 7\n", False),
        ("status", "interrupted by SIGTERM at step 8\n", True),
        ("result.json", "{}", True),
    ],
)
def test_run_that_stands_where_it_stood_has_not_progressed(comparison, file, content, further):
    write_file(comparison, "0", file, content)
    comparison.steps_before = {comparison.board.folder("resnet", "0"): 7}
    assert comparison.progressed() == further


def test_each_of_several_runs_has_gpus_of_its_own(comparison, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    comparison.settings.nproc, comparison.settings.jobs, comparison.facts = 2, 3, {"gpus": 4}
    gpus = [comparison.environ_of(i)["CUDA_VISIBLE_DEVICES"] for i in range(3)]
    assert gpus == ["0,1", "2,3", "0,1"]


def test_hours_of_a_search_cover_the_runs_of_its_second_part(comparison, capsys):
    """Two recipes with the first of two seeds, then the better one with the other."""
    speeds = {"rows": [{"arch": "resnet", "settings": {}, "train_imgs_per_s": 10.0, "image_size": 32}]}
    s = comparison.settings
    s.out.mkdir()
    (s.out / "cost.json").write_text(json.dumps(speeds))
    s.runs, s.best = ["resnet:--lr=1", "resnet:--lr=2"], 1
    comparison.board = compare.Board(s.out, s.runs, ["0", "1"], best=1)
    comparison.facts = {"steps": 36_000, "batch_size": 1, "image_size": 32, "gpus": 0}
    comparison.measure_speeds()
    assert "3 runs left, about 3.0 hours of training" in capsys.readouterr().out


def test_hours_are_of_several_runs_at_once_on_several_gpus_each(comparison, capsys):
    speeds = {
        "rows": [{"arch": "resnet", "settings": {}, "train_imgs_per_s": 10.0, "image_size": 32}],
        "eval_batch_size": 2048,
    }
    comparison.settings.out.mkdir()
    (comparison.settings.out / "cost.json").write_text(json.dumps(speeds))
    comparison.facts = {"steps": 36_000, "batch_size": 20, "image_size": 32, "gpus": 8}
    comparison.settings.nproc, comparison.settings.jobs = 2, 4
    assert comparison.hours() == {"resnet": 10.0}
    comparison.measure_speeds()
    assert "4 runs left, about 10.0 hours of training" in capsys.readouterr().out
    comparison.facts["gpus"] = 0
    assert comparison.hours() == {"resnet": 10.0}  # as on a login node
    del speeds["eval_batch_size"]  # measured on a CPU: all share the cores that one process had
    (comparison.settings.out / "cost.json").write_text(json.dumps(speeds))
    comparison.measure_speeds()
    assert "4 runs left, about 80.0 hours of training" in capsys.readouterr().out
    comparison.facts["image_size"] = 64
    assert comparison.hours() == {}


def test_speeds_of_a_cpu_do_not_stand_for_those_of_a_gpu(comparison, monkeypatch):
    row = {"arch": "resnet", "settings": {}, "train_imgs_per_s": 10.0, "image_size": 32}
    comparison.settings.out.mkdir()
    (comparison.settings.out / "cost.json").write_text(json.dumps({"rows": [row]}))
    comparison.facts = {"steps": 1, "batch_size": 1, "image_size": 32, "gpus": 0}
    assert not comparison.speeds_are_known()  # each command measures anew, but for the tasks of an array
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    assert comparison.speeds_are_known()
    comparison.facts["gpus"] = 1
    assert not comparison.speeds_are_known()


def test_seed_whose_folder_cannot_be_used_does_not_stop_the_others(comparison):
    comparison.board.claims.mkdir(parents=True)
    comparison.answer.code = 2
    comparison.train(Taken("resnet", ["0", "1"]), 60.0, {})
    together, *alone = [command[command.index("--seed") + 1 : command.index("--out")] for command in comparison.calls]
    assert (together, alone) == (["0", "1"], [["0"], ["1"]])
    assert comparison.failures == ["resnet with seed 0", "resnet with seed 1"]


def test_networks_that_differ_in_spelling_or_that_tuned_makes_equal_train_once(monkeypatch):
    runs = (
        "hornet_resnet hornet_resnet:hornet.scale=0.3333 eca_ghostnet_resnet ghostnet_eca_resnet vit vit:--pretrained"
    )
    settings = read_settings(SETTINGS | {"RUNS": runs}, [])
    assert settings.runs == [run for run in runs.split() if run != "ghostnet_eca_resnet"]
    found = {"hornet_resnet": Recipe([], {"hornet.scale": "0.3333"})}
    monkeypatch.setattr("settings.recipes_of", lambda folder, archs: found)
    settings = read_settings(SETTINGS | {"RUNS": runs, "TUNED": "search"}, [])
    assert settings.runs == ["hornet_resnet", "eca_ghostnet_resnet", "vit", "vit:--pretrained"]


def test_a_default_that_is_given_makes_no_other_run():
    """A report would refuse the second as the same network and seed, or the same recipe."""
    widths = "resnet resnet:resnet.width=16 resnet:resnet.width=64 resnet18 resnet18:resnet.width=64"
    runs = read_settings(SETTINGS | {"RUNS": widths}, []).runs
    assert runs == ["resnet", "resnet:resnet.width=64", "resnet18"]
    search = SETTINGS | {"RUNS": "resnet resnet:--lr=0.4 resnet:--lr=1e-3 resnet:--lr=0.001", "REPORT": "--recipes"}
    assert read_settings(search, []).runs == ["resnet", "resnet:--lr=1e-3"]


@pytest.mark.parametrize("nproc", ["1", "2"])
def test_several_processes_are_started_by_torchrun(nproc):
    command = train_command(read_settings(SETTINGS | {"NPROC": nproc}, []), "resnet", ["0"])
    launch = " -m torch.distributed.run --standalone --nproc_per_node 2" if nproc == "2" else ""
    assert " ".join(command).startswith(f"{sys.executable}{launch} {HERE}/train.py --arch resnet ")


@pytest.mark.parametrize(
    ("settings", "flags", "message"),
    [
        ({}, ["--seed", "5"], "--seed cannot be given here: set SEEDS"),
        ({}, ["--out=x"], "--out cannot be given here: set OUT"),
        ({}, ["--name", "x"], "--name cannot be given here: set OUT"),
        ({}, ["--arch", "x"], "--arch cannot be given here: set RUNS"),
        ({}, ["--epochs", "1"], "--epochs cannot be given here: set EPOCHS"),
        ({}, ["--dataset", "x"], "--dataset cannot be given here: set DATASET"),
        ({}, ["--set", "resnet.width=8"], "--set cannot be given here: set RUNS"),
        ({"RECIPE": "--epochs 30"}, [], "--epochs cannot be given here: set EPOCHS"),
        ({"RUNS": "resnet:--seed=7"}, [], "--seed cannot be given here: set SEEDS"),
        ({}, ["--eval-only", "x"], "--eval-only is for one run: give it to train.py"),
        *(
            ({}, [flag, "x/y"], f"{flag} is for one run: give it to train.py")
            for flag in ("--check", "--list", "--summary", "--predict", "--push-to-hub")
        ),
        ({}, ["--max-minutes", "5"], "--max-minutes cannot be given here: set MINUTES"),
        ({"SEEDS": ""}, [], "SEEDS must be whole numbers"),
        ({"SEEDS": "0 1 0"}, [], "SEEDS has a number twice: 0 1 0"),
        ({"RUNS": ""}, [], "RUNS is empty"),
        ({"OUT": ""}, [], "OUT is empty"),
        ({"JOBS": "0"}, [], "JOBS must be a whole number, 1 or more, got '0'"),
        ({"EPOCHS": "five"}, [], "EPOCHS must be a whole number, 1 or more, got 'five'"),
        ({"MINUTES": "-1"}, [], "MINUTES must be a number, 0 or more, got '-1'"),
        ({"TUNED": "nowhere"}, [], "TUNED: no runs in nowhere: start PRESET=tuning OUT=nowhere bash compare.sh first"),
        ({"BEST": "2"}, ["--val-size", "0"], "--val-size 0 leaves nothing to choose a recipe on: leave it out"),
        ({"REPORT": "--recipes"}, ["--val-size=0"], "--val-size 0 leaves nothing to choose a recipe on: leave it out"),
        ({"SEEDS": "1 01"}, [], "SEEDS has a number twice: 1 01"),
        ({"REPORT": "--recipes"}, ["--folds=5", "--fold=0"], "recipes are compared on one held-out part, not on folds"),
        ({"RUNS": f"resnet:a.b={'1' * 200}"}, [], f"resnet-a.b={'1' * 200}-seed0 is too long for a folder's name"),
        (
            {"RUNS": "resnet vit resnet:--lr=0.1"},
            [],
            "resnet and resnet:--lr=0.1 differ in lr, but a report takes one recipe for each architecture: give both the same flags, or PRESET=recipe to compare them",
        ),
        (
            {"RUNS": "resnet vit eca_resnet:--val-size=0"},
            [],
            "resnet and eca_resnet:--val-size=0 differ in val_size, but a report is of one budget and one size of images: give all runs the same",
        ),
    ],
)
def test_mistaken_setting_is_one_line(settings, flags, message, capsys):
    assert refusal(capsys, read_settings, SETTINGS | settings, flags).startswith(f"compare.sh: {message}")


def test_a_search_compares_recipes_of_one_architecture():
    runs = ["resnet", "resnet:--lr=0.1"]
    assert read_settings(SETTINGS | {"RUNS": " ".join(runs), "REPORT": "--recipes"}, []).runs == runs
    starts = ["vit", "vit:--pretrained", "vit:--pretrained:--freeze=backbone", "vit:vit.depth=6:--save-every=9"]
    assert read_settings(SETTINGS | {"RUNS": " ".join(starts)}, []).runs == starts


def test_a_run_that_a_signal_stopped_has_not_failed(comparison, monkeypatch):
    """Or the same job, requeued, would pass it over."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    comparison.board.claims.mkdir(parents=True)
    comparison.answer.code = 143
    comparison.answer.during = lambda: setattr(comparison.children, "stopped_by", signal.SIGTERM)
    comparison.train(Taken("resnet", ["0"]), 60.0, {})
    assert not comparison.failures and not comparison.board.has_failed("resnet", "0")


@pytest.mark.parametrize("resolved", [{"graph": True}, {"crop_scale": 0.08}, {"amp": "bfloat16"}])
def test_what_the_machine_and_the_images_decide_makes_no_other_recipe(comparison, resolved):
    comparison.board.result = lambda *_: {"settings": {}} | resolved
    comparison.refuse_other_recipe("resnet", "0")


def test_what_ends_a_worker_ends_the_program(comparison):
    def broken():
        raise OSError(5, "Input/output error")

    comparison.board.take = broken
    with pytest.raises(OSError, match="Input/output error"):
        comparison.work()


@pytest.mark.parametrize(
    ("nproc", "gpus", "size", "together"), [(1, 1, 64, True), (1, 1, 65, False), (1, 0, 64, False), (2, 2, 64, False)]
)
def test_seeds_of_small_images_train_together_on_a_gpu(comparison, nproc, gpus, size, together):
    facts = {"steps": 1, "batch_size": 1, "gpus": gpus, "image_size": size}
    comparison.settings.nproc = nproc
    comparison.children.run = lambda *_, **__: (0, json.dumps(facts))
    comparison.check()
    assert comparison.board.together == together
