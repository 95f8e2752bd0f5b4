"""Training sets whose classes are of unequal size: weights in the loss, balanced sampling, and what is said of them."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import engine
from augment import Augment, TrainBatches
from data import Split
from tests.refusals import refusal
from tests.runs import SMALL, built, result_of, run
from tests.test_engine import new_state


def unequal_split(counts=(20, 3, 1)):
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = torch.zeros(len(targets), 3, 4, 4, dtype=torch.uint8)
    return Split(images.contiguous(memory_format=torch.channels_last), targets, torch.arange(len(targets)))


def balanced(rank=0, world_size=1, seed=0):
    batches = TrainBatches(
        unequal_split(), 8, Augment(1), [0.0] * 3, [1.0] * 3, 3, seed, rank, world_size, balanced=True
    )
    return batches


def test_each_class_comes_equally_often():
    """24 images an epoch: 8 per class, none of the large class twice, and each of the small class's 3 two or three times."""
    rows = balanced().draw(0)["row"].numpy()
    times = np.bincount(rows, minlength=24)
    assert times[:20].max() == 1 and times[:20].sum() == 8
    assert sorted(times[20:23]) == [2, 3, 3]
    assert times[23] == 8
    assert not np.array_equal(rows, balanced().draw(1)["row"].numpy())


def test_every_balanced_batch_has_several_classes():
    batches = balanced()
    for targets in torch.from_numpy(batches.targets)[batches.draw(0)["row"]].view(-1, 8):
        assert len(set(targets.tolist())) > 1


def test_what_classes_cannot_share_equally_goes_to_some_of_them():
    """18 images an epoch of four classes: two of them, not always the same, come once more."""
    split = unequal_split((9, 5, 3, 1))
    batches = TrainBatches(split, 6, Augment(1), [0.0] * 3, [1.0] * 3, 4, seed=0, balanced=True)
    times = [np.bincount(split.targets[batches.draw(epoch)["row"]], minlength=4) for epoch in range(10)]
    assert all(sorted(of_classes) == [4, 4, 5, 5] for of_classes in times)
    assert (np.max(times, axis=0) == 5).all() and (np.min(times, axis=0) == 4).all()


def test_balanced_batches_do_not_depend_on_the_number_of_processes():
    whole = [targets for _, targets in balanced().epoch(2)]
    parts = [[targets for _, targets in balanced(rank, 2).epoch(2)] for rank in (0, 1)]
    assert all(torch.equal(a, torch.cat(b)) for a, b in zip(whole, zip(*parts, strict=True), strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
def test_weights_scale_the_loss_of_each_image(smoothing, mixed):
    """Not the terms of each class: else an image's smoothed target would ask above all for the class of the largest weight."""
    state = new_state()
    imgs, targets = torch.randn(6, 3, 4, 4), torch.tensor([0, 0, 0, 0, 1, 2])
    weights = torch.tensor([0.5, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0])
    of_images = weights[targets]
    if mixed:
        shares = F.one_hot(targets, 7).float()
        targets = 0.75 * shares + 0.25 * shares.roll(1, 0)
        of_images = 0.75 * of_images + 0.25 * of_images.roll(1)
    with torch.no_grad():
        losses = F.cross_entropy(state.net.train()(imgs), targets, label_smoothing=smoothing, reduction="none")
    engine.train_step(state, state.net, imgs, targets, smoothing, class_weights=weights)
    assert state.losses[0].item() == pytest.approx((losses * of_images).mean().item(), rel=1e-5)


@pytest.fixture
def unequal(photos, tmp_path):
    """24, 24, 24 and 2 training images."""
    shutil.copytree(photos, tmp_path / "unequal")
    for file in sorted((tmp_path / "unequal" / "train" / "class3").glob("*.png"))[2:]:
        file.unlink()
    return tmp_path / "unequal"


def test_weights_are_the_inverse_of_the_shares_of_images(command, unequal):
    made = built(*command(*SMALL, "--class-weights", "balanced", "--data-dir", str(unequal), "--val-size", "0"))
    *_, weights = made.step.recipe
    assert weights.tolist() == pytest.approx([74 / (4 * n) for n in (24, 24, 24, 2)])


@pytest.mark.parametrize("how", [["--class-weights", "balanced"], ["--balanced-sampling"]])
def test_run_on_unequal_classes(command, unequal, tmp_path, capsys, how):
    run(*command(*SMALL, *how, "--data-dir", str(unequal), "--val-size", "0"))
    assert " (class3 has 2 and class0 has 24), " in capsys.readouterr().out
    result = result_of(tmp_path / "runs" / "run")
    assert result["class_names"] == [f"class{c}" for c in range(4)]
    assert sum(map(sum, result["confusion"])) == result["n_test"]
    assert result["balanced_accuracy"] == pytest.approx(np.mean(result["per_class_top1"]))
    assert "holds another run" in refusal(capsys, run, *command(*SMALL, "--data-dir", str(unequal), "--val-size", "0"))


@pytest.mark.parametrize("how", [["--class-weights", "balanced"], ["--balanced-sampling"]])
def test_class_without_an_image_is_refused(command, unequal, capsys, how):
    """Both images of the smallest class are held out, with most others."""
    flags = command(*SMALL, *how, "--data-dir", str(unequal), "--val-size", "72", "--batch-size", "2")
    assert "has no training image" in refusal(capsys, run, *flags)
