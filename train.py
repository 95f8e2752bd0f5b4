"""Trains one architecture, once for each seed, and leaves a folder with everything about each run.

    python train.py --arch eca_resnet --dataset shapes100 --epochs 5
    python train.py --arch eca_resnet --seed 0 1 2 3
    torchrun --standalone --nproc_per_node 8 train.py --arch hornet_resnet

The same command again resumes an unfinished run and leaves a finished one alone. SIGTERM, SIGINT and SIGUSR1 stop a run
after the current step, to be resumed. A run leaves in runs/<name>/: TensorBoard events, last.pt (to resume), model/ (weights
in the hub's format) and result.json. On one GPU the runs of several seeds train side by side, elsewhere one after the other.

`--list` shows the architectures and their knobs, `--summary` one architecture's layers. `--predict IMAGE_OR_FOLDER
--init-from RUN` predicts with a trained network; if an image cannot be read, it predicts the others and exits with code 1.
"""

import os
import sys
from argparse import Namespace
from contextlib import ExitStack
from functools import partial

from flags import CROP_SCALE, HELD_CODE, PADDED_UP_TO, mistakes_refused, parse_args, refuse

# torch, and all that imports it, is imported after the flags are read: a mistyped one is refused within a second


def train_all(runs, together):
    """Trains the runs, side by side if `together`, else one after the other.

    A run that fails, or that another process holds, does not stop the others; an interruption or a mistake in the flags does,
    and so does a failure that one of several processes may have met alone. If any run did not finish, the program ends with the
    largest exit code; that of a held run counts least.
    """
    from accelerate.utils import release_memory

    import engine
    import training

    codes, others_go_on = [], (1, HELD_CODE)
    for i, group in enumerate([runs] if together else [[run] for run in runs]):
        if i:
            group = [run for run in group if not run.look()]  # hours later: another process may have trained it
        with ExitStack() as stack:
            built = []
            for run in group:
                stack.callback(run.close)
                try:
                    run.build()
                    built.append(run)
                except SystemExit as end:
                    if end.code not in others_go_on or (engine.is_parallel() and end.code == 1):
                        raise
                    run.close()  # the others need its memory
                    codes.append(end.code)
            for run in built:
                run.n_together = len(built)
            codes += training.in_turns(built)
        release_memory()  # what finished runs have left on the GPU
        if any(code not in others_go_on for code in codes):
            break
    if codes:
        raise SystemExit(max(codes, key=lambda code: (code != HELD_CODE, code)))


def main(args):
    if args.list:
        from describe import listing

        return print(listing())

    import torch

    import checkpoints
    import data
    import engine
    import hub
    import machine
    import training
    from describe import summary
    from models import canonical, parse_settings
    from predict import predict, score_only
    from processes import Processes

    with mistakes_refused():
        args.arch, args.settings = canonical(args.arch), parse_settings(args.arch, args.settings)
        if args.summary:
            n_classes = data.n_classes(args.dataset, args.data_dir)
            return print(summary(args.arch, args.settings, n_classes, args.image_size or 32))

    # Processes and device.
    stop = checkpoints.StopSignals(60 * args.max_minutes or float("inf"))
    team = Processes(args)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False  # it would round convolutions, and nothing else, under --amp off
    machine.keep_freed_memory()
    machine.keep_to_cores()
    amp = engine.amp_dtype(args.amp, team.device)
    if team.device.type == "cpu" and (args.sync_bn or args.graph):
        refuse(f"{'--sync-bn' if args.sync_bn else '--graph'} works on GPUs only: leave it out")

    # What needs no dataset.
    if args.predict:
        raise SystemExit(
            team.first_decides(lambda: predict(hub.load(args.init_from), args.predict, args.json, team.device))
        )

    # Data: decoded by one process of each node, mapped into memory by all.
    room = team.first_decides(lambda: data.room(team.device))
    model = team.one_first(lambda: hub.load(args.eval_only)) if args.eval_only else None
    known = None
    if model and args.dataset == "folder":  # which then needs test/ only
        known, args.image_size = model.classes, args.image_size or model.image_size
    load = partial(data.load, args.dataset, args.data_dir, args.image_size, args.cache_dir, room, known)
    images = team.one_first(load).to(team.device)
    for note in images.notes:
        team.say(f"train.py: {note}")

    # Flags that depend on the data.
    if args.crop_scale is None and images.image_size > PADDED_UP_TO:
        args.crop_scale = CROP_SCALE
    args.crop_scale = args.crop_scale or None  # 0 and None both mean padded crops: one value, as it is one recipe
    if images.val:
        args.val_size = None
    if args.eval_only:
        return score_only(args, team, model, images, amp)
    if len(images.classes) < 2:
        refuse(
            f"--data-dir {args.data_dir}: train/ holds one class, {images.classes[0]}: are the classes one folder deeper?"
        )

    # Build, train and finish: a run for each seed. What is finished stays as it is.
    runs = [training.Run(Namespace(**vars(args) | {"seed": seed}), team, images, amp, stop) for seed in args.seeds]
    if args.check:
        return team.say(runs[0].check())
    for run in runs:
        if run.result:
            team.say(f"{run.folder} is finished, top-1 {run.result['top1']:.2f} %: nothing to do")
            if args.push_to_hub and team.rank == 0:
                hub.push_finished(run.folder, args.push_to_hub)
    with stop:
        train_all([run for run in runs if not run.result], together=team.device.type == "cuda" and team.world_size == 1)


if __name__ == "__main__":
    args = parse_args(description=__doc__)
    try:
        if args.list:
            sys.exit(main(args))  # without the imports below, which it does not need
        import torch.distributed as dist
        from torch.distributed.elastic.multiprocessing.errors import record
    except ModuleNotFoundError as error:
        refuse(f"{error.name} is not installed: activate the environment, or pip install -r requirements.txt", code=1)

    record(main)(args)  # torchrun then shows the traceback of the process that failed first
    if dist.is_initialized():  # after a failure NCCL would wait here for processes that wait elsewhere
        dist.destroy_process_group()
        sys.stdout.flush()
        # an ordinary exit of one of several processes aborts now and then: "terminate called without an active exception"
        os._exit(0)
