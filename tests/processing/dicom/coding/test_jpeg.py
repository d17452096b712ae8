"""Damaged JPEG and JPEG Lossless data: libjpeg only warns, so the reader checks the data itself."""

from collections.abc import Callable
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.encaps import encapsulate

from mammopipe.processing.images.mammogram import CorruptImageError, NotAMammogramError, read_mammogram

MakeDicom = Callable[..., bytes]
BASELINE, EXTENDED, LOSSLESS, FIRST_ORDER = ("1.2.840.10008.1.2.4." + end for end in ("50", "51", "57", "70"))
LIBJPEG = (BASELINE, EXTENDED, LOSSLESS, FIRST_ORDER)
JPEG_LS = "1.2.840.10008.1.2.4.80"


def picture(bits: int) -> NDArray[Any]:
    """Return a breast-like picture: air to the right and in the last rows, noise in the tissue."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:96, 0:72]
    inside = ((1 - np.hypot((y - 45) / 45, x / 60)) * 2).clip(0, 1)
    values = inside * (2 ** (bits - 1) + random.normal(0, 2 ** (bits - 7), inside.shape))
    return values.clip(0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)


def encoded(syntax: str, cells: NDArray[Any], bits: int) -> bytes:
    if syntax == JPEG_LS:
        return bytes(imagecodecs.jpegls_encode(cells))
    options = {BASELINE: {"level": 95}, EXTENDED: {"level": 95}}.get(syntax, {"lossless": True, "predictor": 1})
    return bytes(imagecodecs.jpeg8_encode(cells, bitspersample=bits, **options))


def bits_of(syntax: str) -> int:
    return 8 if syntax == BASELINE else 12


def frame_of(syntax: str) -> bytes:
    return encoded(syntax, picture(bits_of(syntax)), bits_of(syntax))


def read(make_dicom: MakeDicom, syntax: str, frame: bytes) -> NDArray[np.uint16]:
    frame += b"\0" * (len(frame) % 2)
    cells, bits = picture(bits_of(syntax)), bits_of(syntax)
    return read_mammogram(make_dicom(cells, bits=bits, syntax=syntax, pixel_data=encapsulate([frame]))).pixels


def scan(frame: bytes) -> int:
    """Return where the coded data start."""
    position = frame.index(b"\xff\xda")
    return position + 2 + int.from_bytes(frame[position + 2 : position + 4], "big")


@pytest.mark.parametrize("syntax", LIBJPEG)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.97])
def test_coded_data_that_end_early_are_refused(make_dicom: MakeDicom, syntax: str, share: float) -> None:
    frame = frame_of(syntax)
    start = scan(frame)
    cut = start + int((len(frame) - 2 - start) * share)
    while frame[cut - 1] == 0xFF:
        cut -= 1
    with pytest.raises(CorruptImageError, match="coded data end before the last pixel"):
        read(make_dicom, syntax, frame[:cut] + b"\xff\xd9")


@pytest.mark.parametrize("syntax", (LOSSLESS, FIRST_ORDER))
def test_even_a_few_bytes_that_are_missing_are_refused(make_dicom: MakeDicom, syntax: str) -> None:
    noise = np.random.default_rng(1).integers(0, 4096, (96, 72), np.uint16)
    frame = encoded(syntax, noise, 12)
    for missing in (3, 5, 9, 33):
        cut = frame[: -2 - missing].rstrip(b"\xff")
        with pytest.raises(CorruptImageError, match="coded data"):
            read(make_dicom, syntax, cut + b"\xff\xd9")


@pytest.mark.parametrize("syntax", LIBJPEG)
def test_coded_data_with_a_gap_or_a_repetition_are_refused(make_dicom: MakeDicom, syntax: str) -> None:
    frame = frame_of(syntax)
    start = scan(frame)
    middle = start + (len(frame) - start) // 3
    piece = frame[middle : middle + 200].strip(b"\xff")
    for damaged in (frame[:middle] + frame[middle + 200 :], frame[:middle] + piece + frame[middle:]):
        with pytest.raises(CorruptImageError, match="coded data"):
            read(make_dicom, syntax, damaged)


@pytest.mark.parametrize("syntax", (*LIBJPEG, JPEG_LS))
@pytest.mark.parametrize("padding", [1, 2, 31, 33, 100, 65000])
def test_padding_after_the_end_is_no_damage(make_dicom: MakeDicom, syntax: str, padding: int) -> None:
    frame = frame_of(syntax)
    assert np.array_equal(read(make_dicom, syntax, frame + b"\0" * padding), read(make_dicom, syntax, frame))


@pytest.mark.parametrize("syntax", LIBJPEG)
@pytest.mark.parametrize("kind", ["zeros", "flat", "white", "air below", "ramp", "one pixel", "noise"])
def test_whole_data_of_any_picture_are_read(make_dicom: MakeDicom, syntax: str, kind: str) -> None:
    """An image that ends in air, or is coded in a few bits, must not count as damaged."""
    bits = bits_of(syntax)
    top = 2**bits - 1
    random = np.random.default_rng(2)
    cells = {
        "zeros": np.zeros((64, 48)),
        "flat": np.full((64, 48), top // 3),
        "white": np.full((64, 48), top),
        "air below": np.vstack([random.integers(0, top, (20, 48)), np.zeros((44, 48))]),
        "ramp": np.add.outer(np.arange(64), np.arange(48)),
        "one pixel": np.pad([[top]], ((0, 63), (0, 47))),
        "noise": random.integers(0, top + 1, (64, 48)),
    }[kind].astype(np.uint8 if bits == 8 else np.uint16)
    data = make_dicom(cells, bits=bits, syntax=syntax, pixel_data=encapsulate([encoded(syntax, cells, bits)]))
    pixels = read_mammogram(data).pixels
    if syntax in (LOSSLESS, FIRST_ORDER):
        assert np.array_equal(pixels, np.floor(cells * (65535 / top) + 0.5))


def test_restart_markers_and_fill_bytes_are_no_damage(make_dicom: MakeDicom) -> None:
    cells = picture(8)
    done, array = cv2.imencode(".jpg", cells, [cv2.IMWRITE_JPEG_RST_INTERVAL, 3, cv2.IMWRITE_JPEG_QUALITY, 90])
    frame = array.tobytes()
    assert done and b"\xff\xd0" in frame and b"\xff\xd1" in frame
    whole = read(make_dicom, BASELINE, frame)
    assert np.array_equal(read(make_dicom, BASELINE, frame[:-2] + b"\xff\xff\xff\xd9"), whole)
    piece = frame.index(b"\xff\xd1")
    for damaged in (frame[: piece - 12] + frame[piece:], frame[: len(frame) - 14] + b"\xff\xd9"):
        with pytest.raises(CorruptImageError):
            read(make_dicom, BASELINE, damaged)


@pytest.mark.parametrize("syntax", (*LIBJPEG, JPEG_LS))
def test_a_second_codestream_is_a_second_frame(make_dicom: MakeDicom, syntax: str) -> None:
    frame = frame_of(syntax)
    with pytest.raises(NotAMammogramError, match="several codestreams; a mammogram is one frame"):
        read(make_dicom, syntax, frame + b"\0" * (len(frame) % 2) + frame)


@pytest.mark.parametrize("syntax", [LOSSLESS, FIRST_ORDER])
def test_lossless_samples_beyond_the_precision_are_refused(make_dicom: MakeDicom, syntax: str) -> None:
    """Differences add up modulo 65536: a wrong one leads to samples that the announced precision cannot hold."""
    wide = picture(12) + np.uint16(6000)  # 13 bits
    frame = bytearray(imagecodecs.jpeg8_encode(wide, bitspersample=13, lossless=True, predictor=1))
    header = frame.index(b"\xff\xc3")
    assert frame[header + 4] == 13
    frame[header + 4] = 12
    with pytest.raises(CorruptImageError, match="beyond the 12 bits of its samples"):
        read(make_dicom, syntax, bytes(frame))


@pytest.mark.parametrize("syntax", LIBJPEG)
def test_coded_data_that_were_overwritten_are_refused(make_dicom: MakeDicom, syntax: str) -> None:
    """The decoder then needs more data than there are, or fewer."""
    frame = frame_of(syntax)
    start = scan(frame)
    for share in (0.2, 0.4, 0.6):
        position = start + int((len(frame) - start) * share)
        damaged = frame[:position] + bytes(300) + frame[position + 300 :]
        with pytest.raises(CorruptImageError, match="coded data"):
            read(make_dicom, syntax, damaged)
