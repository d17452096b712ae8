"""Measures how often the reader notices that a stretch of coded pixel data was overwritten.

Run `python -m benchmarks.data.bench_damage [--files 200]`: it prints JSON. For each transfer syntax, stretches of 1 to
256 random bytes are written over the coded data of a phantom, but not over its headers. Damage that changes no pixel
does not count. Native pixels are left out: they have no redundancy, so damage cannot be noticed.
"""

import argparse
import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Row, row
from mammopipe.processing.datasets.manifest import View
from mammopipe.processing.errors import ImageError
from mammopipe.processing.images.mammogram import read_mammogram
from tests.processing.conftest import ENCODERS, PREFIX, RLE, write_dicom
from tests.support.clinical_phantoms import Kind, make_clinical_phantom

COMMAND = "python -m benchmarks.data.bench_damage"
BYTES = (1, 4, 16, 64, 256)
NAMES = {
    ".4.50": "JPEG Baseline",
    ".4.51": "JPEG Extended, 12 bits",
    ".4.57": "JPEG Lossless",
    ".4.70": "JPEG Lossless, first order",
    ".4.80": "JPEG-LS",
    ".4.81": "JPEG-LS near-lossless",
    ".4.90": "JPEG 2000 Lossless",
    ".4.91": "JPEG 2000",
    ".4.201": "HTJ2K Lossless",
    ".5": "RLE",
}


def damaged(data: bytes, start: int, count: int, random: np.random.Generator) -> Iterator[bytes]:
    """Yield copies of the file with one stretch of the coded data after `start` overwritten."""
    for number in range(count):
        length = BYTES[number % len(BYTES)]
        place = start + int(random.integers(0, max(1, len(data) - start - length - 8)))
        stretch = bytearray(random.bytes(length))
        stretch = bytearray(byte if byte != 0xFF else 0x7F for byte in stretch)
        yield data[:place] + bytes(stretch) + data[place + length :]


def coded_start(data: bytes, suffix: str) -> int:
    """Return where the coded data begin, after the headers of the codestream."""
    pixels = data.find(b"\xe0\x7f\x10\x00")
    if suffix == RLE.removeprefix(PREFIX):
        return pixels + 28 + 64
    marker = b"\xff\x93" if suffix in (".4.90", ".4.91", ".4.201") else b"\xff\xda"
    return data.find(marker, pixels) + 14


def noticed(pixels: NDArray[np.uint16], suffix: str, count: int) -> tuple[int, int]:
    """Return how many damaged files were refused, and how many were refused or read with other pixels."""
    random = np.random.default_rng(7)
    bits = 8 if suffix == ".4.50" else 12
    cells = (pixels >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    data = write_dicom(cells, syntax=PREFIX + suffix, bits=bits, Modality="MG", ImageLaterality="L")
    whole = read_mammogram(data).pixels
    refused = harmful = 0
    for altered in damaged(data, coded_start(data, suffix), count, random):
        try:
            changed = not np.array_equal(read_mammogram(altered).pixels, whole)
        except ImageError:
            refused, changed = refused + 1, True
        harmful += changed
    return refused, harmful


def rows(count: int) -> list[Row]:
    """Return one row for each transfer syntax with coded data."""
    pixels = make_clinical_phantom(3, Kind.NOISY_AIR, view=View.MLO, bits=12).pixels
    found = []
    for suffix, name in NAMES.items():
        assert PREFIX + suffix in ENCODERS
        refused, harmful = noticed(pixels, suffix, count)
        share = refused / max(harmful, 1)
        name = f"overwritten coded data noticed, {name}"
        found.append(row(name, share, "", None, "higher", COMMAND, files=harmful))
    return found


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200, help="damaged files of each transfer syntax")
    print(json.dumps(rows(parser.parse_args().files), indent=2))


if __name__ == "__main__":
    main()
