"""What goes wrong in long runs, and what train.py then does; each test is named after its fault."""

import json
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import cache
import checkpoints
import data
import engine
import flags
import hub
import optimizers
from hub import Classifier
from tests import processes
from tests.processes import ROOT
from tests.runs import assert_same, die_after_saves, logged, result_of, run, saved_state
from tests.test_data import picture, write_parquet

ALL_STATE = ["--mixup", "0.2", "--ema-decay", "0.9", "--set", "resnet.drop_path=0.3", "--save-every", "1"]


def killed(function, n, *args):
    """Runs forked processes that are killed on the way."""
    with pytest.raises(Exception, match="SIG"):
        processes.run(function, n, *args)


# -------------------------------------------------------------------------------------------------------- checkpoints


@contextmanager
def never_returning():
    """In a forked child: whatever is raised is printed, and pytest does not go on in it."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(2)


def save_for_ever(path):
    step = 0
    while True:
        checkpoints.save_checkpoint(path, {"step": step, "weights": torch.full((300_000,), float(step))})
        step += 1


def test_kill_while_saving(tmp_path):
    """40 kills at random moments of writing: each time the newest file, or the one before it, is whole."""
    path = tmp_path / "last.pt"
    checkpoints.save_checkpoint(path, {"step": -1, "weights": torch.zeros(1)})
    rng = np.random.default_rng(0)
    for _ in range(40):
        child = os.fork()
        if child == 0:
            with never_returning():
                save_for_ever(path)
        time.sleep(rng.uniform(0.005, 0.03))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        there = path if path.exists() else path.with_name("last.pt.previous")
        saved = checkpoints.load_checkpoint(there)
        assert (saved["weights"] == max(0, saved["step"])).all()
    assert saved["step"] >= 0


def fill_the_disk(path):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # writing beyond it fails like a full disk
    with pytest.raises(OSError, match="File too large"):
        checkpoints.save_checkpoint(path, {"weights": torch.zeros(100_000)})


def test_full_disk_while_saving(tmp_path):
    path = tmp_path / "last.pt"
    checkpoints.save_checkpoint(path, {"step": 1})
    processes.run(fill_the_disk, 1, path)
    assert checkpoints.load_checkpoint(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["last.pt"]


def test_full_disk_ends_the_run_in_one_line(command, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_checkpoint", full)
    with pytest.raises(SystemExit) as exit:
        run(*command())
    assert exit.value.code == 1
    err = capsys.readouterr().err
    assert "No space left on device; the last checkpoint is kept" in err
    assert err.count("\n") == 1


def test_two_checkpoints_are_kept(command, tmp_path):
    run(*command("--save-every", "1"))
    folder = tmp_path / "runs" / "run"
    assert sorted(file.name for file in folder.glob("last.pt*")) == ["last.pt", "last.pt.previous"]
    assert saved_state(folder)["step"] == 8
    assert checkpoints.load_checkpoint(folder / "last.pt.previous")["state"]["step"] == 7


def test_leftovers_of_a_killed_save_are_swept(command, tmp_path):
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "last.pt.tmp").write_bytes(b"half a checkpoint")
    run(*command("--max-steps", "1"))
    assert not list(folder.glob("*.tmp"))


# ------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("n_processes", [1, 2])
@pytest.mark.parametrize("n_saves", [2, 6])
def test_kill_within_an_epoch(command, tmp_path, n_processes, n_saves):
    """Behind step 2, or step 6: the same weights, optimizer, averages and curve as without the kill, bit for bit."""
    flags = command(*ALL_STATE, "--epochs", "2")
    processes.run(run, n_processes, *flags, "--name", "whole")
    killed(die_after_saves, n_processes, n_saves, [*flags, "--name", "killed"])
    runs = tmp_path / "runs"
    assert saved_state(runs / "killed")["step"] == n_saves
    processes.run(run, n_processes, *flags, "--name", "killed")
    assert_same(saved_state(runs / "whole"), saved_state(runs / "killed"))
    assert logged(runs / "whole") == logged(runs / "killed")


@pytest.mark.parametrize("part", ["optimizer", "ema", "step", "losses", "net", "curve"])
def test_forgetting_a_part_of_the_state_would_show(command, tmp_path, part):
    """A resumed run that lost this part of its checkpoint does not end as the whole run does."""
    flags = command(*ALL_STATE, "--epochs", "2")
    processes.run(run, 1, *flags, "--name", "whole")
    killed(die_after_saves, 1, 6, [*flags, "--name", "killed"])  # within the second epoch
    processes.run(resume_without, 1, part, [*flags, "--name", "killed"])
    with pytest.raises(AssertionError):
        assert_same(saved_state(tmp_path / "runs" / "whole"), saved_state(tmp_path / "runs" / "killed"))


def resume_without(part, flags):
    load = engine.TrainState.load_state_dict

    def forget(self, saved):
        load(self, saved | {part: self.state_dict()[part]})

    engine.TrainState.load_state_dict = forget
    run(*flags)


def test_scaler_and_count_of_skips_come_back():
    net = torch.nn.Linear(2, 2)

    def state():
        optimizer = optimizers.make_optimizer("sgd", net, 0.1, 0.9, 0)
        return engine.TrainState(net, optimizer, optimizers.make_schedule("cosine", 0.1, 0, 10), torch.float16)

    first, second = state(), state()
    first.scaler.scale(torch.ones(()))
    first.scaler.update(new_scale=512.0)
    first.n_bad += 3
    second.load_state_dict(first.state_dict())
    assert second.scaler.get_scale() == 512.0
    assert second.n_bad == 3


@pytest.mark.parametrize("change", [(1, 2), (2, 1)])
def test_another_number_of_processes(command, tmp_path, change, capfd):
    """On an arch without batch statistics the run goes on as if nothing had changed, to rounding; and it is announced."""
    flags = command("--arch", "convnext_resnet", "--amp", "off", "--lr", "0.05", "--save-every", "3")
    processes.run(run, 1, *flags, "--name", "whole")
    killed(die_after_saves, change[0], 1, [*flags, "--name", "changed"])
    processes.run(run, change[1], *flags, "--name", "changed")
    assert f"with {change[1]} processes instead of {change[0]}" in capfd.readouterr().out
    whole, changed = (saved_state(tmp_path / "runs" / name) for name in ("whole", "changed"))
    for name, value in whole["net"].items():
        torch.testing.assert_close(value, changed["net"][name], rtol=1e-4, atol=1e-5)
    assert changed["curve"][0]["train_loss"] == pytest.approx(whole["curve"][0]["train_loss"], rel=1e-4)


# ------------------------------------------------------------------------------------------- signals, processes, ports


def start(n_processes, *flags):
    """train.py as a user starts it."""
    launch = [sys.executable]
    if n_processes > 1:
        handled = ["--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1"]
        launch = [str(Path(sys.executable).parent / "torchrun"), "--standalone", *handled]
        launch += ["--nproc_per_node", str(n_processes)]
    return processes.program([*launch, "train.py", *flags], os.environ | {"OMP_NUM_THREADS": "1"})


def wait_for_step(folder, process):
    while not (folder / "last.pt").exists() and process.poll() is None:
        time.sleep(0.1)


@pytest.mark.parametrize(("name", "n_processes"), [("SIGTERM", 2), ("SIGINT", 1), ("SIGUSR1", 1)])
def test_signal(command, tmp_path, name, n_processes):
    """The run stops after a step, says so, leaves a status, and the same command ends as if nothing had been."""
    flags = command(*ALL_STATE, "--epochs", "15")
    folder = tmp_path / "runs" / "run"
    with start(n_processes, *flags) as running:
        wait_for_step(folder, running)
        running.send_signal(getattr(signal, name))
        out, err = running.communicate(timeout=120)
    assert running.returncode == (1 if n_processes > 1 else 128 + getattr(signal, name)), err  # torchrun's is always 1
    assert f"{name}: stopped at step" in out
    step = saved_state(folder)["step"]
    assert 0 < step < 60
    assert (folder / "status").read_text() == f"interrupted by {name} at step {step}\n"
    processes.run(run, n_processes, *flags)
    assert not (folder / "status").exists()
    processes.run(run, n_processes, *flags, "--name", "whole")
    assert_same(saved_state(tmp_path / "runs" / "whole"), saved_state(folder))


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_the_program_at_once(second, monkeypatch):
    """The same one, too, if it comes late: it is sent every 0.05 s here, and the first counts."""
    monkeypatch.setattr(checkpoints, "REPEAT_S", 0.12)
    signals = checkpoints.StopSignals()
    child = os.fork()
    if child == 0:
        with never_returning(), signals:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            assert signals.received == signal.SIGTERM
            for _ in range(100):
                os.kill(os.getpid(), second)
                time.sleep(0.05)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + second


def test_a_signal_delivered_twice_is_one_signal():
    """As a scheduler does that signals torchrun and its processes: torchrun hands its own on."""
    child = os.fork()
    if child == 0:
        with never_returning(), checkpoints.StopSignals() as signals:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
            assert signals.received == signal.SIGTERM
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def read_through_a_signal(split):
    """Reads a streamed split; after the first batch another process signals this one, as torchrun does."""
    os.setpgrp()
    batches = torch.arange(40).split(2)
    with checkpoints.StopSignals() as stop:
        for n_read, _ in enumerate(split.read(batches)):
            if n_read == 0:
                subprocess.run(["kill", "-s", "TERM", "--", f"-{os.getpid()}"])
    assert stop.received == signal.SIGTERM
    assert n_read == len(batches) - 1


def test_signal_lets_a_streamed_set_be_read_on(photos, tmp_path):
    """So that the step at hand can end, and be saved."""
    images = data.load("folder", photos, None, tmp_path, room=0)
    assert images.train.way == "streamed"
    processes.run(read_through_a_signal, 1, images.train)


def test_failure_ends_a_program_that_reads_a_streamed_set(photos, tmp_path):
    """Its threads do not keep it from ending."""
    script = (
        "import data, torch\n"
        f"images = data.load('folder', {str(photos)!r}, None, {str(tmp_path)!r}, room=0)\n"
        "for _ in images.train.read(torch.arange(40).split(2)):\n"
        "    raise RuntimeError('in the loop')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: in the loop\n")


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with checkpoints.StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def fail_on_second(how, flags):
    """A run whose second process raises, is killed, or hangs after its third step."""
    step = engine.train_step

    def broken(state, *args):
        step(state, *args)
        if state.rank == 1 and state.step == 3:
            if how == "raises":
                raise RuntimeError("the guilty process")
            if how == "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    engine.train_step = broken
    run(*flags)


@pytest.mark.parametrize("how", ["raises", "is killed", "hangs"])
def test_process_that_dies_or_hangs(command, how):
    """The others end in the time that --timeout-s allows; a hung process is then killed."""
    started = time.monotonic()
    with pytest.raises(
        Exception, match=r"guilty process|SIGKILL|imed out|timeout|(closed|reset) by peer|[Bb]roken pipe"
    ):
        processes.run(fail_on_second, 2, how, command("--timeout-s", "3"))
    assert time.monotonic() - started < 60


def test_torchrun_shows_the_true_traceback_and_leaves_no_orphan(command, tmp_path):
    script = tmp_path / "guilty.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import engine, train\n"
        "step = engine.train_step\n"
        "def broken(state, *args):\n"
        "    step(state, *args)\n"
        "    if state.rank == 1:\n"
        "        raise RuntimeError('the guilty process')\n"
        "engine.train_step = broken\n"
        "from torch.distributed.elastic.multiprocessing.errors import record\n"
        "record(train.main)(train.parse_args())\n"
    )
    torchrun = str(Path(sys.executable).parent / "torchrun")
    launch = [torchrun, "--standalone", "--nproc_per_node", "2", str(script), *command("--timeout-s", "20")]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=90, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1
    cause = done.stderr[done.stderr.index("Root Cause") :]
    assert "rank      : 1" in cause
    assert "the guilty process" in cause
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(script) not in listed


def test_port_in_use(command, tmp_path):
    """With torchrun's default port taken, --standalone finds another."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # another program has taken it
            taken.bind(("127.0.0.1", 29500))
            taken.listen()
        with start(2, *command("--max-steps", "1")) as running:
            _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err


def test_two_machines_are_two_processes(command, tmp_path):
    """Two torchrun agents on the loopback, one process each, give what one agent with two processes gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = command("--arch", "eca_resnet", "--epochs", "1")
    torchrun = str(Path(sys.executable).parent / "torchrun")
    rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "test"]
    agent = [torchrun, "--nnodes", "2", "--nproc_per_node", "1", *rendezvous, "train.py", *flags, "--name", "agents"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with processes.program(agent, environment) as one, processes.program(agent, environment) as other:
        for running in (one, other):
            _, err = running.communicate(timeout=240)
            assert running.returncode == 0, err
    processes.run(run, 2, *flags, "--name", "processes")
    assert_same(saved_state(tmp_path / "runs" / "agents"), saved_state(tmp_path / "runs" / "processes"))


# ------------------------------------------------------------------------------------------------------------ numbers


def nan_on_second(flags):
    step = engine.train_step

    def broken(state, model, imgs, targets, *args):
        if state.rank == 1 and state.step == 5:
            imgs = imgs * torch.nan
        step(state, model, imgs, targets, *args)

    engine.train_step = broken
    run(*flags)


def test_nan_on_one_process_stops_all(command, tmp_path, capfd):
    with pytest.raises(Exception, match="exit code 1"):
        processes.run(nan_on_second, 2, command("--amp", "off"))
    err = capfd.readouterr().err
    assert "loss or gradient is not finite at step 6: lower --lr or set --clip-norm; the last checkpoint is kept" in err
    state = saved_state(tmp_path / "runs" / "run")
    assert state["step"] == 4  # the end of the first epoch
    assert all(value.isfinite().all() for value in state["net"].values())


# --------------------------------------------------------------------------------------------------------------- data


def decode_slowly(flags):
    decode_all = cache.decode_all

    def slow(splits):
        time.sleep(6)
        return decode_all(splits)

    cache.decode_all = slow
    run(*flags)


def test_decoding_may_take_longer_than_the_processes_wait_for_each_other(command, tmp_path):
    processes.run(decode_slowly, 2, command("--timeout-s", "3", "--max-steps", "2"))
    assert result_of(tmp_path / "runs" / "run")["world_size"] == 2


def decode_in_the_first_process_only(flags):
    decode_all = cache.decode_all

    def watched(splits):
        assert os.environ["RANK"] == "0"
        return decode_all(splits)

    cache.decode_all = watched
    run(*flags)


def test_mistake_in_the_data_is_told_once_by_several_processes(command, photos, tmp_path, capfd):
    shutil.copytree(photos, tmp_path / "photos")
    for name in ("train/class0/0.png", "test/class3/1.png"):
        (tmp_path / "photos" / name).write_bytes(b"not an image")
    with pytest.raises(Exception, match="exit code 2"):
        processes.run(decode_in_the_first_process_only, 2, command("--data-dir", str(tmp_path / "photos")))
    (told,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("train.py")]  # torch may warn
    assert re.fullmatch(r"train.py: 2 images cannot be used: .*/0.png: .*; .*/1.png: .*", told)


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_split(tmp_path, split):
    for name in ("train", "test"):
        write_parquet(tmp_path / "set", name, [picture()] * (name != split), [0] * (name != split), label="label")
    with pytest.raises(ValueError, match=r"cifar10|split"):
        data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")


def test_flipped_byte_in_an_image_is_no_crash(tmp_path):
    """PNG data is checksummed, and PIL raises where torchvision's decoder may end the process."""
    import io

    buffer = io.BytesIO()
    picture(size=(32, 32)).save(buffer, "png")
    content = bytearray(buffer.getvalue())
    content[content.index(b"IDAT") + 30] ^= 0xFF
    write_parquet(tmp_path / "set", "train", [picture(size=(32, 32)), bytes(content)], [0, 1], label="label")
    write_parquet(tmp_path / "set", "test", [picture(size=(32, 32))], [0], label="label")
    with pytest.raises(ValueError, match="train split, row 1: cannot read the image"):
        data.load("cifar10", tmp_path / "set", cache_dir=tmp_path / "cache")


def stream_until_an_image_is_gone(folder, flags):
    """A streamed run whose images are damaged after its first step."""
    data.room = lambda device: 0
    step = engine.train_step

    def damaging(state, *args):
        step(state, *args)
        for image in (folder / "train").rglob("*.png"):
            image.write_bytes(b"not an image")

    engine.train_step = damaging
    run(*flags)


def test_image_that_turns_bad_ends_a_streamed_run_in_one_line(command, photos, tmp_path, capfd):
    shutil.copytree(photos, tmp_path / "photos")
    flags = command("--data-dir", str(tmp_path / "photos"), "--epochs", "9")
    with pytest.raises(Exception, match="exit code 1"):
        processes.run(stream_until_an_image_is_gone, 1, tmp_path / "photos", flags)
    err = capfd.readouterr().err
    assert re.fullmatch(
        r"train.py: 20 images cannot be used: .*/train/class\d/\d+.png: .*; and 10 more; the last checkpoint is kept\n",
        err,
    )


def test_image_that_one_process_meets_is_told_by_that_one(monkeypatch, capsys):
    """Numbers that fail are the same in all processes, and the first one speaks."""
    monkeypatch.setenv("RANK", "1")
    for error, told in ((data.UnfitImageError("train split, row 3"), 1), (FloatingPointError("loss"), 0)):
        with pytest.raises(SystemExit), flags.failures_reported():
            raise error
        assert capsys.readouterr().err.count("\n") == told


def test_full_gpu_is_told_in_one_line(capsys):
    with pytest.raises(SystemExit) as exit, flags.failures_reported():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")
    assert exit.value.code == 1
    assert capsys.readouterr().err == (
        "train.py: CUDA out of memory. Tried to allocate 2 GiB: give --accumulate 2 or more, or lower --batch-size; the last checkpoint is kept\n"
    )


# ---------------------------------------------------------------------------------------------------------- hub files


def saved_model(folder, arch="eca_resnet"):
    Classifier(arch, ["a", "b"], {}, 16, [120.0] * 3, [60.0] * 3).save_pretrained(folder)
    return folder


def test_weights_of_another_arch(tmp_path):
    folder = saved_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"arch": "ghostnet_resnet"}))
    with pytest.raises(ValueError, match="not a readable model folder"):
        hub.load(folder)


def test_truncated_weights(tmp_path):
    folder = saved_model(tmp_path / "model")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="not a readable model folder"):
        hub.load(folder)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_pickle_in_a_model_folder_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = saved_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match="not a readable model folder"):
        hub.load(folder)
    assert not os.path.exists("executed")


# -------------------------------------------------------------------------------------------------------- run folders


def test_result_is_written_whole_or_not_at_all(command, tmp_path):
    """Killed before its result, a run is not taken for a finished one."""
    processes_killed = command("--epochs", "1")
    killed(die_before_result, 1, processes_killed)
    folder = tmp_path / "runs" / "run"
    assert not (folder / "result.json").exists()
    run(*processes_killed)
    assert result_of(folder)["status"] == "finished"
    assert zipfile.is_zipfile(folder / "last.pt")


def die_before_result(flags):
    checkpoints.write_atomically_before = checkpoints.write_atomically

    def die_at_result(path, *args, **kwargs):
        if Path(path).name == "result.json":
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.write_atomically_before(path, *args, **kwargs)

    checkpoints.write_atomically = die_at_result
    run(*flags)
