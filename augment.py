"""Augmented batches of a split, drawn on the host and computed on the training device, a whole batch at a time.

The order of the samples and everything drawn for them depend on (seed, epoch, position in the epoch) only: any number of
processes sees the same pixels, and a resumed run sees what it would have seen.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

EVAL_BATCH, EVAL_PIXELS = 512, 512 * 64**2  # images and pixels that a process scores at a time, at most
EVAL_BATCH_GPU = 2048  # images, which keep a GPU busy


@dataclass(frozen=True)
class Augment:
    """What is drawn for each training image, in pixels and rates; 0 turns a part off.

    crop_padding: pixels by which the crop may move, borders reflected. flip: mirrors each image with probability 1/2. cutout:
    side of the square that is set to the mean (DeVries and Taylor 2017). mixup, cutmix: the alpha of their Beta(alpha, alpha)
    (Zhang et al. 2018; Yun et al. 2019); with both, each batch takes one of them. The middle image of an odd batch stays as it
    is. crop_scale: the smallest share of the image's area that a crop covers (Szegedy et al. 2015, with 0.08), in place
    of the padded crop. Departures there: the crop is taken from the square that was decoded, and its shape is drawn from those
    that fit its area.
    """

    crop_padding: int = 4
    flip: bool = True
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop_scale: float = 0.0


class TrainBatches:
    """The augmented batches of a split, as one process of `world_size` sees them.

    begin() puts an epoch's draws into buffers on the device that stay where they are; batch(at) computes the batch of step
    `at`, a number on the device, from these buffers alone, so that a CUDA graph can replay it. batch_size is global: every
    process takes an equal slice of each batch, and what does not fill a batch is left out of the epoch. balanced: each class
    comes equally often in an epoch, with images of small ones repeated. Raises ValueError if the processes do not divide
    the batch, the split does not fill one, padded crops move by an image's side or more, or, if balanced, a class has no image.
    """

    def __init__(self, split, batch_size, augment, mean, std, n_classes, seed, rank=0, world_size=1, balanced=False):
        if batch_size % world_size:
            raise ValueError(f"--batch-size {batch_size} is not a multiple of the {world_size} processes")
        if len(split) < batch_size:
            raise ValueError(
                f"{len(split)} training images do not fill a batch of {batch_size}: lower --batch-size, and --lr in proportion"
            )
        if augment.crop_padding >= split.image_size and not augment.crop_scale:
            raise ValueError(f"--crop-padding {augment.crop_padding} does not fit images of {split.image_size} pixels")
        # on the host: a copy from the GPU would wait for its queued steps
        self.targets, self.rows = split.labels, split.index.cpu().numpy()
        if balanced and (missing := np.flatnonzero(np.bincount(self.targets, minlength=n_classes) == 0)).size:
            raise ValueError(f"--balanced-sampling: class number {missing[0]} has no training image")
        self.split, self.batch_size, self.augment, self.balanced = split, batch_size, augment, balanced
        self.n_classes, self.seed, self.rank, self.world_size = n_classes, seed, rank, world_size
        self.n_local = batch_size // world_size  # images of a batch that this process trains on
        self.mixes = bool(augment.mixup or augment.cutmix)
        self.steps_per_epoch = len(split) // batch_size
        self.device = split.index.device
        self.mean, self.std = (torch.tensor(v, device=self.device).view(-1, 1, 1) for v in (mean, std))
        self.axis = torch.arange(split.image_size, device=self.device)  # rows and columns of a square
        self.draws = {}  # name -> (steps, images of a batch), on the device
        self.prepared = None  # (epoch, its draws on the host), made while the device trains on the one before
        self.decoded = None  # images of the current step, if the split is streamed

    def prepare(self, epoch):
        """Draws an epoch on the host, in page-locked memory if a GPU is to copy it."""
        # the partner of the batch's i-th image is its i-th from the end, whichever process holds that one
        ranks = dict.fromkeys([self.rank, self.world_size - 1 - self.rank] if self.mixes else [self.rank])
        steps = torch.arange(self.steps_per_epoch)[:, None] * self.batch_size
        slices = [torch.arange(self.n_local) + rank * self.n_local for rank in ranks]
        positions = steps + torch.cat(slices)  # (steps, b or 2 b)
        draws = {name: values[positions] for name, values in self.draw(epoch).items()}
        if self.device.type == "cuda":
            draws = {name: values.pin_memory() for name, values in draws.items()}
        self.prepared = epoch, draws

    def begin(self, epoch):
        """Puts the draws of an epoch where batch() reads them."""
        if self.prepared is None or self.prepared[0] != epoch:
            self.prepare(epoch)
        for name, values in self.prepared[1].items():
            if name not in self.draws:
                self.draws[name] = torch.empty_like(values, device=self.device)
            self.draws[name].copy_(values, non_blocking=True)

    def steps(self, epoch, first_step=0):
        """Yields each step of an epoch in its turn, once batch() can be called for it. Raises UnfitImageError if streamed."""
        self.begin(epoch)
        if not self.split.is_streamed:
            yield from range(first_step, self.steps_per_epoch)
            return
        rows = self.prepared[1]["row"][first_step:]
        for step, (images, _) in enumerate(self.split.read(rows), first_step):
            if self.decoded is None:
                self.decoded = torch.empty_like(images)
            self.decoded.copy_(images, non_blocking=True)
            yield step

    def batch(self, at):
        """Step of the epoch, int64 () on the device -> imgs float (b, 3, H, W), and targets: class numbers (b,), or shares
        (b, n_classes) if they are mixed."""
        drawn = {name: values.index_select(0, at.view(1))[0] for name, values in self.draws.items()}
        rows = drawn["row"]
        if self.decoded is None:
            imgs = self.augmented(self.split.images, rows, drawn)
        else:
            imgs = self.augmented(self.decoded, torch.arange(len(rows), device=self.device), drawn)
        targets = self.split.targets[rows]
        if not self.mixes:
            return imgs, targets
        b = self.n_local
        partners = imgs[-b:].flip(0), targets[-b:].flip(0)
        return self.mix(imgs[:b], targets[:b], *partners, {name: values[:b] for name, values in drawn.items()})

    def epoch(self, epoch, first_step=0):
        """Yields what batch() gives, step by step."""
        for step in self.steps(epoch, first_step):
            yield self.batch(torch.tensor(step, device=self.device))

    def draw(self, epoch):
        """Everything random about an epoch: name -> (n,) on the host, a value for each position in it."""
        rng = np.random.default_rng((self.seed, epoch))
        n = self.steps_per_epoch * self.batch_size
        size = len(self.axis)
        draws = {
            "row": self.rows[self.draw_images(rng, n)],
            **(self.draw_resized_crops(rng, n) if self.augment.crop_scale else self.draw_padded_crops(rng, n)),
            "mirror": rng.random(n) < (0.5 if self.augment.flip else 0),
        }
        if self.augment.cutout or self.mixes:
            draws |= {"hole_y": rng.integers(0, size, n), "hole_x": rng.integers(0, size, n)}
        if self.mixes:
            p_mixup = bool(self.augment.mixup) / (bool(self.augment.mixup) + bool(self.augment.cutmix))
            blend = np.repeat(rng.random(self.steps_per_epoch) < p_mixup, self.batch_size)
            blended, pasted = (
                rng.beta(a, a, n) if a else np.ones(n) for a in (self.augment.mixup, self.augment.cutmix)
            )
            draws |= {"blend": blend, "share": np.where(blend, blended, pasted).astype(np.float32)}
        if self.augment.cutout and self.augment.cutmix:  # a centre of its own, or the box would cover the hole
            draws |= {"box_y": rng.integers(0, size, n), "box_x": rng.integers(0, size, n)}
        return {name: torch.from_numpy(values) for name, values in draws.items()}

    def class_weights(self, names):
        """The inverse of each class's share of the training images, 1 for all if they are equal: (n_classes,).

        Raises ValueError for a class without images.
        """
        counts = torch.bincount(torch.from_numpy(self.targets), minlength=self.n_classes)
        if (counts == 0).any():
            raise ValueError(f"--class-weights: class {names[counts.argmin()]} has no training image")
        return (counts.sum() / (len(counts) * counts)).float().to(self.device)

    def draw_images(self, rng, n):
        """Which images of the split an epoch shows, in its order."""
        if not self.balanced:
            return rng.permutation(len(self.split))[:n]
        shown = []
        for k, c in enumerate(rng.permutation(self.n_classes)):
            members = np.flatnonzero(self.targets == c)
            quota = n // self.n_classes + (k < n % self.n_classes)
            rounds = [rng.permutation(members) for _ in range(-(-quota // len(members)))]
            shown.append(np.concatenate([members[:0], *rounds])[:quota])
        return rng.permutation(np.concatenate(shown))

    def draw_padded_crops(self, rng, n):
        """Shifts in pixels."""
        padding = self.augment.crop_padding
        return {side: rng.integers(-padding, padding, n, endpoint=True) for side in ("top", "left")}

    def draw_resized_crops(self, rng, n):
        """Boxes in fractions of the image: area from crop_scale to 1, aspect ratio from 3/4 to 4/3 as far as it fits."""
        area = rng.uniform(self.augment.crop_scale, 1, n)
        max_log_aspect = np.minimum(np.log(4 / 3), -np.log(area))
        aspect = np.exp(rng.uniform(-1, 1, n) * max_log_aspect)
        height, width = np.sqrt(area / aspect), np.sqrt(area * aspect)
        top, left = rng.random(n) * (1 - height), rng.random(n) * (1 - width)
        box = {"top": top, "left": left, "height": height, "width": width}
        return {name: values.astype(np.float32) for name, values in box.items()}

    def augmented(self, images, i, draws):
        """Crops, mirrors and blanks images[i]: uint8 (n, 3, H, W), (b,) -> float (b, 3, H, W), normalized."""
        imgs = (resized_crop if self.augment.crop_scale else padded_crop)(images, i, draws, self.axis)
        imgs = normalize(imgs, self.mean, self.std)
        if self.augment.cutout:
            hole = self.inside(draws["hole_y"][:, None], draws["hole_x"][:, None], self.augment.cutout / 2)
            imgs.masked_fill_(hole[:, None], 0)  # 0 is the mean
        return imgs

    def mix(self, imgs, targets, partner_imgs, partner_targets, draws):
        """Mixup or CutMix: imgs and shares of classes (b, n_classes)."""
        share = draws["share"][:, None]
        half = (1 - share).sqrt() / 2 * len(self.axis)  # CutMix pastes a box with the image's sides * sqrt(1 - share)
        y, x = (draws.get(f"box_{side}", draws[f"hole_{side}"])[:, None] for side in "yx")
        box = self.inside(y, x, half)
        keep = torch.where(draws["blend"][:, None, None], share[:, :, None], (~box).float())  # (b, H, W)
        share = keep.mean((1, 2))[:, None]  # what is left of the image once the box is cut at the border
        classes = torch.arange(self.n_classes, device=self.device)  # F.one_hot reads the targets' range on the host
        one_hot, partner_one_hot = ((t[:, None] == classes).float() for t in (targets, partner_targets))
        keep = keep[:, None]
        return imgs * keep + partner_imgs * (1 - keep), one_hot * share + partner_one_hot * (1 - share)

    def inside(self, y, x, half):
        """Mask (b, H, W) of squares around the pixels (y, x), cut at the border; half: half a side, in pixels."""
        in_rows = (self.axis >= y - half) & (self.axis < y + half)
        in_cols = (self.axis >= x - half) & (self.axis < x + half)
        return in_rows[:, :, None] & in_cols[:, None, :]


def padded_crop(images, i, draws, axis):
    """images[i] moved by (top, left) pixels with reflected borders, then mirrored: (n, 3, H, W) uint8 -> (b, 3, H, W)."""
    size = len(axis)
    ys = reflect(axis + draws["top"][:, None], size)  # (b, H)
    xs = torch.where(draws["mirror"][:, None], size - 1 - axis, axis)
    xs = reflect(xs + draws["left"][:, None], size)  # (b, W)
    pixels = images.permute(0, 2, 3, 1).view(-1, 3)  # one row of bytes per pixel
    rows = ((i[:, None] * size + ys) * size)[:, :, None] + xs[:, None, :]
    return pixels[rows].permute(0, 3, 1, 2)


def resized_crop(images, i, draws, axis):
    """Boxes of images[i] resized to the whole size, bilinearly, then mirrored: (n, 3, H, W) uint8 -> (b, 3, H, W) float."""
    size = len(axis)
    centres = (axis + 0.5) / size
    xs = torch.where(draws["mirror"][:, None], 1 - centres, centres)
    ys = draws["top"][:, None] + draws["height"][:, None] * centres  # (b, H), 0 to 1 from border to border
    xs = draws["left"][:, None] + draws["width"][:, None] * xs  # (b, W)
    grid = torch.stack([xs[:, None, :].expand(-1, size, -1), ys[:, :, None].expand(-1, -1, size)], dim=3)
    imgs = F.grid_sample(images[i].float(), 2 * grid - 1, padding_mode="border", align_corners=False)
    return imgs.contiguous(memory_format=torch.channels_last)


def reflect(i, n):
    """Folds positions outside 0..n-1 back in, the border itself not repeated."""
    return (n - 1) - (n - 1 - i.abs()).abs()


def normalize(imgs, mean, std):
    """uint8 images (B, 3, H, W) -> float with the training set's mean 0 and standard deviation 1 in each channel."""
    return (imgs.float() - mean).div_(std)


def eval_batch_size(device, image_size):
    """How many images a device scores at a time: enough to keep it busy, and few enough to fit."""
    most = EVAL_BATCH_GPU if device.type == "cuda" else EVAL_BATCH
    return min(most, max(1, EVAL_PIXELS // image_size**2))


def eval_batches(split, batch_size, mean, std, rank=0, world_size=1):
    """Yields (imgs, targets) of every world_size-th image: over all processes each image comes once, whatever their number."""
    mean, std = (torch.tensor(v, device=split.index.device).view(-1, 1, 1) for v in (mean, std))
    batches = [rows for rows in split.index[rank::world_size].split(batch_size) if len(rows)]  # a process may have none
    for rows, (images, i) in zip(batches, split.read(batches), strict=True):
        yield normalize(images[i], mean, std), split.targets[rows]
