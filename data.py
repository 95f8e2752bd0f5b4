"""Datasets as uint8 tensors, and batches that are augmented on the training device.

Images are decoded once, cached as .npy files that all processes of a node map into memory, and augmented a whole batch at
a time. The order of the samples and everything drawn for them depend on (seed, epoch, position in the epoch) only: any
number of processes sees the same pixels, and a resumed run sees what it would have seen.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

CACHE_DIR = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "resnet-grafts"
HUB_SETS = {  # name: (repository on the hub, image column, label column)
    "cifar100": ("uoft-cs/cifar100", "img", "fine_label"),
    "cifar10": ("uoft-cs/cifar10", "img", "label"),
}
FORMAT = 1  # of the decoded cache: to be raised with every change of what is decoded, resized or drawn
DATASETS = (*HUB_SETS, "folder", "shapes100")


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 3, H, W) in channels-last order, targets int64 (N,), and the rows that belong to the split."""

    images: torch.Tensor
    targets: torch.Tensor
    index: torch.Tensor

    def __len__(self):
        return len(self.index)

    def to(self, device):
        return Split(self.images.to(device), self.targets.to(device), self.index.to(device))


@dataclass
class ImageSet:
    """A dataset in memory. mean and std: of the training pixels, three channels each, on the scale 0 to 255."""

    train: Split
    test: Split
    classes: list
    mean: list
    std: list

    def to(self, device):
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    @property
    def fingerprint(self):
        """Eight characters that differ between datasets, though not with every pixel."""
        content = [self.classes, self.mean, self.std, len(self.train), len(self.test), self.image_size]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]

    @property
    def image_size(self):
        return self.train.images.shape[-1]


# ---------------------------------------------------------------------------------------------- loading and decoding


def load(name, data_dir=None, image_size=None, cache_dir=None):
    """Loads a dataset by name, from its decoded cache where there is one.

    data_dir: for cifar100 and cifar10 a folder of train-*.parquet and test-*.parquet in the hub's columns; for folder a
    directory with train/<class>/ and test/<class>/. image_size: resize and centre-crop to that many pixels; without it
    all images must be squares of one size. Raises ValueError, in one line, for whatever is missing or unfit.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}: choose from {', '.join(DATASETS)}")
    if name == "folder" and not data_dir:
        raise ValueError("--dataset folder needs --data-dir, a folder with train/<class>/ and test/<class>/ in it")
    if name == "shapes100" and (data_dir or image_size):
        raise ValueError("--dataset shapes100 is drawn at 32x32: leave out --data-dir and --image-size")
    files = source_files(name, Path(data_dir)) if data_dir else []
    stamp = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([FORMAT, name, image_size, stamp]).encode()).hexdigest()[:12]
    folder = Path(cache_dir or CACHE_DIR) / f"{name}-{key}"
    if not (folder / "meta.json").exists():
        if not os.access(next(path for path in folder.parents if path.exists()), os.W_OK):
            raise ValueError(f"cannot write decoded images to {folder.parent}: give another --cache-dir")
        decoded = draw_shapes100() if name == "shapes100" else decode(name, data_dir, files, image_size)
        write_cache(folder, *decoded)
    return read_cache(folder)


def source_files(name, data_dir):
    """The files of a local dataset. Raises ValueError, saying what was found, for a missing folder or split."""
    pattern = "{}/*/*" if name == "folder" else "{}-*.parquet"
    layout = "train/<class>/ and test/<class>/" if name == "folder" else "train-*.parquet and test-*.parquet"
    if not data_dir.is_dir():
        raise ValueError(f"--data-dir {data_dir}: no such folder")
    found = {split: sorted(data_dir.glob(pattern.format(split))) for split in ("train", "test")}
    for split, files in found.items():
        if not files:
            there = ", ".join(sorted(os.listdir(data_dir))[:8]) or "nothing"
            raise ValueError(f"--data-dir {data_dir}: no {split} images; expected {layout}, found {there}")
    return found["train"] + found["test"]


def decode(name, data_dir, files, image_size):
    """Decodes both splits: ((images uint8 (N, H, W, 3), targets), (images, targets), class names)."""
    if name == "folder":
        rows, classes = folder_rows(Path(data_dir))
    else:
        rows, classes = table_rows(name, files)
    splits = []
    for split in ("train", "test"):
        images, targets = decode_split(split, *rows[split], image_size)
        outside = targets[(targets < 0) | (targets >= len(classes))]
        if len(outside):
            raise ValueError(
                f"{split} split: {len(outside)} labels outside 0..{len(classes) - 1}, such as {outside[0]}"
            )
        splits.append((images, targets))
    if splits[0][0].shape[1:] != splits[1][0].shape[1:]:
        sizes = " and ".join("x".join(map(str, images.shape[1:3])) for images, _ in splits)
        raise ValueError(f"train and test images differ in size ({sizes} pixels): give --image-size")
    return *splits, classes


def folder_rows(data_dir):
    """An image folder as {split: (iterable of images, n, targets)} and class names; a class may be called anything."""
    from PIL import Image
    from torchvision.datasets import ImageFolder

    try:
        sets = {split: ImageFolder(data_dir / split, loader=Image.open) for split in ("train", "test")}
    except FileNotFoundError as error:
        raise ValueError(f"--data-dir {data_dir}: {str(error).splitlines()[0]}") from None
    classes = sets["train"].classes
    unknown = sorted(set(sets["test"].classes) - set(classes))
    if unknown:
        raise ValueError(f"--data-dir {data_dir}: test has classes that train has not: {', '.join(unknown[:5])}")
    rows = {}
    for split, images in sets.items():
        number = [classes.index(name) for name in images.classes]
        targets = np.array([number[target] for target in images.targets], dtype=np.int64)
        rows[split] = ((image for image, _ in images), len(images), targets)
    return rows, classes


def table_rows(name, files):
    """CIFAR from parquet files, or from the hub if there are none, in the form of folder_rows."""
    repository, image_column, label_column = HUB_SETS[name]
    if not files:
        refuse_unreachable_hub(name, repository)
    from datasets import Image, disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetGenerationError

    disable_progress_bars()
    by_split = {s: [str(f) for f in files if f.name.startswith(f"{s}-")] for s in ("train", "test")}
    try:
        sets = load_dataset("parquet", data_files=by_split) if files else load_dataset(repository)
    except (ConnectionError, DatasetGenerationError, OSError, ValueError) as error:
        raise ValueError(
            f"cannot read {name} from {files[0].parent if files else 'the hub'}: {str(error).splitlines()[0]}"
        ) from None
    rows = {}
    for split, table in sets.items():
        missing = {image_column, label_column} - set(table.column_names)
        if missing:
            raise ValueError(
                f"{split} split of {name}: no column {missing.pop()!r}, found {', '.join(table.column_names)}"
            )
        images = table.select_columns([image_column]).cast_column(image_column, Image())
        try:
            targets = np.array(table[label_column][:], dtype=np.int64)
        except (TypeError, ValueError):
            raise ValueError(f"{split} split of {name}: column {label_column!r} must hold class numbers only") from None
        rows[split] = ((row[image_column] for row in images), len(table), targets)
    label = sets["train"].features[label_column]
    classes = getattr(label, "names", None) or [str(i) for i in range(int(name.removeprefix("cifar")))]
    return rows, classes


def refuse_unreachable_hub(name, repository):
    """Raises ValueError at once, not after the client's 23 s of retries, where neither hub nor its local copy is there."""
    from huggingface_hub import HfApi, constants

    try:
        HfApi().dataset_info(repository, timeout=5)
    except Exception as error:  # httpx and httpx2 errors, by the hub's version, are no OSErrors
        from datasets import config

        cached = (Path(config.HF_DATASETS_CACHE) / repository.replace("/", "___")).is_dir()
        if not cached:
            raise ValueError(
                f"cannot reach the hub for {repository} ({type(error).__name__}): give --data-dir, a folder with its "
                f"parquet files, or try --dataset shapes100, which needs no download"
            ) from None
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True


def decode_split(split, images, n, targets, image_size):
    """PIL images -> (uint8 (n, H, W, 3), targets). Raises ValueError naming split and row of an image that is unfit."""
    out = None
    for row in range(n):
        try:
            image = to_rgb(next(images))
        except (
            AttributeError,
            OSError,
            SyntaxError,
            ValueError,
        ) as error:  # what PIL raises for bytes that are no image
            raise ValueError(f"{split} split, row {row}: cannot read the image ({error})") from None
        if image_size:
            image = resize(image, image_size)
        if out is None:
            out = np.empty((n, image.height, image.width, 3), dtype=np.uint8)
        if image.height != image.width or image.size != out.shape[2:0:-1]:
            raise ValueError(
                f"{split} split, row {row}: image of {image.width}x{image.height} pixels where squares of one size are "
                f"needed: give --image-size"
            )
        out[row] = np.asarray(image)
    return out, targets


def to_rgb(image):
    """A PIL image of any mode in RGB. Of 16-bit grey the high byte is kept, where PIL would clip."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def resize(image, size):
    """Shorter side to `size` pixels, then the central square."""
    from PIL import Image

    scale = size / min(image.size)
    image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def write_cache(folder, train, test, classes):
    """Writes a decoded dataset; the folder appears only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    pending = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.tmp"))
    for split, (images, targets) in (("train", train), ("test", test)):
        np.save(pending / f"{split}_images.npy", images)
        np.save(pending / f"{split}_targets.npy", targets)
    sums = np.zeros(3)
    squares = np.zeros(3)
    for chunk in np.array_split(train[0], max(1, len(train[0]) // 5000)):
        pixels = chunk.reshape(-1, 3).astype(np.float32)
        sums += pixels.sum(0, dtype=np.float64)
        squares += np.square(pixels).sum(0, dtype=np.float64)
    n_pixels = train[0].size / 3
    mean = sums / n_pixels
    std = np.sqrt(squares / n_pixels - mean**2).clip(min=1)
    (pending / "meta.json").write_text(json.dumps({"classes": classes, "mean": list(mean), "std": list(std)}))
    try:
        pending.rename(folder)
    except OSError:
        shutil.rmtree(pending)
        if not (folder / "meta.json").exists():  # or else another process was first
            raise


def read_cache(folder):
    meta = json.loads((folder / "meta.json").read_text())
    splits = []
    for split in ("train", "test"):
        # copy-on-write: writable as torch wants it, yet the pages are shared by all processes of the node
        images, targets = (np.load(folder / f"{split}_{part}.npy", mmap_mode="c") for part in ("images", "targets"))
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
        splits.append(Split(images, torch.from_numpy(targets), torch.arange(len(images))))
    return ImageSet(*splits, **meta)


def hold_out(split, val_size, seed):
    """Splits off a stratified part: (the rest, the part). val_size: a fraction below 1, or a number of images; 0 for none.

    Raises ValueError where a part would be empty.
    """
    if val_size == 0:
        return split, None
    n_held = round(val_size * len(split)) if val_size < 1 else int(val_size)
    if not 0 < n_held < len(split):
        raise ValueError(f"--val-size {val_size:g} leaves no image on one side of {len(split)} training images")
    index = split.index.cpu().numpy()
    shuffled = np.random.default_rng(seed).permutation(len(index))
    label = split.targets.cpu().numpy()[index][shuffled]
    turn = np.empty(len(index))  # when an image is taken: all classes are used up at the same rate
    for c in np.unique(label):
        members = label == c
        turn[members] = (np.arange(members.sum()) + 0.5) / members.sum()
    held = np.zeros(len(index), dtype=bool)
    held[shuffled[np.argsort(turn, kind="stable")[:n_held]]] = True
    sides = (torch.from_numpy(index[side]).to(split.index.device) for side in (~held, held))
    return tuple(replace(split, index=side) for side in sides)


# ---------------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Augment:
    """What is drawn for each training image, in pixels and rates; 0 turns a part off.

    crop_padding: pixels by which the crop may move, borders reflected. flip: mirrors every other image. cutout: side of
    the square that is set to the mean (DeVries and Taylor 2017). mixup, cutmix: the alpha of their Beta(alpha, alpha)
    (Zhang et al. 2018; Yun et al. 2019); with both, each batch takes one of them.
    """

    crop_padding: int = 4
    flip: bool = True
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0


class TrainBatches:
    """The augmented batches of a split, as one process of `world_size` sees them.

    batch_size is global: every process takes an equal slice of each batch, and what does not fill a batch is left out of
    the epoch. Raises ValueError if the processes do not divide the batch or the split does not fill one.
    """

    def __init__(self, split, batch_size, augment, mean, std, n_classes, seed, rank=0, world_size=1):
        if batch_size % world_size:
            raise ValueError(f"--batch-size {batch_size} is not a multiple of the {world_size} processes")
        if len(split) < batch_size:
            raise ValueError(f"{len(split)} training images do not fill one batch: lower --batch-size {batch_size}")
        if augment.crop_padding >= min(split.images.shape[2:]):
            raise ValueError(
                f"--crop-padding {augment.crop_padding} does not fit images of {split.images.shape[3]} pixels"
            )
        self.split, self.batch_size, self.augment = split, batch_size, augment
        self.n_classes, self.seed, self.rank, self.world_size = n_classes, seed, rank, world_size
        self.steps_per_epoch = len(split) // batch_size
        device = split.images.device
        _, C, H, W = split.images.shape
        self.pixels = split.images.permute(0, 2, 3, 1).reshape(-1, C)  # a view: one row of bytes per pixel
        self.mean, self.std = (torch.tensor(v, device=device, dtype=torch.float32).view(-1, 1, 1) for v in (mean, std))
        self.rows = torch.arange(H, device=device)
        self.cols = torch.arange(W, device=device)

    def epoch(self, epoch, first_step=0):
        """Yields (imgs float (b, 3, H, W), targets) per step: class numbers (b,), or shares (b, n_classes) if mixed."""
        draws = self.draw(epoch)
        b = self.batch_size // self.world_size
        for step in range(first_step, self.steps_per_epoch):
            start = step * self.batch_size
            mine = slice(start + self.rank * b, start + (self.rank + 1) * b)
            imgs, targets = self.take(draws, mine)
            if self.augment.mixup or self.augment.cutmix:
                # the partner of the batch's i-th image is its i-th from the end, whichever process holds that one
                last = 2 * start + self.batch_size
                partner_imgs, partner_targets = self.take(draws, slice(last - mine.stop, last - mine.start))
                partners = partner_imgs.flip(0), partner_targets.flip(0)
                imgs, targets = self.mix(imgs, targets, *partners, {k: v[mine] for k, v in draws.items()})
            yield imgs, targets

    def draw(self, epoch):
        """Everything random about an epoch, one row for each position in it."""
        rng = np.random.default_rng((self.seed, epoch))
        n = self.steps_per_epoch * self.batch_size
        padding, H, W = self.augment.crop_padding, len(self.rows), len(self.cols)
        draws = {
            "row": self.split.index.cpu().numpy()[rng.permutation(len(self.split))[:n]],
            "top": rng.integers(-padding, padding, n, endpoint=True),
            "left": rng.integers(-padding, padding, n, endpoint=True),
            "mirror": rng.random(n) < (0.5 if self.augment.flip else 0),
            "hole_y": rng.integers(0, H, n),
            "hole_x": rng.integers(0, W, n),
        }
        if self.augment.mixup or self.augment.cutmix:
            p_mixup = bool(self.augment.mixup) / (bool(self.augment.mixup) + bool(self.augment.cutmix))
            blend = np.repeat(rng.random(self.steps_per_epoch) < p_mixup, self.batch_size)
            blended, pasted = (
                rng.beta(a, a, n) if a else np.ones(n) for a in (self.augment.mixup, self.augment.cutmix)
            )
            draws |= {"blend": blend, "share": np.where(blend, blended, pasted).astype(np.float32)}
        return {name: torch.from_numpy(values).to(self.rows.device) for name, values in draws.items()}

    def take(self, draws, positions):
        """The augmented images at these positions of the epoch, and their class numbers."""
        row, top, left, mirror, hole_y, hole_x = (
            draws[name][positions, None] for name in ("row", "top", "left", "mirror", "hole_y", "hole_x")
        )
        H, W = len(self.rows), len(self.cols)
        ys = reflect(self.rows + top, H)  # (b, H)
        xs = reflect(torch.where(mirror, W - 1 - self.cols, self.cols) + left, W)  # (b, W)
        imgs = self.pixels[((row * H + ys) * W)[:, :, None] + xs[:, None, :]]  # (b, H, W, 3)
        imgs = normalize(imgs.permute(0, 3, 1, 2), self.mean, self.std)
        if self.augment.cutout:
            half = self.augment.cutout / 2
            hole = self.inside(hole_y, hole_x, half, half)
            imgs.masked_fill_(hole[:, None], 0)  # 0 is the mean
        return imgs, self.split.targets[row[:, 0]]

    def mix(self, imgs, targets, partner_imgs, partner_targets, draws):
        """Mixup or CutMix: imgs and shares of classes (b, n_classes)."""
        H, W = len(self.rows), len(self.cols)
        share = draws["share"][:, None]
        side = (1 - share).sqrt() / 2  # CutMix pastes a box with sides (H, W) * sqrt(1 - share)
        box = self.inside(draws["hole_y"][:, None], draws["hole_x"][:, None], side * H, side * W)
        keep = torch.where(draws["blend"][:, None, None], share[:, :, None], (~box).float())  # (b, H, W)
        share = keep.mean((1, 2))[:, None]  # what is left of the image once the box is cut at the border
        one_hot, partner_one_hot = (
            torch.nn.functional.one_hot(t, self.n_classes).float() for t in (targets, partner_targets)
        )
        keep = keep[:, None]
        return imgs * keep + partner_imgs * (1 - keep), one_hot * share + partner_one_hot * (1 - share)

    def inside(self, y, x, half_height, half_width):
        """Mask (b, H, W) of boxes around the pixels (y, x), cut at the border."""
        in_rows = (self.rows >= y - half_height) & (self.rows < y + half_height)
        in_cols = (self.cols >= x - half_width) & (self.cols < x + half_width)
        return in_rows[:, :, None] & in_cols[:, None, :]


def reflect(i, n):
    """Folds positions outside 0..n-1 back in, the border itself not repeated."""
    return (n - 1) - (n - 1 - i.abs()).abs()


def normalize(imgs, mean, std):
    """uint8 images (B, 3, H, W) -> float with the training set's mean 0 and standard deviation 1 in each channel."""
    return (imgs.float() - mean).div_(std)


def eval_batches(split, batch_size, mean, std, rank=0, world_size=1):
    """Yields (imgs, targets) of every world_size-th image: over all processes each image comes once, whatever their number."""
    mean, std = (torch.tensor(v, device=split.images.device, dtype=torch.float32).view(-1, 1, 1) for v in (mean, std))
    for rows in split.index[rank::world_size].split(batch_size):
        if len(rows):  # a process may have none
            yield normalize(split.images[rows], mean, std), split.targets[rows]


# -------------------------------------------------------------------------------------------------------- shapes100

OUTLINES = ("circle", "square", "triangle", "star", "ring", "cross", "crescent", "bar", "half-disc", "hourglass")
TEXTURES = (
    "solid",
    "wide-stripes",
    "narrow-stripes",
    "checker",
    "dots",
    "circles",
    "sectors",
    "gradient",
    "grid",
    "speckle",
)


def draw_shapes100(n_train=20_000, n_test=5_000, size=32):
    """Draws the built-in set, 10 outlines times 10 textures, in the form of decode(). The same pixels every time.

    Place, size, rotation and colours are random, over a background with clutter and noise, so that no single pixel says
    much about the class.
    """
    splits = []
    for seed, n in ((0, n_train), (1, n_test)):
        generator = torch.Generator().manual_seed(seed)
        targets = torch.arange(n) % 100
        images = torch.cat([draw_shapes(part, size, generator) for part in targets.split(1000)])
        splits.append((images.permute(0, 2, 3, 1).contiguous().numpy(), targets.numpy()))
    return *splits, [f"{texture} {outline}" for outline in OUTLINES for texture in TEXTURES]


def draw_shapes(targets, size, generator):
    """uint8 (B, 3, size, size) for class numbers (B,)."""
    B = len(targets)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(B, *shape, generator=generator)

    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = axis.view(1, -1, 1), axis.view(1, 1, -1)
    pixel = 2 / size

    colours = uniform(0, 1, 6, 3, 1, 1)  # background, two of the texture, three of the clutter
    colours[:, 2] = (colours[:, 1] + uniform(0.35, 0.65, 3, 1, 1)) % 1  # far from the texture's other colour
    imgs = colours[:, 0].expand(B, 3, size, size)
    for k in range(3):
        cx, cy, radius = uniform(-1, 1, 1, 1), uniform(-1, 1, 1, 1), uniform(0.1, 0.3, 1, 1)
        blob = ((radius - torch.hypot(x - cx, y - cy)) / pixel + 0.5).clamp(0, 1)[:, None]
        imgs = torch.lerp(imgs, colours[:, 3 + k], blob)

    scale, angle = uniform(0.6, 0.9, 1, 1), uniform(0, 2 * torch.pi, 1, 1)
    dx, dy = x - uniform(-0.25, 0.25, 1, 1), y - uniform(-0.25, 0.25, 1, 1)
    u = (dx * angle.cos() + dy * angle.sin()) / scale  # the object's own axes
    v = (dy * angle.cos() - dx * angle.sin()) / scale
    speckle = uniform(0, 1, size, size).round()
    depth, paint = torch.empty(B, size, size), torch.empty(B, size, size)
    for k in range(10):
        rows = targets // 10 == k
        depth[rows] = outline(OUTLINES[k], u[rows], v[rows])
        rows = targets % 10 == k
        paint[rows] = texture(TEXTURES[k], u[rows], v[rows], speckle[rows])
    inside = (depth * scale / pixel + 0.5).clamp(0, 1)[:, None]  # edges are one pixel soft
    imgs = torch.lerp(imgs, torch.lerp(colours[:, 1], colours[:, 2], paint[:, None]), inside)
    imgs = imgs + 0.06 * torch.randn(imgs.shape, generator=generator)
    return (imgs.clamp(0, 1) * 255).round().to(torch.uint8)


def outline(name, u, v):
    """Depth inside the outline (negative outside) at the object's coordinates, in units of its radius."""
    r, phi = torch.hypot(u, v), torch.atan2(v, u)
    match name:
        case "circle":
            return 0.85 - r
        case "square":
            return 0.75 - torch.maximum(u.abs(), v.abs())
        case "triangle":
            return 0.5 - torch.stack([v, 0.866 * u - 0.5 * v, -0.866 * u - 0.5 * v]).amax(0)
        case "star":
            return 0.65 + 0.3 * torch.cos(5 * phi) - r
        case "ring":
            return 0.22 - (r - 0.7).abs()
        case "cross":
            long, short = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
            return torch.minimum(0.95 - long, 0.25 - short)
        case "crescent":
            return torch.minimum(0.95 - r, torch.hypot(u - 0.5, v) - 0.65)
        case "bar":
            return torch.minimum(0.95 - u.abs(), 0.35 - v.abs())
        case "half-disc":
            return torch.minimum(0.95 - r, v + 0.15)
        case "hourglass":
            return torch.minimum(0.9 - v.abs(), 0.8 * v.abs() + 0.05 - u.abs())


def texture(name, u, v, speckle):
    """Share of the second colour, 0 to 1, at the object's coordinates."""
    turn = 2 * torch.pi
    match name:
        case "solid":
            return torch.zeros_like(u)
        case "wide-stripes":
            return (torch.sin(turn * 1.1 * u) > 0).float()
        case "narrow-stripes":
            return (torch.sin(turn * 2.5 * u) > 0).float()
        case "checker":
            return (torch.sin(turn * 1.2 * u) * torch.sin(turn * 1.2 * v) > 0).float()
        case "dots":
            return (torch.cos(turn * 1.7 * u) + torch.cos(turn * 1.7 * v) > 0.7).float()
        case "circles":
            return (torch.cos(turn * 2.2 * torch.hypot(u, v)) > 0).float()
        case "sectors":
            return (torch.cos(4 * torch.atan2(v, u)) > 0).float()
        case "gradient":
            return (0.5 + 0.6 * u).clamp(0, 1)
        case "grid":
            return (torch.maximum(torch.cos(turn * 1.7 * u), torch.cos(turn * 1.7 * v)) > 0.6).float()
        case "speckle":
            return speckle
