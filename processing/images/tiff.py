"""Reads greyscale TIFF and BigTIFF files of 8 and 16 bits as pixels on the full 16-bit scale.

Files with a lossy compression are refused: libtiff does not report damage to their data.
Sources: Adobe, TIFF Revision 6.0, sections 4 (greyscale), 8 (baseline fields) and 15 (tiles); libtiff's BigTIFF design.
"""

import struct
import warnings
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mammopipe.processing.errors import (
    CorruptImageError,
    ImageTooLargeError,
    NotAMammogramError,
    UnsupportedImageError,
)
from mammopipe.processing.images.exif import check_square
from mammopipe.processing.read_config import Limits

_BIG_SIGNATURES = (b"II+\0", b"MM\0+")
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", *_BIG_SIGNATURES)
_SUBFILE, _COLUMNS, _ROWS, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIPS, _ORIENTATION, _SAMPLES, _STRIP_BYTES, _TILE_COLUMNS, _TILE_ROWS = 273, 274, 277, 279, 322, 323
_TILES, _TILE_BYTES, _FORMAT = 324, 325, 339
_OLD_SUBFILE, _ROWS_PER_STRIP, _X_RESOLUTION, _Y_RESOLUTION = 255, 278, 282, 283
_OLD_REDUCED = 2
"""Value of the old SubfileType of a smaller copy of another image."""
_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType: a smaller copy of another image, a transparency mask."""
_UNCOMPRESSED = 1
_COMPRESSIONS = {
    _UNCOMPRESSED: "none",
    5: "LZW",
    8: "Deflate",
    32773: "PackBits",
    32946: "Deflate",
    34925: "LZMA",
    50000: "Zstandard",
}
"""The lossless compressions, by the value of Compression."""
_MAX_FIELDS = 4096
"""Greatest number of fields of a page; a classic TIFF may have 65,535, a BigTIFF has no limit."""
_SMALL_TILE = 2**20
"""Tiles of up to this number of pixels may be larger than the image; writers use tiles of 256 to 1,024 a side."""
_MOST_PADDING = 64
"""Greatest number of bytes after the rows of an uncompressed strip."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _UNSIGNED = 0, 1, 1


def read_tiff(data: bytes, *, where: str, limits: Limits) -> tuple[NDArray[np.uint16], dict[str, Any]]:
    """Return the pixels of a greyscale TIFF and the facts of its header.

    The header is checked before any pixel is decoded.

    Args:
        data: The file.
        where: The name of the file in errors.
        limits: The greatest size that the file may announce.

    Returns:
        The pixels, uint16, (rows, columns), on the full 16-bit scale with 0 = black, and the facts.

    Raises:
        NotAMammogramError: The file is in colour or has several pages.
        UnsupportedImageError: The file has an encoding that is not decoded here.
        CorruptImageError: The file is damaged or contradicts itself.
        ImageTooLargeError: The file announces more than the limits allow.
    """
    fields = _first_page(data, where)
    _check_single(fields, where)
    rows = _number(fields, _ROWS, "ImageLength", where)
    columns = _number(fields, _COLUMNS, "ImageWidth", where)
    limits.check_size(rows, columns, where)
    photometric = _number(fields, _PHOTOMETRIC, "PhotometricInterpretation", where)
    samples = _number(fields, _SAMPLES, "SamplesPerPixel", where, 1)
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) or samples != 1:
        raise NotAMammogramError(
            f"{where}: TIFF PhotometricInterpretation {photometric}, SamplesPerPixel {samples}; a mammogram is "
            "greyscale (0 or 1) with one sample a pixel"
        )
    orientation = _number(fields, _ORIENTATION, "Orientation", where, 1)
    if orientation != 1:
        raise UnsupportedImageError(
            f"{where}: TIFF Orientation {orientation}; only 1, the first row on top and the first column left, is read"
        )
    bits, kind = _number(fields, _BITS, "BitsPerSample", where, 1), _number(fields, _FORMAT, "SampleFormat", where, 1)
    if bits not in (8, 16) or kind != _UNSIGNED:
        raise UnsupportedImageError(
            f"{where}: TIFF of {bits} bits, SampleFormat {kind}; 8 and 16 bits unsigned are read"
        )
    _check_data(fields, data, rows * columns, rows * columns * bits // 8, where)
    try:
        image = imagecodecs.tiff_decode(data)
    except (imagecodecs.TiffError, ValueError, IndexError) as error:
        raise CorruptImageError(f"{where}: the TIFF's data cannot be decoded: {str(error).splitlines()[0]}") from None
    if image.shape != (rows, columns) or image.dtype != np.dtype(f"uint{bits}"):
        raise CorruptImageError(f"{where}: the TIFF's data is no image of {rows} x {columns} with {bits} bits")
    pixels = image.astype(np.uint16) * np.uint16(257 if bits == 8 else 1)
    if photometric == _WHITE_IS_ZERO:
        pixels = np.uint16(65535) - pixels
    return np.ascontiguousarray(pixels), {"format": "TIFF", "bits_stored": bits}


def read_directory(data: bytes) -> ImageFileDirectory_v2:
    """Return the first directory of fields of a TIFF or a BigTIFF.

    Raises:
        OSError, SyntaxError, ValueError, TypeError, UserWarning, struct.error: It is damaged.
    """
    big = data.startswith(_BIG_SIGNATURES)
    header = data[4:16] if big else data[4:8]
    if big and header[:4] not in (b"\x08\0\0\0", b"\0\x08\0\0"):
        raise ValueError("its offsets do not have 8 bytes")
    # Pillow only warns where a directory ends early, and goes on with the part that it has.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Pillow takes the byte order from `prefix`; in the signature it knows BigTIFF by its little-endian form alone.
        fields = ImageFileDirectory_v2((b"II+\0" if big else b"II*\0") + header, prefix=data[:2])
        order = "<" if data[:2] == b"II" else ">"
        count = struct.unpack_from(order + ("Q" if big else "H"), data, fields.next)[0]
        if count > _MAX_FIELDS:
            raise ValueError(f"it has {count} fields; at most {_MAX_FIELDS} are read")
        stream = BytesIO(data)
        stream.seek(fields.next)
        fields.load(stream)
    return fields


def _first_page(data: bytes, where: str) -> ImageFileDirectory_v2:
    """Return the fields of the only page; a file with more pages is refused."""
    try:
        fields = read_directory(data)
    except (OSError, SyntaxError, ValueError, TypeError, UserWarning, struct.error) as error:
        raise CorruptImageError(f"{where}: TIFF header cannot be read: {error}") from None
    if fields.next:
        raise NotAMammogramError(f"{where}: TIFF of several pages; a mammogram is one")
    return fields


def _check_single(fields: ImageFileDirectory_v2, where: str) -> None:
    kind = _number(fields, _SUBFILE, "NewSubfileType", where, 0)
    for bit, meaning in ((_REDUCED, "a reduced copy of an image"), (_MASK, "a mask")):
        if kind & bit:
            raise NotAMammogramError(f"{where}: TIFF NewSubfileType {kind}: {meaning}")
    if _number(fields, _OLD_SUBFILE, "SubfileType", where, 0) == _OLD_REDUCED:
        raise NotAMammogramError(f"{where}: TIFF SubfileType {_OLD_REDUCED}: a reduced copy of an image")
    across, down = (_resolution(fields, tag) for tag in (_X_RESOLUTION, _Y_RESOLUTION))
    check_square(across, down, where, "TIFF XResolution and YResolution")


def _resolution(fields: ImageFileDirectory_v2, tag: int) -> float:
    """Return a resolution; 0 if it is not stated or no number."""
    value: Any = fields.get(tag, 0)
    try:
        return float(value[0] if isinstance(value, tuple) else value)
    except (TypeError, ValueError, IndexError):
        return 0.0


def _check_data(fields: ImageFileDirectory_v2, data: bytes, pixels: int, needed: int, where: str) -> None:
    """Raise unless the strips or tiles lie in the file, are not too large, and hold enough data if uncompressed."""
    compression = _number(fields, _COMPRESSION, "Compression", where, _UNCOMPRESSED)
    if compression not in _COMPRESSIONS:
        read = ", ".join(f"{value} ({name})" for value, name in _COMPRESSIONS.items())
        raise UnsupportedImageError(f"{where}: TIFF Compression {compression}; lossless ones are read: {read}")
    tiled = _TILES in fields or _TILE_COLUMNS in fields
    if tiled:
        sides = [
            _number(fields, tag, name, where)
            for tag, name in ((_TILE_COLUMNS, "TileWidth"), (_TILE_ROWS, "TileLength"))
        ]
        if sides[0] * sides[1] > max(_SMALL_TILE, 4 * pixels):
            raise ImageTooLargeError(f"{where}: TIFF tiles of {sides[1]} x {sides[0]} for an image of {pixels} pixels")
    names = ("TileOffsets", "TileByteCounts") if tiled else ("StripOffsets", "StripByteCounts")
    offsets = _numbers(fields, _TILES if tiled else _STRIPS)
    counts = _numbers(fields, _TILE_BYTES if tiled else _STRIP_BYTES)
    if not offsets or len(counts) != len(offsets):
        raise CorruptImageError(f"{where}: TIFF {names[0]} has {len(offsets)} values, {names[1]} has {len(counts)}")
    inside = all(
        start >= 8 and count > 0 and start + count <= len(data) for start, count in zip(offsets, counts, strict=True)
    )
    if not inside or (compression == _UNCOMPRESSED and sum(counts) < needed):
        raise CorruptImageError(f"{where}: TIFF {names[0]} and {names[1]} do not lead to the image's data in the file")
    rows = _number(fields, _ROWS, "ImageLength", where)
    in_strip = min(rows, _number(fields, _ROWS_PER_STRIP, "RowsPerStrip", where, rows)) * (needed // rows)
    if compression == _UNCOMPRESSED and not tiled and sum(counts) > len(counts) * (in_strip + _MOST_PADDING):
        raise CorruptImageError(
            f"{where}: TIFF strips have {sum(counts)} bytes; {len(counts)} of {in_strip} bytes are needed"
        )


def _numbers(fields: ImageFileDirectory_v2, tag: int) -> tuple[int, ...]:
    value: Any = fields.get(tag, ())
    return tuple(map(int, value)) if isinstance(value, tuple) else (int(value),)


def _number(fields: ImageFileDirectory_v2, tag: int, name: str, where: str, default: int | None = None) -> int:
    value: Any = fields.get(tag, default)
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if value is None or isinstance(value, tuple):
        raise CorruptImageError(f"{where}: TIFF field {name} must be one number")
    return int(value)
