"""Parses a DICOM file: its transfer syntax, the wanted attributes before its pixel data, and the pixel data.

Sources: PS3.10 chapter 7 (file meta information), PS3.5 10.1 (default transfer syntax), A.5 (deflated).
"""

import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from mammopipe.processing.dicom.attributes import OVERLAY_BIT_POSITIONS, Tag, Tags, label
from mammopipe.processing.dicom.codecs import Syntax, default_syntax, syntax_of
from mammopipe.processing.dicom.data_set import UNDEFINED, DataSetReader, PixelHeader
from mammopipe.processing.errors import CorruptImageError, UnsupportedImageError
from mammopipe.processing.read_config import Limits

PREAMBLE = 128
FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)
PIXEL_DATA = 0x7FE00010
MEDIA_STORAGE_SOP_CLASS_UID = 0x0002
MEDIA_STORAGE_SOP_INSTANCE_UID = 0x0003
TRANSFER_SYNTAX_UID = 0x0010
IMPLEMENTATION_VERSION_NAME = 0x0013
PHANTOM_WRITER = "MAMMOPIPEPHANTOM"
"""The Implementation Version Name of synthetic files; it distinguishes them from patients' files."""
READER_TAGS = frozenset((*Tag, *OVERLAY_BIT_POSITIONS))


@dataclass(frozen=True)
class DicomFile:
    """The parts of a DICOM file that the reader uses."""

    tags: Tags
    syntax: Syntax
    pixel_data: memoryview
    """The value of Pixel Data (7FE0,0010); it extends to the end of the file if its length is undefined."""
    pixel_vr: str
    pixel_length: int
    """The announced length in bytes, or 0xFFFFFFFF (undefined) for encapsulated pixel data."""
    writer: str
    """Implementation Version Name (0002,0013), the program that wrote the file; empty if not stated."""
    sop_class: str
    """Media Storage SOP Class UID (0002,0002); empty if not stated."""
    sop_instance: str
    """Media Storage SOP Instance UID (0002,0003); empty if not stated."""
    bare: bool
    """Whether the file is a data set without file meta information."""


def is_dicom(data: bytes) -> bool:
    """Return whether the bytes start like a DICOM file.

    They start with one of these: `DICM`, with or without a preamble; file meta elements; a data set whose first element
    is of group 0008, in implicit or explicit VR.
    """
    return (
        data[PREAMBLE : PREAMBLE + 4] == b"DICM"
        or data[:4] == b"DICM"
        or (data[:2] == b"\x02\0" and data[4:6].isalpha())
        or _is_bare(data)
    )


def _is_bare(data: bytes) -> bool:
    """Return whether the bytes are a data set without file meta information: the first two elements are consistent."""
    if data[:2] != b"\x08\0" or len(data) < 16:
        return False
    explicit = data[4:6].isalpha() and data[4:6].isupper()
    length = int.from_bytes(data[6:8] if explicit else data[4:8], "little")
    if explicit and data[4:6].decode("ascii") in EXPLICIT_VR_LENGTH_32:
        return False
    # The tags of a data set ascend (PS3.5 7.1), so the second element has a greater one.
    following = data[8 + length : 12 + length]
    return len(following) == 4 and following[1] == 0 and following[0] >= 8 and following > data[:4]


def parse(
    data: bytes, *, where: str, limits: Limits, tags: Iterable[int] = READER_TAGS, everywhere: bool = False
) -> DicomFile:
    """Return the parts of a DICOM file.

    Args:
        data: The file.
        where: The name of the file in errors.
        limits: The greatest size of a deflated data set.
        tags: The attributes to keep.
        everywhere: Whether to search for them also in sequences that are not in `tags`.

    Raises:
        UnsupportedImageError: The transfer syntax is unknown, or the pixel data are floating-point.
        CorruptImageError: The data set cannot be parsed up to its pixel data.
        ImageTooLargeError: A deflated data set exceeds the limits.
    """
    start = PREAMBLE + 4 if data[PREAMBLE : PREAMBLE + 4] == b"DICM" else 4 if data[:4] == b"DICM" else 0
    bare = start == 0 and _is_bare(data)
    meta, start = _file_meta(data, start, where)
    uid = meta.get(TRANSFER_SYNTAX_UID, "")
    if not uid and not bare:
        raise CorruptImageError(f"{where}: no TransferSyntaxUID (0002,0010) in the file meta information")
    syntax = syntax_of(uid, where) if uid else default_syntax()
    if syntax.deflated:
        data, start = _inflate(data[start:], where, limits), 0
    reader = DataSetReader(data, where=where, wanted=frozenset(map(int, tags)), everywhere=everywhere)
    found, pixels = reader.read(start, implicit=syntax.implicit, little_endian=not syntax.big_endian)
    if pixels is None or pixels.tag not in (PIXEL_DATA, *FLOAT_PIXEL_DATA):
        raise CorruptImageError(f"{where}: no Pixel Data (7FE0,0010): the file is truncated or has no image")
    _check_pixels(pixels, bare, where)
    end = len(data) if pixels.length == UNDEFINED else pixels.start + pixels.length
    names = (IMPLEMENTATION_VERSION_NAME, MEDIA_STORAGE_SOP_CLASS_UID, MEDIA_STORAGE_SOP_INSTANCE_UID)
    writer, sop_class, sop_instance = (meta.get(name, "") for name in names)
    value = memoryview(data)[pixels.start : end]
    return DicomFile(
        Tags(found, where), syntax, value, pixels.vr or "OW", pixels.length, writer, sop_class, sop_instance, bare
    )


def _check_pixels(pixels: PixelHeader, bare: bool, where: str) -> None:
    if pixels.tag in FLOAT_PIXEL_DATA:
        raise UnsupportedImageError(f"{where}: {label(pixels.tag)}: floating-point pixels are not read")
    if bare and pixels.length == UNDEFINED:
        raise CorruptImageError(
            f"{where}: Pixel Data (7FE0,0010) is compressed and no TransferSyntaxUID (0002,0010) says how"
        )


def _file_meta(data: bytes, position: int, where: str) -> tuple[dict[int, str], int]:
    """Return the values of group 0002 by element, and the data set's start (PS3.10 7.1: explicit little endian)."""
    found: dict[int, str] = {}
    while data[position : position + 2] == b"\x02\0" and position + 8 <= len(data):
        element, vr, length = struct.unpack_from("<H2sH", data, position + 2)
        header = 8
        if vr.decode("ascii", "replace") in EXPLICIT_VR_LENGTH_32:
            length, header = int.from_bytes(data[position + 8 : position + 12], "little"), 12
        value = data[position + header : position + header + length]
        if len(value) < length:
            raise CorruptImageError(
                f"{where}: file meta element (0002,{element:04X}) announces {length} bytes, {len(value)} are there"
            )
        found[element] = re.sub(r"[^ -~]", "?", value.decode("ascii", "replace").strip(" \0"))
        position += header + length
    return found, position


def _inflate(data: bytes, where: str, limits: Limits) -> bytes:
    """Return the inflated data set, up to the size that the limits allow (PS3.5 A.5)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, limits.max_bytes + 1)
    except zlib.error:
        raise CorruptImageError(f"{where}: the deflated data set cannot be inflated") from None
    limits.check_bytes(len(inflated), where)
    if not inflater.eof:
        raise CorruptImageError(f"{where}: the deflated data set is truncated")
    return inflated
