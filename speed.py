"""How fast networks train and evaluate on this machine, measured side by side, and what each of them costs by itself.

    python speed.py resnet eca_resnet resnet:resnet.width=24 --out cost.json
    python speed.py resnet eca_resnet --costs costs.json --image-sizes 32 224

Speeds of --out are medians over rounds of all networks. Each is divided by the mean of its round, so that a slow spell of the
machine cancels out. If a network is new, those that the file has for this size are measured again beside it; rows of other
sizes are dropped.

--costs measures each network in a process of its own, whose peak memory is then the network's. Rows that are in the
file already, measured under the same conditions, stay. All other flags are those of train.py, of which --batch-size,
--accumulate, --image-size, --amp and --compile matter here, and on a GPU --graph and --optimizer, which may leave steps without
a CUDA graph. Both files also hold the latency of one image (latency.py).
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch

import capture
import checkpoints
import engine
import latency
import machine
import optimizers
from augment import EVAL_BATCH_GPU, Augment, TrainBatches, eval_batch_size, normalize
from cost import cost
from flags import mistakes_refused, parse_args, path_of, refuse
from models import build, canonical, parse_settings
from models.libraries import first_line
from names import parts_of
from splits import Split

N_CLASSES = 100  # of the networks that are measured
ENOUGH_S = 0.5  # seconds of calls that time a network well enough
FLOPS_PER_MAC = 6  # of a training step: a product and a sum forward, twice that backward, for inputs and for weights


def parse_run(run):
    """'hornet_resnet:hornet.orders=2,3,4' -> (arch, settings). Raises ValueError for what does not exist.

    Flags of a run, such as --pretrained, say how its weights start, which is left out here.
    """
    arch, knobs, _ = parts_of(run)
    return canonical(arch), parse_settings(arch, knobs)


class Stepper:
    """Training steps, as train.py does them, and evaluations of one network on a batch of noise."""

    def __init__(self, arch, settings, num_classes, image_size, batch_size, amp, compiled, accumulate, graph, device):
        self.net = build(arch, num_classes, settings, image_size).to(device, memory_format=torch.channels_last)
        optimizer = optimizers.make_optimizer("sgd", self.net, 0.01, 0.9, 5e-4)
        state = engine.TrainState(self.net, optimizer, [0.01, 0.01], amp)
        images = torch.randint(256, (batch_size, image_size, image_size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        split = Split(images, torch.randint(num_classes, (batch_size,)), torch.arange(batch_size)).to(device)
        augment = Augment(crop_padding=min(4, image_size - 1))
        self.batches = TrainBatches(split, batch_size, augment, [128.0] * 3, [64.0] * 3, num_classes, seed=0)
        self.batches.begin(0)
        model = torch.compile(self.net) if compiled else self.net
        self.step = capture.Step(state, model, self.batches, 0.0, 5.0, accumulate, use_graph=graph)
        # as many as training.py scores at a time on a GPU, where a few only time the launches of kernels
        n = eval_batch_size(device, image_size) if device.type == "cuda" else batch_size
        imgs = split.images[torch.arange(n, device=device) % batch_size]
        self.imgs = normalize(imgs, self.batches.mean, self.batches.std)
        self.amp = amp
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream())

    def train(self):
        with torch.cuda.stream(self.stream) if self.stream else nullcontext():
            self.net.train()
            self.step()

    @torch.no_grad()
    def evaluate(self):
        with (
            torch.cuda.stream(self.stream) if self.stream else nullcontext(),
            engine.autocast(self.imgs.device, self.amp),
        ):
            self.net.eval()
            self.net(self.imgs)


def imgs_per_s(call, batch_size, at_most, device):
    """Images per second of a few calls, the device's queue included: of at_most calls, of fewer if they take long."""
    started = time.perf_counter()
    n_calls = 0
    while n_calls < at_most and time.perf_counter() - started < ENOUGH_S:
        call()
        n_calls += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    return n_calls * batch_size / (time.perf_counter() - started)


def the_device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def conditions(batch_size, amp, compiled, accumulate=1, graph=True):
    """What speeds depend on besides the network and its images; under other conditions they cannot be compared."""
    device = the_device()
    some = {"accumulate": accumulate} if accumulate > 1 else {}
    if device.type == "cuda":
        some |= {"eval_batch_size": EVAL_BATCH_GPU} | ({} if graph else {"graph": "off"})
    return some | {
        "device": machine.device_name(device),
        "amp": str(engine.amp_dtype(amp, device) or "off").removeprefix("torch."),
        "compile": compiled,
        "batch_size": batch_size,
        "torch": str(torch.__version__),
    }


def typical(speeds):
    """Speeds (rounds, runs) -> (runs,): the median of each run's speed in proportion to its round's, times the median round's.

    A round's speed is the geometric mean of its runs, so that a slow spell of the machine does not hit a median of one run
    alone.
    """
    speeds = np.asarray(speeds)
    of_round = np.exp(np.log(speeds).mean(1, keepdims=True))
    return np.median(speeds / of_round, axis=0) * np.median(of_round)


def measure(runs, num_classes, image_size, batch_size, amp, compiled, accumulate=1, graph=True, rounds=10, n_calls=3):
    """Typical speeds of runs (arch, settings): rows {arch, settings, image_size, train_imgs_per_s, eval_imgs_per_s}."""
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False  # as train.py sets them
    machine.keep_freed_memory()
    device = the_device()
    amp = engine.amp_dtype(amp, device)
    how = num_classes, image_size, batch_size, amp, compiled, accumulate, graph, device
    steppers = [Stepper(*run, *how) for run in runs]

    def speeds_of(one):
        trained = imgs_per_s(one.train, batch_size, n_calls, device)
        return trained, imgs_per_s(one.evaluate, len(one.imgs), n_calls, device)

    speeds = [[speeds_of(one) for one in steppers] for _ in range(rounds + 1)]
    train_speeds, eval_speeds = map(typical, np.moveaxis(speeds[1:], 2, 0))  # the first round warms up
    return [
        {
            "arch": arch,
            "settings": settings,
            "image_size": image_size,
            "train_imgs_per_s": float(train_speed),
            "eval_imgs_per_s": float(eval_speed),
        }
        for (arch, settings), train_speed, eval_speed in zip(runs, train_speeds, eval_speeds, strict=True)
    ]


def measure_alone(run, *how):
    """The row of one run by measure(), with this process's peak memory."""
    machine.keep_to_cores()
    (row,) = measure([run], *how)
    return row | {"peak_memory_mb": machine.peak_memory_mb(the_device())}


def cost_row(run, num_classes, image_size, batch_size, *how):
    """What a run (arch, settings) costs at an image size, measured in a process of its own; or its "problem" there."""
    arch, settings = run
    row = {"arch": arch, "settings": settings, "image_size": image_size}
    try:
        params, macs = cost(arch, num_classes, settings, image_size)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
            row |= child.submit(measure_alone, run, num_classes, image_size, batch_size, *how).result()
    except (ValueError, RuntimeError) as error:  # no network of this size, or no memory, which may kill the child
        return row | {"problem": first_line(error)}
    return row | {
        "params": params,
        "macs": macs,
        "train_step_ms": 1000 * batch_size / row["train_imgs_per_s"],
        "train_tflops": FLOPS_PER_MAC * macs * row["train_imgs_per_s"] / 1e12,
    }


def key_of(arch, settings, image_size):
    return json.dumps([arch, settings, image_size])


def read(file, expected):
    """The rows of a file by their key_of, if they were measured under the conditions expected; else none."""
    try:
        content = json.loads(file.read_text()) if file.exists() else {}
    except ValueError:
        raise ValueError(f"{file} is damaged: delete it") from None
    if {name: value for name, value in content.items() if name not in ("rows", "latency")} != expected:
        return {}
    return {key_of(row["arch"], row["settings"], row["image_size"]): row for row in content["rows"]}


def write(file, conditions, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_atomically(file, json.dumps(conditions | {"rows": rows}, indent=1).encode())


def write_speeds(file, runs, image_size, how):
    """Measures the runs side by side, with those that the file has for this size, unless all of them are in the file.

    how: (batch size, amp, compiled, accumulate, graph).
    """
    asked = {key_of(*run, image_size) for run in runs}
    if not asked <= read(file, conditions(*how)).keys():
        before = json.loads(file.read_text())["rows"] if file.exists() else []
        others = [(row["arch"], row["settings"]) for row in before if row["image_size"] == image_size]
        runs = runs + [run for run in others if key_of(*run, image_size) not in asked]
        print(f"measuring the speed of {len(runs)} network{'s' * (len(runs) != 1)}")
        write(file, conditions(*how), measure(runs, N_CLASSES, image_size, *how))


def write_costs(file, runs, image_sizes, how):
    """Measures each run by itself at each size, unless the file has that; saves after each, as each takes long."""
    about = conditions(*how)
    rows = read(file, about)
    if file.exists() and not rows:
        kept = file.with_name(f"{file.stem}-{int(file.stat().st_mtime)}{file.suffix}")
        print(f"{file} was measured under other conditions, so it was renamed to {kept.name}", flush=True)
        file.rename(kept)
    if rows:  # keeps where latencies were measured
        about = {name: value for name, value in json.loads(file.read_text()).items() if name != "rows"}
    for image_size in image_sizes:
        for run in runs:
            key = key_of(*run, image_size)
            if "train_step_ms" not in rows.get(key, {}):
                rows[key] = cost_row(run, N_CLASSES, image_size, *how)
                write(file, about, list(rows.values()))
                result = rows[key].get("problem") or f"{rows[key]['train_step_ms']:.1f} ms a step"
                print(f"{run[0]} at {image_size}x{image_size}: {result}", flush=True)


def write_latencies(file, image_sizes, amp):
    """Measures the latency of the file's networks at these sizes, unless it has all of them from the same place."""
    places = latency.places(the_device())
    content = json.loads(file.read_text())
    rows = content.pop("rows")
    if content.get("latency") != places:
        rows = [{name: value for name, value in row.items() if "latency" not in name} for row in rows]
    for image_size in image_sizes:
        of_size = [row for row in rows if row["image_size"] == image_size and "problem" not in row]
        if not all("latency_ms" in row for row in of_size):
            networks = f"{len(of_size)} network{'s' * (len(of_size) != 1)}"
            print(f"measuring the latency of {networks} at {image_size}x{image_size}", flush=True)
            runs = [(row["arch"], row["settings"]) for row in of_size]
            how = N_CLASSES, image_size, engine.amp_dtype(amp, the_device()), the_device()
            for row, measured in zip(of_size, latency.measure(runs, *how), strict=True):
                row.update(measured)
            write(file, content | {"latency": places}, rows)


def main():
    parser = argparse.ArgumentParser(
        usage="speed.py NETWORK ... (--out FILE | --costs FILE) [--image-sizes N ...] [flags of train.py]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="*", help="architectures, with settings after colons; before all flags")
    file = parser.add_mutually_exclusive_group(required=True)
    file.add_argument(
        "--out", type=path_of, help="measure the runs' speeds and write them here, unless the file has them all"
    )
    file.add_argument(
        "--costs", type=path_of, help="measure each run by itself at each of --image-sizes, and write here"
    )
    parser.add_argument("--image-sizes", type=int, nargs="+", default=[32], help="heights of the images of --costs")
    parser.error = partial(refuse, program="speed.py")
    args, flags = parser.parse_known_args()
    wrong_order = "name the networks first, then the flags: speed.py resnet eca_resnet --out cost.json"
    if sys.argv[1 : 1 + len(args.runs)] != args.runs or any(flag.split("=")[0] == "--arch" for flag in flags):
        parser.error(wrong_order)
    recipe = parse_args(flags)  # which refuses what it does not know
    if not args.runs:
        parser.error(wrong_order)
    if recipe.settings:
        parser.error("--set is not read: write knobs after colons, such as eca_resnet:eca.kernel_size=5")
    machine.keep_to_cores()  # as train.py does
    graph = recipe.graph != "off" and recipe.optimizer in optimizers.CAPTURABLE
    how = recipe.batch_size, recipe.amp, recipe.compile, recipe.accumulate, graph
    if args.costs and recipe.image_size:
        parser.error("--image-size is read with --out; --costs takes --image-sizes")
    if args.out and args.image_sizes != [32]:
        parser.error("--image-sizes is read with --costs; --out takes --image-size")
    with mistakes_refused("speed.py"):
        distinct = list({key_of(*run, None): run for run in map(parse_run, args.runs)}.values())
        if args.out:
            write_speeds(args.out, distinct, recipe.image_size or 32, how)
            write_latencies(args.out, [recipe.image_size or 32], recipe.amp)
        else:
            write_costs(args.costs, distinct, args.image_sizes, how)
            write_latencies(args.costs, args.image_sizes, recipe.amp)


if __name__ == "__main__":
    main()
