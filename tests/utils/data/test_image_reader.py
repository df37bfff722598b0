"""One image file: what is read of it, and everything that is refused."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile

from utils.data.image_reader import SUFFIXES, Preparation, read_header, read_image
from utils.errors import InputError

SIDE = 12
ROOT = Path(__file__).parents[3]


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write_image(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def read(path: Path, channels: int, side: int, bits: int | None = None) -> np.ndarray:
    return read_image(path, Preparation(channels, side, bits))


def complaint(path: Path, **preparation) -> str:
    with pytest.raises(InputError) as refusal:
        read_image(path, Preparation(**{"channels": 3, "side": SIDE, **preparation}))
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(pixels: np.ndarray, colour_type: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write of colours; pixels (height, width, channels)."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">2I5B", width, height, 16, colour_type, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_it_needs_numpy_and_pillow_alone():
    code = "import sys, utils.data.image_reader; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_read(suffix, tmp_path):
    pixels = noise(5, SIDE, SIDE) if suffix == ".pgm" else noise(5, SIDE, SIDE, 3)
    image = read(write_image(tmp_path / f"image{suffix.upper()}", pixels), 3, SIDE)
    assert image.shape == (3, SIDE, SIDE)
    if suffix in (".png", ".bmp", ".ppm", ".tif"):
        assert np.array_equal(image, pixels.transpose(2, 0, 1))


def test_stretched_to_the_side(tmp_path):
    pixels = noise(1, 20, 30, 3)
    expected = Image.fromarray(pixels).resize((10, 10), Image.Resampling.BILINEAR)
    assert np.array_equal(read(write_image(tmp_path / "x.png", pixels), 3, 10).transpose(1, 2, 0), expected)
    grey = Image.fromarray(pixels).convert("L").resize((10, 10), Image.Resampling.BILINEAR)
    assert np.array_equal(read(tmp_path / "x.png", 1, 10)[0], grey)


def test_transparency_lies_over_white(tmp_path):
    pixels = noise(1, 8, 8, 4)
    pixels[0, 0], pixels[0, 1] = (10, 20, 30, 0), (10, 20, 30, 255)
    decoded = read(write_image(tmp_path / "rgba.png", pixels), 3, 8)
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert abs(decoded.transpose(1, 2, 0) - expected).max() <= 1  # Pillow rounds
    assert decoded[:, 0, :2].T.tolist() == [[255, 255, 255], [10, 20, 30]]

    grey = noise(2, 8, 8, 2)
    grey[0, 0], grey[0, 1] = (9, 0), (9, 255)
    Image.fromarray(grey, "LA").save(tmp_path / "la.png")
    assert read(tmp_path / "la.png", 1, 8)[0, 0, :2].tolist() == [255, 9]

    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([200, 0, 0, 0, 0, 200])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=1)
    assert read(tmp_path / "palette.png", 3, 8)[:, 0, :2].T.tolist() == [[200, 0, 0], [255, 255, 255]]

    deep = np.full((8, 8), 30000, np.uint16)
    deep[0, 0] = 77
    write_image(tmp_path / "deep.png", deep, transparency=77)
    assert read(tmp_path / "deep.png", 1, 8)[0, 0, :2].tolist() == [255, 30000 // 256]


def test_the_first_frame_of_an_animation(tmp_path):
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    for name in ("moving.gif", "moving.png", "moving.webp"):
        red.save(tmp_path / name, save_all=True, append_images=[blue], **({"lossless": True} if "webp" in name else {}))
        assert read(tmp_path / name, 3, 8)[:, 3, 3].tolist() == [255, 0, 0]


# --- More than 8 bits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_the_upper_8_of_the_bits(bits, ending, tmp_path):
    values = np.random.default_rng(bits).integers(0, 2**bits, (SIDE, SIDE)).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    path = write_image(tmp_path / f"grey{ending}", values)
    assert read_header(path).grey
    assert read_header(path).deep
    assert np.array_equal(read(path, 1, SIDE, bits)[0], values // 2 ** (bits - 8))
    assert np.array_equal(read(path, 3, SIDE, bits), [values // 2 ** (bits - 8)] * 3)
    if bits > 8:
        text = (
            f"{path} has pixels of up to {2**bits - 1}, more than the {bits - 2} bits of the others: save all with 8 "
        )
        assert complaint(path, bits=bits - 2) == f"{text}bits."
    if bits <= 12:  # by itself, it may be a dark image of 16
        assert complaint(path).startswith(f"{path} has pixels of 16 bits, none above {2**bits - 1}, so what is white ")
    else:
        assert np.array_equal(read(path, 1, SIDE)[0], values // 256)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_are_of_the_full_range_or_refused(colour_type, channels, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**16, (SIDE, SIDE, channels))
    if channels in (2, 4):
        pixels[..., -1] = 2**16 - 1
    path = tmp_path / "colour.png"
    path.write_bytes(png(pixels, colour_type))
    assert read_header(path).deep
    colours = pixels[..., : channels - (channels % 2 == 0)] // 256
    assert np.array_equal(read(path, 3, SIDE), np.broadcast_to(colours, (SIDE, SIDE, 3)).transpose(2, 0, 1))
    path.write_bytes(png(np.minimum(pixels, 2**10 - 1), colour_type))
    assert complaint(path).startswith(f"{path} has pixels of 16 bits, none above 1023, so what is white is not known")


def test_a_pgm_says_itself_what_is_white(tmp_path):
    values = np.arange(64).reshape(8, 8) * 16
    (tmp_path / "x.pgm").write_bytes(b"P5 8 8 1023\n" + values.astype(">u2").tobytes())
    assert abs(read(tmp_path / "x.pgm", 1, 8)[0] - values * 255 / 1023).max() <= 1


@pytest.mark.parametrize(("low", "high"), [(-5, 100), (0, 70000)])
def test_other_whole_numbers_are_refused(low, high, tmp_path):
    path = write_image(tmp_path / "x.tif", np.linspace(low, high, 64).astype(np.int32).reshape(8, 8))
    assert complaint(path) == f"{path} has pixels from {low} to {high}, whose range is not known: save it with 8 bits."


def test_white_that_is_zero(tmp_path):
    path = write_image(tmp_path / "x.tif", np.full((8, 8), 65535, np.uint16), tiffinfo={262: 0})
    assert complaint(path) == f"{path} has pixels of 16 bits of which 0 is white: save it with 8 bits."


def test_floating_point_pixels_are_refused(tmp_path):
    path = write_image(tmp_path / "depth.tif", np.ones((SIDE, SIDE), np.float32))
    assert complaint(path).startswith(f"{path} has floating-point pixels, whose range is not known: ")


# --- Upright --------------------------------------------------------------------------------------------------------

# What a camera that was turned writes down, from the upright image.
AS_WRITTEN = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def write_turned(path: Path, upright: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return write_image(path, np.ascontiguousarray(AS_WRITTEN[orientation](upright)), exif=exif, quality=100)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jpg", ".webp"])
@pytest.mark.parametrize("orientation", AS_WRITTEN)
def test_a_photograph_is_turned_upright(orientation, suffix, tmp_path):
    """Four quarters, of a colour each; higher than wide, which the header says before anything is decoded."""
    upright = np.zeros((32, 16, 3), np.uint8)
    upright[:16, 8:], upright[16:, :8], upright[16:, 8:] = (255, 0, 0), (0, 255, 0), (255, 255, 255)
    path = write_turned(tmp_path / f"turned{suffix}", upright, orientation)
    assert (read_header(path).width, read_header(path).height) == (16, 32)
    quarters = read(path, 3, 16)[:, 4::8, 4::8].transpose(1, 2, 0)
    assert abs(quarters.astype(int) - upright[8::16, 4::8]).max() < 40


def test_grey_of_sixteen_bits_and_transparency_are_turned_too(tmp_path):
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    assert np.array_equal(read(write_turned(tmp_path / "grey.png", grey, 6), 1, 8)[0], grey // 256)
    clear = np.full((8, 8, 4), 0, np.uint8)
    clear[:4, :, 3] = 255
    decoded = read(write_turned(tmp_path / "clear.png", clear, 8), 1, 8)[0]
    assert (decoded[:4] == 0).all()
    assert (decoded[4:] == 255).all()


# --- Economy --------------------------------------------------------------------------------------------------------


def test_headers_are_read_without_decoding(tmp_path, monkeypatch):
    """An image may take much memory, and a folder hold many."""
    pixels = noise(0, SIDE, SIDE, 3)
    paths = [write_image(tmp_path / f"image{suffix}", pixels) for suffix in (".png", ".jpg", ".tif", ".webp")]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail(f"{image.format} was decoded"))
    for path in paths:
        assert read_header(path).width == SIDE


def test_a_large_photograph_is_decoded_at_a_fraction_of_its_size(tmp_path):
    ramp = np.linspace(0, 255, 400).astype(np.uint8)
    write_image(tmp_path / "ramp.jpg", np.stack([np.tile(ramp, (400, 1))] * 3, -1), quality=95)
    expected = ramp.reshape(20, 20).mean(1)
    assert abs(read(tmp_path / "ramp.jpg", 3, 20).astype(float) - expected).max() < 4


# --- Refusals -------------------------------------------------------------------------------------------------------


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(0, 64, 64, 3)).save(buffer, kind)
    return buffer.getvalue()


def flipped_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


CUT_SHORT = {
    "half.png": encoded("png")[:6000],
    "half.jpg": encoded("jpeg")[:1500],
    "half.bmp": encoded("bmp")[:6000],
    "half.webp": encoded("webp")[:1500],
    "half.tif": encoded("tiff")[:6000],
    "head.png": encoded("png")[:20],
    "bit.png": flipped_bit(encoded("png")),
}
OTHER = {
    "empty.png": b"",
    "text.jpg": b"no image at all",
    "page.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n",
    "phone.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "icon.png": encoded("ico"),
}


@pytest.mark.parametrize("name", CUT_SHORT)
def test_a_damaged_image(name, tmp_path):
    (tmp_path / name).write_bytes(CUT_SHORT[name])
    text = complaint(tmp_path / name)
    assert text.startswith(f"{tmp_path / name} cannot be read as an image, it may be cut short or corrupt: ")


@pytest.mark.parametrize("name", OTHER)
def test_only_listed_formats_are_opened(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(OTHER[name])
    assert complaint(path) == (
        f"{path} is no whole image of PNG, JPEG, BMP, GIF, PPM, TIFF, WEBP: convert it to PNG or JPEG."
    )


@pytest.mark.parametrize("size", [(1, 1), (40, 7)])
def test_an_image_too_small(size, tmp_path):
    path = write_image(tmp_path / "small.png", noise(0, *size[::-1], 3))
    assert complaint(path) == f"{path} is too small, {size[0]}x{size[1]} pixels: 8x8 is the least."


def test_an_image_that_claims_to_be_huge(tmp_path):
    header = struct.pack(">2I5B", 60000, 60000, 8, 2, 0, 0, 0)
    content = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b""))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert (
        complaint(tmp_path / "huge.png")
        == f"{tmp_path / 'huge.png'} has more than 178 million pixels: make it smaller."
    )


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        assert complaint(tmp_path / name) == f"{tmp_path / name} is no regular file, so no image."
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    assert complaint(tmp_path / "link.png") == f"cannot read {tmp_path / 'link.png'}: No such file or directory."


def test_pillow_does_not_warn_the_user(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = write_image(tmp_path / "large.png", noise(0, SIDE, SIDE, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(path, 3, SIDE)
