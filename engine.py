"""The training step, an epoch of steps, and exact evaluation.

The step is a function of state on the device alone: a counter there selects the batch's draws and the learning rate, so that
no value has to come from the host, and a GPU can replay it (capture.py).
`net` is the raw module; `model` is the same network as it is trained: compiled, wrapped in DistributedDataParallel.
"""

import copy
import time
from contextlib import nullcontext
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from models.ops import batchnorm_cpu, bfloat16
from optimizers import CAPTURABLE

MAX_SKIPPED = 20  # consecutive updates that fp16 may skip while the loss scale is halved, from 2**16 to 2**-4
ECE_BINS = 15  # as Guo et al., "On Calibration of Modern Neural Networks", ICML 2017


def amp_dtype(choice, device):
    """The autocast type for --amp: None is full precision; auto is bf16 where the device computes in it."""
    if choice == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[choice]


def autocast(device, amp):
    """The context of forward passes, to be entered as often as needed; amp None is full precision.

    Casts of weights are not cached: a cache would outlive the capture of a CUDA graph.
    """
    if device.type == "cpu" and amp is torch.bfloat16 and not bfloat16.is_native():
        return bfloat16.AutocastInFloat32()
    return torch.autocast(device.type, amp, enabled=amp is not None, cache_enabled=False)


# --------------------------------------------------------------------------------------------------------- state


class TrainState:
    """Everything that training changes, and so everything that a checkpoint holds.

    step counts optimizer updates from the start of the run, and t does so on the device; train_s and epoch_s are the seconds
    of training in the run and in the epoch. losses (2, processes): each process's sums of losses, over the epoch and since
    the last log point; a checkpoint holds them, so that an interrupted epoch reports what a whole one would. n_bad counts the
    last steps in a row with a loss or gradient that was not finite. rates: the learning rate of each step. ema_decay: of the
    average of the weights; 0 for none.
    """

    counters = ("step", "step_of_point", "train_s", "epoch_s", "curve")

    def __init__(self, net, optimizer, rates, amp, ema_decay=0.0, rank=0, world_size=1):
        self.net, self.optimizer, self.rates, self.amp, self.ema_decay = net, optimizer, rates, amp, ema_decay
        self.device = next(net.parameters()).device
        # The scaler skips updates that are not finite, without asking the host, in every precision; only fp16 needs its scale.
        scaling = {} if amp is torch.float16 else {"init_scale": 1.0, "growth_interval": 2**31 - 1}
        self.scaler = torch.amp.GradScaler(self.device.type, **scaling)
        self.scaler.scale(torch.zeros((), device=self.device))  # creates its tensors now, before a capture
        self.tolerance = MAX_SKIPPED if amp is torch.float16 else 0  # bad steps in a row
        floats = [buffer for buffer in net.buffers() if buffer.is_floating_point()]
        self.running_stats = floats if self.tolerance else []  # of batch norms; put back where fp16 skips an update
        self.ema = copy.deepcopy(net).requires_grad_(False) if ema_decay else None
        self.rank = rank
        self.step = self.step_of_point = 0  # step_of_point: the step of the last point of the training curve
        self.t = torch.zeros((), dtype=torch.int64, device=self.device)
        self.train_s = self.epoch_s = 0.0
        self.losses = torch.zeros(2, world_size, device=self.device)
        self.n_bad = torch.zeros((), dtype=torch.int64, device=self.device)
        self.curve = []  # one row of results per finished epoch
        self.reads_rate_on_device = isinstance(optimizer, tuple(CAPTURABLE.values()))
        dtype = torch.float32 if self.device.type == "cuda" else torch.float64  # that fused optimizers need
        self.rate_table = torch.tensor(rates, dtype=dtype, device=self.device)
        self.rate = torch.zeros_like(self.rate_table[0])
        self.share_rate()

    def share_rate(self):
        """Gives the optimizer the tensor that train_step() fills. Other optimizers need a number, which capture.Step sets."""
        if self.reads_rate_on_device:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate

    def add_time(self, since):
        """Adds the seconds since a reading of the clock to those of training. Returns a new reading."""
        now = time.perf_counter()
        self.train_s += now - since
        self.epoch_s += now - since
        return now

    @property
    def eval_net(self):
        """The network that is evaluated and published: the averaged one if there is one."""
        return self.ema or self.net

    def state_dict(self):
        """Plain types and tensors. All processes call it together, for it gathers their losses."""
        parts = {name: getattr(self, name).state_dict() for name in self.parts}
        state = parts | {name: getattr(self, name) for name in self.counters}
        return state | {"n_bad": self.n_bad, "losses": summed(self.losses)}

    def load_state_dict(self, saved):
        how = [{name: group.get(name) for name in ("capturable", "fused")} for group in self.optimizer.param_groups]
        try:
            for name in self.parts:
                getattr(self, name).load_state_dict(saved[name])
        except (KeyError, RuntimeError, ValueError) as error:  # ValueError: of an optimizer's groups
            if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)):
                raise
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"its checkpoint does not fit, perhaps because the code has changed since ({reason})"
            ) from None
        # The run may have been on another device: keep how steps are computed on this one.
        for group, here in zip(self.optimizer.param_groups, how, strict=True):
            group.update({name: value for name, value in here.items() if name in group})
        self.share_rate()
        for name in self.counters:
            setattr(self, name, saved.get(name, saved["step"]))  # step_of_point, which older checkpoints lack
        self.n_bad.copy_(saved["n_bad"])
        self.t.fill_(self.step)
        same_processes = saved["losses"].shape == self.losses.shape
        own = saved["losses"][:, self.rank] if same_processes else saved["losses"].mean(1)
        self.losses.zero_()[:, self.rank] = own.to(self.device)

    @property
    def parts(self):
        return ["net", "optimizer", "scaler"] + (["ema"] if self.ema else [])

    def tensors(self):
        """All tensors that a step changes, but for those of the optimizer."""
        nets = [net for net in (self.net, self.ema) if net]
        weights = [value for net in nets for value in (*net.parameters(), *net.buffers())]
        scalars = [self.t, self.rate, self.losses, self.n_bad, self.scaler._scale, self.scaler._growth_tracker]
        return weights + scalars

    def assert_finite(self):
        """refuse_bad_numbers() for the current state. This waits for the device."""
        self.refuse_bad_numbers(self.n_bad.item(), self.step)

    def refuse_bad_numbers(self, n_bad, step):
        """Raises FloatingPointError, naming the step, if n_bad steps up to `step` met a loss or gradient that is not finite.

        Weights and optimizer are then still those from before the first of them: see train_step.
        """
        if n_bad > self.tolerance:
            raise FloatingPointError(
                f"loss or gradient is not finite at step {step - n_bad + 1}: start again in another folder, with a lower --lr "
                "or a tighter --clip-norm"
            )


class Reading:
    """Values on their way from the device to the host. read() waits for them, and not for what was queued after them."""

    def __init__(self, *values):
        self.values = [value.to("cpu", copy=True, non_blocking=True) for value in values]
        self.event = torch.cuda.Event() if values[0].device.type == "cuda" else None
        if self.event:
            self.event.record()

    def read(self):
        if self.event:
            self.event.synchronize()
        return self.values


def summed(value):
    """A tensor's sum over the processes."""
    value = value.clone()
    if is_parallel():
        dist.all_reduce(value)
    return value


def is_parallel():
    return dist.is_initialized() and dist.get_world_size() > 1


# --------------------------------------------------------------------------------------------------------- train


def train_step(state, model, imgs, targets, label_smoothing=0.0, clip_norm=0.0, accumulate=1, class_weights=None):
    """One update on imgs (B, 3, H, W), with gradients summed over `accumulate` parts of the batch.

    class_weights: (classes,), or None: see loss_of.

    A loss or gradient that is not finite makes the scaler skip the update. fp16 forgives up to state.tolerance such steps in a
    row, while its loss scale is lowered, and puts the running statistics of batch norms back (not their counts). After more
    than that, and in other precisions after the first, all later updates are skipped, too. None of this waits for the device:
    a bad loss makes the process's gradients nan, and their sum over the processes makes all nan.
    """
    state.rate.copy_(state.rate_table.gather(0, state.t.clamp(max=len(state.rates) - 1).view(1)).view(()))
    before = [buffer.clone() for buffer in state.running_stats]
    loss = add_gradients(state, model, imgs, targets, label_smoothing, accumulate, class_weights)
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in state.net.parameters() if p.grad is not None])
    if clip_norm:
        nn.utils.clip_grads_with_norm_(state.net.parameters(), clip_norm, norm)
    healthy = norm.isfinite()
    state.n_bad.add_(1).masked_fill_(healthy, 0)
    for buffer, old in zip(state.running_stats, before, strict=True):
        buffer.copy_(torch.where(healthy, buffer, old))
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema:
        update_average(state.ema, state.net, state.ema_decay, state.t)
    state.losses[:, state.rank] += loss.nan_to_num(0.0, 0.0, 0.0)  # a bad loss counts as 0, as its update does
    state.t += 1


def add_gradients(state, model, imgs, targets, label_smoothing, parts, class_weights):
    """Backward passes of the mean loss of a batch, cut into parts of one size; returns that loss, float ()."""
    total = torch.zeros((), device=state.device)
    cut = zip(imgs.chunk(parts), targets.chunk(parts), strict=True)
    for i, (part, part_targets) in enumerate(cut):
        deferred = i < parts - 1 and hasattr(model, "no_sync")  # DDP sums all parts' gradients with the last
        with model.no_sync() if deferred else nullcontext():
            with batchnorm_cpu.fast(state.device), autocast(state.device, state.amp):
                logits = model(part)
            loss = loss_of(logits.float(), part_targets, label_smoothing, class_weights) / parts
            # a factor nan reaches every gradient; a loss filled with nan would give gradients of 0
            healthy = loss.isfinite() & (state.n_bad <= state.tolerance)
            loss_or_nan = loss * torch.ones_like(loss).masked_fill(~healthy, torch.nan)
            state.scaler.scale(loss_or_nan).backward()
        total += loss.detach()
    return total


def loss_of(logits, targets, label_smoothing, class_weights):
    """The mean cross-entropy, float (): logits (B, classes), targets (B,) or class probabilities (B, classes).

    class_weights (classes,) multiply the loss of each image; `weight` of F.cross_entropy multiplies the terms of each class.
    """
    if class_weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    weights = (targets * class_weights).sum(1) if targets.dim() == 2 else class_weights[targets]
    return (weights * F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")).mean()


def update_average(ema, net, decay, n_updates):
    """Moves the averages of parameters and statistics towards those of the net. n_updates: earlier updates, int ().

    The decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage, so that a short run's
    average does not keep the random weights it began with. Integers are copied.
    """
    n = n_updates.float()
    decay = ((1 + n) / (10 + n)).clamp(max=decay)

    def tensors(module, floating):
        return [t.detach() for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() == floating]

    with torch.no_grad():
        averages = tensors(ema, True)
        torch._foreach_mul_(averages, decay)
        torch._foreach_add_(averages, torch._foreach_mul(tensors(net, True), 1 - decay))
        if integers := tensors(ema, False):
            torch._foreach_copy_(integers, tensors(net, False))


def train_epoch(step, epoch, last_step):
    """Trains from state.step to the end of the epoch, or to last_step if that comes first.

    A generator: it yields after each step, whose work may then still be in flight. TrainState.assert_finite tells whether
    the numbers were good.
    """
    state, batches = step.state, step.batches
    step.model.train()
    if not all(p.requires_grad for p in state.net.parameters()):
        # a frozen backbone keeps its running statistics and drops nothing; a new head's batch norm has none yet
        for module in state.net.modules():
            own = [p.requires_grad for p in module.parameters(recurse=False)]
            module.training = bool(own) and all(own)
    in_epoch = state.step - epoch * batches.steps_per_epoch
    if in_epoch == 0:
        state.losses[0] = 0
        state.epoch_s = 0.0
    end = min(last_step, (epoch + 1) * batches.steps_per_epoch)
    since = time.perf_counter()
    for _ in batches.steps(epoch, in_epoch):
        if state.step == end:
            break
        step()
        since = state.add_time(since)
        yield
    if state.step < last_step:
        batches.prepare(epoch + 1)  # while the device works on what is queued
    state.add_time(since)  # waits since the last step: for its point of the curve, or for other runs


# ------------------------------------------------------------------------------------------------------ evaluate


@torch.no_grad()
def start_evaluation(net, batches, n, n_classes, amp):
    """Queues the scoring of a raw module on batches that together, over all processes, hold each of n images once.

    Returns a function that waits for the device and returns scores_of().
    """
    started = time.perf_counter()
    if is_parallel():
        # running statistics differ between processes: all score with the first's, which a checkpoint holds
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)
    net.eval()
    device = next(net.parameters()).device
    confusion = torch.zeros(n_classes, n_classes, dtype=torch.int64, device=device)
    top5 = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    gap = torch.zeros(ECE_BINS, dtype=torch.float64, device=device)  # confidence minus accuracy, summed over images
    for imgs, targets in batches:
        with autocast(device, amp):
            logits = net(imgs)
        logits = logits.float()
        loss += F.cross_entropy(logits, targets, reduction="sum")
        top5 += (logits.topk(min(5, n_classes)).indices == targets[:, None]).sum()
        confidence, predicted = logits.softmax(1).max(1)
        confusion.view(-1).index_add_(0, targets * n_classes + predicted, torch.ones_like(targets))
        bins = (confidence.nan_to_num() * ECE_BINS).long().clamp_(max=ECE_BINS - 1)
        gap.index_add_(0, bins, confidence.double() - (predicted == targets).double())
    if is_parallel():
        for total in (confusion, top5, loss, gap):
            dist.all_reduce(total)
    return partial(scores_of, Reading(confusion, top5, loss, gap), n, started)


def scores_of(reading, n, started):
    """Waits for what start_evaluation() queued, and returns the scores.

    These are top1, top5, per_class_top1 (None for a class without images), balanced_accuracy (its mean) and macro_f1 in
    percent, the mean loss, the expected calibration error in percent (15 equal bins of confidence), the confusion counts
    (target, prediction) and images per second. Raises FloatingPointError if the outputs are not finite.
    """
    confusion, top5, loss, gap = reading.read()
    if confusion.sum() != n:
        raise RuntimeError(f"evaluation scored {confusion.sum()} images of {n}")
    if not (loss + gap.sum()).isfinite():
        raise FloatingPointError(f"the loss on {n:,} images is {loss.item() / n}: the network's outputs are not finite")
    return {
        "top1": 100 * confusion.trace().item() / n,
        "top5": 100 * top5.item() / n,
        "loss": loss.item() / n,
        "ece": 100 * gap.abs().sum().item() / n,
        **class_scores(confusion),
        "confusion": confusion,
        "imgs_per_s": n / (time.perf_counter() - started),
    }


def class_scores(confusion):
    """Scores from confusion counts (target, prediction), in percent. Macro F1 leaves out classes that occur in neither."""
    correct, images, predicted = confusion.diag(), confusion.sum(1), confusion.sum(0)
    per_class = [100 * c / n if n else None for c, n in zip(correct.tolist(), images.tolist(), strict=True)]
    occurs = images + predicted > 0
    f1 = 200 * correct[occurs] / (images + predicted)[occurs]
    measured = [value for value in per_class if value is not None]
    return {
        "per_class_top1": per_class,
        "balanced_accuracy": sum(measured) / len(measured),
        "macro_f1": f1.double().mean().item(),
    }
