"""One epoch of training, exact evaluation, and the state that a resumed run needs.

`net` is the raw module; `model` is the same network as it is trained: compiled, wrapped in DistributedDataParallel.
"""

import io
import os
import resource
import time
import zipfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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
    """One of OPTIMIZERS over the net. Only weights of convolutions and linear layers decay: norms, biases, layer scales,
    position tables and the like do not."""
    decayed = {id(module.weight) for module in net.modules() if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))}
    groups = [
        {"params": [p for p in net.parameters() if (id(p) in decayed) == decays], "weight_decay": weight_decay * decays}
        for decays in (True, False)
    ]
    return OPTIMIZERS[name](groups, lr, momentum)


def make_scheduler(name, optimizer, warmup_steps, total_steps):
    """transformers' schedule of that name, stepped once per optimizer step. The first step has learning rate 0."""
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


class TrainState:
    """Everything that training changes, and so everything that a checkpoint holds.

    step counts optimizer updates from the start of the run. ema: the averaged network, or None. loss_sum and train_s add
    up the loss of the epoch and the seconds of the run, so that an interrupted epoch reports what a whole one would.
    """

    def __init__(self, net, optimizer, scheduler, amp, ema_decay=0.0):
        self.net, self.optimizer, self.scheduler = net, optimizer, scheduler
        self.device = next(net.parameters()).device
        self.amp = amp
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp is torch.float16)
        average = get_ema_multi_avg_fn(ema_decay)
        self.ema = AveragedModel(net, multi_avg_fn=average, use_buffers=True) if ema_decay else None
        self.step = 0
        self.train_s = 0.0
        self.loss_sum = torch.zeros((), device=self.device)
        self.curve = []  # one row of results per finished epoch

    @property
    def eval_net(self):
        """The network that is evaluated and published: the averaged one if there is one."""
        return self.ema.module if self.ema else self.net

    def state_dict(self):
        parts = {name: getattr(self, name).state_dict() for name in self.parts}
        return parts | {name: getattr(self, name) for name in ("step", "train_s", "loss_sum", "curve")}

    def load_state_dict(self, saved):
        for name in self.parts:
            getattr(self, name).load_state_dict(saved[name])
        self.loss_sum.copy_(saved["loss_sum"])
        self.step, self.train_s, self.curve = saved["step"], saved["train_s"], saved["curve"]

    @property
    def parts(self):
        return ["net", "optimizer", "scheduler", "scaler"] + (["ema"] if self.ema else [])

    def autocast(self):
        return torch.autocast(self.device.type, self.amp, enabled=self.amp is not None)


# ----------------------------------------------------------------------------------------------- train and evaluate


def train_epoch(state, model, batches, epoch, last_step, label_smoothing=0.0, clip_norm=0.0, log_every=50, log=None):
    """Trains from state.step to the end of the epoch, or to last_step if that comes first.

    Every log_every steps it calls log(state, mean loss since the last call). Raises FloatingPointError, naming the step,
    if that loss is not finite. Returns the mean loss of the epoch and the images per second of all processes.
    """
    model.train()
    started, first_step = time.perf_counter(), state.step
    in_epoch = state.step - epoch * batches.steps_per_epoch
    if in_epoch == 0:
        state.loss_sum.zero_()
    logged_sum, logged_step = state.loss_sum.clone(), state.step
    for imgs, targets in batches.epoch(epoch, in_epoch):
        if state.step == last_step:
            break
        # dropped paths differ from step to step and process to process, and a resumed run draws the same ones again
        torch.manual_seed(hash((batches.seed, state.step, batches.rank)) % 2**63)
        with state.autocast():
            logits = model(imgs)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
        state.scaler.scale(loss).backward()
        if clip_norm:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.net.parameters(), clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.scheduler.step()
        if state.ema:
            state.ema.update_parameters(state.net)
        state.loss_sum += loss.detach()
        state.step += 1
        if state.step % log_every == 0 or state.step == last_step:
            mean = average((state.loss_sum - logged_sum) / (state.step - logged_step))
            if not mean.isfinite():
                raise FloatingPointError(
                    f"the loss is {mean.item()} at step {state.step}: lower --lr or set --clip-norm"
                )
            logged_sum, logged_step = state.loss_sum.clone(), state.step
            if log:
                log(state, mean.item())
    n_steps = state.step - epoch * batches.steps_per_epoch
    mean_loss = average(state.loss_sum / max(1, n_steps)).item()  # waits for the device, so the clock is right
    seconds = time.perf_counter() - started
    state.train_s += seconds
    return mean_loss, (state.step - first_step) * batches.batch_size / seconds


def average(value):
    """A scalar tensor's mean over the processes."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


@torch.no_grad()
def evaluate(net, batches, n, n_classes, autocast):
    """Scores a raw module on batches that together, over all processes, hold each of n images once.

    Returns top1, top5 and per_class_top1 in percent, the mean loss, the expected calibration error in percent
    (15 equal bins of confidence), the confusion counts (target, prediction) and images per second.
    """
    started = time.perf_counter()
    parallel = dist.is_initialized() and dist.get_world_size() > 1
    if (
        parallel
    ):  # batch statistics differ between processes: all score with those of the first, which a checkpoint holds
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)
    net.eval()
    device = next(net.parameters()).device
    confusion = torch.zeros(n_classes * n_classes, dtype=torch.int64, device=device)
    top5 = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    gap = torch.zeros(ECE_BINS, dtype=torch.float64, device=device)  # of confidence and accuracy, summed over images
    for imgs, targets in batches:
        with autocast:
            logits = net(imgs)
        logits = logits.float()
        loss += F.cross_entropy(logits, targets, reduction="sum")
        top5 += (logits.topk(min(5, n_classes)).indices == targets[:, None]).sum()
        confidence, predicted = logits.softmax(1).max(1)
        confusion += torch.bincount(targets * n_classes + predicted, minlength=n_classes * n_classes)
        bins = (confidence * ECE_BINS).long().clamp_(max=ECE_BINS - 1)
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


# -------------------------------------------------------------------------------------------------------- hardware


def device_name(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "CPU")
    return f"{name}, {torch.get_num_threads()} threads per process"


def peak_memory_mb(device):
    """Most memory the training took: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


# ------------------------------------------------------------------------------------------------------ checkpoints


def write_atomically(path, content):
    """Writes bytes so that, whenever the machine stops, the file is the old one or the new one."""
    path = Path(path)
    pending = path.with_name(path.name + ".tmp")
    with open(pending, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(pending, path)


def save_checkpoint(path, content):
    """Saves plain types and tensors. The file that was there becomes <name>.previous."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path = Path(path)
    if path.exists():
        os.replace(path, path.with_name(path.name + ".previous"))
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(path):
    """Reads what save_checkpoint wrote; runs no pickled code. Raises ValueError for a file that is damaged or no checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load itself does not notice a flipped byte
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} has a wrong checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every kind of damage has its own exception
        raise ValueError(f"{path} is not a readable checkpoint ({error})") from None
