"""Several seeds in one call, limits of time, checkpoints by time, and parts of a batch."""

import json
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.multiprocessing import ProcessExitedException

import locks
import training
from checkpoints import TIME_IS_UP, StopSignals
from flags import HELD_CODE, TIME_IS_UP_CODE, failures_reported
from tests import processes
from tests.refusals import refusal
from tests.runs import SMALL, assert_same, built, logged, result_of, run, saved_state
from tests.test_signals import start, wait_for_step
from train import train_all


def named(flags, name):
    flags = list(flags)
    flags[flags.index("--name") + 1] = name
    return flags


def test_seeds_of_one_call_are_the_runs_of_as_many(command, tmp_path):
    """Files but for times, to the last bit; the second seed draws nothing that the first one left."""
    flags = named(command(*SMALL, "--mixup", "0.2", "--set", "resnet.drop_path=0.3"), "run{seed}")
    processes.run(run, 1, *flags, "--seed", "1", "2")
    runs = tmp_path / "runs"
    for seed in ("1", "2"):
        processes.run(run, 1, *flags, "--seed", seed, "--out", str(tmp_path / "alone"))
        together, alone = runs / f"run{seed}", tmp_path / "alone" / f"run{seed}"
        assert_same(saved_state(together), saved_state(alone))
        assert logged(together) == logged(alone)
        a, b = result_of(together), result_of(alone)
        assert a["seed"] == int(seed)
        differing = {name for name in a if a[name] != b[name]} - {"curve"}
        assert differing <= {"started", "train_s", "train_imgs_per_s", "eval_imgs_per_s", "peak_memory_mb"}
        assert {f.name.split(".")[0] for f in together.iterdir()} == {f.name.split(".")[0] for f in alone.iterdir()}


def test_seed_decides_on_weights_held_out_images_and_order(command):
    first, second = (built(*command(*SMALL, "--seed", seed)) for seed in "12")
    assert not torch.equal(first.state.net.stem[0].weight, second.state.net.stem[0].weight)
    assert not torch.equal(first.val.index, second.val.index)
    # of all images, as the order of different ones would differ anyway
    first, second = (built(*command(*SMALL, "--seed", seed, "--val-size", "0")) for seed in "12")
    assert not torch.equal(first.batches.draw(0)["row"], second.batches.draw(0)["row"])


def test_a_knob_without_effect_is_named_once(command, capsys):
    knobs = "--arch", "coatnet_resnet", "--set", "coatnet.layout=CCC", "--set", "coatnet.head_dim=7"
    run(*named(command(*SMALL, *knobs, "--epochs", "1", "--seed", "0", "1"), "run{seed}"))
    line = "--set coatnet.head_dim changes nothing: without it the network is the same"
    assert capsys.readouterr().out.splitlines().count(line) == 1


def test_seed_that_fails_ends_alone(command, tmp_path, capsys):
    flags = named(command(*SMALL), "run{seed}")
    blocked = tmp_path / "runs" / "run1"
    build = training.Run.train

    def broken(self):
        if self.args.seed == 1:
            raise FloatingPointError("loss or gradient is not finite at step 1")
        return build(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit:
        patch.setattr(training.Run, "train", lambda self: (yield from broken(self)))
        run(*flags, "--seed", "0", "1", "2")
    assert exit.value.code == 1
    assert "not finite at step 1" in capsys.readouterr().err
    assert not (blocked / "result.json").exists()
    assert (blocked / "diverged").read_text() == "loss or gradient is not finite at step 1\n"
    assert all((tmp_path / "runs" / f"run{seed}" / "result.json").exists() for seed in (0, 2))
    run(*flags, "--seed", "0", "1", "2")
    assert (blocked / "result.json").exists() and not (blocked / "diverged").exists()
    assert capsys.readouterr().out.count("is finished") == 2


def test_seed_that_another_process_finished_meanwhile_is_left_as_it_is(command, tmp_path):
    flags = named(command(*SMALL, "--epochs", "1"), "run{seed}")
    train, results = training.Run.train, []

    def slow(self):
        if self.args.seed == 0:  # in the hours that this takes, another command trains seed 1
            processes.run(run, 1, *flags, "--seed", "1")
            results.append(result_of(tmp_path / "runs" / "run1"))
        return (yield from train(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Run, "train", slow)
        run(*flags, "--seed", "0", "1", "2")
    assert [result_of(tmp_path / "runs" / "run1")] == results
    assert result_of(tmp_path / "runs" / "run2")["seed"] == 2


@pytest.mark.parametrize(("codes", "code"), [((1, 3), 1), ((1, 75), 75), ((3, 2), 2), ((3,), 3)])
def test_failure_counts_for_more_than_a_run_that_is_held(codes, code):
    how = {"close": list, "build": list, "turn": nullcontext}
    runs = [SimpleNamespace(**how, train=lambda end=end: ends(end)) for end in codes]
    with pytest.raises(SystemExit) as exit:
        train_all(runs, together=True)
    assert exit.value.code == code


def test_a_run_that_does_not_fit_beside_the_others_does_not_stop_them(capsys):
    """And it has let go of its memory before they train."""
    did = []

    @failures_reported()
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def fake(name, build):
        return SimpleNamespace(turn=nullcontext, build=build, close=lambda: did.append(f"close {name}"),
                               train=lambda: iter(did.append(f"train {name}") or ()))  # fmt: skip

    said = refusal(capsys, train_all, [fake("large", full), fake("small", list)], True, code=1)
    assert "CUDA out of memory: give fewer seeds at a time" in said and did[:2] == ["close large", "train small"]


@pytest.mark.parametrize("flags", [[], ["--check"]])
def test_a_gpu_that_is_full_before_the_training_is_one_line(flags, command, capsys, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("engine.TrainState", full)
    said = refusal(capsys, run, *command(*SMALL, *flags), code=1)
    assert said.startswith("train.py: CUDA out of memory: give fewer seeds")


def test_runs_train_a_step_each_in_turn_until_all_have_ended():
    did = []

    def fake(name, n_steps, code=None):
        def train():
            for _ in range(n_steps):
                yield did.append(name)
            yield from ends(code) if code else ()

        return SimpleNamespace(turn=nullcontext, train=train)

    assert training.in_turns([fake("a", 1, code=3), fake("b", 3), fake("c", 2)]) == [3]
    assert "".join(did) == "abcbcb"


def test_what_failed_keeps_no_memory(command):
    """Its traceback would, and its captured graph, for which NCCL waits besides."""
    assert training.in_turns([SimpleNamespace(turn=nullcontext, train=lambda: ends(1))]) == [1]
    one, released = built(*command(*SMALL)), []
    one.step.graph = SimpleNamespace(reset=lambda: released.append(True))
    one.close()
    assert released == [True] and one.step is one.state is None


def test_without_a_run_that_is_left_nothing_happens():
    """As on a GPU, where all runs are one group, when the same command comes again."""
    assert train_all([], together=True) is None


def ends(code):
    yield
    raise SystemExit(code)


def test_seed_that_another_process_trains_is_left_to_it(command, tmp_path, capsys):
    flags = named(command(*SMALL, "--epochs", "1"), "run{seed}")
    folder = tmp_path / "runs" / "run0"
    folder.mkdir(parents=True)
    lock = locks.Lock(folder / "lock")
    assert str(folder) in refusal(capsys, run, *flags, "--seed", "0", "1", code=HELD_CODE)
    lock.release()
    assert not (folder / "result.json").exists() and result_of(tmp_path / "runs" / "run1")["seed"] == 1


def test_signal_stops_the_seed_at_hand_and_begins_no_other(command, tmp_path):
    flags = [*named(command(*SMALL, "--epochs", "200"), "run{seed}"), "--seed", "0", "1"]
    with start(1, *flags) as running:
        wait_for_step(tmp_path / "runs" / "run0", running)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=120)
    assert running.returncode == 128 + signal.SIGTERM, err
    assert "seed 0: SIGTERM: stopped at step" in out
    assert not (tmp_path / "runs" / "run1").exists()


def test_failure_of_one_process_ends_all_of_several(command, tmp_path, capfd):
    """A full disk, which the first alone meets: the others wait for it, and it must not begin the next seed."""
    flags = command(*SMALL, "--epochs", "1", "--seed", "0", "1")
    flags[flags.index("--name") + 1] = "run{seed}"
    with pytest.raises(ProcessExitedException):
        processes.run(run_on_a_full_disk, 2, flags)
    assert "No space left" in capfd.readouterr().err
    assert not (tmp_path / "runs" / "run1").exists()


def run_on_a_full_disk(flags):
    def full(*_):
        raise OSError("No space left on device")

    training.checkpoints.save_checkpoint = full
    run(*flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "1", "2", "1"], "--seed has a number twice: 1 2 1"),
        (["--seed", "1", "2"], "--name run is the folder of one run: leave it out with several seeds, or put {seed} into it"),
        (["--graph", "auto"], "--graph works on GPUs only"),
        (["--accumulate", "3"], "--accumulate 3 does not divide the 20 images"),
        (["--batch-size", "1", "--arch", "resnest_resnet"], "resnest_resnet cannot be trained on one image at a time"),
        (["--accumulate", "20", "--arch", "resnest_resnet"], "or lower --accumulate"),
        (["--max-minutes", "-1"], "--max-minutes must be 0 or more, got -1"),
    ],
)  # fmt: skip
def test_mistake_is_one_line(flags, message, command, capsys, tmp_path):
    assert message in refusal(capsys, run, *command(*flags))
    assert not (tmp_path / "runs").exists()


def test_one_image_at_a_time_trains_where_it_can(command, tmp_path):
    run(*command(*SMALL, "--batch-size", "1", "--max-steps", "2"))
    assert (tmp_path / "runs" / "run" / "result.json").exists()


def test_limit_of_time_stops_and_saves(command, tmp_path, capsys):
    flags = command(*SMALL, "--epochs", "100")
    with pytest.raises(SystemExit) as exit:
        run(*flags, "--max-minutes", "0.02")
    assert exit.value.code == TIME_IS_UP_CODE
    folder = tmp_path / "runs" / "run"
    step = saved_state(folder)["step"]
    assert 0 < step < 400
    assert (folder / "status").read_text() == f"interrupted by --max-minutes at step {step}\n"
    assert f"--max-minutes: stopped at step {step} of 400" in capsys.readouterr().out


def test_time_is_up_after_the_limit_and_a_signal_comes_first():
    assert StopSignals().received == 0
    over = StopSignals(-1.0)
    assert over.received == TIME_IS_UP
    over.note(signal.SIGTERM, None)
    assert over.received == signal.SIGTERM


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        (["--epochs", "3", "--save-every-s", "0", "--log-every", "2"], [4, 8, 12]),
        (["--epochs", "3", "--save-every-s", "1000"], [12]),
        (["--epochs", "2", "--save-every-s", "1000", "--save-every", "3"], [3, 6, 8]),
        (["--epochs", "1", "--save-every-s", "1e-9", "--log-every", "3"], [3, 4]),  # within a long epoch
    ],
)
def test_checkpoints_come_by_time(command, monkeypatch, flags, steps):
    saves, save = [], training.Run.save

    def noted(self):
        before = self.saved_at
        save(self)
        assert self.saved_at > before
        saves.append(self.state.step)

    monkeypatch.setattr(training.Run, "save", noted)
    run(*command(*SMALL, *flags))
    assert saves == steps


def test_check_trains_nothing_and_writes_nothing(command, tmp_path, capsys):
    run(*command(*SMALL, "--check", "--epochs", "3"))
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = {"steps": 12, "batch_size": 20, "n_train": 86, "n_val": 10, "n_test": 20, "classes": 4}
    assert facts == expected | {"gpus": 0, "image_size": 16}
    assert not (tmp_path / "runs").exists()
    run(*command(*SMALL, "--max-steps", "1"))
    assert "holds another run (" in refusal(capsys, run, *command(*SMALL, "--check", "--lr", "1"))


def test_check_of_a_run_that_another_process_trains_speaks_of_no_resuming(command, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(*command(*SMALL, "--max-minutes", "0.001", "--save-every", "1"))
    with locks.Lock(tmp_path / "runs" / "run" / "lock"):
        capsys.readouterr()
        run(*command(*SMALL, "--check"))
    assert "resuming" not in capsys.readouterr().out


def test_parts_divide_the_images_of_each_process(capsys):
    args = SimpleNamespace(accumulate=4, batch_size=20, arch="resnet")
    run = SimpleNamespace(args=args, batches=SimpleNamespace(n_local=10))
    said = refusal(capsys, training.Run.refuse_unfit_parts, run, None)
    assert "--accumulate 4 does not divide the 10 images of each process" in said


def test_a_seed_that_diverged_does_not_end_the_others_under_torchrun(monkeypatch):
    def train():
        yield
        raise FloatingPointError("loss is not finite")

    monkeypatch.setattr(training.engine, "is_parallel", lambda: True)
    assert training.in_turns([SimpleNamespace(train=train, turn=nullcontext)]) == [1]
