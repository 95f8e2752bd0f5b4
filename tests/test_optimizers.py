"""optimizers.py: what the optimizers do with weights and rates, and the learning-rate schedules."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import optimizers
from flags import SCHEDULES
from models import build
from tests.test_engine import random_split, tiny_net


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_learns(name):
    net, split = tiny_net(2), random_split(32, 2)
    optimizer = optimizers.make_optimizer(name, net, 0.01, 0.9, 0.0)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(net(split.images.float() / 128 - 1), split.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_only_weights_of_convolutions_and_linear_layers_decay():
    net = build("coatnet_eca_resnet")
    decayed, kept = optimizers.make_optimizer("sgd", net, 0.1, 0.9, 5e-4).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (5e-4, 0)
    names = {id(p): name for name, p in net.named_parameters()}
    decayed, kept = ({names[id(p)] for p in group["params"]} for group in (decayed, kept))
    assert decayed | kept == set(names.values())
    kinds = nn.Conv1d, nn.Conv2d, nn.Linear
    assert decayed == {f"{name}.weight" for name, module in net.named_modules() if isinstance(module, kinds)}
    assert any("table" in name for name in kept)
    assert all(p.ndim > 1 for name, p in net.named_parameters() if name in decayed)


def test_projections_of_torchs_attention_decay():
    net = nn.TransformerEncoderLayer(8, 2)
    decayed, _ = optimizers.make_optimizer("sgd", net, 0.1, 0.9, 5e-4).param_groups
    names = {id(p): name for name, p in net.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight",
    }  # fmt: skip


def test_momentum_is_beta1_of_the_adam_family():
    net = nn.Linear(3, 5)
    for name in ("adam", "adamw", "nadam"):
        for group in optimizers.make_optimizer(name, net, 0.02, 0.8, 0.0).param_groups:
            assert (group["lr"], group["betas"]) == (0.02, (0.8, 0.999))
    for momentum, nesterov in ((0.8, True), (0.0, False)):
        for group in optimizers.make_optimizer("sgd", net, 0.02, momentum, 0.0).param_groups:
            assert (group["lr"], group["momentum"], group["nesterov"]) == (0.02, momentum, nesterov)


def test_decay_of_adamw_is_apart_from_the_gradients():
    """Without a gradient, weights shrink by lr times the decay; Adam's would move as far as with any other gradient."""
    net = nn.Linear(3, 5)
    optimizer = optimizers.make_optimizer("adamw", net, 0.01, 0.9, 0.1)
    weight, bias = (p.detach().clone() for p in net.parameters())
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(net.weight.detach(), (1 - 0.01 * 0.1) * weight)
    assert torch.equal(net.bias.detach(), bias)


def test_rate_of_adafactor_is_that_of_the_schedule():
    """Not one in proportion to the weights: with equal gradients, the first step moves each of them by lr."""
    net = nn.Linear(3, 5)
    optimizer = optimizers.make_optimizer("adafactor", net, 0.01, 0.9, 0.0)
    before = [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p, old in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.01, rtol=0, atol=1e-6)


def test_stable_rate_decays_over_the_last_fifth():
    rates = optimizers.make_schedule("warmup_stable_decay", 0.6, 6, 50)
    assert rates[:7] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert rates[6:41] == pytest.approx([0.6] * 35)
    assert 0 < rates[49] < rates[45] < rates[41] < 0.6
    assert rates[50] == pytest.approx(0)
    assert max(optimizers.make_schedule("warmup_stable_decay", 0.6, 40, 50)) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="--warmup-frac must be 0"):
        optimizers.make_schedule("warmup_stable_decay", 0.6, 41, 50)


def test_schedules_differ():
    made = {name: tuple(optimizers.make_schedule(name, 0.1, 4, 40)) for name in SCHEDULES}
    assert len(set(made.values())) == len(made)
    halfway = optimizers.make_schedule("polynomial", 0.4, 0, 100)[50]
    assert halfway == pytest.approx(0.1, rel=1e-3)  # the square of a half


@pytest.mark.parametrize(("name", "warmup_steps", "steps"), [("polynomial", 3, 3), ("inverse_sqrt", 0, 4)])
def test_schedules_that_so_few_steps_do_not_suit_are_refused(name, warmup_steps, steps):
    with pytest.raises(
        ValueError, match=f"--schedule {name} does not suit {steps} steps with {warmup_steps} of warm-up"
    ):
        optimizers.make_schedule(name, 0.1, warmup_steps, steps)


def test_cosine_rises_to_the_peak_and_ends_at_zero():
    rates = optimizers.make_schedule("cosine", 0.5, 10, 100)
    assert len(rates) == 101
    assert rates[:11] == pytest.approx([0.05 * i for i in range(11)])
    assert max(rates) == 0.5
    assert rates[99] < 0.001
    assert rates[100] == pytest.approx(0)
