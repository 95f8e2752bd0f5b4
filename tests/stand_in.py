"""A stand-in for train.py, speed.py and report.py that starts at once: comparisons without training.

STEPS, of 0.05 s each, are a run; at the tenth it waits for the file GO, if that is set. It notes its steps in last.pt and goes
on from there; events.* counts its starts from 0. LOOK_AFTER_S replaces tasks.py's.
"""

import json
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent  # not from tests.processes, which imports torch
STEP_S, GO_AT = 0.05, 10


def install(folder):
    """Puts a program `python` into a folder, with which the scripts run the stand-in. Returns the PATH."""
    folder.mkdir()
    stub, wrapper = folder / "stub", folder / "python"
    head = f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    stub.write_text(f"{head}from tests import stand_in\nstand_in.main(sys.argv[1:])\n")
    sooner = "if after := os.environ.get('LOOK_AFTER_S'):\n    tasks.LOOK_AFTER_S = tasks.LOOK_AGAIN_S = float(after)\n"
    begin = f"sys.executable = {str(stub)!r}\ncompare.main(sys.argv[2:])\n"
    wrapper.write_text(f"{head}import os, compare, tasks\n{sooner}{begin}")
    for program in (stub, wrapper):
        program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def main(argv):
    script, args = Path(argv[0]).name, argv[1:]
    if script == "train.py":
        train(args)
    elif script == "speed.py":
        out = Path(value(args, "--out"))
        with open(out.parent / "measured", "a") as file:
            file.write("once\n")
        time.sleep(0.3)
    else:
        report = Path(args[0]) / "report"
        report.mkdir(exist_ok=True)
        with open(report / "report.md", "a") as file:
            file.write(f"{len(list(Path(args[0]).glob('*/result.json')))} runs\n")
        (report / "slides.pptx").write_text("")


def value(args, flag):
    return args[args.index(flag) + 1]


def train(args):
    steps = int(os.environ.get("STEPS", "10"))
    if "--check" in args and os.environ.get("BROKEN"):
        raise SystemExit(2)
    if "--check" in args:
        return print(json.dumps({"steps": steps, "batch_size": 1, "n_train": steps, "gpus": 0, "image_size": 32}))
    folder = Path(value(args, "--out")) / value(args, "--name")
    if (folder / "result.json").exists():
        return None
    if "lost" in str(folder):
        raise SystemExit(1)
    import locks

    try:
        lock = locks.Lock(folder / "lock")
    except locks.HeldError:
        raise SystemExit(3) from None
    told = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    saved = folder / "last.pt"
    step = int(saved.read_text()) if saved.exists() else 0
    if not step:
        (folder / f"events.{time.time_ns()}").touch()
    limit = float(value(args, "--max-minutes")) * 60 if "--max-minutes" in args else float("inf")
    deadline = time.monotonic() + limit
    while step < steps and not told and time.monotonic() < deadline:
        time.sleep(STEP_S)
        if step == GO_AT and not Path(os.environ.get("GO", ".")).exists():
            continue
        step += 1
        saved.write_text(str(step))
    if step < steps:
        (folder / "status").write_text(f"interrupted by SIGTERM at step {step}\n")
    else:
        lr, optimizer = value(args, "--lr") if "--lr" in args else "0.4", "sgd"
        for arg in args:
            lr = arg.removeprefix("--lr=") if arg.startswith("--lr=") else lr
            optimizer = arg.removeprefix("--optimizer=") if arg.startswith("--optimizer=") else optimizer
        row = {
            "arch": value(args, "--arch"),
            "settings": dict(knob.split("=", 1) for flag, knob in pairwise(args) if flag == "--set"),
            "seed": int(value(args, "--seed")),
            "optimizer": optimizer,
            "epochs": int(value(args, "--epochs")),
            "val_size": float(value(args, "--val-size")) if "--val-size" in args else 0.1,
        }
        top1 = 50 - abs(float(lr) - 0.1) - row["seed"]
        row |= {"lr": float(lr), "weight_decay": 5e-4 if optimizer == "sgd" else 0.05, "val_top1": top1}
        (folder / "result.json").write_text(json.dumps(row))
    lock.release()
    if step < steps:
        raise SystemExit(143 if told else 75)
    return None
