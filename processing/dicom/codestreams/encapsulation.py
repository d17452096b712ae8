"""Extracts the only frame of encapsulated pixel data, and decodes RLE (PS3.5 A.4 and annex G)."""

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
"""Greatest number of bytes beyond the pixels to which an RLE segment may decode: padding that the writer encoded."""
_PIXELS = "Pixel Data (7FE0,0010)"
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_TRAILING_PADDING = (0xFFFC, 0xFFFC)
"""Data Set Trailing Padding (PS3.10 7.2)."""
_STARTS = {Codec.JPEG: b"\xff\xd8", Codec.JPEG_LOSSLESS: b"\xff\xd8", Codec.JPEG_LS: b"\xff\xd8"}
_STARTS |= {Codec.JPEG_2000: b"\xff\x4f\xff\x51"}


def only_frame(tags: Tags, value: memoryview, codec: Codec) -> bytes:
    """Return the only frame of encapsulated pixel data: its joined fragments without the offset table.

    Raises:
        NotAMammogramError: Offset tables or fragments show several frames, even if Number of Frames is 1 or absent.
        CorruptImageError: Fragments are cut off or missing.
    """
    where = tags.where
    table, *fragments = list(_items(value, where)) or [b""]
    if not fragments:
        raise CorruptImageError(f"{where}: {_PIXELS} has no fragment after its offset table")
    if len(table) % 4:
        raise CorruptImageError(f"{where}: {_PIXELS}: its offset table has {len(table)} bytes; 4 a frame are needed")
    extended = len(tags.data(Tag.EXTENDED_OFFSET_TABLE)) // 8
    for count, name in (
        (len(table) // 4, f"the offset table of {_PIXELS}"),
        (extended, label(Tag.EXTENDED_OFFSET_TABLE)),
    ):
        if count > 1:
            raise NotAMammogramError(f"{where}: {name} names {count} frames; a mammogram is one frame")
    starting = [fragment for fragment in fragments if _starts_frame(fragment, fragments[0], codec)]
    if len(starting) > 1:
        raise NotAMammogramError(
            f"{where}: {len(starting)} fragments of {_PIXELS} start a frame; a mammogram is one frame"
        )
    frame = b"".join(fragments)
    return unboxed(frame, where) if codec is Codec.JPEG_2000 and is_jp2(frame) else frame


def _starts_frame(fragment: memoryview | bytes, first: memoryview | bytes, codec: Codec) -> bool:
    if codec is Codec.NATIVE:
        return len(fragment) > 0  # Each fragment of uncompressed pixels is a frame (A.4.11).
    if codec is Codec.RLE:
        # An RLE header starts with the number of segments and the first offset, always 64. These eight bytes cannot be
        # mistaken for a run of pixels.
        return len(fragment) >= 64 and fragment[:8] == first[:8]
    return fragment[: len(_STARTS[codec])] == _STARTS[codec]


def _items(value: memoryview, where: str) -> Iterator[memoryview | bytes]:
    """Yield the items of encapsulated pixel data, which is little endian in every syntax (A.4)."""
    position = 0
    while True:
        rest = bytes(value[position : position + 8])
        if not rest.strip(b"\0"):
            return  # Some writers end the file after the last fragment or its padding: all fragments are there.
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
            position += 1  # The writer padded to even length, as required, but did not count the padding byte.


def _rle_segment(data: bytes, count: int, buffer: Any) -> Any:
    """Return the `count` bytes to which a segment decodes; no bytes if it is damaged or decodes to another number.

    Some writers encode padding with the pixels: a run, or pairs of zeros, each of which decodes to one byte. Others pad
    the frame with zeros to a fixed size. Of these zeros, the second attempt keeps 128, because the last pixels may be a
    literal run of zeros, which has at most that length. Without padding, the segment must decode to exactly its pixels.

    Args:
        data: The segment.
        count: Number of pixels.
        buffer: uint8, (count + `MAX_SURPLUS`,), memory for the result.
    """
    for piece in (data, data[: len(data.rstrip(b"\0")) + 2 * MAX_SURPLUS]):
        decoded = _packbits(piece, buffer)
        surplus = len(decoded) - count
        for cut in (2 * surplus, 2 * surplus + 1, 2, 3) if surplus > 0 else ():
            if len(decoded) != count:
                decoded = _packbits(piece[: len(piece) - cut], buffer)
        if len(decoded) == count:
            return decoded
    return buffer[:0]


def _packbits(data: bytes, buffer: Any) -> Any:
    """Return the decoded bytes, in `buffer`; no bytes if the data are damaged or longer than the buffer."""
    try:
        return imagecodecs.packbits_decode(data, out=buffer)
    except (RuntimeError, ValueError):
        return buffer[:0]


def decode_rle(frame: bytes, rows: int, columns: int, width: int, where: str) -> NDArray[Any]:
    """Return the cells of an RLE frame (PS3.5 G.3 to G.5).

    A segment may hold a few bytes more than its pixels: writers pad it to even length, before or after encoding.

    Args:
        frame: The RLE frame.
        rows: Rows of the image.
        columns: Columns of the image.
        width: Bytes per cell, 1 or 2.
        where: The name of the file in errors.

    Returns:
        uint8 or uint16, (rows, columns).

    Raises:
        CorruptImageError: The header holds an invalid offset, or a segment is damaged, too short or too long.
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
    # The buffer holds only the allowed size, so a decompression bomb stops the decoder instead of filling memory.
    buffer: Any = np.empty(count + MAX_SURPLUS, np.uint8)
    for index, (start, end) in enumerate(zip(offsets, (*offsets[1:], len(frame)), strict=True)):
        decoded = _rle_segment(frame[start:end], count, buffer)
        if len(decoded) != count:
            raise CorruptImageError(
                f"{where}: {_PIXELS}: RLE segment {index + 1} does not decode to {count} bytes, the {rows} x {columns} "
                "pixels that the attributes say"
            )
        # The first segment holds the most significant bytes.
        planes[:, width - 1 - index] = decoded
    return cells.reshape(rows, columns)
