"""Networks with their runs and costs, grouped from rows."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rows import default_width, is_number, key_of, read_json, recipe_of, refuse, refuse_other_network

COSTS = ("parameters", "MACs", "training time")


@dataclass(eq=False)
class Net:
    """One architecture with one set of knobs, its runs and, if the cost pass has it, its row of cost.json."""

    arch: str
    settings: dict
    runs: dict = field(default_factory=dict)  # seed -> row
    cost_pass: dict | None = None
    only_form: bool = False  # has knobs set, but its architecture was trained in no other form

    @property
    def backbone(self):
        return self.arch.split("_")[-1] if self.is_method else self.arch

    @property
    def is_method(self):
        return "_" in self.arch and ":" not in self.arch  # torchvision:vgg11_bn is a network as it is

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
        typed = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in self.settings.items()}
        return " ".join(f"{knob}={value}" for knob, value in sorted(typed.items()))

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
        """A measured field, an entry per seed."""
        return np.array([self.runs[seed][name] for seed in seeds or self.seeds], dtype=float)

    def imgs_per_s(self, name):
        """train_imgs_per_s or eval_imgs_per_s: of the cost pass if it has this net, else the median over the runs."""
        return self.cost_pass[name] if self.cost_pass else float(np.median(self.values(name)))

    @property
    def costs(self):
        """Parameters, MACs per image and seconds of training per image, by the names in COSTS."""
        row = self.runs[self.seeds[0]]
        return dict(zip(COSTS, (row["params"], row["macs"], 1 / self.imgs_per_s("train_imgs_per_s")), strict=True))

    def can_compare(self, cost):
        """Training times can be compared if they are of the cost pass, which takes them side by side; other costs always."""
        return cost != "training time" or self.cost_pass is not None


def machine(row):
    """What a run was computed on, in words; runs side by side on one GPU share its speed."""
    together = f", {row['side_by_side']} runs side by side" if row.get("side_by_side", 1) != 1 else ""
    return f"{row['world_size']} x {row['device']}{together}"


def group(rows, cost_pass=None):
    """Rows -> {key: Net}; refuses a seed that a net has twice, and seeds of one net that differ in size."""
    speeds = {key_of(row["arch"], row["settings"]): row for row in (cost_pass or {"rows": []})["rows"]}
    nets = {}
    for row in rows:
        key = key_of(row["arch"], row["settings"])
        knobs = {name: value for name, value in row["settings"].items() if name not in ("pretrained", "init_from")}
        timed = key_of(row["arch"], knobs)  # the cost pass knows no weights, and no frozen network
        net = nets.setdefault(key, Net(key[0], json.loads(key[1]), {}, speeds.get(timed)))
        if row["seed"] in net.runs:
            refuse(f"{net.name} has seed {row['seed']} twice: remove one of the two runs")
        net.runs[row["seed"]] = row
        refuse_other_network(net.name, row, next(iter(net.runs.values())))
    return nets


def read_cost_pass(folder):
    """cost.json at the top of the folder, or None. Its rows replace the speeds that trainings measured of themselves."""
    path = Path(folder) / "cost.json"
    if not path.exists():
        return None
    content = read_json(path)
    for row in content.get("rows", [{}]):
        for name in ("train_imgs_per_s", "eval_imgs_per_s"):
            if not ("arch" in row and "settings" in row and is_number(row.get(name), 1e-9)):
                refuse(f"{path} cannot be used: a row needs arch, settings and {name} above 0, got {row}")
    return content
