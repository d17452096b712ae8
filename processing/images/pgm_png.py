"""Reads PGM and greyscale PNG files of 8 and 16 bits as pixels on the full 16-bit scale, and writes 16-bit PNG.

Sources: the Netpbm `pgm` manual page (binary form, P5); W3C "Portable Network Graphics, Third Edition".
"""

import re
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

from mammopipe.processing.errors import ConfigError, CorruptImageError, NotAMammogramError, UnsupportedImageError
from mammopipe.processing.files import atomic_writer
from mammopipe.processing.image_flags import ImageFlag
from mammopipe.processing.images.exif import check_square, check_upright
from mammopipe.processing.read_config import Limits

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_FILTER_UP = 2
PNG_BLOCK = 2**22
"""Bytes of pixels that are compressed into one IDAT chunk of a PNG file."""
FULL_SCALE = 65535
# A token of a PGM header: whitespace and comments (from # to the end of the line), then decimal digits. The number of
# digits is bounded, so that a hostile header costs nothing. The caller matches the whitespace that ends the header.
_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,10})(?=[\s#])")
_LONE_CR = re.compile(rb"\r(?!\n)")
_PADDING, _NETPBM = re.compile(rb"[\s\0]*"), re.compile(rb"P[1-7]\s")
_PALETTE = 3
_PNG_COLOURS = {2: "truecolour", _PALETTE: "palette", 4: "greyscale with alpha", 6: "truecolour with alpha"}


def read_pgm(data: bytes, *, where: str, limits: Limits) -> tuple[NDArray[np.uint16], dict[str, Any]]:
    """Return the pixels of a binary PGM and the facts of its header.

    Args:
        data: The file.
        where: The name of the file in errors.
        limits: The greatest size that the file may announce.

    Returns:
        The pixels, uint16, (rows, columns), scaled so that the file's maxval becomes 65535, and the facts.

    Raises:
        UnsupportedImageError: The file is a plain (text) PGM or another Netpbm type.
        CorruptImageError: The header or maxval is invalid, or samples are missing.
        ImageTooLargeError: The file announces more than the limits allow.
    """
    if data[:2] != b"P5":
        raise UnsupportedImageError(
            f"{where}: Netpbm magic {data[:2].decode('ascii', 'replace')!r}; only binary PGM (P5) is read"
        )
    columns, rows, maxval, start = _pgm_header(data, where)
    limits.check_size(rows, columns, where)
    if not 1 <= maxval <= FULL_SCALE:
        raise CorruptImageError(f"{where}: PGM maxval {maxval} must be between 1 and {FULL_SCALE}")
    dtype = np.dtype(">u2" if maxval > 255 else np.uint8)
    needed = rows * columns * dtype.itemsize
    if len(data) - start < needed:
        raise CorruptImageError(
            f"{where}: PGM of {columns} x {rows} needs {needed} bytes of samples, {max(0, len(data) - start)} are there"
        )
    # Matched in place: a copy of what follows could be as large as the greatest body.
    padding = _PADDING.match(data, start + needed)
    surplus = len(data) - (padding.end() if padding else start + needed)
    if surplus and _NETPBM.match(data, len(data) - surplus):
        raise NotAMammogramError(f"{where}: a second Netpbm image follows the first; a mammogram is one frame")
    if surplus:
        raise CorruptImageError(
            f"{where}: PGM of {columns} x {rows} needs {needed} bytes of samples; {surplus} follow that are no padding"
        )
    samples = np.frombuffer(data, dtype, rows * columns, start).reshape(rows, columns)
    if samples.max() > maxval:
        raise CorruptImageError(f"{where}: PGM sample {int(samples.max())} is above its maxval {maxval}")
    return _to_full_scale(samples, maxval), {"format": "PGM", "bits_stored": 8 * dtype.itemsize, "maxval": maxval}


def _pgm_header(data: bytes, where: str) -> tuple[int, int, int, int]:
    """Return columns, rows, maxval and the offset of the first sample."""
    values, position = [], 2
    for name in ("width", "height", "maxval"):
        match = _TOKEN.match(data, position, position + 4096)
        if match is None:
            raise CorruptImageError(f"{where}: PGM header has no {name} (a decimal number)")
        values.append(int(match[1]))
        position = match.end()
    if data[position : position + 1] == b"#":
        raise CorruptImageError(f"{where}: PGM header: exactly one whitespace must follow maxval, not a comment")
    # One whitespace ends the header. Some writers end its lines with CR LF; a header with a lone CR means the CR alone.
    ends_crlf = data[position : position + 2] == b"\r\n" and not _LONE_CR.search(data, 0, position)
    return values[0], values[1], values[2], position + 1 + ends_crlf


def _to_full_scale(samples: NDArray[Any], maxval: int) -> NDArray[np.uint16]:
    """Return round(v * 65535 / maxval), halves up, as a fresh native uint16 array."""
    if FULL_SCALE % maxval == 0:  # multiplication is eight times as fast as a look-up
        return np.asarray(np.multiply(samples, FULL_SCALE // maxval, dtype=np.uint16))
    table = (np.arange(maxval + 1, dtype=np.uint64) * FULL_SCALE * 2 + maxval) // (2 * maxval)
    return np.asarray(table.astype(np.uint16)[samples])


def read_png(data: bytes, *, where: str, limits: Limits) -> tuple[NDArray[np.uint16], dict[str, Any], set[ImageFlag]]:
    """Return the pixels of a PNG, the facts of its header, and flags.

    A colour PNG is read only if it shows a grey image: its channels are equal and it is opaque. The header and the
    length and checksum of every chunk are verified before any pixel is decoded.

    Args:
        data: The file.
        where: The name of the file in errors.
        limits: The greatest size that the file may announce.

    Returns:
        The pixels, uint16, (rows, columns), on the full 16-bit scale; the facts; the flags.

    Raises:
        NotAMammogramError: The file is in colour or animated.
        UnsupportedImageError: The file has an encoding that is not decoded here.
        CorruptImageError: The file is damaged or contradicts itself.
        ImageTooLargeError: The file announces more than the limits allow.
    """
    columns, rows, depth, colour = _png_header(data, where)
    limits.check_size(rows, columns, where)
    if colour not in (0, *_PNG_COLOURS):
        raise CorruptImageError(f"{where}: PNG colour type {colour} is unknown")
    if colour:  # Three or four channels need more memory, so a colour image may have only half as many pixels.
        limits.check_size(2 * rows, columns, where)
    if depth not in (8, 16):
        raise UnsupportedImageError(f"{where}: PNG bit depth {depth}; 8 and 16 are read")
    transparent, entries = _check_png_chunks(data, where)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None or image.shape[:2] != (rows, columns) or image.dtype != (np.uint16 if depth == 16 else np.uint8):
        raise CorruptImageError(f"{where}: the PNG's data cannot be decoded to {rows} x {columns} of {depth} bits")
    flags: set[ImageFlag] = set()
    if colour == _PALETTE and entries < 256 and int(np.asarray(Image.open(BytesIO(data))).max()) >= entries:
        raise CorruptImageError(f"{where}: a pixel of the PNG has no entry in its palette of {entries}")
    if image.ndim == 3:
        image, flags = _grey(image, colour, where), {ImageFlag.COLOUR_REMOVED}
    elif transparent and bool((image == transparent).any()):
        raise NotAMammogramError(f"{where}: PNG with transparency: the grey value {transparent} shows nothing (tRNS)")
    pixels = _to_full_scale(image, 255) if depth == 8 else np.ascontiguousarray(image, dtype=np.uint16)
    return pixels, {"format": "PNG", "bits_stored": depth}, flags


def _grey(image: NDArray[Any], colour: int, where: str) -> NDArray[Any]:
    """Return one channel of a colour image; raises `NotAMammogramError` unless its channels are equal."""
    first, *others = (image[..., index] for index in range(min(3, image.shape[2])))
    opaque = image.shape[2] < 4 or bool((image[..., 3] == np.iinfo(image.dtype).max).all())
    if not opaque or not all(np.array_equal(first, other) for other in others):
        wrong = "channels that differ" if opaque else "transparency"
        raise NotAMammogramError(
            f"{where}: PNG colour type {colour} ({_PNG_COLOURS[colour]}) with {wrong}; a mammogram is greyscale"
        )
    return np.ascontiguousarray(first)


def _png_header(data: bytes, where: str) -> tuple[int, int, int, int]:
    """Return columns, rows, bit depth and colour type of the IHDR chunk, which must come first."""
    if len(data) < 33 or data[12:16] != b"IHDR" or data[8:12] != b"\0\0\0\r":
        raise CorruptImageError(f"{where}: PNG without an IHDR chunk at its start")
    columns, rows, depth, colour = struct.unpack_from(">IIBB", data, 16)
    return columns, rows, depth, colour


def _check_png_chunks(data: bytes, where: str) -> tuple[int, int]:
    """Raise unless all chunks up to IEND are complete; a decoder may silently fill missing pixels with black.

    Returns:
        The grey value that tRNS makes transparent (11.3.1.1), 0 if there is none or it is black, the value of air; and
        the number of entries of the palette (11.2.2).
    """
    position, name, transparent, entries = len(PNG_SIGNATURE), b"", 0, 0
    while name != b"IEND":
        if position + 12 > len(data):
            raise CorruptImageError(f"{where}: PNG ends at byte {len(data)} without an IEND chunk")
        length, name = struct.unpack_from(">I4s", data, position)
        if position + 12 + length > len(data):
            raise CorruptImageError(
                f"{where}: PNG chunk {name!r} announces {length} bytes, {len(data) - position - 12} are there"
            )
        body = memoryview(data)[position + 4 : position + 8 + length]
        if zlib.crc32(body) != int.from_bytes(data[position + 8 + length : position + 12 + length]):
            raise CorruptImageError(f"{where}: PNG chunk {name!r} has a wrong checksum")
        if name == b"PLTE":
            entries = length // 3
        if name == b"tRNS" and length == 2:
            transparent = int.from_bytes(body[4:])
        if name == b"eXIf":
            check_upright(bytes(body[4:]), where, "PNG")
        if name == b"pHYs" and length == 9:
            across, down = struct.unpack_from(">II", body, 4)
            check_square(across, down, where, "PNG resolution (pHYs)")
        if name == b"acTL":
            raise NotAMammogramError(f"{where}: animated PNG; a mammogram is one frame")
        position += 12 + length
    if data.find(PNG_SIGNATURE, position) >= 0:
        raise NotAMammogramError(f"{where}: a second PNG follows the first; a mammogram is one frame")
    return transparent, entries


def write_png(path: Path, pixels: NDArray[np.uint16]) -> None:
    """Write a 16-bit greyscale PNG, complete or not at all.

    Args:
        path: The file to write.
        pixels: uint16, (rows, columns).

    Raises:
        ConfigError: `pixels` is not a 2-D uint16 array, or is empty.
    """
    if pixels.dtype != np.uint16 or pixels.ndim != 2 or pixels.size == 0:
        raise ConfigError(f"{path}: pixels of {pixels.dtype} {pixels.shape} cannot be written: 2-D uint16 is needed")
    with atomic_writer(path) as stream:
        stream.writelines(_encoded_png(pixels))


def _encoded_png(pixels: NDArray[np.uint16]) -> Iterator[bytes]:
    """Yield the pieces of a PNG file; no piece needs a copy of the whole image."""
    # ISA-L takes a sixth of libdeflate's time, and files grow by 1 to 2 %. Its levels 0 to 2 give the same bytes on
    # every x86-64 processor with SSE4.2, which NumPy needs as well; ARM processors write other bytes, the same pixels.
    rows, columns = pixels.shape
    yield PNG_SIGNATURE
    yield _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 16, 0, 0, 0, 0))
    deflate, step = isal_zlib.compressobj(level=1), max(1, PNG_BLOCK // (2 * columns))
    for start in range(0, rows, step):
        body = deflate.compress(_filtered_up(pixels, start, min(start + step, rows)))
        if start + step >= rows:
            body += deflate.flush()
        if body:
            yield _chunk(b"IDAT", body)
    yield _chunk(b"IEND", b"")


def _filtered_up(pixels: NDArray[np.uint16], start: int, stop: int) -> NDArray[np.uint8]:
    """Return the scan lines of rows `start` to `stop`, uint8, each preceded by its filter type, Up."""
    above = max(start - 1, 0)
    cells = pixels[above:stop].astype(">u2", order="C").view(np.uint8)
    lines = np.empty((stop - start, cells.shape[1] + 1), np.uint8)
    lines[:, 0] = PNG_FILTER_UP
    if start:
        np.subtract(cells[1:], cells[:-1], out=lines[:, 1:])
    else:
        lines[0, 1:] = cells[0]
        np.subtract(cells[1:], cells[:-1], out=lines[1:, 1:])
    return lines


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))
