"""The one frame in encapsulated pixel data: fragments joined, offset tables counted (PS3.5 A.4 and G, RLE)."""

import struct
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.dicom.attributes import Tag, Tags, label
from mammopipe.processing.dicom.codecs import Codec
from mammopipe.processing.dicom.codestreams.jpeg2000 import is_jp2, unboxed
from mammopipe.processing.dicom.data_set import UNDEFINED
from mammopipe.processing.errors import CorruptImageError, NotAMammogramError

MAX_SURPLUS = 64
"""Bytes that an RLE segment may decode to beyond its pixels: padding that a writer encoded with them."""
_PIXELS = "Pixel Data (7FE0,0010)"
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_TRAILING_PADDING = (0xFFFC, 0xFFFC)
_STARTS = {Codec.JPEG: b"\xff\xd8", Codec.JPEG_LOSSLESS: b"\xff\xd8", Codec.JPEG_LS: b"\xff\xd8"}
_STARTS |= {Codec.JPEG_2000: b"\xff\x4f\xff\x51"}


def only_frame(tags: Tags, value: memoryview, codec: Codec) -> bytes:
    """Return the one frame of encapsulated pixel data: its fragments joined, the offset table left out.

    Raises `NotAMammogramError` where offset tables or fragments show several frames, whatever Number of Frames says,
    and `CorruptImageError` where fragments are cut off or missing.
    """
    where = tags.where
    table, *fragments = [*_items(value, where), b""][:-1] or [b""]
    if not fragments:
        raise CorruptImageError(f"{where}: {_PIXELS} has no fragment after its offset table")
    if len(table) % 4:
        raise CorruptImageError(f"{where}: {_PIXELS}: its offset table has {len(table)} bytes; 4 a frame are needed")
    extended = len(tags.data(Tag.EXTENDED_OFFSET_TABLE)) // 8
    for count, name in ((len(table) // 4, f"the offset table of {_PIXELS}"), (extended, _extended_name())):
        if count > 1:
            raise NotAMammogramError(f"{where}: {name} names {count} frames; a mammogram is one frame")
    starting = [fragment for fragment in fragments if _starts_frame(fragment, fragments[0], codec)]
    if len(starting) > 1:
        raise NotAMammogramError(
            f"{where}: {len(starting)} fragments of {_PIXELS} start a frame; a mammogram is one frame"
        )
    frame = b"".join(fragments)
    return unboxed(frame, where) if codec is Codec.JPEG_2000 and is_jp2(frame) else frame


def _extended_name() -> str:
    return label(Tag.EXTENDED_OFFSET_TABLE)


def _starts_frame(fragment: memoryview | bytes, first: memoryview | bytes, codec: Codec) -> bool:
    if codec is Codec.RLE:
        # The count of segments and the first offset, which is always 64: eight bytes that no run of pixels imitates.
        return len(fragment) >= 64 and fragment[:8] == first[:8]
    return fragment[: len(_STARTS[codec])] == _STARTS[codec]


def _items(value: memoryview, where: str) -> Iterator[memoryview | bytes]:
    """Yield the items of encapsulated pixel data, which is little endian in every syntax (A.4)."""
    position = 0
    while True:
        rest = bytes(value[position : position + 8])
        if not rest.strip(b"\0"):
            return  # Some writers end the file with the last fragment, or its padding: all fragments are there.
        if len(rest) < 8:
            raise CorruptImageError(f"{where}: {_PIXELS} is truncated: no sequence delimiter")
        group, element, length = struct.unpack("<HHI", rest)
        if (group, element) in (_END, _TRAILING_PADDING):
            return
        if (group, element) != _ITEM or length == UNDEFINED:
            raise CorruptImageError(
                f"{where}: {_PIXELS}: ({group:04X},{element:04X}) where an item of known length must stand"
            )
        position += 8
        if position + length > len(value):
            raise CorruptImageError(
                f"{where}: {_PIXELS} is truncated: a fragment announces {length} "
                f"bytes, {len(value) - position} are there"
            )
        yield value[position : position + length]
        position += length
        if length % 2 and bytes(value[position : position + 3]) == b"\0\xfe\xff":
            position += 1  # The writer padded to even length, as it must, but did not count the byte.


def decode_rle(frame: bytes, rows: int, columns: int, width: int, where: str) -> NDArray[Any]:
    """Return the cells (uint8 or uint16, rows x columns) of a frame in RLE, `width` bytes a cell (PS3.5 G.3 to G.5).

    A segment may hold a few bytes more than its pixels: writers pad it to even length, before or after encoding.
    Raises `CorruptImageError` where the header points nowhere, or a segment is damaged, too short or too long.
    """
    header = struct.unpack_from("<16I", frame) if len(frame) >= 64 else (0,) * 16
    offsets = header[1 : 1 + width]
    if header[0] != width:
        raise CorruptImageError(f"{where}: {_PIXELS}: RLE header names {header[0]} segments; {width} are needed")
    if list(offsets) != sorted(set(offsets)) or offsets[0] < 64 or offsets[-1] >= len(frame):
        raise CorruptImageError(
            f"{where}: {_PIXELS}: RLE segment offsets {list(offsets)} do not lie within the {len(frame)} bytes"
        )
    count = rows * columns
    cells = np.empty(count, "<u2" if width == 2 else np.uint8)
    planes = cells.view(np.uint8).reshape(count, width)
    # Room for no more than is allowed: a bomb makes the decoder stop instead of filling memory.
    room: Any = np.empty(count + MAX_SURPLUS, np.uint8)
    for index, (start, end) in enumerate(zip(offsets, (*offsets[1:], len(frame)), strict=True)):
        decoded: Any
        try:
            decoded = imagecodecs.packbits_decode(frame[start:end], out=room)
        except (RuntimeError, ValueError):
            decoded = room[:0]
        if len(decoded) < count:
            raise CorruptImageError(
                f"{where}: {_PIXELS}: RLE segment {index + 1} does not decode to {count} bytes, the {rows} x {columns} "
                "pixels that the attributes say"
            )
        # The first segment holds the most significant bytes.
        planes[:, width - 1 - index] = decoded[:count]
    return cells.reshape(rows, columns)
