import os

import pytest
import torch

import data
from tests.report_rows import campaign  # noqa: F401 -- a fixture
from tests.runs import write_photos

torch.set_num_threads(1)  # the tests' tensors are so small that a second thread only waits for the first


def pytest_configure(config):
    """Hides the GPUs, so that the tests are the same on every machine; -m gpu runs those of tests/test_gpu.py."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """An image folder of 4 classes, 24 training and 5 test images of 16x16 pixels each."""
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def command(photos, tmp_path):
    """Flags of a run of four steps an epoch on the tiny folder; more can be appended."""

    def flags(*more):
        fixed = ["--dataset", "folder", "--data-dir", str(photos), "--cache-dir", str(tmp_path / "cache")]
        fixed += ["--out", str(tmp_path / "runs"), "--batch-size", "20", "--epochs", "2", "--save-every-s", "0"]
        return [*fixed, "--name", "run", *more]

    return flags


@pytest.fixture
def both_ways(photos, tmp_path):
    """One image folder, resized to 12 pixels: in memory and streamed."""
    return [data.load("folder", photos, 12, tmp_path / "cache", room) for room in (1e9, 0)]
