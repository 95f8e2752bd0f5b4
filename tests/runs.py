"""Runs of train.py inside the tests, and what they left."""

import json
import os
import re
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import checkpoints
import train
from flags import parse_args
from shapes import draw_shapes100

SMALL = ["--set", "resnet.depth=8", "--set", "resnet.width=4"]  # flags of a ResNet that trains in no time


def write_photos(root):
    """Fills an image folder: 4 classes, 24 training and 5 test images of each, 16x16 pixels. Returns it."""
    for split, (images, targets) in zip(("train", "test"), draw_shapes100(2400, 500)[:2], strict=True):
        for c in range(4):
            folder = root / split / f"class{c}"
            folder.mkdir(parents=True)
            for i, image in enumerate(images[np.flatnonzero(targets == 10 * c)]):
                Image.fromarray(image).resize((16, 16)).save(folder / f"{i}.png")
    return root


def run(*flags):
    train.main(parse_args(flags))


def built(*flags):
    """The Run that train.py makes of these flags, as it is before the first step. It writes nothing."""
    from training import Run  # here, because conftest.py imports this file before it hides the GPUs

    runs, check = [], Run.check
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "check", lambda self: runs.append(self) or check(self))
        run(*flags, "--check")
    return runs[0]


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def logged(folder):
    """TensorBoard's scalars of a run: tag -> [(step, value)], speeds left out."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if "per_s" not in tag]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def saved_state(folder):
    return checkpoints.load_checkpoint(folder / "last.pt")["state"]


def assert_same(a, b, where=""):
    """Two nested states are equal, bit for bit; seconds and speeds aside."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if not re.search("_per_s|train_s|epoch_s", str(key)):
                assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}.{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def die_after_saves(n_saves, flags):
    """A run that is killed right after its n-th checkpoint."""
    save, saves = checkpoints.save_checkpoint, []

    def save_and_die(*args):
        save(*args)
        saves.append(args)
        if len(saves) == n_saves:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.save_checkpoint = save_and_die
    run(*flags)
