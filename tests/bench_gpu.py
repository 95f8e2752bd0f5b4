"""How fast a GPU trains every network: step by step, as one CUDA graph, compiled, and four runs side by side.

    python tests/bench_gpu.py                     # the ResNet and most methods, six minutes on one GPU with 16 cores
    python tests/bench_gpu.py resnet gmlp_resnet  # some of them; --no-compile leaves out what takes longest

Each network has a process of its own, so that all compile at once; they measure in turns. Images are CIFAR-sized noise, in
batches of 128. The last lines are the table, and the hours that 200 epochs of five seeds of these networks would take.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

METHODS = [
    "coatnet",
    "convnext",
    "cspnet",
    "eca",
    "ghostnet",
    "gmlp",
    "hornet",
    "lsknet",
    "mixer",
    "productpool",
    "resnest",
    "segnext",
]
ARCHS = ["resnet", *(f"{name}_resnet" for name in METHODS)]
BATCH, IMAGES, EPOCH, SIDE_BY_SIDE = 128, 10_000, 50_000, 4
MEASURED_S = 1.5
COLUMNS = ("eager", "captured", "captured x4", "compiled", "compiled x4")


def make_step(arch, seed, captured, compiled, device="cuda:0"):
    """A training step of a network on noise."""
    import torch

    import capture
    import engine
    import optimizers
    from augment import Augment, TrainBatches
    from data import Split
    from models import build

    device = torch.device(device)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 32, 32, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    split = Split(pixels, torch.arange(IMAGES) % 100, torch.arange(IMAGES)).to(device)
    torch.manual_seed(seed)
    net = build(arch, 100).to(device, memory_format=torch.channels_last)
    optimizer = optimizers.make_optimizer("sgd", net, 0.01, 0.9, 5e-4)
    state = engine.TrainState(net, optimizer, [0.01] * 2, torch.bfloat16)
    model = torch.compile(net) if compiled else net
    batches = TrainBatches(split, BATCH, Augment(), [120.0] * 3, [60.0] * 3, 100, seed)
    batches.begin(0)
    return capture.Step(state, model.train(), batches, 0.0, 5.0, use_graph=captured)


def prepare(arch, n, captured, compiled):
    """n steps with their streams, warmed up and captured."""
    import torch

    ready = []
    for seed in range(n):
        step, stream = make_step(arch, seed, captured, compiled), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        if captured and not step.graph:
            raise RuntimeError("not captured")
        ready.append((step, stream))
    return ready


def imgs_per_s(steps):
    """Images per second of all runs together, each queueing 20 steps in its turn, as train.py does."""
    import torch

    n, started = 0, time.perf_counter()
    while time.perf_counter() - started < MEASURED_S:
        for step, stream in steps:
            with torch.cuda.stream(stream):
                for _ in range(20):
                    step()
                n += 20
        if n // len(steps) % 40 == 0:  # or the queue would run ahead of the clock
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return n * BATCH / (time.perf_counter() - started)


def bench(arch, compiles, barrier_n, ready, turn, results):
    """Prepares, waits until all have, and measures when it is this process's turn."""
    import torch

    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False
    row, variants = {"arch": arch}, {}
    plans = {"eager": (1, False, False), "captured x4": (SIDE_BY_SIDE, True, False)}
    if compiles:
        plans["compiled x4"] = (SIDE_BY_SIDE, True, True)
    for name, plan in plans.items():
        started = time.perf_counter()
        try:
            variants[name] = prepare(arch, *plan)
        except Exception as error:
            traceback.print_exc()
            row[f"{name} failed"] = str(error).splitlines()[0][:120]
        row[f"{name} ready_s"] = time.perf_counter() - started
    with ready.get_lock():
        ready.value += 1
    deadline = time.monotonic() + 150
    while ready.value < barrier_n and time.monotonic() < deadline:
        time.sleep(0.2)
    with turn:
        for name, steps in variants.items():
            row[name] = imgs_per_s(steps)
            if name != "eager":
                row[name.removesuffix(" x4")] = imgs_per_s(steps[:1])
        row["memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    results.put(row)


def epoch_costs(device):
    """Seconds of what an epoch of ResNet-20 does beside its steps: {name: seconds}, each after a first time."""
    import io

    import torch
    from torch.utils.tensorboard import SummaryWriter

    import engine
    from augment import eval_batch_size, eval_batches

    step = make_step("resnet", 0, False, False, device)
    split, statistics = step.batches.split, ([120.0] * 3, [60.0] * 3)
    size = eval_batch_size(device, 32)
    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)

        def log():
            for i in range(2 * EPOCH // BATCH // 20):
                writer.add_scalar("train/loss", 1.0, i)

        calls = {
            "drawing 50,000 images": lambda: [step.batches.prepare(i) for i in range(EPOCH // IMAGES)],
            "scoring 10,000 images": lambda: engine.start_evaluation(
                step.state.net, eval_batches(split, size, *statistics), IMAGES, 100, step.state.amp
            )(),
            "the training curve": log,
            "a checkpoint, without the disk": lambda: torch.save(step.state.state_dict(), io.BytesIO()),
        }
        seconds = {}
        for name, call in calls.items():
            call()
            started = time.perf_counter()
            call()
            seconds[name] = time.perf_counter() - started
    return seconds


def bounds():
    """What the card does at its best: bytes copied, and operations of a bf16 matrix product, per second."""
    import torch

    a = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    b, m = torch.empty_like(a), torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")

    def seconds(call, n=20):
        call()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(n):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / n

    return 2 * a.numel() / seconds(lambda: b.copy_(a)), 2 * 8192**3 / seconds(lambda: m @ m)


def table(rows, bytes_per_s, flops):
    from cost import cost

    print(
        f"\ncopies {bytes_per_s / 1e12:.2f} TB/s, bf16 products {flops / 1e12:.0f} TFLOP/s; images per second of training:\n"
    )
    print("| arch | " + " | ".join(COLUMNS) + " | share of the products, % |")
    print("| --- |" + " --: |" * (len(COLUMNS) + 1))
    hours = 0.0
    for row in sorted(rows, key=lambda row: -row.get("captured x4", 0)):
        best = max(row.get(name, 0) for name in COLUMNS)
        share = 100 * 6 * cost(row["arch"], 100, {}, 32)[1] * best / flops
        cells = [f"{row[name]:,.0f}" if name in row else "-" for name in COLUMNS]
        print(f"| {row['arch']} | {' | '.join(cells)} | {share:.2f} |")
        hours += 200 * 5 * EPOCH / best / 3600 if best else 0
    print(f"\n200 epochs of five seeds of these {len(rows)} networks: {hours:.1f} hours")
    for row in rows:
        for name, value in row.items():
            if name.endswith("failed"):
                print(f"{row['arch']}, {name}: {value}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archs", nargs="*", default=ARCHS)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="write the rows here, too")
    args = parser.parse_args()
    import torch

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = get_context("spawn")
    ready, turn, results = context.Value("i", 0), context.Lock(), context.Queue()
    children = [
        context.Process(target=bench, args=(arch, args.compile, len(args.archs), ready, turn, results), daemon=True)
        for arch in args.archs
    ]
    for child in children:
        child.start()
    rows = []
    while len(rows) < len(children) and (any(child.is_alive() for child in children) or not results.empty()):
        try:
            rows.append(results.get(timeout=1))
        except Exception:  # queue.Empty: the others still work
            continue
        print(json.dumps({k: round(v, 1) if isinstance(v, float) else v for k, v in rows[-1].items()}), flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))
    table(rows, *bounds())
    seconds = epoch_costs(torch.device("cuda", 0))
    print("\nan epoch's own costs, ms: " + ", ".join(f"{name} {1000 * s:.1f}" for name, s in seconds.items()))


if __name__ == "__main__":
    main()
