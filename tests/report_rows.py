"""Made-up rows of result.json for the tests of the report."""

import json

import numpy as np
import pytest

SEEDS = (0, 1, 2, 3)
NOISE = np.array([0.3, -0.2, 0.1, -0.2])  # of each seed, shared by all networks
JITTER = np.array([0.1, -0.1, 0.05, -0.05])  # of one network's seeds


def row(arch="resnet", top1=60.0, seed=0, settings=None, params=100_000, macs=10_000_000, speed=1000.0, **other):
    """A row as train.py writes it: 10 epochs on a set of 10 classes."""
    return {
        "arch": arch, "settings": settings or {}, "seed": seed, "dataset": "shapes100", "epochs": 10, "batch_size": 128,
        "optimizer": "sgd", "lr": 0.2, "amp": "off", "compile": False, "val_size": 0.1,
        "classes": 10, "n_train": 18000, "n_val": 2000, "n_test": 10000, "world_size": 1, "device": "a CPU", "torch": "2.15",
        "commit": "abc", "started": "2026-01-01", "params": params, "macs": macs, "train_imgs_per_s": speed,
        "eval_imgs_per_s": 3 * speed, "train_s": 600.0, "peak_memory_mb": 500.0, "top1": round(top1, 2),
        "top5": round(top1, 2) + 20, "loss": 1.0, "ece": 5.0, "val_top1": 60.0, "best_on_test_minus_last": None,
        "per_class_top1": [60.0] * 10, "status": "finished",
        "curve": [{"epoch": 0, "top1": 40.0, "train_loss": 3.0}, {"epoch": 1, "top1": 60.0, "train_loss": 2.0}],
    } | other  # fmt: skip


def rows_of(arch, mean, settings=None, seeds=SEEDS, jitter=JITTER, **other):
    return [row(arch, mean + NOISE[seed] + jitter[seed], seed, settings, **other) for seed in seeds]


def write(folder, rows):
    for i, content in enumerate(rows):
        (folder / f"run{i}").mkdir(parents=True)
        (folder / f"run{i}" / "result.json").write_text(json.dumps(content))
    return folder


def widths(**other):
    """A widening curve that gains 4 points with every doubling of all three costs: 56, 60, 64, at 50, 100, 200 thousand."""
    curve = []
    for width, factor, mean, tilt in ((8, 0.5, 56, 1), (16, 1, 60, 0), (32, 2, 64, 0.5)):
        settings = {} if width == 16 else {"resnet.width": width}
        cost = {"params": int(100_000 * factor), "macs": int(10_000_000 * factor), "speed": 1000 / factor}
        curve += rows_of("resnet", mean, settings, jitter=tilt * JITTER, **cost, **other)
    return curve


def timed(rows):
    """A cost pass that found the speeds that are in the rows."""
    names = ("arch", "settings", "train_imgs_per_s", "eval_imgs_per_s")
    return {"rows": [{name: content[name] for name in names} for content in rows]}


def of_folds(rows, n_folds=3, **other):
    """Each row as n_folds runs: fold k is k points above the row on the fold, and 2 k on the test set."""
    return [
        row | {"folds": n_folds, "fold": k, "val_size": None, "val_top1": 50.0 + k, "top1": row["top1"] + 2 * k,
               "top5": row["top5"] + 2 * k, "n_train": 13333 + (k > 0), "n_val": 6667 - (k > 0)} | other
        for row in rows for k in range(n_folds)
    ]  # fmt: skip


@pytest.fixture
def campaign():
    return campaign_rows()


def campaign_rows():
    """All roles at once: a curve, four methods with one of each verdict, one method without all seeds, and ablations."""
    rows = widths()
    rows += rows_of("eca_resnet", 63, jitter=-JITTER, params=100_003)
    rows += rows_of("hornet_resnet", 61, jitter=-JITTER, params=180_000, macs=18_000_000, speed=600.0)
    rows += rows_of("ghostnet_resnet", 59.9, jitter=2 * JITTER[::-1])
    rows += rows_of("gmlp_resnet", 55, jitter=3 * JITTER)
    rows += rows_of("mixer_resnet", 62, seeds=(0, 1))
    rows += rows_of("eca_resnet", 61, {"eca.kernel_size": 9}, jitter=JITTER)
    rows += rows_of("eca_resnet", 63.01, {"resnet.attention_position": "after-add"}, jitter=2 * JITTER)
    return rows
