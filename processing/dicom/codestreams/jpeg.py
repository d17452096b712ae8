"""Checks JPEG, JPEG Lossless and JPEG-LS codestreams: their header, their end, and whether they are complete.

libjpeg fills missing data with zeros and only warns. So this module checks the entropy-coded data: they must determine
every pixel, and no data may be left over. Sources: ISO/IEC 10918-1 B.1 and B.2 (markers, frame and scan headers),
F.1.2.3 (padding before a marker), F.2.2.5 (what a decoder may do at a marker); 14495-1 C.2.2 (SOF55).
"""

import re
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.dicom.codecs import Announced, Codec
from mammopipe.processing.errors import CorruptImageError, NotAMammogramError

Decoder = Callable[[bytes], Any]
_PIXELS = "Pixel Data (7FE0,0010)"
_SOF_OF = {Codec.JPEG: (0xC0, 0xC1), Codec.JPEG_LOSSLESS: (0xC3,), Codec.JPEG_LS: (0xF7,)}
_START = b"\xff\xd8"
_END = b"\xff\xd9"
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# In the coded data of JPEG, a byte FF is followed by 00; in those of JPEG-LS, by a byte below 80 (14495-1 A.1).
_MARKER = {Codec.JPEG_LS: re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")}
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
FEW_CODES = 3
"""With at most this number of codes in a Huffman table, different bits may decode to the same values."""
_AFTER = (b"\x55\xaa" * 8, b"\xb6\x6d\x3b" * 5, b"\x0c\xe1\x5a" * 5, b"\xe4\x93\x27" * 5)
"""Bits that are appended, or replace the last byte; they differ from each other and from libjpeg's zeros."""


def announced(data: bytes, codec: Codec, where: str) -> Announced:
    """Return the size and depth that the frame header (SOF) of a JPEG or JPEG-LS codestream announces.

    Padding may follow the codestream.

    Args:
        data: The codestream.
        codec: The codec of the transfer syntax.
        where: The name of the file in errors.

    Raises:
        CorruptImageError: A frame header of the transfer syntax or the end-of-image marker (EOI) is missing.
        NotAMammogramError: Another codestream follows the first.
    """
    try:
        head = _frame_header(data, _SOF_OF[codec])
        end = _scan(data, codec)[1]
    except (struct.error, ValueError) as error:
        reason = "its header is truncated" if isinstance(error, struct.error) else error
        raise CorruptImageError(f"{where}: {_PIXELS} cannot be read by {codec}: {reason}") from None
    if data.find(_START + b"\xff", end) >= 0:
        raise NotAMammogramError(f"{where}: {_PIXELS} holds several codestreams; a mammogram is one frame")
    return head


def _frame_header(data: bytes, wanted: tuple[int, ...]) -> Announced:
    if data[:2] != _START:
        raise ValueError("it does not start with the SOI marker")
    for marker, position in _segments(data):
        if marker in wanted:
            precision, rows, columns, components = struct.unpack_from(">BHHB", data, position + 4)
            return Announced(rows, columns, components, precision, lossy=_tolerance(data) > 0)
        if marker == 0xDA or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            raise ValueError(f"marker FF{marker:02X} where the frame header of this transfer syntax must stand")
    raise ValueError("its header is truncated")


def _tolerance(data: bytes) -> int:
    """Return by how much the samples of JPEG-LS may differ: NEAR in the scan header (14495-1 C.2.3); 0 for JPEG."""
    is_jpeg_ls = False
    for marker, position in _segments(data):
        is_jpeg_ls = is_jpeg_ls or marker == 0xF7
        if marker == 0xDA and is_jpeg_ls:
            return int(data[position + 5 + 2 * data[position + 4]])
    return 0


def _segments(data: bytes) -> Any:
    """Yield each marker of the header, up to the start of the first scan, with its position."""
    position, marker = 2, 0
    while marker != 0xDA:
        prefix, marker = struct.unpack_from(">BB", data, position)
        if prefix != 0xFF:
            raise ValueError("a marker is missing in its header")
        if marker == 0xFF:
            position += 1
            continue
        yield marker, position
        length = struct.unpack_from(">H", data, position + 2)[0]
        if length < 2:
            raise ValueError("a segment of its header has no length")
        position += 2 + length


def _scan(data: bytes, codec: Codec) -> tuple[int, int]:
    """Return where the coded data of the first scan start and end; the end-of-image marker must follow them."""
    position = 0
    for marker, start in _segments(data):
        if marker == 0xDA:
            position = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
    match = _MARKER.get(codec, _JPEG_MARKER).search(data, position)
    if match is None:
        raise ValueError("it does not end with the EOI marker: truncated")
    if match[0] != _END:
        raise ValueError(f"marker {match[0].hex().upper()} in its coded data; one scan and the EOI marker are read")
    return position, match.start()


def check_coded_data(
    data: bytes, pixels: NDArray[Any], decode: Decoder, codec: Codec, where: str, subject: str = _PIXELS
) -> None:
    """Raise `CorruptImageError` unless the coded data of a JPEG determine all pixels, with no data left over.

    The check decodes altered data. Bits appended to the data must not change any pixel; if they do, the data end too
    early. Other bits in place of the last byte must change a pixel; if they do not, the decoder did not need that byte,
    because data were inserted or lost before it. Up to two bytes at the end may be padding.

    Args:
        data: The codestream.
        pixels: The result of `decode` for `data`.
        decode: The decoder of the transfer syntax.
        codec: JPEG or JPEG Lossless.
        where: The name of the file in errors.
        subject: What holds the codestream, for errors.
    """
    start, end = _scan(data, codec)
    # Fill bytes (FF) may stand before a marker (10918-1 B.1.1.2).
    pieces = [piece.rstrip(b"\xff") for piece in _RESTART.split(data[start:end])]
    marks = _RESTART.findall(data[start:end])
    if [mark[1] & 7 for mark in marks] != [number % 8 for number in range(_restarts(data, pixels.shape, codec))]:
        raise CorruptImageError(f"{where}: {subject}: restart markers are missing in the coded data: damaged")

    def altered(change: Callable[[bytes], bytes]) -> bytes:
        coded = b"".join(change(piece) + mark for piece, mark in zip(pieces, [*marks, b""], strict=True))
        return data[:start] + coded + data[end:]

    if not np.array_equal(decode(altered(lambda piece: piece + _AFTER[0])), pixels):
        raise CorruptImageError(f"{where}: {subject}: the coded data end before the last pixel: truncated or damaged")
    others = [altered(partial(_with_last, bits)) for bits in _AFTER]
    if _has_few_codes(data) or any(not np.array_equal(decode(other), pixels) for other in others):
        return
    # No pixel changed. Either the last byte was not needed, or the change is invisible: a value was rounded or clipped
    # (coarser quantisation makes it visible), or the byte held only one bit of an end-of-block code (changing one more
    # byte makes it visible).
    coarse = decode(_coarse(data))
    more = others + [altered(partial(_with_last, bits, more=1)) for bits in _AFTER]
    if all(np.array_equal(decode(_coarse(other)), coarse) for other in more):
        raise CorruptImageError(f"{where}: {subject}: coded data are left after the last pixel: damaged")


def scans(data: bytes) -> list[tuple[int, int]]:
    """Return where the coded data of each scan start and end; raises ValueError if a marker is missing."""
    found = []
    position = next(start for marker, start in _segments(data) if marker == 0xDA)
    while data[position + 1 : position + 2] not in (b"", b"\xd9"):
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte, B.1.1.2
            position += 1
            continue
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
        if marker == 0xDA:
            end = _JPEG_MARKER.search(data, position)
            if end is None:
                raise ValueError("it does not end with the EOI marker: truncated")
            found.append((position, end.start()))
            position = end.start()
    return found


def check_scans(data: bytes, pixels: NDArray[Any], decode: Decoder, where: str) -> None:
    """Raise `CorruptImageError` if the scans of a progressive JPEG end before their last pixel.

    Bits appended to the coded data of each scan must not change any pixel, as in `check_coded_data`. The check does not
    notice damage that leaves every scan long enough.
    """
    longer, position = bytearray(), 0
    for _, end in scans(data):
        longer += data[position:end].rstrip(b"\xff") + _AFTER[0]
        position = end
    if not np.array_equal(decode(bytes(longer + data[position:])), pixels):
        raise CorruptImageError(f"{where}: the JPEG's coded data end before the last pixel: truncated or damaged")


def _has_few_codes(data: bytes) -> bool:
    """Return whether a Huffman table (DHT, B.2.4.2) has so few codes that different bits may decode to the same values.

    Writers make the tables for one image, and such an image is flat. A mammogram needs at least a dozen codes.
    """
    for marker, position in _segments(data):
        end, place = position + 2 + struct.unpack_from(">H", data, position + 2)[0], position + 4
        while marker == 0xC4 and place + 17 <= end <= len(data):
            count = sum(data[place + 1 : place + 17])
            if count <= FEW_CODES:
                return True
            place += 17 + count
    return False


def _coarse(data: bytes) -> bytes:
    """Return the JPEG with quantisation tables (DQT) that make one step of any coefficient visible and clip few."""
    changed = bytearray(data)
    for marker, position in _segments(data):
        if marker == 0xDB:
            end, place = position + 2 + struct.unpack_from(">H", data, position + 2)[0], position + 4
            while place < end <= len(data):
                wide = data[place] >> 4
                changed[place + 1 : place + 65 + 64 * wide] = (b"\0\x08" if wide else b"\x08") * 64
                place += 65 + 64 * wide
    return bytes(changed)


def _restarts(data: bytes, shape: tuple[int, ...], codec: Codec) -> int:
    """Return the required number of restart markers: one between intervals of coded units (10918-1 B.2.4.4)."""
    interval = 0
    for marker, position in _segments(data):
        if marker == 0xDD:
            interval = struct.unpack_from(">H", data, position + 4)[0]
    if not interval:
        return 0
    side = 1 if codec is Codec.JPEG_LOSSLESS else 8
    units = -(-shape[0] // side) * -(-shape[1] // side)
    return -(-units // interval) - 1


def _with_last(bits: bytes, piece: bytes, more: int = 0) -> bytes:
    """Return coded data with other bits in place of the last bytes and of up to two bytes of padding after them.

    Args:
        bits: The new bits.
        piece: The coded data.
        more: Number of bytes to replace besides the last one.
    """
    for _ in range(2):
        # libjpeg-turbo writes a byte 7F of padding where the bits of lossless data end with a byte.
        piece = piece[:-1] if piece.endswith((b"\0", b"\x7f")) else piece
    kept = piece[: -1 - more]
    # Drop a byte FF at the end: without its stuffed zero it would become a marker.
    return kept.removesuffix(b"\xff") + bits
