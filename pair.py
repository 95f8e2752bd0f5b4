"""Scores the test set with two trained networks and writes pair.npz, which report.py draws.

    python pair.py runs/compare                                                    # the best method and its baseline
    python pair.py runs/compare/eca_resnet-seed0 runs/compare/resnet-seed0         # two runs
    python pair.py runs/compare --data-dir ~/cifar100                              # without access to the hub

It needs the weights that a run keeps in its model/ folder. pair.npz goes beside the runs, where report.py looks for it. It
holds both networks' probabilities for every test image, and the few images on which they differ most: some megabytes.
"""

import argparse
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import torch

import data
import flags
import hub
import machine
from rows import Net, read_json, settings_of

N_SHOWN = 10  # images on which the two differ most
BATCH = 256  # images

refuse = partial(flags.refuse, program="pair.py")


def best_and_baseline(folder):
    """The run folders of the method furthest above its baseline and of that baseline, with the same seed and kept weights.

    Both means are over the seeds that both have.
    """
    kept = {}
    for path in sorted(folder.rglob("result.json")):
        row = read_json(path, refuse)
        if (path.parent / "model").is_dir() and row.get("status") == "finished" and not settings_of(row):
            kept.setdefault(row["arch"], {})[row["seed"]] = (row["top1"], path.parent)
    gains = {}  # (method, baseline, first seed of both) -> mean difference in top-1
    for arch, runs in kept.items():
        net = Net(arch, {})
        seeds = sorted(runs.keys() & kept.get(net.backbone, {}).keys())
        if net.is_method and seeds:
            differences = [runs[seed][0] - kept[net.backbone][seed][0] for seed in seeds]
            gains[arch, net.backbone, seeds[0]] = np.mean(differences)
    if not gains:
        refuse(f"no method below {folder} kept its weights (model/) together with its baseline's: name two runs")
    method, baseline, seed = max(gains, key=gains.get)
    return kept[method][seed][1], kept[baseline][seed][1]


@torch.no_grad()
def probabilities(model, images):
    """uint8 images (N, 3, H, W) -> float32 (N, classes)."""
    model.eval()
    return torch.cat([model(batch).float().softmax(1) for batch in images.split(BATCH)]).numpy()


def score(runs, data_dir=None, cache_dir=None):
    """Two run folders -> the arrays of pair.npz. Raises ValueError for runs that cannot be compared."""
    rows = [read_json(run / "result.json", refuse) for run in runs]
    for name in ("dataset", "image_size", "n_test"):
        if rows[0].get(name) != rows[1].get(name):
            raise ValueError(f"{runs[0]} and {runs[1]} differ in {name}: {rows[0].get(name)} and {rows[1].get(name)}")
    models = [hub.load(str(run / "model")) for run in runs]
    room = data.room(torch.device("cpu"))
    images = data.load(rows[0]["dataset"], data_dir, rows[0].get("image_size"), cache_dir, room)
    test = images.test
    for run, model, row in zip(runs, models, rows, strict=True):
        if row["n_test"] != len(test):
            raise ValueError(f"{run} was scored on {row['n_test']} test images, but there are {len(test)} here")
        if other := set(model.classes) ^ set(images.classes):
            raise ValueError(f"the classes of {run} are not those of these data: only one of them has {min(other)}")
        if model.classes != images.classes:
            raise ValueError(f"{run} has these classes in another order")
    if test.is_streamed:
        raise ValueError(f"{rows[0]['dataset']} is too large to be held in memory, and pair.py reads no streams")
    pixels, targets = test.images[test.index], test.targets[test.index].numpy()
    both = np.stack([probabilities(model, pixels) for model in models])
    p_true = both[:, np.arange(len(targets)), targets]
    shown = np.argsort(-np.abs(p_true[0] - p_true[1]), kind="stable")[:N_SHOWN]
    return {
        "archs": np.array([row["arch"] for row in rows]), "seeds": np.array([row["seed"] for row in rows]),
        "settings": np.array([json.dumps(settings_of(row), sort_keys=True) for row in rows]),
        "dataset": np.array(rows[0]["dataset"]), "classes": np.array(images.classes), "targets": targets,
        "probabilities": both, "shown": shown, "images": pixels[shown].permute(0, 2, 3, 1).numpy(),
    }  # fmt: skip


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="a folder of runs, or the folders of two runs")
    parser.add_argument("--data-dir", help="the dataset's files, as for train.py")
    parser.add_argument("--cache-dir", type=os.path.expanduser, help="where decoded images are kept, as for train.py")
    parser.add_argument("--out", type=flags.path_of, help="the file to write (default: pair.npz beside the runs)")
    parser.error = refuse
    args = parser.parse_args(argv)
    if len(args.runs) > 2:
        refuse("give one folder of runs, or two runs")
    runs = args.runs if len(args.runs) == 2 else best_and_baseline(args.runs[0])
    for run in runs:
        if not ((run / "result.json").exists() and (run / "model").is_dir()):
            refuse(f"{run} is not a finished run that kept its weights: it needs result.json and model/")
    out = args.out or (args.runs[0] if len(args.runs) == 1 else args.runs[0].parent) / "pair.npz"
    if out.suffix != ".npz" or not out.parent.is_dir():
        refuse(f"--out takes a file that ends in .npz, in a folder that exists, got {out}")
    if not os.access(out.parent, os.W_OK):
        refuse(f"cannot write to {out.parent}: give another --out")
    machine.keep_to_cores()
    try:
        arrays = score(runs, args.data_dir, args.cache_dir)
        np.savez_compressed(out, **arrays)
    except (OSError, ValueError) as error:
        refuse(error)
    print(f"written: {out}; {runs[0].name} and {runs[1].name} on {len(arrays['targets'])} test images")


if __name__ == "__main__":
    main()
