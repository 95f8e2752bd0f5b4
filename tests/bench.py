"""Measures how fast this machine trains, what is in the way, and what it would be with plainer code.

    python tests/bench.py                                   # everything: under ten minutes on two CPU cores
    python tests/bench.py --arch resnet hornet_resnet --json bench.json
    python tests/bench.py --compile                         # networks compiled

A GPU is measured by tests/bench_gpu.py.

Everything that is compared is measured in turns within one process, in rounds, and given as medians: speeds of a shared
machine drift by more than what is looked for here. The data is noise; no dataset is needed.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.tensorboard import SummaryWriter

sys.path.insert(0, str(Path(__file__).parent.parent))

import augment
import capture
import checkpoints
import data
import engine
import machine
import optimizers
from cost import cost, n_params
from models import METHODS, build
from tests import processes

ROOT = Path(__file__).parent.parent
BATCH, CLASSES = 128, 100
ARCHS = ["resnet", *(f"{method}_resnet" for method in METHODS)]
POPULAR = ["resnet", "resnet18"]  # networks that are also trained the popular way
CIFAR_STEPS = 200 * 50_000 / BATCH  # of a run of 200 epochs


def medians(calls, rounds):
    """Calls each of {name: call} once a round; the first round warms up. Returns {name: median seconds of a call}."""
    seconds = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


# ---------------------------------------------------------------------------------------------------------- our loop


class Training:
    """What train.py sets up, on noise: n_steps training steps an epoch."""

    def __init__(self, arch, device, amp, compiled, n_steps):
        self.net = build(arch, CLASSES).to(device, memory_format=torch.channels_last)
        self.model = torch.compile(self.net) if compiled else self.net
        optimizer = optimizers.make_optimizer("sgd", self.net, 0.01, 0.9, 5e-4)
        self.state = engine.TrainState(self.net, optimizer, [0.01, 0.01], amp)
        self.n_steps = n_steps
        noise = np.random.default_rng(0).integers(0, 256, (n_steps * BATCH, 32, 32, 3), dtype=np.uint8)
        targets = torch.arange(len(noise)) % CLASSES
        self.split = data.Split(torch.from_numpy(noise).permute(0, 3, 1, 2), targets, torch.arange(len(noise)))
        self.split = self.split.to(device)
        statistics = ([127.5] * 3, [70.0] * 3)
        self.batches = augment.TrainBatches(self.split, BATCH, augment.Augment(), *statistics, CLASSES, seed=0)
        self.fixed_batch = next(self.batches.epoch(0))
        self.step = capture.Step(self.state, self.model, self.batches, 0.0, 5.0)
        self.eval_batches = lambda: augment.eval_batches(self.split, 512, *statistics)

    def bare_steps(self):
        """Steps on one batch that is ready."""
        self.model.train()
        for _ in range(self.n_steps):
            engine.train_step(self.state, self.model, *self.fixed_batch, label_smoothing=0.0, clip_norm=5.0)
        self.state.assert_finite()

    def loop(self, writer, epochs):
        """An epoch with everything that train.py does in one: batches, augmentation, signals, log points."""
        epoch = next(epochs)
        self.state.step = epoch * self.n_steps
        self.state.t.fill_(self.state.step)
        for _ in engine.train_epoch(self.step, epoch, 10**9):
            if self.state.step % 20 == 0:
                self.state.assert_finite()
                writer.add_scalar("train/loss", self.state.losses[1].mean().item() / 20, self.state.step)
                self.state.losses[1] = 0
        self.state.assert_finite()

    def batches_only(self, epochs):
        self.batches.prepared = None  # drawing counts, too
        for _ in self.batches.epoch(next(epochs)):
            pass

    def evaluate(self):
        engine.start_evaluation(self.net, self.eval_batches(), len(self.split), CLASSES, self.state.amp)()


# ------------------------------------------------------------------------------------------------------ plainer code


def plain_attention(self, x):
    """CoAtNet's attention through scaled_dot_product_attention with the bias as its mask."""
    B, _, H, W = x.shape
    qkv = self.qkv(x.flatten(2).transpose(1, 2))
    q, k, v = qkv.view(B, H * W, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias()[None])
    return self.proj(out.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, (H, W))


def plain_split_attention(self, x):
    """ResNeSt's split attention with the splits as a dimension of one tensor."""
    splits = self.splits(x).unflatten(1, (self.radix, -1))
    logits = self.gate(splits.sum(1).mean((2, 3), keepdim=True)).view(len(x), self.cardinality, self.radix, -1)
    weights = logits.softmax(2).transpose(1, 2).reshape(len(x), self.radix, -1, 1, 1)
    return (weights * splits).sum(1)


def plain_depthwise(self, x):
    """nn.Conv2d; in float32 where oneDNN never returns from bfloat16, or is wrong."""
    if max(self.kernel_size) < 15 and self.dilation == (1, 1):
        return nn.Conv2d.forward(self, x)
    with torch.autocast(x.device.type, enabled=False):
        return nn.Conv2d.forward(self, x.float())


@contextlib.contextmanager
def plainly_written():
    """The same equations in the first operations that come to mind: what this project's forms are measured against."""
    plain = {
        "global_avg_pool": lambda x: x.mean((2, 3)),
        "concatenate": lambda maps: torch.cat(maps, 1),
        "channels_last_gradient": lambda x: x,
    }
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            for function in plain.keys() & vars(module).keys() if name.startswith("models.") else ():
                stack.enter_context(mock.patch.object(module, function, plain[function]))
        stack.enter_context(mock.patch("models.ops.batchnorm_cpu.batch_norm", F.batch_norm))
        stack.enter_context(mock.patch("models.ops.depthwise.Depthwise.forward", plain_depthwise))
        stack.enter_context(mock.patch("models.coatnet.RelativeAttention.forward", plain_attention))
        stack.enter_context(mock.patch("models.resnest.SplitAttention.forward", plain_split_attention))
        yield


class PopularTraining:
    """The loop of popular CIFAR repositories: float32, NCHW, PIL images through a DataLoader, the loss read each step."""

    def __init__(self, arch, device, n_steps):
        from PIL import Image
        from torchvision import transforms

        self.device, self.n_steps = device, n_steps
        self.net = build(arch, CLASSES).to(device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        augment = transforms.Compose([
            transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.27, 0.27, 0.27)),
        ])  # fmt: skip
        noise = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)

        class Images(torch.utils.data.Dataset):
            def __len__(self):
                return 10**9

            def __getitem__(self, i):
                return augment(Image.fromarray(noise[i % BATCH])), i % CLASSES

        sampler = torch.utils.data.RandomSampler(range(BATCH), replacement=True, num_samples=10**9)
        # one batch ready per worker and no more, or the workers would have all of the next turn's ready by then
        loader = torch.utils.data.DataLoader(Images(), BATCH, sampler=sampler, num_workers=2, prefetch_factor=1)
        self.batches = iter(loader)

    def steps(self, n):
        self.net.train()
        for imgs, targets in itertools.islice(self.batches, n):
            imgs, targets = imgs.to(self.device), targets.to(self.device)
            self.optimizer.zero_grad()
            logits = self.net(imgs)
            loss = F.cross_entropy(logits, targets)
            loss.backward()
            self.optimizer.step()
            loss.item()
            (logits.argmax(1) == targets).sum().item()


# ------------------------------------------------------------------------------------------------------------ tables


def arch_row(arch, device, amp, compiled, rounds, n_steps, writer):
    """Speeds of one architecture, and the ratios that are asked of it."""
    ours = Training(arch, device, amp, compiled, n_steps)
    plain = Training(arch, device, amp, compiled, n_steps)
    epochs = itertools.count()

    def plain_steps():
        with plainly_written():
            plain.bare_steps()

    calls = {"loop": lambda: ours.loop(writer, epochs), "bare": ours.bare_steps, "plain": plain_steps}
    calls |= {"batches": lambda: ours.batches_only(epochs), "evaluate": ours.evaluate}
    seconds = medians(calls, rounds)
    n_imgs = n_steps * BATCH
    _, macs = cost(arch, CLASSES, {}, 32)
    return {
        "arch": arch,
        "amp": str(amp or "off").removeprefix("torch."),
        "compile": compiled,
        "train_imgs_per_s": n_imgs / seconds["loop"],
        "eval_imgs_per_s": n_imgs / seconds["evaluate"],
        "loop_per_bare": seconds["bare"] / seconds["loop"],
        "batches_share": seconds["batches"] / seconds["loop"],
        "per_plain": seconds["plain"] / seconds["bare"],
        "train_gmacs_per_s": 3 * macs * n_imgs / seconds["bare"] / 1e9,  # forward, and the gradients of map and weights
        "hours_200_epochs": CIFAR_STEPS * seconds["loop"] / n_steps / 3600,
    }


def popular_row(arch, device, amp, rounds, n_steps):
    """Our loop and bare step against the popular loop."""
    ours, popular = Training(arch, device, amp, False, n_steps), PopularTraining(arch, device, n_steps)
    epochs, writer = itertools.count(), mock.Mock()
    calls = {
        "loop": lambda: ours.loop(writer, epochs),
        "empty the workers": lambda: popular.steps(4),  # of what they made ready while it was our turn
        "popular": lambda: popular.steps(n_steps),
    }
    seconds = medians(calls, rounds)
    n_imgs = n_steps * BATCH
    return {
        "arch": arch,
        "loop_imgs_per_s": n_imgs / seconds["loop"],
        "popular_imgs_per_s": n_imgs / seconds["popular"],
        "loop_per_popular": seconds["popular"] / seconds["loop"],
    }


def memory_row(arch, device, amp):
    """Peak memory of training steps over what is there before them, against the bytes that they must keep. In a new process."""
    training = Training(arch, device, amp, False, n_steps=1)
    if device.type == "cpu":
        machine.keep_freed_memory()
        before = resident_mb()
    else:
        torch.cuda.reset_peak_memory_stats(device)
        before = machine.peak_memory_mb(device)
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for step in range(3):
        # the first step keeps count: a block that is freed and taken again within it counts once
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t) if step == 0 else contextlib.nullcontext()
        with hooks:
            training.bare_steps()
    parameters = 4 * n_params(training.net)
    weights = {p.untyped_storage().data_ptr() for p in training.net.parameters()}
    saved = sum(size for pointer, size in storages.items() if pointer not in weights)
    needed = (2 * parameters + saved) / 2**20  # gradients and momentum; the parameters are there before
    return {"arch": arch, "needed_mb": needed, "peak_mb": machine.peak_memory_mb(device) - before}


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def processes_row(amp, rounds=2, n_steps=8):
    """Images per second of one process with two threads and of two with one each, in turns."""
    seconds = {1: [], 2: []}
    for _ in range(rounds):
        for n in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                in_new_process(run_processes, n, str(amp), n_steps, folder)
                seconds[n].append(max(float(file.read_text()) for file in Path(folder).iterdir()))
    one, two = (n_steps * BATCH / statistics.median(values) for values in seconds.values())
    return {"one_process_imgs_per_s": one, "two_processes_imgs_per_s": two, "two_per_one": two / one}


def run_processes(n, amp, n_steps, folder):
    processes.run(parallel_steps, n, 2 // n, amp, n_steps, folder)


def parallel_steps(n_threads, amp, n_steps, folder):
    """Training steps of one process of several, each with its share of the batch; writes the seconds they took."""
    from accelerate import PartialState
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(n_threads)
    machine.keep_freed_memory()
    state = PartialState(cpu=True)
    ours = Training("resnet", torch.device("cpu"), {"torch.bfloat16": torch.bfloat16}.get(amp), False, 1)
    model = ours.net
    if state.num_processes > 1:
        model = DistributedDataParallel(ours.net, gradient_as_bucket_view=True)
    imgs, targets = (part[: BATCH // state.num_processes] for part in ours.fixed_batch)
    for step in range(3 + n_steps):
        if step == 3:
            started = time.perf_counter()
        engine.train_step(ours.state, model, imgs, targets, 0.0, 5.0)
    Path(folder, str(state.process_index)).write_text(str(time.perf_counter() - started))


def in_new_process(function, *args):
    """function(*args) in a process that starts from nothing."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


FIRST_STEP = """
import time; started = time.perf_counter()
import sys, engine, flags, train
step = engine.train_step
def first_step(*args):
    step(*args)
    print(time.perf_counter() - started, flush=True)
    __import__("os")._exit(0)
engine.train_step = first_step
train.main(flags.parse_args(sys.argv[1:]))
"""


def start_up_row():
    """Seconds from the start of the program: to a refused flag, to --list, to the first step; and of decoding."""

    def seconds(*command):
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=False)
        return time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder:
        first = [
            "-c",
            FIRST_STEP,
            "--dataset",
            "shapes100",
            "--out",
            f"{folder}/runs",
            "--cache-dir",
            f"{folder}/cache",
        ]
        decode = "import time, data; t = time.perf_counter(); data.load({!r}, {!r}, None, {!r}); print(time.perf_counter() - t)"
        row = {
            "import_torch_s": statistics.median(seconds("-c", "import torch") for _ in range(3)),
            "refused_flag_s": statistics.median(seconds("train.py", "--epoch", "3") for _ in range(3)),
            "list_s": statistics.median(seconds("train.py", "--list") for _ in range(3)),
            "first_step_uncached_s": seconds(*first),
            "first_step_cached_s": statistics.median(seconds(*first) for _ in range(3)),
        }
        images = np.random.default_rng(0).integers(0, 256, (60_000, 32, 32, 3), dtype=np.uint8)
        write_parquet(Path(folder) / "cifar", images)
        for state in ("decode_60000_s", "load_decoded_s"):
            command = [sys.executable, "-c", decode.format("cifar100", f"{folder}/cifar", f"{folder}/cache")]
            row[state] = float(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout)
    return row


def write_parquet(folder, images):
    """Noise as CIFAR-100 comes from the hub: PNG files in parquet, 50,000 to train on."""
    import io

    from datasets import Dataset, disable_progress_bars
    from PIL import Image

    disable_progress_bars()
    folder.mkdir()
    for split, part in (("train", images[:50_000]), ("test", images[50_000:])):
        rows = []
        for image in part:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG", compress_level=1)
            rows.append({"bytes": buffer.getvalue(), "path": None})
        labels = [i % CLASSES for i in range(len(rows))]
        Dataset.from_dict({"img": rows, "fine_label": labels}).to_parquet(folder / f"{split}-0.parquet")


def matrix_product_gflops(device, amp):
    """Billions of multiplications and additions a second in a large matrix product: what the machine can do."""
    a = torch.randn(4096, 4096, device=device, dtype=amp or torch.float32)
    return 2 * 4096**3 / medians({"product": lambda: a @ a}, 3)["product"] / 1e9


# -------------------------------------------------------------------------------------------------------------- main


def table(rows, columns):
    """Rows as a Markdown table. columns: {key: (title, format)}."""
    shown = {key: column for key, column in columns.items() if any(key in row for row in rows)}
    told = {key for key in ("amp", "compile") if len({row.get(key) for row in rows}) == 1}  # at the top
    shown = {key: column for key, column in shown.items() if key not in told}
    print("| " + " | ".join(title for title, _ in shown.values()) + " |")
    print("|" + " --- |" * len(shown))
    for row in rows:
        cells = [format(row[key], form) if key in row else "" for key, (_, form) in shown.items()]
        print("| " + " | ".join(cells) + " |", flush=True)
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=ARCHS)
    parser.add_argument("--compile", action="store_true", help="in the speeds of the first table only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all rows here")
    args = parser.parse_args()
    device = torch.device("cpu")
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False
    machine.keep_freed_memory()
    machine.keep_to_cores()
    amp = engine.amp_dtype("auto", device)
    n_steps = 4
    result = {"device": machine.device_name(device), "torch": str(torch.__version__)}
    compiled = ", compiled" if args.compile else ""
    print(
        f"{result['device']}, torch {result['torch']}, batches of {BATCH}, {amp or 'float32'}{compiled}\n", flush=True
    )

    variants = [(amp, args.compile)]
    writer = SummaryWriter(tempfile.mkdtemp())
    peak = matrix_product_gflops(device, amp)
    result["matrix_product_gflops"] = peak
    result["archs"] = [
        arch_row(arch, device, *variant, args.rounds, n_steps, writer) for arch in args.arch for variant in variants
    ]
    of_resnet = {(r["amp"], r["compile"]): r["train_gmacs_per_s"] for r in result["archs"] if r["arch"] == "resnet"}
    for row in result["archs"]:
        row["share_of_product"] = 2 * row["train_gmacs_per_s"] / peak
        if of_resnet:
            row["macs_rate_per_resnet"] = row["train_gmacs_per_s"] / of_resnet[row["amp"], row["compile"]]
    result["memory"] = [in_new_process(memory_row, arch, device, amp) for arch in args.arch]
    for row, memory in zip(result["archs"][:: len(variants)], result["memory"], strict=True):
        row["memory_mb"], row["memory_per_needed"] = memory["peak_mb"], memory["peak_mb"] / memory["needed_mb"]
    table(
        result["archs"],
        {
            "arch": ("architecture", ""),
            "amp": ("type", ""),
            "compile": ("compiled", ""),
            "train_imgs_per_s": ("training, images/s", ",.0f"),
            "eval_imgs_per_s": ("evaluation, images/s", ",.0f"),
            "loop_per_bare": ("loop / bare step", ".2f"),
            "batches_share": ("batches' share", ".1%"),
            "per_plain": ("step / plainly written", ".2f"),
            "macs_rate_per_resnet": ("MACs/s / ResNet's", ".2f"),
            "share_of_product": ("FLOP/s / matrix product's", ".1%"),
            "memory_mb": ("memory, MB", ",.0f"),
            "memory_per_needed": ("memory / needed", ".2f"),
            "hours_200_epochs": ("200 epochs, hours", ".1f"),
        },
    )
    result["popular"] = [popular_row(arch, device, amp, 3, n_steps) for arch in POPULAR]
    table(
        result["popular"],
        {
            "arch": ("architecture", ""),
            "loop_imgs_per_s": ("our loop, images/s", ",.0f"),
            "popular_imgs_per_s": ("popular loop, images/s", ",.0f"),
            "loop_per_popular": ("ratio", ".2f"),
        },
    )
    result["processes"] = processes_row(amp)
    table(
        [result["processes"]],
        {
            "one_process_imgs_per_s": ("one process of two cores, images/s", ",.0f"),
            "two_processes_imgs_per_s": ("two processes of one core", ",.0f"),
            "two_per_one": ("ratio", ".2f"),
        },
    )
    result["start_up"] = start_up_row()
    table(
        [result["start_up"]],
        {name: (name.removesuffix("_s").replace("_", " ") + ", s", ".2f") for name in result["start_up"]},
    )
    if args.json:
        checkpoints.write_atomically(args.json, json.dumps(result, indent=1).encode())


if __name__ == "__main__":
    main()
