"""From files to pixels: the one place where images are found, opened, turned upright, put on the scale 0 to 255 and resized.

Folders, tables, streamed sets and `--predict` all read through here, so that every image is treated alike. Threads decode:
Pillow releases the GIL while it decodes and resizes an image.
"""

import io
import os
import warnings
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, UnidentifiedImageError

from flags import one_line

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".avif", ".tif", ".tiff",
            ".ppm", ".pgm", ".pbm", ".pnm", ".jp2"}  # fmt: skip
PHOTOMETRIC, WHITE_IS_ZERO = 0x0106, 0  # a TIFF's tag, and its value for negatives
BITS_PER_SAMPLE = 0x0102  # another tag, with a value for each channel
SAMPLE_FORMAT, SIGNED = 0x0153, 2  # another tag, and its value for signed integers
ORIENTATION = 0x0112  # the EXIF tag, and for each of its values how to turn the image upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Below this, 16-bit values are as likely to be a camera's 12 bits, or 8, as a dark picture.
TWELVE_BITS = 2**12
AT_ONCE = 16  # images that a thread decodes before it looks for more
WHOLE_FILE = 2**24  # bytes read from a file at once
SHOWN = 10  # unfit images that a message names
NO_SQUARE = "image of {}x{} pixels where squares of one size are needed: give --image-size"
EIGHT_BITS = "save the image with 8 bits per channel"
# These remarks of Pillow name no file, and none of them matters here.
warnings.filterwarnings("ignore", "Palette images with|Corrupt EXIF data|Image size .* exceeds", module=r"PIL\.")


class UnfitImageError(OSError, ValueError):
    """Images that cannot be used: the user's mistake when a set is loaded, a failure of the run later.

    problems: a line for each of them.
    """

    def __init__(self, *problems, listed=None):
        self.problems = list(problems)
        several = f"{len(problems):,} images cannot be used: " if len(problems) > 1 else ""
        more = f"; and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        super().__init__(
            several + "; ".join(self.problems[:SHOWN]) + more + (f", all of them in {listed}" * bool(listed))
        )

    def listed_in(self, file):
        """This error; or, with more problems than SHOWN, one that names the file, to which all of them have been written."""
        if len(self.problems) <= SHOWN:
            return self
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(f"{problem}\n" for problem in self.problems)
            file.write_text(text, encoding="utf-8", errors="surrogateescape")  # names need not be UTF-8
        except OSError:
            return self
        return UnfitImageError(*self.problems, listed=file)


# ------------------------------------------------------------------------------------------------------------- finding


def image_files(folder):
    """The images below a folder, as sorted paths, and how many other names there are: ([str], Counter).

    Suffixes tell which names are images'. Names with a leading dot are left out, and folders of such a name as a whole:
    what editors, desktops and archivers leave beside images. Links are followed, unless they lead back to a folder that they
    were reached through. Raises ValueError for a folder that cannot be read.
    """

    def refuse(error):  # or os.walk would leave out what it cannot read
        raise ValueError(f"cannot read {error.filename}: {error.strerror}")

    found, left_out = [], Counter()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        left_out["dotted"] += sum(name.startswith(".") for name in [*folders, *names])
        folders[:] = [name for name in folders if not name.startswith(".") and not leads_back(folder, root, name)]
        names = [name for name in names if not name.startswith(".")]
        images = [name for name in names if is_image(name)]
        left_out["others"] += len(names) - len(images)
        found.append((root, sorted(images)))
    return [os.path.join(root, name) for root, images in sorted(found) for name in images], left_out


def is_image(name):
    return os.path.splitext(name)[1].lower() in SUFFIXES


def leads_back(folder, root, name):
    """Whether root/name is a link to a folder passed on the way down from `folder`, or to one above: that would have no end."""
    path = os.path.join(root, name)
    if not os.path.islink(path):
        return False
    steps = os.path.relpath(root, folder).split(os.sep)
    passed = [os.path.realpath(os.path.join(folder, *steps[:n])) for n in range(len(steps) + 1)]
    target = os.path.realpath(path)
    return any(os.path.commonpath([target, real]) == target for real in passed)


def left_out_in_words(folder, left_out):
    """One line that counts what image_files left out of a folder, or None where it left out nothing."""
    counts = {
        "dotted": ("name that begins with a dot", "names that begin with a dot"),
        "others": ("file without an image's suffix", "files without an image's suffix"),
        "loose": ("image outside the class folders", "images outside the class folders"),
    }
    found = [(left_out[kind], words) for kind, words in counts.items() if left_out[kind]]
    parts = [f"{n:,} {one if n == 1 else many}" for n, (one, many) in found]
    return f"left out of {folder}: {' and '.join(parts)}" if parts else None


# ------------------------------------------------------------------------------------------------------------- reading


def opened(file):
    """A path, or the bytes of a file, as a PIL image with only its header read. Raises whatever its decoder raises."""
    try:
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    except UnidentifiedImageError:
        raise ValueError("in no format that Pillow knows") from None
    image.decodermaxblock = WHOLE_FILE  # or threads would queue for the GIL after each 64 KiB
    return image


def read_image(file, image_size=None):
    """An image as every network sees it: a PIL image in RGB, upright, on the scale 0 to 255.

    file: a path, the bytes of a file, or pixels uint8 (H, W, 3). image_size: resize and centre-crop to that many pixels.
    Raises whatever the decoder raises, and UnfitImageError for pixels whose range is not known.
    """
    if isinstance(file, np.ndarray):
        image = Image.fromarray(file)
    else:
        with opened(file) as stored:
            image = upright(stored, to_rgb(stored))
    return resize(image, image_size) if image_size else image


def size_of(file):
    """Width and height of what read_image takes, from a file's header, before it is turned upright."""
    if isinstance(file, np.ndarray):
        return file.shape[1], file.shape[0]
    with opened(file) as stored:
        return stored.size


def upright(stored, image):
    """The image, turned as the EXIF data of its file ask for."""
    try:
        turn = TURNS.get(stored.getexif().get(ORIENTATION))  # a TIFF has none left: Pillow has turned it already
    except Exception:  # damaged EXIF data, which viewers ignore, raise whatever their reader met
        turn = None
    return image if turn is None else image.transpose(turn)


def to_rgb(image):
    """A PIL image of any mode in RGB, on the scale 0 to 255.

    Takes unsigned pixels of 8 bits; of 16 bits with a maximum of at least 2**12, or of any maximum in PGM and JPEG 2000, which
    Pillow scales; of a TIFF's 12 bits; and floats from 0 to 1. Negative TIFFs are inverted. Raises UnfitImageError for all
    others, which would come out black or wrapped, and for colour TIFFs with uncompressed 16-bit planes, which Pillow misreads.
    """
    stored = str(getattr(image, "tile", ""))  # until pixels are loaded, names the form in which the file holds them
    is_colour_tiff = image.format == "TIFF" and image.mode in ("RGB", "RGBA", "CMYK")
    if is_colour_tiff and ";16" not in stored and max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) > 8:
        raise UnfitImageError(f"16-bit colours stored plane by plane, which Pillow misreads: {EIGHT_BITS}")
    if image.format == "TIFF" and image.mode == "L" and SIGNED in image.tag_v2.get(SAMPLE_FORMAT, ()):
        raise UnfitImageError("signed 8-bit pixels, of unknown range: save the image with unsigned ones")
    image.load()
    # Pillow turns the negatives of a TIFF by itself up to 8 bits
    negative = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if image.mode == "F":
        return float_to_rgb(image, negative)
    scaled = image.format in ("PPM", "JPEG2000")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        pixels = np.asarray(image)
        bits = 12 if ";12" in stored else 16
        if bits == 16 and not scaled and 0 < pixels.max() < TWELVE_BITS:
            raise UnfitImageError(f"16-bit pixels with a maximum of {pixels.max()}, of unknown range: {EIGHT_BITS}")
        pixels = 2**bits - 1 - pixels if negative else pixels
        return Image.fromarray((pixels >> (bits - 8)).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        lowest, highest = image.getextrema()
        raise UnfitImageError(f"32-bit pixels from {lowest} to {highest}, of unknown range: {EIGHT_BITS}")
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    has_16_bits = ";16" in stored and image.format in ("PNG", "TIFF")  # in a BMP, BGR;16 is the bits of a pixel
    if has_16_bits and np.asarray(rgb).max() < TWELVE_BITS >> 8:  # Pillow keeps the high bytes alone
        raise UnfitImageError(f"16-bit colours below {TWELVE_BITS}, of unknown range: {EIGHT_BITS}")
    return rgb


def float_to_rgb(image, negative):
    pixels = np.asarray(image)
    lowest, highest = pixels.min(), pixels.max()
    if not (lowest >= 0 and highest <= 1):  # or nan
        raise UnfitImageError(f"float pixels from {lowest:g} to {highest:g}, not from 0 to 1: {EIGHT_BITS}")
    pixels = 1 - pixels if negative else pixels
    return Image.fromarray((pixels * 255).round().astype(np.uint8)).convert("RGB")


def resize(image, size):
    """Shorter side to `size` pixels, then the central square."""
    scale = size / min(image.size)
    image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


# -------------------------------------------------------------------------------------------------- images of a split


def name_errors(name, read, *args):
    """read(*args), with every error as an UnfitImageError of one line that begins with the name."""
    try:
        return read(*args)
    except UnfitImageError as error:
        raise UnfitImageError(f"{name}: {error}") from None
    except Exception as error:  # bytes that are no image raise whatever their decoder met
        raise UnfitImageError(f"{name}: cannot read the image ({one_line(error) or type(error).__name__})") from None


class Stored(list):
    """Images one by one: paths of files, or pixels uint8 (H, W, 3)."""

    def take(self, rows):
        return [self[row] for row in rows]


@dataclass(frozen=True)
class Encoded:
    """The images of a split as they are stored. image_size None leaves the size that they have.

    source: has a length, and take(rows) gives what read_image takes for each of the rows.
    """

    split: str
    source: object
    targets: np.ndarray
    image_size: int | None

    def __len__(self):
        return len(self.source)

    @cached_property
    def size(self):
        """The side in pixels that all images must have once they are decoded: that of the first, or of the first that can be
        read. Raises UnfitImageError if not square."""
        if self.image_size:
            return self.image_size
        problems = []
        for row in range(len(self)):
            (file,) = self.source.take([row])
            try:
                width, height = name_errors(self.name(row, file), size_of, file)
            except UnfitImageError as error:
                problems += error.problems
                continue
            if width != height:
                raise UnfitImageError(f"{self.name(row, file)}: {NO_SQUARE.format(width, height)}")
            return width
        raise UnfitImageError(*problems)

    def name(self, row, file):
        return file if isinstance(file, str) else f"{self.split} split, row {row}"

    def decode(self, rows, out):
        """Decodes rows into out, uint8 (b, size, size, 3). Returns problems, a line for each image that is no such square."""

        def put(i, file):
            image = read_image(file, self.image_size)
            self.refuse_other_sizes(image.size)
            out[i] = image

        return self.problems(rows, put)

    def look(self, rows):
        """Reads the headers of rows. Returns problems as decode() does; pixels may still be damaged."""
        return self.problems(rows, lambda _, file: self.refuse_other_sizes(size_of(file)))

    def problems(self, rows, use):
        problems = []
        for i, (row, file) in enumerate(zip(rows, self.source.take(rows), strict=True)):
            try:
                name_errors(self.name(row, file), use, i, file)
            except UnfitImageError as error:
                problems += error.problems
        return problems

    def refuse_other_sizes(self, size):
        if not self.image_size and size != (self.size, self.size):
            raise UnfitImageError(NO_SQUARE.format(*size))


def decoded(images, batches, n_threads, empty):
    """Yields, in order, the pixels uint8 (b, size, size, 3) of each batch of rows of an Encoded, or an UnfitImageError.

    empty(shape) returns the buffer of a batch, which numpy can write to and which is then yielded; it is called in the order
    of the batches. Enough batches are decoded ahead to keep every thread busy.
    """
    size, waiting = images.size, deque()  # (buffer, the problems of its parts as they come) of batches under way
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for rows in batches:
                out = empty((len(rows), size, size, 3))
                pixels, part = np.asarray(out), max(1, min(AT_ONCE, -(-len(rows) // n_threads)))
                parts = [slice(k, k + part) for k in range(0, len(rows), part)]
                waiting.append((out, [pool.submit(images.decode, rows[here], pixels[here]) for here in parts]))
                while len(waiting) > 1 and sum(len(parts) for _, parts in waiting) >= 2 * n_threads:
                    yield finished(*waiting.popleft())
            while waiting:
                yield finished(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def finished(out, parts):
    """A batch once all of its parts are decoded; UnfitImageError if they have problems."""
    problems = [problem for part in parts for problem in part.result()]
    return UnfitImageError(*problems) if problems else out


def headers(images, n_threads):
    """The problems that the headers of all images of an Encoded show, a line each."""
    parts = [range(k, min(k + AT_ONCE, len(images))) for k in range(0, len(images), AT_ONCE)]
    problems, n_queued = [], 8 * n_threads  # what is queued is still read after Ctrl-C
    with ThreadPoolExecutor(n_threads) as pool:
        for k in range(0, len(parts), n_queued):
            problems += [problem for found in pool.map(images.look, parts[k : k + n_queued]) for problem in found]
    return problems
