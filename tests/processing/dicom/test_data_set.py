"""Unusual but valid data sets, and hostile ones: empty attributes, other representations, many and deep elements."""

import struct
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from mammopipe.processing.dicom.attributes import Tag
from mammopipe.processing.dicom.data_set import MAX_DEPTH, MAX_ELEMENTS
from mammopipe.processing.dicom.header import origin
from mammopipe.processing.errors import ReaderFaultError
from mammopipe.processing.images.mammogram import CorruptImageError, ImageError, identity_fields, read_mammogram

MakeDicom = Callable[..., bytes]
CELLS = (np.add.outer(np.arange(64), np.arange(48)) * 36).astype(np.uint16)
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
REQUIRED = {
    Tag.SAMPLES_PER_PIXEL,
    Tag.PHOTOMETRIC_INTERPRETATION,
    Tag.ROWS,
    Tag.COLUMNS,
    Tag.BITS_ALLOCATED,
    Tag.BITS_STORED,
    Tag.HIGH_BIT,
    Tag.PIXEL_REPRESENTATION,
}
"""Type 1 attributes of the Image Pixel Module that the reader needs."""


def raw(tag: int, syntax: str, value: bytes = b"", vr: str | None = None) -> bytes:
    """Return the bytes of one element in a file."""
    order = ">" if syntax == BIG else "<"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", len(value)) + value
    code = (vr or dictionary_VR(tag)).split(" ")[0]
    if code in EXPLICIT_VR_LENGTH_32:
        return head + code.encode() + b"\0\0" + struct.pack(order + "I", len(value)) + value
    return head + code.encode() + struct.pack(order + "H", len(value)) + value


@cache
def plain(make_dicom: MakeDicom, syntax: str) -> bytes:
    """Return a file as it should be."""
    return make_dicom(CELLS, bits=12, syntax=syntax)


def with_element(make_dicom: MakeDicom, syntax: str, tag: int, element: bytes) -> bytes:
    """Return a file with `element` in place of the attribute `tag`, at its position in the order of tags."""
    data = plain(make_dicom, syntax)
    order = ">" if syntax == BIG else "<"
    start = data.index(struct.pack(order + "HH", 0x0028, 0x0002), 132)
    position, out, done = start, data[:start], False
    while position < len(data):
        group, number = struct.unpack_from(order + "HH", data, position)
        here = group << 16 | number
        if here >= tag and not done:
            out, done = out + element, True
        if here >= 0x7FE00000:
            return out + data[position:]
        length = struct.unpack_from(
            order + ("I" if syntax == IMPLICIT else "H"), data, position + (4 if syntax == IMPLICIT else 6)
        )[0]
        if here != tag:
            out += data[position : position + 8 + length]
        position += 8 + length
    raise AssertionError("no pixel data")


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.parametrize("tag", sorted(Tag), ids=lambda tag: tag.name)
def test_an_empty_attribute_is_an_absent_one(make_dicom: MakeDicom, syntax: str, tag: Tag) -> None:
    """PS3.5 7.4: of type 2 and 3, no value means unknown or absent; of type 1 the message says that it is empty."""
    data = with_element(make_dicom, syntax, tag, raw(tag, syntax))
    if tag in REQUIRED:
        with pytest.raises(CorruptImageError, match="empty; it must have a value"):
            read_mammogram(data)
    else:
        image = read_mammogram(data)
        assert np.array_equal(image.pixels, read_mammogram(plain(make_dicom, syntax)).pixels)
    assert identity_fields(data) == () and origin(data, where="x") == ("", "")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("tag", sorted(tag for tag in Tag if "SEQUENCE" not in tag.name), ids=lambda tag: tag.name)
def test_no_number_raises_anything_but_an_image_error(make_dicom: MakeDicom, tag: Tag, value: float) -> None:
    element = raw(tag, EXPLICIT, struct.pack("<2d", value, value), "FD")
    try:
        image = read_mammogram(with_element(make_dicom, EXPLICIT, tag, element))
    except ReaderFaultError as error:
        raise AssertionError(str(error)) from error
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert image.pixels.any() and image.pixel_spacing_mm == image.pixel_spacing_mm


@pytest.mark.parametrize("vr", ["FD", "FL", "US", "SL", "UN", "LO", "OB", "SQ", "UT", "AT"])
@pytest.mark.parametrize("value", [b"", b"\0", b"\1\2\3", b"\xff" * 6, b"4096", b"\xfe\xff\x00\xe0"])
def test_any_representation_of_any_attribute_is_read_or_refused(make_dicom: MakeDicom, vr: str, value: bytes) -> None:
    for tag in Tag:
        try:
            read_mammogram(with_element(make_dicom, EXPLICIT, tag, raw(tag, EXPLICIT, value, vr)))
        except ReaderFaultError as error:
            raise AssertionError(f"{tag.name} {vr} {value!r}: {error}") from error
        except ImageError:
            pass


def sequence(items: bytes) -> bytes:
    return raw(Tag.VIEW_CODE_SEQUENCE, EXPLICIT, items, "SQ")


def test_many_and_deep_elements_are_refused_at_once(make_dicom: MakeDicom) -> None:
    empty_item = b"\xfe\xff\x00\xe0\0\0\0\0"
    element = raw(0x00080104, EXPLICIT)
    bombs = {
        "items": sequence(empty_item * 450_000),
        "elements": sequence(b"\xfe\xff\x00\xe0" + struct.pack("<I", 8 * 450_000) + element * 450_000),
    }
    for name, bomb in bombs.items():
        started = time.process_time()
        with pytest.raises(CorruptImageError, match=f"more than {MAX_ELEMENTS} elements"):
            read_mammogram(with_element(make_dicom, EXPLICIT, Tag.VIEW_CODE_SEQUENCE, bomb))
        assert time.process_time() - started < 2, name
    nested = b""
    for _ in range(MAX_DEPTH + 2):
        nested = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(sequence(nested))) + sequence(nested)
    with pytest.raises(CorruptImageError, match=f"more than {MAX_DEPTH} sequences"):
        read_mammogram(with_element(make_dicom, EXPLICIT, Tag.VIEW_CODE_SEQUENCE, sequence(nested)))


def test_a_sequence_of_unknown_representation_is_implicit(make_dicom: MakeDicom) -> None:
    """PS3.5 6.2.2: with a given or an undefined length."""
    code = raw(Tag.CODE_VALUE, IMPLICIT, b"399162004 ")
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(code)) + code
    known = raw(Tag.VIEW_CODE_SEQUENCE, EXPLICIT, item, "UN")
    head = struct.pack("<HH", 0x0054, 0x0220) + b"UN\0\0\xff\xff\xff\xff"
    undefined = head + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    for element in (known, undefined):
        assert read_mammogram(with_element(make_dicom, EXPLICIT, Tag.VIEW_CODE_SEQUENCE, element)).view == "CC"


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_data_set_without_file_header_is_read_and_flagged(make_dicom: MakeDicom, syntax: str) -> None:
    data = make_dicom(CELLS, bits=12, syntax=syntax, ImageType=["ORIGINAL", "PRIMARY"], Modality="MG")
    bare = data[data.index(b"\x08\0\x08\0", 132) :]
    image = read_mammogram(bare)
    assert np.array_equal(image.pixels, read_mammogram(data).pixels) and "no-preamble" in image.flags
    assert "no-preamble" not in read_mammogram(data).flags
    assert np.array_equal(read_mammogram(data[128:]).pixels, image.pixels)
    compressed = make_dicom(CELLS, bits=12, syntax="1.2.840.10008.1.2.4.90", ImageType="ORIGINAL", Modality="MG")
    with pytest.raises(CorruptImageError, match="TransferSyntaxUID"):
        read_mammogram(compressed[compressed.index(b"\x08\0\x08\0", 132) :])


def test_functional_groups_supply_missing_attributes(make_dicom: MakeDicom, make_item: Callable[..., Any]) -> None:
    """C.7.6.16: a single generated 2-D image in tomosynthesis storage has its attributes there."""
    shared = make_item(
        FrameAnatomySequence=[make_item(FrameLaterality="R")],
        PixelMeasuresSequence=[make_item(PixelSpacing=["0.1", "0.1"])],
        FrameVOILUTSequence=[make_item(WindowCenter="1000", WindowWidth="500")],
    )
    image = read_mammogram(
        make_dicom(
            CELLS,
            bits=12,
            SOPClassUID="1.2.840.10008.5.1.4.1.1.13.1.3",
            ImageType=["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"],
            NumberOfFrames="1",
            SharedFunctionalGroupsSequence=[shared],
        )
    )
    assert image.laterality == "R" and image.pixel_spacing_mm == 0.1 and "synthetic-2d" in image.flags
    assert image.facts["window_center"] == 1000
