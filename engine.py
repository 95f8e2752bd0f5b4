"""One epoch of training, exact evaluation, and the state that a resumed run needs.

`net` is the raw module; `model` is the same network as it is trained: compiled, wrapped in DistributedDataParallel.
"""

import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from models.ops import bfloat16

MAX_SKIPPED = 20  # updates in a row that fp16 may leave out while its scaler looks for a scale; from 2**16 to 2**-4
ECE_BINS = 15  # as Guo et al., "On Calibration of Modern Neural Networks", ICML 2017


def adafactor(groups, lr, momentum):
    from transformers import Adafactor

    # without these three it would set its own learning rate
    return Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False, warmup_init=False)


OPTIMIZERS = {  # momentum is beta1 of the Adam family
    "sgd": lambda groups, lr, momentum: torch.optim.SGD(groups, lr, momentum, nesterov=momentum > 0, fused=True),
    "adamw": lambda groups, lr, momentum: torch.optim.AdamW(groups, lr, (momentum, 0.999), fused=True),
    "adam": lambda groups, lr, momentum: torch.optim.Adam(groups, lr, (momentum, 0.999), fused=True),
    "nadam": lambda groups, lr, momentum: torch.optim.NAdam(groups, lr, (momentum, 0.999)),
    "adagrad": lambda groups, lr, momentum: torch.optim.Adagrad(groups, lr, fused=True),
    "adafactor": adafactor,
}


def make_optimizer(name, net, lr, momentum, weight_decay):
    """One of OPTIMIZERS over what is not frozen in the net. Only weights of convolutions and linear layers decay: norms,
    biases, layer scales, position tables and the like do not."""
    decayed = {id(module.weight) for module in net.modules() if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))}
    decayed |= {id(module.in_proj_weight) for module in net.modules() if isinstance(module, nn.MultiheadAttention)}
    trained = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if (id(p) in decayed) == decays], "weight_decay": weight_decay * decays}
        for decays in (True, False)
    ]
    optimizer = OPTIMIZERS[name](groups, lr, momentum)
    if name == "sgd" and momentum:  # or torch's fused SGD takes what memory holds, if fp16 leaves out the first update
        for p in trained:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def make_scheduler(name, optimizer, warmup_steps, total_steps):
    """transformers' schedule of that name, stepped once per optimizer step. A warm-up begins at 0."""
    from transformers.optimization import get_scheduler

    extra = {"num_decay_steps": total_steps // 5} if name == "warmup_stable_decay" else {}
    return get_scheduler(name, optimizer, warmup_steps, total_steps, scheduler_specific_kwargs=extra)


def amp_dtype(choice, device):
    """The autocast type for --amp: None is full precision; auto is bf16 where the device computes in it."""
    if choice == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[choice]


def autocast(device, amp):
    """The context of forward passes, to be entered as often as needed; amp None is full precision."""
    if device.type == "cpu" and amp is torch.bfloat16 and not bfloat16.is_native():
        return bfloat16.AutocastInFloat32()
    return torch.autocast(device.type, amp, enabled=amp is not None)


def moving_average(decay):
    """What AveragedModel calls: averages of parameters and statistics; torch's own also averages indices, and rounds."""

    def update(averages, values, _):
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - decay)
        else:
            torch._foreach_copy_(averages, values)

    return update


class TrainState:
    """Everything that training changes, and so everything that a checkpoint holds.

    step counts optimizer updates from the start of the run, train_s its seconds, epoch_s those of the epoch. losses
    (2, processes) sums each process's losses over the epoch and since the last log point, so that an interrupted epoch
    reports what a whole one would. n_bad counts the last steps in a row with a loss or gradient that was not finite.
    """

    def __init__(self, net, optimizer, scheduler, amp, ema_decay=0.0, rank=0, world_size=1):
        self.net, self.optimizer, self.scheduler, self.amp = net, optimizer, scheduler, amp
        self.device = next(net.parameters()).device
        # In every precision the scaler leaves out updates that are not finite, on the device; only fp16 needs its scale.
        scaling = {} if amp is torch.float16 else {"init_scale": 1.0, "growth_interval": 2**31 - 1}
        self.scaler = torch.amp.GradScaler(self.device.type, **scaling)
        self.tolerance = MAX_SKIPPED if amp is torch.float16 else 0  # bad steps in a row
        self.ema = AveragedModel(net, multi_avg_fn=moving_average(ema_decay), use_buffers=True) if ema_decay else None
        self.rank = rank
        self.step = 0
        self.train_s = self.epoch_s = 0.0
        self.losses = torch.zeros(2, world_size, device=self.device)
        self.n_bad = torch.zeros((), dtype=torch.int64, device=self.device)
        self.curve = []  # one row of results per finished epoch

    @property
    def eval_net(self):
        """The network that is evaluated and published: the averaged one if there is one."""
        return self.ema.module if self.ema else self.net

    def state_dict(self):
        """Plain types and tensors. All processes call it together, for it gathers their losses."""
        parts = {name: getattr(self, name).state_dict() for name in self.parts}
        return parts | {name: getattr(self, name) for name in self.counters} | {"losses": summed(self.losses)}

    def load_state_dict(self, saved):
        for name in self.parts:
            getattr(self, name).load_state_dict(saved[name])
        for name in self.counters:
            setattr(self, name, saved[name])
        self.n_bad = self.n_bad.to(self.device)
        same_processes = saved["losses"].shape == self.losses.shape
        own = saved["losses"][:, self.rank] if same_processes else saved["losses"].mean(1)
        self.losses.zero_()[:, self.rank] = own.to(self.device)

    counters = ("step", "train_s", "epoch_s", "n_bad", "curve")

    @property
    def parts(self):
        return ["net", "optimizer", "scheduler", "scaler"] + (["ema"] if self.ema else [])

    def mean_loss(self, row, n_steps):
        """The mean over processes and steps of the losses summed in this row."""
        return summed(self.losses)[row].mean().item() / max(1, n_steps)

    def assert_finite(self):
        """Raises FloatingPointError, naming the step, if training has met a loss or gradient that is not finite.

        Weights and optimizer are then still those in front of that step: see train_step. This waits for the device.
        """
        n_bad = self.n_bad.item()
        if n_bad > self.tolerance:
            raise FloatingPointError(
                f"loss or gradient is not finite at step {self.step - n_bad + 1}: lower --lr or set --clip-norm"
            )


# ----------------------------------------------------------------------------------------------- train and evaluate


def train_step(state, model, imgs, targets, label_smoothing, clip_norm):
    """One update. Where a loss or gradient is not finite it is left out, and so are all behind it (fp16: after a while).

    No value leaves the device for this: a bad loss turns the process's gradients to nan, the sum over the processes
    spreads them to all, and the scaler skips the update.
    """
    with autocast(state.device, state.amp):
        logits = model(imgs)
    loss = F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    healthy = loss.isfinite() & (state.n_bad <= state.tolerance)
    state.scaler.scale(loss * torch.where(healthy, 1.0, torch.nan)).backward()
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in state.net.parameters() if p.grad is not None])
    if clip_norm:
        nn.utils.clip_grads_with_norm_(state.net.parameters(), clip_norm, norm)
    state.n_bad = torch.where(norm.isfinite(), 0, state.n_bad + 1)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.scheduler.step()
    if state.ema:
        state.ema.update_parameters(state.net)
    state.losses[:, state.rank] += torch.where(loss.isfinite(), loss.detach(), 0.0)  # counts as 0, as its update does
    state.step += 1


def train_epoch(state, model, batches, epoch, last_step, label_smoothing=0.0, clip_norm=0.0, after_step=None):
    """Trains from state.step to the end of the epoch, or to last_step if that comes first.

    Calls after_step() behind every step and leaves the epoch there if that returns True and steps remain. Returns whether
    it was left. Raises FloatingPointError as TrainState.assert_finite does.
    """
    model.train()
    if not all(p.requires_grad for p in state.net.parameters()):
        state.net.eval()  # a frozen backbone keeps its batch statistics and drops nothing
    in_epoch = state.step - epoch * batches.steps_per_epoch
    if in_epoch == 0:
        state.losses[0] = 0
        state.epoch_s = 0.0
    started = time.perf_counter()

    def stop_clock():
        nonlocal started
        now = time.perf_counter()
        state.train_s += now - started
        state.epoch_s += now - started
        started = now

    end = min(last_step, (epoch + 1) * batches.steps_per_epoch)
    for imgs, targets in batches.epoch(epoch, in_epoch):
        if state.step == end:
            break
        # dropped paths differ from step to step and process to process, and a resumed run draws the same ones again
        torch.manual_seed(hash((batches.seed, state.step, batches.rank)) % 2**63)
        train_step(state, model, imgs, targets, label_smoothing, clip_norm)
        stop_clock()
        if after_step and after_step() and state.step < end:
            return True
    state.assert_finite()
    stop_clock()
    return False


def summed(value):
    """A tensor's sum over the processes."""
    value = value.clone()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
    return value


@torch.no_grad()
def evaluate(net, batches, n, n_classes, amp):
    """Scores a raw module on batches that together, over all processes, hold each of n images once.

    Returns top1, top5 and per_class_top1 in percent, the mean loss, the expected calibration error in percent
    (15 equal bins of confidence), the confusion counts (target, prediction) and images per second.
    """
    started = time.perf_counter()
    parallel = dist.is_initialized() and dist.get_world_size() > 1
    if parallel:
        # batch statistics differ between processes: all score with those of the first, which a checkpoint holds
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)
    net.eval()
    device = next(net.parameters()).device
    confusion = torch.zeros(n_classes * n_classes, dtype=torch.int64, device=device)
    top5 = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    gap = torch.zeros(ECE_BINS, dtype=torch.float64, device=device)  # of confidence and accuracy, summed over images
    for imgs, targets in batches:
        with autocast(device, amp):
            logits = net(imgs)
        logits = logits.float()
        loss += F.cross_entropy(logits, targets, reduction="sum")
        top5 += (logits.topk(min(5, n_classes)).indices == targets[:, None]).sum()
        confidence, predicted = logits.softmax(1).max(1)
        confusion += torch.bincount(targets * n_classes + predicted, minlength=n_classes * n_classes)
        bins = (confidence.nan_to_num() * ECE_BINS).long().clamp_(max=ECE_BINS - 1)
        gap.index_add_(0, bins, confidence.double() - (predicted == targets).double())
    if parallel:
        for total in (confusion, top5, loss, gap):
            dist.all_reduce(total)
    confusion = confusion.view(n_classes, n_classes).cpu()
    if confusion.sum() != n:
        raise RuntimeError(f"evaluation scored {confusion.sum()} images of {n}")
    return {
        "top1": 100 * confusion.trace().item() / n,
        "top5": 100 * top5.item() / n,
        "loss": loss.item() / n,
        "ece": 100 * gap.abs().sum().item() / n,
        "per_class_top1": (100 * confusion.diag() / confusion.sum(1).clamp(min=1)).tolist(),
        "confusion": confusion,
        "imgs_per_s": n / (time.perf_counter() - started),
    }
