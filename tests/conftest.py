import os

import pytest
import torch

import data
import machine
from tests.report_rows import campaign  # noqa: F401 -- a fixture
from tests.runs import write_photos

torch.set_num_threads(1)  # the tests' tensors are so small that a second thread only waits for the first


def pytest_configure(config):
    """Hides the GPUs, so that the tests are the same on every machine; -m gpu runs those of tests/test_gpu*.py."""
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
def small(photos, tmp_path):
    """Settings and flags of a comparison of two steps per run, on a few small images; nothing is exported, which takes longer."""
    (tmp_path / "without" / "onnxruntime").mkdir(parents=True)
    (tmp_path / "without" / "onnxruntime" / "__init__.py").write_text("raise ImportError(name='onnxruntime')\n")
    settings = {"RUNS": "resnet eca_resnet", "SEEDS": "0 1", "DATASET": "folder", "EPOCHS": "1"}
    settings |= {"OUT": str(tmp_path / "out"), "OMP_NUM_THREADS": "1"}
    settings |= {"PYTHONPATH": str(tmp_path / "without")}
    flags = ["--data-dir", str(photos), "--cache-dir", str(tmp_path / "cache"), "--batch-size", "20"]
    return settings, [*flags, "--image-size", "8", "--max-steps", "2"]


@pytest.fixture
def both_ways(photos, tmp_path):
    """One image folder, resized to 12 pixels: in memory and streamed."""
    return [data.load("folder", photos, 12, tmp_path / "cache", room) for room in (1e9, 0)]


@pytest.hookimpl(optionalhook=True)  # xdist may be left out: -p no:xdist
def pytest_xdist_auto_num_workers(config):
    """A worker for each core that this process may use: by default xdist counts all of the machine's.

    On a GPU at most 16: each takes half a gigabyte of its memory before the first tensor.
    """
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    return min(machine.cores(), 16) if config.option.markexpr == "gpu" else machine.cores()
