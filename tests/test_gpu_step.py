"""The captured training step against the called one, and runs side by side: python -m pytest -m gpu."""

import contextlib
import os
import socket

import pytest
import torch
import torch.distributed as dist

import capture
import engine
import optimizers
from augment import Augment, TrainBatches
from data import Split
from models import METHODS, build
from tests.checks import can_build
from tests.runs import result_of, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="of a GPU: python -m pytest -m gpu"),
]
STEPS = 12


def new_step(captured, arch="eca_resnet", optimizer="sgd", amp=torch.bfloat16, ema_decay=0.0, augment=None, seed=0,
             accumulate=1, compiled=False, **settings):  # fmt: skip
    device = torch.device("cuda", 0)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (200, 32, 32, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    split = Split(images, torch.arange(200) % 10, torch.arange(200)).to(device)
    torch.manual_seed(seed)
    net = build(arch, 10, settings).to(device, memory_format=torch.channels_last)
    rates = optimizers.make_schedule("cosine", 1e-3, 4, STEPS)
    state = engine.TrainState(net, optimizers.make_optimizer(optimizer, net, 1e-3, 0.9, 5e-4), rates, amp, ema_decay)
    batches = TrainBatches(split, 32, augment or Augment(), [120.0] * 3, [60.0] * 3, 10, seed)
    model = torch.compile(net) if compiled else net
    return capture.Step(state, model.train(), batches, 0.1, 5.0, accumulate, use_graph=captured)


def trained(step, stream=None):
    """Losses of each step, after which the state holds what training left."""
    losses = []
    with torch.cuda.stream(stream or torch.cuda.Stream()):
        while step.state.step < STEPS:
            for _ in engine.train_epoch(step, step.state.step // step.batches.steps_per_epoch, STEPS):
                losses.append(step.state.losses[1, 0].item())
                step.state.losses[1] = 0
        step.state.assert_finite()
    return losses


WAYS = {
    "sgd": {},
    "adamw": {"optimizer": "adamw"},
    "adam": {"optimizer": "adam"},
    "fp16": {"amp": torch.float16},
    "float32": {"amp": None},
    "ema": {"ema_decay": 0.9},
    "mixup, cutmix, cutout": {"augment": Augment(mixup=0.2, cutmix=1.0, cutout=4)},
    "resized crops": {"augment": Augment(crop_scale=0.2)},
    "accumulated": {"accumulate": 4},
    "compiled": {"compiled": True},
    "library": {"arch": "torchvision:resnet18"},
    "filter": {"arch": "hornet_resnet", "hornet.gate": "gf"},
    "vit": {"arch": "vit"},
    **{method: {"arch": f"{method}_resnet"} for method in METHODS},
}


@pytest.mark.parametrize("way", WAYS)
def test_captured_step_trains_as_the_eager_one(way):
    """To the rounding of kernels that are chosen anew, at a learning rate at which it does not grow."""
    if WAYS[way].get("compiled") and not can_build():
        pytest.skip("Triton can build no kernels here")
    called, captured = (new_step(graph, **WAYS[way]) for graph in (False, True))
    expected, losses = trained(called), trained(captured)
    assert captured.graph is not None
    assert losses == pytest.approx(expected, rel=2e-2)
    assert captured.state.t == captured.state.step == STEPS
    assert captured.state.rate.item() == pytest.approx(captured.state.rates[STEPS - 1], abs=1e-9)
    pairs = zip(captured.state.eval_net.parameters(), called.state.eval_net.parameters(), strict=True)
    moved = [((p - q).norm() / (q.norm() + 1e-3)).item() for p, q in pairs]
    assert max(moved) < 0.05


def test_dropped_paths_of_a_resumed_run_are_drawn_again():
    """Runs that draw from generators of their own: side by side, and from the middle on."""
    settings = {"resnet.drop_path": 0.5}
    whole = trained(new_step(True, amp=None, **settings))
    assert whole != pytest.approx(trained(new_step(True, amp=None, **settings | {"resnet.drop_path": 0.4})), rel=1e-3)
    first, second = new_step(True, amp=None, **settings), new_step(True, amp=None, **settings)
    with torch.cuda.stream(torch.cuda.Stream()):
        epoch = engine.train_epoch(first, 0, STEPS)
        for _ in range(5):
            next(epoch)
        first.state.losses[1] = 0
    torch.cuda.synchronize()  # another stream reads what the steps leave, and the second run has yet another
    second.state.load_state_dict(first.state.state_dict())
    torch.cuda.synchronize()
    assert trained(second) == pytest.approx(whole[5:], rel=1e-3)


def test_optimizer_that_asks_the_host_is_not_captured():
    said = []
    step = new_step(True, optimizer="nadam")
    step = capture.Step(step.state, step.model, step.batches, use_graph=True, say=said.append)
    trained(step)
    assert step.graph is None
    assert said == ["the training step runs slower, without a CUDA graph: NAdam needs values on the host"]


def test_step_that_cannot_be_captured_is_called_and_trains_the_same():
    said = []
    steps = [new_step(captured) for captured in (True, False)]
    for step in steps:
        step.say = said.append
        step.state.net.stem.register_forward_hook(lambda module, args, out: out * (1 + 0 * out.sum().item()))
    a, b = map(trained, steps)
    assert steps[0].graph is None and len(said) == 1
    assert a == pytest.approx(b, rel=1e-2)
    torch.cuda.empty_cache()
    later = new_step(True)
    trained(later)
    assert later.graph is not None


def test_seeds_side_by_side_are_the_runs_one_by_one(command, tmp_path):
    flags = command("--arch", "eca_resnet", "--epochs", "3", "--lr", "1e-4", "--set", "resnet.drop_path=0.2")
    flags[flags.index("--name") + 1] = "run{seed}"
    run(*flags, "--seed", "0", "1", "2")
    for seed in ("0", "1", "2"):
        run(*flags, "--seed", seed, "--out", str(tmp_path / "alone"))
        together, alone = (result_of(tmp_path / out / f"run{seed}") for out in ("runs", "alone"))
        assert (together["graph"], together["side_by_side"], alone["side_by_side"]) == (True, 3, 1)
        for a, b in zip(together["curve"], alone["curve"], strict=True):
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)


def test_streamed_set_is_captured(command, tmp_path, monkeypatch):
    monkeypatch.setattr("data.room", lambda device: 0)
    run(*command("--epochs", "2", "--lr", "1e-4", "--amp", "off"))
    monkeypatch.undo()
    run(*command("--epochs", "2", "--lr", "1e-4", "--amp", "off", "--name", "kept"))
    streamed, kept = (result_of(tmp_path / "runs" / name) for name in ("run", "kept"))
    assert streamed["graph"]
    assert streamed["curve"][-1]["train_loss"] == pytest.approx(kept["curve"][-1]["train_loss"], rel=1e-3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_step_of_distributed_data_parallel_is_captured(accumulate):
    """With one process of NCCL, as there may be one GPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    expected, step = trained(new_step(False, accumulate=accumulate)), None
    dist.init_process_group("nccl", rank=0, world_size=1, device_id=torch.device("cuda", 0))
    try:
        step, stream = new_step(True, accumulate=accumulate), torch.cuda.Stream()
        with torch.cuda.stream(stream):
            step.model = torch.nn.parallel.DistributedDataParallel(
                step.model, device_ids=[0], gradient_as_bucket_view=True
            )
            step.n_warm_ups = capture.DDP_WARM_UPS
        assert trained(step, stream) == pytest.approx(expected, rel=2e-2)
        assert step.graph is not None
    finally:
        if step:
            step.release()
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
