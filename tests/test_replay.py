"""What a CUDA graph of the training step would freeze, shown without a GPU.

make_fx traces one step over its state; the trace, as the graph, knows nothing of Python: a number that the host read while
it was made stays what it was. So a trace that is replayed must give what calling the step gives, step after step.
"""

import contextlib

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import capture
import engine
import optimizers
from augment import Augment, TrainBatches
from data import Split
from models import build

STEPS = 12  # four epochs


def new_step(optimizer="sgd", ema_decay=0.0, augment=None, accumulate=1, arch="eca_resnet", **settings):
    """A step of a tiny network on 3 batches of 4 images an epoch."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (14, 3, 8, 8), dtype=torch.uint8, generator=generator)
    split = Split(images.contiguous(memory_format=torch.channels_last), torch.arange(14) % 5, torch.arange(14))
    torch.manual_seed(0)
    net = build(arch, 5, {"resnet.width": 4, "resnet.depth": 8} | settings, 8).to(memory_format=torch.channels_last)
    rates = optimizers.make_schedule("cosine", 0.05, 4, STEPS)
    state = engine.TrainState(net, optimizers.make_optimizer(optimizer, net, 0.05, 0.9, 5e-4), rates, None, ema_decay)
    batches = TrainBatches(split, 4, augment or Augment(1), [120.0] * 3, [60.0] * 3, 5, seed=0)
    batches.begin(0)
    return capture.Step(state, net.train(), batches, 0.1, 1.0, accumulate)


def numbers(step):
    """Everything that the step has changed, with the learning rate it read last."""
    state = step.state
    return [value.clone() for value in (*state.tensors(), *capture.optimizer_tensors(state.optimizer))]


def called(step):
    trace = []
    for _ in range(STEPS):
        step()
        trace.append(numbers(step))
    return trace


def replayed(step):
    """As called(), by a trace of the second step; the first makes what the optimizer makes in its first."""
    trace = []
    step()
    trace.append(numbers(step))
    before = numbers(step)
    trace_of_step = make_fx(lambda: step.compute(), tracing_mode="real")()
    for value, old in zip(
        (*step.state.tensors(), *capture.optimizer_tensors(step.state.optimizer)), before, strict=True
    ):
        value.data.copy_(old)
    step.compute = torch.no_grad()(trace_of_step)  # its operations are those of the backward pass, too
    for _ in range(STEPS - 1):
        step()
        trace.append(numbers(step))
    return trace


WAYS = {
    "sgd": {},
    "adamw": {"optimizer": "adamw"},
    "ema": {"ema_decay": 0.9},
    "mixup": {"augment": Augment(1, mixup=0.2, cutmix=1.0)},
    "cutout": {"augment": Augment(1, cutout=3)},
    "resized": {"augment": Augment(crop_scale=0.2)},
    "drop path": {"resnet.drop_path": 0.3},
    "accumulated": {"accumulate": 2},
    "gmlp": {"arch": "gmlp_resnet", "gmlp.first_block": 0, "resnet.depth": 14},
    "hornet": {"arch": "hornet_resnet", "hornet.orders": (1, 2, 3), "ema_decay": 0.9},
}


@pytest.mark.parametrize("way", WAYS)
def test_replayed_step_is_the_called_one(way):
    expected, got = called(new_step(**WAYS[way])), replayed(new_step(**WAYS[way]))
    for step, (a, b) in enumerate(zip(expected, got, strict=True)):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(y, x, rtol=1e-6, atol=1e-7, msg=lambda text, step=step: f"step {step}: {text}")


@contextlib.contextmanager
def baked(monkeypatch, step):
    """The learning rate is a number of Python, as if the host had read it."""
    step.state.rate_table = step.state.rate_table.clone()
    rates = iter(step.state.rates)
    train_step = engine.train_step

    def with_a_number(state, *args):
        train_step(state, *args)
        state.losses.mul_(1 + next(rates))

    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_step", with_a_number)
        yield step


def test_number_that_is_baked_in_is_noticed(monkeypatch):
    with baked(monkeypatch, new_step()) as step:
        expected = called(step)
    with baked(monkeypatch, new_step()) as step:
        got = replayed(step)
    assert not all(torch.allclose(x, y) for a, b in zip(expected, got, strict=True) for x, y in zip(a, b, strict=True))


def test_value_that_the_host_reads_is_refused(monkeypatch):
    step = new_step()
    compute = step.compute

    def curious():
        compute()
        if step.state.losses.sum().item() > 0:
            step.state.losses.zero_()

    with pytest.raises(Exception, match=r"item|data-dependent|_local_scalar_dense"):
        make_fx(curious, tracing_mode="real")()
