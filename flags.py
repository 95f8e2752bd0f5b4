"""The flags of train.py, their defaults, and how a mistake ends the program: one line, no traceback."""

import argparse
import difflib
import os
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 -- said before an import fails
    sys.exit("Python 3.11 or newer is needed: make the virtual environment with it")

# Exit codes, besides 1 for a failure and 2 for a user's mistake.
HELD_CODE = 3  # another process writes the run's folder
TIME_IS_UP_CODE = 75  # --max-minutes: "try again", as in sysexits.h
VAL_SIZE = 0.1
MOMENTUM, WARMUP, CROP_PADDING = 0.9, 0.1, 4
CROP_SCALE = 0.08  # as Szegedy et al., "Going Deeper with Convolutions", 2015
PADDED_UP_TO = 64  # pixels: larger images get resized crops by default, others padded ones
# DATASETS as in sources.py and data.py, OPTIMIZERS and SCHEDULES as in optimizers.py
DATASETS = ("cifar100", "cifar10", "folder", "shapes100")
OPTIMIZERS = {  # peak learning rate and weight decay, unless --lr and --weight-decay say otherwise
    "sgd": (0.4, 5e-4),  # the winner of results/tuning-45ep
    "adamw": (1e-3, 0.05),
    "adam": (1e-3, 0.0),
    "nadam": (1e-3, 0.0),
    "adagrad": (1e-2, 0.0),
    "adafactor": (1e-3, 0.0),
}
SCHEDULES = (
    "cosine", "linear", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt", "warmup_stable_decay",
)  # fmt: skip
# Flags newer than some runs in results/, with the values that those runs used.
NEWER = {"accumulate": 1, "class_weights": None, "balanced_sampling": False}
# Fingerprint of the hub's CIFAR-100 at 32 pixels with its "cra": the one with "crab" (data.py).
RESPELT = {"4f32f603": "90fde761"}
NOT_IN_CONFIG = (  # flags that do not change what a run computes
    "list", "summary", "check", "eval_only", "predict", "json", "push_to_hub", "data_dir", "cache_dir", "out", "name",
    "log_every", "save_every", "save_every_s", "max_minutes", "graph", "seeds", "timeout_s",
)  # fmt: skip
HUB_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"  # USER/NAME
ELSEWHERE = {  # flags of other programs, and what to use here instead
    "--model": "give --arch",
    "--resume": "the same command again resumes a run, and --init-from starts from another's weights",
    "--gpu": "a GPU is used if there is one; CUDA_VISIBLE_DEVICES chooses it",
    "--device": "a GPU is used if there is one; CUDA_VISIBLE_DEVICES chooses it",
    "--gpus": "torchrun --nproc_per_node N train.py trains on N GPUs",
    "--workers": "leave it out: up to eight threads decode images",
    "--num-workers": "leave it out: up to eight threads decode images",
    "--data": "give --data-dir",
    "--num-classes": "leave it out: the data tell it",
    "--export": "use python hub.py RUN --export NAME.onnx",
    "--fp16": "give --amp fp16",
    "--width": "give --set resnet.width=N",
    "--checkpoint": "the same command again resumes a run, and --init-from starts from another's weights",
}
AT_LEAST_0 = (
    "val_size", "cutout", "crop_padding", "mixup", "cutmix", "max_steps", "weight_decay", "clip_norm", "save_every",
    "save_every_s", "max_minutes",
)  # fmt: skip


def refuse(message, code=2, program="train.py"):
    """Ends the program with one line, from one process: exit code 2 for a user's mistake, others for failures."""
    if int(os.environ.get("RANK", 0)) > 0 and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        time.sleep(5)  # torchrun ends all processes when one exits: let the one that prints exit first
    else:
        print(f"{program}: {one_line(message)}", file=sys.stderr)
    raise SystemExit(code)


def path_of(text):
    """A typed path with its ~ expanded, which shells do not do in --out=~/runs."""
    return Path(os.path.expanduser(text))


def one_line(message):
    return " ".join(str(message).split())


@contextmanager
def mistakes_refused(program="train.py"):
    """Turns a ValueError, which says what the user got wrong, into refuse()."""
    try:
        yield
    except ValueError as error:
        refuse(error, program=program)


@contextmanager
def failures_reported(trains=True):
    """Exits with one line and code 1 if memory is full, a number is not finite, a disk fails or an image cannot be read."""
    kept = "; the last checkpoint is kept" * trains
    from torch import OutOfMemoryError

    try:
        yield
    except OutOfMemoryError as error:
        # printed by each process that meets it, as it may be the only one
        first_line = str(error).splitlines()[0].rstrip(".")
        less = ": give fewer seeds at a time, --accumulate 2 or more, or --graph off, or lower --batch-size" * trains
        print(f"train.py: {first_line}{less}{kept}", file=sys.stderr)
        raise SystemExit(1) from None
    except (FloatingPointError, OSError) as error:
        # bad numbers end all processes; a disk error, or an image that cannot be read, ends the one that meets it
        if int(os.environ.get("RANK", 0)) == 0 or isinstance(error, OSError):
            print(f"train.py: {error}{kept}", file=sys.stderr)
        raise SystemExit(1) from None


def parse_args(argv=None, description=None):
    """The flags as a namespace: seeds is the list of --seed, seed its first number; settings holds --set."""
    parser = make_parser(description)
    args, unknown = parser.parse_known_args(argv)
    args.settings = settings_in(args.set or [])
    del args.set
    if unknown:
        if args.predict and not unknown[0].startswith("-"):
            refuse(f"--predict takes one image or one folder, got {unknown[0]} as well")
        refuse_unknown_flag(unknown[0], parser._option_string_actions)
    for name, value in vars(args).items():
        if value == "":
            refuse(f"--{name.replace('_', '-')} is empty: is a variable unset?")
    if os.path.isfile(args.out):
        refuse(f"--out {args.out} is a file: give a folder")
    args.dataset = args.dataset or dataset_in(args.data_dir)
    lr, weight_decay = OPTIMIZERS[args.optimizer]
    args.lr = lr if args.lr is None else args.lr
    args.weight_decay = weight_decay if args.weight_decay is None else args.weight_decay
    args.seeds, args.seed = args.seed, args.seed[0]
    check_numbers(args)
    check_combinations(args)
    if args.crop_padding is not None:
        args.crop_scale = 0.0
    args.crop_padding = CROP_PADDING if args.crop_padding is None else args.crop_padding
    return args


def settings_in(items):
    """What all --set say: {knob: value as typed}."""
    settings = {}
    for item in items:
        knob, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            refuse(f"--set takes KNOB=VALUE, such as eca.kernel_size=5, got {item!r}")
        if knob in settings:
            refuse(f"--set {knob} is given twice")
        settings[knob] = value
    return settings


def refuse_unknown_flag(given, options):
    """Ends the program for a word that is no flag, with what was probably meant."""
    word = given.split("=")[0].replace("_", "-")
    if other := ELSEWHERE.get(word):
        refuse(f"unknown flag {given}: {other}")
    if re.fullmatch(r"(--)?[a-z]\w*\.\w+=.+", given):
        near = [f"--set {given.removeprefix('--')}"]
    elif re.fullmatch(r"[a-z]\w*|(torchvision|timm):.+", given):
        near = [f"--arch {given}"]
    else:
        near = [option for option in options if word.strip("-") and option.startswith(word)]
        near = near or difflib.get_close_matches(word, options, 1, 0.75)
    refuse(f"unknown flag {given}: {f'did you mean {near[0]}? ' if near else ''}train.py --help lists all")


def make_parser(description):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = refuse
    add_network(heading(parser, "network"))
    add_data(heading(parser, "data"))
    add_recipe(heading(parser, "recipe"))
    add_run(heading(parser, "run"))
    add_other(heading(parser, "instead of a run"))
    return parser


def heading(parser, title):
    """Returns add(flag, default, help, ...), for flags under this heading: the default gives the type, and ends the help."""
    group = parser.add_argument_group(title)

    def add(flag, default, help, **kwargs):
        if isinstance(default, bool):
            kind = {"action": argparse.BooleanOptionalAction if default else "store_true"}
        elif default is None:
            kind = {}
        else:
            kind = {"type": type(default)}
            help += f" (default {default})"
        group.add_argument(flag, default=default, help=help, **(kind | kwargs))

    return add


PATH = {"type": os.path.expanduser}  # as shells leave --out=~/runs as it is


def add_network(add):
    add("--arch", "resnet", "<method>_..._<backbone>, such as eca_ghostnet_resnet; see --list")
    add("--set", None, "a knob of the arch, such as eca.kernel_size=5; may be repeated", action="append", metavar="K=V")
    add("--pretrained", False, "start with weights published for the arch, and a new head (classifier)")
    init = "start with a run's weights: its folder, model/ or last.pt, or a hub id; a new head if the classes differ"
    add("--init-from", None, init, metavar="RUN", **PATH)
    add("--freeze", None, "train the head only; with --pretrained or --init-from", choices=["backbone"])


def add_data(add):
    add("--dataset", None, "what to train on (default cifar100, or what --data-dir holds)", choices=DATASETS)
    files = "local files: CIFAR as parquet or its original archive, or a folder with train/, test/ and optionally val/"
    add("--data-dir", None, files, **PATH)
    add("--image-size", None, "resize and centre-crop images to this many pixels", type=int)
    held_out = (
        "part of train held out: a fraction, or a number of images; 0: score the test set after each epoch instead"
    )
    add("--val-size", None, f"{held_out} (default {VAL_SIZE})", type=float)
    add("--folds", None, "cross-validation: the number of stratified folds of train, which all seeds share", type=int)
    add("--fold", None, "which of the --folds, from 0, is held out in place of --val-size", type=int)
    add("--cache-dir", None, "where decoded images are kept (default ~/.cache/resnet-grafts)", **PATH)
    moved = "pixels of padding around an image before a random crop; 0 for none"
    add("--crop-padding", None, f"{moved} (default {CROP_PADDING})", type=int)
    default = (
        f"(default {CROP_SCALE} for images of more than {PADDED_UP_TO} pixels, unless --crop-padding is given; else 0)"
    )
    least = "random resized crops: the smallest part of an image's area; 0 for padded crops"
    add("--crop-scale", None, f"{least} {default}", type=float)
    add("--flip", True, "mirror each image with probability 1/2")
    add("--cutout", 0, "side of the blanked square in pixels; 0 for none")
    add("--mixup", 0.0, "alpha of mixup's Beta distribution; 0 for none")
    add("--cutmix", 0.0, "alpha of CutMix's Beta distribution; 0 for none")


def add_recipe(add):
    add("--epochs", 100, "passes over the training images")
    add("--max-steps", 0, "end the run, and its schedule, after this many optimizer steps; 0 for no limit")
    add("--batch-size", 128, "images per optimizer step, over all processes")
    add("--accumulate", 1, "cut a batch that does not fit into memory into this many parts and sum their gradients")
    add("--optimizer", "sgd", "from torch, adafactor from transformers", choices=OPTIMIZERS)
    default = f"(default {OPTIMIZERS['sgd'][0]:g} for sgd; the others have their own)"
    add("--lr", None, f"peak learning rate {default}", type=float)
    add("--momentum", MOMENTUM, "of SGD (Nesterov), or beta1 of the Adam family")
    add("--weight-decay", None, "of the weights of convolutions and linear layers (default per optimizer)", type=float)
    add(
        "--schedule", "cosine", "of the learning rate, named as in transformers; polynomial: power 2", choices=SCHEDULES
    )
    add("--warmup-frac", WARMUP, "fraction of the steps in which the learning rate rises from 0")
    add("--label-smoothing", 0.0, "share of the target spread over all classes")
    average = "evaluate and save a moving average of the weights with this decay per step, lower at first; 0 for none"
    add("--ema-decay", 0.0, average)
    clip = "largest gradient norm; 0 for no limit (HorNet can diverge even with 5, at --lr 0.2)"
    add("--clip-norm", 5.0, clip)
    weights = "weight each class in the loss by the inverse of its share of the training images"
    add("--class-weights", None, weights, choices=["balanced"])
    add("--balanced-sampling", False, "show each class equally often in an epoch, however many images it has")
    seeds = "seed of weights, split, sample order and augmentation; several train one run each, side by side on a GPU"
    add("--seed", [0], seeds, type=seed, nargs="+")
    amp = "autocast type; auto is bf16 where the device computes in it, else off; on older GPUs try fp16"
    add("--amp", "auto", amp, choices=["auto", "bf16", "fp16", "off"])
    add("--compile", False, "torch.compile the network")
    add("--sync-bn", False, "batch norm over all processes; GPU only")


def seed(text):
    """A number, as argparse reads it."""
    if not re.fullmatch(r"-?\d+", text):
        raise argparse.ArgumentTypeError(f"expected whole numbers with spaces between them, got {text!r}")
    return int(text)


def add_run(add):
    add("--out", "runs", "folder of all runs", **PATH)
    add("--name", None, "folder of this run in --out (default from arch, settings, dataset, fold and seed)")
    upload = "upload model/ at the end, tagged with the run's name; if that fails, the same command tries again"
    add("--push-to-hub", None, upload, metavar="USER/NAME")
    add("--log-every", 20, "steps between two points of the training curve")
    every = (
        "once the last save is this many seconds old, save at the next point of the training curve or end of an epoch"
    )
    add("--save-every-s", 60.0, f"{every}; 0: at the end of every epoch")
    add("--save-every", 0, "steps between two checkpoints within an epoch, besides those of --save-every-s; 0 for none")
    add("--max-minutes", 0.0, "stop and save after this many minutes, as on SIGTERM, with exit code 75; 0 for no limit")
    graph = "auto: a GPU replays the training step as one CUDA graph where it can; off: kernel by kernel"
    add("--graph", None, f"{graph} (default auto)", choices=["auto", "off"])
    add("--timeout-s", 600, "seconds to wait for a silent process; does not limit decoding")


def add_other(add):
    add("--list", False, "print all methods and backbones with their knobs")
    add("--summary", False, "print the arch's parameters, MACs and layers")
    check = "prepare the data and the network, look at the run's folder, print as JSON what would be trained, and train nothing"
    add("--check", False, check)
    scored = "score a run on the test set: its folder, model/ or last.pt, or a hub id"
    add("--eval-only", None, scored, metavar="PATH", **PATH)
    classes = (
        "print the most probable classes of an image, or of each image in a folder, with the network of --init-from"
    )
    add("--predict", None, classes, metavar="PATH", **PATH)
    add("--json", False, "print --predict's results as JSON")


def check_numbers(args):
    """Ends the program for a number outside its range."""
    if args.folds is None and args.fold is None:
        args.val_size = VAL_SIZE if args.val_size is None else args.val_size
    else:
        refuse_folds(args.folds, args.fold, args.val_size)
    if (args.val_size or 0) >= 1 and (args.val_size % 1 or args.val_size == 1):
        refuse(f"--val-size is a fraction below 1, or a whole number of images, 2 or more, got {args.val_size:g}")
    for seed in args.seeds:
        if not 0 <= seed < 2**32:
            refuse(f"--seed must be 0 or more, and less than 2**32, got {seed}")
    for name in AT_LEAST_0:
        value = getattr(args, name) or 0
        if not 0 <= value < 2**32:  # also refuses nan
            range_of = "less than 2**32" if value > 0 else "0 or more"
            refuse(f"--{name.replace('_', '-')} must be {range_of}, got {value}")
    for name in ("epochs", "batch_size", "accumulate", "lr", "log_every", "timeout_s", "image_size"):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < float("inf"):
            refuse(f"--{name.replace('_', '-')} must be more than 0, got {getattr(args, name)}")
    for name in ("warmup_frac", "label_smoothing", "ema_decay", "momentum"):
        if not 0 <= getattr(args, name) < 1:
            refuse(f"--{name.replace('_', '-')} must be in [0, 1), got {getattr(args, name)}")
    if not 0 <= (args.crop_scale or 0) <= 1:
        refuse(f"--crop-scale must be in [0, 1], got {args.crop_scale}")


def check_combinations(args):
    """Ends the program for flags that exclude or need each other."""
    if len(set(args.seeds)) < len(args.seeds):
        refuse(f"--seed has a number twice: {' '.join(map(str, args.seeds))}")
    if len(args.seeds) > 1 and args.name and "{seed}" not in args.name:
        refuse(f"--name {args.name} is the folder of one run: leave it out with several seeds, or put {{seed}} into it")
    if args.momentum != MOMENTUM and args.optimizer in ("adagrad", "adafactor"):
        refuse(f"--momentum {args.momentum:g} would have no effect: {args.optimizer} has none")
    if args.warmup_frac != WARMUP and args.schedule == "constant":
        refuse(f"--warmup-frac {args.warmup_frac:g} would have no effect: use --schedule constant_with_warmup")
    if args.crop_padding is not None and args.crop_scale:
        refuse(
            f"--crop-padding {args.crop_padding} would have no effect: --crop-scale {args.crop_scale:g} resizes its crops"
        )
    if args.schedule == "inverse_sqrt" and not args.warmup_frac:
        refuse("--schedule inverse_sqrt falls from the end of the warm-up: give --warmup-frac more than 0")
    if args.class_weights and args.balanced_sampling:
        refuse("--class-weights and --balanced-sampling both balance the classes: give one of them")
    if args.pretrained and args.init_from:
        refuse("--pretrained and --init-from are two sets of weights: give one of them")
    if args.freeze and not (args.pretrained or args.init_from):
        refuse("--freeze would keep random weights: give --pretrained or --init-from, too")
    if args.predict and not args.init_from:
        refuse("--predict needs --init-from, the run whose network is to be used")
    for name in ("predict", "init_from", "pretrained", "freeze", "folds", "check", "push_to_hub"):
        if args.eval_only and getattr(args, name):
            refuse(f"--{name.replace('_', '-')} has no effect with --eval-only, which scores a network as it is")
    for name in ("push_to_hub", "check", "image_size", "pretrained", "freeze", "folds"):
        if args.predict and getattr(args, name):
            refuse(f"--{name.replace('_', '-')} has no effect with --predict")
    if args.json and not args.predict:
        refuse("--json has no effect without --predict: leave it out")
    if args.push_to_hub and not re.fullmatch(HUB_ID, args.push_to_hub):
        refuse(f"--push-to-hub takes USER/NAME, got {args.push_to_hub!r}")


def dataset_in(data_dir):
    """The dataset that a folder holds: classes of images in train/ or test/, CIFAR-10's archive, or else CIFAR-100."""
    try:
        names = set(os.listdir(data_dir)) if os.path.isdir(data_dir or "") else set()
    except OSError as error:
        refuse(f"--data-dir {data_dir}: {error.strerror}")
    if any(os.path.isdir(os.path.join(data_dir, name)) for name in names & {"train", "test"}):
        return "folder"
    of_100 = names & {"cifar-100-python", "cifar-100-python.tar.gz"}
    of_10 = names & {"cifar-10-batches-py", "cifar-10-python.tar.gz", "data_batch_1"}
    return "cifar10" if of_10 and not of_100 else "cifar100"


def refuse_folds(folds, fold, val_size):
    """Ends the program unless 0 <= fold < folds and --val-size is not given."""
    if folds is None or fold is None:
        refuse("--folds and --fold go together, such as --folds 5 --fold 0")
    if folds < 2:
        refuse(f"--folds must be 2 or more, got {folds}")
    if not 0 <= fold < folds:
        refuse(f"--fold must be in 0..{folds - 1} with --folds {folds}, got {fold}")
    if val_size is not None:
        refuse(f"--val-size {val_size:g} and --folds exclude each other: the fold is held out")
