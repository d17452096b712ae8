"""Checks JPEG 2000 codestreams: what their headers announce, and how expensive they are to decode.

A few hundred bytes can announce millions of code-blocks or precincts, and a decoder allocates memory for each. So this
module counts them before decoding. Sources: ISO/IEC 15444-1 A.4.2 (SOT), A.5.1 (SIZ), A.6.1 (COD),
A.6.2 (COC), A.6.6 (POC), B.6 (precincts), B.7 (code-blocks), I.4 (boxes).
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mammopipe.processing.dicom.codecs import Announced, Codec
from mammopipe.processing.errors import CorruptImageError, ImageTooLargeError, NotAMammogramError

MAX_TILES = 4096
"""Greatest number of tiles of one image; with the largest detectors, tiles of 128 x 128 pixels."""
MAX_CODE_BLOCKS = 2**19
"""Greatest number of code-blocks of one image; with the largest detectors, 16 x 16 samples. Writers use 64 x 64."""
MAX_PACKETS = 2**19
"""Greatest number of packets of one image: layers times precincts. Writers use from one to some thousands."""
MAX_LEVELS = 32
"""Greatest number of decomposition levels (table A.15)."""
_PIXELS = "Pixel Data (7FE0,0010)"
_JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_SIZ_START = b"\xff\x4f\xff\x51"
_COD, _COC, _POC, _SOT, _SOD, _EOC = 0x52, 0x53, 0x5F, 0x90, 0x93, 0xD9
_TRANSFORM, _IRREVERSIBLE = 9, 0
"""Position of the wavelet transformation in COD, and its value for the 9-7 filter (table A.20)."""
_PREDICTABLE_TERMINATION, _HIGH_THROUGHPUT = 0x10, 0x40
"""Bits of the code-block style (tables A.19 and, for high throughput, 15444-15 A.5)."""
_NO_SEGMENT = (0x4F, 0x93, 0xD9, *range(0x30, 0x40))
"""Markers without a length (table A.1)."""


@dataclass(frozen=True)
class _Size:
    """The SIZ segment."""

    x1: int
    y1: int
    x0: int
    y0: int
    tile_columns: int
    tile_rows: int
    components: int
    depth: int

    @property
    def tiles(self) -> int:
        return self.tile_columns * self.tile_rows


@dataclass(frozen=True)
class _Coding:
    """How a COD or COC segment divides the samples of each tile into precincts and code-blocks."""

    layers: int
    levels: int
    block_width: int
    """Exponent of two, as are all widths and heights here."""
    block_height: int
    precincts: tuple[tuple[int, int], ...]
    """Width and height of the precincts of each resolution, lowest first; () means 2 to the 15, the greatest size."""


def is_jp2(data: bytes) -> bool:
    """Return whether the bytes are a JP2 file rather than a codestream."""
    return data.startswith(_JP2_SIGNATURE)


def unboxed(data: bytes, where: str) -> bytes:
    """Return the codestream in a JP2 file; DICOM requires a bare codestream, but many writers keep the JP2 boxes."""
    position = 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if length == 1 and position + 16 <= len(data):
            length, header = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        end = len(data) if length == 0 else position + length
        if kind == b"jp2h" and b"pclr" in data[position + header : end]:
            raise NotAMammogramError(f"{where}: {_PIXELS} is a JP2 file with a palette: its samples are no grey values")
        if kind == b"jp2c":
            return data[position + header : end]
        if length < header:
            break
        position = end
    raise CorruptImageError(f"{where}: {_PIXELS} is a JP2 file without a codestream (jp2c)")


def announced(data: bytes, where: str) -> Announced:
    """Return the size and depth that the SIZ segment announces; raises `CorruptImageError` if it is damaged."""
    with _damage(where):
        size, levels, lossy = _siz(data), 0, False
        for marker, body, _, _ in _segments(data, where):
            if marker == _COD:
                levels = _coding(body, marker, None, size.components).levels
                lossy = body[_TRANSFORM] == _IRREVERSIBLE
                break
    precision, signed = (size.depth & 0x7F) + 1, bool(size.depth & 0x80)
    return Announced(size.y1 - size.y0, size.x1 - size.x0, size.components, precision, signed, lossy, levels)


@contextmanager
def _damage(where: str) -> Iterator[None]:
    """Turn the errors of parsing a header into `CorruptImageError`, which names the file and the codec."""
    try:
        yield
    except (struct.error, ValueError) as error:
        reason = "its header is truncated" if isinstance(error, struct.error) else error
        raise CorruptImageError(f"{where}: {_PIXELS} cannot be read by {Codec.JPEG_2000}: {reason}") from None


def with_checked_ends(data: bytes, where: str) -> bytes:
    """Return the codestream with a bit set that makes the decoder check where the coded data of code-blocks end.

    The bit is that of predictable termination in the style of code-blocks (table A.19); it changes no sample. See
    `mammopipe.processing.dicom.codestreams.jpeg2000_damage`. High-throughput code-blocks have no such check.
    """
    changed = bytearray(data)
    with _damage(where):
        components = _siz(data).components
        for marker, body, _, start in _segments(data, where):
            # COC begins with the number of its component: one byte, or two with more than 256 components (A.6.2).
            style = 8 if marker == _COD else 5 if components < 257 else 6
            if marker in (_COD, _COC) and style < len(body) and not body[style] & _HIGH_THROUGHPUT:
                changed[start + style] |= _PREDICTABLE_TERMINATION
    return bytes(changed)


def check_cost(data: bytes, where: str) -> int:
    """Count tiles, code-blocks and packets in all headers of a codestream, and raise if there are too many.

    Returns:
        The greatest number of code-blocks that a header announces.

    Raises:
        CorruptImageError: The headers are damaged, or no packet follows them.
        ImageTooLargeError: The codestream announces more tiles, code-blocks or packets than this module allows.
        NotAMammogramError: A second codestream follows the first.
    """
    with _damage(where):
        return _check_headers(data, _siz(data), where)


def _siz(data: bytes) -> _Size:
    """Read the SIZ segment, which must be the first of the codestream."""
    if not data.startswith(_SIZ_START):
        raise ValueError("it does not start with the SOC and SIZ markers")
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack_from(">8IH", data, 8)
    depth, step_x, step_y = struct.unpack_from(">3B", data, 42)
    if not (tile_x and tile_y and x0 < x1 and y0 < y1 and tile_x0 <= x0 and tile_y0 <= y0 and components):
        raise ValueError("its SIZ segment is not consistent")
    if (step_x, step_y) != (1, 1):
        raise ValueError(f"subsampling {step_x} x {step_y}; 1 x 1 is read")
    tiles = (-(-(x1 - tile_x0) // tile_x), -(-(y1 - tile_y0) // tile_y))
    return _Size(x1, y1, x0, y0, *tiles, components, depth)


def _check_headers(data: bytes, size: _Size, where: str) -> int:
    """Return the greatest number of code-blocks; raise if a header announces too much, or if no packet follows."""
    if size.tiles > MAX_TILES:
        raise ImageTooLargeError(f"{where}: {_PIXELS} announces {size.tiles} tiles; at most {MAX_TILES} are read")
    main: _Coding | None = None
    packets, blocks = False, 0
    for marker, body, in_tile, _ in _segments(data, where):
        if marker == _SOD:
            packets = packets or bool(body)
        elif marker in (_COD, _COC):
            coding = _coding(body, marker, main, size.components)
            blocks = max(blocks, _check_cost(coding, size, where))
            if marker == _COD and not in_tile:
                main = main or coding
        elif marker == _POC and len(body) > 7 * 32:
            raise ValueError(f"its POC segment has {len(body)} bytes")
    if main is None:
        raise ValueError("its main header has no COD segment")
    if not packets:
        raise ValueError("no packet follows its headers: truncated")
    return blocks


def _segments(data: bytes, where: str) -> Iterator[tuple[int, bytes, bool, int]]:
    """Yield all header segments; SOD's body is the start of the packets.

    Each is its marker, its body, whether it lies inside a tile-part, and where its body starts.
    """
    position, in_tile, tile_end = 2, False, 0
    while True:
        prefix, marker = struct.unpack_from(">BB", data, position)
        if prefix != 0xFF:
            raise ValueError("a marker is missing in its headers")
        if marker == _EOC:
            if data.find(_SIZ_START, position + 2) >= 0:
                raise NotAMammogramError(f"{where}: {_PIXELS} holds several codestreams; a mammogram is one frame")
            return
        if marker == _SOD:
            end = tile_end or len(data)
            yield marker, data[position + 2 : min(end, position + 18)].removesuffix(b"\xff\xd9"), in_tile, position + 2
            if not tile_end or end >= len(data):
                return  # The last tile-part reaches to the end of the codestream. The decoder reports missing data.
            position = end
            continue
        if marker in _NO_SEGMENT:
            raise ValueError(f"marker FF{marker:02X} in its headers")
        length = struct.unpack_from(">H", data, position + 2)[0]
        body = data[position + 4 : position + 2 + length]
        if length < 2 or len(body) < length - 2:
            raise ValueError("a segment of its headers is truncated")
        if marker == _SOT:
            part = struct.unpack_from(">HIBB", body)[1]
            tile_end = position + part if part else 0
            if part and part < 14:
                raise ValueError("a tile-part is shorter than its own header")
            in_tile = True
        yield marker, body, in_tile, position + 4
        position += 2 + length


def _coding(body: bytes, marker: int, main: _Coding | None, components: int) -> _Coding:
    """Read a COD segment, or a COC segment with the layers of the main header's COD."""
    if marker == _COD:
        style, _, layers = struct.unpack_from(">BBH", body)
        position = 5
    else:
        position = 2 if components < 257 else 3
        style, layers = body[position - 1], main.layers if main else 1
    levels, width, height = struct.unpack_from(">BBB", body, position)
    if levels > MAX_LEVELS or not layers:
        raise ValueError(f"{levels} decomposition levels and {layers} layers")
    sizes = body[position + 5 : position + 6 + levels] if style & 1 else b""
    if style & 1 and len(sizes) != levels + 1:
        raise ValueError("its COD segment is truncated")
    return _Coding(layers, levels, (width & 15) + 2, (height & 15) + 2, tuple((s & 15, s >> 4) for s in sizes))


def _check_cost(coding: _Coding, size: _Size, where: str) -> int:
    """Return the number of code-blocks; raise `ImageTooLargeError` if there are too many of them or of packets.

    The count is that of a single tile plus, for each further tile, one row and column of cut pieces, the most it adds.
    """
    blocks = packets = 0
    for resolution in range(coding.levels + 1):
        reduction = coding.levels - resolution
        width, height = (max(1, -((-side) >> reduction)) for side in (size.x1 - size.x0, size.y1 - size.y0))
        precinct = coding.precincts[resolution] if coding.precincts else (15, 15)
        # B.6 halves precincts in the sub-bands above the lowest resolution, so one of 2^0 has no sample there.
        bands = 1 if resolution == 0 else 3
        halved = 0 if resolution == 0 else 1
        block = [
            min(exponent, max(0, side - halved))
            for exponent, side in zip((coding.block_width, coding.block_height), precinct, strict=True)
        ]
        band_width, band_height = (max(1, -((-side) >> halved)) for side in (width, height))
        blocks += (
            bands * _pieces(band_width, block[0], size.tile_columns) * _pieces(band_height, block[1], size.tile_rows)
        )
        packets += (
            coding.layers
            * _pieces(width, precinct[0], size.tile_columns)
            * _pieces(height, precinct[1], size.tile_rows)
        )
    for count, limit, name in ((blocks, MAX_CODE_BLOCKS, "code-blocks"), (packets, MAX_PACKETS, "packets")):
        if count * size.components > limit:
            raise ImageTooLargeError(
                f"{where}: {_PIXELS} announces {count * size.components} {name}; at most {limit} are read"
            )
    return blocks * size.components


def _pieces(side: int, exponent: int, tiles: int) -> int:
    """Return the number of pieces of 2^exponent samples along a side, which tile borders cut, too."""
    return -((-side) >> exponent) + tiles
