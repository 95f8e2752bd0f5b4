"""From files to pixels: the one place where images are found, opened, turned upright, put on the scale 0 to 255 and resized.

Folders, tables, streamed sets and `--predict` all read through here, so that every picture is seen in one way.
"""

import io
import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".avif", ".tif", ".tiff",
            ".ppm", ".pgm", ".pbm", ".pnm", ".jp2"}  # fmt: skip
ORIENTATION = 0x0112  # the EXIF tag, and how an image that bears its value is turned for the eye
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TWELVE_BITS = (
    2**12
)  # below it, 16-bit values are those of a camera's 12 bits, or of 8, as likely as those of a dark picture
EIGHT_BITS = "save the image with 8 bits per channel"


class UnfitImageError(OSError, ValueError):
    """Images that cannot be used: the user's mistake when a set is loaded, a failure of the run later.

    problems: a line for each of them.
    """

    def __init__(self, *problems):
        self.problems = list(problems)
        several = f"{len(problems)} images cannot be used: " if len(problems) > 1 else ""
        super().__init__(several + "; ".join(self.problems))


# ------------------------------------------------------------------------------------------------------------- finding


def image_files(folder):
    """The images below a folder, as sorted paths, and how many other names there are: ([str], Counter).

    A name is that of an image by its suffix. Names with a leading dot are left out, and folders of such a name as a whole:
    what editors, desktops and archivers leave beside images. Links are followed, but for those to a folder above them.
    """
    found, left_out = [], Counter()
    for root, folders, names in os.walk(folder, followlinks=True):
        dotted = [name for name in [*folders, *names] if name.startswith(".")]
        left_out["dotted"] += len(dotted)
        folders[:] = [name for name in folders if not name.startswith(".") and not leads_up(root, name)]
        images = [name for name in names if not name.startswith(".") and is_image(name)]
        left_out["others"] += len(names) - len(images) - sum(name.startswith(".") for name in names)
        found.append((root, sorted(images)))
    return [os.path.join(root, name) for root, images in sorted(found) for name in images], left_out


def is_image(name):
    return os.path.splitext(name)[1].lower() in SUFFIXES


def leads_up(root, name):
    """Whether a folder is a link to one that it is in, which would have no end."""
    path = os.path.join(root, name)
    if not os.path.islink(path):
        return False
    target, here = os.path.realpath(path), os.path.realpath(root)
    return os.path.commonpath([target, here]) == target


def left_out_in_words(folder, left_out):
    """One line that counts what image_files left out of a folder, or None where it left out nothing."""
    counts = {
        "name that begins with a dot": "names that begin with a dot",
        "file that is no image by its name": "files that are no images by their names",
    }
    n = left_out["dotted"], left_out["others"]
    parts = [f"{k:,} {one if k == 1 else many}" for k, (one, many) in zip(n, counts.items(), strict=True) if k]
    return f"left out of {folder}: {' and '.join(parts)}" if parts else None


# ------------------------------------------------------------------------------------------------------------- reading


def read_image(file, image_size=None):
    """An image as every network sees it: a PIL image in RGB, upright, on the scale 0 to 255.

    file: a path, the bytes of a file, or pixels uint8 (H, W, 3). image_size: resize and centre-crop to that many pixels.
    What is no image raises whatever its decoder met; ValueError is for pixels whose range is not known.
    """
    if isinstance(file, np.ndarray):
        image = Image.fromarray(file)
    else:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
            image = upright(opened, to_rgb(opened))
    return resize(image, image_size) if image_size else image


def upright(opened, image):
    """The image, turned as the EXIF data of its file ask for."""
    try:
        turn = TURNS.get(opened.getexif().get(ORIENTATION))  # of a TIFF it is gone: Pillow has turned it already
    except Exception:  # damaged EXIF data, which viewers ignore, raise whatever their reader met
        turn = None
    return image if turn is None else image.transpose(turn)


def to_rgb(image):
    """A PIL image of any mode in RGB, on the scale 0 to 255.

    Known are 8 bits; 16 bits of which the highest four are in use, or that Pillow itself has scaled to 16 (PGM, JPEG 2000);
    TIFF's 12 bits; and floats from 0 to 1. Raises ValueError for all others, which would come out black or wrapped.
    """
    stored = str(
        getattr(image, "tile", "")
    )  # names, until the pixels are loaded, the form in which the file holds them
    image.load()
    if image.mode == "F":
        return float_to_rgb(image)
    scaled = image.format in ("PPM", "JPEG2000")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        pixels = np.asarray(image)
        bits = 12 if ";12" in stored else 16
        if bits == 16 and not scaled and 0 < pixels.max() < TWELVE_BITS:
            raise ValueError(f"16-bit pixels of {pixels.max()} at the most, of a range that is not known: {EIGHT_BITS}")
        return Image.fromarray((pixels >> (bits - 8)).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        lowest, highest = image.getextrema()
        raise ValueError(f"32-bit pixels of {lowest} to {highest}, a range that is not known: {EIGHT_BITS}")
    rgb = image.convert("RGB")
    if ";16" in stored and not scaled and np.asarray(rgb).max() < TWELVE_BITS >> 8:  # Pillow keeps the high bytes alone
        raise ValueError(f"16-bit colours of less than {TWELVE_BITS}, of a range that is not known: {EIGHT_BITS}")
    return rgb


def float_to_rgb(image):
    pixels = np.asarray(image)
    lowest, highest = pixels.min(), pixels.max()
    if not (lowest >= 0 and highest <= 1):  # nor for nan
        raise ValueError(f"float pixels of {lowest:g} to {highest:g}, where 0 to 1 is known: {EIGHT_BITS}")
    return Image.fromarray((pixels * 255).round().astype(np.uint8)).convert("RGB")


def resize(image, size):
    """Shorter side to `size` pixels, then the central square."""
    scale = size / min(image.size)
    image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


# -------------------------------------------------------------------------------------------------- images of a split


@dataclass(frozen=True)
class Encoded:
    """The images of a split as they are stored. source[row] is what read_image takes; image_size None leaves their size."""

    split: str
    source: object
    targets: np.ndarray
    image_size: int | None

    def __len__(self):
        return len(self.source)

    @cached_property
    def size(self):
        """The side in pixels that all images must have once they are decoded."""
        return self.image_size or self.open(0).width

    def name(self, row):
        """What an image is called in messages: its path, or its row."""
        file = self.source[row]
        return file if isinstance(file, str) else f"{self.split} split, row {row}"

    def open(self, row):
        """Row -> a PIL image in RGB. Raises UnfitImageError, naming the image, for what cannot be read."""
        try:
            return read_image(self.source[row], self.image_size)
        except Exception as error:  # bytes that are no image raise whatever their decoder met
            raise UnfitImageError(f"{self.name(row)}: cannot read the image ({' '.join(str(error).split())})") from None

    def decode(self, rows):
        """Rows -> uint8 (b, size, size, 3). Raises UnfitImageError, naming all that cannot be read or are no such squares."""
        images = np.empty((len(rows), self.size, self.size, 3), dtype=np.uint8)
        problems = []
        for out, row in zip(images, rows, strict=True):
            try:
                image = self.open(row)
                if image.size != (self.size, self.size):
                    raise UnfitImageError(
                        f"{self.name(row)}: image of {image.width}x{image.height} pixels where squares of one size are "
                        f"needed: give --image-size"
                    )
                out[:] = np.asarray(image)
            except UnfitImageError as error:
                problems += error.problems
        if problems:
            raise UnfitImageError(*problems)
        return images
