"""PGM and PNG: their grey scale, and what is refused before any pixel is decoded."""

import platform
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import sha256
from mammopipe.processing.images import pgm_png
from mammopipe.processing.images.mammogram import (
    CorruptImageError,
    ImageTooLargeError,
    Limits,
    NotAMammogramError,
    ReadConfig,
    UnsupportedImageError,
    read_mammogram,
    write_png,
)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def test_pgm_scales() -> None:
    assert read_mammogram(b"P5 2 2 255\n\x00\x01\x80\xff").pixels.tolist() == [[0, 257], [128 * 257, 65535]]
    assert read_mammogram(b"P5 3 1 4\n\x00\x01\x04").pixels.tolist() == [[0, 16384, 65535]]
    wide = b"P5\n2 1\n4095\n" + struct.pack(">2H", 1, 4095)
    assert read_mammogram(wide).pixels.tolist() == [[16, 65535]]
    full = b"P5 2 1 65535\n" + struct.pack(">2H", 40000, 65535)
    image = read_mammogram(full)
    assert image.pixels.tolist() == [[40000, 65535]] and image.pixels.dtype == np.uint16
    assert image.facts["maxval"] == 65535 and image.facts["bits_stored"] == 16


def test_pgm_headers_may_hold_comments() -> None:
    data = b"P5# made by hand\n#\n 2 # two wide\r\n\t1\n# all of it\n255\n#a"
    assert read_mammogram(data).pixels.tolist() == [[ord("#") * 257, ord("a") * 257]]


def test_what_follows_a_file_is_padding_or_refused() -> None:
    pgm = b"P5 2 2 255\n\x00\x01\x80\xff"
    for padding in (b"\n", b"\r\n", b"\0" * 500):
        assert np.array_equal(read_mammogram(pgm + padding).pixels, read_mammogram(pgm).pixels)
    with pytest.raises(CorruptImageError, match="2 follow that are no padding"):
        read_mammogram(pgm + b"\n\x07\x09")
    image = png(1, 1, 8, 0, b"\0\x07")
    assert read_mammogram(image + b"\0" * 9).pixels.tolist() == [[7 * 257]]
    with pytest.raises(NotAMammogramError, match="a second PNG follows the first"):
        read_mammogram(image + image)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"P5 2 2 255\nabc", CorruptImageError, "PGM of 2 x 2 needs 4 bytes of samples, 3 are there"),
        (b"P5 2 2 65535\nabcd", CorruptImageError, "needs 8 bytes of samples, 4 are there"),
        (b"P5 2 two 255\nabcd", CorruptImageError, "header has no height"),
        (b"P5 2 2", CorruptImageError, "header has no height"),
        (b"P5 2 2 0\nabcd", CorruptImageError, "maxval 0 must be between 1 and 65535"),
        (b"P5 2 2 65536\nabcdefgh", CorruptImageError, "maxval 65536"),
        (b"P5 1 1 100\n\xff", CorruptImageError, "sample 255 is above its maxval 100"),
        (b"P5 0 2 255\n", CorruptImageError, "both must be at least 1"),
        (b"P5 99999 99999 255\n", ImageTooLargeError, "99999 x 99999"),
        (b"P5 20000 1 255\n", ImageTooLargeError, "16384 a side"),
        (b"P2 2 1 255\n1 2\n", UnsupportedImageError, "magic 'P2'; only binary PGM"),
        (b"P6 1 1 255\nabc", UnsupportedImageError, "magic 'P6'"),
        (b"Dear all,\n", UnsupportedImageError, "neither DICOM, PGM, PNG nor TIFF"),
        (b"", UnsupportedImageError, "is empty"),
    ],
)
def test_pgm_refusals(data: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read_mammogram(data)
    assert str(caught.value).startswith("<bytes>: ") and "\n" not in str(caught.value)


def test_a_file_is_named_in_its_error(tmp_path: Path) -> None:
    path = tmp_path / "letter.pgm"
    path.write_text("Dear all,")
    with pytest.raises(UnsupportedImageError, match=f"^{path}: neither"):
        read_mammogram(path)
    with pytest.raises(CorruptImageError, match="cannot be read: No such file"):
        read_mammogram(tmp_path / "none.pgm")


def test_png_scales_and_round_trip(tmp_path: Path) -> None:
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    encoded = cv2.imencode(".png", eight)[1].tobytes()
    assert np.array_equal(read_mammogram(encoded).pixels, eight.astype(np.uint16) * 257)
    pixels = np.random.default_rng(0).integers(0, 65536, (33, 21)).astype(np.uint16)
    write_png(tmp_path / "deep" / "a.png", pixels)
    image = read_mammogram(tmp_path / "deep" / "a.png")
    assert np.array_equal(image.pixels, pixels) and image.pixels.flags.c_contiguous and image.facts["bits_stored"] == 16
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]


@given(pixels=arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 65535)))
def test_every_decoder_reads_what_is_written(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("png") / "a.png"
    write_png(path, np.asfortranarray(pixels))
    assert np.array_equal(read_mammogram(path).pixels, pixels)
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        assert image.mode == "I;16" and np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_an_image_is_written_in_blocks_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(pgm_png, "PNG_BLOCK", 3 * 2 * 700)
    pixels = np.random.default_rng(rows).integers(0, 65536, (rows, 700)).astype(np.uint16)
    write_png(tmp_path / "a.png", pixels)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), pixels)
    assert np.array_equal(read_mammogram(tmp_path / "a.png").pixels, pixels)


def test_writing_takes_little_memory_beside_the_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (4000, 3000)).astype(np.uint16)
    tracemalloc.start()
    write_png(tmp_path / "a.png", pixels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < pixels.nbytes


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3), np.uint16), np.zeros((0, 2), np.uint16)]
)
def test_only_16_bit_grey_is_written(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="2-D uint16 is needed"):
        write_png(tmp_path / "a.png", pixels)
    assert not (tmp_path / "a.png").exists()


ROW = b"\0" + bytes(4)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (png(4, 1, 8, 2, b"\0" + bytes(range(12))), NotAMammogramError, r"colour type 2 \(truecolour\)"),
        (png(4, 1, 8, 3, ROW, chunk(b"PLTE", b"abc")), NotAMammogramError, r"colour type 3 \(palette\)"),
        (png(4, 1, 8, 4, b"\0" + bytes(8)), NotAMammogramError, "greyscale with alpha"),
        (png(4, 1, 4, 0, b"\0" + bytes(2)), UnsupportedImageError, "bit depth 4"),
        (png(4, 1, 8, 0, ROW, chunk(b"acTL", struct.pack(">II", 2, 0))), NotAMammogramError, "animated PNG"),
        (png(60000, 60000, 16, 0, ROW), ImageTooLargeError, "60000 x 60000"),
        (png(4, 0, 8, 0, ROW), CorruptImageError, "both must be at least 1"),
        (png(4, 1, 8, 0, ROW)[:-12], CorruptImageError, "without an IEND chunk"),
        (png(4, 1, 8, 0, ROW)[:-15], CorruptImageError, "are there"),
        (png(4, 9, 8, 0, ROW), CorruptImageError, "cannot be decoded to 9 x 4 of 8 bits"),
        (png(4, 1, 8, 0, ROW)[:20], CorruptImageError, "without an IHDR"),
    ],
)
def test_png_refusals(data: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_mammogram(data)


def test_a_png_with_a_wrong_checksum() -> None:
    data = bytearray(png(4, 1, 8, 0, ROW))
    data[45] ^= 1
    with pytest.raises(CorruptImageError, match="b'IDAT' has a wrong checksum"):
        read_mammogram(bytes(data))


def test_limits_are_settable_and_checked() -> None:
    small = ReadConfig(limits=Limits(max_pixels=3))
    with pytest.raises(ImageTooLargeError, match="3 pixels"):
        read_mammogram(b"P5 2 2 255\nabcd", config=small)
    with pytest.raises(ImageTooLargeError, match="15 bytes are over the limit of 10"):
        read_mammogram(b"P5 2 2 255\nabcd", config=ReadConfig(limits=Limits(max_bytes=10)))
    with pytest.raises(ConfigError, match="max_side = 0: at least 1"):
        Limits(max_side=0)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ARM processors write other bytes, with the same pixels")
def test_every_processor_writes_the_same_bytes(tmp_path: Path) -> None:
    """Digests of files are compared between machines."""
    y, x = np.mgrid[0:256, 0:192]
    pixels = ((x * 251 + y * 127 + (x * y) % 97 * 13) % 65536 * (x > 40)).astype(np.uint16)
    write_png(tmp_path / "a.png", pixels)
    assert sha256(tmp_path / "a.png") == "96b97d0becbaee9a2d1481e5268bbf5f548cf5862d89797f2e4965bc47fa7cd0"
