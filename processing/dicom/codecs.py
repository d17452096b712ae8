"""What a compressed image announces of itself, read from its own header before any decoder sees it.

A decoder allocates what the codestream announces, not what the DICOM attributes say; so both must agree first.
Sources: PS3.5 A.4; ISO/IEC 15444-1 A.5.1 (SIZ) and I.4 (boxes), 10918-1 B.2.2 (SOF), 14495-1 C.2.2 (JPEG-LS SOF55).
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from mammopipe.processing.errors import CorruptImageError, UnsupportedImageError


class Codec(StrEnum):
    """Who turns the bytes into pixels; exactly one for each transfer syntax."""

    NATIVE = "numpy"
    RLE = "imagecodecs DICOM RLE"
    JPEG = "libjpeg-turbo (imagecodecs)"
    JPEG_LOSSLESS = "libjpeg-turbo lossless (imagecodecs)"
    JPEG_LS = "CharLS (imagecodecs)"
    JPEG_2000 = "OpenJPEG (imagecodecs)"


@dataclass(frozen=True)
class Syntax:
    """How one transfer syntax lays out the data set and its pixels."""

    name: str
    codec: Codec = Codec.NATIVE
    implicit: bool = False
    big_endian: bool = False
    deflated: bool = False
    lossy: bool = False
    """Whether the syntax always loses information; `LossyImageCompression` (0028,2110) tells of the others."""


UNDEFINED = 0xFFFFFFFF

MAX_TILES = 16384

_SOF_OF = {Codec.JPEG: (0xC0, 0xC1), Codec.JPEG_LOSSLESS: (0xC3,), Codec.JPEG_LS: (0xF7,)}

_END_OF_IMAGE = b"\xff\xd9"

_SIZ_START = b"\xff\x4f\xff\x51"

_JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"


@dataclass(frozen=True)
class Announced:
    """The size and depth in a codestream's header."""

    rows: int
    columns: int
    components: int
    precision: int
    """Bits a sample."""
    levels: int = 0
    """How many times the codestream can be decoded at half the resolution (JPEG 2000 decomposition levels)."""


def only_frame(value: memoryview, order: str, where: str) -> bytes:
    """Return the one frame of encapsulated pixel data: its fragments joined, the offset table left out (PS3.5 A.4)."""
    fragments = list(_items(value, order, where))[1:]
    if not fragments:
        raise CorruptImageError(f"{where}: Pixel Data (7FE0,0010) has no fragment after its offset table")
    frame = b"".join(fragments)
    return _unboxed(frame, where) if frame.startswith(_JP2_SIGNATURE) else frame


def _unboxed(data: bytes, where: str) -> bytes:
    """Return the codestream in a JP2 file: DICOM asks for the bare one, but many writers leave the boxes around it."""
    position = 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if length == 1 and position + 16 <= len(data):
            length, header = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        end = len(data) if length == 0 else position + length
        if kind == b"jp2c":
            return data[position + header : end]
        if length < header:
            break
        position = end
    raise CorruptImageError(f"{where}: Pixel Data (7FE0,0010) is a JP2 file without a codestream (jp2c)")


def _items(value: memoryview, order: str, where: str) -> Iterator[memoryview]:
    position = 0
    while True:
        if position == len(value):
            return  # Some writers end the file with the last fragment; what was announced is there.
        if position + 8 > len(value):
            raise CorruptImageError(f"{where}: Pixel Data (7FE0,0010) is truncated: no sequence delimiter")
        group, element, length = struct.unpack_from(order + "HHI", value, position)
        if (group, element) == (0xFFFE, 0xE0DD):
            return
        if (group, element) != (0xFFFE, 0xE000) or length == UNDEFINED:
            raise CorruptImageError(
                f"{where}: Pixel Data (7FE0,0010): ({group:04X},{element:04X}) where an item of known length must stand"
            )
        position += 8
        if position + length > len(value):
            raise CorruptImageError(
                f"{where}: Pixel Data (7FE0,0010) is truncated: a fragment announces {length} "
                f"bytes, {len(value) - position} are there"
            )
        yield value[position : position + length]
        position += length


def announced(data: bytes, codec: Codec, where: str) -> Announced:
    """Return what the header of a JPEG, JPEG-LS or JPEG 2000 codestream announces."""
    try:
        return _siz(data) if codec is Codec.JPEG_2000 else _frame_header(data, _SOF_OF[codec])
    except (struct.error, ValueError) as error:
        reason = "its header is truncated" if isinstance(error, struct.error) else error
        raise CorruptImageError(f"{where}: Pixel Data (7FE0,0010) cannot be read by {codec}: {reason}") from None


def _siz(data: bytes) -> Announced:
    """Read the SIZ segment, which must be the first of the codestream."""
    if not data.startswith(_SIZ_START):
        raise ValueError("it does not start with the SOC and SIZ markers")
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack_from(">8IH", data, 8)
    depth, step_x, step_y = struct.unpack_from(">3B", data, 42)
    if not (tile_x and tile_y and x0 < x1 and y0 < y1 and tile_x0 <= x0 and tile_y0 <= y0):
        raise ValueError("its SIZ segment is not consistent")
    tiles = -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y)
    if (step_x, step_y) != (1, 1) or tiles > MAX_TILES:
        raise ValueError(f"subsampling {step_x} x {step_y} and {tiles} tiles; 1 x 1 and at most {MAX_TILES} are read")
    return Announced(y1 - y0, x1 - x0, components, (depth & 0x7F) + 1, _levels(data))


def _levels(data: bytes) -> int:
    """Return the decomposition levels of the main header's COD segment (A.6.1), 0 where it has none."""
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF and data[position + 1] not in (0x90, 0xD9):
        if data[position + 1] == 0x52:
            return data[position + 9]
        position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    return 0


def _frame_header(data: bytes, wanted: tuple[int, ...]) -> Announced:
    """Find the frame header (SOF) of a JPEG or JPEG-LS codestream."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("it does not start with the SOI marker")
    if _END_OF_IMAGE not in data[-32:]:
        raise ValueError("it does not end with the EOI marker: truncated")
    position = 2
    while True:
        prefix, marker = struct.unpack_from(">BB", data, position)
        if prefix != 0xFF:
            raise ValueError("a marker is missing in its header")
        if marker == 0xFF:
            position += 1
            continue
        if marker in wanted:
            precision, rows, columns, components = struct.unpack_from(">BHHB", data, position + 4)
            return Announced(rows, columns, components, precision)
        if marker == 0xDA or _is_frame(marker):
            raise ValueError(f"marker FF{marker:02X} where the frame header of this transfer syntax must stand")
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]


def _is_frame(marker: int) -> bool:
    return (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7


def check_rle_header(data: bytes, segments: int, where: str) -> None:
    """Raise unless the RLE header names `segments` segments that lie one after another in the data (PS3.5 G.5)."""
    header = struct.unpack_from("<16I", data) if len(data) >= 64 else (0,) * 16
    offsets = header[1 : 1 + segments]
    if header[0] != segments:
        raise CorruptImageError(
            f"{where}: Pixel Data (7FE0,0010): RLE header names {header[0]} segments; {segments} are needed"
        )
    if list(offsets) != sorted(set(offsets)) or offsets[0] < 64 or offsets[-1] >= len(data):
        raise CorruptImageError(
            f"{where}: Pixel Data (7FE0,0010): RLE segment offsets {list(offsets)} do not lie "
            f"within the {len(data)} bytes"
        )


SYNTAXES: dict[str, Syntax] = {
    "1.2.840.10008.1.2": Syntax("Implicit VR Little Endian", implicit=True),
    "1.2.840.10008.1.2.1": Syntax("Explicit VR Little Endian"),
    "1.2.840.10008.1.2.1.99": Syntax("Deflated Explicit VR Little Endian", deflated=True),
    "1.2.840.10008.1.2.2": Syntax("Explicit VR Big Endian", big_endian=True),
    "1.2.840.10008.1.2.5": Syntax("RLE Lossless", Codec.RLE),
    "1.2.840.10008.1.2.4.50": Syntax("JPEG Baseline (Process 1)", Codec.JPEG, lossy=True),
    "1.2.840.10008.1.2.4.51": Syntax("JPEG Extended (Process 2 and 4)", Codec.JPEG, lossy=True),
    "1.2.840.10008.1.2.4.57": Syntax("JPEG Lossless (Process 14)", Codec.JPEG_LOSSLESS),
    "1.2.840.10008.1.2.4.70": Syntax("JPEG Lossless (Process 14, Selection Value 1)", Codec.JPEG_LOSSLESS),
    "1.2.840.10008.1.2.4.80": Syntax("JPEG-LS Lossless", Codec.JPEG_LS),
    "1.2.840.10008.1.2.4.81": Syntax("JPEG-LS Near-lossless", Codec.JPEG_LS, lossy=True),
    "1.2.840.10008.1.2.4.90": Syntax("JPEG 2000 Lossless", Codec.JPEG_2000),
    "1.2.840.10008.1.2.4.91": Syntax("JPEG 2000", Codec.JPEG_2000),
    "1.2.840.10008.1.2.4.201": Syntax("High-Throughput JPEG 2000 Lossless", Codec.JPEG_2000),
    "1.2.840.10008.1.2.4.202": Syntax("High-Throughput JPEG 2000 Lossless with RPCL", Codec.JPEG_2000),
    "1.2.840.10008.1.2.4.203": Syntax("High-Throughput JPEG 2000", Codec.JPEG_2000),
}


def syntax_of(uid: str, where: str) -> Syntax:
    """Return the transfer syntax of `uid`; raises `UnsupportedImageError`, naming it, when nothing here decodes it."""
    if uid not in SYNTAXES:
        # A damaged length makes this value run into the attributes that follow it.
        shown = repr(uid) if re.fullmatch(r"[0-9.]{1,64}", uid) else f"{len(uid)} characters that are no UID"
        raise UnsupportedImageError(
            f"{where}: TransferSyntaxUID (0002,0010) is {shown}: no decoder for this transfer syntax"
        )
    return SYNTAXES[uid]
