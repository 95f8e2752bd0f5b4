"""Optimizers and learning-rate schedules by name: torch's and transformers'."""

import torch
from torch import nn


def adafactor(groups, lr, momentum):
    from transformers import Adafactor

    # without these three it would set its own learning rate
    return Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False, warmup_init=False)


def adam(kind, groups, lr, momentum):
    optimizer = kind(groups, lr, (momentum, 0.999), fused=True, capturable=on_gpu(groups))
    optimizer._warned_capturable_if_run_uncaptured = True  # or torch would warn of the steps before a capture
    return optimizer


def on_gpu(groups):
    return any(p.device.type == "cuda" for group in groups for p in group["params"])


OPTIMIZERS = {  # momentum is beta1 of the Adam family
    "sgd": lambda groups, lr, momentum: torch.optim.SGD(groups, lr, momentum, nesterov=momentum > 0, fused=True),
    "adamw": lambda groups, lr, momentum: adam(torch.optim.AdamW, groups, lr, momentum),
    "adam": lambda groups, lr, momentum: adam(torch.optim.Adam, groups, lr, momentum),
    "nadam": lambda groups, lr, momentum: torch.optim.NAdam(groups, lr, (momentum, 0.999)),
    "adagrad": lambda groups, lr, momentum: torch.optim.Adagrad(groups, lr, fused=not on_gpu(groups)),
    "adafactor": adafactor,
}
# those whose steps read the learning rate on the device
CAPTURABLE = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def make_optimizer(name, net, lr, momentum, weight_decay):
    """One of OPTIMIZERS over the net's trainable parameters. Only weights of convolutions and linear layers decay: norms,
    biases, layer scales, position tables and the like do not."""
    decayed = {id(module.weight) for module in net.modules() if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))}
    decayed |= {id(module.in_proj_weight) for module in net.modules() if isinstance(module, nn.MultiheadAttention)}
    trained = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if (id(p) in decayed) == decays], "weight_decay": weight_decay * decays}
        for decays in (True, False)
    ]
    optimizer = OPTIMIZERS[name](groups, lr, momentum)
    if name == "sgd" and momentum:  # if fp16 skips the first update, fused SGD would read uninitialized memory
        for p in trained:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def make_schedule(name, lr, warmup_steps, total_steps):
    """The learning rate of each step, by transformers' schedule of that name: a list of total_steps + 1 numbers, the last of
    which belongs to no step. A warm-up begins at 0. Raises ValueError for a schedule that does not suit these steps."""
    from transformers.optimization import get_scheduler

    decay_steps = total_steps // 5 if name == "warmup_stable_decay" else 0
    extra = {"warmup_stable_decay": {"num_decay_steps": decay_steps}, "polynomial": {"power": 2.0}}.get(name, {})
    if (name == "polynomial" and warmup_steps == total_steps) or (name == "inverse_sqrt" and not warmup_steps):
        raise ValueError(
            f"--schedule {name} does not suit {total_steps} steps with {warmup_steps} of warm-up: change --warmup-frac"
        )
    if decay_steps + warmup_steps > total_steps:
        raise ValueError(
            f"--schedule {name} decays over the last fifth of the steps: --warmup-frac must be 0.8 at most"
        )
    stand_in = torch.optim.SGD([torch.zeros(1)], lr)
    scheduler = get_scheduler(name, stand_in, warmup_steps, total_steps, scheduler_specific_kwargs=extra)
    (factor,) = scheduler.lr_lambdas
    return [lr * factor(step) for step in range(total_steps + 1)]
