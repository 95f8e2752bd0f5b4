"""Finished runs: rows of result.json, read and checked, averaged over folds, and grouped into networks with their costs.

A row that cannot be used ends the program with one line that names the file and what is wrong (exit code 2).
"""

import json
import math
import re
import shlex
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

import flags as train_flags
import tuning
from flags import NEWER, PADDED_UP_TO, RESPELT, parse_args
from names import default_width
from tuning import START, as_text  # read_results() adds START to the settings

IDENTITY = ("arch", "settings", "seed")
POSITIVE = ("classes", "n_train", "n_test", "world_size", "params", "macs", "train_imgs_per_s", "eval_imgs_per_s", "train_s",
            "peak_memory_mb")  # fmt: skip
PERCENT = ("top1", "top5", "ece")
# a run watches the validation split or the test set; the other's field is null
MAY_BE_NULL = ("val_top1", "best_on_test_minus_last")
MEASURED = (*POSITIVE, *PERCENT, *MAY_BE_NULL, "n_val", "loss", "device", "torch", "commit", "started", "per_class_top1",
            "curve", "status")  # fmt: skip
SAME_DATA = ("n_test", "classes")
# what all runs of a report share; in the rest of the recipe, architectures may differ
SHARED = ("dataset", "data", "folds", "image_size", "val_size", "epochs", "max_steps", "n_train", "n_train + n_val",
          *SAME_DATA, "epochs in the curve")  # fmt: skip
# how a run was computed, and what only newer rows record
NOT_SETTINGS = ("graph", "side_by_side", "content", "class_names", "balanced_accuracy", "macro_f1")
CURVE_FIELDS = ("top1", "train_loss")
MEAN_OVER_FOLDS = ("train_imgs_per_s", "eval_imgs_per_s", "train_s", *PERCENT, "val_top1", "loss")
REQUIRED_SETTINGS = ("dataset", "epochs", "batch_size")
# of one image, in newer cost passes: the table's header, and the fields of the median and the 95th percentile
LATENCIES = {
    "trained": ("latency, ms: median / p95", "latency_ms", "latency_p95_ms"),
    "exported": ("exported, ms: median / p95", "exported_latency_ms", "exported_latency_p95_ms"),
}
CLEARLY = 3  # standard errors
COSTS = ("parameters", "MACs", "training time")  # of a network

refuse = partial(train_flags.refuse, program="report.py")

# CIFAR-100's superclasses and the superclass of each of its classes in alphabetical order, the order of its labels.
# Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; tests compare it with the data's
# columns fine_label and coarse_label.
SUPERCLASSES = (
    "aquatic mammals", "fish", "flowers", "food containers", "fruit and vegetables", "household electrical devices",
    "household furniture", "insects", "large carnivores", "large man-made outdoor things", "large natural outdoor scenes",
    "large omnivores and herbivores", "medium mammals", "non-insect invertebrates", "people", "reptiles", "small mammals",
    "trees", "vehicles 1", "vehicles 2",
)  # fmt: skip
SUPERCLASS_OF = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip


def read_json(path, refuse=refuse):
    """The JSON object in a file; refuses a file that is not JSON, is not an object, or holds NaN or infinity."""

    def reject(constant):
        raise ValueError(f"{constant} is not a measurement")

    try:
        content = json.loads(path.read_text(), parse_constant=reject)
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError) as error:
        refuse(f"{path} cannot be used: {error}")
    return content


def is_number(value, low=-math.inf, high=math.inf):
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high  # and no bool


def problem_of(row):
    """What makes a row of result.json unusable, as a phrase; None if nothing does."""
    missing = [name for name in (*IDENTITY, *MEASURED, *REQUIRED_SETTINGS) if name not in row]
    if missing:
        return f"it has no {', '.join(missing)}"
    if row["status"] != "finished":
        return f"its status is {row['status']!r}, not 'finished'"
    for name, kind in (("arch", str), ("settings", dict), ("seed", int), ("device", str), ("dataset", str)):
        if not isinstance(row[name], kind):
            return f"{name} must be of type {kind.__name__}, got {row[name]!r}"
    for name in (*POSITIVE, "epochs", "batch_size"):
        if not (is_number(row[name], 0) and row[name] > 0):
            return f"{name} must be a number above 0, got {row[name]!r}"
    for name in ("n_val", "loss"):
        if not is_number(row[name], 0):
            return f"{name} must be a number, 0 or more, got {row[name]!r}"
    per_class, curve = row["per_class_top1"], row["curve"]
    if not (isinstance(per_class, list) and len(per_class) == row["classes"]):
        return "per_class_top1 must be a list with one number per class"
    if not (isinstance(curve, list) and curve and all(isinstance(epoch, dict) for epoch in curve)):
        return "curve must be a list with one object per epoch"
    percents = [(name, row[name]) for name in PERCENT]
    percents += [(name, row[name]) for name in MAY_BE_NULL if row[name] is not None]
    percents += [(f"per_class_top1[{i}]", value) for i, value in enumerate(per_class) if value is not None]
    percents += [(f"curve[{i}].top1", epoch.get("top1")) for i, epoch in enumerate(curve)]
    for name, value in percents:
        if not is_number(value, 0, 100):
            return f"{name} must be within 0 and 100, got {value!r}"
    if not all(is_number(epoch.get("train_loss"), 0) for epoch in curve):
        return "curve must hold a train_loss of 0 or more for each epoch"
    if row["top5"] < row["top1"]:
        return f"top5 {row['top5']} is below top1 {row['top1']}"
    folds, fold = row.get("folds"), row.get("fold")
    if folds is not None and not (isinstance(folds, int) and fold in range(folds) and row["val_top1"] is not None):
        return f"a run of fold {fold!r} of {folds!r} needs a fold below the number of folds, and a val_top1"
    correct = row["top1"] / 100 * row["n_test"]
    if abs(correct - round(correct)) > 1e-3:
        return f"top1 {row['top1']} is not a whole number of the {row['n_test']} test images"
    return None


def natural(text):
    """A key by which 'a=64' comes before 'a=128', and 'a=1e-6' before 'a=0.25'."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]


def epochs_of(row):
    """The budget of a run in words: '45 epochs', or '200 steps' if --max-steps ended it earlier."""
    if steps_of(row) < steps_of(row | {"max_steps": 0}):
        return f"{steps_of(row)} step{'s' * (steps_of(row) > 1)}"
    return f"{row['epochs']} epoch{'s' * (row['epochs'] > 1)}"


def steps_of(row):
    whole = row["epochs"] * (row["n_train"] // row["batch_size"])
    return min(whole, row.get("max_steps") or whole)


def at_chance(row):
    """Whether a run ended no better than guessing among equally frequent classes: at most CLEARLY standard errors above it."""
    return row["top1"] <= most_by_chance(row)


def most_by_chance(row):
    """The highest top-1, in percent, that passes for guessing."""
    return 100 / row["classes"] + CLEARLY * chance_error(row)


def chance_error(row):
    """The standard error, in percent, of the top-1 of guesses on the row's test images."""
    chance = 1 / row["classes"]
    return 100 * math.sqrt(chance * (1 - chance) / row["n_test"])


def recipe_of(row):
    """How a run was trained: the data, and every setting except arch, knobs, start, seed and fold."""
    left_out = (*IDENTITY, *START, *MEASURED, *NOT_SETTINGS, "fold", "val_top1_of_folds")
    recipe = {name: value for name, value in row.items() if name not in left_out and (name, value) not in NEWER.items()}
    n_images = {"n_train + n_val": row["n_train"] + row["n_val"]} if row.get("folds") else {"n_train": row["n_train"]}
    return recipe | {name: row[name] for name in SAME_DATA} | n_images | {"epochs in the curve": len(row["curve"])}


def read_results(folder):
    """{path: row} of every result.json below `folder`, sorted by path; refuses rows that cannot be used."""
    rows = {}
    for path in sorted(Path(folder).rglob("result.json")):
        rows[path] = read_json(path)
        if rows[path].get("data") in RESPELT:
            rows[path]["data"] = RESPELT[rows[path]["data"]]
        rows[path].pop("confusion", None)  # which no report reads, and which grows with the square of the classes
    if not rows:
        refuse(f"no result.json below {folder}: train something with --out {folder}, or name another folder")
    for path, row in rows.items():
        if problem := problem_of(row):
            refuse(f"{path} cannot be used: {problem}")
        row["settings"] = settings_of(row)
    return rows


def without_result(folder):
    """['hornet_resnet-seed1: loss or gradient is not finite at step 280', 'eca_resnet-seed2: not finished']"""
    found = {}
    for name in ("last.pt", "status", "diverged"):
        for path in sorted(Path(folder).rglob(name)):
            if path.is_file() and not (path.parent / "result.json").exists():
                found[path.parent.name] = path.read_text().strip() if name == "diverged" else "not finished"
    return [f"{run}: {why}" for run, why in sorted(found.items())]


def settings_of(row):
    """What tells networks of one arch apart: their knobs, and where their weights come from."""
    return row["settings"] | {name: row[name] for name in START if row.get(name)}


def read_rows(folder):
    """The rows below `folder`, averaged over folds; refuses a mixture of data or budgets, and two recipes of one architecture."""
    rows = read_results(folder)
    refuse_difference("a mixture of budgets or data", rows.items(), SHARED)
    by_arch = {}
    for path, row in rows.items():
        by_arch.setdefault(row["arch"], []).append((path, row))
    for arch, runs in by_arch.items():
        refuse_difference(f"two recipes for {arch}", runs)
    rows = list(rows.values())
    return average_folds(rows) if rows[0].get("folds") else rows


def refuse_difference(what, runs, names=None):
    """Refuses runs (path, row) whose recipe differs from the first one's in any of `names` (None: in anything)."""
    (first_path, first_row), *others = runs
    first = recipe_of(first_row)
    for path, row in others:
        recipe = recipe_of(row)
        for name in sorted(recipe.keys() | first.keys()) if names is None else names:
            if recipe.get(name) != first.get(name):
                refuse(f"{what}: {name} is {first.get(name)!r} in {first_path} and {recipe.get(name)!r} in {path}; "
                       f"report them separately{', or compare them with --recipes' * (names is None)}")  # fmt: skip


def differing(recipes):
    """The settings in which recipes differ, in the order of the recipes."""
    names = dict.fromkeys(name for recipe in recipes for name in recipe)
    return [name for name in names if any(recipe.get(name) != recipes[0].get(name) for recipe in recipes)]


def average_folds(rows):
    """Rows of cross-validation -> one row per network and seed with the means over its folds; refuses missing folds."""
    runs = {}  # (network, seed) -> {fold: row}
    for row in rows:
        arch, settings = key_of(row["arch"], row["settings"])
        name, seed, fold = Net(arch, json.loads(settings)).name, row["seed"], row["fold"]
        folds = runs.setdefault((name, seed), {})
        if fold in folds:
            refuse(f"{name}, seed {seed} has fold {fold} twice: remove one of the two runs")
        folds[fold] = row
        refuse_other_network(name, row, next(iter(folds.values())))
    n_folds = rows[0]["folds"]
    for (name, seed), folds in runs.items():
        if lacks := sorted(set(range(n_folds)) - folds.keys()):
            refuse(f"{name}, seed {seed} lacks fold {in_list(lacks)} of {n_folds}: train what is missing, or leave out this "
                   "seed")  # fmt: skip
    return [mean_row([folds[fold] for fold in range(n_folds)]) for folds in runs.values()]


def mean_row(rows):
    """The rows of all folds as one: means of what was measured, the peak memory, and val_top1 of each fold."""
    mean = {name: float(np.mean([row[name] for row in rows])) for name in MEAN_OVER_FOLDS}
    named = {}
    for name in ("device", "torch", "commit"):  # a resumed run may have several
        named[name] = in_list(sorted({value for row in rows for value in str(row[name]).split(" and ")}))
    curve = [
        {"epoch": epoch} | {name: float(np.mean([row["curve"][epoch][name] for row in rows])) for name in CURVE_FIELDS}
        for epoch in range(len(rows[0]["curve"]))
    ]
    per_class = list(zip(*(row["per_class_top1"] for row in rows), strict=True))
    return rows[0] | mean | named | {
        "per_class_top1": [None if None in each else float(np.mean(each)) for each in per_class], "curve": curve,
        "peak_memory_mb": max(row["peak_memory_mb"] for row in rows),
        "val_top1_of_folds": [row["val_top1"] for row in rows],
    }  # fmt: skip


def key_of(arch, settings):
    """The identity of a network: (arch, settings as JSON). Setting the default width does not make another network."""
    rest = {knob: value for knob, value in settings.items() if (knob, value) != ("resnet.width", default_width(arch))}
    return arch, json.dumps(rest, sort_keys=True)


def refuse_other_network(name, row, first):
    """Refuses two runs of one network that differ in size."""
    for size in ("params", "macs"):
        if row[size] != first[size]:
            refuse(f"{name} has {size} {first[size]} in one run and {row[size]} in another: are both this network?")


def in_list(items):
    """['a', 'b', 'c'] -> 'a, b and c'; [] -> 'none'."""
    *most, last = map(str, items) if items else ["none"]
    return f"{', '.join(most)} and {last}" if most else last


# ------------------------------------------------------------------------------------------------------------- networks


@dataclass(eq=False)
class Net:
    """One architecture with one set of knobs, its runs and, if the cost pass timed it, its row of cost.json."""

    arch: str
    settings: dict
    runs: dict = field(default_factory=dict)  # seed -> row
    cost_row: dict | None = None
    only_form: bool = False  # a method trained in no other form, with its defaults or with knobs of its own

    @property
    def backbone(self):
        return self.arch.split("_")[-1] if self.is_method else self.arch

    @property
    def is_method(self):
        return "_" in self.arch and ":" not in self.arch  # torchvision:vgg11_bn is a whole network

    @property
    def on_curve(self):
        return not self.is_method and set(self.settings) <= {"resnet.width"}

    @property
    def is_ablation(self):
        return bool(self.settings) and not (self.on_curve or self.only_form)

    @property
    def width(self):
        return self.settings.get("resnet.width", default_width(self.arch))

    @property
    def knobs(self):
        """The knobs as they are typed: 'eca.kernel_size=5'."""
        return " ".join(f"{knob}={as_text(value)}" for knob, value in sorted(self.settings.items()))

    @property
    def name(self):
        return f"{self.arch} {self.knobs}".strip()

    @property
    def recipe(self):
        """How it was trained: {setting: value}."""
        return recipe_of(self.runs[self.seeds[0]])

    @property
    def seeds(self):
        return sorted(self.runs)

    def values(self, name, seeds=None):
        """A measured field: one entry per seed."""
        return np.array([self.runs[seed][name] for seed in seeds or self.seeds], dtype=float)

    def imgs_per_s(self, name):
        """train_imgs_per_s or eval_imgs_per_s: from the cost pass if it timed this network, else the median over the runs."""
        return self.cost_row[name] if self.cost_row else float(np.median(self.values(name)))

    @property
    def costs(self):
        """Parameters, MACs per image and seconds of training per image, by the names in COSTS."""
        row = self.runs[self.seeds[0]]
        return dict(zip(COSTS, (row["params"], row["macs"], 1 / self.imgs_per_s("train_imgs_per_s")), strict=True))

    def can_compare(self, cost):
        """Training times can be compared only if the cost pass measured them, side by side; other costs always can."""
        return cost != "training time" or self.cost_row is not None


def latencies_in(cost_pass):
    """The entries of LATENCIES that a cost pass (None: there is none) has measured."""
    places = (cost_pass or {}).get("latency", {})
    return [entry for kind, entry in LATENCIES.items() if places.get(kind)]


def problem_of_latencies(row):
    """What makes the latencies in a row of a cost pass unusable, as a phrase; None if nothing does or there are none."""
    for _, *names in LATENCIES.values():
        for name in names:
            if row.keys() & names and not is_number(row.get(name), 1e-9):
                return f"{name} must be a number above 0, got {row.get(name)!r}"
    return None


def machine(row):
    """What a run was computed on, in words. Runs side by side on one GPU share its speed, so their number is named."""
    together = f", {row['side_by_side']} runs side by side" if row.get("side_by_side", 1) != 1 else ""
    return f"{row['world_size']} x {row['device']}{together}"


def group(rows, cost_pass=None):
    """Rows -> {key: Net}; refuses a network that has a seed twice, or whose seeds differ in size."""
    size = rows[0].get("image_size")  # None: the dataset's own
    timed_rows = [row for row in (cost_pass or {"rows": []})["rows"] if size in (None, row.get("image_size", size))]
    speeds = {key_of(row["arch"], row["settings"]): row for row in timed_rows}
    nets = {}
    for row in rows:
        key = key_of(row["arch"], row["settings"])
        knobs = {name: value for name, value in row["settings"].items() if name not in ("pretrained", "init_from")}
        # speed does not depend on the weights at the start; a frozen network is not timed
        timed = key_of(row["arch"], knobs)
        net = nets.setdefault(key, Net(key[0], json.loads(key[1]), {}, speeds.get(timed)))
        if row["seed"] in net.runs:
            refuse(f"{net.name} has seed {row['seed']} twice: remove one of the two runs")
        net.runs[row["seed"]] = row
        refuse_other_network(net.name, row, next(iter(net.runs.values())))
    return nets


def read_cost_pass(folder):
    """cost.json at the top of the folder, or None. Its speeds replace those that the runs measured during training."""
    path = Path(folder) / "cost.json"
    if not path.exists():
        return None
    content = read_json(path)
    for row in content.get("rows", [{}]):
        for name in ("train_imgs_per_s", "eval_imgs_per_s"):
            if not ("arch" in row and "settings" in row and is_number(row.get(name), 1e-9)):
                refuse(f"{path} cannot be used: a row needs arch, settings and {name} above 0, got {row}")
        if problem := problem_of_latencies(row):
            refuse(f"{path} cannot be used: {problem}")
    return content


def flags_of(net):
    """The flags of train.py that trained a net, without --seed and --data-dir; with folds, those of fold 0."""
    defaults, recipe = vars(parse_args([])), net.recipe | {name: net.settings.get(name) for name in START}
    recipe["amp"] = {"bfloat16": "bf16", "float16": "fp16"}.get(recipe.get("amp"), recipe.get("amp"))
    recipe["fold"] = 0 if recipe.get("folds") else None
    changed = [name for name, value in recipe.items() if name in defaults and value not in (None, defaults[name])]
    may_be_large = (
        recipe["dataset"] == "folder" if recipe.get("image_size") is None else recipe["image_size"] > PADDED_UP_TO
    )
    # padded crops, which are not the default for large images
    if may_be_large and "crop_scale" in recipe and recipe["crop_scale"] is None:
        changed.append("crop_scale")
    always = [name for name in ("epochs", "val_size", "lr", "weight_decay") if recipe.get(name) is not None]
    knobs = {name: value for name, value in sorted(net.settings.items()) if name not in START}
    flags = [f"--set {name}={shlex.quote(as_text(value))}" for name, value in knobs.items()]
    flags += [shlex.join(tuning.flags_of(name, recipe)) for name in dict.fromkeys([*always, *changed])]
    return " ".join(["", *flags])
