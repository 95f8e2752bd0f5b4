import os
from pathlib import Path

import numpy as np
import pytest

from tests.reports import make, table_after  # skips this file where report.py's packages are missing

# isort: split
from superclasses import SUPERCLASS_OF


def test_superclass_differences(campaign, tmp_path):
    """A method that gains 10 points in the five classes of superclass 7 gains 10 there and 0 elsewhere."""
    gain = 10.0 * np.equal(SUPERCLASS_OF, 7)
    rows = [
        c | {"dataset": "cifar100", "classes": 100, "per_class_top1": list(50.0 + gain * (c["arch"] == "eca_resnet"))}
        for c in campaign
    ]
    table = table_after(make(rows, tmp_path), "## Superclasses")
    column = table["superclass"].index("eca_resnet")
    assert {name: cells[column] for name, cells in table.items() if cells[column] == "+10.0"} == {"insects": "+10.0"}
    assert table["fish"][column] == "+0.0"
    assert (tmp_path / "report" / "superclasses.png").exists()


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
