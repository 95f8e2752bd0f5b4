"""What compare.sh and ablations.sh ask for, by the environment and flags; and the call of train.py for each run.

Whatever makes no sense is refused in one line that names the setting, with exit code 2.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from flags import dataset_in, parse_args
from tuning import recipes_of

HERE = Path(__file__).parent
OWN_FLAGS = {  # of train.py, and the setting that stands for each
    "--seed": 'SEEDS, such as SEEDS="0 1"',
    "--out": "OUT",
    "--name": "OUT, the folder of all runs",
    "--arch": 'RUNS, such as RUNS="resnet eca_resnet"',
    "--epochs": "EPOCHS",
    "--dataset": "DATASET",
    "--max-minutes": "MINUTES",
}
NOT_FOR_MANY = ("--check", "--list", "--summary", "--eval-only", "--predict", "--push-to-hub")


def refuse(message):
    """Ends the program for a user's mistake: one line, exit code 2."""
    print(f"{os.environ.get('SCRIPT', 'compare.sh')}: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


@dataclass
class Settings:
    """What the environment asks for; see the head of compare.sh. flags: of train.py, the recipe's before the user's."""

    runs: list
    seeds: list
    epochs: str
    dataset: str
    out: Path
    nproc: int
    jobs: int
    minutes: float
    best: int
    flags: list
    recipes: dict  # of each architecture, by TUNED
    user_flags: list


def read_settings(environ, user_flags):
    """Refuses what makes no sense, in one line that names the setting."""
    for flag in user_flags:
        name = flag.split("=")[0]
        if name in OWN_FLAGS:
            refuse(f"{name} cannot be given here: set {OWN_FLAGS[name]}")
        if name in NOT_FOR_MANY:
            refuse(f"{name} is for one run: give it to train.py")
    runs, seeds = (list(environ[name].split()) for name in ("RUNS", "SEEDS"))
    if not runs:
        refuse('RUNS is empty: name one or more, such as RUNS="resnet eca_resnet"')
    if not seeds or not all(seed.isdecimal() for seed in seeds):
        refuse(f'SEEDS must be whole numbers, such as SEEDS="0 1 2", got {environ["SEEDS"]!r}')
    seeds = [str(int(seed)) for seed in seeds]
    if len(set(seeds)) < len(seeds):
        refuse(f"SEEDS has a number twice: {environ['SEEDS']}")
    for name in ("OUT", "DATASET"):
        if not environ[name]:
            refuse(f"{name} is empty: leave it unset for the default, or give a value")
    numbers = {name: number(name, environ[name]) for name in ("EPOCHS", "NPROC", "JOBS")}
    dataset = dataset_in(data_dir_in(user_flags)) if environ["DATASET"] == "auto" else environ["DATASET"]
    minutes = number("MINUTES", environ["MINUTES"], float, 0)
    runs, flags = list(dict.fromkeys(runs)), environ["RECIPE"].split() + user_flags
    best = number("BEST", environ.get("BEST", "0"), int, 0)
    if (best or "--recipes" in environ.get("REPORT", "")) and parse_args(flags).val_size == 0:
        refuse("--val-size 0 leaves nothing to choose a recipe on: leave it out")
    try:
        recipes = recipes_of(environ["TUNED"], {arch_of(run) for run in runs}) if environ.get("TUNED") else {}
    except ValueError as error:
        refuse(error)
    return Settings(
        runs, seeds, environ["EPOCHS"], dataset, Path(environ["OUT"]), numbers["NPROC"], numbers["JOBS"],
        minutes, best, flags, recipes, user_flags,
    )  # fmt: skip


def data_dir_in(flags):
    """The value of --data-dir among flags of train.py; None without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data-dir")
    parser.error = refuse
    data_dir = parser.parse_known_args(flags)[0].data_dir
    return data_dir and os.path.expanduser(data_dir)  # shells leave --data-dir=~/photos as it is


def number(name, text, kind=int, least=1):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value < float("inf"):
        refuse(f"{name} must be a {'whole ' if kind is int else ''}number, {least} or more, got {text!r}")
    return value


def parts_of(run):
    """'torchvision:resnet18:--freeze=backbone:a.b=1' -> (arch, {knob: value}, flags)."""
    arch, *parts = run.split(":")
    flags = [part for part in parts if part.startswith("--")]
    knobs = dict(part.split("=", 1) for part in parts if "=" in part and part not in flags)
    foreign = [part for part in parts if "=" not in part and part not in flags]  # torchvision:NAME
    return ":".join([arch, *foreign]), knobs, flags


def arch_of(run):
    return parts_of(run)[0]


def name_of(run):
    """The name of a run's folder, but for the seed: eca_resnet-eca.kernel_size=5, vit-pretrained."""
    return run.replace(":--", "-").replace(":", "-").replace("/", "-")


def train_flags(settings, run, seeds):
    """The flags of train.py for a run and some of its seeds; of two of one name the later counts."""
    arch, knobs, flags = parts_of(run)
    tuned = settings.recipes.get(arch)
    if tuned:
        knobs, flags = tuned.knobs | knobs, tuned.flags + flags
    knobs = [flag for knob, value in knobs.items() for flag in ("--set", f"{knob}={value}")]
    seed = seeds[0] if len(seeds) == 1 else "{seed}"
    return [
        "--arch", arch, "--epochs", settings.epochs, "--dataset", settings.dataset, "--seed", *seeds, *knobs,
        "--out", str(settings.out), "--name", f"{name_of(run)}-seed{seed}", *flags, *settings.flags,
    ]  # fmt: skip


def train_command(settings, run, seeds):
    """The call of train.py for a run and some of its seeds."""
    nproc = settings.nproc
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(nproc)] if nproc > 1 else []
    return [sys.executable, *launch, str(HERE / "train.py"), *train_flags(settings, run, seeds)]
