"""Measures the Triton kernels against PyTorch's, and other sizes of their programs against those set: two minutes on a GPU.

    python tests/bench_kernels.py                    # all, a table last
    python tests/bench_kernels.py --seconds 40       # less of the sweep
    python tests/bench_kernels.py --no-sweep         # the comparison with PyTorch only

Times are microseconds on the device, bfloat16 maps of batches of 128 and float32 parameters, in CUDA graphs of 32 calls. The
maps take turns, so that none larger than 6 MB is found in the cache. Kernels are compiled in parallel processes first. A
configuration that fails is printed and left out.

A tuning result is applied by setting the constants of the class Blocks in models/ops/*_cuda.py.
"""

import argparse
import contextlib
import itertools
import math
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from models.ops import batchnorm_cuda, depthwise_cuda, layernorm_cuda, sums_cuda

BATCH, CALLS, REPLAYS = 128, 32, 5
CACHE_BYTES = 100e6  # more than the cache of any GPU
COPIES = 16  # of the maps at most
CHANNELS_LAST = torch.channels_last


@dataclass(frozen=True)
class Layer:
    """A layer on maps of C channels and size x size pixels. kernel: of a depthwise one, or norm, scale, gate or gelu."""

    name: str
    C: int
    size: int
    kernel: tuple[int, int] | str
    dilation: int = 1

    @property
    def module(self):
        others = {"norm": layernorm_cuda, "scale": sums_cuda, "gate": sums_cuda, "gelu": batchnorm_cuda}
        return others.get(self.kernel, depthwise_cuda)

    @property
    def directions(self):
        return list(ours(self))

    def __str__(self):
        kernel = self.kernel if isinstance(self.kernel, str) else "{}x{}".format(*self.kernel)
        dilation = f" /{self.dilation}" if self.dilation > 1 else ""
        return f"{self.name:9} {kernel}{dilation} {self.C}@{self.size}"


STAGES = [(16, 32), (32, 16), (64, 8)]
STRIPS = [(1, 7), (7, 1), (1, 11), (11, 1), (1, 21), (21, 1)]
DEPTHWISE = [
    *(Layer("convnext", C, size, (7, 7)) for C, size in STAGES),
    *(Layer("hornet", C, size, (7, 7)) for C, size in [(24, 32), (56, 16), (120, 8)]),
    *(Layer("segnext", C, size, (5, 5)) for C, size in STAGES),
    *(Layer("segnext", C, size, kernel) for kernel in STRIPS for C, size in [STAGES[0], STAGES[2]]),
    *(Layer("segnext", 4 * C, size, (3, 3)) for C, size in STAGES),
    *(Layer("lsknet", C, size, (7, 7), 3) for C, size in STAGES),
    Layer("ghostnet", 8, 32, (3, 3)),
]
NORMS = [Layer("convnext", C, size, "norm") for C, size in STAGES]
SCALES = [Layer("convnext", C, size, "scale") for C, size in STAGES]
MBCONVS = [(64, 32), (128, 32), (128, 16)]
GATES = [Layer("coatnet", C, size, "gate") for C, size in MBCONVS]
GELUS = [Layer("coatnet", C, size, "gelu") for C, size in MBCONVS]
SWEPT = [  # of DEPTHWISE
    Layer("convnext", 16, 32, (7, 7)),
    Layer("convnext", 64, 8, (7, 7)),
    Layer("hornet", 24, 32, (7, 7)),
    Layer("hornet", 120, 8, (7, 7)),
    Layer("segnext", 16, 32, (5, 5)),
    Layer("segnext", 16, 32, (1, 21)),
    Layer("segnext", 16, 32, (11, 1)),
    Layer("segnext", 64, 8, (21, 1)),
    Layer("segnext", 64, 32, (3, 3)),
    Layer("segnext", 256, 8, (3, 3)),
    Layer("lsknet", 16, 32, (7, 7), 3),
    Layer("lsknet", 64, 8, (7, 7), 3),
]
SHAPES = [(2, 8), (4, 2), (4, 4), (4, 8), (8, 2), (8, 4)]  # REUSE, VECTOR
FORWARD_BLOCKS = [
    {"REUSE": reuse, "VECTOR": vector, "MAX_CHANNELS": channels, "WARPS": 4}
    for channels, (reuse, vector) in itertools.product([64, 16], SHAPES)
]
KERNEL_BLOCKS = [
    {"KERNEL_REUSE": reuse, "KERNEL_VECTOR": vector, "KERNEL_MAX_CHANNELS": channels, "KERNEL_WARPS": warps}
    for channels, warps, (reuse, vector) in itertools.product([64, 16], [1, 4], SHAPES)
]
KERNEL_PROGRAMS = [1024, 2048, 4096]
NORM_BLOCKS = [{"VECTOR": vector, "WARPS": warps} for vector, warps in itertools.product([4, 8, 16], [1, 2, 4, 8])]
SUMS_BLOCKS = [
    {"VECTOR": vector, "WARPS": warps, "PROGRAMS": programs}
    for vector, warps, programs in itertools.product([4, 8], [1, 4, 8], [512, 1024, 2048])
]
GELU_BLOCKS = [
    {"VECTOR": vector, "SUMS_VECTOR": vector, "WARPS": warps, "PROGRAMS": programs}
    for vector, warps, programs in itertools.product([8, 16, 32], [4, 8], [1024, 2048, 4096])
]
NORM_GRADIENT_BLOCKS = [
    {"GRADIENT_VECTOR": vector, "GRADIENT_WARPS": warps, "GRADIENT_PROGRAMS": programs}
    for vector, warps, programs in itertools.product([4, 8, 16], [1, 4, 8], [256, 512, 1024, 2048])
]


# ------------------------------------------------------------------------------------------------------------ measuring


@contextlib.contextmanager
def blocks(module, settings):
    """The constants of module.Blocks while inside."""
    before = {name: getattr(module.Blocks, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(module.Blocks, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module.Blocks, name, value)


def microseconds(call, inputs):
    """Time on the device of call(*maps), for each in turn of the list of maps."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            call(*inputs[0])
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()  # not torch.cuda.graph, which frees all cached memory each time
        try:
            for i in range(CALLS):
                call(*inputs[i % len(inputs)])
        finally:
            graph.capture_end()
    times = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(1000 * start.elapsed_time(end) / CALLS)
    return statistics.median(times[1:])


def attempt(call, inputs, what):
    """microseconds, or nan of a call that fails, which is printed."""
    try:
        return microseconds(call, inputs)
    except Exception as problem:  # whatever it is, the others are to be measured
        print(f"failed: {what}: {one_line(problem)}", flush=True)
        torch.cuda.synchronize()
        return math.nan


def maps(layer, n, batch=BATCH, dtype=torch.bfloat16):
    """Tuples of n maps of the layer each, so many that they do not fit the cache together."""
    nbytes = n * batch * layer.C * layer.size**2 * dtype.itemsize
    copies = min(COPIES, math.ceil(CACHE_BYTES / nbytes)) if batch == BATCH else 1
    shape = (batch, layer.C, layer.size, layer.size)
    return [
        tuple(torch.randn(shape, device="cuda", dtype=dtype).contiguous(memory_format=CHANNELS_LAST) for _ in range(n))
        for _ in range(copies)
    ]


def parameters(layer):
    """Weight and bias, float32."""
    shape = (layer.C, 1, *layer.kernel) if layer.module is depthwise_cuda else (layer.C,)
    return torch.randn(shape, device="cuda"), torch.randn(layer.C, device="cuda")


def ours(layer):
    """{direction: (how many maps it reads, the call)}, of the kernels."""
    weight, bias = parameters(layer)
    if layer.kernel == "scale":
        factor = weight[:, None, None]
        return {
            "sums": (1, lambda x: sums_cuda.channel_sums(x, torch.float32)),
            "gradient": (2, lambda x, grad: sums_cuda.channel_scale_gradient(x, grad, factor)),
        }
    if layer.kernel == "gate":
        gate = torch.rand(BATCH, layer.C, 1, 1, device="cuda").bfloat16()
        return {"gradient": (2, lambda x, grad: sums_cuda.channel_scale_gradient(x, grad, gate[: len(x)]))}
    if layer.kernel == "gelu":
        mean, scale = torch.randn(layer.C, device="cuda"), torch.rand(layer.C, device="cuda")
        statistics = mean.clone(), scale.clone(), 0.1, 1e-5
        return {
            "statistics": (1, lambda x: batchnorm_cuda.batch_statistics(x, *statistics)),
            "forward": (1, lambda x: batchnorm_cuda.batch_norm_gelu(x, mean, scale, weight, bias)),
            "gradient": (
                2,
                lambda x, grad: batchnorm_cuda.batch_norm_gelu_gradient(x, grad, mean, scale, weight, bias),
            ),
        }
    if layer.kernel == "norm":
        return {
            "forward": (1, lambda x: layernorm_cuda.channel_norm(x, weight, bias, 1e-6, torch.bfloat16)),
            "gradient": (2, lambda x, grad: layernorm_cuda.channel_norm_gradient(x, grad, weight, 1e-6)),
        }
    d = layer.dilation
    return {
        "forward": (1, lambda x: depthwise_cuda.depthwise(x, weight, bias, d)),
        "map": (1, lambda grad: depthwise_cuda.depthwise_map_gradient(grad, weight, d)),
        "kernel": (2, lambda x, grad: depthwise_cuda.depthwise_kernel_gradient(x, grad, weight, d, True)),
    }


def torchs(layer):
    """The same of PyTorch; the norm with the casts that autocast makes, the convolution without those of parameters."""
    weight, bias = parameters(layer)
    if layer.kernel == "scale":
        factor = weight[:, None, None]
        return {
            "sums": (1, lambda x: x.sum((0, 2, 3))),
            "gradient": (2, lambda x, grad: ((grad * factor).bfloat16(), (grad * x).sum((0, 2, 3)))),
        }
    if layer.kernel == "gate":
        gate = torch.rand(BATCH, layer.C, 1, 1, device="cuda").bfloat16()
        return {"gradient": (2, lambda x, grad: (grad * gate, (grad * x).sum((2, 3))))}
    if layer.kernel == "gelu":
        return batch_norm_and_gelu(layer, weight, bias)
    if layer.kernel == "norm":

        def norm(x):
            rows = x.float().permute(0, 2, 3, 1)
            return torch.ops.aten.native_layer_norm(rows, [layer.C], weight, bias, 1e-6)

        def gradient(x, grad, x32, mean, rstd):
            grad = grad.float().permute(0, 2, 3, 1)
            args = (grad, x32, [layer.C], mean, rstd, weight, bias, [True, True, True])
            return torch.ops.aten.native_layer_norm_backward(*args)[0].bfloat16()

        x32 = maps(layer, 1, dtype=torch.float32)[0][0].permute(0, 2, 3, 1)
        _, mean, rstd = torch.ops.aten.native_layer_norm(x32, [layer.C], weight, bias, 1e-6)
        return {
            "forward": (1, lambda x: norm(x)[0].bfloat16()),
            "gradient": (2, lambda x, grad: gradient(x, grad, x32, mean, rstd)),
        }
    w, b = weight.bfloat16().contiguous(memory_format=CHANNELS_LAST), bias.bfloat16()
    padding, dilation = [layer.dilation * (k // 2) for k in layer.kernel], [layer.dilation] * 2

    def backward(x, grad, mask):
        args = (grad, x, w, [layer.C], [1, 1], padding, dilation, False, [0, 0], layer.C, mask)
        return torch.ops.aten.convolution_backward(*args)

    return {
        "forward": (1, lambda x: F.conv2d(x, w, b, 1, padding, dilation, groups=layer.C)),
        "map": (1, lambda grad: backward(grad, grad, [True, False, False])),
        "kernel": (2, lambda x, grad: backward(x, grad, [False, True, True])),
    }


def batch_norm_and_gelu(layer, weight, bias):
    """Of torchs. The forward pass is all there is to a batch norm in training and a GELU, its statistics included."""
    mean, scale = torch.randn(layer.C, device="cuda"), torch.rand(layer.C, device="cuda")
    running = mean.clone(), scale.clone()

    def gradient(x, grad):
        grad = torch.ops.aten.gelu_backward(grad, x)
        args = (grad, x, weight, *running, mean, scale, True, 1e-5, [True, True, True])
        return torch.ops.aten.native_batch_norm_backward(*args)

    return {
        "statistics": (1, lambda x: torch.ops.aten.batch_norm_stats(x, 1e-5)),
        "forward": (1, lambda x: F.gelu(F.batch_norm(x, *running, weight, bias, True))),
        "gradient": (2, gradient),
    }


# ------------------------------------------------------------------------------------------------------------ compiling


@dataclass(frozen=True)
class Job:
    """A direction of a layer with other constants of Blocks than those set."""

    layer: Layer
    direction: str
    settings: tuple[tuple[str, int], ...] = ()

    def blocks(self):
        return blocks(self.layer.module, dict(self.settings))

    def __str__(self):
        return f"{self.layer} {self.direction} " + " ".join(f"{name}={value}" for name, value in self.settings)


def sweep_jobs():
    """All of the sweep, but for those that differ in nothing."""
    swept = [(GELUS, "statistics", GELU_BLOCKS), (GELUS, "forward", GELU_BLOCKS[::3]), (GELUS, "gradient", GELU_BLOCKS)]
    swept += [(GATES, "gradient", SUMS_BLOCKS)]
    swept += [(SWEPT, "forward", FORWARD_BLOCKS), (SWEPT, "kernel", KERNEL_BLOCKS)]
    swept += [(NORMS, "forward", NORM_BLOCKS), (NORMS, "gradient", NORM_GRADIENT_BLOCKS)]
    swept += [(SCALES, "sums", SUMS_BLOCKS), (SCALES, "gradient", SUMS_BLOCKS)]
    for layers, direction, candidates in swept:
        for layer, settings in itertools.product(layers, candidates):
            if layer.C > 16 or 16 not in (settings.get("MAX_CHANNELS"), settings.get("KERNEL_MAX_CHANNELS")):
                yield Job(layer, direction, tuple(settings.items()))


def compile_one(job):
    """Into Triton's cache on disk, in another process; the batch size does not matter. Returns a problem in a line, or None."""
    try:
        n, call = ours(job.layer)[job.direction]
        with job.blocks():
            call(*maps(job.layer, n, batch=2)[0])
        torch.cuda.synchronize()
    except Exception as problem:  # itself it could not always be pickled
        return one_line(problem)


def compile_all(jobs, seconds):
    """Compiles in parallel; what fails is printed. Returns the jobs done in time."""
    started = time.perf_counter()
    n_processes = min(14, len(os.sched_getaffinity(0)))
    pool = ProcessPoolExecutor(n_processes, mp_context=get_context("spawn"))
    futures = {job: pool.submit(compile_one, job) for job in jobs}
    done, late = wait(futures.values(), timeout=seconds)
    pool.shutdown(wait=True, cancel_futures=True)
    problems = {job: future.result() for job, future in futures.items() if future in done and future.result()}
    for job, problem in list(problems.items())[:10]:
        print(f"failed to compile: {job}: {problem}", flush=True)
    took = time.perf_counter() - started
    print(f"{took:.0f} s: compiled {len(done)}, {len(problems)} failed, {len(late)} left out", flush=True)
    return [job for job, future in futures.items() if future in done and job not in problems]


# --------------------------------------------------------------------------------------------------------------- tables


def compared(layers):
    """Lines: each layer's directions, ours and PyTorch's, and a copy of the map, which reads and writes it once."""
    for layer in layers:
        cells = []
        plain = torchs(layer)
        for direction, (n, call) in ours(layer).items():
            inputs = maps(layer, n)
            our_time = attempt(call, inputs, f"{layer} {direction}")
            their_time = attempt(plain[direction][1], inputs, f"{layer} {direction}, PyTorch")
            cells.append(f"{direction} {our_time:6.1f} {their_time:7.1f}")
        copy = attempt(lambda x: x.clone(memory_format=CHANNELS_LAST), maps(layer, 1), f"{layer} copy")
        yield f"{layer!s:24} copy {copy:5.1f} | " + " | ".join(cells)


def pointwise():
    """Lines: 1x1 convolutions as matrix products and as cuDNN's convolutions."""
    for (C, size), widens in itertools.product(STAGES, [True, False]):
        a, b = (C, 4 * C) if widens else (4 * C, C)
        w = torch.randn(b, a, 1, 1, device="cuda").bfloat16().contiguous(memory_format=CHANNELS_LAST)
        bias = torch.randn(b, device="cuda").bfloat16()
        xs, grads = (maps(Layer("", ch, size, ""), 1) for ch in (a, b))
        pairs = [(x, grad) for (x,), (grad,) in zip(xs, itertools.cycle(grads), strict=False)]

        def rows(x):
            return x.permute(0, 2, 3, 1).flatten(0, 2)

        def backward(x, grad, mask, w=w, b=b):
            args = (grad, x, w, [b], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, mask)
            return torch.ops.aten.convolution_backward(*args)

        calls = {
            "forward": (
                lambda x, _, w=w, bias=bias: F.linear(rows(x), w.flatten(1), bias),
                lambda x, _, w=w, bias=bias: F.conv2d(x, w, bias),
            ),
            "map": (
                lambda _, grad, w=w: rows(grad) @ w.flatten(1),
                lambda x, grad, backward=backward: backward(x, grad, [True, False, False]),
            ),
            "kernel": (
                lambda x, grad: rows(grad).T @ rows(x),
                lambda x, grad, backward=backward: backward(x, grad, [False, True, False]),
            ),
        }
        name = f"1x1 {a}>{b}@{size}"
        cells = []
        for direction, (product, convolution) in calls.items():
            times = [attempt(call, pairs, f"{name} {direction}") for call in (product, convolution)]
            cells.append("{} {:6.1f} {:7.1f}".format(direction, *times))
        yield f"{name:24}            | " + " | ".join(cells)


def as_well(job):
    """The job's settings, and those that are the same for its layer: with 16 channels no block has more."""
    narrow = tuple((name, 16 if "MAX_CHANNELS" in name else value) for name, value in job.settings)
    return {job.settings, narrow} if job.layer.C <= 16 else {job.settings}


def swept(jobs, deadline):
    """{(layer, direction): {settings: microseconds}} of what can be measured until then."""
    times = {}
    for (layer, direction), group in itertools.groupby(jobs, lambda job: (job.layer, job.direction)):
        n, call = ours(layer)[direction]
        inputs = maps(layer, n)
        for job in group:
            for programs in KERNEL_PROGRAMS if direction == "kernel" else [None]:
                more = () if programs is None else (("KERNEL_PROGRAMS", programs),)
                tried = Job(layer, direction, job.settings + more)
                if time.perf_counter() < deadline:
                    with tried.blocks():
                        measured = attempt(call, inputs, tried)
                    for settings in as_well(tried):
                        times.setdefault((layer, direction), {})[settings] = measured
    return times


def best(times):
    """Lines: for each layer the time as set and the best; for each direction the settings that are best for all its layers."""
    groups = {}
    for (layer, direction), found in times.items():
        measured = {settings: value for settings, value in found.items() if not math.isnan(value)}
        if measured:
            settings = min(measured, key=measured.get)
            yield f"{layer!s:24} {direction:8} best {measured[settings]:6.1f}: {in_words(settings)}"
            groups.setdefault((layer.module.__name__, direction), []).append(measured)
    for (module, direction), tables in groups.items():
        everywhere = set.intersection(*(set(table) for table in tables))
        ratios = {s: statistics.geometric_mean(t[s] / min(t.values()) for t in tables) for s in everywhere}
        for settings in sorted(ratios, key=ratios.get)[:4]:
            yield f"{module.split('.')[-1]} {direction}, all layers: {ratios[settings]:.2f} times the best: {in_words(settings)}"


def in_words(settings):
    return " ".join(f"{name}={value}" for name, value in settings)


def one_line(problem):
    lines = str(problem).strip().splitlines() or [""]
    return f"{type(problem).__name__}: {lines[-1][:150]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=110, help="for everything; the sweep gets what is left")
    parser.add_argument("--no-sweep", action="store_true", help="only the kernels as they are set")
    args = parser.parse_args()
    started = time.perf_counter()
    torch.backends.cudnn.benchmark = True  # as train.py has it
    layers = DEPTHWISE + NORMS + SCALES + GATES + GELUS
    as_set = [Job(layer, direction) for layer in layers for direction in layer.directions]
    jobs = [] if args.no_sweep else list(sweep_jobs())
    compiled = set(compile_all(as_set + jobs, 0.55 * args.seconds))
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    lines = [*compared(layers), *pointwise()]
    print(f"{time.perf_counter() - started:.0f} s: measured as set", flush=True)
    times = swept([job for job in jobs if job in compiled], started + args.seconds)
    print(f"{time.perf_counter() - started:.0f} s: swept", flush=True)
    print("\nmicroseconds: a copy of the map; then ours and PyTorch's for each direction", *lines, sep="\n")
    print("\nother sizes of programs, microseconds", *best(times), sep="\n")


if __name__ == "__main__":
    main()
