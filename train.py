"""Trains one architecture once, evaluates it, and leaves a folder with everything about the run.

    python train.py --arch eca_resnet --dataset shapes100 --epochs 5
    torchrun --standalone --nproc_per_node 8 train.py --arch hornet_resnet

The same command again resumes an unfinished run and leaves a finished one alone. SIGTERM, SIGINT and SIGUSR1 stop a run
behind the step at hand, to be resumed. A run leaves in runs/<name>/: TensorBoard events, last.pt (to resume), model/ (weights
in the hub's format) and result.json.

`--list` shows the architectures and their knobs, `--summary` one architecture's layers. `--predict IMAGE_OR_FOLDER
--init-from RUN` applies what was trained; it ends with exit code 1 if an image could not be read, behind the predictions for
the others.
"""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flags import CROP_SCALE, PADDED_UP_TO, failures_told, mistakes_refused, parse_args, refuse

# torch, and all that imports it, is imported after the flags are read: a mistyped one is refused within a second
EVAL_BATCH, EVAL_PIXELS = 512, 512 * 64**2  # images and pixels per process at most
NOT_THE_RUN = (
    "list",
    "summary",
    "eval_only",
    "predict",
    "json",
    "push_to_hub",
    "data_dir",
    "cache_dir",
    "out",
    "name",
    "log_every",
    "save_every",
    "timeout_s",
)  # see run_config


# ------------------------------------------------------------------------------------------------- what a run leaves


def run_config(args, amp, data):
    """What makes a run this run and no other: a folder that holds other values belongs to another run.

    data: the dataset's fingerprint, because its path may change and what is there may change, too.
    """
    config = {name: value for name, value in vars(args).items() if name not in NOT_THE_RUN}
    return json.loads(
        json.dumps(config | {"amp": str(amp or "off").removeprefix("torch."), "data": data})
    )  # as result.json will hold it


def run_name(args):
    """The default name of a run's folder: arch, settings, where its weights come from, dataset, fold and seed."""
    from describe import shown

    settings = [f"{knob}={shown(value)}" for knob, value in args.settings.items()]
    start = [flag.replace("_", "-") for flag in ("pretrained", "init_from", "freeze") if getattr(args, flag)]
    fold = [f"fold{args.fold}of{args.folds}"] if args.folds else []
    return "-".join([args.arch, *settings, *start, args.dataset, *fold, f"seed{args.seed}"])


def look_at_folder(folder, config):
    """What is already in the run's folder: (its result if it is finished, its checkpoint if there is one).

    Raises ValueError if that belongs to another run, or if no checkpoint in it can be read.
    """
    from checkpoints import load_checkpoint

    result = None
    if (folder / "result.json").exists():
        try:
            result = json.loads((folder / "result.json").read_text())
        except ValueError:
            raise ValueError(f"{folder}/result.json is damaged: remove it, and the run goes on") from None
    saved, problem = None, None
    for path in (folder / "last.pt", folder / "last.pt.previous"):
        if path.exists() and not result and not saved:
            try:
                saved = load_checkpoint(path)
            except ValueError as error:
                problem = error
                print(f"train.py: {error}; looking for the one before it", file=sys.stderr)
    if saved and problem:
        (folder / "last.pt").rename(folder / "last.pt.damaged")  # or the next save would move it over the good one
    if problem and not saved:
        raise ValueError(
            f"no readable checkpoint in {folder}: remove the folder to start afresh, or give another --name"
        )
    there = result or (saved and saved["run"]) or config
    others = [
        f"{name} {there.get(name)} there, {value} here"
        for name, value in config.items()
        if (there.get(name) or None) != (value or None)  # a flag that is younger than that run was off in it
    ]
    if others:
        raise ValueError(f"{folder} holds another run ({'; '.join(others[:3])}): give --name, or remove it")
    return result, saved


def in_words(scores):
    return f"top-1 {scores['top1']:.2f} %, top-5 {scores['top5']:.2f} %, loss {scores['loss']:.4f}"


def hparams_summaries(config, metrics):
    """TensorBoard's hparams records: (experiment, session start, session end).

    Names are the same in every run, or the HPARAMS tab drops columns; lists and None are no hparams, so they are text.
    """
    from torch.utils.tensorboard.summary import hparams

    plain = {k: v if isinstance(v, (int, float)) and not isinstance(v, bool) else str(v) for k, v in config.items()}
    return hparams(plain, dict.fromkeys(metrics, 0.0))


def confusion_image(confusion):
    """Confusion counts (target, prediction) -> a grey image uint8 (3, H, W), four pixels a cell, rows scaled to their sum."""
    share = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    grey = (255 * (1 - share)).byte().repeat_interleave(4, 0).repeat_interleave(4, 1)
    return grey.expand(3, *grey.shape)


def push(folder, repo_id):
    """Uploads a finished run's model/ with its name as tag. A hub that does not take it costs a line, not the run."""
    import hub

    try:
        print(f"pushed to the hub as {hub.push(folder / 'model', repo_id, folder.name)}")
    except Exception as error:  # httpx and httpx2 errors, by the hub's version, are no OSErrors
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"train.py: the hub did not take {folder}/model ({reason}); the run is complete, and the same command "
              "pushes it again", file=sys.stderr)  # fmt: skip


def commit():
    """The commit of this code, with -dirty if it was changed; None outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


# -------------------------------------------------------------------------------------------------------------- main


def main(args):
    if args.list:
        from describe import listing

        return print(listing())

    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, gather_object, set_seed, tqdm
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.tensorboard import SummaryWriter

    import augment
    import checkpoints
    import data
    import engine
    import hub
    import machine
    from cost import cost
    from describe import summary
    from models import build, canonical, parse_settings
    from predict import predict

    with mistakes_refused():
        args.arch, args.settings = canonical(args.arch), parse_settings(args.arch, args.settings)
        if args.summary:
            n_classes = 10 if args.dataset == "cifar10" else 100
            return print(summary(args.arch, args.settings, n_classes, args.image_size or 32))

    # Processes. Without cpu= every process of a machine without GPUs would take itself for the only one.
    processes = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(seconds=args.timeout_s))
    rank, world_size, device = processes.process_index, processes.num_processes, processes.device
    if device.type == "cuda" and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > torch.cuda.device_count():
        refuse(f"--nproc_per_node is more than the {torch.cuda.device_count()} GPUs of this machine")
    if device.type == "cpu":
        device = torch.device("cpu")  # not cpu:0, to which tensors of "cpu" would be copied

    def say(line):
        if rank == 0:
            print(line, flush=True)

    torch.backends.cudnn.benchmark = True
    machine.keep_freed_memory()
    set_seed(args.seed)
    amp = engine.amp_dtype(args.amp, device)
    if args.sync_bn and device.type == "cpu":
        refuse("--sync-bn works on GPUs only: leave it out")

    if args.predict:
        if rank > 0:
            return
        with mistakes_refused():
            raise SystemExit(predict(hub.load(args.init_from), args.predict, args.json, device))

    def one_first(call):
        """call() by one process of each node, which may download and decode, then by the others, which find that done."""
        done, problem = None, None
        with processes.local_main_process_first():
            try:
                done = call()
            except (OSError, ValueError) as error:
                problem = str(error)  # told behind the barrier, or the others would wait there
        problems = [problem for problem in gather_object([problem]) if problem]
        if problems:  # on whichever machine
            refuse(problems[0])
        return done

    # Data, decoded by one process of each node and mapped into memory by all; or streamed by all, if it has no room in one.
    (room,) = broadcast_object_list([data.room(device)])
    images = one_first(lambda: data.load(args.dataset, args.data_dir, args.image_size, args.cache_dir, room)).to(device)
    for note in images.notes:
        say(f"train.py: {note}")
    if args.crop_scale is None and images.image_size > PADDED_UP_TO:
        args.crop_scale = CROP_SCALE
    args.crop_scale = args.crop_scale or None  # padded crops are one recipe, asked for or not
    config = run_config(args, amp, images.fingerprint)
    n_classes, test, statistics = len(images.classes), images.test, (images.mean, images.std)

    def score(net, split, mean, std):
        batch_size = min(EVAL_BATCH, max(1, EVAL_PIXELS // split.image_size**2))
        batches = augment.eval_batches(split, batch_size, mean, std, rank, world_size)
        return engine.evaluate(net, batches, len(split), n_classes, amp)

    if args.eval_only:
        model = one_first(lambda: hub.load(args.eval_only))
        with mistakes_refused():
            if (model.classes, model.image_size) != (images.classes, images.image_size):
                raise ValueError(
                    f"{args.eval_only} is for {len(model.classes)} classes in images of {model.image_size} pixels, "
                    f"--dataset {args.dataset} has {n_classes}, or others, in images of {images.image_size}"
                )
        with failures_told():
            scores = score(model.net.to(device, memory_format=torch.channels_last), test, model.mean, model.std)
        return say(f"{args.eval_only} on {len(test):,} test images of {args.dataset}: {in_words(scores)}")

    # The run's folder. The first process looks and tells the others, so that all do the same.
    folder = Path(args.out) / (args.name or run_name(args))
    found = [None, None, None]
    if rank == 0:
        try:
            found[:2] = look_at_folder(folder, config)
        except ValueError as error:
            found[2] = str(error)
    result, saved, problem = broadcast_object_list(found)
    if problem:
        refuse(problem)
    if result:
        say(f"{folder} is finished, top-1 {result['top1']:.2f} %: nothing to do")
        if args.push_to_hub and rank == 0:
            push(folder, args.push_to_hub)
        return

    # The network, and the weights it starts with: normalized pixels are then what these were trained on.
    with mistakes_refused():
        net = build(args.arch, n_classes, args.settings, images.image_size)
    if args.pretrained or args.init_from:
        from pretrained import head_names, load_pretrained

        head = head_names(net)
        if args.pretrained and not saved:
            statistics = one_first(lambda: load_pretrained(args.arch, net, images.image_size))
            say(f"{args.arch}: published weights, but for a new head")
        if args.init_from and not saved:
            model = one_first(lambda: hub.load(args.init_from))
            with mistakes_refused():
                with_head = hub.start_from(model, net, head, args.arch, args.settings, images.classes)
            statistics = model.mean, model.std
            say(f"weights of {args.init_from}, {'head included' if with_head else 'but for a new head: other classes'}")
        if args.freeze:
            for name, parameter in net.named_parameters():
                parameter.requires_grad_(name in head)
    if saved:
        statistics = saved["model"]["mean"], saved["model"]["std"]

    with mistakes_refused():
        if args.folds:
            train, val = data.hold_out_fold(images.train, args.folds, args.fold)
        else:
            train, val = data.hold_out(images.train, args.val_size, args.seed)
        crop_scale = args.crop_scale or 0.0
        drawn = augment.Augment(args.crop_padding, args.flip, args.cutout, args.mixup, args.cutmix, crop_scale)
        batches = augment.TrainBatches(
            train, args.batch_size, drawn, *statistics, n_classes, args.seed, rank, world_size
        )
        watched = val or test

    # To the device, then optimizer and schedule, then the saved state, then DDP: an order that holds for every library.
    if args.sync_bn:
        net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    net = net.to(device, memory_format=torch.channels_last)
    last_step = min(args.max_steps or sys.maxsize, args.epochs * batches.steps_per_epoch)
    optimizer = engine.make_optimizer(args.optimizer, net, args.lr, args.momentum, args.weight_decay)
    with mistakes_refused():
        scheduler = engine.make_scheduler(args.schedule, optimizer, round(args.warmup_frac * last_step), last_step)
    state = engine.TrainState(net, optimizer, scheduler, amp, args.ema_decay, rank, world_size)

    if saved:
        state.load_state_dict(saved["state"])
        before = saved["world_size"]
        change = "" if before == world_size else f", with {world_size} processes instead of {before}"
        say(f"resuming {folder} at step {state.step} of {last_step}{change}")

    model = torch.compile(net) if args.compile else net
    if world_size > 1:
        on = [device.index] if device.type == "cuda" else None
        model = DistributedDataParallel(model, device_ids=on, gradient_as_bucket_view=True)

    # The run's folder and its TensorBoard, written by the first process alone.
    params, macs = cost(args.arch, n_classes, args.settings, images.image_size)
    started = saved["started"] if saved else datetime.now(UTC).isoformat(timespec="seconds")
    published = {"arch": args.arch, "classes": images.classes, "settings": args.settings,
                 "image_size": images.image_size, "mean": statistics[0], "std": statistics[1]}  # fmt: skip
    held_out = f"{len(val):,} for validation" if val else "none for validation"
    say(
        f"{args.arch}: {params:,} parameters, {macs:,} MACs; {args.dataset}: {len(train):,} images to train on, {held_out}, "
        f"{len(test):,} to test, {train.way}; {world_size} x {machine.device_name(device)}, {config['amp']}; writing {folder}"
    )
    writer = None
    if rank == 0:
        with failures_told():
            folder.mkdir(parents=True, exist_ok=True)
            # what an interrupted run logged behind its checkpoint is hidden, for it will be logged again
            writer = SummaryWriter(folder, purge_step=state.step + 1 if saved else None)
            metrics = ["test/top1", "test/top5", "test/loss", "test/ece"]
            experiment, session, session_end = hparams_summaries(config, metrics)
            writer.file_writer.add_summary(experiment)
            writer.file_writer.add_summary(session)
            if not saved:
                first_imgs, _ = next(batches.epoch(0))
                shown = (first_imgs[:64] * batches.std + batches.mean).round().clamp(0, 255).byte()
                writer.add_images("train/first_batch", shown, 0)

    for stale in folder.glob("*.tmp"):  # left by a run that was killed while it saved
        stale.unlink(missing_ok=True)
    bar = tqdm(total=last_step * args.batch_size, initial=state.step * args.batch_size, unit="img", unit_scale=True,
               leave=False, disable=not sys.stderr.isatty(), main_process_only=True)  # fmt: skip

    def save():
        state.assert_finite()
        content = {"run": config, "model": published, "started": started, "world_size": world_size}
        content["state"] = state.state_dict()  # by all processes together
        if rank == 0:
            writer.flush()  # what is logged up to here will not be logged again
            checkpoints.save_checkpoint(folder / "last.pt", content)

    def after_step():
        """Logs and saves where it is time to; true if the run was told to stop."""
        if state.step % args.log_every == 0 or state.step == last_step:
            state.assert_finite()
            loss = state.mean_loss(1, (state.step - 1) % args.log_every + 1)
            state.losses[1] = 0
            bar.update(state.step * args.batch_size - bar.n)
            if writer:
                writer.add_scalar("train/loss", loss, state.step)
                writer.add_scalar("train/lr", scheduler.get_last_lr()[0], state.step)
        ends_epoch = state.step % batches.steps_per_epoch == 0 or state.step == last_step  # which is saved once scored
        if args.save_every and state.step % args.save_every == 0 and not ends_epoch:
            save()
        # several GPUs ask each other less often, because the answer makes the host wait for the device
        asks = device.type == "cpu" or world_size == 1 or state.step % args.log_every == 0
        return asks and stop.agreed(device)

    # Epochs: train, evaluate, log, save.
    scores = None
    stop = checkpoints.StopSignals()
    with stop, failures_told():
        while state.step < last_step:
            epoch = state.step // batches.steps_per_epoch
            left = engine.train_epoch(
                state, model, batches, epoch, last_step, args.label_smoothing, args.clip_norm, after_step
            )
            if left:
                save()
                name = signal.Signals(stop.agreed(device)).name
                if rank == 0:
                    checkpoints.write_atomically(
                        folder / "status", f"interrupted by {name} at step {state.step}\n".encode()
                    )
                say(f"{name}: stopped at step {state.step} of {last_step}; the same command resumes the run")
                raise SystemExit(128 + signal.Signals[name])
            n_steps = state.step - epoch * batches.steps_per_epoch
            imgs_per_s = n_steps * args.batch_size / state.epoch_s
            loss = state.mean_loss(0, n_steps)
            scores = score(state.eval_net, watched, *statistics)
            state.curve.append({
                "epoch": epoch, "step": state.step, "lr": scheduler.get_last_lr()[0], "train_loss": loss,
                "train_imgs_per_s": imgs_per_s, "eval_imgs_per_s": scores["imgs_per_s"],
                "top1": scores["top1"], "top5": scores["top5"], "loss": scores["loss"],
            })  # fmt: skip
            if rank == 0:
                kind = "val" if val else "test"
                bar.clear()
                print(f"epoch {epoch + 1:3d}/{args.epochs}  train loss {loss:.4f}  {kind} {in_words(scores)}  "
                      f"{imgs_per_s:,.0f} img/s  {state.train_s:,.0f} s", flush=True)  # fmt: skip
                writer.add_scalar("train/imgs_per_s", imgs_per_s, state.step)
                for name in ("top1", "top5", "loss", "eval_imgs_per_s"):
                    writer.add_scalar(f"{kind}/{name}", state.curve[-1][name], state.step)
            save()
    bar.close()

    # Result. The test set is scored here for the only time, or was watched (--val-size 0) and never chosen on.
    if val or scores is None:
        with failures_told():
            scores = score(state.eval_net, test, *statistics)
    if rank > 0:
        return
    watched_top1 = [row["top1"] for row in state.curve]
    result = config | {
        "classes": n_classes, "n_train": len(train), "n_val": len(val) if val else 0, "n_test": len(test),
        "world_size": world_size, "device": machine.device_name(device), "torch": str(torch.__version__), "commit": commit(),
        "started": started, "params": params, "macs": macs, "train_imgs_per_s": last_step * args.batch_size / state.train_s,
        "eval_imgs_per_s": scores["imgs_per_s"], "train_s": state.train_s, "peak_memory_mb": machine.peak_memory_mb(device),
        "top1": scores["top1"], "top5": scores["top5"], "loss": scores["loss"], "ece": scores["ece"],
        "val_top1": watched_top1[-1] if val else None,
        "best_on_test_minus_last": None if val else max(watched_top1) - watched_top1[-1],
        "per_class_top1": scores["per_class_top1"], "curve": state.curve, "status": "finished",
    }  # fmt: skip
    for name in ("top1", "top5", "loss", "ece"):
        writer.add_scalar(f"test/{name}", result[name], state.step)
    writer.add_image("test/confusion", confusion_image(scores["confusion"]), state.step)
    writer.file_writer.add_summary(session_end)
    writer.close()
    model = hub.Classifier(**published)
    model.net.load_state_dict(state.eval_net.state_dict())
    with failures_told():
        hub.save(model, folder / "model", config, result)
        checkpoints.write_atomically(folder / "result.json", json.dumps(result, indent=1).encode())
    (folder / "status").unlink(missing_ok=True)
    print(f"test {in_words(scores)}, in {folder}/result.json")
    if args.push_to_hub:
        push(folder, args.push_to_hub)


if __name__ == "__main__":
    args = parse_args(description=__doc__)
    if args.list:
        sys.exit(main(args))  # without the imports below, which it does not need
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing.errors import record

    record(main)(args)  # torchrun then shows the traceback of the process that failed first
    if dist.is_initialized():  # behind a failure NCCL would wait here for processes that wait elsewhere
        dist.destroy_process_group()
