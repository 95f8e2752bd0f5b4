"""Latency: milliseconds from one image to its logits, as trained and as exported; networks are measured in turns.

As trained is PyTorch in evaluation mode, in the precision of the runs; the image is already on the device, and each call
waits until the device is done. As exported is ONNX Runtime on the CPU, on as many threads as PyTorch's, with the file that
export.py writes, which also normalizes the image. The weights are random, because the latency does not depend on them.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import engine
import export
import hub
import machine

ROUNDS, CALLS = 20, 10  # timed for each network: 200 calls, so that ten are above the 95th percentile
TURN_S = 0.25  # seconds after which a turn ends with fewer calls
# seconds of rest before a turn: after their last call the threads of PyTorch and of ONNX Runtime wait busily for a while, and
# beside those of the other library one call in ten takes 4 ms longer
PAUSE_S = 0.1


def places(device):
    """What the networks run on as trained and as exported, in words; exported is None where its packages are missing."""
    cpu = machine.device_name(torch.device("cpu"))
    trained = cpu if device.type == "cpu" else f"{machine.device_name(device)}, launched from {cpu}"
    if export.missing_package():
        return {"trained": f"PyTorch on {trained}", "exported": None}
    import onnxruntime

    return {"trained": f"PyTorch on {trained}", "exported": f"ONNX Runtime {onnxruntime.__version__} on {cpu}"}


def turn(call, at_most, clock):
    """Seconds of each call of a turn. The first call, which brings the weights back into the caches, is not timed."""
    time.sleep(PAUSE_S)
    call()
    stamps = [clock()]
    while len(stamps) <= at_most and stamps[-1] - stamps[0] < TURN_S:
        call()
        stamps.append(clock())
    return np.diff(stamps)


def in_turns(calls, rounds=ROUNDS, at_most=CALLS, clock=time.perf_counter):
    """(median, 95th percentile) of each call's milliseconds, over all rounds.

    In every round each call has its turn, so that a slow minute of the machine slows all of them; the first warms up.
    """
    of_rounds = [[turn(call, at_most, clock) for call in calls] for _ in range(rounds + 1)]
    return [tuple(1000 * np.percentile(np.concatenate(turns), (50, 95))) for turns in zip(*of_rounds[1:], strict=True)]


def as_trained(net, image_size, amp, device):
    """A call that evaluates a network on one image."""
    net = net.to(device, memory_format=torch.channels_last).eval()
    img = torch.randn(1, 3, image_size, image_size, device=device).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def call():
        with engine.autocast(device, amp):
            net(img)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call


def as_exported(model):
    """A call that runs a Classifier's exported file on one image. Raises ValueError for what cannot be exported."""
    img = torch.randint(256, (1, 3, model.image_size, model.image_size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder, export.one_line_errors(model.arch):
        run = export.write_onnx(export.trace(model), {}, Path(folder) / "net.onnx")
        run(img)
    return lambda: run(img)


def measure(runs, num_classes, image_size, amp, device):
    """Latencies of runs (arch, settings): a row for each, {latency_ms, latency_p95_ms}, and both prefixed with "exported_".

    A row has no exported latency if the packages are missing or the network cannot be exported, which a line says.
    """
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False  # as train.py has them
    missing = export.missing_package()
    if missing:
        print(f"exported networks are not timed without {missing}: pip install -r requirements-export.txt")
    calls = {}
    for i, (arch, settings) in enumerate(runs):
        classes = [str(label) for label in range(num_classes)]
        model = hub.Classifier(arch, classes, settings, image_size, [128.0] * 3, [64.0] * 3).eval()
        if not missing:
            try:
                calls[i, "exported_"] = as_exported(model)
            except ValueError as error:
                print(f"{error}: not timed as exported")
        calls[i, ""] = as_trained(model.net, image_size, amp, device)
    rows = [{} for _ in runs]
    for (i, kind), (median, p95) in zip(calls, in_turns(calls.values()), strict=True):
        rows[i] |= {f"{kind}latency_ms": float(median), f"{kind}latency_p95_ms": float(p95)}
    return rows
