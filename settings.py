"""What compare.sh and ablations.sh are asked to do, by environment and flags; and the train.py command of each run.

Whatever makes no sense is refused in one line that names the setting, with exit code 2.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import flags
from flags import NOT_IN_CONFIG, mistakes_refused, parse_args
from names import arch_of, default_width, in_order, name_of, network_of, parts_of
from tuning import START, Recipe, recipes_of

HERE = Path(__file__).parent
RESERVED = {  # flags of train.py that compare.sh gives itself: the setting to use instead
    "--seed": 'SEEDS, such as SEEDS="0 1"',
    "--out": "OUT",
    "--name": "OUT, the folder of all runs",
    "--arch": 'RUNS of compare.sh, such as RUNS="resnet eca_resnet"',
    "--epochs": "EPOCHS",
    "--dataset": "DATASET",
    "--max-minutes": "MINUTES",
    "--set": 'RUNS of compare.sh, such as RUNS="eca_resnet:eca.kernel_size=5"',
}
BUDGET = ("dataset", "epochs", "max_steps", "val_size", "folds")  # which a report's runs share
MOST_BYTES = 200  # of a run's name; file systems take 255, and locks add to it
ONE_RUN_ONLY = ("--check", "--list", "--summary", "--eval-only", "--predict", "--push-to-hub")


def refuse(message, code=2):
    """Ends the program with one line: exit code 2 for a user's mistake, 1 for a failure."""
    flags.refuse(message, code, program=os.environ.get("SCRIPT", "compare.sh"))


@dataclass
class Settings:
    """What the environment asks for; see the head of compare.sh. recipe, user_flags: train.py flags of preset and user."""

    runs: list
    seeds: list
    epochs: str
    dataset: str
    out: Path
    nproc: int
    jobs: int
    minutes: float
    best: int
    recipe: list
    recipes: dict  # {arch: Recipe}, from TUNED
    user_flags: list


def read_settings(environ, user_flags):
    """Refuses what makes no sense, in one line that names the setting."""
    runs, seeds, recipe = (environ[name].split() for name in ("RUNS", "SEEDS", "RECIPE"))
    runs = [in_order(run) for run in runs]
    own = [flag for run in runs for flag in parts_of(run)[2]]
    for flag in [*recipe, *own, *user_flags]:
        name = flag.split("=")[0]
        if name in RESERVED:
            refuse(f"{name} cannot be given here: set {RESERVED[name]}")
        if name in ONE_RUN_ONLY:
            refuse(f"{name} is for one run: give it to train.py")
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
    _, nproc, jobs = (number(name, environ[name]) for name in ("EPOCHS", "NPROC", "JOBS"))
    minutes = number("MINUTES", environ["MINUTES"], float, 0)
    asked = [*recipe, *parts_of(runs[0])[2], *user_flags]
    dataset = parse_args(asked).dataset if environ["DATASET"] == "auto" else environ["DATASET"]
    best = number("BEST", environ.get("BEST", "0"), int, 0)
    compares_recipes = "--recipes" in environ.get("REPORT", "")
    if best or compares_recipes:
        if parse_args(asked).val_size == 0:
            refuse("--val-size 0 leaves nothing to choose a recipe on: leave it out")
        if parse_args(asked).folds:
            refuse("recipes are compared on one held-out part, not on folds: leave out --folds and --fold")
    try:
        folder = os.path.expanduser(environ.get("TUNED", ""))  # shells leave ~ in quotes as it is
        recipes = recipes_of(folder, {arch_of(run) for run in runs}) if folder else {}
    except ValueError as error:
        refuse(error)
    runs = without_repeats(runs, recipes, [*recipe, "--dataset", dataset], user_flags)
    settings = Settings(
        runs, seeds, environ["EPOCHS"], dataset, Path(environ["OUT"]).expanduser(), nproc, jobs, minutes,
        best, recipe, recipes, user_flags,
    )  # fmt: skip
    longest = max((f"{name_of(run)}-seed{seeds[0]}" for run in settings.runs), key=lambda name: len(os.fsencode(name)))
    if len(os.fsencode(longest)) > MOST_BYTES:
        refuse(f"{longest} is too long for a folder's name: shorten what RUNS gives (knobs, paths), or SEEDS")
    refuse_mistaken_flags(settings, compares_recipes)
    return settings


def refuse_mistaken_flags(settings, compares_recipes):
    """Ends the program for flags that train.py refuses, and for what a report refuses: two budgets, or two recipes of one
    architecture."""
    recipes = {}
    for run in settings.runs:
        asked = vars(parse_args(train_flags(settings, run, ["0"])))
        recipe = {
            name: value for name, value in asked.items() if name not in (*NOT_IN_CONFIG, *START, "settings", "fold")
        }
        recipes.setdefault(recipe["arch"], (run, recipe))
        first, of_first = next(iter(recipes.values()))
        if differ := [name for name in (*BUDGET, "image_size") if recipe[name] != of_first[name]]:
            refuse(f"{first} and {run} differ in {', '.join(differ)}, but a report is of one budget and one size of images: give "
                   "all runs the same")  # fmt: skip
        first, of_first = recipes[recipe["arch"]]
        differ = [name for name, value in recipe.items() if value != of_first[name]]
        if differ and not compares_recipes:
            refuse(f"{first} and {run} differ in {', '.join(differ)}, but a report takes one recipe for each architecture: give "
                   "both the same flags, or PRESET=recipe to compare them")  # fmt: skip


def refuse_unknown_networks(runs):
    """Ends the program for architectures and knobs that do not exist. Without torch it does nothing."""
    try:
        from models import canonical, parse_settings
    except ImportError:
        return
    with mistakes_refused():
        for arch, knobs, _ in map(parts_of, runs):
            parse_settings(canonical(arch), knobs)


def without_default(settings):
    """Architectures that are trained with knobs only, so that a report has nothing to compare them with.

    A method in one form, with knobs of its own, is compared as it is: see mark_only_forms() in verdicts.py.
    """
    forms, found = {}, []
    for arch, knobs, _ in map(parts_of, settings.runs):
        forms.setdefault(arch, []).append(knobs.items() - {("resnet.width", str(default_width(arch)))})
    for arch, of_arch in forms.items():
        is_own = {knob.split(".")[0] for knob, _ in of_arch[0]} <= set(arch.split("_")[:-1])
        if all(of_arch) and not (len(of_arch) == 1 and is_own) and not any(settings.out.glob(f"{name_of(arch)}-seed*")):
            found.append(arch)
    return found


def without_repeats(runs, recipes, before, after):
    """The runs without repeats: runs that differ only in spelling or by a default, or that TUNED makes equal.

    before, after: the flags of all runs, which a run's own override and which override these.
    """
    distinct = {}
    for run in runs:
        arch, knobs, flags = tuned_parts_of(run, recipes)
        default = "resnet.width", str(default_width(arch))  # a report takes both for one network
        network = network_of(arch, {knob: value for knob, value in knobs.items() if (knob, value) != default})
        distinct.setdefault((network, str(vars(parse_args([*before, *flags, *after])))), run)
    return list(distinct.values())


def number(name, text, kind=int, least=1):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value < float("inf"):
        refuse(f"{name} must be a {'whole ' if kind is int else ''}number, {least} or more, got {text!r}")
    return value


def tuned_parts_of(run, recipes):
    """parts_of() a run, on top of what TUNED found for its architecture: the run's own values win."""
    arch, knobs, flags = parts_of(run)
    tuned = recipes.get(arch, Recipe([], {}))
    return arch, tuned.knobs | knobs, tuned.flags + flags


def train_flags(settings, run, seeds):
    """The flags of train.py for a run and some of its seeds. A later flag overrides an earlier one: first the preset's
    recipe, then what TUNED found, the run's own flags, and the user's."""
    arch, knobs, flags = tuned_parts_of(run, settings.recipes)
    knobs = [flag for knob, value in knobs.items() for flag in ("--set", f"{knob}={value}")]
    seed = seeds[0] if len(seeds) == 1 else "{seed}"
    return [
        "--arch", arch, "--epochs", settings.epochs, "--dataset", settings.dataset, "--seed", *seeds, *knobs,
        "--out", str(settings.out), "--name", f"{name_of(run)}-seed{seed}", *settings.recipe, *flags, *settings.user_flags,
    ]  # fmt: skip


def train_command(settings, run, seeds):
    """The train.py command for a run and some of its seeds."""
    nproc = settings.nproc
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(nproc)] if nproc > 1 else []
    return [sys.executable, *launch, str(HERE / "train.py"), *train_flags(settings, run, seeds)]
