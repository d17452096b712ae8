"""Frames in pixel data: fragments, offset tables, padding, and the signs of several frames."""

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.encaps import encapsulate

from mammopipe.processing.images.mammogram import CorruptImageError, NotAMammogramError, read_mammogram

MakeDicom = Callable[..., bytes]
RLE, JPEG_LS, LOSSLESS, J2K = ("1.2.840.10008.1.2." + end for end in ("5", "4.80", "4.70", "4.90"))
CELLS = (np.add.outer(np.arange(64), np.arange(48)) * 36).astype(np.uint16)
EXPECTED = np.floor(CELLS * (65535 / 4095) + 0.5)
DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"


def item(value: bytes, length: int | None = None) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(value) if length is None else length) + value


def rle(cells: NDArray[np.uint16] = CELLS, surplus: bytes = b"") -> bytes:
    planes = [(cells >> 8).astype(np.uint8).tobytes(), (cells & 255).astype(np.uint8).tobytes()]
    segments = [imagecodecs.packbits_encode(plane) + surplus for plane in planes]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    return struct.pack("<16I", 2, 64, 64 + len(segments[0]), *([0] * 13)) + b"".join(segments)


def frame(syntax: str) -> bytes:
    if syntax == RLE:
        return rle()
    if syntax == JPEG_LS:
        data = bytes(imagecodecs.jpegls_encode(CELLS))
        # The encoder takes 16 bits; the precision in SOF55 and the pixels agree with that.
        return data + b"\0" * (len(data) % 2)
    if syntax == LOSSLESS:
        data = bytes(imagecodecs.jpeg8_encode(CELLS, bitspersample=12, lossless=True))
    else:
        data = bytes(imagecodecs.jpeg2k_encode(CELLS, codecformat="j2k", reversible=True, level=0, bitspersample=12))
    return data + b"\0" * (len(data) % 2)


def read(make_dicom: MakeDicom, syntax: str, pixel_data: bytes, **values: Any) -> NDArray[np.uint16]:
    return read_mammogram(make_dicom(CELLS, bits=12, syntax=syntax, pixel_data=pixel_data, **values)).pixels


SYNTAXES = pytest.mark.parametrize("syntax", [RLE, JPEG_LS, LOSSLESS, J2K])


@SYNTAXES
def test_a_missing_delimiter_and_odd_fragments_are_read(make_dicom: MakeDicom, syntax: str) -> None:
    whole = read(make_dicom, syntax, item(b"") + item(frame(syntax)) + DELIMITER)
    data = make_dicom(CELLS, bits=12, syntax=syntax, pixel_data=item(b"") + item(frame(syntax)) + DELIMITER)
    while data.endswith(DELIMITER):
        data = data[: -len(DELIMITER)]
    assert np.array_equal(read_mammogram(data).pixels, whole)
    assert np.array_equal(read_mammogram(data + b"\0" * 6).pixels, whole)
    odd = frame(syntax) + b"\0" if syntax != J2K else frame(syntax).rstrip(b"\0") + b"\0" * 1
    odd = odd[: len(odd) - (len(odd) % 2 == 0)]
    assert len(odd) % 2 == 1
    assert np.array_equal(read(make_dicom, syntax, item(b"") + item(odd) + b"\0" + DELIMITER), whole)


@SYNTAXES
def test_a_frame_in_several_fragments_is_joined(make_dicom: MakeDicom, syntax: str) -> None:
    data = frame(syntax)
    pieces = [data[start : start + 500] for start in range(0, len(data), 500)]
    joined = item(struct.pack("<I", 0)) + b"".join(item(piece) for piece in pieces) + DELIMITER
    assert np.array_equal(read(make_dicom, syntax, joined), read(make_dicom, syntax, encapsulate([data])))


@SYNTAXES
def test_several_frames_are_refused_wherever_they_are_stated(make_dicom: MakeDicom, syntax: str) -> None:
    data = frame(syntax)
    three = b"".join(item(data) for _ in range(3)) + DELIMITER
    step = len(data) + 8
    for table in (struct.pack("<3I", 0, step, 2 * step), b""):
        with pytest.raises(NotAMammogramError, match="a mammogram is one frame"):
            read(make_dicom, syntax, item(table) + three)
    one = item(b"") + item(data) + DELIMITER
    with pytest.raises(NotAMammogramError, match=r"ExtendedOffsetTable \(7FE0,0001\) names 3 frames"):
        read(make_dicom, syntax, one, ExtendedOffsetTable=("OV", struct.pack("<3Q", 0, step, 2 * step)))
    with pytest.raises(NotAMammogramError, match=r"NumberOfFrames \(0028,0008\) is 3"):
        read(make_dicom, syntax, one, NumberOfFrames="3")
    with pytest.raises(CorruptImageError, match="its offset table has 3 bytes"):
        read(make_dicom, syntax, item(b"\0\0\0", 3) + b"\0" + one[8:])


def test_native_pixels_of_two_frames_or_more_than_padding_are_refused(make_dicom: MakeDicom) -> None:
    cells = CELLS.tobytes()
    with pytest.raises(NotAMammogramError, match="enough for 2 frames"):
        read(make_dicom, "1.2.840.10008.1.2.1", cells * 2)
    with pytest.raises(CorruptImageError, match="96 bytes beyond the 6144"):
        read(make_dicom, "1.2.840.10008.1.2.1", cells + b"\1\2" * 48)
    assert np.array_equal(read(make_dicom, "1.2.840.10008.1.2.1", cells + b"\0" * 96), EXPECTED)


@pytest.mark.parametrize("surplus", [b"", b"\0\0", b"\xff\5", b"\0", b"\x80", b"\xf0\0", b"\0\1\0\2"])
def test_rle_segments_may_hold_a_few_bytes_of_padding(make_dicom: MakeDicom, surplus: bytes) -> None:
    assert np.array_equal(read(make_dicom, RLE, encapsulate([rle(surplus=surplus)])), EXPECTED)


@pytest.mark.parametrize("surplus", [b"\xff\5\xff\6", b"\x81\0" * 2, b"\x81\0" * 100_000])
def test_rle_segments_that_decode_to_more_are_refused(make_dicom: MakeDicom, surplus: bytes) -> None:
    with pytest.raises(CorruptImageError, match="RLE segment 1 does not decode to 3072 bytes"):
        read(make_dicom, RLE, encapsulate([rle(surplus=surplus)]))


@pytest.mark.parametrize("more", [1, 2, 3, 20, 60])
def test_a_run_that_crosses_the_end_of_the_pixels_is_damage(make_dicom: MakeDicom, more: int) -> None:
    cells = CELLS.copy()
    cells[-1] = 7  # Each plane ends with a run.
    frame = bytearray(rle(cells))
    assert frame[-2:] == b"\xd1\x07"
    frame[-2] -= more
    with pytest.raises(CorruptImageError, match="RLE segment 2 does not decode to 3072 bytes"):
        read(make_dicom, RLE, encapsulate([bytes(frame)]))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", RLE, J2K])
def test_values_beyond_the_stored_bits_do_not_wrap_in_any_syntax(make_dicom: MakeDicom, syntax: str) -> None:
    cells = np.where(CELLS > 2000, CELLS + 4096, CELLS).astype(np.uint16)
    data = make_dicom(cells, bits=16, BitsStored=12, HighBit=11, syntax=syntax)
    if syntax == J2K:
        encoded = imagecodecs.jpeg2k_encode(cells, codecformat="j2k", reversible=True, level=0, bitspersample=16)
        data = make_dicom(
            cells, bits=16, BitsStored=12, HighBit=11, syntax=syntax, pixel_data=encapsulate([bytes(encoded)])
        )
    image = read_mammogram(data)
    assert np.array_equal(image.pixels, np.where(CELLS > 2000, 65535, EXPECTED))
    assert "values-beyond-bits" in image.flags
    overlay = make_dicom(cells, BitsStored=12, HighBit=11, OverlayBitPosition=("US", 12))
    assert np.array_equal(read_mammogram(overlay).pixels, np.floor((cells & 4095) * (65535 / 4095) + 0.5))


def test_a_high_bit_that_the_values_contradict_is_refused(make_dicom: MakeDicom) -> None:
    with pytest.raises(CorruptImageError, match=r"HighBit \(0028,0102\) is 15 .* aligned to the right"):
        read_mammogram(make_dicom(CELLS, BitsStored=12, HighBit=15))
    left = make_dicom(CELLS << 4, BitsStored=12, HighBit=15)
    assert np.array_equal(read_mammogram(left).pixels, EXPECTED)
