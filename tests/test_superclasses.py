from tests.reports import make, table_after  # skips this file where report.py's packages are missing

# isort: split
import os
from pathlib import Path

import numpy as np
import pytest

from rows import SUPERCLASS_OF
from tables import superclass_table
from tests.report_rows import rows_of
from verdicts import analyse


def test_superclass_differences(campaign, tmp_path):
    """A method that gains 10 points in the five classes of superclass 7 gains 10 there and 0 elsewhere."""
    gain, noise = 10.0 * np.equal(SUPERCLASS_OF, 7), np.random.default_rng(0)
    rows = [
        c
        | {"dataset": "cifar100", "classes": 100}
        | {"per_class_top1": list(50 + noise.normal(0, 0.01, 100) + gain * (c["arch"] == "eca_resnet"))}
        for c in campaign
    ]
    table = table_after(make(rows, tmp_path), "## Superclasses")
    column = table["superclass"].index("eca")
    assert {name: cells[column] for name, cells in table.items() if cells[column] == "+10.0"} == {"insects": "+10.0"}
    assert "fish" not in table  # no different from 0
    assert not (tmp_path / "report" / "superclasses.png").exists()  # of so few cells a table says all


def noisy_rows(gain, seed=0):
    """Ten networks on CIFAR-100, each class with noise of its own; the first method gains points in superclass 7."""
    rng, rows = np.random.default_rng(seed), []
    methods = ("eca", "se", "gmlp", "mixer", "ghostnet", "resnest", "hornet", "coatnet", "cspnet")
    for arch in ("resnet", *(f"{method}_resnet" for method in methods)):
        for content in rows_of(arch, 50):
            per_class = 50 + rng.normal(0, 3, 100) + gain * np.equal(SUPERCLASS_OF, 7) * (arch == "eca_resnet")
            rows.append(
                content | {"dataset": "cifar100", "classes": 100, "per_class_top1": per_class.clip(0, 100).tolist()}
            )
    return rows


def test_only_cells_that_stand_out_of_the_noise_are_shown():
    found = analyse(noisy_rows(20)).superclasses
    row = found.archs.index("eca_resnet")
    assert found.readable[row, 7] and found.differences[row, 7] == pytest.approx(20, abs=3)
    assert found.readable.sum() <= 3
    assert found.sentence.startswith(
        f"{found.readable.sum()} of 180 cells stand{'s' * bool(found.readable.sum() == 1)} out from the noise; "
    )


def test_where_all_is_noise_no_cell_and_no_chart_is_shown(tmp_path):
    found = analyse(noisy_rows(0)).superclasses
    assert not found.readable.any() and superclass_table(found) is None
    text = make(noisy_rows(0), tmp_path)
    assert "No superclass of any method stands out from the noise (180 cells), so none is shown." in text
    assert "superclasses.png" not in text and not (tmp_path / "report" / "superclasses.png").exists()


def test_class_without_test_images_leaves_no_superclass():
    rows = [content | {"per_class_top1": [None, *content["per_class_top1"][1:]]} for content in noisy_rows(20)]
    assert analyse(rows).superclasses is None


def test_one_seed_shows_no_superclass():
    assert analyse([content for content in noisy_rows(20) if content["seed"] == 0]).superclasses is None


def test_two_seeds_are_enough_for_superclasses():
    found = analyse([content for content in noisy_rows(20) if content["seed"] < 2]).superclasses
    assert found.differences.shape == (9, 20)


def test_superclasses_have_five_classes_each():
    assert np.array_equal(np.bincount(SUPERCLASS_OF), [5] * 20)


@pytest.mark.skipif(
    "CIFAR100_DIR" not in os.environ, reason="CIFAR100_DIR names no folder with CIFAR-100's parquet files"
)
def test_superclasses_are_the_datas():
    from datasets import Dataset

    path = next(Path(os.environ["CIFAR100_DIR"]).glob("test-*.parquet"))
    data = Dataset.from_parquet(str(path), columns=["fine_label", "coarse_label"])
    labels = dict(zip(data["fine_label"], data["coarse_label"], strict=True))
    assert labels == dict(enumerate(SUPERCLASS_OF))
