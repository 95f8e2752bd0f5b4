"""splits.py: held-out parts, and images that are decoded as they are needed."""

import pytest
import torch

import augment
import cache
import data
import splits
from augment import Augment, TrainBatches
from tests.test_augment import batches, random_split


def test_held_out_part_is_stratified_and_fixed_by_the_seed():
    split = random_split(n=80)
    rest, held = data.hold_out(split, 0.2, seed=0)
    assert sorted(torch.cat([rest.index, held.index]).tolist()) == list(range(80))
    assert split.targets[held.index].bincount().tolist() == [4, 4, 4, 4]
    assert torch.equal(held.index, data.hold_out(split, 0.2, seed=0)[1].index)
    assert not torch.equal(held.index, data.hold_out(split, 0.2, seed=1)[1].index)
    for n in (1, 3, 40, 41, 79):
        part = data.hold_out(split, n, seed=0)[1]
        assert len(part) == n
        shares = split.targets[part.index].bincount(minlength=4)
        assert shares.max() - shares.min() <= 1
    assert data.hold_out(split, 0, seed=0) == (split, None)
    rows = batches(rest).draw(0)["row"]
    assert not set(rows.tolist()) & set(held.index.tolist())


def uneven_split():
    """20 images: eleven of class 0, six of class 1, three of class 2."""
    images = torch.zeros(20, 3, 1, 1, dtype=torch.uint8)
    return splits.Split(images, torch.tensor([0] * 11 + [1] * 6 + [2] * 3), torch.arange(20))


def test_parts_are_those_that_earlier_runs_held_out():
    """Or they would be resumed, and compared, with other images to learn from."""
    held = data.hold_out(uneven_split(), 7, seed=3)[1]
    assert held.index.tolist() == [3, 6, 8, 10, 12, 16, 18]
    assert [data.hold_out_fold(uneven_split(), 3, fold)[1].index.tolist() for fold in range(3)] == [
        [0, 3, 4, 9, 14, 16, 18],
        [1, 6, 7, 10, 11, 15, 17],
        [2, 5, 8, 12, 13, 19],
    ]


@pytest.mark.parametrize(("n", "folds"), [(80, 5), (83, 4), (7, 7)])
def test_folds_divide_the_images_evenly(n, folds):
    split = random_split(n=n)
    parts = [data.hold_out_fold(split, folds, fold) for fold in range(folds)]
    assert sorted(torch.cat([held.index for _, held in parts]).tolist()) == list(range(n))
    sizes = [len(held) for _, held in parts]
    assert max(sizes) - min(sizes) <= 1
    for rest, held in parts:
        assert sorted(torch.cat([rest.index, held.index]).tolist()) == list(range(n))
        shares = split.targets[held.index].bincount(minlength=4) - split.targets.bincount() / folds
        assert shares.abs().max() < 1
    in_order = split.targets[parts[0][1].index] * n + parts[0][1].index  # classes do not decide who is beside whom
    assert folds == n or len(set(in_order.diff().tolist())) > 2


def test_more_folds_than_images_are_refused():
    with pytest.raises(ValueError, match="--folds 81 leaves folds without an image: there are 80 training images"):
        data.hold_out_fold(random_split(n=80), 81, 0)


@pytest.mark.parametrize("val_size", [0.001, 80, 100, 0.999])
def test_empty_side_is_refused(val_size):
    with pytest.raises(ValueError, match="leaves no image to train on, or none to hold out"):
        data.hold_out(random_split(n=80), val_size, seed=0)


def test_parts_are_held_out_as_the_flags_say():
    images = data.ImageSet(random_split(), random_split(8), [*"abcd"], [0] * 3, [1] * 3, "")
    for arguments, expected in (
        ((0.25, None, None, 3), data.hold_out(images.train, 0.25, 3)),
        ((None, 5, 2, 3), data.hold_out_fold(images.train, 5, 2)),
    ):
        for part, other in zip(data.held_out(images, *arguments), expected, strict=True):
            assert torch.equal(part.index, other.index)
    assert data.held_out(images, 0, None, None, 3) == (images.train, None)


@pytest.mark.parametrize("augment", [Augment(), Augment(mixup=0.2, cutmix=1.0, cutout=4, crop_scale=0.2)])
def test_streamed_batches_are_those_in_memory(both_ways, augment):
    """Whatever the number of processes, and from the middle of an epoch on."""
    kept, streamed = both_ways
    assert (kept.train.is_streamed, streamed.train.is_streamed) == (False, True)
    assert kept.fingerprint == streamed.fingerprint  # with the same mean and std, so that either way resumes a run
    for rank, world_size, first_step in ((0, 1, 0), (0, 2, 1), (1, 2, 1)):
        same = [
            TrainBatches(data.hold_out_fold(images.train, 4, 1)[0], 20, augment, images.mean, images.std, 4, seed=3,
                         rank=rank, world_size=world_size).epoch(2, first_step)
            for images in both_ways
        ]  # fmt: skip
        n_steps = 0
        for (imgs, targets), (streamed_imgs, streamed_targets) in zip(*same, strict=True):
            assert torch.equal(imgs, streamed_imgs)
            assert torch.equal(targets, streamed_targets)
            assert streamed_imgs.is_contiguous(memory_format=torch.channels_last)
            n_steps += 1
        assert n_steps == 3 - first_step


@pytest.mark.parametrize("n_threads", [1, 2])
def test_streamed_evaluation_sees_each_image_once(both_ways, n_threads, monkeypatch):
    monkeypatch.setattr(splits, "n_threads", lambda: n_threads)
    for rank in range(3):
        parts = [list(augment.eval_batches(images.test, 4, images.mean, images.std, rank, 3)) for images in both_ways]
        for (imgs, targets), (streamed_imgs, streamed_targets) in zip(*parts, strict=True):
            assert torch.equal(imgs, streamed_imgs)
            assert torch.equal(targets, streamed_targets)


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr("machine.cores", lambda: 20)
    assert splits.n_threads() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert splits.n_threads() == 2
    assert cache.n_threads() == 8  # the others wait
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert splits.n_threads() == 1
