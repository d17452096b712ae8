"""PNG, PGM and JPEG files in their less usual forms: each is read with the right pixels, or refused by name."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mammopipe.processing.errors import CorruptImageError, NotAMammogramError, UnsupportedImageError
from mammopipe.processing.images.mammogram import ReadConfig, read_mammogram

WIDE = (np.mgrid[0:40, 0:30][0] * 1500 + np.mgrid[0:40, 0:30][1] * 40).astype(np.uint16)
NARROW = (WIDE >> 8).astype(np.uint8)
JPEG_FILES = ReadConfig(jpeg_files=True)


def shown(cells: NDArray[Any]) -> NDArray[np.uint16]:
    """Return the pixels that a reader must give for these cells."""
    return cells if cells.itemsize == 2 else cells.astype(np.uint16) * np.uint16(257)


# ---- PGM ----


@pytest.mark.parametrize(
    "header",
    [
        b"P5\r\n30 40\r\n%d\r\n",
        b"P5 30 40 %d\r\n",
        b"P5\r\n# made by hand\r\n30 40\r\n%d\r\n",
        b"P5\r30 40\r%d\r",
        b"P5\n30 40\n%d\r\n",
        b"P5\x0b30\x0c40\t%d ",
        b"P5\n#\n030 0040 %d\n",
    ],
)
@pytest.mark.parametrize("cells", [NARROW, WIDE], ids=["8", "16"])
@pytest.mark.parametrize("last", [0, 32, 255])
def test_every_line_end_of_a_pgm_header(header: bytes, cells: NDArray[Any], last: int) -> None:
    """A header that ends with CR LF must not shift the samples by a byte, whatever the last sample is."""
    cells = cells.copy()
    cells[-1, -2:] = last
    data = header % np.iinfo(cells.dtype).max + cells.astype(cells.dtype.newbyteorder(">")).tobytes()
    assert np.array_equal(read_mammogram(data).pixels, shown(cells))


def test_a_line_feed_may_be_the_first_sample_or_a_sample_may_be_missing() -> None:
    cells = NARROW.copy()
    cells[0, 0] = ord("\n")
    assert np.array_equal(read_mammogram(b"P5\r30 40\r255\r" + cells.tobytes()).pixels, shown(cells))
    with pytest.raises(CorruptImageError, match="needs 1200 bytes of samples, 1199 are there"):
        read_mammogram(b"P5\r\n30 40\r\n255\r\n" + cells.tobytes()[:-1])


@pytest.mark.parametrize("maxval", [1, 2, 100, 254, 255, 256, 257, 1023, 4095, 65534, 65535])
def test_every_maxval_is_full_scale(maxval: int) -> None:
    samples = WIDE.astype(np.int64) * maxval // 65535
    samples[0, 0] = maxval
    data = b"P5\n30 40\n%d\n" % maxval + samples.astype(">u2" if maxval > 255 else np.uint8).tobytes()
    assert np.array_equal(read_mammogram(data).pixels, (samples * 65535 * 2 + maxval) // (2 * maxval))


# ---- Exif ----


def exif(orientation: int, order: str) -> bytes:
    """Return Exif data that state nothing but the orientation."""
    start = {"<": b"II*\0\x08\0\0\0", ">": b"MM\0*\0\0\0\x08"}[order]
    return start + struct.pack(order + "HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)


def with_chunks(before: bytes = b"", after: bytes = b"", cells: NDArray[Any] = WIDE) -> bytes:
    """Return a PNG with chunks before and after its pixels."""
    stream = BytesIO()
    Image.fromarray(cells).save(stream, "PNG")
    data = stream.getvalue()
    pixels, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:pixels] + before + data[pixels:end] + after + data[end:]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def jpeg(cells: NDArray[np.uint8] = NARROW, **options: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(cells).save(stream, "JPEG", quality=92, **options)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_an_image_that_exif_marks_as_turned_is_refused(orientation: int, order: str) -> None:
    block = exif(orientation, order)
    files = {
        "PNG": [with_chunks(chunk(b"eXIf", block)), with_chunks(after=chunk(b"eXIf", block))],
        "JPEG": [jpeg(exif=b"Exif\0\0" + block)],
    }
    for name, datas in files.items():
        for data in datas:
            with pytest.raises(UnsupportedImageError, match=f"{name} with Exif Orientation {orientation}; only 1"):
                read_mammogram(data, config=JPEG_FILES)


@pytest.mark.parametrize("block", [exif(1, "<"), exif(0, ">"), exif(9, "<"), b"", b"MM\0*\xff\xff\xff\xff", b"II*\0"])
def test_exif_data_of_an_upright_image_and_damaged_ones_change_nothing(block: bytes) -> None:
    assert np.array_equal(read_mammogram(with_chunks(chunk(b"eXIf", block))).pixels, WIDE)
    assert read_mammogram(jpeg(exif=b"Exif\0\0" + block), config=JPEG_FILES).pixels.shape == WIDE.shape


# ---- PNG ----


@pytest.mark.parametrize("cells", [NARROW, WIDE], ids=["8", "16"])
@pytest.mark.parametrize(
    "before",
    [
        chunk(b"gAMA", struct.pack(">I", 45455)),
        chunk(b"gAMA", struct.pack(">I", 0)),
        chunk(b"sRGB", b"\0"),
        chunk(b"sBIT", b"\x08"),
        chunk(b"bKGD", b"\0\1"),
        chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(128))),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6))),
        chunk(b"abCd", b"private"),
        chunk(b"tRNS", b"\0\0"),
        chunk(b"tRNS", b"\0\xfe"),
    ],
    ids=lambda data: str(data[4:8]),
)
def test_chunks_about_display_change_no_sample(cells: NDArray[Any], before: bytes) -> None:
    """Samples are taken as they are stored; black that is transparent is air, like other black."""
    assert np.array_equal(read_mammogram(with_chunks(before, cells=cells)).pixels, shown(cells))


def test_grey_values_that_are_transparent_are_refused() -> None:
    for cells, value in ((WIDE, int(WIDE[5, 5])), (NARROW, int(NARROW[20, 5]))):
        with pytest.raises(NotAMammogramError, match=rf"the grey value {value} shows nothing \(tRNS\)"):
            read_mammogram(with_chunks(chunk(b"tRNS", struct.pack(">H", value)), cells=cells))


@pytest.mark.parametrize("cells", [NARROW, WIDE], ids=["8", "16"])
def test_interlaced_files_are_read_and_refused_if_a_pass_is_missing(cells: NDArray[Any]) -> None:
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    swapped = cells.astype(cells.dtype.newbyteorder(">"))
    lines = b"".join(b"\0" + row.tobytes() for y, x, dy, dx in passes for row in swapped[y::dy, x::dx])

    def png(data: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", 30, 40, 8 * cells.itemsize, 0, 0, 0, 1)
        chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + chunks

    assert np.array_equal(read_mammogram(png(lines)).pixels, shown(cells))
    with pytest.raises(CorruptImageError, match="cannot be decoded"):
        read_mammogram(png(lines[: len(lines) // 2]))


def test_every_cut_of_a_png_is_refused() -> None:
    data = with_chunks(chunk(b"gAMA", struct.pack(">I", 45455)))
    for length in (8, 16, 29, 33, 40, 45, 57, len(data) // 2, len(data) - 16, len(data) - 12, len(data) - 1):
        with pytest.raises(CorruptImageError):
            read_mammogram(data[:length])


# ---- JPEG ----


@pytest.mark.parametrize("padding", [0, 1, 40, 4000])
def test_a_jpeg_file_is_one_image_and_padding(padding: int) -> None:
    data = jpeg()
    assert read_mammogram(data + bytes(padding), config=JPEG_FILES).pixels.shape == NARROW.shape
    with pytest.raises(NotAMammogramError, match="a second JPEG follows the first"):
        read_mammogram(data + bytes(padding) + data, config=JPEG_FILES)
    with pytest.raises(CorruptImageError, match="end of image|end with the EOI"):
        read_mammogram(data[:-2] + bytes(padding), config=JPEG_FILES)


@pytest.mark.parametrize(("rows", "columns"), [(0, 30), (40, 0), (48, 30), (32, 30), (40, 22), (8000, 8000)])
def test_a_jpeg_header_of_another_size_is_refused(rows: int, columns: int) -> None:
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", rows, columns)
    with pytest.raises(CorruptImageError):
        read_mammogram(bytes(data), config=JPEG_FILES)


# ---- what a file says about itself ----


def damaged_exif(orientation: int, order: str) -> list[bytes]:
    """Return Exif data with the orientation and a field that leads out of the file, and such that end after it."""
    start = {"<": b"II*\0\x08\0\0\0", ">": b"MM\0*\0\0\0\x08"}[order]
    entry = struct.pack(order + "HHIHH", 274, 3, 1, orientation, 0)
    wrong = struct.pack(order + "HHII", 271, 2, 100, 5000)
    as_long = struct.pack(order + "HHII", 274, 4, 1, orientation)
    two, one = (struct.pack(order + "H", count) for count in (2, 1))
    return [start + two + wrong + entry + bytes(4), start + one + entry, start + one + as_long + bytes(4)]


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_counts_in_damaged_exif_data(orientation: int, order: str) -> None:
    for block in damaged_exif(orientation, order):
        for data in (with_chunks(chunk(b"eXIf", block)), jpeg(exif=b"Exif\0\0" + block)):
            with pytest.raises(UnsupportedImageError, match=f"Exif Orientation {orientation}; only 1"):
                read_mammogram(data, config=JPEG_FILES)


def resolutions(across: int, down: int) -> dict[str, bytes]:
    """Return files of each format that state a resolution."""
    stream = BytesIO()
    Image.fromarray(NARROW).save(stream, "TIFF", x_resolution=across, y_resolution=down, resolution_unit=2)
    picture = jpeg()
    return {
        "PNG": with_chunks(chunk(b"pHYs", struct.pack(">IIB", across, down, 1))),
        "TIFF": stream.getvalue(),
        "JPEG": picture[:14] + struct.pack(">HH", across, down) + picture[18:],
    }


@pytest.mark.parametrize("name", ["PNG", "TIFF", "JPEG"])
def test_pixels_that_are_plainly_not_square_are_refused(name: str) -> None:
    for across, down in ((300, 150), (100, 106)):
        with pytest.raises(UnsupportedImageError, match=rf"{name} .* is {across} x {down}; square pixels are read"):
            read_mammogram(resolutions(across, down)[name], config=JPEG_FILES)
    for across, down in ((300, 300), (0, 300), (100, 104)):
        assert read_mammogram(resolutions(across, down)[name], config=JPEG_FILES).pixels.shape == (40, 30)


def test_a_palette_without_an_entry_for_a_pixel_is_damage() -> None:
    grey = bytes(value for level in range(256) for value in (level,) * 3)

    def indexed(entries: int) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 40, 8, 3, 0, 0, 0))
        rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in NARROW))
        palette = chunk(b"PLTE", grey[: 3 * entries])
        return b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

    top = int(NARROW.max())
    for entries in (top + 1, 256):
        assert np.array_equal(read_mammogram(indexed(entries)).pixels, shown(NARROW))
    with pytest.raises(CorruptImageError, match=f"no entry in its palette of {top}"):
        read_mammogram(indexed(top))
