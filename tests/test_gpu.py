"""What a GPU computes, against the CPU: python -m pytest -m gpu. Otherwise no test sees a GPU, see conftest.py."""

import signal
from copy import deepcopy

import pytest
import torch
from torch import nn

import engine
import speed
from augment import Augment
from models import build
from tests.checks import can_build
from tests.runs import result_of, run
from tests.test_augment import batches, random_split
from tests.test_models import ALONE, TRAINED
from tests.test_signals import start, wait_for_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="of a GPU: python -m pytest -m gpu"),
]
GPU = torch.device("cuda")


def loss_and_gradients(net, device, amp=None):
    """A copy's loss on random images, and its gradients in one vector: in the net's precision or in autocast."""
    net = deepcopy(net).to(device, memory_format=torch.channels_last)
    imgs = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    imgs = imgs.to(device, next(net.parameters()).dtype, memory_format=torch.channels_last)
    with engine.autocast(device, amp):
        logits = net(imgs)
    scale = 1024 if amp is torch.float16 else 1  # as a GradScaler does it
    loss = nn.functional.cross_entropy(logits.to(imgs.dtype), torch.arange(16, device=device) % 7)
    (scale * loss).backward()
    return loss.detach().cpu().double(), torch.cat([p.grad.flatten().cpu().double() for p in net.parameters()]) / scale


@pytest.mark.parametrize(("arch", "settings"), TRAINED)
def test_network_is_the_cpus(arch, settings):
    """In double precision, where what differs is another function."""
    torch.manual_seed(0)
    net = build(arch, 7, settings).double()
    with torch.no_grad():  # running statistics that are not the initial ones
        net(torch.randn(4, 3, 32, 32, dtype=torch.double))
    net.eval()  # drops nothing at random
    for ours, expected in zip(loss_and_gradients(net, GPU), loss_and_gradients(net, torch.device("cpu")), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arch", ALONE)
def test_half_precision_follows_double(arch, amp):
    torch.manual_seed(0)
    net = build(arch, 7)
    loss, gradients = loss_and_gradients(net, GPU, amp)
    expected_loss, expected_gradients = loss_and_gradients(net.double(), torch.device("cpu"))
    assert loss.item() == pytest.approx(expected_loss.item(), rel=0.01)
    assert nn.functional.cosine_similarity(gradients, expected_gradients, dim=0) > 0.7  # CSPNet's in bfloat16 is 0.8


@pytest.mark.parametrize(
    "augment", [Augment(), Augment(cutout=4, mixup=0.2, cutmix=1.0), Augment(mixup=0.2, crop_scale=0.2)]
)
def test_batches_are_the_cpus(augment):
    split = random_split()
    for ours, expected in zip(batches(split.to(GPU), augment).epoch(3), batches(split, augment).epoch(3), strict=True):
        assert ours[0].device.type == "cuda"
        for on_gpu, on_cpu in zip(ours, expected, strict=True):
            torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=0.01)  # of 255


@pytest.mark.parametrize("how", ["--amp auto", "--amp off --ema-decay 0.9", "--amp fp16", "--amp bf16 --compile"])
def test_run(command, tmp_path, how):
    if "--compile" in how and not can_build():
        pytest.skip("Triton can build no kernels here")
    run(*command("--arch", "eca_resnet", "--epochs", "4", "--lr", "0.1", *how.split()))
    result = result_of(tmp_path / "runs" / "run")
    assert result["device"] == torch.cuda.get_device_name()
    assert result["peak_memory_mb"] > 0
    assert result["curve"][-1]["train_loss"] < result["curve"][0]["train_loss"]


def test_interrupted_run_ends_as_a_whole_one(command, tmp_path):
    """But for rounding, which another choice of kernels changes: hence a learning rate at which it does not grow."""
    flags = command("--lr", "1e-5", "--epochs", "30", "--save-every", "1")
    folder = tmp_path / "runs" / "run"
    with start(1, *flags) as running:
        wait_for_step(folder, running)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=300)
    assert "SIGTERM: stopped at step" in out, err
    run(*flags)
    run(*flags, "--name", "whole")
    assert_same_losses(result_of(folder), result_of(tmp_path / "runs" / "whole"))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="of two GPUs")
def test_two_gpus_are_one(command, tmp_path):
    flags = command("--lr", "1e-5", "--amp", "off")
    with start(2, *flags, "--sync-bn") as running:
        out, err = running.communicate(timeout=300)
    assert running.returncode == 0, out + err
    assert result_of(tmp_path / "runs" / "run")["graph"]
    run(*flags, "--name", "one")
    assert_same_losses(result_of(tmp_path / "runs" / "run"), result_of(tmp_path / "runs" / "one"))


def assert_same_losses(result, expected):
    ours, theirs = ([epoch["train_loss"] for epoch in each["curve"]] for each in (result, expected))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_speed_and_memory_are_measured():
    row = speed.measure_alone(("eca_resnet", {}), 100, 32, 16, "auto", False)
    assert min(row["train_imgs_per_s"], row["eval_imgs_per_s"], row["peak_memory_mb"]) > 0
