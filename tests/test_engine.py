import itertools
import math
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import capture
import engine
import optimizers
from augment import Augment, TrainBatches, eval_batches
from data import Split
from models.resnet import DropPath
from tests import processes

AS_IS = ([0.0] * 3, [1.0] * 3)


def tiny_net(n_classes=7):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, n_classes))


def random_split(n, n_classes=7):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8, generator=generator)
    targets = torch.randint(0, n_classes, (n,), generator=generator)
    return Split(images.contiguous(memory_format=torch.channels_last), targets, torch.arange(n))


# --------------------------------------------------------------------------------------------------------- evaluation


def slow_scores(net, split, n_classes):
    """What scores_of() returns, an image at a time."""
    net.eval()
    hits, hits5, loss, bins = 0, 0, 0.0, [[] for _ in range(15)]
    of_class = [[] for _ in range(n_classes)]
    for img, target in zip(split.images, split.targets.tolist(), strict=True):
        p = net(img[None].float())[0].detach().double().softmax(0)
        ranked = p.argsort(descending=True).tolist()
        hits += ranked[0] == target
        hits5 += target in ranked[:5]
        loss -= math.log(p[target])
        bins[min(14, int(p.max() * 15))].append((p.max().item(), ranked[0] == target))
        of_class[target].append(ranked[0] == target)
    n = len(split)
    ece = sum(abs(sum(c for c, _ in b) - sum(hit for _, hit in b)) for b in bins) / n
    per_class = [100 * sum(h) / len(h) if h else None for h in of_class]
    return {
        "top1": 100 * hits / n,
        "top5": 100 * hits5 / n,
        "loss": loss / n,
        "ece": 100 * ece,
        "per_class_top1": per_class,
    }


@pytest.mark.parametrize("n", [1, 3, 10, 17])
def test_evaluation_agrees_with_one_image_at_a_time(n):
    net, split = tiny_net(), random_split(n)
    scores = engine.start_evaluation(net, eval_batches(split, 4, *AS_IS), n, 7, None)()
    for name, expected in slow_scores(net, split, 7).items():
        assert scores[name] == pytest.approx(expected, abs=1e-3), name
    assert scores["confusion"].sum() == n


def test_outputs_that_are_not_finite_have_no_scores():
    net = tiny_net()
    with torch.no_grad():
        net[1].running_var[0] = torch.nan
    with pytest.raises(FloatingPointError, match="the loss on 10 images is nan: the network's outputs are not finite"):
        engine.start_evaluation(net, eval_batches(random_split(10), 4, *AS_IS), 10, 7, None)()


def check_parallel_evaluation(expected):
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    for n, scores_of_one in expected.items():
        net, split = tiny_net(), random_split(n)
        if rank > 0:
            net[1].running_mean.fill_(100)  # statistics of this process's own images, which must not be used
        scores = engine.start_evaluation(net, eval_batches(split, 4, *AS_IS, rank, world_size), n, 7, None)()
        assert torch.equal(scores["confusion"], scores_of_one["confusion"]), n
        for name in ("top1", "top5"):
            assert scores[name] == scores_of_one[name], n
        for name in ("loss", "ece"):
            assert scores[name] == pytest.approx(scores_of_one[name], rel=1e-5), n
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 3])
def test_evaluation_is_exact_for_any_number_of_processes_and_images(world_size):
    expected = {
        n: engine.start_evaluation(tiny_net(), eval_batches(random_split(n), 4, *AS_IS), n, 7, None)()
        for n in (1, 3, 10, 17)
    }
    processes.run(check_parallel_evaluation, world_size, expected)


class Confident(nn.Module):
    """Answers with given confidences, all for class 0 of two; its parameter says where it is."""

    def __init__(self, confidences):
        super().__init__()
        p = torch.tensor(confidences)
        self.logits = nn.Parameter(torch.stack([(p / (1 - p)).log(), torch.zeros(len(p))], 1))

    def forward(self, imgs):
        return self.logits


def test_scores_of_unequal_classes():
    """Class 0: 8 of 10 right; 1: 1 of 2; 2 has no image, and 1 is taken for it; 3 is nowhere."""
    confusion = torch.tensor([[8, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = engine.class_scores(confusion)
    assert scores["per_class_top1"] == [80.0, 50.0, None, None]
    assert scores["balanced_accuracy"] == 65.0
    f1 = [2 * 8 / (10 + 8), 2 * 1 / (2 + 3), 0.0]  # twice the hits, over images and predictions
    assert scores["macro_f1"] == pytest.approx(100 * sum(f1) / 3)


def test_calibration_error_has_fifteen_bins():
    """0.65 and 0.68 lie in the bins from 9/15 and from 10/15, but in one of ten; the first is right, the second wrong."""
    net, imgs = Confident([0.65, 0.68]), torch.zeros(2, 3, 4, 4)
    scores = engine.start_evaluation(net, [(imgs, torch.tensor([0, 1]))], 2, 2, None)()
    assert scores["ece"] == pytest.approx(100 * ((1 - 0.65) + 0.68) / 2, abs=1e-3)


def test_speed_of_evaluation_is_in_images_per_second(monkeypatch):
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(engine.time, "perf_counter", lambda: next(clock))
    scores = engine.start_evaluation(tiny_net(), eval_batches(random_split(10), 4, *AS_IS), 10, 7, None)()
    assert scores["imgs_per_s"] == 4.0


def test_image_that_was_not_scored_is_noticed():
    with pytest.raises(RuntimeError, match="scored 10 images of 11"):
        engine.start_evaluation(tiny_net(), eval_batches(random_split(10), 4, *AS_IS), 11, 7, None)()


# ----------------------------------------------------------------------------------------------------------- training


def new_state(ema_decay=0.0, amp=None, optimizer="sgd", net=None):
    net = net or tiny_net()
    optimizer = optimizers.make_optimizer(optimizer, net, 0.05, 0.9, 5e-4)
    return engine.TrainState(net, optimizer, optimizers.make_schedule("cosine", 0.05, 2, 20), amp, ema_decay)


def new_batches(n=40):
    return TrainBatches(random_split(n), 8, Augment(1), [128.0] * 3, [64.0] * 3, 7, seed=0)


def train(state, made, epoch=0, *recipe):
    """The rest of an epoch, to its end."""
    for _ in engine.train_epoch(capture.Step(state, state.net, made, *recipe), epoch, 20):
        pass


def test_a_new_heads_batch_norm_learns_beside_a_frozen_backbone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 7))
    net[:2].requires_grad_(False)
    before = [norm.running_mean.clone() for norm in (net[1], net[3])]
    train(new_state(net=net), new_batches())
    assert torch.equal(net[1].running_mean, before[0]) and not torch.equal(net[3].running_mean, before[1])


def test_a_frozen_backbone_drops_no_path():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), DropPath(0.5), nn.Flatten(), nn.Linear(16, 7))
    net[:2].requires_grad_(False)
    passed = []
    net[1].register_forward_hook(lambda module, args, out: passed.append(torch.equal(out, args[0])))
    train(new_state(net=net), new_batches())
    assert passed == 5 * [True]


def test_a_checkpoint_does_not_change_how_steps_are_computed():
    """One of a GPU, read on a CPU."""
    state = new_state(optimizer="adamw")
    saved = state.state_dict()
    for group in saved["optimizer"]["param_groups"]:
        group |= {"capturable": True, "fused": False}
    state.load_state_dict(saved)
    assert [(group["capturable"], group["fused"]) for group in state.optimizer.param_groups] == 2 * [(False, True)]


def test_training_agrees_with_a_plain_loop():
    state, made = new_state(), new_batches()
    losses = []
    for epoch in range(4):
        train(state, made, epoch, 0.1, 1.0)
        losses.append(state.losses[0].item() / 5)

    net = tiny_net()
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": 5e-4}, {"params": others}], 0.05, momentum=0.9, nesterov=True
    )
    expected, step = [], 0
    for epoch in range(4):
        total = 0.0
        for imgs, targets in made.epoch(epoch):
            factor = step / 2 if step < 2 else (1 + math.cos(math.pi * (step - 2) / 18)) / 2
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * factor
            loss = F.cross_entropy(net(imgs), targets, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
            step += 1
        expected.append(total / 5)
    assert losses == pytest.approx(expected, rel=1e-4)
    for p, q in zip(state.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_epoch_can_be_left_after_a_step_and_taken_up_again():
    whole, parts, made = new_state(), new_state(), new_batches()
    train(whole, made)
    for _ in engine.train_epoch(capture.Step(parts, parts.net, made), 0, 20):
        if parts.step == 2:
            break
    train(parts, made)
    assert parts.step == parts.t == 5
    assert torch.equal(whole.losses, parts.losses)
    for p, q in zip(whole.net.parameters(), parts.net.parameters(), strict=True):
        assert torch.equal(p, q)


def test_seconds_of_training_are_those_of_its_steps(monkeypatch):
    """And of the wait after an epoch's last one. On a clock that moves on by a second whenever it is read; the second epoch ends
    in another process."""
    clock = itertools.count()
    monkeypatch.setattr(engine.time, "perf_counter", lambda: next(clock))
    stopped, resumed, made = new_state(), new_state(), new_batches()
    train(stopped, made)
    next(engine.train_epoch(capture.Step(stopped, stopped.net, made), 1, 20))
    assert (stopped.train_s, stopped.epoch_s) == (7, 1)
    resumed.load_state_dict(stopped.state_dict())
    train(resumed, made, 1)
    assert (resumed.train_s, resumed.epoch_s) == (12, 6)


@pytest.mark.parametrize("name", ["nadam", "adagrad", "adafactor"])
def test_optimizer_that_reads_its_rate_on_the_host_follows_the_schedule(name):
    state, rates = new_state(optimizer=name), []
    state.optimizer.register_step_pre_hook(lambda *_: rates.append({g["lr"] for g in state.optimizer.param_groups}))
    train(state, new_batches())
    assert rates == [{rate} for rate in state.rates[:5]]


def test_step_beyond_the_schedule_takes_its_last_rate():
    """So does a warm-up step before a capture at the end of a run."""
    state = new_state()
    state.t.fill_(len(state.rates) + 1)
    engine.train_step(state, state.net, *next(new_batches().epoch(0)))
    assert state.rate == state.rates[-1]


def test_accumulated_gradients_are_those_of_the_whole_batch():
    """But for batch norm, whose statistics are of a part: here it is frozen."""
    losses = []
    for accumulate in (1, 4):
        state, made = new_state(), new_batches()
        made.augment = Augment(0, False)
        step = capture.Step(state, state.net.eval(), made, 0.1, 0.0, accumulate)
        made.begin(0)
        for _ in range(3):
            step()
        losses.append((state.losses[0].item() / 3, [p.detach().clone() for p in state.net.parameters()]))
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-6)
    for p, q in zip(losses[0][1], losses[1][1], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_gradients_are_exchanged_with_the_last_part_alone():
    """DistributedDataParallel asks in the forward pass whether it is to wait."""
    state, events = new_state(), []

    def model(imgs):
        events.append("forward")
        return state.net(imgs)

    @contextmanager
    def no_sync():
        events.append("begin")
        yield
        events.append("end")

    model.no_sync = no_sync
    state.net[4].bias.register_hook(lambda grad: events.append("backward"))
    engine.train_step(state, model, *next(new_batches().epoch(0)), accumulate=4)
    assert events == 3 * ["begin", "forward", "backward", "end"] + ["forward", "backward"]


def test_dropped_paths_differ_from_step_to_step_and_are_drawn_again_after_a_resume():
    seen = {}
    for start in (0, 2):
        state, made = new_state(), new_batches()
        state.net.insert(3, DropPath(0.5))
        kept = []
        state.net[3].register_forward_hook(lambda module, args, out, kept=kept: kept.append(out.flatten(1).any(1)))
        state.step = start
        train(state, made)
        seen[start] = kept
    assert len({tuple(mask.tolist()) for mask in seen[0]}) > 1
    assert all(map(torch.equal, seen[0][2:], seen[2]))


@pytest.mark.parametrize("by", ["process", "seed"])
def test_dropped_paths_differ_from_process_to_process_and_from_seed_to_seed(by):
    kept = []
    for number in (0, 1):
        state, made = new_state(), new_batches()
        if by == "process":
            state.rank, state.losses = number, torch.zeros(2, 2)
        state.net.insert(3, DropPath(0.5))
        state.net[3].register_forward_hook(lambda module, args, out: kept.append(out.flatten(1).any(1)))
        made.begin(0)
        made.seed = number if by == "seed" else made.seed
        capture.Step(state, state.net, made)()
    assert not torch.equal(*kept)


def test_an_older_checkpoint_is_taken_and_one_of_another_network_refused_in_words():
    saved = new_state().state_dict()
    del saved["step_of_point"]
    state = new_state()
    state.load_state_dict(saved)
    assert state.step_of_point == state.step == 0
    saved["net"] = {f"other.{name}": value for name, value in saved["net"].items()}
    misfit = r"^its checkpoint does not fit, perhaps because the code has changed since \(.*Missing key.*weight"
    with pytest.raises(ValueError, match=misfit):
        state.load_state_dict(saved)


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["sgd", "nadam", "adafactor"])
def test_update_that_is_not_finite_leaves_the_weights_alone(where, optimizer):
    """The step is named, and neither it nor any step after it changes a weight or the optimizer."""
    state, made = new_state(optimizer=optimizer), new_batches()
    seen = {}

    for _ in engine.train_epoch(capture.Step(state, state.net, made), 0, 20):
        if state.step == 2:
            seen["weights"] = [p.detach().clone() for p in state.net.parameters()]
            if where == "gradient":
                state.net[0].weight.register_hook(lambda grad: grad * torch.inf)
            else:
                state.net[4].register_forward_hook(lambda module, args, out: out * torch.nan)
    with pytest.raises(
        FloatingPointError,
        match="loss or gradient is not finite at step 3: start again in another folder, with a lower --lr",
    ):
        state.assert_finite()
    assert state.step == 5
    for p, before in zip(state.net.parameters(), seen["weights"], strict=True):
        assert torch.equal(p, before)


def test_fp16_may_skip_some_updates_while_it_looks_for_a_scale():
    state = new_state(amp=torch.float16)
    state.n_bad.fill_(engine.MAX_SKIPPED)
    state.assert_finite()
    state.n_bad += 1
    with pytest.raises(FloatingPointError):
        state.assert_finite()
    scale = state.scaler.get_scale()
    state.net[0].weight.register_hook(lambda grad: grad * torch.inf)
    state.n_bad.zero_()
    train(state, new_batches())
    assert state.n_bad == 5
    assert state.scaler.get_scale() == scale / 2**5
    buffers = [values["momentum_buffer"] for values in state.optimizer.state.values()]
    assert len(buffers) == len(list(state.net.parameters())) and not any(buffer.any() for buffer in buffers)


@pytest.mark.parametrize(("n_bad", "goes_on"), [(20, True), (21, False)])
def test_fp16_goes_on_after_20_bad_steps_in_a_row_and_not_after_21(n_bad, goes_on):
    state = new_state(amp=torch.float16)
    state.t.fill_(2)  # the peak rate
    state.n_bad.fill_(n_bad)
    before = state.net[4].weight.detach().clone()
    engine.train_step(state, state.net, *next(new_batches().epoch(0)))
    assert state.n_bad == (0 if goes_on else n_bad + 1)
    assert torch.equal(state.net[4].weight, before) != goes_on


def test_an_update_that_is_left_out_leaves_the_mean_loss_finite():
    state = new_state(amp=torch.float16)
    batches = new_batches()
    imgs, targets = next(batches.epoch(0))
    engine.train_step(state, state.net, imgs * torch.nan, targets, 0.0, 0.0)
    assert state.losses[0] == 0 and state.n_bad == 1


@pytest.mark.parametrize("amp", [None, torch.float16])
def test_gradients_are_clipped_as_they_are_without_the_scale(amp):
    """Nesterov's first step is 1 + 0.9 gradients long, and this one has the peak rate, 0.05."""
    state = new_state(amp=amp)
    state.t.fill_(2)
    before = [p.detach().clone() for p in state.net.parameters()]
    engine.train_step(state, state.net, *next(new_batches().epoch(0)), clip_norm=0.5)
    moved = [p.detach() - old for p, old in zip(state.net.parameters(), before, strict=True)]
    assert nn.utils.get_total_norm(moved).item() == pytest.approx(0.05 * 1.9 * 0.5, rel=0.05)


# ----------------------------------------------------------------------------------------------------------- hardware


def test_amp_auto_asks_the_device(monkeypatch):
    cpu = SimpleNamespace(type="cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert engine.amp_dtype("auto", cpu) is torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert engine.amp_dtype("auto", cpu) is None
    assert engine.amp_dtype("off", cpu) is None
    assert engine.amp_dtype("fp16", cpu) is torch.float16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert engine.amp_dtype("auto", SimpleNamespace(type="cuda")) is None  # which could only emulate it
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert engine.amp_dtype("auto", SimpleNamespace(type="cuda")) is torch.bfloat16


# ----------------------------------------------------------------------------------------------- precision, processes


def test_only_fp16_scales_its_loss():
    scales = {amp: new_state(amp=amp).scaler.get_scale() for amp in (None, torch.bfloat16, torch.float16)}
    assert scales == {None: 1.0, torch.bfloat16: 1.0, torch.float16: 2.0**16}
    assert new_state().scaler.get_growth_interval() == 2**31 - 1  # or it would overflow in a long run


def test_losses_of_rounded_logits_are_not_rounded():
    """bfloat16 has three digits, which are enough for logits, and not for a mean loss."""
    state, (imgs, targets) = new_state(amp=torch.bfloat16), next(new_batches().epoch(0))
    with torch.no_grad(), engine.autocast(torch.device("cpu"), torch.bfloat16):
        trained, scored = tiny_net().train()(imgs), tiny_net().eval()(imgs)
    assert trained.dtype == scored.dtype == torch.bfloat16
    scores = engine.start_evaluation(tiny_net(), [(imgs, targets)], len(imgs), 7, torch.bfloat16)()
    assert scores["loss"] == pytest.approx(F.cross_entropy(scored.float(), targets).item(), rel=1e-5)
    engine.train_step(state, state.net, imgs, targets)
    assert state.losses[0].item() == pytest.approx(F.cross_entropy(trained.float(), targets).item(), rel=1e-5)


def test_a_reading_holds_what_was_there_when_it_was_made():
    value = torch.tensor([1.0, 2.0])
    reading = engine.Reading(value, value.sum())
    value.zero_()
    assert [v.tolist() for v in reading.read()] == [[1.0, 2.0], 3.0]


def accumulated_under_ddp(expected):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    state, made = new_state(), new_batches()
    made = TrainBatches(made.split, 8, Augment(0, False), [128.0] * 3, [64.0] * 3, 7, 0, rank, 2)
    model = nn.parallel.DistributedDataParallel(state.net.eval())
    step = capture.Step(state, model, made, 0.0, 0.0, 2)
    made.begin(0)
    for _ in range(3):
        step()
    for p, q in zip(state.net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-5, atol=1e-7)
    dist.destroy_process_group()


def test_accumulated_gradients_are_summed_over_the_processes():
    """Batch norm is frozen, so that two processes with two parts each are one with the whole batch."""
    state, made = new_state(), new_batches()
    made.augment = Augment(0, False)
    step = capture.Step(state, state.net.eval(), made)
    made.begin(0)
    for _ in range(3):
        step()
    processes.run(accumulated_under_ddp, 2, [p.detach().clone() for p in state.net.parameters()])
