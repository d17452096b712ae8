"""JPEG 2000 codestreams that are too expensive to decode are refused by their headers."""

import resource
import struct
import time
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate

from mammopipe.processing.images.mammogram import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    NotAMammogramError,
    read_mammogram,
)

MakeDicom = Callable[..., bytes]
J2K = "1.2.840.10008.1.2.4.90"
CELLS = (np.add.outer(np.arange(64), np.arange(48)) * 36).astype(np.uint16)
MAX_SECONDS, MAX_KIB = 2.0, 1500 * 1024


def codestream(
    rows: int = 64,
    columns: int = 48,
    *,
    levels: int = 5,
    layers: int = 1,
    block: tuple[int, int] = (4, 4),
    precincts: bytes = b"",
    tile: tuple[int, int] | None = None,
    coc: bytes = b"",
    in_tile: bytes = b"",
    packets: bytes = b"\0" * 64,
) -> bytes:
    """Return a codestream whose headers announce what the arguments say; its packets are empty."""
    tile_rows, tile_columns = tile or (rows, columns)
    size = struct.pack(">H8IH3B", 0, columns, rows, 0, 0, tile_columns, tile_rows, 0, 0, 1, 11, 1, 1)
    coding = struct.pack(">BBHB5B", bool(precincts), 0, layers, 0, levels, *block, 0, 1) + precincts
    quantisation = bytes([0x40, *([0x60] * (3 * levels + 1))])
    body = b"".join(
        b"\xff" + marker + struct.pack(">H", len(content) + 2) + content
        for marker, content in ((b"\x51", size), (b"\x52", coding), (b"\x5c", quantisation))
    )
    part = 12 + len(in_tile) + 2 + len(packets)
    return (
        b"\xff\x4f" + body + coc + b"\xff\x90" + struct.pack(">HHIBB", 10, 0, part, 0, 1) + in_tile + b"\xff\x93"
        + packets + b"\xff\xd9"
    )  # fmt: skip


def dicom(make_dicom: MakeDicom, frame: bytes, rows: int = 64, columns: int = 48) -> bytes:
    frame += b"\0" * (len(frame) % 2)
    return make_dicom(CELLS, bits=12, syntax=J2K, Rows=rows, Columns=columns, pixel_data=encapsulate([frame]))


FILLER = b"\0" * 400_000
COC = b"\xff\x53" + struct.pack(">HBB5B", 9, 0, 0, 5, 0, 0, 0, 1)
COD_IN_TILE = b"\xff\x52" + struct.pack(">HBBHB5B", 12, 0, 0, 65535, 0, 5, 4, 4, 0, 1)
BOMBS = {
    "precincts of one sample": codestream(8192, 8192, packets=FILLER, precincts=b"\0" * 6),
    "precincts of two samples": codestream(8192, 8192, packets=FILLER, precincts=b"\x11" * 6),
    "code-blocks of 4 x 4": codestream(8192, 8192, packets=FILLER, block=(0, 0)),
    "code-blocks of 4 x 16": codestream(8192, 8192, packets=FILLER, block=(2, 0)),
    "layers with precincts": codestream(4096, 4096, packets=FILLER, layers=65535, precincts=b"\x88" * 6),
    "layers": codestream(8192, 8192, packets=FILLER, layers=65535, levels=32),
    "tiles": codestream(8192, 8192, packets=FILLER, tile=(8, 8)),
    "one component coded otherwise": codestream(8192, 8192, packets=FILLER, coc=COC),
    "one tile coded otherwise": codestream(8192, 8192, packets=FILLER, layers=1, in_tile=COD_IN_TILE + COC),
}


@pytest.mark.parametrize("name", BOMBS)
def test_headers_that_announce_too_much_are_refused_before_decoding(make_dicom: MakeDicom, name: str) -> None:
    rows, columns = struct.unpack_from(">II", BOMBS[name], 8)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ImageTooLargeError, match="announces [0-9]+ (tiles|code-blocks|packets); at most"):
        read_mammogram(dicom(make_dicom, BOMBS[name], rows, columns))
    assert time.process_time() - started < MAX_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_a_few_bytes_cannot_hold_a_large_image(make_dicom: MakeDicom) -> None:
    frame = codestream(8192, 8192)
    with pytest.raises(CorruptImageError, match="8192 x 8192 pixels in [0-9]+ bytes"):
        read_mammogram(dicom(make_dicom, frame, 8192, 8192))


@pytest.mark.parametrize(
    "frame",
    [
        codestream(2048, 2048, block=(1, 1), packets=FILLER),
        codestream(2048, 2048, precincts=b"\x33" * 6, packets=FILLER),
        codestream(2048, 2048, layers=8000, precincts=b"\xaa" * 6, packets=FILLER),
        codestream(2048, 2048, tile=(32, 32), packets=FILLER),
    ],
)
def test_what_the_limits_admit_is_affordable(make_dicom: MakeDicom, frame: bytes) -> None:
    """About as many parts as headers may announce."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        read_mammogram(dicom(make_dicom, frame, 2048, 2048))
    except ImageTooLargeError as error:
        raise AssertionError("beyond the limits") from error
    except ImageError:
        pass
    assert time.process_time() - started < MAX_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_KIB


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (codestream(packets=b""), "no packet follows its headers"),
        (codestream()[:60], "truncated"),
        (codestream(levels=33), "33 decomposition levels"),
        (codestream(layers=0), "0 layers"),
        (codestream(precincts=b"\x88" * 2), "COD segment is truncated"),
        (codestream().replace(b"\xff\x52", b"\xff\x64"), "no COD segment"),
        (codestream().replace(b"\xff\x90", b"\xff\x4f"), "marker FF4F in its headers"),
    ],
)
def test_damaged_headers_are_refused_by_their_rule(make_dicom: MakeDicom, frame: bytes, message: str) -> None:
    with pytest.raises(CorruptImageError, match=message):
        read_mammogram(dicom(make_dicom, frame))


def test_a_second_codestream_is_a_second_frame(make_dicom: MakeDicom) -> None:
    frame = bytes(imagecodecs.jpeg2k_encode(CELLS, codecformat="j2k", reversible=True, level=0, bitspersample=12))
    frame += b"\0" * (len(frame) % 2)
    assert read_mammogram(dicom(make_dicom, frame + b"\0" * 40)).pixels.shape == (64, 48)
    with pytest.raises(NotAMammogramError, match="several codestreams"):
        read_mammogram(dicom(make_dicom, frame + frame))


@pytest.mark.parametrize("block", [(16, 16), (32, 32), (64, 64), (4, 1024)])
def test_what_encoders_write_is_read(make_dicom: MakeDicom, block: tuple[int, int]) -> None:
    import io

    from PIL import Image  # an encoder with options; the module under test never encodes

    stream = io.BytesIO()
    Image.fromarray(CELLS).save(
        stream, "JPEG2000", no_jp2=True, codeblock_size=block, precinct_size=(128, 128) if max(block) <= 64 else None,
        num_resolutions=3, tile_size=(32, 32), quality_layers=[20, 5, 1], irreversible=False,
    )  # fmt: skip
    data = make_dicom(CELLS, syntax=J2K, bits=16, pixel_data=encapsulate([stream.getvalue()]))
    assert read_mammogram(data).pixels.shape == (64, 48)
