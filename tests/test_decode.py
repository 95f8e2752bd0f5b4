"""decode.py: what counts as an image, and what pixels it has."""

import io
import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from decode import Encoded, UnfitImageError, decoded, headers, image_files, left_out_in_words, read_image, resize
from tests.processes import ROOT

RAMP = np.arange(256).reshape(16, 16)  # the value of each pixel says where it is


def stored(pixels, format="tiff", **options):
    """The bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def read(file):
    image = read_image(file)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(pixels):
    return np.repeat(np.asarray(pixels, dtype=np.uint8)[..., None], 3, axis=2)


# ------------------------------------------------------------------------------------------------------------ orientation


@pytest.mark.parametrize("format", ["png", "tiff", "webp"])
@pytest.mark.parametrize("value", range(1, 9))
def test_picture_is_read_as_it_is_shown(value, format):
    """By the table of the EXIF standard: which sides of the picture are the stored pixels' first row and first column."""
    picture = RAMP.astype(np.uint8)
    as_stored = {
        1: picture,  # top, left
        2: picture[:, ::-1],  # top, right
        3: picture[::-1, ::-1],  # bottom, right
        4: picture[::-1],  # bottom, left
        5: picture.T,  # left, top
        6: picture.T[::-1],  # right, top: rows of the file are columns of the picture, from the right
        7: picture.T[::-1, ::-1],  # right, bottom
        8: picture.T[:, ::-1],  # left, bottom
    }[value]
    exif = Image.Exif()
    exif[0x0112] = value
    options = {"lossless": True} if format == "webp" else {}
    file = stored(grey(as_stored) if format == "webp" else as_stored, format, exif=exif, **options)
    assert np.array_equal(read(file), grey(picture))


def test_pillow_prints_no_warnings(tmp_path):
    Image.fromarray(RAMP.astype(np.uint8)).quantize(16).save(tmp_path / "palette.png", transparency=bytes(range(16)))
    Image.new("1", (9500, 9500)).save(tmp_path / "large.png")
    code = "import sys, decode; [decode.read_image(path, 8) for path in sys.argv[1:]]"
    command = [sys.executable, "-c", code, *map(str, tmp_path.iterdir())]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr == ""


def test_damaged_exif_data_do_not_matter():
    file = stored(RAMP.astype(np.uint8), "png", exif=b"Exif\0\0not a directory of tags")
    assert np.array_equal(read(file), grey(RAMP))


# ------------------------------------------------------------------------------------------------------------------ range


def test_eight_bits_stay():
    for pixels in (RAMP, RAMP // 2):
        assert np.array_equal(read(stored(pixels.astype(np.uint8), "png")), grey(pixels))


@pytest.mark.parametrize("format", ["png", "tiff", "ppm"])
def test_sixteen_bits_keep_the_highest_eight(format):
    pixels = (RAMP * 257).astype(np.uint16)
    assert np.array_equal(read(stored(pixels, format)), grey(RAMP))


def test_black_is_black_in_16_bits():
    assert not read(stored(np.zeros((2, 3), np.uint16), "png")).any()


def test_values_of_12_bits_alone_are_in_doubt():
    """From 4096 on they are of 16 bits."""
    pixels = np.array([[0, 4096]], np.uint16)
    assert read(stored(pixels, "png"))[0, 1].tolist() == [16] * 3
    with pytest.raises(UnfitImageError, match="16-bit pixels with a maximum of 4095"):
        read_image(stored(pixels - (pixels > 0).astype(np.uint16), "png"))


def test_grey_values_that_a_file_gives_the_range_of_are_scaled():
    """PGM names its largest value: here 12 bits, in 16."""
    file = b"P5 16 16 4095\n" + (RAMP * 16 + 15).astype(">u2").tobytes()
    assert np.abs(read(file).astype(int) - grey(RAMP)).max() <= 1


def test_twelve_bits_of_a_tiff_keep_the_highest_eight():
    """Two of its pixels lie in three bytes."""
    one, two = (RAMP * 16 + 15).reshape(-1, 2).T
    packed = np.stack([one >> 4, (one & 15) << 4 | two >> 8, two & 255], 1).astype(np.uint8).tobytes()
    entries = {256: 16, 257: 16, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 16, 279: len(packed)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    head = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    assert np.array_equal(read(head + packed + struct.pack("<H", len(entries)) + directory + bytes(4)), grey(RAMP))


@pytest.mark.parametrize("format", ["ppm", "jpeg2000"])
def test_dark_pictures_whose_files_give_the_range_are_not_in_doubt(format):
    assert np.array_equal(read(stored((RAMP * 8).astype(np.uint16), format)), grey(RAMP // 32))


def negative(pixels):
    """A TIFF whose tag 262, photometric interpretation, is 0: white is zero."""
    file = bytearray(stored(pixels))
    at = file.find((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    file[at + 8] = 0
    return bytes(file)


@pytest.mark.parametrize(("type", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_negative_of_a_tiff_is_turned(type, white):
    assert np.array_equal(read(negative((RAMP * (white / 255)).astype(type))), grey(255 - RAMP))


def test_range_of_a_negative_is_that_of_its_values():
    with pytest.raises(UnfitImageError, match="16-bit pixels with a maximum of 4095"):
        read_image(negative((RAMP * 16 + 15).astype(np.uint16)))
    assert read(negative(np.full((2, 2), 65000, np.uint16))).max() == 2


def test_floats_from_0_to_1_are_shares_of_white():
    assert np.array_equal(read(stored((RAMP / 255).astype(np.float32))), grey(RAMP))
    assert np.array_equal(read(stored(np.zeros((2, 2), np.float32))), grey(np.zeros((2, 2))))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ((RAMP * 2**20).astype(np.int32), "32-bit pixels from 0 to 267386880, of unknown range"),
        (RAMP.astype(np.int32), "32-bit pixels from 0 to 255, of unknown range"),
        (RAMP.astype(np.uint16), "16-bit pixels with a maximum of 255, of unknown range"),
        ((RAMP * 16 + 15).astype(np.uint16), "16-bit pixels with a maximum of 4095, of unknown range"),
        (RAMP.astype(np.float32), "float pixels from 0 to 255, not from 0 to 1"),
        ((RAMP / 255 - 0.5).astype(np.float32), "float pixels from -0.5 to 0.5, not"),
        (np.full((2, 2), np.nan, np.float32), "float pixels from nan to nan, not"),
    ],
)
def test_range_that_is_not_known_is_refused(pixels, message):
    with pytest.raises(ValueError, match=f"^{message}.*: save the image with 8 bits per channel$"):
        read_image(stored(pixels))


def test_signed_bytes_are_refused():
    """Pillow would take -1 for 255."""
    with pytest.raises(UnfitImageError, match=r"^signed 8-bit pixels, of unknown range"):
        read_image(stored(RAMP.astype(np.uint8), tiffinfo={339: 2}))


def test_dark_bitmap_of_16_bits_a_pixel():
    """Its colours have 5, 6 and 5 bits."""
    size, masks = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0), (0xF800, 0x7E0, 0x1F)
    head = b"BM" + struct.pack("<IHHI", 70, 0, 0, 66)
    pixels = struct.pack("<HH", 0, 0x0841)
    assert read(head + size + struct.pack("<III", *masks) + pixels).tolist() == [[[0] * 3, [8, 8, 8]]]


def png_of_16_bit_colours(pixels):
    """Pillow reads these files, and does not write them. pixels: uint16 (H, W, 3)."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    H, W, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colours():
    pixels = grey(RAMP).astype(np.uint16)
    assert np.array_equal(read(png_of_16_bit_colours(pixels * 257)), grey(RAMP))
    for scale in (1, 15):  # of 8 bits, and of 12
        with pytest.raises(ValueError, match=r"^16-bit colours below 4096, of unknown range"):
            read_image(png_of_16_bit_colours(pixels * scale))


@pytest.mark.parametrize("planar", [1, 2])
def test_sixteen_bit_planes_of_a_tiff_are_refused(planar):
    """Pillow takes each of their bytes for a pixel; channel by channel in each pixel (planar 1) it reads them."""
    pixels = grey(RAMP).astype("<u2") * 257
    planes = pixels.tobytes() if planar == 1 else pixels.transpose(2, 0, 1).tobytes()
    n = 1 if planar == 1 else 3  # strips
    entries = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 3, 0), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, n, 8),
               (277, 3, 1, 3), (278, 3, 1, 16), (279, 4, n, len(planes) // n), (284, 3, 1, planar)]  # fmt: skip
    end = 8 + len(planes)
    tables = end + 2 + 12 * len(entries) + 4
    values = {258: struct.pack("<3H", 16, 16, 16)}
    if n == 3:
        values[273] = struct.pack("<3I", *(8 + i * len(planes) // 3 for i in range(3)))
        values[279] = struct.pack("<3I", *[len(planes) // 3] * 3)
    directory, after = struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in entries:
        if tag in values:
            value, after = tables + len(after), after + values[tag]
        directory += struct.pack("<HHII", tag, kind, count, value)
    file = struct.pack("<2sHI", b"II", 42, end) + planes + directory + bytes(4) + after
    if planar == 1:
        assert np.array_equal(read(file), grey(RAMP))
    else:
        with pytest.raises(UnfitImageError, match=r"^16-bit colours stored plane by plane"):
            read_image(file)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_eight_bits_are_converted(mode):
    black_and_white = np.where(RAMP < 128, 0, 255)
    file = io.BytesIO()
    Image.fromarray(grey(black_and_white)).convert(mode).save(file, "tiff")
    assert np.abs(read(file.getvalue()).astype(int) - grey(black_and_white)).max() <= 2


# ---------------------------------------------------------------------------------------------------------------- resizing


@pytest.mark.parametrize(("size", "box"), [((20, 10), (5, 0)), ((10, 30), (0, 10)), ((7, 7), (0, 0))])
def test_central_square_of_the_shorter_side(size, box):
    image = Image.effect_noise(size, 90).convert("RGB")
    side = min(size)
    expected = image.crop((*box, box[0] + side, box[1] + side))
    assert np.array_equal(np.asarray(resize(image, side)), np.asarray(expected))
    assert resize(image, 5).size == (5, 5)


def test_shrinking_weighs_pixels_by_their_distance():
    """Halved: pixels at 1/2 and 3/2 of the new one's centre count 3/8 and 1/8; a column of white is shared out so."""
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:, 3] = 255
    shrunk = np.asarray(resize(Image.fromarray(pixels), 4))
    assert shrunk.tolist() == [[0, 96, 32, 0]] * 4


# ----------------------------------------------------------------------------------------------------------------- finding


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_are_found_by_their_names(tmp_path):
    images = ["a.JPEG", "below/a.tif", "below/deeper/b.png", "c.webp"]
    touch(tmp_path, *images, "._a.JPEG", ".hidden/d.png", ".hidden/e.png", "below/.DS_Store", "Thumbs.db", "png")
    found, left_out = image_files(tmp_path)
    assert sorted(os.path.relpath(file, tmp_path) for file in found) == images
    assert left_out_in_words("D", left_out) == (
        "left out of D: 3 names that begin with a dot and 2 files without an image's suffix"
    )
    assert left_out_in_words("D", image_files(tmp_path / "below" / "deeper")[1]) is None


def test_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "ant" / "closed").mkdir(parents=True)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"cannot read .*closed: Permission denied"):
        image_files(tmp_path)


def test_names_need_not_be_unicode_to_be_listed(tmp_path):
    error = UnfitImageError(*[f"caf\udce9{i}.png: bad" for i in range(20)])
    assert "all of them in" in str(error.listed_in(tmp_path / "unfit.txt"))
    assert (tmp_path / "unfit.txt").read_bytes().count(b"caf\xe9") == 20


def test_links_are_followed_unless_they_lead_up(tmp_path):
    touch(tmp_path, "set/a/0.png", "elsewhere/1.png")
    (tmp_path / "set" / "a" / "there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "back").symlink_to(tmp_path / "set")
    found, _ = image_files(tmp_path / "set")
    assert [os.path.relpath(file, tmp_path / "set") for file in found] == ["a/0.png", "a/there/1.png"]


def test_links_to_each_other_are_followed_once(tmp_path):
    touch(tmp_path, "set/a/0.png", "set/b/1.png")
    (tmp_path / "set" / "a" / "other").symlink_to(tmp_path / "set" / "b")
    (tmp_path / "set" / "b" / "other").symlink_to(tmp_path / "set" / "a")
    found, _ = image_files(tmp_path / "set" / "a")
    assert [os.path.relpath(file, tmp_path / "set") for file in found] == ["a/0.png", "a/other/1.png"]


def test_several_unfit_images_are_told_in_one_line():
    assert str(UnfitImageError("a: bad")) == "a: bad"
    assert str(UnfitImageError("a: bad", "b: worse")) == "2 images cannot be used: a: bad; b: worse"


# ---------------------------------------------------------------------------------------------------------- threads


class Slow:
    """Images of one colour, the row's number, of which some take long and some cannot be read."""

    def __init__(self, n, bad=()):
        self.n, self.bad, self.at_work, self.most = n, bad, 0, 0

    def __len__(self):
        return self.n

    def take(self, rows):
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        time.sleep(0.002 * (rows[0] % 3))
        self.at_work -= 1
        return [b"bad" if row in self.bad else np.full((2, 2, 3), row, np.uint8) for row in rows]


@pytest.mark.parametrize("n_threads", [1, 3, 8])
@pytest.mark.parametrize("batch", [1, 7, 40, 100])
def test_batches_come_whole_and_in_order(n_threads, batch):
    order = np.random.default_rng(0).permutation(100).tolist()
    rows = [order[k : k + batch] for k in range(0, 100, batch)]
    made = decoded(
        Encoded("train", Slow(100), np.zeros(100), None), rows, n_threads, lambda shape: np.empty(shape, np.uint8)
    )
    assert [pixels[:, 1, 1, 2].tolist() for pixels in made] == rows


def test_batch_with_unfit_images_is_their_names_and_the_others_come():
    images = Encoded("test", Slow(12, bad=(3, 4, 9)), np.zeros(12), None)
    made = list(decoded(images, [range(0, 6), range(6, 9), range(9, 12)], 2, lambda shape: np.empty(shape, np.uint8)))
    names = [[line.split(":")[0] for line in made[i].problems] for i in (0, 2)]
    assert names == [["test split, row 3", "test split, row 4"], ["test split, row 9"]]
    assert made[1][:, 0, 0, 0].tolist() == [6, 7, 8]


@pytest.mark.parametrize("n", [1, 16, 17, 500])
def test_headers_of_all_images_are_read(n):
    """500 are more than are queued at once."""
    images = Encoded("test", Slow(n, bad=range(n)), np.zeros(n), 8)
    assert [line.split(":")[0] for line in headers(images, 3)] == [f"test split, row {row}" for row in range(n)]


def test_only_so_many_batches_are_decoded_ahead():
    """Their memory is the reader's; and every thread has something to do."""
    made, images = [], Slow(1000)

    def empty(shape):
        made.append(shape)
        return np.empty(shape, np.uint8)

    reader = decoded(
        Encoded("train", images, np.zeros(1000), None), [range(k, k + 10) for k in range(0, 1000, 10)], 4, empty
    )
    for _ in range(3):
        next(reader)
    assert 4 <= len(made) <= 12
    assert images.most >= 2
    reader.close()
