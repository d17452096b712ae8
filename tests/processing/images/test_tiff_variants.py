"""TIFF and BigTIFF files in their less usual forms: each is read with the right pixels, or refused by name."""

import struct
import zlib
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mammopipe.processing.errors import CorruptImageError, ImageTooLargeError, NotAMammogramError, UnsupportedImageError
from mammopipe.processing.images.mammogram import read_mammogram
from tests.processing.images.test_plain_variants import NARROW, WIDE, shown

# ---- TIFF ----

SIZES = {"H": 3, "I": 4, "Q": 16}
Fields = dict[int, tuple[str, tuple[int, ...]]]


def tiff(
    cells: NDArray[Any], *, order: str = "<", big: bool = False, pieces: list[bytes] | None = None, **changed: Any
) -> bytes:
    """Return a TIFF; `changed` replaces fields, `t259=5`, or leaves them out, `t259=None`."""
    if pieces is None:
        pieces = [cells.astype(cells.dtype.newbyteorder(order)).tobytes()]
    word = "Q" if big else "I"
    fields: Fields = {
        256: ("I", (cells.shape[1],)), 257: ("I", (cells.shape[0],)), 258: ("H", (8 * cells.itemsize,)),
        259: ("H", (1,)), 262: ("H", (1,)), 273: (word, (0,) * len(pieces)), 277: ("H", (1,)),
        279: (word, tuple(map(len, pieces))),
    }  # fmt: skip
    for name, value in changed.items():
        fields.pop(int(name[1:]), None)
        if value is not None:
            fields[int(name[1:])] = ("I", value if isinstance(value, tuple) else (value,))
    offsets = 324 if 322 in fields else 273
    if offsets == 324:
        fields[324], fields[325] = fields.pop(273), fields.pop(279)
    # The values of a field with several lie behind the directory, and the pieces of the image behind them.
    start, inline, entry = (16 + 8, 8, 20) if big else (8 + 2, 4, 12)
    place = start + entry * len(fields) + (8 if big else 4)
    outside = {tag: values for tag, (kind, values) in fields.items() if struct.calcsize(kind) * len(values) > inline}
    after = place + sum(struct.calcsize(fields[tag][0]) * len(values) for tag, values in outside.items())
    if offsets in fields and not any(fields[offsets][1]):
        starts = np.cumsum([after, *map(len, pieces)])[:-1].tolist()
        fields[offsets] = (word, tuple(starts))
    head = {"<": b"II", ">": b"MM"}[order]
    head += struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    body, tail = struct.pack(order + ("Q" if big else "H"), len(fields)), b""
    for tag, (kind, values) in sorted(fields.items()):
        data = struct.pack(f"{order}{len(values)}{kind}", *values)
        body += struct.pack(order + ("HHQ" if big else "HHI"), tag, SIZES[kind], len(values))
        body += data.ljust(inline, b"\0") if len(data) <= inline else struct.pack(order + word, place + len(tail))
        tail += data if len(data) > inline else b""
    return head + body + bytes(8 if big else 4) + tail + b"".join(pieces)


def tiles(cells: NDArray[Any], order: str, side: int = 16) -> list[bytes]:
    padded = np.pad(cells, [(0, -length % side) for length in cells.shape]).astype(cells.dtype.newbyteorder(order))
    return [
        padded[y : y + side, x : x + side].tobytes()
        for y in range(0, cells.shape[0], side)
        for x in range(0, cells.shape[1], side)
    ]


@pytest.mark.parametrize("cells", [NARROW, WIDE], ids=["8", "16"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_tiff_in_every_arrangement(cells: NDArray[Any], order: str, big: bool) -> None:
    swapped = cells.astype(cells.dtype.newbyteorder(order))
    whole, strips = swapped.tobytes(), [swapped[y : y + 6].tobytes() for y in range(0, 40, 6)]
    differences = cells.copy()
    differences[:, 1:] -= cells[:, :-1]
    deflated = zlib.compress(differences.astype(swapped.dtype).tobytes())
    for data in (
        tiff(cells, order=order, big=big),
        tiff(cells, order=order, big=big, pieces=strips, t278=6),
        tiff(cells, order=order, big=big, pieces=tiles(cells, order), t322=16, t323=16),
        tiff(cells, order=order, big=big, pieces=[zlib.compress(whole)], t259=8),
        tiff(cells, order=order, big=big, pieces=[deflated], t259=8, t317=2),
        tiff(cells, order=order, big=big, t259=None, t277=None),
        tiff(cells, order=order, big=big, t274=1, t284=2, t254=2),
    ):
        assert np.array_equal(read_mammogram(data).pixels, shown(cells))
    white = tiff(cells, order=order, big=big, t262=0)
    assert np.array_equal(read_mammogram(white).pixels, 65535 - shown(cells))


LOSSY = imagecodecs.jpeg8_encode(NARROW, level=90)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        *(({"t259": value}, UnsupportedImageError, f"TIFF Compression {value}; lossless ones are read")
          for value in (2, 3, 6, 34712, 34887, 50001, 50002)),
        ({"pieces": [LOSSY], "t259": 7}, UnsupportedImageError, "TIFF Compression 7"),
        ({"t254": 1}, NotAMammogramError, "NewSubfileType 1: a reduced copy"),
        ({"t254": 4}, NotAMammogramError, "NewSubfileType 4: a mask"),
        ({"t273": 10**7}, CorruptImageError, "StripOffsets and StripByteCounts do not lead"),
        ({"t273": None}, CorruptImageError, "StripOffsets has 0 values"),
        ({"t279": 100}, CorruptImageError, "do not lead to the image's data"),
        ({"t279": 0}, CorruptImageError, "do not lead to the image's data"),
        ({"pieces": [b"", b""], "t273": (8, 8), "t279": (600, 0)}, CorruptImageError, "do not lead"),
        ({"pieces": [bytes(5000)], "t322": 65536, "t323": 65536}, ImageTooLargeError, "tiles of 65536 x 65536"),
        ({"pieces": [bytes(5000)], "t322": 4096, "t323": 4096}, ImageTooLargeError, "tiles of 4096 x 4096"),
        ({"t258": 12}, UnsupportedImageError, "TIFF of 12 bits"),
        ({"t339": 3}, UnsupportedImageError, "SampleFormat 3"),
        ({"t274": 6}, UnsupportedImageError, "Orientation 6"),
        ({"t262": 3}, NotAMammogramError, "PhotometricInterpretation 3"),
        ({"t257": 0}, CorruptImageError, "at least 1"),
        ({"t256": 20000}, ImageTooLargeError, "over the limit"),
    ],
)  # fmt: skip
def test_tiff_refusals(big: bool, changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_mammogram(tiff(NARROW, big=big, **changed))


def test_directories_that_are_damaged_are_refused() -> None:
    data, large = tiff(WIDE), tiff(WIDE, big=True)
    fields = struct.unpack_from("<Q", large, 16)[0]
    following = 24 + 20 * fields
    again = large[:following] + struct.pack("<Q", 16) + large[following + 8 :]
    for broken, error, message in (
        *((data[:length], CorruptImageError, "TIFF") for length in (4, 8, 9, 20, 60)),
        (data[:-1], CorruptImageError, "do not lead"),
        (large[:4] + b"\4\0" + large[6:], CorruptImageError, "offsets do not have 8 bytes"),
        (large[:16] + struct.pack("<Q", 10**9) + large[24:], CorruptImageError, "it has 1000000000 fields"),
        (again, NotAMammogramError, "several pages"),
    ):
        with pytest.raises(error, match=message):
            read_mammogram(broken)


def test_a_tiff_whose_strips_hold_more_rows_than_it_announces_is_refused() -> None:
    stream = BytesIO()
    Image.fromarray(NARROW).save(stream, "TIFF")
    data = stream.getvalue()
    place = data.index(struct.pack("<HHI", 257, 4, 1)) + 8
    with pytest.raises(CorruptImageError, match="TIFF strips have 1200 bytes; 1 of 600 bytes are needed"):
        read_mammogram(data[:place] + struct.pack("<I", 20) + data[place + 4 :])
    kind = BytesIO()
    Image.fromarray(NARROW).save(kind, "TIFF", tiffinfo={255: 2})
    with pytest.raises(NotAMammogramError, match="TIFF SubfileType 2: a reduced copy"):
        read_mammogram(kind.getvalue())
