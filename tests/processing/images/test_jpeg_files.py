"""JPEG files (copies of public collections): whole ones are read, those cut off or overwritten are refused."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mammopipe.processing.images.mammogram import CorruptImageError, ReadConfig, read_mammogram
from tests.support.clinical_phantoms import Kind, make_clinical_phantom

CONFIG = ReadConfig(jpeg_files=True)


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    pixels = make_clinical_phantom(3, Kind.NOISY_AIR, rows=200, columns=150).pixels
    return (pixels >> 8).astype(np.uint8)


def jpeg(picture: NDArray[np.uint8], mode: str = "L", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(stream, "JPEG", **{"quality": 90, **options})
    return stream.getvalue()


def coded(data: bytes) -> int:
    """Return where the coded data of the first scan start."""
    position = data.index(b"\xff\xda")
    return position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [30, 75, 100])
@pytest.mark.parametrize("restart", [0, 5])
def test_whole_files_are_read(
    picture: NDArray[np.uint8], mode: str, progressive: bool, quality: int, restart: int
) -> None:
    options = {"restart_marker_blocks": restart} if restart else {}
    for shown in (picture, np.full_like(picture, 77), picture // 64 * 64):
        data = jpeg(shown, mode, progressive=progressive, quality=quality, **options)
        difference = np.abs(read_mammogram(data, config=CONFIG).pixels.astype(int) / 257 - shown)
        assert difference.mean() < 8


def test_a_thumbnail_in_the_header_is_no_scan(picture: NDArray[np.uint8]) -> None:
    data, thumbnail = jpeg(picture), jpeg(picture[::8, ::8].copy())
    segment = b"\xff\xe2" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    whole = read_mammogram(data, config=CONFIG)
    assert np.array_equal(read_mammogram(data[:2] + segment + data[2:], config=CONFIG).pixels, whole.pixels)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_file_that_is_cut_off_is_refused(picture: NDArray[np.uint8], mode: str, progressive: bool) -> None:
    data = jpeg(picture, mode, progressive=progressive)
    start = coded(data)
    for share in (0.1, 0.5, 0.9):
        cut = data[: start + int(share * (len(data) - start))].rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises(CorruptImageError):
            read_mammogram(cut, config=CONFIG)


def test_an_overwritten_stretch_is_refused(picture: NDArray[np.uint8]) -> None:
    data = jpeg(picture)
    start = coded(data) + 1500
    with pytest.raises(CorruptImageError, match="coded data"):
        read_mammogram(data[:start] + bytes(300) + data[start + 300 :], config=CONFIG)
