"""How fast networks train and evaluate on this machine, measured side by side.

    python -m models.speed resnet eca_resnet resnet:resnet.width=24 --out cost.json

Speeds are medians of rounds over all networks, so that a machine that slows down for a while slows all of them.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import engine
from models import build, canonical, parse_settings


def parse_run(run):
    """'hornet_resnet:hornet.orders=2,3,4' -> (arch, settings). Raises ValueError for what does not exist.

    A part with an equals sign is a setting, because torchvision:resnet18 is an arch.
    """
    parts = run.split(":")
    settings = [part for part in parts if "=" in part]
    arch = ":".join(part for part in parts if "=" not in part)
    return canonical(arch), parse_settings(arch, dict(setting.split("=", 1) for setting in settings))


class Stepper:
    """Training steps and evaluations of one network on a fixed batch of noise."""

    def __init__(self, arch, settings, num_classes, image_size, batch_size, amp, compiled, device):
        self.net = build(arch, num_classes, settings, image_size).to(device, memory_format=torch.channels_last)
        self.model = torch.compile(self.net) if compiled else self.net
        self.optimizer = engine.make_optimizer("sgd", self.net, 0.01, 0.9, 5e-4)
        imgs = torch.randn(batch_size, 3, image_size, image_size, device=device)
        self.imgs = imgs.contiguous(memory_format=torch.channels_last)
        self.targets = torch.randint(num_classes, (batch_size,), device=device)
        self.autocast = engine.autocast(device, amp)

    def train(self):
        self.model.train()
        with self.autocast:
            logits = self.model(self.imgs)
        F.cross_entropy(logits.float(), self.targets).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate(self):
        self.model.eval()
        with self.autocast:
            self.model(self.imgs)


def imgs_per_s(call, batch_size, n_calls, device):
    """Images per second of n_calls calls, the device's queue included."""
    started = time.perf_counter()
    for _ in range(n_calls):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return n_calls * batch_size / (time.perf_counter() - started)


def measure(runs, num_classes=100, image_size=32, batch_size=128, amp="auto", compiled=False, rounds=5, n_calls=3):
    """Rows {arch, settings, train_imgs_per_s, eval_imgs_per_s}: medians of rounds over all runs, and what was measured on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    engine.keep_freed_memory()
    amp = engine.amp_dtype(amp, device)
    runs = [parse_run(run) for run in runs]
    steppers = [Stepper(*run, num_classes, image_size, batch_size, amp, compiled, device) for run in runs]
    speeds = [([], []) for _ in runs]
    for round in range(rounds + 1):
        for stepper, (train, evaluate) in zip(steppers, speeds, strict=True):
            measured = [imgs_per_s(f, batch_size, n_calls, device) for f in (stepper.train, stepper.evaluate)]
            if round > 0:  # the first warms up
                train.append(measured[0])
                evaluate.append(measured[1])
    return {
        "device": engine.device_name(device),
        "amp": str(amp or "off").removeprefix("torch."),
        "compile": compiled,
        "batch_size": batch_size,
        "torch": str(torch.__version__),
        "rows": [
            {
                "arch": arch,
                "settings": settings,
                "train_imgs_per_s": statistics.median(train),
                "eval_imgs_per_s": statistics.median(evaluate),
            }
            for (arch, settings), (train, evaluate) in zip(runs, speeds, strict=True)
        ],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="architectures, with settings behind colons")
    parser.add_argument("--out", type=Path, help="measure the runs and write them here, unless they are there")
    parser.add_argument("--left", type=Path, help="print how long the runs would take at the speeds in this file")
    parser.add_argument("--images", type=int, default=0, help="training images of each run, over all epochs")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--amp", default="auto")
    parser.add_argument("--compile", action="store_true")
    args, _ = parser.parse_known_args()  # compare.sh hands on the flags of train.py, of which these matter here

    file = args.out or args.left
    if not file:
        parser.error("give --out FILE to measure, or --left FILE to estimate")
    known = json.loads(file.read_text()) if file.exists() else {"rows": []}
    speed = {json.dumps([row["arch"], row["settings"]]): row["train_imgs_per_s"] for row in known["rows"]}
    keys = [json.dumps(parse_run(run)) for run in args.runs]
    if args.left:
        hours = sum(args.images / speed[key] for key in keys) / 3600
        print(f"{len(keys)} runs left, about {hours:.1f} hours of training at the measured speeds")
    elif not set(keys) <= set(speed):
        print(f"measuring the speed of {len(keys)} networks")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        measured = measure(args.runs, batch_size=args.batch_size, amp=args.amp, compiled=args.compile)
        engine.write_atomically(args.out, json.dumps(measured, indent=1).encode())


if __name__ == "__main__":
    main()
