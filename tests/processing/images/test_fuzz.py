"""Mutated files: bytes, representations, numbers, offset tables, codestreams and their headers.

The reader raises only the documented errors, within two seconds of CPU time and 1.5 GB of memory.

`MAMMOPIPE_FUZZ=20000 pytest tests/processing/images/test_fuzz.py` is the full run. A case is the same on every machine;
a failure names its number n, and `MAMMOPIPE_FUZZ_CASE=n` runs only that case.
"""

import math
import os
import re
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mammopipe.processing.dicom.header import origin
from mammopipe.processing.errors import ReaderFaultError
from mammopipe.processing.images.mammogram import ImageError, ReadConfig, identity_fields, read_mammogram

CASES = int(os.environ.get("MAMMOPIPE_FUZZ", "1500"))
ONE_CASE = os.environ.get("MAMMOPIPE_FUZZ_CASE")
MAX_SECONDS = 2.0
MAX_RESIDENT = 1500 * 2**20
HALVED = ReadConfig(enough_rows=4)

Random = np.random.Generator


def seeds(
    make_dicom: Callable[..., bytes], make_item: Callable[..., Any], syntaxes: dict[str, tuple[str, ...]]
) -> list[bytes]:
    """Return valid files: every transfer syntax, plain and with everything that the reader looks at, PGM and PNG."""
    cells = (np.add.outer(np.arange(16), np.arange(12)) * 150).astype(np.uint16)
    lut = make_item(LUTDescriptor=("US", [16, 0, 8]), LUTData=("US", list(range(0, 256, 16))))
    view = make_item(
        CodeValue="399368009",
        CodingSchemeDesignator="SCT",
        ViewModifierCodeSequence=[make_item(CodeValue="399226006", CodingSchemeDesignator="SCT")],
    )
    rich = {
        "PhotometricInterpretation": "MONOCHROME1",
        "Modality": "MG",
        "WindowCenter": ["2048", "100"],
        "WindowWidth": ["4096", "50"],
        "VOILUTFunction": "SIGMOID",
        "PixelPaddingValue": ("US", 5),
        "PixelPaddingRangeLimit": ("US", 9),
        "RescaleSlope": "1.5",
        "RescaleIntercept": "-3",
        "NumberOfFrames": "1",
        "ImageLaterality": "L",
        "PixelSpacing": ["0.07", "0.07"],
        "ViewPosition": "MLO",
        "PatientName": "Doe^Jane",
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientOrientation": ["A", "FR"],
        "SeriesDescription": "L MLO",
        "BodyPartExamined": "BREAST",
        "ShutterShape": ["RECTANGULAR", "CIRCULAR"],
        "ShutterLeftVerticalEdge": "2",
        "ShutterRightVerticalEdge": "11",
        "ShutterUpperHorizontalEdge": "1",
        "ShutterLowerHorizontalEdge": "15",
        "CenterOfCircularShutter": ["8", "6"],
        "RadiusOfCircularShutter": "9",
        "SharedFunctionalGroupsSequence": [make_item(PixelMeasuresSequence=[make_item(PixelSpacing=["0.1", "0.1"])])],
        "ViewCodeSequence": [view],
        "VOILUTSequence": [lut],
    }
    files = []
    for syntax in (*syntaxes["lossless"], *syntaxes["lossy"]):
        files.append(make_dicom(cells, bits=12, syntax=syntax))
        files.append(make_dicom(cells, bits=12, syntax=syntax, **rich))
        files.append(make_dicom(cells.astype(np.uint8), bits=8, syntax=syntax, ModalityLUTSequence=[lut]))
    files.append(b"P5 # made\n12 16 255\n" + cells.astype(np.uint8).tobytes())
    files.append(b"P5\n12 16\n4095\n" + cells.astype(">u2").tobytes())
    return files + [cv2.imencode(".png", image)[1].tobytes() for image in (cells, cells.astype(np.uint8))]


def mutate(data: bytes, random: Random) -> bytes:
    """Return the file with one to eight changes of the kinds that storage, networks and bad writers make."""
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 9))):
        if not changed:
            break
        CHANGES[int(random.integers(len(CHANGES)))](changed, random)
    return bytes(changed)


def place(data: bytearray, random: Random) -> int:
    """Return a position, more often near the start, where headers are."""
    return int(random.integers(len(data)) * random.random() ** int(random.integers(0, 3))) if data else 0


def flip_bit(data: bytearray, random: Random) -> None:
    data[place(data, random)] ^= 1 << int(random.integers(8))


def set_byte(data: bytearray, random: Random) -> None:
    data[place(data, random)] = int(random.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF, random.integers(256)]))


def set_word(data: bytearray, random: Random) -> None:
    position, width = place(data, random), int(random.choice([2, 4]))
    value = int(random.choice([0, 1, 0x7FFF, 0xFFFE, 0xFFFF])) | (0xFFFF0000 if random.random() < 0.3 else 0)
    data[position : position + width] = value.to_bytes(4, str(random.choice(["little", "big"])))[:width]  # type: ignore


def remove(data: bytearray, random: Random) -> None:
    position = place(data, random)
    del data[position : position + int(random.integers(1, 64))]


def truncate(data: bytearray, random: Random) -> None:
    if random.random() < 0.2:
        del data[place(data, random) :]


def double(data: bytearray, random: Random) -> None:
    position = place(data, random)
    data[position:position] = data[position : position + int(random.integers(1, 200))]


def insert(data: bytearray, random: Random) -> None:
    position = place(data, random)
    data[position:position] = random.bytes(int(random.integers(1, 32)))


def swap(data: bytearray, random: Random) -> None:
    start, other, width = place(data, random), place(data, random), int(random.integers(1, 24))
    data[start : start + width], data[other : other + width] = data[other : other + width], data[start : start + width]


VRS = (b"FD", b"FL", b"US", b"SS", b"SL", b"DS", b"IS", b"CS", b"LO", b"SQ", b"UN", b"OB", b"OW", b"UT", b"AT", b"ZZ")
NOT_FINITE = [struct.pack("<d", value) for value in (math.nan, math.inf, -math.inf, 1e308)]


def elements(data: bytearray) -> list[int]:
    """Return where elements of an explicit little-endian data set probably start: a group, then capital letters."""
    return [match.start() for match in re.finditer(rb"[\x08\x10\x18\x20\x28\x54]\0..[A-Z]{2}", bytes(data[:4000]))]


def change_a_representation(data: bytearray, random: Random) -> None:
    if places := elements(data):
        position = int(random.choice(places)) + 4
        data[position : position + 2] = VRS[int(random.integers(len(VRS)))]


def put_no_number(data: bytearray, random: Random) -> None:
    """Put an element of VR FD that is not finite, or an empty one, in the place of another."""
    if places := elements(data):
        position = int(random.choice(places))
        length = int.from_bytes(data[position + 6 : position + 8], "little")
        value = NOT_FINITE[int(random.integers(len(NOT_FINITE)))] * int(random.integers(0, 4))
        element = data[position : position + 4] + b"FD" + len(value).to_bytes(2, "little") + value
        data[position : position + 8 + (length if length < 200 else 0)] = element


def change_an_offset_table(data: bytearray, random: Random) -> None:
    """Put another Basic Offset Table: of several frames, of odd length, or none."""
    position = bytes(data).find(b"\xfe\xff\x00\xe0", bytes(data).find(b"\xe0\x7f\x10\x00"))
    if position >= 0:
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        table = random.bytes(int(random.choice([0, 2, 4, 8, 12, 400])))
        if length < 64:
            data[position : position + 8 + length] = b"\xfe\xff\x00\xe0" + len(table).to_bytes(4, "little") + table


def change_the_coding(data: bytearray, random: Random) -> None:
    """Change the COD segment of a JPEG 2000 codestream: style, layers, levels, code-blocks, precincts."""
    position = bytes(data).find(b"\xff\x52\x00")
    if 0 <= position < len(data) - 15:
        for _ in range(int(random.integers(1, 4))):
            value = int(random.choice([0, 1, 2, 8, 0x11, 0x88, 0xFF, random.integers(256)]))
            data[position + int(random.integers(4, 15))] = value


def enlarge_the_image(data: bytearray, random: Random) -> None:
    """Announce a larger image, in the attributes and in the codestream alike."""
    rows, columns = (int(random.choice([64, 2048, 8192])) for _ in range(2))
    for tag, side in ((b"\x28\0\x10\0US\2\0", rows), (b"\x28\0\x11\0US\2\0", columns)):
        position = bytes(data).find(tag)
        if position >= 0:
            data[position + 8 : position + 10] = side.to_bytes(2, "little")
    size = bytes(data).find(b"\xff\x4f\xff\x51")
    if size >= 0:
        for offset, side in ((8, columns), (12, rows), (24, columns), (28, rows)):
            data[size + offset : size + offset + 4] = side.to_bytes(4, "big")
    frame = re.search(rb"\xff[\xc0\xc1\xc3\xf7]\0\x0b.", bytes(data), re.DOTALL)
    if frame:
        data[frame.end() : frame.end() + 4] = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")


def cut_the_coded_data(data: bytearray, random: Random) -> None:
    """Take a piece out of the pixel data and keep the end, as a transfer that lost packets does."""
    start = bytes(data).find(b"\xe0\x7f\x10\x00")
    if start >= 0 and len(data) - start > 100:
        position = start + 60 + int(random.integers(len(data) - start - 80))
        del data[position : position + int(random.integers(1, 40))]


def change_a_number(data: bytearray, random: Random) -> None:
    digits = [index for index, byte in enumerate(data[:4000]) if 48 <= byte <= 57]
    if digits:
        data[int(random.choice(digits))] = int(random.choice(list(b"0123456789-.eE \\")))


CHANGES: tuple[Callable[[bytearray, Random], None], ...] = (
    flip_bit,
    flip_bit,
    set_byte,
    set_word,
    remove,
    truncate,
    double,
    insert,
    swap,
    change_a_number,
    change_a_representation,
    put_no_number,
    change_an_offset_table,
    change_the_coding,
    enlarge_the_image,
    cut_the_coded_data,
)


@pytest.mark.parametrize("part", range(4))
def test_mutated_files_raise_nothing_but_image_errors(
    make_dicom: Callable[..., bytes],
    make_item: Callable[..., Any],
    syntaxes: dict[str, tuple[str, ...]],
    part: int,
    tmp_path: Path,
) -> None:
    files = seeds(make_dicom, make_item, syntaxes)
    numbers = [int(ONE_CASE)] if ONE_CASE and part == 0 else [] if ONE_CASE else range(part, CASES, 4)
    read = refused = 0
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        random = np.random.default_rng([20240117, number])
        data = mutate(files[number % len(files)], random)
        (tmp_path / "last-case").write_text(str(number))  # a crash inside a decoder leaves its number here
        started = time.process_time()
        try:
            image = read_mammogram(data, config=HALVED if number % 3 == 0 else ReadConfig())
            read += 1
            assert "Doe" not in repr(image.facts), number
            assert image.pixels.dtype == np.uint16 and image.pixels.ndim == 2, number
        except ReaderFaultError as error:
            raise AssertionError(f"case {number}: {error}") from error
        except ImageError as error:
            refused += 1
            assert "\n" not in str(error) and "Doe" not in str(error) and str(error).isprintable(), (number, str(error))
        except Exception as error:
            raise AssertionError(f"case {number}: {type(error).__name__}: {error}") from error
        assert time.process_time() - started < MAX_SECONDS, number
        try:
            identity_fields(data)
            origin(data, where="<bytes>")
        except ReaderFaultError as error:
            raise AssertionError(f"case {number}: {error}") from error
        except ImageError:
            pass
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) * 1024 < MAX_RESIDENT
    assert ONE_CASE or CASES < 400 or (read and refused)


def test_the_unmutated_files_are_read(
    make_dicom: Callable[..., bytes], make_item: Callable[..., Any], syntaxes: dict[str, tuple[str, ...]]
) -> None:
    for data in seeds(make_dicom, make_item, syntaxes):
        assert read_mammogram(data).pixels.shape == (16, 12)
