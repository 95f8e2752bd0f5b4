"""Augmented batches against slow loops over images and pixels."""

from itertools import product

import numpy as np
import pytest
import torch

import augment
from augment import Augment, TrainBatches
from data import Split
from flags import CROP_PADDING


def random_split(n=40, size=8, n_classes=4):
    images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    return Split(images, torch.arange(n) % n_classes, torch.arange(n))


def batches(split, augment=Augment(), batch_size=8, **kwargs):  # noqa: B008
    return TrainBatches(split, batch_size, augment, [0.0] * 3, [1.0] * 3, 4, seed=1, **kwargs)


def test_nothing_drawn_gives_the_pixels():
    split = random_split()
    plain = batches(split, Augment(crop_padding=0, flip=False))
    rows = plain.draw(0)["row"]
    imgs = torch.cat([imgs for imgs, _ in plain.epoch(0)])
    assert torch.equal(imgs, split.images[rows].float())
    assert sorted(rows.tolist()) == list(range(40))


def test_crop_and_flip_agree_with_a_loop():
    split = random_split()
    made = batches(split, Augment(crop_padding=3))
    draws = made.draw(5)
    position = 0
    for imgs, targets in made.epoch(5):
        for img, target in zip(imgs, targets, strict=True):
            row, top, left, mirror = (draws[k][position].item() for k in ("row", "top", "left", "mirror"))
            padded = np.pad(split.images[row].numpy(), ((0, 0), (3, 3), (3, 3)), mode="reflect")
            crop = padded[:, 3 + top : 11 + top, 3 + left : 11 + left]
            crop = crop[:, :, ::-1] if mirror else crop
            assert np.array_equal(img.numpy(), crop)
            assert target == split.targets[row]
            position += 1
    assert {-3, 3} <= set(draws["top"].tolist()) | set(draws["left"].tolist())
    assert 0 < draws["mirror"].sum() < len(draws["mirror"])


def bilinear(image, y, x):
    """The value of an image (3, H, W) at the point (y, x), pixels centred at whole numbers, borders continued."""
    _, H, W = image.shape
    y, x = min(max(y, 0), H - 1), min(max(x, 0), W - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, H - 1), min(x0 + 1, W - 1)
    upper = image[:, y0, x0] * (1 - (x - x0)) + image[:, y0, x1] * (x - x0)
    lower = image[:, y1, x0] * (1 - (x - x0)) + image[:, y1, x1] * (x - x0)
    return upper * (1 - (y - y0)) + lower * (y - y0)


def test_resized_crops_agree_with_a_loop():
    split = random_split(n=16)
    made = batches(split, Augment(crop_scale=0.08))
    draws = made.draw(5)
    position = 0
    for imgs, targets in made.epoch(5):
        assert imgs.is_contiguous(memory_format=torch.channels_last)
        for img, target in zip(imgs, targets, strict=True):
            row, mirror = draws["row"][position].item(), draws["mirror"][position].item()
            top, left, height, width = (8 * draws[k][position].item() for k in ("top", "left", "height", "width"))
            image = split.images[row].numpy().astype(float)
            expected = np.empty((3, 8, 8))
            for y in range(8):
                for x in range(8):
                    at = top + height * (y + 0.5) / 8 - 0.5, left + width * (x + 0.5) / 8 - 0.5
                    expected[:, y, 7 - x if mirror else x] = bilinear(image, *at)
            assert np.allclose(img.numpy(), expected, atol=1e-2)  # of 255
            assert target == split.targets[row]
            position += 1
    assert 0 < draws["mirror"].sum() < len(draws["mirror"])


def test_every_other_image_is_mirrored():
    mirror = batches(random_split(n=40_000), Augment()).draw(0)["mirror"]
    assert mirror.float().mean() == pytest.approx(0.5, abs=0.01)  # four standard deviations


def test_resized_crops_keep_to_their_ranges():
    draws = batches(random_split(n=4000), Augment(crop_scale=0.08)).draw(0)
    top, left, height, width = (draws[k].double() for k in ("top", "left", "height", "width"))
    area, shape = height * width, width / height
    assert 0.08 <= area.min() < 0.1 and 0.98 < area.max() <= 1.0001
    assert 0.749 < shape.min() < 0.76 and 1.32 < shape.max() < 1.334
    assert min(top.min(), left.min()) >= 0 and max((top + height).max(), (left + width).max()) < 1.0001
    assert abs(area.mean() - 0.54) < 0.02 and abs(shape.log().mean()) < 0.01


def test_crops_and_holes_are_anywhere():
    draws = batches(random_split(n=4000), Augment(crop_padding=4, cutout=4, cutmix=1.0)).draw(0)
    for y, x, places in (
        ("top", "left", range(-4, 5)),
        ("hole_y", "hole_x", range(8)),
        ("box_y", "box_x", range(8)),
    ):
        assert set(zip(draws[y].tolist(), draws[x].tolist(), strict=True)) == set(product(places, repeat=2))


def test_resized_crops_are_in_every_corner_equally_often():
    draws = batches(random_split(n=4000), Augment(crop_scale=0.08)).draw(0)
    low, right = (draws[at] > (1 - draws[side]) / 2 for at, side in (("top", "height"), ("left", "width")))
    times = torch.bincount(2 * low + right, minlength=4).tolist()
    assert times == pytest.approx([1000] * 4, abs=120)  # over four standard deviations


def test_resized_crop_of_everything_gives_the_pixels():
    split = random_split()
    made = batches(split, Augment(crop_padding=100, flip=False, crop_scale=1.0))  # the padding is not read
    imgs = torch.cat([imgs for imgs, _ in made.epoch(0)])
    torch.testing.assert_close(imgs, split.images[made.draw(0)["row"]].float(), rtol=0, atol=1e-3)


def test_batches_are_channels_last_and_normalized():
    split = random_split()
    mean, std = [100.0, 120.0, 140.0], [50.0, 60.0, 70.0]
    made = TrainBatches(split, 8, Augment(0, False, cutout=2), mean, std, 4, seed=0)
    imgs, _ = next(made.epoch(0))
    assert imgs.is_contiguous(memory_format=torch.channels_last)
    expected = (split.images[made.draw(0)["row"][:8]].float() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(
        std
    ).view(3, 1, 1)
    kept = imgs != 0
    assert torch.allclose(imgs[kept], expected[kept])


@pytest.mark.parametrize("side", [4, 5])
def test_cutout_blanks_one_square(side):
    made = batches(random_split(), Augment(0, False, cutout=side))
    draws = made.draw(0)
    imgs, _ = next(made.epoch(0))
    for i, img in enumerate(imgs):
        y, x = draws["hole_y"][i].item(), draws["hole_x"][i].item()
        hole = torch.zeros(8, 8, dtype=torch.bool)
        hole[max(0, y - 2) : y - 2 + side, max(0, x - 2) : x - 2 + side] = True
        assert (img[:, hole] == 0).all()
        assert (img[:, ~hole] != 0).float().mean() > 0.95  # some pixels are 0 by themselves


def test_cutmix_pastes_elsewhere_than_cutout_blanks():
    """Around one centre the box would cover the hole, and with it half of what is to be blanked."""
    alone, both = Augment(0, False, cutout=6), Augment(0, False, cutout=6, cutmix=1.0)
    blank = [torch.cat([imgs for imgs, _ in batches(random_split(n=400), how).epoch(0)]).eq(0).float().mean()
             for how in (alone, both)]  # fmt: skip
    assert blank[1] == pytest.approx(blank[0].item(), rel=0.1)


def test_cutmix_pastes_the_share_that_was_drawn():
    made = batches(random_split(size=32), Augment(cutmix=1.0))
    drawn = {"share": torch.tensor([0.75]), "blend": torch.tensor([False])}
    drawn |= {"hole_y": torch.tensor([16]), "hole_x": torch.tensor([16])}
    own, partner = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    imgs, shares = made.mix(own, torch.tensor([2]), partner, torch.tensor([0]), drawn)
    assert imgs[0, 0, 8:24, 8:24].all() and imgs.sum() == 3 * 16**2
    assert shares.tolist() == [[0.25, 0, 0.75, 0]]


@pytest.mark.parametrize("mixed", [{"mixup": 0.2}, {"cutmix": 0.5}])
def test_shares_are_drawn_from_a_beta_distribution_of_equal_parameters(mixed):
    (alpha,) = mixed.values()
    share = batches(random_split(n=4000), Augment(**mixed)).draw(0)["share"]
    assert share.mean() == pytest.approx(0.5, abs=0.03)  # over four deviations
    assert share.var() == pytest.approx(1 / (8 * alpha + 4), abs=0.01)


@pytest.mark.parametrize("mixed", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_targets_are_the_shares_of_the_pixels(mixed):
    """With images of one constant each, the pixels of a mixed image say which share of it came from where."""
    constants = torch.arange(40).clamp(min=1)
    images = constants.byte().view(40, 1, 1, 1).expand(40, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    split = Split(images, torch.arange(40) % 4, torch.arange(40))
    made = batches(split, Augment(0, False, **mixed))
    rows = made.draw(2)["row"].view(-1, 8)
    changed = 0
    for step, (imgs, shares) in enumerate(made.epoch(2)):
        own, partner = constants[rows[step]].float(), constants[rows[step].flip(0)].float()
        kept = (imgs.mean((1, 2, 3)) - partner) / (own - partner)
        expected = torch.zeros(8, 4)
        for i, row in enumerate(rows[step]):
            expected[i, split.targets[row]] += kept[i]
            expected[i, split.targets[rows[step].flip(0)[i]]] += 1 - kept[i]
        torch.testing.assert_close(shares, expected, rtol=0, atol=1e-4)
        changed += (kept < 0.99).sum()
    assert changed > 10


# ----------------------------------------------------------------------------------- --------- order, processes


@pytest.mark.parametrize(
    "augment", [Augment(), Augment(cutout=4, mixup=0.2, cutmix=1.0), Augment(mixup=0.2, crop_scale=0.2)]
)
@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_processes_sees_the_same_pixels(augment, world_size):
    split = random_split()
    alone = list(batches(split, augment).epoch(3))
    together = [list(batches(split, augment, rank=r, world_size=world_size).epoch(3)) for r in range(world_size)]
    assert len(alone) == len(together[0]) == 5
    for step, (imgs, targets) in enumerate(alone):
        assert torch.equal(torch.cat([parts[step][0] for parts in together]), imgs)
        assert torch.equal(torch.cat([parts[step][1] for parts in together]), targets)


def test_resumed_epoch_continues_where_it_was():
    made = batches(random_split(), Augment(mixup=0.2))
    whole, rest = list(made.epoch(4)), list(made.epoch(4, first_step=3))
    assert len(rest) == 2
    assert torch.equal(whole[3][0], rest[0][0])
    assert torch.equal(whole[4][1], rest[1][1])


def test_epochs_and_seeds_differ():
    split = random_split()
    first, second = next(batches(split).epoch(0))[0], next(batches(split).epoch(1))[0]
    assert not torch.equal(first, second)
    other_seed = TrainBatches(split, 8, Augment(), [0.0] * 3, [1.0] * 3, 4, seed=2)
    assert not torch.equal(first, next(other_seed.epoch(0))[0])


def test_no_two_seeds_share_an_epoch():
    def rows(seed, epoch):
        made = TrainBatches(random_split(), 8, Augment(), [0.0] * 3, [1.0] * 3, 4, seed)
        return tuple(made.draw(epoch)["row"].tolist())

    assert len({rows(1, 1), rows(2, 0), rows(0, 2)}) == 3


def test_draws_are_those_that_earlier_runs_saw():
    """Others would change what the same flags mean, and how a resumed run goes on."""
    draws = batches(random_split(), Augment(3, cutout=4, mixup=0.2, cutmix=1.0)).draw(3)
    assert {name: values[:8].tolist() for name, values in draws.items() if name != "share"} == {
        "row": [19, 3, 20, 33, 2, 29, 4, 21],
        "top": [-3, -1, -1, 3, 3, 3, 3, -2],
        "left": [1, -3, 2, 0, -2, 3, 1, -1],
        "mirror": [False, True, False, True, False, True, True, False],
        "hole_y": [7, 6, 7, 6, 1, 2, 1, 4],
        "hole_x": [7, 4, 4, 7, 5, 7, 7, 7],
        "blend": [True] * 8,
        "box_y": [6, 0, 7, 1, 6, 5, 6, 5],
        "box_x": [5, 6, 0, 0, 5, 1, 1, 2],
    }
    share = [0.9760, 0.0165, 0.9032, 0.4514, 1.0, 0.0002, 0.0689, 0.3059]
    assert draws["share"][:8].tolist() == pytest.approx(share, abs=1e-4)

    boxes = batches(random_split(), Augment(crop_scale=0.08)).draw(3)
    assert boxes["row"].tolist() == draws["row"].tolist()
    for name, expected in {
        "top": [0.2975, 0.0237, 0.0110, 0.2755, 0.0787, 0.0151, 0.0010, 0.1331],
        "left": [0.0763, 0.0191, 0.0007, 0.3519, 0.2299, 0.0820, 0.0199, 0.0219],
        "height": [0.6072, 0.9701, 0.9694, 0.4748, 0.5087, 0.9810, 0.9983, 0.8555],
        "width": [0.7612, 0.9310, 0.9989, 0.4653, 0.5746, 0.8781, 0.9379, 0.9730],
    }.items():
        assert boxes[name][:8].tolist() == pytest.approx(expected, abs=1e-4), name


def test_images_left_out_of_an_epoch_come_in_another():
    """43 images in batches of 8: three are left out each time."""
    made = batches(random_split(n=43))
    epochs = [made.draw(epoch)["row"].tolist() for epoch in range(20)]
    assert all(len(set(rows)) == len(rows) == 40 for rows in epochs)
    assert set().union(*epochs) == set(range(43))


@pytest.mark.parametrize("n", [1, 3, 10, 17])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_image_once(n, world_size):
    """Of its split alone, which has every second row of the set; normalized, and beside its own target."""
    rows, seen = torch.arange(2 * n), []
    split = Split(rows.byte().view(-1, 1, 1, 1).expand(-1, 3, 4, 4), rows, rows[1::2])
    for rank in range(world_size):
        for imgs, targets in augment.eval_batches(split, 4, [1.0] * 3, [2.0] * 3, rank, world_size):
            assert torch.equal(imgs[:, 0, 0, 0], (targets - 1) / 2)
            seen += targets.tolist()
    assert sorted(seen) == rows[1::2].tolist()


def test_batches_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="not a multiple of the 3 processes"):
        batches(random_split(), world_size=3)
    with pytest.raises(ValueError, match="--crop-padding 8 does not fit images of 8 pixels"):
        batches(random_split(), Augment(8))
    with pytest.raises(ValueError, match="40 training images do not fill a batch of"):
        batches(random_split(), batch_size=64)


def test_no_image_is_mirrored_without_flips():
    assert not batches(random_split(), Augment(flip=False)).draw(0)["mirror"].any()


def test_a_batch_takes_mixup_or_cutmix_alike_often():
    both = batches(random_split(n=4000), Augment(mixup=0.2, cutmix=1.0)).draw(0)["blend"].view(-1, 8)
    assert (both == both[:, :1]).all()  # a whole batch takes one of them
    assert both.float().mean() == pytest.approx(0.5, abs=0.1)  # of 500 batches: over four standard deviations
    assert batches(random_split(), Augment(mixup=0.2)).draw(0)["blend"].all()
    assert not batches(random_split(), Augment(cutmix=1.0)).draw(0)["blend"].any()


def test_epochs_may_come_in_any_order():
    made = batches(random_split())
    for epoch in (0, 5, 5, 2):
        made.begin(epoch)
        assert torch.equal(made.draws["row"].flatten(), made.draw(epoch)["row"])


def test_usual_crop_is_that_of_the_flags():
    assert Augment().crop_padding == CROP_PADDING


@pytest.mark.parametrize(
    ("device", "size", "n"), [("cpu", 32, 512), ("cuda", 32, 2048), ("cuda", 224, 41), ("cpu", 2000, 1)]
)
def test_images_scored_at_a_time(device, size, n):
    assert augment.eval_batch_size(torch.device(device), size) == n
