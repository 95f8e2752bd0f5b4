"""One run: a network trained with one seed, from its folder to its result."""

import json
import signal
import sys
import time
from collections import deque
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed, tqdm
from torch.nn.parallel import DistributedDataParallel

import augment
import capture
import checkpoints
import data
import engine
import hub
import locks
import log
import machine
import optimizers
import runfolder
from cost import cost
from flags import HELD_CODE, TIME_IS_UP_CODE, failures_reported, mistakes_refused, refuse
from models import build, libraries, without_effect

UNEQUAL = 10  # if the largest class has this many times the images of the smallest, the first line names both


class Run:
    """One network trained with one seed: build(), then train() as in_turns() does, then close().

    args: the flags, with its seed; images: the dataset on the device. look() sets result to that of a finished
    run, or saved to the last checkpoint of an unfinished one; they are None otherwise.
    """

    def __init__(self, args, team, images, amp, stop):
        self.args, self.team, self.images, self.amp, self.stop = args, team, images, amp, stop
        name = args.name.replace("{seed}", str(args.seed)) if args.name else runfolder.run_name(args)
        self.folder = Path(args.out) / name
        self.config = runfolder.run_config(args, amp, images)
        self.lock = self.log = self.stream = self.step = self.state = None
        self.n_together = 1  # runs that train side by side
        self.commit = runfolder.commit()  # of the code that was imported: the files may change while it trains
        self.prefix = f"seed {args.seed}: " if len(args.seeds) > 1 else ""
        self.look()

    def say(self, line):
        self.team.say(self.prefix + line)

    def look(self):
        """Returns the result if the run is finished, or None."""
        see = partial(
            runfolder.look_at_folder, self.folder, self.config, of_comparison=self.args.check and bool(self.args.name)
        )
        self.result, self.saved = self.team.first_decides(see)
        self.stamp = runfolder.stamp(self.folder)
        return self.result

    # ------------------------------------------------------------------------------------------------- build

    def build(self):
        """Builds what train() needs: network, data, optimizer, saved state, step. The libraries depend on this order."""
        args, team = self.args, self.team
        if team.device.type == "cuda":
            self.stream = torch.cuda.Stream(team.device)
        network = args.arch, len(self.images.classes), args.settings, self.images.image_size
        with failures_reported(), self.turn():
            with mistakes_refused():
                self.params, self.macs = cost(*network)  # some networks refuse a size only in their forward pass
                set_seed(args.seed)
                net = build(*network)
            if team.rank == 0 and args.seed == args.seeds[0]:
                for name in without_effect(*network):
                    team.say(f"--set {name} changes nothing: without it the network is the same")
            self.statistics = self.start_weights(net)
            with mistakes_refused():
                train, self.val = data.held_out(self.images, args.val_size, args.folds, args.fold, args.seed)
                self.batches = self.make_batches(train)
                class_weights = self.batches.class_weights(self.images.classes) if args.class_weights else None
            self.watched = self.val or self.images.test  # the split that is scored after every epoch
            self.refuse_unfit_parts(net)
            if args.sync_bn:
                net = libraries.synchronized(net, args.arch)
            net = net.to(team.device, memory_format=torch.channels_last)
            self.last_step = min(args.max_steps or sys.maxsize, args.epochs * self.batches.steps_per_epoch)
            optimizer = optimizers.make_optimizer(args.optimizer, net, args.lr, args.momentum, args.weight_decay)
            with mistakes_refused():
                warmup_steps = round(args.warmup_frac * self.last_step)
                rates = optimizers.make_schedule(args.schedule, args.lr, warmup_steps, self.last_step)
            self.state = engine.TrainState(net, optimizer, rates, self.amp, args.ema_decay, team.rank, team.world_size)
            if self.saved:
                try:
                    self.state.load_state_dict(self.saved["state"])
                except ValueError as error:
                    refuse(f"{self.folder}: {error}: delete that folder, or choose another (--name, OUT)")
            model = torch.compile(net) if args.compile else net
            if team.world_size > 1:
                on = [team.device.index] if team.device.type == "cuda" else None
                model = DistributedDataParallel(model, device_ids=on, gradient_as_bucket_view=True)
            recipe = args.label_smoothing, args.clip_norm, args.accumulate, class_weights
            self.step = capture.Step(
                self.state, model, self.batches, *recipe, use_graph=args.graph != "off", say=self.say
            )
            if not args.check:
                self.own_folder()
                if self.saved:
                    self.say_resumed()
                self.describe()
                self.begin_log()

    def check(self):
        """What --check says, in JSON, of a run that could be trained."""
        self.build()
        images, gpus = self.images, torch.cuda.device_count() if self.team.device.type == "cuda" else 0
        counts = {"n_train": len(self.batches.split), "n_val": len(self.val or ()), "n_test": len(images.test)}
        facts = {"gpus": gpus, "classes": len(images.classes), "image_size": images.image_size}
        return json.dumps({"steps": self.last_step, "batch_size": self.args.batch_size} | counts | facts)

    @contextmanager
    def turn(self):
        """The context of every part of the run: on a GPU, its own stream. Numbers that are not finite leave a file `diverged`."""
        with torch.cuda.stream(self.stream) if self.stream else nullcontext():
            try:
                yield
            except FloatingPointError as error:
                if self.team.rank == 0 and self.lock and not self.lock.rival():
                    reason = str(error).split(":")[0]
                    checkpoints.write_atomically(self.folder / "diverged", f"{reason}\n".encode())
                raise

    def own_folder(self):
        """Locks the folder, and removes what a run that was killed while saving has left there."""

        def take():
            try:
                self.lock = locks.Lock(self.folder / "lock")
            except locks.HeldError as held:
                return None, str(held)
            if runfolder.stamp(self.folder) != self.stamp:
                raise ValueError(f"{self.folder} was written by another process just now: start again")
            for stale in self.folder.glob("*.tmp"):
                stale.unlink(missing_ok=True)
            for old in ("status", "diverged"):
                (self.folder / old).unlink(missing_ok=True)
            return self.lock.taken_over, None

        gone, held = self.team.first_decides(take)
        if held:
            refuse(held, code=HELD_CODE)
        if gone:
            self.say(f"{self.folder}: {gone} is gone; this process goes on in its place")

    def start_weights(self, net):
        """Loads the weights that training starts from, and freezes those that must not change. Returns (mean, std) of the
        pixels that these weights were trained on, or of the training set."""
        args, team, saved = self.args, self.team, self.saved
        statistics = self.images.mean, self.images.std
        if args.pretrained or args.init_from:
            from pretrained import head_names, load_pretrained

            head = head_names(net)
            if args.pretrained and not saved:
                statistics = team.one_first(lambda: load_pretrained(args.arch, net, self.images.image_size))
                self.say(f"{args.arch}: published weights, with a new head")
            if args.init_from and not saved:
                model = team.one_first(lambda: hub.load(args.init_from))
                with mistakes_refused():
                    same = hub.start_from(
                        model, net, head, args.arch, args.settings, self.images.classes, self.images.image_size
                    )
                statistics = model.mean, model.std
                self.say(
                    f"weights of {args.init_from}, {'head included' if same else 'with a new head, as the classes differ'}"
                )
            if args.freeze:
                for name, parameter in net.named_parameters():
                    parameter.requires_grad_(name in head)
        return (saved["model"]["mean"], saved["model"]["std"]) if saved else statistics

    def make_batches(self, train):
        """The augmented batches of the split `train`."""
        args, images = self.args, self.images
        parts = args.crop_padding, args.flip, args.cutout, args.mixup, args.cutmix, args.crop_scale or 0.0
        return augment.TrainBatches(
            train, args.batch_size, augment.Augment(*parts), *self.statistics, n_classes=len(images.classes),
            seed=args.seed, rank=self.team.rank, world_size=self.team.world_size, balanced=args.balanced_sampling,
        )  # fmt: skip

    def refuse_unfit_parts(self, net):
        """Refuses an --accumulate that cuts a batch unevenly, and single images where batch norm would see one value."""
        args, b = self.args, self.batches.n_local
        if b % args.accumulate:
            refuse(f"--accumulate {args.accumulate} does not divide the {b} images of each process")
        if b // args.accumulate == 1:
            try:
                libraries.try_forward(net, self.images.image_size, n=1)
            except ValueError:
                refuse(f"{args.arch} cannot be trained on one image at a time, as batch norm needs more than one value: "
                       "raise --batch-size, or lower --accumulate")  # fmt: skip

    def say_resumed(self):
        before, now = self.saved["world_size"], self.team.world_size
        change = "" if before == now else f", with {now} processes instead of {before}"
        self.say(f"resuming {self.folder} at step {self.state.step} of {self.last_step}{change}")

    def describe(self):
        """Sets what result.json, checkpoints and model/ say of the run: when it began, what trains it, and its network."""
        args, images = self.args, self.images
        device, version = machine.device_name(self.team.device), str(torch.__version__)
        self.started, self.trained_by = runfolder.begun(self.saved, device=device, torch=version, commit=self.commit)
        # all knobs, so that what was published stays as it is when a default changes
        knobs = hub.with_defaults(args.arch, args.settings, images.image_size)
        self.published = {"arch": args.arch, "classes": images.classes, "settings": knobs,
                          "image_size": images.image_size, "mean": self.statistics[0], "std": self.statistics[1]}  # fmt: skip

    def begin_log(self):
        """The first line of the run, its events and its progress bar."""
        args, images, team, state = self.args, self.images, self.team, self.state
        train = self.batches.split
        held_out = f"{len(self.val):,} for validation" if self.val else "none for validation"
        counts = np.bincount(self.batches.targets, minlength=len(images.classes))
        ends = [f"{images.classes[i]} has {counts[i]:,}" for i in (counts.argmin(), counts.argmax())]
        unequal = f" ({' and '.join(ends)})" if counts.max() >= UNEQUAL * counts.min() else ""
        where = "streamed" if train.is_streamed else "in memory"
        precision = "float32" if self.config["amp"] == "off" else self.config["amp"]
        self.say(
            f"{args.arch}: {self.params:,} parameters, {self.macs:,} MACs; {args.dataset}: {len(train):,} images to train "
            f"on{unequal}, {held_out}, {len(images.test):,} to test, {where}; {team.world_size} x "
            f"{machine.device_name(team.device)}{machine.unused_gpu(team.device)}, {precision}; writing {self.folder}"
        )
        if team.rank == 0:
            costs = {"params": self.params, "macs": self.macs}
            self.log = log.Log(self.folder, self.config | costs, state.step if self.saved else None)
            if not self.saved:
                imgs, _ = next(self.batches.epoch(0))
                self.log.first_batch(imgs, self.batches.mean, self.batches.std)
        hidden = not sys.stderr.isatty() or len(args.seeds) > 1
        self.bar = tqdm(total=self.last_step * args.batch_size, initial=state.step * args.batch_size, unit="img",
                        unit_scale=True, leave=False, disable=hidden, main_process_only=True)  # fmt: skip
        self.unread = []  # points of the training curve that the device has not reached yet
        self.saved_at = time.monotonic()

    # ------------------------------------------------------------------------------------------------- train

    def train(self):
        """Trains to the last step and writes the result. A generator: it yields where its work is in flight, so that other
        runs can queue theirs before this one waits for a value."""
        state, scores = self.state, None
        n_ended, rest = divmod(state.step, self.batches.steps_per_epoch)
        if not rest and len(state.curve) < n_ended:  # it was stopped between an epoch's last step and its scores
            scores = yield from self.end_epoch(n_ended - 1)
        while state.step < self.last_step:
            epoch = state.step // self.batches.steps_per_epoch
            for _ in engine.train_epoch(self.step, epoch, self.last_step):
                at_point = state.step % self.args.log_every == 0 or state.step == self.last_step
                if at_point:
                    self.queue_point()
                    yield
                    # on a GPU the newest point is not computed yet: waiting for it would leave the device idle
                    self.read_points(leave=1 if self.stream else 0)
                self.stop_or_save(at_point)
            scores = yield from self.end_epoch(epoch)
        self.bar.close()
        # With a validation part, the test set is scored here only; without one, the last epoch has already scored it.
        if self.val or scores is None:
            scores = yield from self.score(self.images.test)
        if self.team.rank == 0:
            self.finish(scores)

    def queue_point(self):
        """Sends a point of the training curve on its way to the host."""
        state = self.state
        n_steps = state.step - state.step_of_point
        self.unread.append((state.step, n_steps, engine.Reading(engine.summed(state.losses), state.n_bad)))
        state.losses[1], state.step_of_point = 0, state.step

    def read_points(self, leave=0):
        """Logs the points, but for the newest `leave` of them. Raises FloatingPointError if the numbers went bad."""
        while len(self.unread) > leave:
            step, n_steps, reading = self.unread.pop(0)
            losses, n_bad = reading.read()
            self.state.refuse_bad_numbers(n_bad.item(), step)
            self.bar.update(step * self.args.batch_size - self.bar.n)
            if self.log:
                loss = losses[1].mean().item() / n_steps
                self.log.scalars({"train/loss": loss, "train/lr": self.state.rates[step]}, step)

    def stop_or_save(self, at_point):
        """Saves and ends the program if it was told to stop; otherwise saves if it is time. Called after every step.

        Processes on several GPUs ask each other only at the points of the training curve: each answer makes them wait.
        """
        state, args, team = self.state, self.args, self.team
        if state.step == self.last_step:
            return  # end_epoch() saves
        ends_epoch = state.step % self.batches.steps_per_epoch == 0
        if args.save_every and not ends_epoch and state.step % args.save_every == 0:
            self.save()
        if team.device.type == "cuda" and team.world_size > 1 and not at_point:
            return
        is_old = args.save_every_s and time.monotonic() - self.saved_at >= args.save_every_s
        is_due = bool(is_old and at_point and not ends_epoch and team.rank == 0)
        told, due = team.largest(self.stop.received, int(is_due))
        if told:
            self.save()
            self.leave(told)
        elif due:
            self.save()

    def leave(self, told):
        """Ends the program after an interruption, with a line, a status and an exit code."""
        time_is_up = told == checkpoints.TIME_IS_UP
        name = "--max-minutes" if time_is_up else signal.Signals(told).name
        if self.team.rank == 0:
            status = f"interrupted by {name} at step {self.state.step}\n"
            checkpoints.write_atomically(self.folder / "status", status.encode())
        self.say(f"{name}: stopped at step {self.state.step} of {self.last_step}; the same command resumes the run")
        raise SystemExit(TIME_IS_UP_CODE if time_is_up else 128 + told)

    def save(self):
        self.read_points()
        self.state.assert_finite()
        content = {"run": self.config, "model": self.published, "started": self.started} | self.trained_by
        content |= {"world_size": self.team.world_size, "state": self.state.state_dict()}  # by all processes together
        if self.team.rank == 0:
            self.leave_to_rival()
            self.log.flush()  # what is logged up to here will not be logged again
            checkpoints.save_checkpoint(self.folder / "last.pt", content)
        self.saved_at = time.monotonic()

    def leave_to_rival(self):
        """Ends the program before it writes to a folder that another process has taken over."""
        if rival := self.lock.rival():
            refuse(f"{self.folder} was taken over by {rival}: stopped at step {self.state.step}", code=HELD_CODE)

    def end_epoch(self, epoch):
        """Scores what is watched, logs the epoch, and saves if it is time. Returns the scores."""
        state, args = self.state, self.args
        reading = engine.Reading(engine.summed(state.losses), state.n_bad)
        asked_at = time.perf_counter()
        yield
        losses, n_bad = reading.read()
        state.add_time(asked_at)  # the wait for the last steps of the epoch
        self.read_points()
        state.refuse_bad_numbers(n_bad.item(), state.step)
        n_steps = state.step - epoch * self.batches.steps_per_epoch
        loss, imgs_per_s = losses[0].mean().item() / n_steps, n_steps * args.batch_size / state.epoch_s
        scores = yield from self.score(self.watched)
        state.curve.append({
            "epoch": epoch, "step": state.step, "lr": state.rates[state.step], "train_loss": loss,
            "train_imgs_per_s": imgs_per_s, "eval_imgs_per_s": scores["imgs_per_s"],
            "top1": scores["top1"], "top5": scores["top5"], "loss": scores["loss"],
        })  # fmt: skip
        if self.log:
            kind = "val" if self.val else "test"
            left = timedelta(seconds=round(state.train_s / state.step * (self.last_step - state.step)))
            self.bar.clear()
            self.say(f"epoch {epoch + 1:{len(str(args.epochs))}}/{args.epochs}  train loss {loss:.4f}  {kind} {in_words(scores)}  "
                     f"{imgs_per_s:,.0f} img/s  {state.train_s:,.0f} s, {left} left")  # fmt: skip
            names = ("top1", "top5", "loss", "eval_imgs_per_s")
            points = {f"{kind}/{name}": state.curve[-1][name] for name in names}
            self.log.scalars({"train/imgs_per_s": imgs_per_s, **points}, state.step)
        due = time.monotonic() - self.saved_at >= args.save_every_s or state.step == self.last_step
        if self.team.largest(int(due and self.team.rank == 0))[0]:
            self.save()
        return scores

    def score(self, split):
        """The scores of a split by the network as it is evaluated. A generator, as train() is."""
        scores = start_scoring(self.state.eval_net, split, *self.statistics, self.images, self.amp, self.team)
        yield
        return scores()

    # ------------------------------------------------------------------------------------------------ finish

    def finish(self, scores):
        """Writes result.json, the last events and model/, and uploads that if asked to."""
        args, state, team, val = self.args, self.state, self.team, self.val
        watched_top1 = [row["top1"] for row in state.curve]
        confusion = scores["confusion"].tolist() if len(self.images.classes) <= log.MOST_CLASSES else None
        result = self.config | {
            "classes": len(self.images.classes), "n_train": len(self.batches.split), "n_val": len(val) if val else 0,
            "n_test": len(self.images.test), "world_size": team.world_size, **self.trained_by,
            "graph": bool(self.step.graph), "side_by_side": self.n_together, "started": self.started, "params": self.params,
            "macs": self.macs, "train_imgs_per_s": self.last_step * args.batch_size / state.train_s,
            "eval_imgs_per_s": scores["imgs_per_s"], "train_s": state.train_s,
            "peak_memory_mb": machine.peak_memory_mb(team.device),
            "top1": scores["top1"], "top5": scores["top5"], "loss": scores["loss"], "ece": scores["ece"],
            "val_top1": watched_top1[-1] if val else None,
            "best_on_test_minus_last": None if val else max(watched_top1) - watched_top1[-1],
            "balanced_accuracy": scores["balanced_accuracy"], "macro_f1": scores["macro_f1"],
            "class_names": self.images.classes, "per_class_top1": scores["per_class_top1"],
            "confusion": confusion, "curve": state.curve, "status": "finished",
        }  # fmt: skip
        self.leave_to_rival()
        self.log.finish(result, scores["confusion"], state.step)
        model = hub.Classifier(**self.published)
        model.net.load_state_dict(state.eval_net.state_dict())
        hub.save(model, self.folder / "model", self.config, result)
        fields = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in result.items())
        checkpoints.write_atomically(self.folder / "result.json", f"{{\n{fields}\n}}\n".encode())
        self.say(f"test {in_words(scores)}, in {self.folder}/result.json")
        if args.push_to_hub:
            hub.push_finished(self.folder, args.push_to_hub)

    def close(self):
        """Lets go of the folder, and of the device's memory."""
        if self.step:
            self.step.release()
        self.step = self.state = None
        if self.lock:
            self.lock.release()


def start_scoring(net, split, mean, std, images, amp, team):
    """Queues the scoring of a split. Returns a function that waits for it and returns engine.scores_of()."""
    batch_size = augment.eval_batch_size(team.device, split.image_size)
    batches = augment.eval_batches(split, batch_size, mean, std, team.rank, team.world_size)
    return engine.start_evaluation(net, batches, len(split), len(images.classes), amp)


def in_turns(runs):
    """Trains runs to their ends, one step of each in turn. Returns the exit codes of those that did not finish."""
    turns, codes = deque((run, run.train()) for run in runs), []
    while turns:
        run, generator = turns.popleft()
        try:
            with failures_reported(), run.turn():
                next(generator)
            turns.append((run, generator))
        except StopIteration:
            pass
        except SystemExit as end:
            if engine.is_parallel() and not isinstance(end.__context__, FloatingPointError):
                raise  # maybe only this process failed, and torchrun then ends the others
            codes.append(end.code)  # the exception itself would keep the memory of what failed
    return codes


def in_words(scores):
    return f"top-1 {scores['top1']:.2f} %, top-5 {scores['top5']:.2f} %, loss {scores['loss']:.4f}"
