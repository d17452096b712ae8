"""Greyscale TIFF: one scale for 8 and 16 bits, 0 is black whatever the file says, and the rest refused by name."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from mammopipe.processing.errors import CorruptImageError, ImageTooLargeError, NotAMammogramError, UnsupportedImageError
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.read_config import Limits, ReadConfig

PIXELS = (np.arange(40 * 30).reshape(40, 30) * 50).astype(np.uint16)


def tiff(pixels: np.ndarray, *, photometric: int = 1, order: str = "<") -> bytes:
    rows, columns = pixels.shape
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    fields = [(256, 3, columns), (257, 3, rows), (258, 3, 8 * pixels.itemsize), (259, 3, 1), (262, 3, photometric),
              (273, 4, 0), (277, 3, 1), (278, 3, rows), (279, 4, len(data))]  # fmt: skip
    start = 8 + 2 + 12 * len(fields) + 4
    out = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(fields))
    for tag, kind, value in fields:
        number = start if tag == 273 else value
        out += struct.pack(order + "HHI", tag, kind, 1)
        out += struct.pack(order + "HH", number, 0) if kind == 3 else struct.pack(order + "I", number)
    return out + struct.pack(order + "I", 0) + data


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_are_read_as_they_are_and_inverted_where_white_is_zero(order: str) -> None:
    assert np.array_equal(read_mammogram(tiff(PIXELS, order=order)).pixels, PIXELS)
    inverted = read_mammogram(tiff(PIXELS, photometric=0, order=order)).pixels
    assert np.array_equal(inverted, 65535 - PIXELS)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_8_bits_fill_the_scale_whatever_the_compression(compression: str) -> None:
    stream = BytesIO()
    Image.fromarray((PIXELS >> 8).astype(np.uint8)).save(stream, "TIFF", compression=compression)
    found = read_mammogram(stream.getvalue())
    assert np.array_equal(found.pixels, (PIXELS >> 8) * 257)
    assert found.facts["format"] == "TIFF" and found.facts["bits_stored"] == 8


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_images_are_refused(orientation: int) -> None:
    fields = TiffImagePlugin.ImageFileDirectory_v2()
    fields[274] = orientation
    with pytest.raises(UnsupportedImageError, match=f"TIFF Orientation {orientation}"):
        read_mammogram(saved(Image.fromarray((PIXELS >> 8).astype(np.uint8)), tiffinfo=fields))


def saved(image: Image.Image, **settings: object) -> bytes:
    stream = BytesIO()
    image.save(stream, "TIFF", **settings)
    return stream.getvalue()


GREY = Image.fromarray(PIXELS)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (saved(Image.new("RGB", (64, 64))), NotAMammogramError, "PhotometricInterpretation 2"),
        (saved(GREY, save_all=True, append_images=[GREY]), NotAMammogramError, "several pages"),
        (saved(Image.new("1", (64, 64))), UnsupportedImageError, "1 bits"),
        (saved(Image.new("F", (64, 64))), UnsupportedImageError, "32 bits, SampleFormat 3"),
        (tiff(PIXELS)[:-100], CorruptImageError, "do not lead to the image.s data in the file"),
        (tiff(PIXELS)[:60], CorruptImageError, "header cannot be read"),
    ],
)
def test_pages_that_are_not_greyscale_are_refused(
    tmp_path: Path, data: bytes, error: type[Exception], message: str
) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        read_mammogram(path)
    assert str(path) in str(caught.value)


def test_the_size_is_refused_before_a_pixel_is_decoded() -> None:
    with pytest.raises(ImageTooLargeError):
        read_mammogram(tiff(PIXELS)[:200], config=ReadConfig(limits=Limits(max_side=32)))
