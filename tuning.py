"""The recipe that a search found for each architecture, read from the rows of that search."""

import json
from dataclasses import dataclass
from pathlib import Path

from flags import RESPELT, parse_args

RECIPE = ("optimizer", "lr", "weight_decay")  # what PRESET=tuning varies, besides knobs
# what else a search may vary
OTHERS = ("batch_size", "momentum", "schedule", "warmup_frac", "label_smoothing", "clip_norm", "ema_decay", "mixup", "cutmix",
          "cutout", "crop_padding", "crop_scale", "flip", "class_weights", "balanced_sampling")  # fmt: skip
ALIKE = ("dataset", "data", "image_size", "val_size", "epochs", "max_steps")  # in all rows of a search
# initial and trained weights: alike in all rows of an architecture, because the runs themselves set them
START = ("pretrained", "init_from", "freeze")


@dataclass(frozen=True)
class Recipe:
    flags: list  # of train.py
    knobs: dict  # {name: value as --set takes it}
    found: str = ""  # among how many recipes, and with how many seeds

    def __str__(self):
        knobs = [f"--set {knob}={value}" for knob, value in self.knobs.items()]
        return f"{' '.join([*self.flags, *knobs])}, {self.found}"


def recipes_of(folder, archs):
    """{arch: its Recipe}: the best mean top-1 on the validation split, of those trained with the most seeds.

    Raises ValueError if the folder has no rows of one of the architectures, rows without a validation split, or rows that
    cannot be compared: of different data, budgets or starting weights.
    """
    rows = []
    for path in sorted(Path(folder).glob("*/result.json")):
        try:
            row = json.loads(path.read_text())
            rows.append(row | {"data": RESPELT.get(row.get("data"), row.get("data"))})
        except ValueError:
            raise ValueError(f"TUNED: {path} is damaged: delete it, and start the search again") from None
    if not rows:
        raise ValueError(f"TUNED: no runs in {folder}: start PRESET=tuning OUT={folder} bash compare.sh first")
    if any(row.get("val_top1") is None for row in rows):
        raise ValueError(f"TUNED: runs in {folder} held nothing out: tune without --val-size 0")
    refuse_different(rows, ALIKE, folder)
    varied = [name for name in OTHERS if len({row.get(name) or None for row in rows}) > 1]  # older rows lack some
    tuned = {row["arch"] for row in rows}
    if missing := " ".join(sorted(archs - tuned)):
        raise ValueError(
            f"TUNED: no rows of {missing} in {folder}, only of {' '.join(sorted(tuned))}: tune first, with "
            f'PRESET=tuning OUT={folder} EPOCHS={rows[0].get("epochs")} ARCHS="{missing}" bash compare.sh and its flags'
        )
    found = {}
    for arch in sorted(archs):
        of_arch = [row for row in rows if row["arch"] == arch]
        refuse_different(of_arch, START, folder)
        found[arch] = best_recipe(of_arch, [*RECIPE, *varied])
    return found


def best_recipe(rows, names):
    """The best Recipe in one architecture's rows, as recipes_of() says. names: the settings that, with knobs, tell recipes apart."""
    candidates = {}  # recipe and knobs -> seed -> row
    for row in rows:
        how = json.dumps([[row.get(name) or None for name in names], row["settings"]], sort_keys=True)
        candidates.setdefault(how, {})[row["seed"]] = row
    runs = [list(by_seed.values()) for by_seed in candidates.values()]
    row, *_ = max(runs, key=lambda rows: (len(rows), sum(row["val_top1"] for row in rows) / len(rows)))
    flags = [part for name in names if name in row for part in flags_of(name, row)]
    most = max(map(len, runs))
    found = f"the best of {len(runs)} recipe{'s' * (len(runs) != 1)}, with {most} seed{'s' * (most != 1)}"
    return Recipe(flags, {knob: as_text(value) for knob, value in row["settings"].items()}, found)


def refuse_different(rows, names, folder):
    for name in names:
        if len(values := {json.dumps(row.get(name) or None) for row in rows}) > 1:
            raise ValueError(
                f"TUNED: rows in {folder} differ in {name} ({', '.join(sorted(values))}): tune each separately"
            )


def flags_of(name, row):
    """A setting of a row as flags of train.py; none if it was off and is off without a flag, or is not read."""
    flag, value = name.replace("_", "-"), row[name]
    if name == "crop_scale":
        value = value or 0  # without the flag, large images have another default
    if value is None or (name == "crop_padding" and row.get("crop_scale")):
        return []
    if isinstance(value, bool):
        is_off = not value and not vars(parse_args([]))[name]
        return [] if is_off else [f"--{'' if value else 'no-'}{flag}"]
    return [f"--{flag}", as_text(value)]


def as_text(value):
    """A value as it is typed: [1, 2] -> 1,2."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(as_text, value))
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
